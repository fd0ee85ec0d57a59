//! How long the embedding may take while all writers wait for the last journaled writes to reach the store.
//!
//! Dense vectors can be added later, so nobody waits for an embedding that is slow: after one call that took too long, the rest goes to
//! the store without asking, until the journal is empty.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::time::timeout;

/// Longest time for one call.
const LONGEST_CALL: Duration = Duration::from_millis(500);

/// Whether writers wait, and whether the embedding was too slow for them.
#[derive(Debug, Default)]
pub(super) struct Hurry {
    writers_wait: AtomicBool,
    is_slow: AtomicBool,
}

/// Writers wait until this is dropped.
pub(super) struct Hurrying<'a>(&'a Hurry);

impl Drop for Hurrying<'_> {
    fn drop(&mut self) {
        self.0.writers_wait.store(false, Ordering::Release);
    }
}

impl Hurry {
    /// From now on writers wait.
    pub(super) fn begin(&self) -> Hurrying<'_> {
        self.writers_wait.store(true, Ordering::Release);
        Hurrying(self)
    }

    /// Nobody will have to wait: the next time the embedding is asked again.
    pub(super) fn is_over(&self) {
        self.is_slow.store(false, Ordering::Release);
    }

    /// What `call` answers; nothing if it is too slow for the writers that wait.
    pub(super) async fn patience<T>(&self, call: impl Future<Output = T>) -> Option<T> {
        if !self.writers_wait.load(Ordering::Acquire) {
            return Some(call.await);
        }
        if self.is_slow.load(Ordering::Acquire) {
            return None;
        }
        let answer = timeout(LONGEST_CALL, call).await.ok();
        self.is_slow.store(answer.is_none(), Ordering::Release);
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn a_slow_call_is_waited_for_once_while_writers_wait_and_as_long_as_it_takes_otherwise() {
        let hurry = Hurry::default();
        let slow = || tokio::time::sleep(LONGEST_CALL + Duration::from_millis(50));
        assert_eq!(hurry.patience(slow()).await, Some(()));
        let hurrying = hurry.begin();
        assert_eq!(hurry.patience(ready(1)).await, Some(1), "a quick one is asked");
        assert_eq!(hurry.patience(pending::<()>()).await, None);
        assert_eq!(hurry.patience(ready(1)).await, None, "no second one is asked");
        drop(hurrying);
        assert_eq!(hurry.patience(slow()).await, Some(()));
        let _hurrying = hurry.begin();
        assert_eq!(hurry.patience(ready(1)).await, None, "the journal is not empty yet");
        hurry.is_over();
        assert_eq!(hurry.patience(ready(1)).await, Some(1));
    }
}
