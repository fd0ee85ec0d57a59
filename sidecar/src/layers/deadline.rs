//! Ends a request that takes too long, the reading of its body included.

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use context_manager_protocol::problem::Code;
use tokio::time::timeout;

use super::Shared;
use crate::refusal::Refusal;

/// The layer. It stands inside admission, so that a place is given back when the time is up.
pub async fn limit(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let limit = shared.limits().request_timeout;
    timeout(limit.get(), next.run(request)).await.unwrap_or_else(|_| {
        let detail = format!("no answer within {limit} (protocol.request_timeout); a write may have happened or not");
        Refusal::new(Code::DeadlineExceeded, detail).into_response()
    })
}
