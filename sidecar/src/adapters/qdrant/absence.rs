//! A collection that is gone while the sidecar runs: somebody has deleted it, or the server came back without its data.
//!
//! It is made anew, empty, as the next start would make it, but not at once: the operator makes it with the key that may, and whoever
//! brings it back from a snapshot gets some time. Writes are journaled meanwhile.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tracing::{error, info};

use crate::metrics::Metrics;

/// What is known of the collection's absence.
pub(super) struct Absence {
    collection: String,
    /// How long it may be gone before it is made anew.
    patience: Duration,
    since: Mutex<Option<Instant>>,
    /// How many absences have ended.
    ended: AtomicU64,
    metrics: Arc<Metrics>,
}

impl Absence {
    pub(super) const fn new(collection: String, patience: Duration, metrics: Arc<Metrics>) -> Self {
        Self { collection, patience, since: Mutex::new(None), ended: AtomicU64::new(0), metrics }
    }

    /// The server says that it is gone. Says whether it is to be made anew.
    pub(super) fn note(&self, now: Instant) -> bool {
        let mut absent = self.since();
        let Some(since) = *absent else {
            *absent = Some(now);
            self.metrics.store.collection_missing.set(1);
            error!(
                collection = self.collection,
                patience_ms = self.patience.as_millis(),
                "The Qdrant server has no such collection any more, and what it held with it; writes are journaled. If it is not back in time, \
                 it is made anew, empty"
            );
            return false;
        };
        if now.duration_since(since) < self.patience {
            return false;
        }
        // Whoever deletes it again waits as long again.
        *absent = Some(now);
        true
    }

    /// The collection was made: anew, if it was gone and not only not there yet.
    pub(super) fn made_anew(&self) {
        if self.since().is_some() {
            self.metrics.store.collections_made_anew.inc();
            error!(collection = self.collection, "The collection did not come back, and was made anew, empty");
        }
    }

    /// A call succeeded.
    pub(super) fn end(&self) {
        if self.since().take().is_some() {
            self.ended.fetch_add(1, Ordering::AcqRel);
            self.metrics.store.collection_missing.set(0);
            info!(collection = self.collection, "The collection is there again");
        }
    }

    /// How often it was gone and came back, with what it held or without.
    pub(super) fn ended(&self) -> u64 {
        self.ended.load(Ordering::Acquire)
    }

    /// What to say of it as long as it is gone.
    pub(super) fn detail(&self) -> Option<String> {
        self.since().map(|_| {
            format!(
                "the Qdrant server has no collection {:?} any more; bring it back from a snapshot, or let it be made anew, empty, which a key \
                 that may not make collections cannot do",
                self.collection
            )
        })
    }

    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_anew_after_a_while_and_not_again_at_once() {
        const PATIENCE: Duration = Duration::from_mins(1);
        let metrics = Arc::new(Metrics::new());
        let absence = Absence::new("memory".to_owned(), PATIENCE, Arc::clone(&metrics));
        let start = Instant::now();
        absence.made_anew();
        assert_eq!(metrics.store.collections_made_anew.get(), 0, "it is made for the first time");
        assert!(!absence.note(start) && absence.detail().is_some());
        assert!(!absence.note(start + PATIENCE / 2));
        assert!(absence.note(start + PATIENCE));
        assert!(!absence.note(start + PATIENCE + PATIENCE / 2), "somebody deletes it again and again");
        let figures = || (metrics.store.collection_missing.get(), metrics.store.collections_made_anew.get());
        assert_eq!(figures(), (1, 0), "it is to be made, and the key may not do that");
        absence.made_anew();
        assert_eq!(absence.ended(), 0);
        absence.end();
        absence.end();
        assert_eq!((figures(), absence.ended()), ((0, 1), 1));
        assert!(absence.detail().is_none());
        assert!(!absence.note(start + 9 * PATIENCE), "it is another time");
    }
}
