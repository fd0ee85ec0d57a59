//! Ends a request that takes too long, the reading of its body included.

use std::time::{Duration, Instant};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use context_manager_protocol::problem::Code;
use tokio::time::timeout;

use super::Shared;
use crate::refusal::Refusal;

/// When a request began and how long it may take; an extension of it, for who can do a part of the work and say so.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    begun: Instant,
    limit: Duration,
}

impl Deadline {
    /// The deadline of a request.
    #[must_use]
    pub const fn new(begun: Instant, limit: Duration) -> Self {
        Self { begun, limit }
    }

    /// Whether half of the time is over: no more work is begun then that may take long.
    #[must_use]
    pub fn is_half_over(&self) -> bool {
        self.begun.elapsed() >= self.limit / 2
    }
}

/// The layer. It stands inside admission, so that a place is given back when the time is up.
pub async fn limit(State(shared): State<Shared>, mut request: Request, next: Next) -> Response {
    let limit = shared.limits().request_timeout;
    request.extensions_mut().insert(Deadline::new(Instant::now(), limit.get()));
    timeout(limit.get(), next.run(request)).await.unwrap_or_else(|_| {
        let detail = format!("no answer within {limit} (protocol.request_timeout); a write may have happened or not");
        Refusal::new(Code::DeadlineExceeded, detail).into_response()
    })
}
