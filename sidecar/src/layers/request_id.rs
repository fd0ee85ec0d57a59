//! Gives every request an id, which its log lines, its problem document and the header `x-request-id` of its answer carry.
//!
//! A caller may bring its own, if it is short and plain; anything else is replaced, because it ends up in the log.

use std::sync::Arc;

use axum::{
    extract::Request,
    http::{HeaderName, HeaderValue},
    middleware::Next,
    response::Response,
};
use uuid::Uuid;

/// The header, both ways.
pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id that is taken over from a caller.
pub const MAX_BYTES: usize = 64;
/// What an id looks like, as a regular expression.
pub const PATTERN: &str = "^[A-Za-z0-9._-]+$";

/// The id of a request; an extension of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn from_caller(value: &HeaderValue) -> Option<Self> {
        let text = value.to_str().ok()?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        (!text.is_empty() && text.len() <= MAX_BYTES && text.bytes().all(plain)).then(|| Self(text.into()))
    }

    #[cfg(test)]
    pub(super) fn for_test() -> Self {
        Self("test".into())
    }

    /// A random id.
    pub(super) fn generate() -> Self {
        Self(Uuid::new_v4().to_string().into())
    }
}

/// The layer; it stands outermost, because all others name the request by its id.
pub async fn assign(mut request: Request, next: Next) -> Response {
    let id = request.headers().get(HEADER).and_then(RequestId::from_caller).unwrap_or_else(RequestId::generate);
    let value = HeaderValue::from_str(id.as_str());
    request.extensions_mut().insert(id);
    let mut response = next.run(request).await;
    if let Ok(value) = value {
        response.headers_mut().insert(HEADER, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_could_forge_a_log_line_is_not_taken_over() {
        let taken = |text: &str| RequestId::from_caller(&HeaderValue::from_str(text).expect("a header value"));
        assert_eq!(taken("agent-7.42").expect("a plain id").as_str(), "agent-7.42");
        for bad in ["", "a b", "a\"b", "{}", &"x".repeat(65)] {
            assert_eq!(taken(bad), None, "{bad}");
        }
        assert_ne!(RequestId::generate(), RequestId::generate());
    }
}
