//! Locks by name, so that writes to one session or one context follow one another and others run beside them.
//!
//! A fixed number of locks stands for all names. Several are always taken in the same order, so nobody waits in a circle;
//! that two names share a lock costs time and never correctness.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher as _},
};

use context_manager_memory::{ContextId, SessionId};
use tokio::sync::{Mutex, MutexGuard};

const LOCKS: u64 = 256;

/// What is locked.
#[derive(Hash)]
pub(super) enum Key<'a> {
    /// The order of a session.
    Session(&'a SessionId),
    /// A context.
    Context(ContextId),
}

/// The locks.
pub(super) struct Locks(Vec<Mutex<()>>);

impl Default for Locks {
    fn default() -> Self {
        Self((0..LOCKS).map(|_| Mutex::default()).collect())
    }
}

impl Locks {
    /// Waits until all of `keys` are free, and holds them.
    pub(super) async fn hold<'a>(&self, keys: impl IntoIterator<Item = Key<'a>>) -> Vec<MutexGuard<'_, ()>> {
        let places: BTreeSet<usize> = keys.into_iter().map(|key| place(&key)).collect();
        let mut held = Vec::with_capacity(places.len());
        for place in places {
            held.push(self.0[place].lock().await);
        }
        held
    }
}

fn place(key: &Key<'_>) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    usize::try_from(hasher.finish() % LOCKS).unwrap_or(0)
}

/// Whether two names stand for the same lock.
#[cfg(test)]
pub(super) fn is_shared(one: &Key<'_>, other: &Key<'_>) -> bool {
    place(one) == place(other)
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn many_names_in_any_order_never_wait_in_a_circle() {
        let locks = Arc::new(Locks::default());
        let ids: Vec<ContextId> = (0..64).map(|number| ContextId::new(Uuid::from_u128(number))).collect();
        let tasks: Vec<_> = (0..16)
            .map(|turn| {
                let (locks, mut ids) = (Arc::clone(&locks), ids.clone());
                ids.rotate_left(turn);
                if turn % 2 == 0 {
                    ids.reverse();
                }
                tokio::spawn(async move {
                    for _ in 0..50 {
                        let _held = locks.hold(ids.iter().copied().map(Key::Context)).await;
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        let all = futures::future::try_join_all(tasks);
        assert!(tokio::time::timeout(Duration::from_secs(30), all).await.is_ok_and(|joined| joined.is_ok()));
    }

    #[tokio::test]
    async fn a_held_name_keeps_others_out() {
        let locks = Locks::default();
        let key = || Key::Context(ContextId::new(Uuid::from_u128(7)));
        let held = locks.hold([key(), key()]).await;
        assert!(futures::poll!(std::pin::pin!(locks.hold([key()]))).is_pending());
        drop(held);
        assert!(futures::poll!(std::pin::pin!(locks.hold([key()]))).is_ready());
    }
}
