//! Bounds the number of requests that are worked on at once, over all routes and connections; more are refused at once
//! rather than queued, so that those that are accepted stay fast.
//!
//! One layer sheds and bounds: the limit can change while the sidecar runs, which a fixed semaphore cannot follow.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use context_manager_protocol::problem::Code;

use super::Shared;
use crate::refusal::Refusal;

/// The state of the layer: what all requests share, and how many there are.
#[derive(Clone, Debug)]
pub struct Admission {
    shared: Shared,
    in_flight: Arc<AtomicUsize>,
}

impl Admission {
    /// Nobody admitted yet.
    #[must_use]
    pub fn new(shared: Shared) -> Self {
        Self { shared, in_flight: Arc::default() }
    }

    fn enter(&self) -> Result<Admitted, Refusal> {
        if self.shared.readiness.is_draining() {
            return Err(Refusal::new(Code::ShuttingDown, "the sidecar is shutting down; send the request again later"));
        }
        let limit = self.shared.limits().max_in_flight;
        let admitted = Admitted(Arc::clone(&self.in_flight));
        if self.in_flight.fetch_add(1, Ordering::AcqRel) >= limit {
            let detail = format!("{limit} requests at once is the limit (protocol.max_in_flight); send it again later");
            return Err(Refusal::new(Code::Overloaded, detail));
        }
        Ok(admitted)
    }
}

/// A place among the requests in flight; given back when the request ends, however it ends.
struct Admitted(Arc<AtomicUsize>);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The layer. It stands before the body is read and the signature checked, because those cost the most.
pub async fn admit(State(admission): State<Admission>, request: Request, next: Next) -> Response {
    match admission.enter() {
        Ok(_admitted) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}
