//! How a request is refused: a problem document on its way to the caller.
//!
//! Layers and handlers return a [`Refusal`]; it travels as an extension of an empty response until
//! [`crate::layers::problem`] writes it in the caller's format. Nothing else writes a problem document.

use std::error::Error as StdError;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use context_manager_protocol::problem::{Code, Problem};

use crate::engine;

/// Seconds after which a caller may try again when nothing better is known.
const DEFAULT_RETRY_AFTER: u64 = 1;

/// What RFC 9110 section 11.6.1 wants beside a 401: the scheme by which the caller can authenticate.
pub const CHALLENGE: &str = "Signature realm=\"context-manager\", headers=\"@method @path @query content-digest\"";

/// A request that is not served, and why.
#[derive(Clone, Debug)]
pub struct Refusal {
    problem: Box<Problem>,
    retry_after: Option<u64>,
}

impl Refusal {
    /// A refusal of the kind `code`; `detail` says what is wrong and what to do.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Problem::new(code, detail).into()
    }

    /// The same refusal, naming the field or parameter that is wrong.
    #[must_use]
    pub fn field(self, field: impl Into<String>) -> Self {
        Self { problem: Box::new(self.problem.field(field)), ..self }
    }

    /// The same refusal, saying when to try again.
    #[must_use]
    pub fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after: Some(seconds.max(1)), ..self }
    }

    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> Code {
        self.problem.code
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        let retry_after = (problem.status == 503).then_some(DEFAULT_RETRY_AFTER);
        Self { problem: Box::new(problem), retry_after }
    }
}

impl From<engine::Error> for Refusal {
    /// The caller gets the public side of the error; the internal one is logged here, once, with the request's span.
    fn from(error: engine::Error) -> Self {
        let cause = chain(&error);
        let refusal = Self::from(Problem::from(error));
        if refusal.problem.status >= 500 || refusal.code() == Code::StoreRefused {
            tracing::error!(problem.code = refusal.code().as_str(), error = cause, "The engine failed");
        }
        refusal
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self { problem, retry_after } = self;
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
        }
        if status == StatusCode::UPGRADE_REQUIRED {
            let headers = response.headers_mut();
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        response.extensions_mut().insert(*problem);
        response
    }
}

/// An error with all it was caused by, on one line.
#[must_use]
pub fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
