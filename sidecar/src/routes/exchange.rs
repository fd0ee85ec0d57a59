//! Messages in and out: JSON or `MessagePack` by `Content-Type` and `Accept`, parameters from path and query.

use std::marker::PhantomData;

use axum::{
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use context_manager_protocol::{
    codec::{DecodeError, Format},
    message::Scope,
    problem::Code,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::{
    engine::IdempotencyKey,
    layers::{
        authenticate::{AuthenticBody, Verified},
        deadline::Deadline,
    },
    metrics::Route,
    refusal::Refusal,
};

/// Who calls, and in which format the answer is wanted.
pub struct Caller {
    /// Proof of authentication.
    pub verified: Verified,
    format: Format,
}

impl Caller {
    /// An answer in the caller's format.
    pub fn answer<T: Serialize>(&self, status: StatusCode, message: &T) -> Answered<T> {
        let content_type = HeaderValue::from_static(self.format.media_type());
        let response = (status, [(header::CONTENT_TYPE, content_type)], self.format.encode(message)).into_response();
        Answered { response, message: PhantomData }
    }
}

/// What a handler returns: an answer that has a `T`, which the OpenAPI document says too, or a refusal.
pub type Answer<T> = Result<Answered<T>, Refusal>;

/// An answer that has a `T`.
pub struct Answered<T> {
    response: Response,
    message: PhantomData<T>,
}

impl<T> Answered<T> {
    /// The same answer, changed beside its message.
    #[must_use]
    pub fn map(self, change: impl FnOnce(&mut Response)) -> Self {
        let mut answered = self;
        change(&mut answered.response);
        answered
    }
}

impl<T> IntoResponse for Answered<T> {
    fn into_response(self) -> Response {
        self.response
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let verified = parts.extensions.get::<Verified>().cloned().ok_or_else(unauthenticated)?;
        Idempotency::refuse_unused(parts)?;
        Ok(Self { verified, format: accepted_format(&parts.headers) })
    }
}

/// A message decoded from the body.
pub struct Message<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Message<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let AuthenticBody(body) = request.extensions().get().ok_or_else(unauthenticated)?;
        content_format(request.headers())?.decode(body).map(Self).map_err(undecodable)
    }
}

/// The body of a request as lines of JSON, and how much time there is for them.
pub struct Lines {
    pub(super) body: Bytes,
    pub(super) deadline: Deadline,
}

impl Lines {
    /// How an answer in lines is called (jsonlines.org).
    pub const MEDIA_TYPE: &str = "application/jsonl";
    /// Another name that a request may use for it.
    pub const OTHER_MEDIA_TYPE: &str = "application/x-ndjson";
}

impl<S: Sync> FromRequest<S> for Lines {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let AuthenticBody(body) = request.extensions().get().ok_or_else(unauthenticated)?;
        let given =
            request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = given.split(';').next().unwrap_or_default().trim();
        if [Self::MEDIA_TYPE, Self::OTHER_MEDIA_TYPE].contains(&media_type) {
            let deadline = request.extensions().get::<Deadline>().copied();
            let unlimited = || Refusal::new(Code::Internal, "the request reached its handler without a deadline");
            return Ok(Self { body: body.clone(), deadline: deadline.ok_or_else(unlimited)? });
        }
        let detail = "the header Content-Type must be application/jsonl or application/x-ndjson";
        Err(Refusal::new(Code::MediaTypeUnsupported, detail))
    }
}

/// The `{id}` of the path.
pub struct ContextId(pub Uuid);

impl<S: Send + Sync> FromRequestParts<S> for ContextId {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let Path(text) = path.map_err(|_| invalid("id", "the id in the path is not UTF-8"))?;
        let id = Uuid::try_parse(&text)
            .map_err(|error| invalid("id", format!("the id in the path is not a UUID: {error}")))?;
        Ok(Self(id))
    }
}

/// The header `Idempotency-Key`, if there is one.
pub struct Idempotency(pub Option<IdempotencyKey>);

impl Idempotency {
    const NAME: &str = "Idempotency-Key";

    /// Refuses a key where it would be ignored although it matters: a change that is sent again is made again. What else takes no key
    /// comes to the same when it is sent again.
    fn refuse_unused(parts: &Parts) -> Result<(), Refusal> {
        let is_change = matches!(parts.extensions.get::<Route>(), Some(Route::Update));
        if !is_change || !parts.headers.contains_key(Self::NAME) {
            return Ok(());
        }
        let detail =
            "a change takes no Idempotency-Key; leave it out and send if_version, with which the change is made once";
        Err(invalid(Self::NAME, detail))
    }
}

impl<S: Sync> FromRequestParts<S> for Idempotency {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let mut lines = parts.headers.get_all(Self::NAME).iter();
        let Some(line) = lines.next() else { return Ok(Self(None)) };
        if lines.next().is_some() {
            return Err(invalid(Self::NAME, "the header Idempotency-Key occurs twice; send one key for each write"));
        }
        let key = IdempotencyKey::new(line.to_str().unwrap_or_default());
        key.map(|key| Self(Some(key))).map_err(|error| invalid(Self::NAME, error.to_string()))
    }
}

/// The parameters of the query; unknown ones are refused.
pub struct Parameters<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        // The rejection's source says what is wrong with which parameter; its own text only that something is.
        Query::try_from_uri(&parts.uri).map(|Query(parameters)| Self(parameters)).map_err(|rejection| {
            let reason =
                std::error::Error::source(&rejection).map_or_else(|| rejection.to_string(), ToString::to_string);
            Refusal::new(Code::ParameterInvalid, format!("the query is not valid: {reason}"))
        })
    }
}

/// The parameters that name a memory and a session of it, where there are no others.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScopeParameters {
    /// The memory of this agent.
    pub agent: Option<String>,
    /// This shared space.
    pub space: Option<String>,
    /// Only this session of it.
    pub session: Option<String>,
}

/// The memory that the parameters `agent` and `space` name.
#[must_use]
pub const fn scope(agent: Option<String>, space: Option<String>) -> Scope {
    Scope { agent, space, session: None }
}

/// A refusal of the parameter `name`.
pub fn invalid(name: &str, detail: impl Into<String>) -> Refusal {
    Refusal::new(Code::ParameterInvalid, detail).field(name)
}

/// The format that the answer shall have: the best one of `Accept`, else the one of the request, else JSON.
pub fn accepted_format(headers: &HeaderMap) -> Format {
    let accepted =
        headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(','));
    let mut best: Option<(f32, Format)> = None;
    for (format, weight) in accepted.filter_map(acceptable) {
        if weight > best.map_or(0.0, |(weight, _)| weight) {
            best = Some((weight, format));
        }
    }
    best.map(|(_, format)| format).or_else(|| format_of(headers, header::CONTENT_TYPE)).unwrap_or_default()
}

/// One entry of `Accept` with its weight, if it names a format of ours.
fn acceptable(entry: &str) -> Option<(Format, f32)> {
    let (media_type, parameters) = entry.split_once(';').unwrap_or((entry, ""));
    let weight = parameters.split(';').find_map(|parameter| parameter.trim().strip_prefix("q="));
    let format = match media_type.trim() {
        "application/problem+json" => Format::Json,
        media_type => Format::from_media_type(media_type)?,
    };
    Some((format, weight.map_or(Some(1.0), |weight| weight.parse().ok())?))
}

fn content_format(headers: &HeaderMap) -> Result<Format, Refusal> {
    format_of(headers, header::CONTENT_TYPE).ok_or_else(|| {
        let detail = "the header Content-Type must be application/json or application/msgpack";
        Refusal::new(Code::MediaTypeUnsupported, detail)
    })
}

fn format_of(headers: &HeaderMap, name: HeaderName) -> Option<Format> {
    Format::from_media_type(headers.get(name)?.to_str().ok()?)
}

/// A refusal of what is not the message that was expected.
#[must_use]
pub fn undecodable(error: DecodeError) -> Refusal {
    let code = if error.well_formed { Code::FieldInvalid } else { Code::BodyMalformed };
    let refusal = Refusal::new(code, error.to_string());
    if error.well_formed && error.path != "." { refusal.field(error.path) } else { refusal }
}

/// Only reachable when the pipeline is put together wrongly; refused rather than served.
fn unauthenticated() -> Refusal {
    Refusal::new(Code::Internal, "the request reached its handler without authentication")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(accept: &str, content_type: Option<&'static str>) -> Format {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().expect("a header value"));
        if let Some(content_type) = content_type {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        accepted_format(&headers)
    }

    #[test]
    fn the_answer_has_the_format_that_the_caller_weighs_most() {
        assert_eq!(format("application/msgpack", None), Format::MessagePack);
        assert_eq!(format("application/json;q=0.5, application/msgpack", None), Format::MessagePack);
        assert_eq!(format("application/msgpack;q=0.1, application/problem+json", None), Format::Json);
        assert_eq!(format("application/msgpack;q=0", Some("application/json")), Format::Json);
        assert_eq!(format("*/*", Some("application/msgpack")), Format::MessagePack);
        assert_eq!(format("*/*", None), Format::Json);
    }
}
