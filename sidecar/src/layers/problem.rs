//! Writes problem documents (RFC 9457) in the format that the caller accepts, with the request's id.
//!
//! It stands outside every layer that refuses, so it is the only place that turns a refusal into bytes.

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, header},
    middleware::Next,
    response::Response,
};
use context_manager_protocol::{
    codec::Format,
    problem::{MEDIA_TYPE, Problem},
};

use super::{Shared, request_id::RequestId};
use crate::routes::exchange::accepted_format;

/// The layer.
pub async fn write(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let id = request.extensions().get::<RequestId>().cloned();
    let format = accepted_format(request.headers());
    let mut response = next.run(request).await;
    let Some(mut problem) = response.extensions_mut().remove::<Problem>() else { return response };
    shared.metrics.requests.problems.add(problem.code, 1);
    // For the layers outside of this one.
    response.extensions_mut().insert(problem.code);
    problem.request_id = id.map(|id| id.as_str().to_owned());
    let body = format.encode(&problem);
    let media_type = match format {
        Format::Json => MEDIA_TYPE,
        // No media type is registered for problem documents in MessagePack; the shape is the same.
        Format::MessagePack => format.media_type(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CONTENT_LENGTH, body.len().into());
    *response.body_mut() = Body::from(body);
    response
}
