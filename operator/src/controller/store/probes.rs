//! When servers are looked at: each resource's in the background, not more often than needed, and ever more rarely while it fails.
//!
//! A look never holds a reconciliation for long: one that takes its time is left running, and the next reconciliation finds what came
//! of it. So a server that is away does not keep other resources waiting.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Semaphore, time::Instant};

use super::probe::{self, Seen, Target};

/// Looks at once.
const CONCURRENCY: usize = 16;
/// How long a reconciliation waits for a look before it goes on with what was seen before.
const PATIENCE: Duration = Duration::from_millis(500);
/// The same when nothing was seen before.
const FIRST_PATIENCE: Duration = Duration::from_secs(2);
/// When a look that still runs is asked for again.
const AGAIN: Duration = Duration::from_secs(1);
/// First pause after a failure, doubled with each further one, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_mins(2);

/// All looks, by the resources' uids.
pub(in crate::controller) struct Probes {
    states: Mutex<HashMap<String, State>>,
    permits: Semaphore,
    /// Time between two looks at a server that is well.
    every: Duration,
}

struct State {
    fingerprint: [u8; 32],
    target: Arc<Target>,
    seen: Option<Seen>,
    failures: u32,
    due: Instant,
    running: bool,
}

/// What is known of a server.
pub(super) struct Known {
    /// What the last look saw; nothing before the first one ended.
    pub(super) seen: Option<Seen>,
    /// When to ask again.
    pub(super) next: Duration,
}

impl Probes {
    pub(in crate::controller) fn new(every: Duration) -> Self {
        Self { states: Mutex::default(), permits: Semaphore::new(CONCURRENCY), every }
    }

    /// What is known of a resource's server, after a look if one is due.
    pub(super) async fn look(self: &Arc<Self>, uid: &str, target: &Arc<Target>) -> Known {
        if let Some(patience) = self.begin(uid, target) {
            let probes = Arc::clone(self);
            let (uid, target) = (uid.to_owned(), Arc::clone(target));
            let running = tokio::spawn(async move { probes.run(&uid, &target).await });
            // Whether it ended in time or not: what is known then is told.
            let _ = tokio::time::timeout(patience, running).await;
        }
        let states = self.states();
        let Some(state) = states.get(uid) else { return Known { seen: None, next: AGAIN } };
        let rest = state.due.saturating_duration_since(Instant::now());
        Known { seen: state.seen.clone(), next: if state.running { AGAIN } else { rest.max(AGAIN) } }
    }

    /// Notes a look that is due, and says how long to wait for it.
    fn begin(&self, uid: &str, target: &Arc<Target>) -> Option<Duration> {
        let fingerprint = target.fingerprint();
        let now = Instant::now();
        let mut states = self.states();
        let state = states.entry(uid.to_owned()).or_insert_with(|| State::new(fingerprint, target, now));
        if state.fingerprint != fingerprint {
            *state = State::new(fingerprint, target, now);
        }
        if state.running || state.due > now {
            return None;
        }
        state.running = true;
        // This look counts as long as it is the last one that was begun.
        state.target = Arc::clone(target);
        Some(if state.seen.is_some() { PATIENCE } else { FIRST_PATIENCE })
    }

    async fn run(&self, uid: &str, target: &Arc<Target>) {
        let Ok(_permit) = self.permits.acquire().await else { return };
        let seen = probe::look(target).await;
        // A target that was replaced meanwhile, or whose resource is gone, does not count.
        if let Some(state) = self.states().get_mut(uid).filter(|state| Arc::ptr_eq(&state.target, target)) {
            state.failures = if seen.is_ok() { 0 } else { state.failures.saturating_add(1) };
            state.due = Instant::now() + pause(state.failures, self.every, rand::random());
            state.seen = Some(seen);
            state.running = false;
        }
    }

    /// The target whose last look went well.
    pub(super) fn well(&self, uid: &str) -> Option<Arc<Target>> {
        let states = self.states();
        let state = states.get(uid).filter(|state| matches!(state.seen, Some(Ok(_))))?;
        Some(Arc::clone(&state.target))
    }

    /// The target that was looked at last, with the secrets that it had.
    pub(super) fn last(&self, uid: &str) -> Option<Arc<Target>> {
        self.states().get(uid).map(|state| Arc::clone(&state.target))
    }

    /// Forgets all resources but these, with the secrets of their servers.
    pub(in crate::controller) fn keep(&self, is_there: impl Fn(&str) -> bool) {
        self.states().retain(|uid, _| is_there(uid));
    }

    fn states(&self) -> MutexGuard<'_, HashMap<String, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn new(fingerprint: [u8; 32], target: &Arc<Target>, now: Instant) -> Self {
        Self { fingerprint, target: Arc::clone(target), seen: None, failures: 0, due: now, running: false }
    }
}

/// Time to the next look after so many failures in a row. The resync varies by a quarter, so a little less than it meets each one.
fn pause(failures: u32, every: Duration, random: f64) -> Duration {
    let pause = match failures {
        0 => every.mul_f64(0.6),
        more => {
            FIRST_PAUSE.min(every).saturating_mul(1 << more.saturating_sub(1).min(16)).min(LONGEST_PAUSE.min(8 * every))
        }
    };
    pause.mul_f64(0.75 + 0.5 * random.clamp(0.0, 1.0))
}

#[cfg(test)]
#[expect(clippy::panic, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::controller::{
        context::tests::context,
        plan::{Plan, StoragePlan, tests::resource},
        store::credentials::Credentials,
    };

    #[tokio::test]
    async fn a_resource_that_is_gone_leaves_no_secrets_behind() {
        let context = context();
        let resource = resource(&json!({"vectorStore": {"qdrant": {"url": "http://127.0.0.1:1"}}}));
        let plan = Plan::of(&resource).expect("a plan");
        let StoragePlan::Qdrant(wanted) = &plan.storage else { panic!("the store is a server") };
        let target = Arc::new(Target::new(&context, &plan, wanted, &Credentials::default()));
        for uid in ["here", "gone"] {
            context.probes.look(uid, &target).await;
            assert!(context.probes.last(uid).is_some());
        }
        context.keep_resources(|uid| uid == "here");
        assert!(context.probes.last("here").is_some() && context.probes.last("gone").is_none());
    }

    #[test]
    fn a_server_that_fails_is_looked_at_ever_more_rarely() {
        let minute = Duration::from_mins(1);
        let pauses: Vec<_> = (1..=10).map(|failures| pause(failures, minute, 0.5)).collect();
        assert_eq!(pauses[..3], [2, 4, 8].map(Duration::from_secs));
        assert!(pauses.is_sorted() && pauses[9] == LONGEST_PAUSE);
        assert!(pause(u32::MAX, minute, 1.0) <= LONGEST_PAUSE.mul_f64(1.25));
        assert!(pause(0, minute, 1.0) <= minute.mul_f64(0.75), "each resync of a server that is well finds a look due");
    }
}
