//! Lets only signed requests through: RFC 9421 with `hmac-sha256`, inside the time window, each nonce once.
//!
//! The signature covers the digest of the body, so it is verified before the body is read, and a stranger cannot make the sidecar
//! hold bodies. The nonce is taken last, so that a stranger cannot fill the store of nonces.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use context_manager_protocol::{
    keyring::MAX_KEY_ID_BYTES,
    problem::Code,
    signature::{self, Presented},
};
use tracing::{error, info};

use super::{
    Shared,
    body_limit::{self, Room},
    request_id::RequestId,
};
use crate::{
    access::Decisions,
    logging::AUDIT,
    nonces,
    refusal::{Refusal, chain},
    telemetry,
};

mod carried;

pub use carried::authenticate_carried;

/// Proof that a request's signature was checked. The fields are private and only this layer fills them, so whoever needs
/// a `&Verified` cannot be called without authentication.
#[derive(Clone, Debug)]
pub struct Verified {
    key_id: Arc<str>,
    request_id: RequestId,
    decisions: Decisions,
}

impl Verified {
    /// Id of the key that signed.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Id of the request.
    #[must_use]
    pub fn request_id(&self) -> &str {
        self.request_id.as_str()
    }

    /// What the access rules decided about the request so far.
    #[must_use]
    pub const fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    /// A caller for the tests of what stands behind authentication.
    #[cfg(test)]
    pub(crate) fn for_test() -> Self {
        Self { key_id: "test".into(), request_id: RequestId::for_test(), decisions: Decisions::default() }
    }
}

/// The body of an authenticated request, read once; an extension of it.
#[derive(Clone, Debug)]
pub struct AuthenticBody(pub(crate) Bytes);

/// The layer. It is the innermost one: behind it there are only handlers.
pub async fn authenticate(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    match telemetry::watched(&telemetry::authentication(), verify(&shared, request), code).await {
        Ok((request, _room)) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

fn code(refusal: &Refusal) -> &'static str {
    refusal.code().as_str()
}

/// The request with its body, and the room that the body has at least until the handler has answered.
async fn verify(shared: &Shared, request: Request) -> Result<(Request, Room), Refusal> {
    let window = shared.limits().timestamp_window.get().as_secs();
    let keys = shared.live.keys();
    let mut audit = Audit { shared, key_id: None };

    let presented = Presented::from_headers(request.headers()).map_err(|error| audit.signature(&error))?;
    audit.key_id = Some(presented.key_id());
    presented.check_time((shared.clock)(), window, shared.started).map_err(|error| audit.signature(&error))?;
    let (mut parts, body) = request.into_parts();
    let (method, uri) = (parts.method.as_str(), &parts.uri);
    let signed = signature::Request { method, path: uri.path(), query: uri.query(), body: &[] };
    presented.verify_head(&keys, &signed, &parts.headers).map_err(|error| audit.signature(&error))?;

    let (body, room) = body_limit::read(shared, &parts.headers, body).await?;
    signature::verify_body(&parts.headers, &body).map_err(|error| audit.signature(&error))?;

    // The body may have taken long to arrive: the time that counts is the one at which the nonce is taken.
    let now = (shared.clock)();
    presented.check_time(now, window, shared.started).map_err(|error| audit.signature(&error))?;
    let accepted = shared.nonces.accept(presented.key_id(), presented.nonce(), presented.created(), now, window);
    accepted.map_err(|error| audit.nonce(error))?;
    shared.accepted.note(now).map_err(|error| {
        error!(error = chain(&error), "Could not note that a request is accepted, so it is refused");
        Refusal::new(Code::Internal, "the sidecar cannot write to its disk; its log says why")
    })?;
    shared.metrics.auth.nonces.set(i64::try_from(shared.nonces.len()).unwrap_or(i64::MAX));

    let request_id = parts.extensions.get::<RequestId>().cloned().unwrap_or_else(RequestId::generate);
    let decisions = Decisions::default();
    parts.extensions.insert(Verified { key_id: presented.key_id().into(), request_id, decisions });
    parts.extensions.insert(AuthenticBody(body));
    let room = Room::from(room);
    parts.extensions.insert(room.clone());
    Ok((Request::from_parts(parts, Body::empty()), room))
}

/// Makes each refusal one line of the audit log and one count.
struct Audit<'a> {
    shared: &'a Shared,
    key_id: Option<&'a str>,
}

impl Audit<'_> {
    fn signature(&self, error: &signature::Error) -> Refusal {
        self.refuse(error.code());
        Refusal::new(error.code(), error.to_string())
    }

    fn nonce(&self, error: nonces::Error) -> Refusal {
        let (code, retry_after) = match error {
            nonces::Error::Replayed => (Code::NonceReplayed, None),
            nonces::Error::Forgotten => (Code::TimestampOutsideWindow, None),
            nonces::Error::Full { retry_after, .. } => (Code::NonceStoreFull, Some(retry_after)),
        };
        self.refuse(code);
        let refusal = Refusal::new(code, error.to_string());
        retry_after.into_iter().fold(refusal, Refusal::retry_after)
    }

    /// The request's id and operation are in the span. The key id is a stranger's text, so only a plausible one is shown.
    fn refuse(&self, code: Code) {
        let plausible = |id: &&str| id.len() <= MAX_KEY_ID_BYTES && id.bytes().all(|byte| byte.is_ascii_graphic());
        self.shared.metrics.auth.refusals.add(code, 1);
        info!(
            target: AUDIT,
            decision = "refused",
            reason = code.as_str(),
            key.id = self.key_id.filter(plausible).unwrap_or_default(),
            "Refused a request"
        );
    }
}
