//! The memory of nonces: each is accepted once, for as long as its signature would be accepted.
//!
//! The store is bounded and fails closed: when it is full it refuses new requests rather than forget a nonce that could
//! still be replayed. What it has forgotten it never accepts again, even if the clock goes back or the window grows.
//! Time comes in as an argument.

use std::{
    collections::{BTreeMap, HashSet, hash_map::RandomState},
    hash::BuildHasher,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Most nonces at once. With the default window of 300 s this is about 3,500 requests a second without a pause.
pub const CAPACITY: usize = 1 << 20;
/// The set keeps this much room before it gives memory back.
const KEPT_ROOM: usize = 4_096;

/// Accepts each nonce once per key.
#[derive(Debug)]
pub struct NonceStore {
    capacity: usize,
    /// Randomly keyed, so that nobody can choose nonces that collide. A collision of two nonces (one in 2^44 for a full
    /// store) refuses a request; it never accepts one.
    hasher: RandomState,
    remembered: Mutex<Remembered>,
}

#[derive(Debug)]
struct Remembered {
    seen: HashSet<u64>,
    by_created: BTreeMap<i64, Vec<u64>>,
    /// Signatures made at this second or before may have been forgotten.
    horizon: i64,
}

/// Why a nonce is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It was accepted before.
    #[error("the nonce was used before; make a new one for each request, also for a repeated one")]
    Replayed,
    /// Whether it was accepted before is not known any more.
    #[error(
        "the sidecar does not remember requests of that time; its clock was set back, or the window was made longer"
    )]
    Forgotten,
    /// No further nonce can be remembered.
    #[error("{capacity} requests within the signature window are the most that can be told apart")]
    Full {
        /// Most nonces at once.
        capacity: usize,
        /// Seconds until the first one is forgotten.
        retry_after: u64,
    },
}

impl NonceStore {
    /// A store of at most `capacity` nonces.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let remembered = Remembered { seen: HashSet::new(), by_created: BTreeMap::new(), horizon: i64::MIN };
        Self { capacity, hasher: RandomState::new(), remembered: Mutex::new(remembered) }
    }

    /// Accepts the nonce of a verified signature and remembers it. `created` and `now` are Unix times in seconds; the
    /// caller has checked that they are at most `window` seconds apart.
    ///
    /// # Errors
    /// When the nonce was accepted before, or no more can be remembered.
    pub fn accept(&self, key_id: &str, nonce: &str, created: i64, now: i64, window: u64) -> Result<(), Error> {
        let entry = self.hasher.hash_one((key_id, nonce));
        let mut remembered = self.lock();
        remembered.forget(now, window);
        if created <= remembered.horizon {
            return Err(Error::Forgotten);
        }
        if remembered.seen.contains(&entry) {
            return Err(Error::Replayed);
        }
        if remembered.seen.len() >= self.capacity {
            let first = remembered.by_created.keys().next().copied().unwrap_or(now);
            let retry_after = first.saturating_add_unsigned(window).saturating_sub(now).saturating_add(1);
            return Err(Error::Full { capacity: self.capacity, retry_after: u64::try_from(retry_after).unwrap_or(1) });
        }
        remembered.seen.insert(entry);
        remembered.by_created.entry(created).or_default().push(entry);
        Ok(())
    }

    /// Forgets the nonces whose signatures have left the window.
    pub fn forget(&self, now: i64, window: u64) {
        self.lock().forget(now, window);
    }

    /// How many nonces are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().seen.len()
    }

    /// Whether none is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Remembered> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Remembered {
    fn forget(&mut self, now: i64, window: u64) {
        let oldest = now.saturating_sub_unsigned(window);
        if oldest.saturating_sub(1) <= self.horizon {
            return;
        }
        self.horizon = oldest.saturating_sub(1);
        let kept = self.by_created.split_off(&oldest);
        for entry in std::mem::replace(&mut self.by_created, kept).into_values().flatten() {
            self.seen.remove(&entry);
        }
        if self.seen.capacity() > KEPT_ROOM.max(4 * self.seen.len()) {
            self.seen.shrink_to(2 * self.seen.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const WINDOW: u64 = 300;

    #[test]
    fn a_nonce_is_accepted_once_per_key() {
        let store = NonceStore::new(10);
        assert_eq!(store.accept("k1", "n", 1_000, 1_000, WINDOW), Ok(()));
        assert_eq!(store.accept("k1", "n", 1_000, 1_000, WINDOW), Err(Error::Replayed));
        assert_eq!(store.accept("k1", "n", 1_001, 1_001, WINDOW), Err(Error::Replayed));
        assert_eq!(store.accept("k2", "n", 1_000, 1_000, WINDOW), Ok(()));
    }

    #[test]
    fn a_signature_from_the_future_is_remembered_until_it_leaves_the_window() {
        let store = NonceStore::new(10);
        assert_eq!(store.accept("k", "n", 1_300, 1_000, WINDOW), Ok(()));
        assert_eq!(store.accept("k", "n", 1_300, 1_600, WINDOW), Err(Error::Replayed));
        store.forget(1_601, WINDOW);
        assert!(store.is_empty());
    }

    #[test]
    fn a_full_store_refuses_and_evicts_nothing_that_could_be_replayed() {
        let store = NonceStore::new(2);
        assert_eq!(store.accept("k", "a", 1_000, 1_000, WINDOW), Ok(()));
        assert_eq!(store.accept("k", "b", 1_010, 1_010, WINDOW), Ok(()));
        let full = Err(Error::Full { capacity: 2, retry_after: 281 });
        assert_eq!(store.accept("k", "c", 1_020, 1_020, WINDOW), full);
        assert_eq!(store.accept("k", "a", 1_000, 1_020, WINDOW), Err(Error::Replayed));
        assert_eq!(store.accept("k", "c", 1_301, 1_020 + 281, WINDOW), Ok(()));
    }

    #[test]
    fn a_clock_that_goes_back_or_a_longer_window_opens_no_replay() {
        let store = NonceStore::new(10);
        assert_eq!(store.accept("k", "a", 1_000, 1_000, WINDOW), Ok(()));
        store.forget(5_000, WINDOW);
        assert_eq!(store.accept("k", "a", 1_000, 1_000, WINDOW), Err(Error::Forgotten));
        assert_eq!(store.accept("k", "a", 1_000, 4_000, 3_600), Err(Error::Forgotten));
    }

    #[test]
    fn memory_is_given_back() {
        let store = NonceStore::new(CAPACITY);
        for number in 0..50_000 {
            assert_eq!(store.accept("k", &number.to_string(), 1_000, 1_000, WINDOW), Ok(()));
        }
        store.forget(2_000, WINDOW);
        assert!(store.lock().seen.capacity() <= KEPT_ROOM);
    }

    #[derive(Clone, Debug)]
    struct Step {
        nonce: u8,
        /// Seconds that pass before it; negative when the clock is set back.
        passed: i64,
        /// `created` relative to the clock.
        skew: i64,
    }

    fn step() -> impl Strategy<Value = Step> {
        (0..40_u8, prop_oneof![8 => 0..20_i64, 1 => -30..0_i64], -12..=12_i64).prop_map(|(nonce, passed, skew)| Step {
            nonce,
            passed,
            skew,
        })
    }

    proptest! {
        #[test]
        fn never_twice_within_the_window_and_never_above_capacity(
            steps in proptest::collection::vec(step(), 1..300),
            capacity in 1..30_usize,
        ) {
            const SHORT: u64 = 10;
            let store = NonceStore::new(capacity);
            let (mut now, mut latest, mut accepted) = (1_000_i64, 1_000_i64, HashMap::new());
            for Step { nonce, passed, skew } in steps {
                now += passed;
                let created = now + skew;
                if skew.unsigned_abs() > SHORT {
                    continue; // The layer in front refuses it.
                }
                latest = latest.max(now);
                if store.accept("k", &nonce.to_string(), created, now, SHORT).is_ok()
                    && let Some(before) = accepted.insert(nonce, created)
                {
                    prop_assert!(before < latest - SHORT.cast_signed(), "{nonce} was accepted at {before} and {created}");
                }
                prop_assert!(store.len() <= capacity);
            }
        }

        #[test]
        fn a_fresh_nonce_is_accepted_while_there_is_room(created in 1_000..2_000_i64, nonces in proptest::collection::hash_set("[a-z]{16}", 1..50)) {
            let store = NonceStore::new(50);
            for nonce in &nonces {
                prop_assert_eq!(store.accept("k", nonce, created, created, WINDOW), Ok(()));
            }
            prop_assert_eq!(store.len(), nonces.len());
        }
    }
}
