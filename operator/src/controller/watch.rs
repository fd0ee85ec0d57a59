//! What the controller watches. Each watch has pauses of its own after failures: kube's controller pauses all of them when one fails, so
//! that one that is not permitted, or several that end together, would hold up everything.

use std::{fmt::Debug, time::Duration};

use context_manager_protocol::names;
use futures::{Stream, StreamExt as _, TryStreamExt as _, channel::mpsc};
use kube::{
    Api, Resource, ResourceExt as _,
    runtime::{
        WatchStreamExt as _,
        reflector::{self, Store},
        utils::Backoff,
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tracing::warn;

use super::{Object, reconcile::jittered};
use crate::watches::{PAGE, RESOURCES_PAGE};

/// First pause after a failure, doubled with each further one up to the longest; the next success ends the row.
const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(10);

struct Pauses(Duration);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (2 * pause).min(LONGEST);
        Some(jittered(pause, rand::random()))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0 = FIRST;
    }
}

/// Resources that change, and all that there are, without what is never looked at. Those of a list are in the store when all of its pages
/// have come, and a look at one of them before comes to nothing: so a list that begins anew ends with a look at all, too.
pub(super) fn resources(
    api: Api<Object>,
    relisted: &mpsc::UnboundedSender<()>,
) -> (impl Stream<Item = Result<Object, watcher::Error>> + Send + use<>, Store<Object>) {
    let (store, writer) = reflector::store();
    let config = watcher::Config::default().page_size(RESOURCES_PAGE);
    let events = events("resources", api, config).modify(trim);
    (events.reflect(writer).inspect_ok(lists_after_the_first(relisted)).applied_objects(), store)
}

/// Takes away what nobody reads: who wrote which field, and what others noted. That is most of a resource, and as large as somebody likes.
fn trim(resource: &mut Object) {
    resource.managed_fields_mut().clear();
    resource.labels_mut().clear();
    resource.annotations_mut().retain(|key, _| key.split_once('/').is_some_and(|(prefix, _)| prefix == names::GROUP));
}

/// Children that change. A watch that was lost for too long begins with a new list, which does not name what was deleted meanwhile: that is
/// found by a look at all resources.
pub(super) fn children<K>(
    kind: &'static str,
    api: Api<K>,
    config: watcher::Config,
    relisted: &mpsc::UnboundedSender<()>,
) -> impl Stream<Item = Result<K, watcher::Error>> + Send + use<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let events = events(kind, api, config.page_size(RESOURCES_PAGE));
    events.inspect_ok(lists_after_the_first(relisted)).touched_objects()
}

/// Says when a list has come as a whole, but for the first one.
fn lists_after_the_first<K>(relisted: &mpsc::UnboundedSender<()>) -> impl FnMut(&watcher::Event<K>) + Send + use<K> {
    let (relisted, mut is_first) = (relisted.clone(), true);
    move |event| {
        if matches!(event, watcher::Event::InitDone) && !std::mem::take(&mut is_first) {
            // Without a receiver the controller has ended.
            let _ = relisted.unbounded_send(());
        }
    }
}

/// What happens to objects. Failures are logged here; after each of them comes a pause. Pages are no larger than [`PAGE`].
pub(super) fn events<K>(
    what: &'static str,
    api: Api<K>,
    config: watcher::Config,
) -> impl Stream<Item = Result<watcher::Event<K>, watcher::Error>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let page = config.page_size.map_or(PAGE, |page| page.min(PAGE));
    watcher(api, config.page_size(page)).backoff(Pauses(FIRST)).filter_map(move |event| async move {
        let failure = |error: &watcher::Error| {
            let error: &dyn std::error::Error = error;
            warn!(what, error, "Failed to watch; it is tried again");
        };
        event.inspect_err(failure).ok().map(Ok)
    })
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use kube::{Client, client::Body};
    use serde_json::json;
    use tower::service_fn;

    use super::*;

    #[tokio::test]
    async fn resources_come_in_pages_that_fit_and_without_what_nobody_reads() {
        let (asked, mut queries) = mpsc::unbounded::<String>();
        let service = service_fn(move |request: Request<Body>| {
            let _ = asked.unbounded_send(request.uri().query().unwrap_or_default().to_owned());
            async {
                let resource = json!({
                    "apiVersion": "contextmanager.dev/v1alpha1",
                    "kind": "ContextManager",
                    "metadata": {
                        "name": "memory", "namespace": "team", "uid": "u", "labels": {"a": "b"},
                        "annotations": {"a/b": "c", "contextmanager.dev/rotate": "now"},
                        "managedFields": [{"manager": "kubectl"}],
                    },
                    "spec": {},
                });
                let list = json!({
                    "apiVersion": "contextmanager.dev/v1alpha1",
                    "kind": "ContextManagerList",
                    "metadata": {"resourceVersion": "1"},
                    "items": [resource],
                });
                Ok::<_, kube::Error>(Response::new(Body::from(list.to_string().into_bytes())))
            }
        });
        let (relisted, _relists) = mpsc::unbounded();
        let (changed, _store) = resources(Api::all(Client::new(service, "default")), &relisted);
        let mut changed = std::pin::pin!(changed);
        let seen = changed.next().await.expect("an event").expect("a resource");
        let query = queries.next().await.expect("a list");
        assert!(query.split('&').any(|pair| pair == format!("limit={RESOURCES_PAGE}")), "{query}");
        assert!(seen.labels().is_empty() && seen.managed_fields().is_empty());
        assert_eq!(seen.annotations().keys().collect::<Vec<_>>(), ["contextmanager.dev/rotate"]);
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew() {
        let mut pauses = Pauses(FIRST);
        let tenth = pauses.by_ref().nth(9).expect("there is always another one");
        assert!(tenth >= LONGEST.mul_f64(0.7) && tenth <= LONGEST.mul_f64(1.3), "{tenth:?}");
        pauses.reset();
        assert!(pauses.next().is_some_and(|first| first <= FIRST.mul_f64(1.3)));
    }
}
