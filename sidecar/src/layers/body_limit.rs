//! Bounds the size of a body: by its `Content-Length` before a byte is read, and while reading when there is none.
//!
//! All bodies together are bounded by [`crate::bytes_in_flight`], in the same two ways.

use std::{error::Error as StdError, sync::Arc};

use axum::{
    body::{Body, HttpBody as _},
    extract::{Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use bytes::{Bytes, BytesMut};
use context_manager_protocol::{problem::Code, size::ByteSize};
use http_body_util::{BodyExt as _, Collected, LengthLimitError, Limited};

use super::Shared;
use crate::{bytes_in_flight::Reserved, refusal::Refusal};

/// The room that a body has among the bodies in flight, an extension of its request; given back when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Room {
    _reserved: Arc<Reserved>,
}

impl From<Reserved> for Room {
    fn from(reserved: Reserved) -> Self {
        Self { _reserved: Arc::new(reserved) }
    }
}

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

/// Reads a body whole, once. It has room among the bodies in flight for as long as the caller keeps it.
///
/// # Errors
/// When it is larger than the limit, finds no room, or does not arrive.
pub async fn read(shared: &Shared, headers: &HeaderMap, mut body: Body) -> Result<(Bytes, Reserved), Refusal> {
    let limits = shared.limits();
    let most = limits.most_bytes_in_flight();
    let told = content_length(headers).unwrap_or(0);
    let mut room = shared.bytes_in_flight.reserve(told, most)?;
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| unread(&error, limits.max_message_size))?.into_data() else { continue };
        let arrived = whole.len() + data.len();
        room.grow_to(arrived as u64, most)?;
        if whole.is_empty() && body.is_end_stream() {
            // It came in one piece, as most do.
            return Ok((data, room));
        }
        if whole.is_empty() {
            whole.reserve(usize::try_from(told).unwrap_or(0).max(data.len()));
        }
        whole.extend_from_slice(&data);
    }
    Ok((whole.freeze(), room))
}

/// A body that is in memory already.
///
/// # Errors
/// When it is larger than the limit.
pub async fn take(body: Body, limit: ByteSize) -> Result<Bytes, Refusal> {
    body.collect().await.map(Collected::to_bytes).map_err(|error| unread(&error, limit))
}

/// Why a body could not be read.
fn unread(error: &axum::Error, limit: ByteSize) -> Refusal {
    if error.source().is_some_and(<dyn StdError>::is::<LengthLimitError>) {
        return too_large(limit);
    }
    Refusal::new(Code::BodyMalformed, "the body broke off; send the request again")
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(limit: ByteSize) -> Refusal {
    let detail = format!("a body may have {} bytes (protocol.max_message_size); send less at once", limit.bytes());
    Refusal::new(Code::BodyTooLarge, detail)
}
