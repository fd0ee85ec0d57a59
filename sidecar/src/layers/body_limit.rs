//! Bounds the size of a body: by its `Content-Length` before a byte is read, and while reading when there is none.

use std::error::Error as StdError;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use context_manager_protocol::{problem::Code, size::ByteSize};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use super::Shared;
use crate::refusal::Refusal;

/// The layer. It reads nothing: [`read`] does, when the head of the request was found worth it.
pub async fn limit(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let limit = shared.limits().max_message_size;
    if content_length(request.headers()).is_some_and(|length| length > limit.bytes()) {
        return too_large(limit).into_response();
    }
    let most = usize::try_from(limit.bytes()).unwrap_or(usize::MAX);
    let mut request = request.map(|body| Body::new(Limited::new(body, most)));
    request.extensions_mut().insert(limit);
    next.run(request).await
}

/// Reads a body whole, once.
///
/// # Errors
/// When it is larger than the limit, or does not arrive.
pub async fn read(body: Body, limit: ByteSize) -> Result<Bytes, Refusal> {
    match body.collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.source().is_some_and(<dyn StdError>::is::<LengthLimitError>) => Err(too_large(limit)),
        Err(_) => Err(Refusal::new(Code::BodyMalformed, "the body broke off; send the request again")),
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(limit: ByteSize) -> Refusal {
    let detail = format!("a body may have {} bytes (protocol.max_message_size); send less at once", limit.bytes());
    Refusal::new(Code::BodyTooLarge, detail)
}
