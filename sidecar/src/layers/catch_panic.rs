//! Turns a panic into a problem document, so that one defective request neither closes the connection without an answer nor
//! stops the sidecar. The panic hook ([`crate::logging`]) has logged where it happened.

use std::panic::AssertUnwindSafe;

use axum::{
    extract::Request,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use context_manager_protocol::problem::Code;
use futures::FutureExt as _;

use crate::refusal::Refusal;

/// The layer. What a request shares with others is behind locks that survive a panic, so unwinding is safe.
pub async fn catch(request: Request, next: Next) -> Response {
    AssertUnwindSafe(next.run(request)).catch_unwind().await.unwrap_or_else(|_| {
        Refusal::new(Code::Internal, "the sidecar has a defect; its log says where, beside this request's id")
            .into_response()
    })
}
