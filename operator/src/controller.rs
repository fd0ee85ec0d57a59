//! The controller: for each `ContextManager` it provisions what sidecars need, from the key ring to the store, looks after the pods that have
//! one, and says in the status what came of it.
//!
//! One reconciliation takes the resource as the watch tells it, makes its [`plan`] (pure), and brings one part after another to what it should
//! be, the configuration after what it names: each is built (for most in [`build`], pure) and applied ([`apply`], by server-side apply, only
//! what differs). Pods come after that, and the [`status`] last. One replica leads ([`lease`]); the others wait.
//!
//! Secrets are read by name and never watched, so the controller needs no right to list them. What somebody does to a
//! Secret is therefore noticed at the next resync at the latest, while a change of anything else is noticed at once.

mod admin;
pub mod apply;
mod args;
pub mod build;
mod certificate;
mod children;
pub mod config;
mod context;
mod end;
mod error;
mod evict;
mod exchange;
mod fence;
mod finalizers;
mod fleet;
mod given;
mod grants;
pub mod keys;
mod lease;
pub mod managed;
mod metrics;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
mod objects;
mod pages;
pub mod plan;
mod pods;
mod reconcile;
pub mod status;
mod store;
mod upgrade;
mod watch;
pub mod watchdog;

use std::{collections::HashSet, io, net::SocketAddr, sync::Arc, time::Duration};

use context_manager_crds::ContextManager;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, channel::mpsc, stream};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, PersistentVolumeClaim},
};
use kube::{
    Client, Config, ResourceExt,
    api::PartialObjectMeta,
    core::DeserializeGuard,
    runtime::{
        controller::{self, Controller},
        events::{Recorder, Reporter},
        reflector::{ObjectRef, Store},
        watcher,
    },
};
use tokio::{
    net::TcpListener,
    task::{JoinError, JoinHandle},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

pub use args::Args;
use context::Context;
pub use error::Error;
use fence::Fence;
pub use grants::{ABANDON as ABANDON_COPIES, FINALIZER as COPIES_FINALIZER};
use lease::Lease;
use metrics::Metrics;
use pods::Concerned;
pub use store::{
    reclaim::{ABANDON, FINALIZER},
    sweep,
};

use crate::{
    pki,
    scope::{self, Scope},
    watches,
};

/// Most reconciliations at once.
const CONCURRENCY: u16 = 8;
/// How long reconciliations that are under way may take to end; less than a pod is given.
const ENDING: Duration = Duration::from_secs(15);
/// Longest time without a look at an object whose certificates and Secrets cannot be watched.
pub const RESYNC: Duration = Duration::from_mins(1);

/// A resource, whether it can be read or not.
type Object = DeserializeGuard<ContextManager>;

/// Names, places and times.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where probes and metrics are served.
    pub admin_address: SocketAddr,
    /// Namespace of the controller: its lease and the sidecars' CA are there.
    pub namespace: String,
    /// The class of the resources that are reconciled.
    pub class: String,
    /// Where they are looked for.
    pub scope: Scope,
    /// Name of this replica.
    pub instance: String,
    /// Name of the `MutatingWebhookConfiguration` that injects sidecars.
    pub webhook_configuration: String,
    /// The sidecar's image, for resources that name none: that of the webhook. Without it, pods are not compared with what they would get.
    pub sidecar_image: Option<String>,
    /// Name of the lease.
    pub lease: String,
    /// How long a leader that vanished is waited for.
    pub lease_duration: Duration,
    /// The CA of the sidecars' certificates.
    pub authority: pki::client::Settings,
    /// Whether cert-manager may be asked for certificates; without it a `Certificate` of a resource that has another issuer now is left.
    pub cert_manager: bool,
    /// Whether there are the rights to run Qdrant clusters; without them such a resource is told so, and what is there gets tokens and certificates alone.
    pub managed_qdrant: bool,
    /// Time between two looks at an object of which nothing was heard.
    pub resync: Duration,
    /// How long the steps of a key's rotation take.
    pub keys: keys::Settings,
    /// What is done with pods that ask for a sidecar and have none.
    pub watchdog: watchdog::Mode,
    /// What is done with expired contexts whose agents have no pod any more.
    pub sweep: sweep::Settings,
}

/// The ways to the API server.
#[derive(Clone)]
pub struct Clients {
    /// For everything, with the retries that kube has by default.
    pub client: Client,
    /// For evictions, without them: that a `PodDisruptionBudget` does not permit one is said by 429, and is no reason to ask again
    /// at once.
    pub evictions: Client,
}

impl Clients {
    /// Both, to the same API server.
    ///
    /// # Errors
    /// When the configuration has certificates or names that cannot be used.
    pub fn new(config: Config) -> kube::Result<Self> {
        let mut once = config.clone();
        once.default_retry = false;
        Ok(Self { client: Client::try_from(config)?, evictions: Client::try_from(once)? })
    }
}

/// Why the controller ended.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A socket could not be bound.
    #[error("failed to listen on {address}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A metric could not be registered.
    #[error("failed to register metrics")]
    Metrics(#[from] prometheus::Error),
    /// The lease cannot be used.
    #[error("failed to use the lease; check the right to get, create and patch leases")]
    Lease(#[source] kube::Error),
    /// Nothing is reconciled any more, though nobody said so. Another replica goes on, and this one is started anew.
    #[error("reconciling ended by itself")]
    Ended(#[source] Option<JoinError>),
}

/// Why a term as the leader ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The process is to end.
    Told,
    /// The lease is lost.
    Lost,
    /// Nothing is reconciled any more.
    Defect,
}

/// Waits for the lease, then reconciles until `shutdown`. The lease is released at the end, so that another replica can go on
/// at once. A replica that loses it waits for it again.
///
/// # Errors
/// When a socket or the lease cannot be used, or reconciling ends by itself.
pub async fn run(clients: Clients, settings: Settings, shutdown: CancellationToken) -> Result<(), Failure> {
    let clients = Clients { client: watches::restartable(clients.client), evictions: clients.evictions };
    let metrics = Arc::new(Metrics::new()?);
    let address = settings.admin_address;
    let listener = TcpListener::bind(address).await.map_err(|source| Failure::Bind { address, source })?;
    // Whichever way this function ends, what it started ends with it.
    let stop = shutdown.child_token();
    let _stop_all = stop.clone().drop_guard();
    tokio::spawn(admin::serve(listener, Arc::clone(&metrics), shutdown.clone(), stop.clone()));

    loop {
        info!(instance = settings.instance, "Waiting for the lease");
        let Some(lease) = Lease::acquire(&clients.client, &settings, &shutdown).await? else { return Ok(()) };
        metrics.lead();
        info!("Leading");
        let (fenced, term) = (lease.fenced(&clients, &settings.namespace), stop.child_token());
        let ways = (fenced, lease.fence());
        let mut working = tokio::spawn(reconcile_all(ways, settings.clone(), Arc::clone(&metrics), term.clone()));
        let (end, ended) = end_of_term(&shutdown, lease.lost(), &mut working).await;
        if end == End::Lost {
            metrics.resign();
        }
        // First stop writing, then let others write.
        term.cancel();
        let failure = match ended {
            Some(ended) => ended.err(),
            None => working.await.err(),
        };
        if let Some(error) = &failure {
            tracing::error!(%error, "The reconciliation ended abnormally");
        }
        // What ended just now may have noted something.
        metrics.resign();
        lease.release().await;
        match end {
            End::Told => return Ok(()),
            End::Lost => tracing::warn!("Lost the lease and stopped writing"),
            // Its probes say that it is well, and who holds the lease and does nothing keeps others from doing it.
            End::Defect => return Err(Failure::Ended(failure)),
        }
    }
}

/// Waits for the end of a term, and says what became of the work if it was what ended.
async fn end_of_term(
    shutdown: &CancellationToken,
    lost: impl Future<Output = ()>,
    working: &mut JoinHandle<()>,
) -> (End, Option<Result<(), JoinError>>) {
    tokio::select! {
        // Who is told to end stops working, too.
        biased;
        () = shutdown.cancelled() => (End::Told, None),
        () = lost => (End::Lost, None),
        ended = working => (End::Defect, Some(ended)),
    }
}

async fn reconcile_all(
    (clients, fence): (Clients, Fence),
    settings: Settings,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let reporter =
        Reporter { controller: "context-manager-controller".to_owned(), instance: Some(settings.instance.clone()) };
    let (sweep, scope) = (settings.sweep, settings.scope.clone());
    let client = clients.client.clone();
    let recorder = Recorder::new(client.clone(), reporter);
    let context = Arc::new(Context::new((clients, fence), recorder, settings, metrics));
    let places = scope.places();
    let concurrency = CONCURRENCY.div_ceil(u16::try_from(places.len()).unwrap_or(CONCURRENCY));
    let (concerned, told) = Concerned::of(&scope);
    let (stores, reconciling): (Vec<_>, Vec<_>) = places
        .into_iter()
        .zip(told)
        .map(|(place, told)| {
            let (relisted, relists) = mpsc::unbounded();
            let (changed, store) = watch::resources(scope::api::<Object>(&client, place), &relisted);
            let controller = Controller::for_stream(changed, store)
                .with_config(controller::Config::default().concurrency(concurrency));
            let concerning = (concerned.clone(), told);
            (controller.store(), reconcile_at(place, controller, concerning, (relisted, relists), &context, &stop))
        })
        .unzip();
    let sweeping = sweep::run(Arc::clone(&context), stores.clone(), sweep, stop.clone());
    let forgetting = forget(Arc::clone(&context), stores.clone(), stop.clone());
    let reconciling = async {
        tokio::select! {
            _ = futures::future::join_all(reconciling) => {}
            () = stuck(stores, stop.clone()) => tracing::warn!("Left reconciliations unfinished, so as to end"),
        }
    };
    tokio::join!(reconciling, sweeping, forgetting);
}

/// Reconciles the resources of a place.
fn reconcile_at(
    place: Option<&str>,
    controller: Controller<Object>,
    (concerned, told): (Concerned, mpsc::UnboundedReceiver<ObjectRef<Object>>),
    (relisted, relists): (mpsc::UnboundedSender<()>, mpsc::UnboundedReceiver<()>),
    context: &Arc<Context>,
    stop: &CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let client = &context.client;
    let ours = watcher::Config::default().labels(&build::selector());
    let config_maps = {
        let all = scope::api::<PartialObjectMeta<ConfigMap>>(client, place);
        let all = watch::children("config maps", all, ours.clone(), &relisted);
        let concerned = concerned.clone();
        // A copy has no owner in its namespace.
        all.inspect_ok(move |map| {
            if let Some((namespace, name)) = grants::original(&map.metadata) {
                concerned.tell(namespace, name);
            }
        })
    };
    let following = {
        let (pods, pods_there) = (context.pods_at(place), scope::api(client, place));
        let (asking, store, stop) = (scope::api(client, place), controller.store(), stop.clone());
        async move { pods.follow(pods_there, asking, store, concerned, stop).await }
    };
    let stop = stop.clone();
    let sets = context.managed_qdrant.then(|| {
        let all = scope::api::<PartialObjectMeta<StatefulSet>>(client, place);
        watch::children("stateful sets", all, ours.clone(), &relisted)
    });
    let reconciling = controller
        .owns_stream(config_maps)
        .owns_stream(stream::iter(sets).flatten())
        .watches_stream(
            watch::children(
                "claims",
                scope::api::<PartialObjectMeta<PersistentVolumeClaim>>(client, place),
                ours,
                &relisted,
            ),
            |claim| owner_by_label(&claim, build::RESOURCE),
        )
        .reconcile_on(told)
        .reconcile_all_on(relists)
        .graceful_shutdown_on(async move { stop.cancelled().await })
        .run(reconcile::reconcile, reconcile::after_error, Arc::clone(context))
        .for_each(|result| async move {
            if let Err(error) = result {
                // What reconciling returned was reported there; what is left are objects that are gone, and broken watches.
                debug!(%error, "A trigger of the controller came to nothing");
            }
        });
    async move {
        tokio::join!(reconciling, following);
    }
}

/// Returns when the reconciliations have been told to stop and do not. They wait for the first list of resources even then, which may
/// never come.
async fn stuck(stores: Vec<Store<Object>>, stop: CancellationToken) {
    stop.cancelled().await;
    if stores.iter().all(|store| store.wait_until_ready().now_or_never().is_some()) {
        tokio::time::sleep(ENDING).await;
    }
}

/// Forgets resources that are gone, where nothing else notices their end.
async fn forget(context: Arc<Context>, stores: Vec<Store<Object>>, stop: CancellationToken) {
    let rounds = async {
        loop {
            tokio::time::sleep(RESYNC).await;
            context.metrics.keep_resources(|namespace, name| {
                let wanted = ObjectRef::new(name).within(namespace);
                stores.iter().any(|store| store.get(&wanted).is_some())
            });
            // Whatever is known of a resource came after it was in its store.
            let there: HashSet<_> = stores.iter().flat_map(Store::state).filter_map(|object| object.uid()).collect();
            context.keep_resources(|uid| there.contains(uid));
        }
    };
    stop.run_until_cancelled(rounds).await;
}

/// The `ContextManager` that a label of an object names. A claim that is retained has no owner reference.
fn owner_by_label<K: ResourceExt>(object: &K, label: &str) -> Option<ObjectRef<Object>> {
    let name = object.labels().get(label)?;
    Some(ObjectRef::new(name).within(&object.namespace()?))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use http::{Method, Request, Response};
    use http_body_util::BodyExt as _;
    use kube::{
        Resource as _,
        client::Body,
        runtime::{reflector, watcher::Event},
    };
    use tower::service_fn;

    use super::*;

    /// An API server that has a lease and nothing else: whoever asks for more panics. And what is written of the lease.
    fn defective() -> (Client, Arc<Mutex<Vec<serde_json::Value>>>) {
        let written = Arc::<Mutex<Vec<serde_json::Value>>>::default();
        let noted = Arc::clone(&written);
        let service = service_fn(move |request: Request<Body>| {
            let noted = Arc::clone(&noted);
            async move {
                let path = request.uri().path().to_owned();
                assert!(path.contains("/leases"), "nobody thought of {path}");
                let is_read = request.method() == Method::GET;
                let body = request.into_body().collect().await.expect("a body").to_bytes();
                let lease = {
                    let mut noted = noted.lock().expect("not poisoned");
                    if !is_read {
                        noted.push(serde_json::from_slice(&body).expect("JSON"));
                    }
                    noted.first().cloned()
                };
                let missing =
                    serde_json::json!({"status": "Failure", "reason": "NotFound", "message": "", "code": 404});
                let (status, body) = lease.map_or((404_u16, missing), |lease| (200, lease));
                let body = Body::from(body.to_string().into_bytes());
                Ok::<_, kube::Error>(Response::builder().status(status).body(body).expect("an answer"))
            }
        });
        (Client::new(service, "default"), written)
    }

    #[tokio::test]
    async fn who_cannot_reconcile_any_more_gives_the_lease_back_and_ends() {
        let (client, written) = defective();
        let mut settings = None;
        context::tests::context_with(&client, |given| {
            settings = Some(Settings { lease_duration: Duration::from_mins(1), ..given.clone() });
            given
        });
        let clients = Clients { client: client.clone(), evictions: client };
        let running = Box::pin(run(clients, settings.expect("settings"), CancellationToken::new()));
        let failure = running.await.expect_err("a panic");
        assert!(matches!(&failure, Failure::Ended(Some(error)) if error.is_panic()), "{failure}");
        let written = written.lock().expect("not poisoned");
        let holder = |lease: &serde_json::Value| lease["spec"]["holderIdentity"].clone();
        assert_eq!(written.iter().map(holder).collect::<Vec<_>>(), [serde_json::json!("one"), serde_json::Value::Null]);
    }

    #[tokio::test]
    async fn who_is_told_to_end_has_no_defect() {
        let (shutdown, mut working) = (CancellationToken::new(), tokio::spawn(async {}));
        while !working.is_finished() {
            tokio::task::yield_now().await;
        }
        shutdown.cancel();
        assert!(matches!(end_of_term(&shutdown, std::future::pending(), &mut working).await, (End::Told, None)));
        let lost = end_of_term(&CancellationToken::new(), async {}, &mut working).await;
        assert!(matches!(lost, (End::Lost, None)));
        let ended = end_of_term(&CancellationToken::new(), std::future::pending(), &mut working).await;
        assert!(matches!(ended, (End::Defect, Some(Ok(())))));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_of_a_resource_goes_with_it() {
        let context = Arc::new(context::tests::context());
        let (store, mut writer) = reflector::store::<Object>();
        let [here, gone] = ["here", "gone"].map(|name| {
            let mut resource = plan::tests::resource(&serde_json::json!({}));
            (resource.metadata.name, resource.metadata.uid) = (Some(name.to_owned()), Some(name.to_owned()));
            Arc::new(DeserializeGuard(Ok(resource)))
        });
        let stop = CancellationToken::new();
        let forgetting = tokio::spawn(forget(Arc::clone(&context), vec![store], stop.clone()));
        for object in [&here, &gone] {
            writer.apply_watcher_event(&Event::Apply((**object).clone()));
            context.fail_for_good(object.meta());
        }
        tokio::time::sleep(2 * RESYNC).await;
        assert_eq!(context.remembered(), 2 + 2, "both are there");
        // It had no finalizer, so there is no reconciliation of its end.
        writer.apply_watcher_event(&Event::Delete((*gone).clone()));
        tokio::time::sleep(2 * RESYNC).await;
        assert_eq!(context.remembered(), 1 + 1);
        stop.cancel();
        forgetting.await.expect("it ends");
    }
}
