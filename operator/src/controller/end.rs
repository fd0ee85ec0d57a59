//! The end of a resource: what waits for it to be over is done in an order, and whatever keeps it waiting is said, in its status and by an
//! event. Somebody who deleted it sees nothing else of the operator's work.

use std::time::Duration;

use context_manager_crds::ContextManagerStatus;
use jiff::Timestamp;
use kube::{Resource as _, api::ObjectMeta, runtime::controller::Action};
use tracing::debug;

use super::{
    Object,
    context::Context,
    error::{Error, caught},
    grants,
    metrics::Outcome,
    reconcile::{FAILURES_SHOWN, LONGEST_WAIT, WAITING, backoff, jittered, refuse, write_status},
    status::{self, Trouble},
    store::reclaim,
};

/// Pause before a deletion that found all places taken.
const BUSY: Duration = Duration::from_secs(1);

/// What a deletion waits for, if it has to.
pub(super) enum Released {
    /// Nothing: the resource may go.
    Yes,
    /// Others are served first.
    Busy,
    /// This.
    Waits(Trouble),
}

/// The end of a resource. Children go with their owner; what lies on a Qdrant server goes first, if the resource says so, and then the copies
/// in other namespaces.
pub(super) async fn end(object: &Object, context: &Context) -> Result<(Outcome, Action), Error> {
    let metadata = object.meta();
    let released = match caught(release(object, context)).await {
        Ok(released) => released,
        Err(error) => {
            report_failure(object, context, &error).await;
            return Err(error);
        }
    };
    let pause = match released {
        Released::Yes => {
            context.forget_invalid(metadata);
            context.succeeded(metadata);
            let this = metadata.uid.as_deref().unwrap_or_default();
            context.keep_resources(|uid| uid != this);
            return Ok((Outcome::Ready, Action::await_change()));
        }
        Released::Busy => BUSY,
        Released::Waits(trouble) => {
            context.show_failing(metadata);
            show(object, context, &trouble).await?;
            backoff(context.failed(metadata)).max(WAITING.min(context.resync)).min(LONGEST_WAIT)
        }
    };
    Ok((Outcome::NotReady, Action::requeue(jittered(pause, rand::random()))))
}

async fn release(object: &Object, context: &Context) -> Result<Released, Error> {
    let metadata = object.meta();
    if reclaim::is_held(metadata) {
        reclaim::release(context, object).await
    } else if grants::is_held(metadata) {
        grants::release(context, metadata).await
    } else {
        Ok(Released::Yes)
    }
}

/// Whether an annotation of a resource is `"true"`.
pub(super) fn is_asked(metadata: &ObjectMeta, annotation: &str) -> bool {
    metadata.annotations.as_ref().is_some_and(|all| all.get(annotation).is_some_and(|value| value == "true"))
}

/// What a deletion waits for, in the words of a person who looks why it does not go on, with the annotation that ends the wait.
pub(super) fn waits(
    reason: &'static str,
    message: &str,
    metadata: &ObjectMeta,
    (what, annotation): (&str, &str),
) -> Trouble {
    let (name, namespace) = (metadata.name.as_deref(), metadata.namespace.as_deref());
    let give_up = format!(
        "kubectl annotate contextmanager/{} -n {} {annotation}=true",
        name.unwrap_or_default(),
        namespace.unwrap_or_default()
    );
    let message =
        format!("the deletion waits: {message}. It is tried again; to leave {what} where they are: {give_up}");
    Trouble::passing(reason, message)
}

/// Says why a deletion fails, once it is more than a hiccup. What the API server said goes to the log alone.
async fn report_failure(object: &Object, context: &Context, error: &Error) {
    if context.failures_of(object.meta()) < FAILURES_SHOWN {
        return;
    }
    context.show_failing(object.meta());
    let message = format!("the deletion waits: {error}; it is tried again, and the controller's log says more");
    if let Err(error) = show(object, context, &Trouble::passing("ReconcileError", message)).await {
        debug!(error = %error, "The failure could not be shown in the status");
    }
}

/// Says what a deletion waits for.
async fn show(object: &Object, context: &Context, trouble: &Trouble) -> Result<(), Error> {
    let metadata = object.meta();
    let Ok(resource) = &object.0 else {
        return refuse(context, metadata, None, &trouble.message).await.map(drop);
    };
    let current = resource.status.as_ref();
    if !is_said(current, trouble) {
        context.warn_about(metadata, "DeletionWaits", &trouble.message).await;
    }
    let status = status::ending(trouble, metadata.generation, current, Timestamp::now());
    write_status(context, metadata, current, &status).await
}

/// An event is for a deletion that begins to wait, or waits for something else.
fn is_said(current: Option<&ContextManagerStatus>, trouble: &Trouble) -> bool {
    let said = current.and_then(|status| status.conditions.iter().find(|said| said.type_ == "Ready"));
    said.is_some_and(|said| said.reason == trouble.reason && said.message == trouble.message)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::controller::plan::tests::resource;

    #[test]
    fn a_deletion_that_waits_says_how_to_give_up() {
        let metadata = resource(&json!({})).metadata;
        let trouble = waits("StoreUnreachable", "the server is away", &metadata, ("the contexts", reclaim::ABANDON));
        assert!(trouble.message.contains("the server is away"), "{}", trouble.message);
        let command = "to leave the contexts where they are: \
                       kubectl annotate contextmanager/memory -n team contextmanager.dev/abandon-data=true";
        assert!(trouble.message.ends_with(command), "{}", trouble.message);
    }

    #[test]
    fn an_event_is_for_what_is_new() {
        let trouble = Trouble::passing("CopiesRemain", "namespace a");
        let status = status::ending(&trouble, Some(1), None, Timestamp::from_second(1).unwrap());
        assert!(!is_said(None, &trouble) && is_said(Some(&status), &trouble));
        assert!(!is_said(Some(&status), &Trouble::passing("CopiesRemain", "namespace b")));
    }
}
