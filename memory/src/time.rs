//! Points in time and times to live.
//!
//! Owns the unit (Unix milliseconds, UTC). Never reads a clock: whoever calls passes the time in.

use std::{fmt, num::NonZeroI64, time::Duration};

use serde::{Deserialize, Serialize};

/// A point in time as milliseconds since the Unix epoch, in UTC.
///
/// ```
/// use std::time::Duration;
/// use context_manager_memory::Timestamp;
///
/// let now = Timestamp::from_millis(1_700_000_000_000);
/// assert_eq!((now + Duration::from_secs(2)).as_millis(), 1_700_000_002_000);
/// assert_eq!(now.since(now + Duration::from_secs(1)), Duration::ZERO);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The point `millis` milliseconds after the Unix epoch, or before it if negative.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// The time from `earlier` until `self`; zero if `earlier` is in truth the later one.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        let millis = self.0.saturating_sub(earlier.0);
        Duration::from_millis(u64::try_from(millis).unwrap_or(0))
    }
}

/// Moves a point in time forward; the far future saturates instead of wrapping into the past.
impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(millis))
    }
}

/// A time to live: at least one millisecond, so a context cannot be born expired.
///
/// ```
/// use std::time::Duration;
/// use context_manager_memory::Ttl;
///
/// assert_eq!(Ttl::new(Duration::from_secs(60)).unwrap().as_duration(), Duration::from_secs(60));
/// assert!(Ttl::new(Duration::ZERO).is_none());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Ttl(NonZeroI64);

impl Ttl {
    /// A time to live of `duration` in whole milliseconds; `None` if that is none at all.
    /// Durations beyond the range of milliseconds become the longest one there is.
    #[must_use]
    pub fn new(duration: Duration) -> Option<Self> {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        NonZeroI64::new(millis).map(Self)
    }

    /// The time to live as a duration.
    #[must_use]
    pub fn as_duration(self) -> Duration {
        Duration::from_millis(self.0.get().unsigned_abs())
    }
}

/// A number of milliseconds that is no time to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a time to live of {millis} ms is not positive; use at least 1 ms, or leave it out to keep the context")]
pub struct InvalidTtl {
    /// What was given.
    pub millis: i64,
}

impl TryFrom<i64> for Ttl {
    type Error = InvalidTtl;

    fn try_from(millis: i64) -> Result<Self, Self::Error> {
        NonZeroI64::new(millis).filter(|millis| millis.get() > 0).map(Self).ok_or(InvalidTtl { millis })
    }
}

impl From<Ttl> for i64 {
    fn from(ttl: Ttl) -> Self {
        ttl.0.get()
    }
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_future_saturates_instead_of_wrapping() {
        let late = Timestamp::from_millis(i64::MAX - 1);
        assert_eq!(late + Duration::MAX, Timestamp::from_millis(i64::MAX));
    }

    #[test]
    fn time_since_a_later_point_is_zero() {
        let early = Timestamp::from_millis(i64::MIN);
        let late = Timestamp::from_millis(i64::MAX);
        assert_eq!(early.since(late), Duration::ZERO);
        assert!(late.since(early) > Duration::ZERO);
    }

    #[test]
    fn ttl_of_zero_or_less_is_refused_with_the_remedy() {
        for json in ["0", "-5"] {
            let message = serde_json::from_str::<Ttl>(json).err().map(|error| error.to_string());
            assert!(message.is_some_and(|text| text.contains("at least 1 ms")), "{json}");
        }
        assert_eq!(Ttl::new(Duration::from_micros(10)), None);
    }
}
