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
use crate::watches::PAGE;

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

/// Resources that change, and all that there are, without what is never looked at.
pub(super) fn resources(
    api: Api<Object>,
) -> (impl Stream<Item = Result<Object, watcher::Error>> + Send, Store<Object>) {
    let (store, writer) = reflector::store();
    let events = events("resources", api, watcher::Config::default()).modify(trim);
    (events.reflect(writer).applied_objects(), store)
}

/// Takes away what nobody reads: who wrote which field, and what others noted. That is most of a resource.
fn trim(resource: &mut Object) {
    resource.managed_fields_mut().clear();
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
    let (relisted, mut is_first) = (relisted.clone(), true);
    let events = events(kind, api, config).inspect_ok(move |event| {
        if matches!(event, watcher::Event::InitDone) && !std::mem::take(&mut is_first) {
            // Without a receiver the controller has ended.
            let _ = relisted.unbounded_send(());
        }
    });
    events.touched_objects()
}

/// What happens to objects. Failures are logged here; after each of them comes a pause.
pub(super) fn events<K>(
    what: &'static str,
    api: Api<K>,
    config: watcher::Config,
) -> impl Stream<Item = Result<watcher::Event<K>, watcher::Error>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    watcher(api, config.page_size(PAGE)).backoff(Pauses(FIRST)).filter_map(move |event| async move {
        let failure = |error: &watcher::Error| {
            let error: &dyn std::error::Error = error;
            warn!(what, error, "Failed to watch; it is tried again");
        };
        event.inspect_err(failure).ok().map(Ok)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew() {
        let mut pauses = Pauses(FIRST);
        let tenth = pauses.by_ref().nth(9).expect("there is always another one");
        assert!(tenth >= LONGEST.mul_f64(0.7) && tenth <= LONGEST.mul_f64(1.3), "{tenth:?}");
        pauses.reset();
        assert!(pauses.next().is_some_and(|first| first <= FIRST.mul_f64(1.3)));
    }
}
