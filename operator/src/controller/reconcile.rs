//! One reconciliation, and what comes after it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use context_manager_crds::{ContextManager, ContextManagerSpec, ContextManagerStatus};
use context_manager_protocol::names;
use jiff::Timestamp;
use kube::{
    Api, Client, Resource as _,
    api::{ApiResource, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams},
    runtime::{
        controller::Action,
        events::{Event, EventType, Recorder},
    },
};
use serde_json::json;
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

use super::{
    Clients, Object, Settings,
    apply::Manager,
    certificate::{self, Authority, Withdrawn},
    children, end,
    error::{Error, call},
    fence::Fence,
    finalizers, fleet, grants, keys, managed,
    metrics::{Metrics, Outcome},
    plan::Plan,
    pods::Pods,
    status::{self, Report},
    store::{Probes, reclaim},
    upgrade, watchdog,
};
use crate::scope::Scope;

/// Pause before what passes by itself is looked at again.
pub(super) const WAITING: Duration = Duration::from_secs(2);
/// Least pause before the next step of a rotation or an upgrade.
const SOONEST: Duration = Duration::from_millis(100);
/// Longest pause of a deletion that waits, and of a write that another namespace refuses.
pub(super) const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// First pause after an error, doubled with each further one of the same object, up to the longest.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_mins(5);
/// Deletions on Qdrant servers at once; fewer than reconciliations, so that servers that are away do not hold them all.
const DELETIONS: usize = 4;
/// Failures in a row after which status and metrics show them.
pub(super) const FAILURES_SHOWN: u32 = 2;
/// Least time between two reconciliations of an object: what changes meanwhile is worked off together. The debouncing of kube would put
/// the next one off with each change, for ever if there are enough of them.
const PACE: Duration = Duration::from_millis(200);
/// Longest note of an event, in bytes.
const LONGEST_NOTE: usize = 1000;
/// Pauses vary by this share either way, so that objects that failed together are not tried together.
const JITTER: f64 = 0.25;

/// What reconciliations share.
pub(super) struct Context {
    pub(super) client: Client,
    /// For evictions alone.
    pub(super) evicting: Client,
    /// What changes something at a Qdrant server passes here, as writes of the clients above do.
    pub(super) fence: Fence,
    /// The class of the resources that are reconciled.
    class: String,
    /// Where resources are looked for.
    pub(super) scope: Scope,
    pub(super) authority: Authority,
    /// Whether cert-manager may be asked for certificates.
    pub(super) cert_manager: bool,
    /// Whether Qdrant clusters may be run.
    pub(super) managed_qdrant: bool,
    /// Resources of which cert-manager is asked for nothing any more.
    pub(super) withdrawn: Withdrawn,
    /// Namespace of the controller itself.
    pub(super) namespace: String,
    pub(super) webhook_configuration: String,
    /// The sidecar's image, for resources that name none.
    pub(super) sidecar_image: Option<String>,
    /// Looks at Qdrant servers.
    pub(super) probes: Arc<Probes>,
    /// Snapshots of managed Qdrants that are being taken.
    pub(super) snapshots: managed::Snapshots,
    /// Restorations of managed Qdrants that go on.
    pub(super) restores: managed::Restores,
    /// Writes that other namespaces refused.
    pub(super) refusals: grants::Refusals,
    /// Deletions on Qdrant servers that go on at once.
    pub(super) deletions: Semaphore,
    recorder: Recorder,
    pub(super) metrics: Arc<Metrics>,
    /// How long the steps of a rotation take.
    pub(super) keys: keys::Settings,
    /// What sidecars said of their keys.
    pub(super) answers: keys::Answers,
    /// What is done with pods that have no sidecar.
    pub(super) watchdog: watchdog::Mode,
    /// What is known of all pods.
    pods: HashMap<Option<String>, Arc<Pods>>,
    /// What the watchdog evicted.
    pub(super) evictions: watchdog::Shared,
    /// Pods that could not be upgraded for now.
    pub(super) rested: upgrade::Rested,
    pub(super) resync: Duration,
    /// How often each object failed in a row, by its uid.
    failures: Mutex<HashMap<String, u32>>,
    /// What was said of each resource that is invalid: its uid, its generation, the message.
    invalid: Mutex<HashMap<String, (Option<i64>, String)>>,
    /// Until when each object rests, by its uid.
    rests: Mutex<HashMap<String, Instant>>,
}

impl Context {
    pub(super) fn new(
        (Clients { client, evictions }, fence): (Clients, Fence),
        recorder: Recorder,
        settings: Settings,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            client,
            evicting: evictions,
            fence,
            recorder,
            metrics,
            class: settings.class,
            scope: settings.scope.clone(),
            authority: Authority::new(settings.authority),
            cert_manager: settings.cert_manager,
            managed_qdrant: settings.managed_qdrant,
            withdrawn: Withdrawn::default(),
            namespace: settings.namespace,
            webhook_configuration: settings.webhook_configuration,
            sidecar_image: settings.sidecar_image,
            probes: Arc::new(Probes::new(settings.resync)),
            snapshots: managed::Snapshots::default(),
            restores: managed::Restores::default(),
            refusals: grants::Refusals::default(),
            deletions: Semaphore::new(DELETIONS),
            keys: settings.keys,
            answers: keys::Answers::default(),
            watchdog: settings.watchdog,
            pods: settings.scope.places().into_iter().map(|place| (place.map(str::to_owned), Arc::default())).collect(),
            evictions: watchdog::Shared::default(),
            rested: upgrade::Rested::default(),
            resync: settings.resync,
            failures: Mutex::default(),
            invalid: Mutex::default(),
            rests: Mutex::default(),
        }
    }

    /// What is known of the pods of a place.
    pub(super) fn pods_at(&self, place: Option<&str>) -> Arc<Pods> {
        self.pods.get(&place.map(str::to_owned)).cloned().unwrap_or_default()
    }

    /// What is known of the pods of a namespace.
    pub(super) fn pods_of(&self, namespace: &str) -> Arc<Pods> {
        let everywhere = self.scope == Scope::Cluster;
        self.pods_at((!everywhere).then_some(namespace))
    }

    /// The name under which fields of a concern are written.
    pub(super) fn manager(&self, concern: Manager) -> String {
        concern.of_class(&self.class)
    }

    /// Whether a resource is of the class that is reconciled here. Of one that cannot be read, the class is read by itself.
    pub(super) async fn serves(&self, object: &Object) -> Result<bool, Error> {
        if let Ok(resource) = &object.0 {
            return Ok(resource.spec.class() == self.class);
        }
        let metadata = object.meta();
        let (Some(name), Some(namespace)) = (&metadata.name, &metadata.namespace) else { return Ok(false) };
        let kind = ApiResource::erase::<ContextManager>(&());
        let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), namespace, &kind);
        // A list, which needs no further right.
        let this = ListParams::default().fields(&format!("metadata.name={name}"));
        let found = call("read the class of a resource", api.list(&this)).await?;
        let class = |found: &DynamicObject| {
            let class = found.data.pointer("/spec/controllerClassName").and_then(|class| class.as_str());
            class.unwrap_or(names::DEFAULT_CLASS) == self.class
        };
        Ok(found.items.first().is_some_and(class))
    }

    /// How long an object is left alone after its last reconciliation.
    fn rest_of(&self, metadata: &ObjectMeta) -> Option<Duration> {
        let rests = self.rests.lock().unwrap_or_else(PoisonError::into_inner);
        let until = rests.get(metadata.uid.as_deref()?)?;
        until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    fn rest(&self, metadata: &ObjectMeta) {
        let (now, uid) = (Instant::now(), metadata.uid.clone().unwrap_or_default());
        let mut rests = self.rests.lock().unwrap_or_else(PoisonError::into_inner);
        rests.retain(|_, until| *until > now);
        rests.insert(uid, now + PACE);
    }

    /// Names a resource that is invalid, once for each reason; whether this is a new one.
    fn name_invalid(&self, metadata: &ObjectMeta, message: &str) -> bool {
        let (namespace, name) = place(metadata);
        let (uid, said) = (metadata.uid.clone().unwrap_or_default(), (metadata.generation, message.to_owned()));
        let mut invalid = self.invalid.lock().unwrap_or_else(PoisonError::into_inner);
        if invalid.get(&uid) == Some(&said) {
            return false;
        }
        warn!(namespace, name, reason = message, "A resource is invalid, and is left alone until it is changed");
        self.metrics.invalid(namespace, name);
        invalid.insert(uid, said);
        true
    }

    pub(super) fn forget_invalid(&self, metadata: &ObjectMeta) {
        let uid = metadata.uid.as_deref().unwrap_or_default();
        if self.invalid.lock().unwrap_or_else(PoisonError::into_inner).remove(uid).is_some() {
            let (namespace, name) = place(metadata);
            self.metrics.valid(namespace, name);
        }
    }

    pub(super) fn wrote(&self, object: &'static str) {
        self.metrics.wrote(object);
    }

    /// Publishes an event on the resource.
    pub(super) async fn tell(&self, plan: &Plan, reason: &str, note: &str) {
        info!(namespace = plan.namespace, name = plan.name, reason, note, "Event");
        self.publish((&plan.namespace, &plan.name, &plan.owner.uid), EventType::Normal, reason, note).await;
    }

    /// Publishes a warning on the resource.
    pub(super) async fn warn(&self, plan: &Plan, reason: &str, note: &str) {
        warn!(namespace = plan.namespace, name = plan.name, reason, note, "Event");
        self.publish((&plan.namespace, &plan.name, &plan.owner.uid), EventType::Warning, reason, note).await;
    }

    /// The same on a resource whose spec may break a rule.
    pub(super) async fn warn_about(&self, metadata: &ObjectMeta, reason: &str, note: &str) {
        let ((namespace, name), uid) = (place(metadata), metadata.uid.as_deref().unwrap_or_default());
        warn!(namespace, name, reason, note, "Event");
        self.publish((namespace, name, uid), EventType::Warning, reason, note).await;
    }

    /// An event that cannot be published costs nothing but itself.
    async fn publish(&self, (namespace, name, uid): (&str, &str, &str), type_: EventType, reason: &str, note: &str) {
        // The API takes notes below 1024 bytes, and what is listed in one may be long. The status has all of it.
        let (reason, note) = (reason.to_owned(), Some(note[..note.floor_char_boundary(LONGEST_NOTE)].to_owned()));
        let event = Event { type_, reason, note, action: "Reconcile".to_owned(), secondary: None };
        let mut resource = ContextManager::new(name, ContextManagerSpec::default());
        resource.metadata.namespace = Some(namespace.to_owned());
        resource.metadata.uid = Some(uid.to_owned());
        let regarding = resource.object_ref(&());
        let publish = self.recorder.publish(&event, &regarding);
        if let Err(error) = call("publish an event", publish).await {
            debug!(error = %error, "An event was not published");
        }
    }

    pub(super) fn succeeded(&self, metadata: &ObjectMeta) {
        let uid = metadata.uid.as_deref().unwrap_or_default();
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
        let (namespace, name) = place(metadata);
        self.metrics.recovered(namespace, name);
    }

    /// Shows by a metric that an object goes no further, until it succeeds or is gone. Among many that are well its failures would be lost in
    /// the count of all.
    pub(super) fn show_failing(&self, metadata: &ObjectMeta) {
        let (namespace, name) = place(metadata);
        self.metrics.failing(namespace, name);
    }

    /// Forgets all resources but these: what is known of them has secrets, and goes on. A resource without a finalizer is gone before anybody
    /// looks at its end.
    pub(super) fn keep_resources(&self, is_there: impl Fn(&str) -> bool) {
        self.probes.keep(&is_there);
        self.answers.keep(&is_there);
        self.withdrawn.keep(&is_there);
        self.snapshots.keep(&is_there);
        self.restores.keep(&is_there);
        self.refusals.keep(&is_there);
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| is_there(uid));
        self.invalid.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| is_there(uid));
    }

    pub(super) fn failures_of(&self, metadata: &ObjectMeta) -> u32 {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        metadata.uid.as_ref().and_then(|uid| failures.get(uid)).copied().unwrap_or_default()
    }

    pub(super) fn failed(&self, metadata: &ObjectMeta) -> u32 {
        let uid = metadata.uid.clone().unwrap_or_default();
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(uid).or_default();
        *count = count.saturating_add(1);
        *count
    }
}

/// Brings everything that belongs to a resource to what it should be, and says in the status what came of it.
pub(super) async fn reconcile(object: Arc<Object>, context: Arc<Context>) -> Result<Action, Error> {
    if let Some(rest) = context.rest_of(object.meta()) {
        return Ok(Action::requeue(rest));
    }
    let result = reconcile_now(&object, &context).await;
    context.rest(object.meta());
    result
}

async fn reconcile_now(object: &Object, context: &Context) -> Result<Action, Error> {
    let since = Instant::now();
    if !context.serves(object).await? {
        // Whether it fails is for another controller to say.
        context.succeeded(object.meta());
        return Ok(Action::await_change());
    }
    let result = if object.meta().deletion_timestamp.is_some() {
        end::end(object, context).await
    } else {
        maintain(object, context).await
    };
    let outcome = result.as_ref().map_or(Outcome::Error, |(outcome, _)| *outcome);
    context.metrics.reconciled(outcome, since.elapsed());
    result.map(|(_, action)| action)
}

/// The reconciliation of a resource that nobody has deleted.
async fn maintain(object: &Object, context: &Context) -> Result<(Outcome, Action), Error> {
    let metadata = object.meta();
    let result = match &object.0 {
        Ok(resource) => Box::pin(provision(resource, context)).await,
        Err(unreadable) => {
            let message = format!("the resource cannot be read: {}", unreadable.error);
            refuse(context, metadata, None, &message).await
        }
    };
    if let Err(error) = &result
        && context.failures_of(metadata) >= FAILURES_SHOWN
    {
        // It is more than a hiccup.
        context.show_failing(metadata);
        if let Ok(resource) = &object.0 {
            confess(context, resource, error).await;
        }
    }
    let (outcome, pause) = result?;
    context.succeeded(metadata);
    Ok((outcome, Action::requeue(jittered(pause, rand::random()))))
}

/// Says in the status that reconciling fails. What the API server said goes to the log alone.
async fn confess(context: &Context, resource: &ContextManager, error: &Error) {
    let message = format!("{error}; it is tried again, and the controller's log says more");
    let current = resource.status.as_ref();
    let status = status::failing(&message, resource.metadata.generation, current, Timestamp::now());
    if let Err(error) = write_status(context, &resource.metadata, current, &status).await {
        debug!(error = %error, "The failure could not be shown in the status");
    }
}

async fn provision(resource: &ContextManager, context: &Context) -> Result<(Outcome, Duration), Error> {
    let plan = match Plan::of(resource) {
        Ok(plan) => plan,
        Err(invalid) => {
            let current = resource.status.as_ref();
            return refuse(context, &resource.metadata, current, &invalid.to_string()).await;
        }
    };
    context.forget_invalid(&resource.metadata);
    let metadata = &resource.metadata;
    // Before anything is stored or copied, what deletes it later is in place.
    if !plan.suspended {
        finalizers::set(context, metadata, &[reclaim::holds(&plan), grants::holds(metadata, &plan)]).await?;
    }
    let embedding_key = children::embedding_key(context, &plan).await?;
    let certificate = certificate::ensure(context, &plan, resource.status.as_ref()).await?;
    let (store_kind, store) = Box::pin(children::storage(context, &plan, resource.status.as_ref())).await?;
    let (store_beside, next_step, snapshots) = (store.beside, store.step, store.snapshots);
    let (store, next_look) = (store.finding, store.next);
    // Other namespaces may take their time. Keys wait for them alone, because a rotation copies the ring before it asks the sidecars.
    let mut grants = grants::open(context, &plan, metadata).await?;
    let found_keys = keys::ensure(context, &plan, resource.status.as_ref(), &mut grants).await?;
    // Configuration last: a sidecar that reads it finds what it names.
    let config = children::config(context, &plan).await?;
    let (granted, next_grant) = grants.fill(context, &plan).await?;
    let (injection, left_out) = children::injection(context, &plan).await?;
    let fleet = fleet::look(context, &plan, resource, &grants, left_out).await?;
    let missing = resource.status.as_ref().and_then(|status| status.pods).map(|pods| pods.missing);
    let (injected, next_eviction) = watchdog::watch(context, &plan, &fleet, missing, &injection).await?;
    let upgrade = upgrade::ensure(context, &plan, &fleet, resource.status.as_ref(), &grants, &injection).await?;
    let pods = fleet.counted;

    let rotation = found_keys.rotation;
    let given = found_keys.trouble.map_or(embedding_key, Err);
    let (keys, secrets) = match (found_keys.ring, given) {
        (Ok((keys, good)), Ok(())) => (Some(keys), Ok(good)),
        (Ok((keys, _)), Err(trouble)) => (Some(keys), Err(trouble)),
        (Err(trouble), _) => (None, Err(trouble)),
    };
    let (certificates, tls) = (certificate.certificate.into_iter().collect(), certificate.finding);
    let suspended = plan.suspended;
    let next = [found_keys.next, certificate.next, upgrade.next, next_eviction, next_step, next_grant];
    let next = next.into_iter().flatten().min();
    let (upgrade, remembered) = (upgrade.finding, upgrade.memory);
    let report = Report {
        secrets,
        tls,
        config,
        store,
        store_beside,
        injection,
        keys,
        certificates,
        store_kind,
        pods,
        snapshots,
        rotation,
        upgrade,
        remembered,
        injected,
        grants: granted,
        suspended,
    };
    let (outcome, pause) = match report.trouble() {
        None => (Outcome::Ready, context.resync),
        Some(trouble) if trouble.stalled => (Outcome::NotReady, context.resync),
        // A server is not asked more often because the reconciliation comes by.
        Some(trouble) if report.store.as_ref().err() == Some(trouble) => {
            (Outcome::NotReady, next_look.unwrap_or(WAITING).min(context.resync))
        }
        Some(_) => (Outcome::NotReady, WAITING.min(context.resync)),
    };
    let status = report.status(resource.metadata.generation, resource.status.as_ref(), Timestamp::now());
    write_status(context, &resource.metadata, resource.status.as_ref(), &status).await?;
    Ok((outcome, next.map_or(pause, |next| pause.min(next.max(SOONEST)))))
}

/// Says that a resource is invalid. The status of one that cannot be read is not known either, so it is written only when there is
/// something new to say: each write would be a change, and a reason for the next one.
pub(super) async fn refuse(
    context: &Context,
    metadata: &ObjectMeta,
    current: Option<&ContextManagerStatus>,
    message: &str,
) -> Result<(Outcome, Duration), Error> {
    let is_new = context.name_invalid(metadata, message);
    if is_new || current.is_some() {
        let status = status::invalid(message, metadata.generation, current, Timestamp::now());
        let written = write_status(context, metadata, current, &status).await;
        if written.is_err() {
            // It is still to be said.
            context.forget_invalid(metadata);
        }
        written?;
    }
    Ok((Outcome::NotReady, context.resync))
}

fn place(metadata: &ObjectMeta) -> (&str, &str) {
    (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

/// Writes the status if it says something new.
pub(super) async fn write_status(
    context: &Context,
    metadata: &ObjectMeta,
    current: Option<&ContextManagerStatus>,
    status: &ContextManagerStatus,
) -> Result<(), Error> {
    if current == Some(status) {
        return Ok(());
    }
    let (Some(name), Some(namespace)) = (&metadata.name, &metadata.namespace) else { return Ok(()) };
    // A resource whose spec cannot be read still has a status that can be written.
    let api = Api::<Object>::namespaced(context.client.clone(), namespace);
    let patch = json!({
        "apiVersion": ContextManager::api_version(&()),
        "kind": ContextManager::kind(&()),
        "metadata": {"name": name, "namespace": namespace},
        "status": status,
    });
    let params = PatchParams::apply(&context.manager(Manager::Status)).force();
    call("write the status", api.patch_status(name, &params, &Patch::Apply(patch))).await?;
    context.wrote("status");
    Ok(())
}

/// How long an object that failed is left alone.
#[expect(clippy::needless_pass_by_value, reason = "the controller calls it with these types")]
pub(super) fn after_error(object: Arc<Object>, error: &Error, context: Arc<Context>) -> Action {
    let metadata = object.meta();
    let failures = context.failed(metadata);
    let pause = if error.is_conflict() { FIRST_BACKOFF } else { backoff(failures) };
    let (namespace, name) = (metadata.namespace.as_deref(), metadata.name.as_deref());
    let error: &dyn std::error::Error = error;
    warn!(namespace, name, failures, pause_ms = pause.as_millis(), error, "Reconciling failed; it is tried again");
    Action::requeue(jittered(pause, rand::random()))
}

/// The pause after the n-th failure in a row.
pub(super) fn backoff(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    FIRST_BACKOFF.saturating_mul(1 << doublings).min(LONGEST_BACKOFF)
}

pub(super) fn jittered(pause: Duration, random: f64) -> Duration {
    pause.mul_f64(1.0 - JITTER + 2.0 * JITTER * random.clamp(0.0, 1.0))
}

#[cfg(test)]
pub(super) mod tests {
    use http::{Request, Response};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use kube::{client::Body, core::DeserializeGuard, runtime::events::Reporter};
    use tokio::time::Instant as Moment;
    use tower::service_fn;

    use super::*;
    use crate::{
        controller::{plan::tests::resource, store::sweep},
        pki,
    };

    /// What reconciliations share, without an API server.
    pub(in super::super) fn context() -> Context {
        let (service, _) =
            tower_test::mock::pair::<http::Request<kube::client::Body>, http::Response<kube::client::Body>>();
        context_with(&Client::new(service, "default"), |settings| settings)
    }

    /// The same with a client, and with what is to be set otherwise.
    pub(in super::super) fn context_with(client: &Client, change: impl FnOnce(Settings) -> Settings) -> Context {
        let second = Duration::from_secs(1);
        let settings = change(Settings {
            admin_address: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
            namespace: "home".to_owned(),
            class: names::DEFAULT_CLASS.to_owned(),
            scope: Scope::Cluster,
            instance: "one".to_owned(),
            webhook_configuration: "webhook".to_owned(),
            sidecar_image: None,
            lease: "lease".to_owned(),
            lease_duration: second,
            authority: pki::client::Settings::new("home", "ca"),
            cert_manager: false,
            managed_qdrant: true,
            resync: second,
            keys: keys::Settings { settle: second, patience: second },
            watchdog: watchdog::Mode::Evict,
            sweep: sweep::Settings { mode: sweep::Mode::Off, interval: second, grace: second },
        });
        let recorder = Recorder::new(client.clone(), Reporter { controller: "one".to_owned(), instance: None });
        let fence = Fence::until(Moment::now() + Duration::from_hours(1));
        let metrics = Arc::new(Metrics::new().expect("the metrics are registered once"));
        let clients = Clients { client: client.clone(), evictions: client.clone() };
        Context::new((clients, fence), recorder, settings, metrics)
    }

    impl Context {
        /// Notes that a resource failed and is invalid.
        pub(in super::super) fn fail_for_good(&self, metadata: &ObjectMeta) {
            self.failed(metadata);
            self.name_invalid(metadata, "why");
        }

        /// How much is known of failures and of what is invalid.
        pub(in super::super) fn remembered(&self) -> usize {
            let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner).len();
            failures + self.invalid.lock().unwrap_or_else(PoisonError::into_inner).len()
        }
    }

    #[tokio::test]
    async fn a_resource_that_fails_for_ever_is_shown_by_itself_until_it_succeeds() {
        let away = service_fn(|_: Request<Body>| async {
            Ok::<_, kube::Error>(Response::builder().status(403).body(Body::empty()).expect("an answer"))
        });
        let context = Arc::new(context_with(&Client::new(away, "default"), |settings| settings));
        let shown = |metric: &str| {
            let page = context.metrics.render().expect("the metrics");
            page.lines().filter(|line| line.starts_with(metric)).map(str::to_owned).collect::<Vec<_>>()
        };
        let failing = || shown("context_manager_reconcile_failing{");
        let settled = resource(&json!({}));
        let mut ending = resource(&json!({
            "vectorStore": {"qdrant": {"url": "http://127.0.0.1:1"}}, "reclaimPolicy": "Delete",
        }));
        ending.metadata.uid = Some("ending".to_owned());
        ending.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        ending.metadata.finalizers = Some(vec![reclaim::FINALIZER.to_owned()]);
        for object in [settled, ending].map(|resource| Arc::new(DeserializeGuard(Ok(resource)))) {
            for failures in 0..=FAILURES_SHOWN {
                assert!(failing().is_empty(), "{failures} failures may be a hiccup");
                let error = reconcile_now(&object, &context).await.expect_err("the API server refuses all");
                after_error(Arc::clone(&object), &error, Arc::clone(&context));
            }
            let line = r#"context_manager_reconcile_failing{resource="memory",resource_namespace="team"} 1"#;
            assert_eq!(failing(), [line], "{:?}", object.meta().uid);
            context.succeeded(object.meta());
        }
        assert!(failing().is_empty(), "it is well again");
        let counted = format!(r#"context_manager_reconciles_total{{outcome="error"}} {}"#, 2 * (FAILURES_SHOWN + 1));
        assert!(shown("context_manager_reconciles_total").contains(&counted), "deletions are counted as well");
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        assert_eq!(backoff(1), FIRST_BACKOFF);
        assert_eq!(backoff(2), 2 * FIRST_BACKOFF);
        assert_eq!(backoff(1_000), LONGEST_BACKOFF);
        assert!(jittered(LONGEST_BACKOFF, 1.0) <= LONGEST_BACKOFF.mul_f64(1.26));
    }
}
