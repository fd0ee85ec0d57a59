//! The rights that the chart gives the controller are those that it needs: a life of a resource goes well with them, uses each of them,
//! and fails without any of its rules.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use context_manager_crds::ContextManager;
use context_manager_operator::{
    controller::{self, Clients, Settings},
    pki,
    scope::Scope,
};
use context_manager_protocol::names;
use context_manager_tests::{
    api_server::ApiServer,
    background::Background,
    cert_manager::{self, Definitions},
    cluster::{self, Namespace, eventually, refusal},
    objects::{INJECT, pod},
    operator::{self, HOME},
    pods,
    qdrant::Qdrant,
    rights::{Right, Rules, User, needed},
    webhook::{Webhook, next_sidecar_image, sidecar_image},
};
use futures::{FutureExt as _, future::LocalBoxFuture};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, StatefulSet},
        coordination::v1::Lease,
        core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret},
        events::v1::Event,
        rbac::v1::PolicyRule,
    },
    apimachinery::pkg::apis::meta::v1::{Condition, MicroTime},
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{sync::Mutex, time::sleep};

/// How long a step may take. Nothing in a life waits for the resync, which is longer.
const STEP: Duration = Duration::from_secs(12);
/// The same once something was refused.
const REFUSED: Duration = Duration::from_secs(3);
const RESYNC: Duration = Duration::from_mins(10);

const LEASE: &str = "context-manager-controller";
/// How long a lease that another suite left is waited for: longer than the longest of them.
const LEASES: Duration = Duration::from_secs(75);

/// Where controllers run, one after another: with a class and a namespace of their own, so that others may run at the same time.
struct Place {
    class: String,
    home: String,
}

impl Place {
    /// A class that nobody else has; the namespace ends with what is returned.
    async fn new(client: &Client) -> Result<(Self, Namespace)> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let home = Namespace::create(client, "home", &[]).await?;
        let class = format!("rights-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        Ok((Self { class, home: home.name.clone() }, home))
    }

    /// That of an installed operator, whose resources the webhook of the suites knows. One test at a time may have it.
    async fn of_the_chart(client: &Client) -> Result<Self> {
        operator::make_home(client).await?;
        Ok(Self { class: names::DEFAULT_CLASS.to_owned(), home: HOME.to_owned() })
    }

    fn settings(&self, webhook: &Webhook) -> Result<Settings> {
        let settings = operator::settings(webhook)?;
        let authority = pki::client::Settings { namespace: self.home.clone(), ..settings.authority };
        Ok(Settings { resync: RESYNC, class: self.class.clone(), namespace: self.home.clone(), authority, ..settings })
    }

    /// Makes a resource of the class.
    async fn make(&self, namespace: &Namespace, name: &str, mut spec: Value) -> Result<()> {
        spec["controllerClassName"] = json!(self.class);
        namespace.make_resource(name, spec).await.map(drop)
    }
}

/// Some clusters ask for a right to the owner of an object that is made, to `contextmanagers/finalizers`, where its deletion is to wait for the
/// object. It is off by default, so it is that of an API server of this suite: that nothing needs the right is proved where it is asked for.
const STRICT: &str = "--enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement";

/// The API server that asks for it; the tests of this program share one as long as one of them holds it.
async fn strict() -> Result<Arc<ApiServer>> {
    static SHARED: Mutex<Weak<ApiServer>> = Mutex::const_new(Weak::new());
    let mut shared = SHARED.lock().await;
    if let Some(running) = shared.upgrade() {
        return Ok(running);
    }
    let started = Arc::new(ApiServer::start(&[STRICT]).await?);
    *shared = Arc::downgrade(&started);
    Ok(started)
}

async fn patch<K>(api: &Api<K>, name: &str, patch: Value) -> Result<()>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// Waits for a step of a life, less long once the controller was refused something.
fn step<'s, T: 's>(user: &'s User, awaited: impl Future<Output = Result<T>> + 's) -> LocalBoxFuture<'s, Result<T>> {
    async move {
        let refused = async {
            let rights = user.refused().await;
            sleep(REFUSED).await;
            rights
        };
        tokio::select! {
            outcome = awaited => outcome,
            rights = refused => bail!("not within {REFUSED:?} of a refusal: {rights:?}"),
        }
    }
    .boxed_local()
}

/// Makes a label of a child wrong, and waits until it is right again.
async fn repaired<K>(user: &User, namespace: &Namespace, name: &str) -> Result<()>
where
    K: Clone
        + DeserializeOwned
        + std::fmt::Debug
        + Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
{
    const LABEL: &str = "app.kubernetes.io/part-of";
    let api = namespace.api::<K>();
    patch(&api, name, json!({"metadata": {"labels": {LABEL: "somebody"}}})).await?;
    step(
        user,
        eventually(&format!("the label of {name}"), STEP, || async {
            let found = api.get(name).await?;
            ensure!(found.labels().get(LABEL).is_some_and(|value| value == "context-manager"), "{:?}", found.labels());
            Ok(())
        }),
    )
    .await
}

async fn ready(user: &User, namespace: &Namespace, name: &str) -> Result<ContextManager> {
    step(user, operator::wait_within(STEP, namespace, name, "Ready", |said| said.status == "True")).await
}

/// A grant to another namespace, until it is withdrawn.
async fn share(user: &User, place: &Place, namespace: &Namespace, guest: &Namespace) -> Result<()> {
    place.make(namespace, "shared", json!({"allowedNamespaces": [guest.name]})).await?;
    step(user, operator::wait_within(STEP, namespace, "shared", "GrantsReady", |said| said.status == "True")).await?;
    let copy = names::granted(&namespace.name, "shared");
    let (secrets, maps) = (guest.api::<Secret>(), guest.api::<ConfigMap>());
    ensure!(secrets.get_opt(&copy).await?.is_some() && maps.get_opt(&copy).await?.is_some(), "there are no copies");
    patch(&namespace.api::<ContextManager>(), "shared", json!({"spec": {"allowedNamespaces": null}})).await?;
    step(
        user,
        eventually("the end of the copies", STEP, || async {
            let gone = secrets.get_opt(&copy).await?.is_none() && maps.get_opt(&copy).await?.is_none();
            ensure!(gone, "they are still there");
            Ok(())
        }),
    )
    .await
}

/// What a controller does where it runs no Qdrant.
async fn life_without_clusters(
    user: &User,
    place: &Place,
    client: &Client,
    namespace: &Namespace,
    guest: &Namespace,
    server: &Qdrant,
) -> Result<()> {
    let resources = namespace.api::<ContextManager>();
    let claim = json!({"volumeClaimTemplate": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let spec = json!({"vectorStore": {"embedded": {"storage": claim}}, "auth": {"rotation": {"overlap": "1s"}}});
    place.make(namespace, "memory", spec).await?;
    let mut before =
        ready(user, namespace, "memory").await?.status.and_then(|status| status.keys).context("keys")?.active;
    let events = Api::<Event>::namespaced(client.clone(), &namespace.name);
    step(
        user,
        eventually("an event", STEP, || async {
            let found = events.list(&ListParams::default()).await?;
            ensure!(found.items.iter().any(|event| event.reason.as_deref() == Some("KeysGenerated")), "there is none");
            Ok(())
        }),
    )
    .await?;
    repaired::<ConfigMap>(user, namespace, &names::config_map("memory")).await?;
    repaired::<PersistentVolumeClaim>(user, namespace, &names::data_claim("memory")).await?;
    // Twice, because the second of two events of a kind counts the first one up.
    for turn in ["first", "second"] {
        patch(&resources, "memory", json!({"metadata": {"annotations": {names::ROTATE: turn}}})).await?;
        before = step(
            user,
            eventually("another key", 2 * STEP, || async {
                let found = resources.get("memory").await?;
                let keys = found.status.and_then(|status| status.keys).context("keys")?;
                ensure!(keys.active != before && keys.previous.is_empty() && keys.next.is_none(), "{keys:?}");
                Ok::<_, anyhow::Error>(keys.active)
            }),
        )
        .await?;
    }
    let pod = json!({
        "metadata": {"name": "agent", "labels": {names::INJECTED: "memory"}},
        "spec": {"containers": [{"name": "agent", "image": "localhost/pause:1"}]},
    });
    namespace.make::<Pod>(&pod).await?;
    step(
        user,
        eventually("the count of pods", STEP, || async {
            let pods = resources.get("memory").await?.status.and_then(|status| status.pods).context("pods")?;
            ensure!(pods.injected == 1, "{pods:?}");
            Ok(())
        }),
    )
    .await?;
    share(user, place, namespace, guest).await?;
    let url = format!("http://{}", server.address());
    place
        .make(namespace, "served", json!({"vectorStore": {"qdrant": {"url": url}}, "reclaimPolicy": "Delete"}))
        .await?;
    let held = ready(user, namespace, "served").await?;
    ensure!(!held.finalizers().is_empty(), "nothing holds the resource");
    resources.delete("served", &DeleteParams::default()).await?;
    step(
        user,
        eventually("the end of a resource", STEP, || async {
            ensure!(resources.get_opt("served").await?.is_none(), "it is still there");
            Ok(())
        }),
    )
    .await
}

/// What a controller does beside for a Qdrant that it runs.
async fn life_of_a_cluster(user: &User, place: &Place, namespace: &Namespace) -> Result<()> {
    let resources = namespace.api::<ContextManager>();
    // Its pods stay where no machine takes them.
    let nowhere = json!({"vectorStore": {"managed": {"scheduling": {"nodeSelector": {"nowhere": "true"}}}}});
    place.make(namespace, "stored", nowhere).await?;
    step(user, operator::wait_within(STEP, namespace, "stored", "StoreReady", |said| said.reason == "Provisioning"))
        .await?;
    repaired::<StatefulSet>(user, namespace, &names::qdrant("stored")).await?;
    let image = "localhost/qdrant:next";
    patch(&resources, "stored", json!({"spec": {"vectorStore": {"managed": {"image": image}}}})).await?;
    step(
        user,
        eventually("a node with another image", STEP, || async {
            let node = namespace.api::<Pod>().get(&format!("{}-0", names::qdrant("stored"))).await?;
            let containers = node.spec.context("a spec")?.containers;
            ensure!(containers[0].image.as_deref() == Some(image), "{containers:?}");
            Ok(())
        }),
    )
    .await
}

/// All that a controller does with the chart's defaults.
async fn life(user: &User, stage: &Stage, namespace: &Namespace, guest: &Namespace) -> Result<()> {
    let Stage { place, client, server, .. } = stage;
    life_without_clusters(user, place, client, namespace, guest, server).await?;
    life_of_a_cluster(user, place, namespace).await
}

async fn holder(leases: &Api<Lease>) -> Result<Option<String>> {
    let lease = leases.get_opt(LEASE).await?;
    Ok(lease.and_then(|lease| lease.spec?.holder_identity).filter(|holder| !holder.is_empty()))
}

/// Waits until nobody leads: a controller that was killed, as other suites do it, holds its lease until it is over.
async fn nobody_leads(leases: &Api<Lease>) -> Result<()> {
    eventually("the end of another controller's lease", LEASES, || async {
        let lease = leases.get_opt(LEASE).await?;
        let Some(spec) = lease.and_then(|lease| lease.spec) else { return Ok(()) };
        let Some(holder) = spec.holder_identity.filter(|holder| !holder.is_empty()) else { return Ok(()) };
        let end = spec
            .renew_time
            .zip(spec.lease_duration_seconds)
            .map(|(MicroTime(renewed), seconds)| renewed.saturating_add(SignedDuration::from_secs(seconds.into())));
        let is_over = end.and_then(Result::ok).is_some_and(|end| end < Timestamp::now());
        ensure!(is_over, "{holder} leads; end it, for this suite's controllers must be the only ones");
        Ok(())
    })
    .await
}

/// Runs a controller with these rules for a life, and says which rights it asked for, however it went.
async fn trial(stage: &Stage, rules: &Rules) -> Result<(Result<()>, BTreeSet<Right>)> {
    let Stage { webhook, place, client, .. } = stage;
    let user = User::create(client, &place.home, rules).await?;
    let lived = under(&user, place.settings(webhook)?, async || {
        let namespace = webhook.namespace(client, "rights", &[]).await?;
        let guest = webhook.namespace(client, "guest", &[]).await?;
        life(&user, stage, &namespace, &guest).await
    })
    .await;
    Ok((lived, user.used()))
}

/// Runs a controller as a user, and something meanwhile.
async fn under(user: &User, settings: Settings, meanwhile: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    let leases = Api::<Lease>::namespaced(cluster::client().await?, &settings.namespace);
    // The first controller of a cluster has to make it.
    nobody_leads(&leases).await?;
    if leases.get_opt(LEASE).await?.is_some() {
        leases.delete(LEASE, &DeleteParams::default()).await?;
    }
    let admin = settings.admin_address;
    let server = strict().await?;
    let limited = user.client_of(server.config().await?)?;
    let controller = Background::start("the controller", move |_, shutdown| async move {
        let clients = Clients { client: limited.clone(), evictions: limited };
        Ok(controller::run(clients, settings, shutdown).await?)
    });
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?;
    let outcome = async {
        step(
            user,
            eventually("the lease", STEP, || async {
                if controller.ended() {
                    bail!("the controller ended");
                }
                let metrics = http.get(format!("http://{admin}/metrics")).send().await?.text().await?;
                ensure!(operator::leads(&metrics), "it waits for the lease");
                Ok(())
            }),
        )
        .await?;
        meanwhile().await
    }
    .await;
    let stopped = controller.stop();
    outcome?;
    stopped?;
    let holder = holder(&leases).await?;
    ensure!(holder.is_none(), "the lease is still held by {holder:?}");
    Ok(())
}

/// What a life takes that is tried by itself.
struct Stage {
    webhook: Arc<Webhook>,
    server: Qdrant,
    client: Client,
    /// The server's.
    #[expect(dead_code, reason = "it is deleted when it is dropped")]
    folder: tempfile::TempDir,
    #[expect(dead_code, reason = "it ends when the last test drops it")]
    strict: Arc<ApiServer>,
    place: Place,
    #[expect(dead_code, reason = "it is deleted when it is dropped")]
    home: Namespace,
}

impl Stage {
    async fn enter() -> Result<Self> {
        let webhook = Webhook::shared().await?;
        let client = cluster::client().await?;
        let (place, home) = Place::new(&client).await?;
        let folder = tempfile::tempdir()?;
        let server = Qdrant::start(folder.path()).await?;
        Ok(Self { webhook, server, client, folder, strict: strict().await?, place, home })
    }
}

/// Fails unless a life fails with these rules, and says why it did.
async fn fails(stage: &Stage, rules: &Rules, what: &str) -> Result<()> {
    needed(what, trial(stage, rules).await?.0).map(drop)
}

/// The same by something that these rules refuse, and not because something else took its time.
fn is_refused(rules: &Rules, (lived, used): (Result<()>, BTreeSet<Right>), what: &str) -> Result<()> {
    let error = needed(what, lived)?;
    ensure!(!used.is_subset(&rules.rights()), "{what}: nothing was refused, and yet: {error:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_controllers_rights_suffice_and_each_of_them_is_needed() -> Result<()> {
    let stage = Stage::enter().await?;
    let rules = Rules::of("controller", stage.webhook.configuration())?;
    let (lived, used) = trial(&stage, &rules).await?;
    lived.context("with all that the chart gives")?;
    rules.suffice(&used)?;
    let given = rules.rights();
    // No request names these, such as the right to create what server-side apply finds missing.
    for right in given.difference(&used) {
        fails(&stage, &rules.without_right(right), &format!("{right:?}")).await?;
    }
    for rule in rules.cluster.iter().chain(&rules.home) {
        let rules = rules.without(rule);
        is_refused(&rules, trial(&stage, &rules).await?, &described(rule))?;
    }
    Ok(())
}

fn described(rule: &PolicyRule) -> String {
    format!("{:?} {:?}", rule.verbs, rule.resources.clone().unwrap_or_default())
}

/// What the controller does where the chart's values ask for it: pods without a sidecar are evicted (`watchdog`), sidecars are upgraded in
/// place (`upgradeSidecars`), and cert-manager is asked for certificates (`certManager`).
async fn life_with_options(user: &User, webhook: &Webhook, client: &Client, namespace: &Namespace) -> Result<()> {
    let mut template = pod("x");
    template["metadata"] = json!({"labels": {INJECT: "true", "app": "agent"}});
    let deployment = json!({
        "metadata": {"name": "agent"},
        "spec": {"selector": {"matchLabels": {"app": "agent"}}, "template": template},
    });
    namespace.make::<Deployment>(&deployment).await?;
    let api = namespace.api::<Pod>();
    let images = async || -> Result<Vec<Option<String>>> {
        let found = api.list(&ListParams::default().labels("app=agent")).await?;
        Ok(found.iter().map(pods::sidecar_image).collect())
    };
    step(
        user,
        eventually("a pod without a sidecar", STEP, || async {
            ensure!(images().await? == [None], "{:?}", images().await?);
            Ok::<_, anyhow::Error>(())
        }),
    )
    .await?;
    let issuer = json!({"issuer": "CertManager", "issuerRef": {"name": "agents"}});
    namespace.make_resource("certified", json!({"tls": issuer})).await?;
    let asked = |said: &Condition| said.reason == "CertificateIssuing";
    step(user, operator::wait_within(STEP, namespace, "certified", "TLSReady", asked)).await?;
    patch(&namespace.api::<ContextManager>(), "certified", json!({"spec": {"tls": null}})).await?;
    step(
        user,
        eventually("the end of the Certificate", STEP, || async {
            let found = cert_manager::certificates(client, namespace).get_opt(&names::tls_secret("certified")).await?;
            ensure!(found.is_none(), "it is still there");
            Ok::<_, anyhow::Error>(())
        }),
    )
    .await?;
    namespace.api::<ContextManager>().delete("certified", &DeleteParams::default()).await?;
    webhook.adopt(client, namespace).await?;
    let upgrade = json!({"sidecar": {"upgrade": {"strategy": "InPlace", "observe": "1s"}}});
    namespace.make_resource("memory", upgrade).await?;
    for image in [sidecar_image(), next_sidecar_image()] {
        patch(&namespace.api::<ContextManager>(), "memory", json!({"spec": {"sidecar": {"image": image}}})).await?;
        step(
            user,
            eventually(&format!("a pod with {image}"), 2 * STEP, || async {
                ensure!(images().await? == [Some(image.clone())], "{:?}", images().await?);
                Ok::<_, anyhow::Error>(())
            }),
        )
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_only_some_values_give_are_needed_for_what_these_ask() -> Result<()> {
    let _strict = strict().await?;
    let webhook = Webhook::shared().await?;
    let client = cluster::client().await?;
    let place = Place::of_the_chart(&client).await?;
    let rules = Rules::with_options("controller", webhook.configuration())?;
    let given = rules.rights();
    let default = Rules::of("controller", webhook.configuration())?.rights();
    let more: Vec<_> = given.difference(&default).collect();
    let named: Vec<_> = more.iter().map(|(_, resource, verb)| (resource.as_str(), verb.as_str())).collect();
    let of_certificates = ["create", "delete", "get", "patch"].map(|verb| ("certificates", verb));
    ensure!(named == [&[("pods", "get"), ("pods", "patch")][..], &of_certificates].concat(), "{more:?}");
    let _definition = Definitions::of_certificates(&client).await?;
    let live = async |rules: &Rules| -> Result<BTreeSet<Right>> {
        let user = User::create(&client, &place.home, rules).await?;
        let settings = Settings { cert_manager: true, ..place.settings(&webhook)? };
        // No webhook looks at this namespace yet.
        let namespace = Namespace::create(&client, "options", &[]).await?;
        let lived =
            under(&user, settings, async || life_with_options(&user, &webhook, &client, &namespace).await).await;
        // An upgrade that was not finished would be the next controller's.
        let resources = namespace.api::<ContextManager>();
        resources.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
        lived?;
        Ok(user.used())
    };
    let used = live(&rules).await.context("with all that the chart gives")?;
    rules.suffice(&used)?;
    for right in more {
        needed(&format!("{right:?}"), live(&rules.without_right(right)).await)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_runs_no_qdrant_needs_no_right_to_workloads() -> Result<()> {
    let stage = Stage::enter().await?;
    let Stage { webhook, server, client, place, .. } = &stage;
    let rules = Rules::least("controller", webhook.configuration())?;
    let given = rules.rights();
    for of_workloads in ["statefulsets", "services", "poddisruptionbudgets", "networkpolicies", "pods/eviction"] {
        let right = given.iter().find(|(_, resource, _)| resource == of_workloads);
        ensure!(right.is_none(), "the chart gives {right:?} with controller.managedQdrant=false");
    }
    let user = User::create(client, &place.home, &rules).await?;
    let settings = Settings { managed_qdrant: false, ..place.settings(webhook)? };
    under(&user, settings, async || {
        let namespace = webhook.namespace(client, "rights", &[]).await?;
        let guest = webhook.namespace(client, "guest", &[]).await?;
        life_without_clusters(&user, place, client, &namespace, &guest, server).await?;
        place.make(&namespace, "stored", json!({"vectorStore": {"managed": {}}})).await?;
        let refused = |said: &Condition| {
            said.reason == "ManagedQdrantOff" && said.message.contains("controller.managedQdrant=true")
        };
        operator::wait_within(STEP, &namespace, "stored", "StoreReady", refused).await.map(drop)
    })
    .await?;
    rules.suffice(&user.used())
}

/// The CA of controllers of some namespaces.
const AUTHORITY: &str = "context-manager-client-ca-of-namespaces";

/// A controller of some namespaces, the first one of its release: it makes the CA.
async fn in_namespaces(Stage { webhook, client, place, .. }: &Stage, watched: &[&str]) -> Result<Settings> {
    let secrets = Api::<Secret>::namespaced(client.clone(), &place.home);
    if secrets.get_opt(AUTHORITY).await?.is_some() {
        secrets.delete(AUTHORITY, &DeleteParams::default()).await?;
    }
    Ok(Settings {
        scope: Scope::of(watched.iter().map(|&namespace| namespace.to_owned()).collect()),
        authority: pki::client::Settings::new(&place.home, AUTHORITY),
        ..place.settings(webhook)?
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn in_namespaces_alone_each_rule_is_needed() -> Result<()> {
    let stage = Stage::enter().await?;
    let Stage { webhook, client, place, .. } = &stage;
    let trial = async |less: Option<&PolicyRule>| -> Result<()> {
        let namespace = webhook.namespace(client, "narrow", &[]).await?;
        let guest = webhook.namespace(client, "guest", &[]).await?;
        let watched = [namespace.name.as_str(), guest.name.as_str()];
        let rules = Rules::namespaced("controller", webhook.configuration(), AUTHORITY, &watched)?;
        let rules = less.map_or_else(|| rules.clone(), |rule| rules.without(rule));
        let user = User::create(client, &place.home, &rules).await?;
        let settings = in_namespaces(&stage, &watched).await?;
        under(&user, settings, async || life(&user, &stage, &namespace, &guest).await).await
    };
    trial(None).await.context("with all that the chart gives")?;
    let all = Rules::namespaced("controller", webhook.configuration(), AUTHORITY, &["a"])?;
    let there = all.spaces.values().flatten();
    for rule in all.cluster.iter().chain(&all.home).chain(there) {
        ensure!(all.without(rule).count() < all.count(), "nothing is taken away with {rule:?}");
        needed(&described(rule), trial(Some(rule)).await)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_namespaces_alone_rights_there_suffice() -> Result<()> {
    let stage = Stage::enter().await?;
    let Stage { webhook, client, place, .. } = &stage;
    let [first, second] =
        [webhook.namespace(client, "first", &[]).await?, webhook.namespace(client, "second", &[]).await?];
    let elsewhere = webhook.namespace(client, "elsewhere", &[]).await?;
    let watched = [first.name.as_str(), second.name.as_str()];
    let rules = Rules::namespaced("controller", webhook.configuration(), AUTHORITY, &watched)?;
    let user = User::create(client, &place.home, &rules).await?;
    let settings = in_namespaces(&stage, &watched).await?;
    place.make(&elsewhere, "memory", json!({})).await?;
    under(&user, settings, async || {
        life(&user, &stage, &first, &second).await?;
        place.make(&second, "memory", json!({"allowedNamespaces": [first.name, elsewhere.name]})).await?;
        ready(&user, &second, "memory").await?;
        // Where the operator has no rights it tries nothing, and says so.
        let refused = |said: &Condition| said.reason == "NamespaceNotServed" && said.message.contains(&elsewhere.name);
        operator::wait_within(STEP, &second, "memory", "GrantsReady", refused).await?;
        let copy = names::granted(&second.name, "memory");
        ensure!(first.api::<Secret>().get_opt(&copy).await?.is_some(), "the namespace that is served has no copy");
        let beyond = elsewhere.api::<Secret>().get_opt(&copy).await?;
        ensure!(beyond.is_none(), "it wrote where it does not look: {beyond:?}");
        second.api::<ContextManager>().delete("memory", &DeleteParams::default()).await?;
        eventually("the end of the copy", STEP, || async {
            ensure!(first.api::<Secret>().get_opt(&copy).await?.is_none(), "it is still there");
            Ok(())
        })
        .await
    })
    .await?;
    rules.suffice(&user.used())?;
    let unseen = elsewhere.api::<ContextManager>().get("memory").await?;
    ensure!(!operator::was_seen(&unseen), "it wrote where it does not look: {:?}", unseen.status);
    let limited = user.client().await?;
    for namespace in [elsewhere.name.as_str(), "default"] {
        let said = refusal(Api::<Secret>::namespaced(limited.clone(), namespace).get("any").await)?;
        ensure!(said.contains("forbidden"), "{said}");
    }
    let said = refusal(Api::<Secret>::namespaced(limited, &place.home).get("context-manager-webhook-ca").await)?;
    ensure!(said.contains("forbidden"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_of_a_namespace_needs_rights_in_it_and_its_name() -> Result<()> {
    let (_webhook, _team, rules, user) = Webhook::start_limited().await?;
    let asked = user.used();
    rules.suffice(&asked)?;
    for (group, resource, verb) in
        [("", "namespaces", "watch"), ("contextmanager.dev", "contextmanagers", "watch"), ("", "secrets", "create")]
    {
        let right = (group.to_owned(), resource.to_owned(), verb.to_owned());
        ensure!(asked.contains(&right), "{right:?} is not among {asked:?}");
    }
    Ok(())
}

/// What `kubectl auth can-i --list` says of a part in its own namespace, without what every user may.
async fn listed(part: &str) -> Result<String> {
    let client = cluster::client().await?;
    operator::make_home(&client).await?;
    let nobody = User::create(&client, HOME, &Rules::default()).await?;
    let user = User::create(&client, HOME, &Rules::of(part, "context-manager")?).await?;
    let ask = async |user: &User| -> Result<BTreeSet<String>> {
        let arguments =
            ["auth", "can-i", "--list", "--as", user.name(), "--as-group", "system:authenticated", "-n", HOME];
        Ok(cluster::kubectl(&arguments)
            .await?
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect())
    };
    // What was just bound takes a moment to be known.
    let (all, common) = eventually("the rights", STEP, || async {
        let (all, common) = (ask(&user).await?, ask(&nobody).await?);
        ensure!(all.len() > common.len() + 4, "{all:?}");
        Ok::<_, anyhow::Error>((all, common))
    })
    .await?;
    let mut lines: Vec<_> = all.difference(&common).cloned().collect();
    lines.push(String::new());
    Ok(lines.join("\n"))
}

#[tokio::test]
async fn what_each_part_may_is_written_down() -> Result<()> {
    for part in ["controller", "webhook"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("golden/rights/{part}.txt"));
        let found = listed(part).await?;
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::create_dir_all(path.parent().context("a folder")?)?;
            fs::write(&path, &found)?;
        }
        let golden = fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
        ensure!(found == golden, "{part} may:\n{found}\nand {} says:\n{golden}", path.display());
    }
    Ok(())
}
