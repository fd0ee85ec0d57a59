//! When a context expires.
//!
//! Owns one rule, exact to the millisecond: a context whose `expires_at` is now or earlier is expired and is never
//! returned, whether it has been collected or not.

use crate::{Level, PerLevel, Timestamp, Ttl};

/// The time to live of each level; `None` keeps its contexts.
pub type LevelTtls = PerLevel<Option<Ttl>>;

/// Whether a context with this expiry may no longer be returned.
///
/// ```
/// use context_manager_memory::{Timestamp, expiry::is_expired};
///
/// let now = Timestamp::from_millis(1_000);
/// assert!(is_expired(Some(Timestamp::from_millis(1_000)), now));
/// assert!(!is_expired(Some(Timestamp::from_millis(1_001)), now));
/// assert!(!is_expired(None, now));
/// ```
#[must_use]
pub fn is_expired(expires_at: Option<Timestamp>, now: Timestamp) -> bool {
    expires_at.is_some_and(|at| at <= now)
}

/// When a context that starts to live at `from` expires. The caller's own time to live outranks the level's.
///
/// ```
/// use context_manager_memory::{Level, PerLevel, Timestamp, Ttl, expiry::expires_at};
///
/// let ttls = PerLevel { immediate: None, short_term: Ttl::try_from(3_600_000).ok(), long_term: None };
/// let from = Timestamp::from_millis(0);
/// assert_eq!(expires_at(from, Level::ShortTerm, None, &ttls), Some(Timestamp::from_millis(3_600_000)));
/// assert_eq!(expires_at(from, Level::ShortTerm, Ttl::try_from(5).ok(), &ttls), Some(Timestamp::from_millis(5)));
/// assert_eq!(expires_at(from, Level::LongTerm, None, &ttls), None);
/// ```
#[must_use]
pub fn expires_at(from: Timestamp, level: Level, own: Option<Ttl>, levels: &LevelTtls) -> Option<Timestamp> {
    own.or(levels[level]).map(|ttl| from + ttl.as_duration())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn context_lives_exactly_as_long_as_its_ttl(from in -1_000_000_i64..1_000_000, ttl in 1_i64..1_000_000) {
            let levels = PerLevel { short_term: Ttl::try_from(ttl).ok(), ..LevelTtls::default() };
            let expiry = expires_at(Timestamp::from_millis(from), Level::ShortTerm, None, &levels);
            prop_assert!(!is_expired(expiry, Timestamp::from_millis(from + ttl - 1)));
            prop_assert!(is_expired(expiry, Timestamp::from_millis(from + ttl)));
        }
    }

    #[test]
    fn own_ttl_outranks_the_level_even_when_it_is_longer() {
        let levels = PerLevel { short_term: Ttl::try_from(10).ok(), ..LevelTtls::default() };
        let expiry = expires_at(Timestamp::from_millis(0), Level::ShortTerm, Ttl::try_from(99).ok(), &levels);
        assert_eq!(expiry, Some(Timestamp::from_millis(99)));
    }
}
