//! Snapshots that are being taken, and what is known of those that were: each resource's by its uid.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{sync::Semaphore, task::AbortHandle, time::sleep};

use super::{
    catalogue::Record,
    schedule::Failure,
    take::{Job, Taken},
};
use crate::controller::error::unwound;

/// Resources whose snapshots are taken at once.
const CONCURRENCY: usize = 4;

/// What came of a snapshot: its record, or what was the matter.
pub(super) type Outcome = Result<Record, String>;

/// All snapshots.
pub(in crate::controller) struct Runs {
    states: Arc<Mutex<HashMap<String, State>>>,
    permits: Arc<Semaphore>,
}

struct State {
    known: Known,
    /// What is to be told.
    outcome: Option<Outcome>,
    task: Option<AbortHandle>,
}

/// What is known of a resource's snapshots.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// The catalogue as it was read or written last.
    pub(super) records: Option<Vec<Record>>,
    /// The last attempt, if it failed.
    pub(super) failure: Option<Failure>,
    /// Whether one is being taken.
    pub(super) running: bool,
    /// Since when there are to be some, as far as this process knows.
    pub(super) since: Timestamp,
}

impl Default for Runs {
    fn default() -> Self {
        Self { states: Arc::default(), permits: Arc::new(Semaphore::new(CONCURRENCY)) }
    }
}

impl Runs {
    /// What is known now.
    pub(super) fn known(&self, uid: &str) -> Known {
        let mut states = self.states();
        let known = &mut states.entry(uid.to_owned()).or_insert_with(State::new).known;
        // A clock that ran ahead may have been put right since.
        known.since = known.since.min(Timestamp::now());
        known.clone()
    }

    /// Whether one is being taken.
    pub(in crate::controller::managed) fn is_running(&self, uid: &str) -> bool {
        self.states().get(uid).is_some_and(|state| state.known.running)
    }

    /// What came of the last one, once.
    pub(super) fn collect(&self, uid: &str) -> Option<Outcome> {
        self.states().get_mut(uid)?.outcome.take()
    }

    /// Notes what was read.
    pub(super) fn recall(&self, uid: &str, records: Vec<Record>) {
        self.states().entry(uid.to_owned()).or_insert_with(State::new).known.records = Some(records);
    }

    /// Takes a snapshot in the background.
    pub(super) fn begin(&self, uid: &str, job: Job) {
        let (states, permits, place) = (Arc::clone(&self.states), Arc::clone(&self.permits), uid.to_owned());
        let mut all = self.states();
        let state = all.entry(uid.to_owned()).or_insert_with(State::new);
        if state.known.running {
            return;
        }
        state.known.running = true;
        let task = tokio::spawn(async move {
            let Ok(_permit) = permits.acquire().await else { return };
            let (pause, began) = next_second(Timestamp::now());
            sleep(pause).await;
            // One that nobody notes the end of would be the last one.
            let taken = unwound(job.run(began)).await.unwrap_or_else(|panicked| Err(panicked.to_string()));
            let mut states = lock(&states);
            // A resource that is gone is not told of.
            let Some(state) = states.get_mut(&place) else { return };
            state.end(taken, job.request());
        });
        state.task = Some(task.abort_handle());
    }

    /// Forgets a resource that has no snapshots any more.
    pub(in crate::controller) fn forget(&self, uid: &str) {
        self.keep(|known| known != uid);
    }

    /// Forgets all resources but these, and ends what goes on for the others.
    pub(in crate::controller) fn keep(&self, is_there: impl Fn(&str) -> bool) {
        let mut states = self.states();
        for (_, state) in states.extract_if(|uid, _| !is_there(uid)) {
            if let Some(task) = state.task {
                task.abort();
            }
        }
    }

    fn states(&self) -> MutexGuard<'_, HashMap<String, State>> {
        lock(&self.states)
    }
}

/// When the next second begins, and how long that is. Snapshots are called by the second in which they are begun, and one of a resource
/// follows another, so each has a second of its own.
fn next_second(now: Timestamp) -> (Duration, Timestamp) {
    let next = Timestamp::from_second(now.as_second().saturating_add(1)).unwrap_or(Timestamp::MAX);
    (Duration::try_from(next.duration_since(now)).unwrap_or_default(), next)
}

fn lock(states: &Mutex<HashMap<String, State>>) -> MutexGuard<'_, HashMap<String, State>> {
    states.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn new() -> Self {
        let known = Known { records: None, failure: None, running: false, since: Timestamp::now() };
        Self { known, outcome: None, task: None }
    }

    fn end(&mut self, taken: Result<Taken, String>, request: Option<String>) {
        self.known.running = false;
        self.task = None;
        self.outcome = Some(match taken {
            Ok(Taken { record, records }) => {
                self.known.records = Some(records);
                self.known.failure = None;
                Ok(record)
            }
            Err(message) => {
                // The catalogue may have an unfinished one more.
                self.known.records = None;
                self.known.failure = Some(Failure { at: Timestamp::now(), request, message: message.clone() });
                Err(message)
            }
        });
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_goes_on_for_a_resource_that_is_gone_ends() {
        let runs = Runs::default();
        let tasks = ["here", "gone"].map(|uid| {
            let task = tokio::spawn(std::future::pending::<()>());
            runs.states().insert(uid.to_owned(), State { task: Some(task.abort_handle()), ..State::new() });
            task
        });
        runs.keep(|uid| uid == "here");
        let [here, gone] = tasks;
        assert!(gone.await.unwrap_err().is_cancelled() && !here.is_finished());
        assert_eq!(runs.states().keys().collect::<Vec<_>>(), ["here"]);
    }

    #[test]
    fn what_is_expected_is_not_expected_from_a_clock_that_ran_ahead() {
        let runs = Runs::default();
        let known = Known { since: Timestamp::MAX, ..State::new().known };
        runs.states().insert("here".to_owned(), State { known, ..State::new() });
        assert!(runs.known("here").since <= Timestamp::now());
    }

    #[test]
    fn snapshots_that_follow_each_other_within_a_second_have_names_of_their_own() {
        let name = |began| Record::begin(began, String::new(), None, "contexts").name;
        let now = Timestamp::from_millisecond(1_795_750_000_100).unwrap();
        let (pause, first) = next_second(now);
        assert_eq!(pause, Duration::from_millis(900));
        let (pause, second) = next_second(first);
        assert_eq!(pause, Duration::from_secs(1), "the first one may have ended at once");
        assert_eq!((name(first), name(second)), ("2026-11-27T03-26-41Z".to_owned(), "2026-11-27T03-26-42Z".to_owned()));
    }
}
