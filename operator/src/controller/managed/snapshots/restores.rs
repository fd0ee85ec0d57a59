//! Restorations that go on, each resource's by its uid.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{task::AbortHandle, time::Instant};

use super::restore::{Job, Restored};
use crate::controller::error::unwound;

/// Pause before what failed is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// All restorations.
#[derive(Default)]
pub(in crate::controller) struct Restores {
    states: Arc<Mutex<HashMap<String, State>>>,
}

enum State {
    Running(AbortHandle),
    Ended(Result<Restored, String>, Instant),
}

/// How far a restoration is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::controller::managed) enum Seen {
    /// It was not begun, or is to be tried again after what is said.
    Due(Option<String>),
    /// It goes on.
    Running,
    /// It failed, and rests.
    Failed(String),
    /// It has ended.
    Ended(Restored),
}

impl Restores {
    /// How far it is.
    pub(in crate::controller::managed) fn look(&self, uid: &str) -> Seen {
        match self.states().get(uid) {
            None => Seen::Due(None),
            Some(State::Running(_)) => Seen::Running,
            Some(State::Ended(Ok(restored), _)) => Seen::Ended(restored.clone()),
            Some(State::Ended(Err(why), at)) if at.elapsed() < RETRY => Seen::Failed(why.clone()),
            Some(State::Ended(Err(why), _)) => Seen::Due(Some(why.clone())),
        }
    }

    /// Begins or goes on with it in the background.
    pub(in crate::controller::managed) fn begin(&self, uid: &str, job: Job) {
        let (states, place) = (Arc::clone(&self.states), uid.to_owned());
        // The task cannot end before it is noted: it waits for the same lock.
        let mut all = self.states();
        let task = tokio::spawn(async move {
            let ended = unwound(job.run()).await.unwrap_or_else(|panicked| Err(panicked.to_string()));
            if let Some(state) = lock(&states).get_mut(&place) {
                *state = State::Ended(ended, Instant::now());
            }
        });
        all.insert(uid.to_owned(), State::Running(task.abort_handle()));
    }

    /// Forgets a resource whose spec is another one.
    pub(in crate::controller) fn forget(&self, uid: &str) {
        self.keep(|known| known != uid);
    }

    /// Forgets all resources but these, and ends what goes on for the others.
    pub(in crate::controller) fn keep(&self, is_there: impl Fn(&str) -> bool) {
        let mut states = self.states();
        for (_, state) in states.extract_if(|uid, _| !is_there(uid)) {
            if let State::Running(task) = state {
                task.abort();
            }
        }
    }

    fn states(&self) -> MutexGuard<'_, HashMap<String, State>> {
        lock(&self.states)
    }
}

fn lock(states: &Mutex<HashMap<String, State>>) -> MutexGuard<'_, HashMap<String, State>> {
    states.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_goes_on_for_a_resource_that_is_gone_ends() {
        let restores = Restores::default();
        let tasks = ["here", "gone"].map(|uid| {
            let task = tokio::spawn(std::future::pending::<()>());
            restores.states().insert(uid.to_owned(), State::Running(task.abort_handle()));
            task
        });
        restores.keep(|uid| uid == "here");
        let [here, gone] = tasks;
        assert!(gone.await.is_err_and(|error| error.is_cancelled()) && !here.is_finished());
        assert_eq!((restores.look("here"), restores.look("gone")), (Seen::Running, Seen::Due(None)));
    }
}
