//! The layers of the request pipeline, one concern each. [`crate::pipeline`] is the only place that orders them.

use std::{fmt, sync::Arc};

use context_manager_protocol::config::Protocol;

use crate::{
    accepted::LastAccepted, bytes_in_flight::BytesInFlight, live::Live, metrics::Metrics, nonces::NonceStore,
    readiness::Readiness,
};

pub mod admission;
pub mod audit;
pub mod authenticate;
pub mod body_limit;
pub mod catch_panic;
pub mod deadline;
pub mod measure;
pub mod problem;
pub mod request_id;
pub mod trace;

/// Tells the Unix time in seconds. An argument, so that the layers can be tested at any time.
pub type Clock = fn() -> i64;

/// What the layers share.
#[derive(Clone)]
pub struct Shared {
    /// Configuration and key ring.
    pub live: Arc<Live>,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// The bodies in memory.
    pub bytes_in_flight: BytesInFlight,
    /// Which nonces were accepted.
    pub nonces: Arc<NonceStore>,
    /// When the last of them was.
    pub accepted: Arc<LastAccepted>,
    /// Whether the sidecar is on its way out.
    pub readiness: Readiness,
    /// The time.
    pub clock: Clock,
    /// Signatures made before this Unix time in seconds are refused: whether their nonces were used is not known.
    pub started: i64,
}

impl Shared {
    fn limits(&self) -> Protocol {
        self.live.config().protocol.clone()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Shared").field("started", &self.started).finish_non_exhaustive()
    }
}
