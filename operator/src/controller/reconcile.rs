//! One reconciliation, and what comes after it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use context_manager_crds::{ContextManager, ContextManagerStatus};
use futures::FutureExt as _;
use jiff::Timestamp;
use kube::{
    Api, Resource as _,
    api::{ObjectMeta, Patch, PatchParams},
    runtime::controller::Action,
};
use serde_json::json;
use tracing::{debug, warn};

use super::{
    Object,
    apply::Manager,
    certificate, children,
    context::Context,
    end,
    error::{Error, call, caught},
    finalizers, fleet, grants, keys,
    metrics::Outcome,
    plan::Plan,
    status::{self, Report},
    store::reclaim,
    upgrade, watchdog,
};
use crate::chain::Chain;

/// Pause before what passes by itself is looked at again.
pub(super) const WAITING: Duration = Duration::from_secs(2);
/// Least pause before the next step of a rotation or an upgrade.
const SOONEST: Duration = Duration::from_millis(100);
/// Longest pause of a deletion that waits, and of a write that another namespace refuses.
pub(super) const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// First pause after an error, doubled with each further one of the same object, up to the longest.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_mins(5);
/// Failures in a row after which status and metrics show them.
pub(super) const FAILURES_SHOWN: u32 = 2;
/// Pauses vary by this share either way, so that objects that failed together are not tried together.
const JITTER: f64 = 0.25;

/// Brings everything that belongs to a resource to what it should be, and says in the status what came of it.
pub(super) async fn reconcile(object: Arc<Object>, context: Arc<Context>) -> Result<Action, Error> {
    if let Some(rest) = context.rest_of(object.meta()) {
        return Ok(Action::requeue(rest));
    }
    // What is caught within is shown in the status as well; this is for the rest, such as showing it.
    let result = caught(reconcile_now(&object, &context).boxed()).await;
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
        Ok(resource) => caught(provision(resource, context).boxed()).await,
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
            report_failure(context, resource, error).await;
        }
    }
    let (outcome, pause) = result?;
    context.succeeded(metadata);
    Ok((outcome, Action::requeue(jittered(pause, rand::random()))))
}

/// Says in the status that reconciling fails. What the API server said goes to the log alone.
async fn report_failure(context: &Context, resource: &ContextManager, error: &Error) {
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
    let (store, next_look, store_certificate) = (store.finding, store.next, store.certificate);
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
    let needed = (&injection, &store);
    let upgrade = upgrade::ensure(context, &plan, &fleet, resource.status.as_ref(), &grants, needed).await?;
    let pods = fleet.counted;

    let rotation = found_keys.rotation;
    let given = found_keys.trouble.map_or(embedding_key, Err);
    let (keys, secrets) = match (found_keys.ring, given) {
        (Ok((keys, good)), Ok(())) => (Some(keys), Ok(good)),
        (Ok((keys, _)), Err(trouble)) => (Some(keys), Err(trouble)),
        (Err(trouble), _) => (None, Err(trouble)),
    };
    let certificates = certificate.certificate.into_iter().chain(store_certificate).collect();
    let tls = certificate.finding;
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
    let error = Chain(error);
    warn!(namespace, name, failures, pause_ms = pause.as_millis(), %error, "Reconciling failed; it is tried again");
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
mod tests {
    use std::sync::Mutex;

    use http::{Request, Response};
    use http_body_util::BodyExt as _;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use kube::{Client, client::Body, core::DeserializeGuard};
    use tower::service_fn;

    use super::*;
    use crate::controller::{context::tests::context_with, plan::tests::resource};

    /// One that is provisioned, and one that is being deleted.
    fn settled_and_ending() -> [Arc<Object>; 2] {
        let settled = resource(&json!({}));
        let mut ending = resource(&json!({
            "vectorStore": {"qdrant": {"url": "http://127.0.0.1:1"}}, "reclaimPolicy": "Delete",
        }));
        ending.metadata.uid = Some("ending".to_owned());
        ending.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        ending.metadata.finalizers = Some(vec![reclaim::FINALIZER.to_owned()]);
        [settled, ending].map(|resource| Arc::new(DeserializeGuard(Ok(resource))))
    }

    #[tokio::test]
    async fn a_panic_is_a_failure_of_its_resource_and_is_shown_like_any_other() {
        let said = Arc::<Mutex<String>>::default();
        let noted = Arc::clone(&said);
        let defective = service_fn(move |request: Request<Body>| {
            let noted = Arc::clone(&noted);
            async move {
                let path = request.uri().path().to_owned();
                assert!(path.ends_with("/status") || path.contains("/events"), "nobody thought of {path}");
                if path.ends_with("/status") {
                    let body = request.into_body().collect().await.expect("a body").to_bytes();
                    *noted.lock().expect("not poisoned") = String::from_utf8_lossy(&body).into_owned();
                }
                Ok::<_, kube::Error>(Response::builder().status(403).body(Body::empty()).expect("an answer"))
            }
        });
        let context = Arc::new(context_with(&Client::new(defective, "default"), |settings| settings));
        for object in settled_and_ending() {
            for failures in 0..=FAILURES_SHOWN {
                assert_eq!(context.failures_of(object.meta()), failures);
                let error = reconcile_now(&object, &context).await.expect_err("a panic");
                assert!(Chain(&error).to_string().contains("nobody thought of"), "the log says what it was: {error}");
                let again = after_error(Arc::clone(&object), &error, Arc::clone(&context));
                assert_ne!(again, Action::await_change(), "it is tried again");
            }
            let said = std::mem::take(&mut *said.lock().expect("not poisoned"));
            assert!(said.contains("ReconcileError") && said.contains("meets a defect of the controller"), "{said}");
            assert!(!said.contains("nobody thought of"), "{said}");
        }
        let page = context.metrics.render().expect("the metrics");
        let counted = format!(r#"context_manager_reconciles_total{{outcome="error"}} {}"#, 2 * (FAILURES_SHOWN + 1));
        let shown = r#"context_manager_reconcile_failing{resource="memory",resource_namespace="team"} 1"#;
        assert!(page.contains(&counted) && page.contains(shown), "{page}");
        // Before anything is caught that is shown, its class is looked up.
        let unreadable = json!({"metadata": {"name": "bad", "namespace": "team", "uid": "bad"}, "spec": 7});
        let unreadable: Object = serde_json::from_value(unreadable).expect("metadata are enough");
        let error = reconcile(Arc::new(unreadable), Arc::clone(&context)).await.expect_err("a panic");
        assert!(matches!(error, Error::Defect(_)), "{error}");
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
        for object in settled_and_ending() {
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
