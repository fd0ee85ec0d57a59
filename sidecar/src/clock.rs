//! The wall clock, which signatures and expiry go by. It may jump; what must not notice uses the monotonic one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use context_manager_memory::Timestamp;

/// The time; 1970 when the clock stands before it.
#[must_use]
pub fn now() -> Timestamp {
    Timestamp::from_millis(i64::try_from(since_epoch().as_millis()).unwrap_or(i64::MAX))
}

/// The Unix time in seconds; 0 when the clock stands before 1970, at which no signature is accepted.
#[must_use]
pub fn unix_time() -> i64 {
    i64::try_from(since_epoch().as_secs()).unwrap_or(i64::MAX)
}

#[cfg(not(test))]
fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
pub use jumps::jump_to;
#[cfg(test)]
use jumps::since_epoch;

/// A clock that a test lets jump. Each thread has its own, so a test that uses it runs on one thread.
#[cfg(test)]
mod jumps {
    use std::cell::Cell;

    use super::{Duration, SystemTime, UNIX_EPOCH};

    thread_local! {
        static AHEAD_BY_SECONDS: Cell<i64> = const { Cell::new(0) };
    }

    /// Sets this thread's clock to so many seconds ahead of the system's.
    pub fn jump_to(seconds_ahead: i64) {
        AHEAD_BY_SECONDS.set(seconds_ahead);
    }

    pub(super) fn since_epoch() -> Duration {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ahead = AHEAD_BY_SECONDS.get();
        let by = Duration::from_secs(ahead.unsigned_abs());
        if ahead < 0 { since.saturating_sub(by) } else { since.saturating_add(by) }
    }
}
