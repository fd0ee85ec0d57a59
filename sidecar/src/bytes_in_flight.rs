//! Bounds the bytes of request bodies and large answers that are in memory at once, over all routes, connections and streams.
//!
//! Nobody waits for room: bodies that wait for each other would keep the room that each has got. Who finds none is told to
//! come again, and what is there already is served. The limit can change while the sidecar runs.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use context_manager_protocol::{problem::Code, size::ByteSize};
use prometheus::IntGauge;

use crate::refusal::Refusal;

/// The bytes of all bodies; a cheap handle.
#[derive(Clone, Debug)]
pub struct BytesInFlight {
    held: Arc<AtomicU64>,
    gauge: IntGauge,
}

impl BytesInFlight {
    /// None yet; `gauge` shows them.
    #[must_use]
    pub fn new(gauge: IntGauge) -> Self {
        Self { held: Arc::default(), gauge }
    }

    /// Room for nothing yet, which can grow.
    #[must_use]
    pub fn nothing(&self) -> Reserved {
        Reserved { of: self.clone(), bytes: 0 }
    }

    /// Takes room for so many bytes, if all together are at most `limit` then.
    ///
    /// # Errors
    /// When there is no room; nothing is taken then.
    pub fn reserve(&self, bytes: u64, limit: ByteSize) -> Result<Reserved, Full> {
        let mut reserved = self.nothing();
        reserved.grow_to(bytes, limit)?;
        Ok(reserved)
    }
}

/// Room for the bytes of one body; given back when it is dropped.
#[derive(Debug)]
pub struct Reserved {
    of: BytesInFlight,
    bytes: u64,
}

impl Reserved {
    /// For how many bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes more room, so that it is enough for so many bytes.
    ///
    /// # Errors
    /// When there is no room; it stays as it is then.
    pub fn grow_to(&mut self, bytes: u64, limit: ByteSize) -> Result<(), Full> {
        let more = bytes.saturating_sub(self.bytes);
        let fits = |held: u64| held.checked_add(more).filter(|held| *held <= limit.bytes());
        if more > 0 {
            self.of.held.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).map_err(|_| Full(limit))?;
            self.of.gauge.add(signed(more));
            self.bytes += more;
        }
        Ok(())
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.of.held.fetch_sub(self.bytes, Ordering::AcqRel);
        self.of.gauge.sub(signed(self.bytes));
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// There is no room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full(pub ByteSize);

impl fmt::Display for Full {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "bodies of {} at once is the limit (protocol.max_bytes_in_flight); send it again later",
            self.0
        )
    }
}

impl std::error::Error for Full {}

impl From<Full> for Refusal {
    fn from(full: Full) -> Self {
        Self::new(Code::Overloaded, full.to_string())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::metrics::Metrics;

    fn bytes_in_flight() -> BytesInFlight {
        BytesInFlight::new(Metrics::new().requests.bytes_in_flight.clone())
    }

    proptest! {
        #[test]
        fn what_is_held_is_the_sum_of_what_was_reserved_and_never_more_than_the_limit(
            steps in proptest::collection::vec((0..8_usize, 0..120_u64, any::<bool>()), 1..64),
        ) {
            let (all, limit) = (bytes_in_flight(), ByteSize::new(200));
            let mut reserved: Vec<Reserved> = (0..8).map(|_| all.nothing()).collect();
            for (place, bytes, gives_back) in steps {
                let others: u64 = reserved.iter().map(Reserved::bytes).sum::<u64>() - reserved[place].bytes();
                if gives_back {
                    reserved[place] = all.nothing();
                } else {
                    let before = reserved[place].bytes();
                    let wanted = bytes.max(before);
                    let grown = reserved[place].grow_to(bytes, limit);
                    prop_assert_eq!(grown.is_ok(), others + wanted <= 200 || wanted == before);
                    prop_assert_eq!(reserved[place].bytes(), if grown.is_ok() { wanted } else { before });
                }
                let sum: u64 = reserved.iter().map(Reserved::bytes).sum();
                prop_assert_eq!(all.held.load(Ordering::Acquire), sum);
                prop_assert_eq!(all.gauge.get(), signed(sum));
            }
            drop(reserved);
            prop_assert_eq!((all.held.load(Ordering::Acquire), all.gauge.get()), (0, 0));
        }
    }

    #[test]
    fn a_smaller_limit_lets_nothing_more_in_until_there_is_room() {
        let all = bytes_in_flight();
        let first = all.reserve(100, ByteSize::new(100)).expect("room");
        let full = all.reserve(1, ByteSize::new(50)).expect_err("no room");
        assert!(
            full.to_string().contains("bodies of 50 at once is the limit (protocol.max_bytes_in_flight)"),
            "{full}"
        );
        drop(first);
        assert!(all.reserve(50, ByteSize::new(50)).is_ok());
        assert!(all.reserve(u64::MAX, ByteSize::new(u64::MAX)).is_ok());
    }
}
