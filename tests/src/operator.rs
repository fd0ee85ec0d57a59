//! The whole operator on this machine: a webhook and a controller, shared by the tests of a program.
//!
//! The controller looks at every namespace of the cluster. So that it never works against one that is installed there, it uses
//! the namespace and the lease of the chart: only one of the two leads.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use context_manager_crds::ContextManager;
use context_manager_operator::{
    controller::{self, Settings, keys, sweep, watchdog},
    pki,
    scope::Scope,
};
use context_manager_protocol::names;
use k8s_openapi::{api::core::v1::Namespace as NamespaceObject, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{Api, Client, api::PostParams};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::{
    background::Background,
    cluster::{self, Namespace, eventually},
    webhook::{Webhook, dead_address},
};

/// Namespace of the chart.
pub const HOME: &str = "context-manager-system";
/// How long the lease is waited for: a little longer than it is kept for a leader that vanished.
const LEASE: Duration = Duration::from_secs(25);
/// Time between two looks of the controller at what it cannot watch.
pub const RESYNC: Duration = Duration::from_secs(1);
/// Time between publishing a key and signing with it, and for pods that cannot be asked.
pub const KEYS: keys::Settings = keys::Settings { settle: RESYNC, patience: Duration::from_secs(6) };
/// How long a test waits for what the controller does.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Webhook and controller; they end when dropped.
pub struct Operator {
    controller: Background,
    /// The webhook.
    pub webhook: Webhook,
    admin: String,
}

impl Operator {
    /// The operator that the tests of a program share: started by the first, ended with the last.
    ///
    /// # Errors
    /// When it does not become ready, or another controller leads.
    pub async fn shared() -> Result<Arc<Self>> {
        static SHARED: Mutex<Weak<Operator>> = Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(running) = shared.upgrade() {
            return Ok(running);
        }
        let started = Arc::new(Self::start().await?);
        *shared = Arc::downgrade(&started);
        Ok(started)
    }

    async fn start() -> Result<Self> {
        let webhook = Webhook::start(crate::webhook::Options::default()).await?;
        make_home(&cluster::client().await?).await?;
        let settings = Settings { cert_manager: true, ..settings(&webhook)? };
        let admin = settings.admin_address.to_string();
        let controller = Background::start("the controller", move |_, shutdown| async move {
            let clients = controller::Clients::new(cluster::config().await?)?;
            Ok(controller::run(clients, settings, shutdown).await?)
        });
        let operator = Self { controller, webhook, admin };
        let leads = eventually("the controller's lease", LEASE, || async {
            let metrics = operator.metrics().await?;
            ensure!(leads(&metrics), "it waits for the lease");
            Ok::<_, anyhow::Error>(())
        });
        leads.await.context("is Context Manager installed in this cluster? end it by `cargo xtask demo --clean`")?;
        Ok(operator)
    }

    /// The controller's metrics.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self) -> Result<String> {
        if self.controller.ended() {
            bail!("the controller ended");
        }
        cluster::install_tls();
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?;
        Ok(http.get(format!("http://{}/metrics", self.admin)).send().await?.text().await?)
    }

    /// How often the controller reconciled anything.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn reconciles(&self) -> Result<u64> {
        let metrics = self.metrics().await?;
        let line =
            metrics.lines().find_map(|line| line.strip_prefix("context_manager_reconcile_duration_seconds_count "));
        Ok(line.context("reconciles are not counted")?.parse()?)
    }

    /// Makes a namespace whose pods the webhook looks at.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn namespace(&self, client: &Client, what: &str, labels: &[(&str, &str)]) -> Result<Namespace> {
        self.webhook.namespace(client, what, labels).await
    }
}

/// Whether a controller's metrics say that it leads.
#[must_use]
pub fn leads(metrics: &str) -> bool {
    metrics.lines().any(|line| line == "context_manager_leader 1")
}

/// The controller's settings in the suites.
///
/// # Errors
/// When no port is free.
pub fn settings(webhook: &Webhook) -> Result<Settings> {
    Ok(Settings {
        admin_address: dead_address()?,
        namespace: HOME.to_owned(),
        class: names::DEFAULT_CLASS.to_owned(),
        scope: Scope::Cluster,
        instance: webhook.configuration().to_owned(),
        webhook_configuration: webhook.configuration().to_owned(),
        sidecar_image: Some(crate::webhook::sidecar_image()),
        lease: "context-manager-controller".to_owned(),
        lease_duration: Duration::from_secs(15),
        authority: pki::client::Settings::new(HOME, "context-manager-client-ca"),
        cert_manager: false,
        managed_qdrant: true,
        resync: RESYNC,
        keys: KEYS,
        watchdog: watchdog::Mode::Evict,
        sweep: sweep::Settings { mode: sweep::Mode::Delete, interval: RESYNC, grace: RESYNC },
    })
}

/// Makes the operator's namespace. It stays: what is in it is the lease and the CA, and both are used again.
///
/// # Errors
/// When the API server refuses it.
pub async fn make_home(client: &Client) -> Result<()> {
    let api = Api::<NamespaceObject>::all(client.clone());
    let object = serde_json::from_value(json!({"metadata": {"name": HOME}}))?;
    match api.create(&PostParams::default(), &object).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(error) => Err(error).context("failed to make the operator's namespace"),
    }
}

/// A condition of a resource.
#[must_use]
pub fn condition(resource: &ContextManager, kind: &str) -> Option<Condition> {
    let conditions = &resource.status.as_ref()?.conditions;
    conditions.iter().find(|condition| condition.type_ == kind).cloned()
}

/// Whether an operator has written a status: without one, the API server shows that of a resource that nobody has seen.
#[must_use]
pub fn was_seen(resource: &ContextManager) -> bool {
    let observed = resource.status.as_ref().and_then(|status| status.observed_generation);
    observed.is_some_and(|generation| generation >= 0)
}

/// Makes a `ContextManager` and waits until it is ready.
///
/// # Errors
/// When it does not become ready.
pub async fn provision(namespace: &Namespace, name: &str, spec: Value) -> Result<ContextManager> {
    namespace.make_resource(name, spec).await?;
    wait_for(namespace, name, "Ready", "True", None).await
}

/// Waits until a condition of the current generation says so.
///
/// # Errors
/// When it does not in time.
pub async fn wait_for(
    namespace: &Namespace,
    name: &str,
    kind: &str,
    status: &str,
    reason: Option<&str>,
) -> Result<ContextManager> {
    let right = |said: &Condition| said.status == status && reason.is_none_or(|reason| said.reason == reason);
    wait_within(PATIENCE, namespace, name, kind, right).await
}

/// Waits for so long until a condition of the current generation is right.
///
/// # Errors
/// When it does not become so in time.
pub async fn wait_within(
    patience: Duration,
    namespace: &Namespace,
    name: &str,
    kind: &str,
    right: impl Fn(&Condition) -> bool,
) -> Result<ContextManager> {
    let api = namespace.api::<ContextManager>();
    eventually(&format!("{kind} of {name}"), patience, || async {
        let found = api.get(name).await?;
        let said = condition(&found, kind).context("the condition is missing")?;
        let current = said.observed_generation == found.metadata.generation;
        ensure!(current && right(&said), "{said:?}");
        Ok::<_, anyhow::Error>(found)
    })
    .await
}
