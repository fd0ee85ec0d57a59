//! The webhook on this machine, called by the real API server over real TLS.
//!
//! Its `MutatingWebhookConfiguration` is the chart's own, as helm renders it, with two changes: the API server calls a URL
//! instead of a Service, and only pods of namespaces with this webhook's label are looked at, so that suites do not meet.

use std::{
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use context_manager_operator::{
    inject::{self, OnMissing},
    pki::{self, Issuer, Lifetimes},
    scope::Scope,
    webhook::{self, Settings, Times},
};
use context_manager_protocol::names;
use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration, core::v1::Namespace as NamespaceObject,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::sync::Mutex as AsyncMutex;

use crate::{
    background::Background,
    cluster::{self, Namespace, eventually},
    objects,
    program::page,
    rights::{Rules, User},
};

/// Label of namespaces: which webhook of a suite looks at their pods.
const SCOPE: &str = "suite/webhook";
/// The name by which the API server reaches this machine.
const HOST: &str = "127.0.0.1";
/// Name of the Secret with its CA.
pub const CA: &str = "webhook-ca";
const START: Duration = Duration::from_secs(20);

/// The image of the sidecar, unless the suite is told another one.
#[must_use]
pub fn sidecar_image() -> String {
    image("context-manager-sidecar")
}

/// Another name of the same image, which `cargo xtask test` gives it.
#[must_use]
pub fn next_sidecar_image() -> String {
    format!("{}-next", sidecar_image())
}

/// An image whose sidecar becomes ready and crashes some seconds later, which `cargo xtask test` builds.
#[must_use]
pub fn crashing_sidecar_image() -> String {
    format!("{}-crashing", sidecar_image())
}

/// The reference of one of the product's images, as `cargo xtask images` names them.
#[must_use]
pub fn image(name: &str) -> String {
    format!("localhost/{name}:{}", env!("CARGO_PKG_VERSION"))
}

/// The chart's configuration of the webhook, which calls `address` for the pods of the namespaces of all `scopes`, and has the name of
/// the first.
///
/// # Errors
/// When the rendered chart cannot be read.
pub fn configuration(scopes: &[&str], address: SocketAddr) -> Result<MutatingWebhookConfiguration> {
    let mut configuration = objects::rendered("MutatingWebhookConfiguration", "context-manager")?;
    configuration["metadata"] = json!({"name": scopes[0], "labels": {SCOPE: scopes[0]}});
    for entry in configuration["webhooks"].as_array_mut().context("the chart's configuration has no webhooks")? {
        entry["clientConfig"] = json!({"url": format!("https://{HOST}:{}/mutate", address.port())});
        let expressions = &mut entry["namespaceSelector"]["matchExpressions"];
        let expressions = expressions.as_array_mut().context("an entry of the chart selects no namespaces")?;
        expressions.push(json!({"key": SCOPE, "operator": "In", "values": scopes}));
    }
    Ok(serde_json::from_value(configuration)?)
}

/// How a webhook is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Lifetimes of certificates.
    pub lifetimes: Lifetimes,
    /// What becomes of pods in opted-in namespaces without a resource.
    pub on_missing: OnMissing,
    /// The class of the resources it serves.
    pub class: String,
    /// The configuration of another webhook whose namespaces this one looks at as well.
    pub beside: Option<String>,
    /// Where it looks.
    pub scope: Scope,
    /// Time between two looks at the clock and what it cannot watch.
    pub poll: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            lifetimes: Lifetimes::default(),
            on_missing: OnMissing::Skip,
            class: names::DEFAULT_CLASS.to_owned(),
            beside: None,
            scope: Scope::Cluster,
            poll: Duration::from_millis(200),
        }
    }
}

/// The API server's side of a webhook: configuration and label. It is removed when dropped.
pub struct Registration {
    /// Name of the configuration, and value of the label of namespaces.
    pub scope: String,
}

/// A running webhook; it ends when dropped.
pub struct Webhook {
    registration: Option<Registration>,
    process: Option<Background>,
    options: Options,
    /// The namespace of its CA.
    home: Namespace,
    /// Where it is called.
    pub address: SocketAddr,
    /// Where probes and metrics are served.
    pub admin: SocketAddr,
}

impl Registration {
    /// Tells the API server to call `address`.
    ///
    /// # Errors
    /// When the API server refuses the configuration.
    pub async fn create(client: &Client, scopes: &[&str], address: SocketAddr) -> Result<Self> {
        let api = Api::<MutatingWebhookConfiguration>::all(client.clone());
        api.create(&PostParams::default(), &configuration(scopes, address)?).await?;
        Ok(Self { scope: scopes[0].to_owned() })
    }

    /// Makes a namespace whose pods are looked at.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn namespace(&self, client: &Client, what: &str, labels: &[(&str, &str)]) -> Result<Namespace> {
        Namespace::create(client, what, &[labels, &[(SCOPE, &self.scope)]].concat()).await
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let scope = self.scope.clone();
        cluster::clean_up(&format!("the MutatingWebhookConfiguration {scope}"), async move |client| {
            let api = Api::<MutatingWebhookConfiguration>::all(client);
            api.delete(&scope, &DeleteParams::default()).await?;
            Ok(())
        });
    }
}

impl Webhook {
    /// The webhook that the tests of a program share: started by the first, ended with the last.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn shared() -> Result<Arc<Self>> {
        static SHARED: AsyncMutex<Weak<Webhook>> = AsyncMutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(running) = shared.upgrade() {
            return Ok(running);
        }
        let started = Arc::new(Self::start(Options::default()).await?);
        *shared = Arc::downgrade(&started);
        Ok(started)
    }

    /// Starts a webhook and waits until the API server gets answers from it.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start(options: Options) -> Result<Self> {
        let client = cluster::client().await?;
        cluster::install_definition(&client).await?;
        let home = Namespace::create(&client, "webhook", &[]).await?;
        let webhook = Self::start_in(home, options, None).await?;
        webhook.wait_until_ready().await?;
        Ok(webhook)
    }

    /// The same by the rights of a user, with the CA in `home`, whose name is that of the configuration too.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start_as(user: &User, home: Namespace, options: Options) -> Result<Self> {
        let webhook = Self::start_in(home, options, Some(user.client().await?)).await?;
        webhook.wait_until_ready().await?;
        Ok(webhook)
    }

    /// Starts one that serves a single namespace, by the rights that the chart gives it for that, and waits until a pod there gets a
    /// sidecar. The rights are those of the user.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start_limited() -> Result<(Self, Namespace, Rules, User)> {
        let client = cluster::client().await?;
        cluster::install_definition(&client).await?;
        let home = Namespace::create(&client, "webhook", &[]).await?;
        let team = Namespace::create(&client, "team", &[(SCOPE, &home.name)]).await?;
        let rules = Rules::namespaced("webhook", &home.name, CA, &[&team.name])?;
        let user = User::create(&client, &home.name, &rules).await?;
        let options = Options { scope: Scope::of(vec![team.name.clone()]), ..Options::default() };
        let webhook = Self::start_in(home, options, Some(user.client().await?)).await?;
        eventually("the webhook's readiness", START, || webhook.admin_page("/readyz")).await?;
        webhook.injects_in(&team).await?;
        Ok((webhook, team, rules, user))
    }

    /// Starts the process and tells the API server of it.
    async fn start_in(home: Namespace, options: Options, limited: Option<Client>) -> Result<Self> {
        let client = cluster::client().await?;
        let free: SocketAddr = ([127, 0, 0, 1], 0).into();
        let (process, address, admin) = start_process(settings(&home.name, free, &options), limited).await?;
        let scopes: Vec<&str> = [home.name.as_str()].into_iter().chain(options.beside.as_deref()).collect();
        let registration = Registration::create(&client, &scopes, address).await?;
        Ok(Self { registration: Some(registration), process: Some(process), options, home, address, admin })
    }

    /// Ends the process; the API server goes on calling it.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Starts the process again, where it was.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn restart(&mut self) -> Result<()> {
        self.process = None;
        let (process, _, admin) = start_process(settings(&self.home.name, self.address, &self.options), None).await?;
        self.process = Some(process);
        self.admin = admin;
        self.wait_until_ready().await
    }

    /// The namespace of its CA.
    #[must_use]
    pub fn home(&self) -> &Namespace {
        &self.home
    }

    /// Name of its `MutatingWebhookConfiguration`.
    #[must_use]
    pub fn configuration(&self) -> &str {
        &self.home.name
    }

    /// Makes a namespace whose pods this webhook looks at.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn namespace(&self, client: &Client, what: &str, labels: &[(&str, &str)]) -> Result<Namespace> {
        self.registration.as_ref().context("the webhook is registered")?.namespace(client, what, labels).await
    }

    /// Looks at the pods of a namespace from now on.
    ///
    /// # Errors
    /// When the API server refuses the label.
    pub async fn adopt(&self, client: &Client, namespace: &Namespace) -> Result<()> {
        let label = Patch::Merge(json!({"metadata": {"labels": {SCOPE: self.configuration()}}}));
        let api = Api::<NamespaceObject>::all(client.clone());
        api.patch(&namespace.name, &PatchParams::default(), &label).await.map(drop).map_err(Into::into)
    }

    /// A page of the admin listener.
    ///
    /// # Errors
    /// When it does not answer, or answers that something is wrong.
    pub async fn admin_page(&self, path: &str) -> Result<String> {
        page(self.admin, path).await
    }

    /// Its own readiness tells that caches and certificates are there; that the API server has read the configuration is seen
    /// by what it does with a pod.
    async fn wait_until_ready(&self) -> Result<()> {
        eventually("the webhook's readiness", START, || self.admin_page("/readyz")).await?;
        let client = cluster::client().await?;
        let probe = self.namespace(&client, "probe", &[]).await?;
        self.injects_in(&probe).await
    }

    async fn injects_in(&self, probe: &Namespace) -> Result<()> {
        probe.make_resource("probe", json!({"controllerClassName": self.options.class})).await?;
        eventually("injection by the webhook", START, || async {
            let pod = probe.try_pod(&objects::asking("probe")).await?;
            let injected = pod.spec.and_then(|spec| spec.init_containers).is_some();
            injected.then_some(()).ok_or_else(|| anyhow!("the pod was admitted without a sidecar"))
        })
        .await
    }
}

fn settings(home: &str, address: SocketAddr, options: &Options) -> Settings {
    Settings {
        address,
        scope: options.scope.clone(),
        admin_address: ([127, 0, 0, 1], 0).into(),
        injection: inject::Settings {
            sidecar_image: sidecar_image(),
            on_missing: options.on_missing,
            class: Some(options.class.clone()),
        },
        pki: pki::Settings {
            namespace: home.to_owned(),
            issuer: Issuer::SelfManaged,
            secret: CA.to_owned(),
            configuration: home.to_owned(),
            server_names: vec![HOST.to_owned()],
            lifetimes: options.lifetimes.clone(),
            poll: options.poll,
        },
        instance: home.to_owned(),
        times: Times { connection_age: Duration::from_mins(5), drain: Duration::from_secs(2) },
        api_server_ca: None,
    }
}

async fn start_process(settings: Settings, limited: Option<Client>) -> Result<(Background, SocketAddr, SocketAddr)> {
    let (tell, told) = tokio::sync::oneshot::channel();
    let process = Background::start("the webhook", move |client, shutdown| async move {
        let listeners = webhook::bind(&settings).await?;
        let _ = tell.send((listeners.address()?, listeners.admin_address()?));
        Ok(webhook::serve(limited.unwrap_or(client), settings, listeners, shutdown).await?)
    });
    let (address, admin) = told.await.context("the webhook ended at once; is its port taken?")?;
    Ok((process, address, admin))
}

/// A port that nobody listens on: what a webhook's address is when no replica runs.
///
/// # Errors
/// When the system has no port left.
pub fn dead_address() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind((HOST, 0))?.local_addr()?)
}
