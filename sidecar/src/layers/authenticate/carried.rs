//! Lets a request through that an authenticated connection carries: a frame of a stream.
//!
//! The request that opened the connection was signed; its [`Verified`] comes with each frame. A frame has no signature of its
//! own, because nobody but the agent can write on its connection; but a key that was retired meanwhile opens nothing any more.

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use context_manager_protocol::signature;

use super::{Audit, AuthenticBody, RequestId, Shared, Verified, body_limit};
use crate::{access::Decisions, refusal::Refusal, telemetry};

/// The layer, in the place of [`super::authenticate`]. Extensions are set in this process only, so a caller cannot bring a
/// [`Verified`]; a request without one is refused.
pub async fn authenticate_carried(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    match telemetry::watched(&telemetry::authentication(), verify(&shared, request), super::code).await {
        Ok(request) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

async fn verify(shared: &Shared, request: Request) -> Result<Request, Refusal> {
    let (mut parts, body) = request.into_parts();
    let opened = parts.extensions.remove::<Verified>();
    let mut audit = Audit { shared, key_id: None };
    let Some(Verified { key_id, .. }) = &opened else {
        return Err(audit.signature(&signature::Error::Missing(signature::HEADER)));
    };
    audit.key_id = Some(key_id);
    if shared.live.keys().find(key_id).is_none() {
        return Err(audit.signature(&signature::Error::UnknownKey(key_id.to_string())));
    }
    // The frame has its room already.
    let body = body_limit::take(body, shared.limits().max_message_size).await?;
    let request_id = parts.extensions.get::<RequestId>().cloned().unwrap_or_else(RequestId::generate);
    let decisions = Decisions::default();
    parts.extensions.insert(Verified { key_id: key_id.clone(), request_id, decisions });
    parts.extensions.insert(AuthenticBody(body));
    Ok(Request::from_parts(parts, Body::empty()))
}
