//! What reconciliations share: the ways to the API server, what was set for the controller, and what is known of resources from one look
//! to the next.
//!
//! Nothing in it has to outlive the process: who takes over finds what counts in the objects.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use context_manager_crds::{ContextManager, ContextManagerSpec};
use context_manager_protocol::names;
use kube::{
    Api, Client, Resource as _,
    api::{ApiResource, DynamicObject, ListParams, ObjectMeta},
    runtime::events::{Event, EventType, Recorder},
};
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

use super::{
    Clients, Object, Settings,
    apply::Manager,
    certificate::{Authority, Withdrawn},
    error::{Error, call},
    fence::Fence,
    grants, keys, managed,
    metrics::Metrics,
    plan::Plan,
    pods::Pods,
    store::Probes,
    upgrade, watchdog,
};
use crate::scope::Scope;

/// Deletions on Qdrant servers at once; fewer than reconciliations, so that servers that are away do not hold them all.
const DELETIONS: usize = 4;
/// Least time between two reconciliations of an object: what changes meanwhile is worked off together. The debouncing of kube would put
/// the next one off with each change, for ever if there are enough of them.
const PACE: Duration = Duration::from_millis(200);
/// Longest note of an event, in bytes.
const LONGEST_NOTE: usize = 1000;

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
    pub(super) fn rest_of(&self, metadata: &ObjectMeta) -> Option<Duration> {
        let rests = self.rests.lock().unwrap_or_else(PoisonError::into_inner);
        let until = rests.get(metadata.uid.as_deref()?)?;
        until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    /// Leaves an object alone for a moment.
    pub(super) fn rest(&self, metadata: &ObjectMeta) {
        let (now, uid) = (Instant::now(), metadata.uid.clone().unwrap_or_default());
        let mut rests = self.rests.lock().unwrap_or_else(PoisonError::into_inner);
        rests.retain(|_, until| *until > now);
        rests.insert(uid, now + PACE);
    }

    /// Names a resource that is invalid, once for each reason; whether this is a new one.
    pub(super) fn name_invalid(&self, metadata: &ObjectMeta, message: &str) -> bool {
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

fn place(metadata: &ObjectMeta) -> (&str, &str) {
    (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

#[cfg(test)]
pub(super) mod tests {
    use kube::runtime::events::Reporter;
    use serde_json::json;
    use tokio::time::Instant as Moment;

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
    async fn an_invalid_resource_is_named_once_for_each_reason() {
        let (context, metadata) = (context(), resource(&json!({})).metadata);
        let named = ["why", "why", "why else"].map(|why| context.name_invalid(&metadata, why));
        assert_eq!(named, [true, false, true]);
        context.forget_invalid(&metadata);
        assert!(context.name_invalid(&metadata, "why else"), "it was valid meanwhile");
    }
}
