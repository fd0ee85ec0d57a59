//! Problem documents (RFC 9457) with stable codes: what a caller is told when a request fails.
//!
//! A code is part of the interface: it never changes its meaning. `docs/errors.md` has an entry for each.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Media type of a problem document in JSON (RFC 9457 section 3).
pub const MEDIA_TYPE: &str = "application/problem+json";

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $slug:literal, $status:literal, $title:literal;)+) => {
        /// A stable error code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum Code {
            $($(#[doc = $doc])+ #[serde(rename = $slug)] $variant,)+
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The code as it is written in a problem document, in metrics and in logs.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $slug,)+ }
            }

            /// The HTTP status code that goes with it.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)+ }
            }

            /// The same short sentence for every occurrence.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)+ }
            }
        }
    };
}

codes! {
    /// No `Signature`, `Signature-Input` or `Content-Digest` header.
    SignatureMissing = "signature-missing", 401, "The request is not signed";
    /// The signature headers cannot be parsed, or do not cover what they must.
    SignatureMalformed = "signature-malformed", 401, "The signature headers are not valid";
    /// The key id is not in the key ring.
    KeyUnknown = "key-unknown", 401, "The signing key is not known";
    /// The signature does not verify.
    SignatureInvalid = "signature-invalid", 401, "The signature does not match the request";
    /// The digest does not match the body.
    DigestMismatch = "digest-mismatch", 401, "The content digest does not match the body";
    /// `created` is outside the window.
    TimestampOutsideWindow = "timestamp-outside-window", 401, "The signature is too old or from the future";
    /// `created` is before the sidecar started.
    TimestampBeforeStart = "timestamp-before-start", 401, "The signature is older than this sidecar's start";
    /// The nonce was accepted before.
    NonceReplayed = "nonce-replayed", 401, "The nonce was used before";
    /// The store of nonces is full.
    NonceStoreFull = "nonce-store-full", 503, "Too many requests within the signature window";
    /// No access rule permits the operation.
    AccessDenied = "access-denied", 403, "The operation is not permitted";
    /// No such route.
    RouteUnknown = "route-unknown", 404, "There is no such route";
    /// No such context.
    ContextNotFound = "context-not-found", 404, "There is no such context";
    /// The route does not have this method.
    MethodNotAllowed = "method-not-allowed", 405, "The route does not support this method";
    /// The route is only spoken to as a WebSocket.
    UpgradeRequired = "upgrade-required", 426, "The route is a WebSocket";
    /// `if_version` does not match.
    VersionConflict = "version-conflict", 409, "The context was changed by somebody else";
    /// The context is past.
    ContextSuperseded = "context-superseded", 409, "The context is past and cannot be changed";
    /// The id is taken by a context with other content.
    IdConflict = "id-conflict", 409, "The id belongs to another context";
    /// The idempotency key was used for another write.
    IdempotencyKeyReused = "idempotency-key-reused", 422, "The idempotency key was used for another write";
    /// The body is larger than the limit.
    BodyTooLarge = "body-too-large", 413, "The request body is too large";
    /// The content type is neither JSON nor `MessagePack`.
    MediaTypeUnsupported = "media-type-unsupported", 415, "The content type is not supported";
    /// The body does not decode.
    BodyMalformed = "body-malformed", 400, "The request body cannot be decoded";
    /// A query parameter or path segment is wrong.
    ParameterInvalid = "parameter-invalid", 400, "A parameter is not valid";
    /// A field has a value it must not have.
    FieldInvalid = "field-invalid", 422, "A field is not valid";
    /// Too many requests at once.
    Overloaded = "overloaded", 503, "The sidecar is overloaded";
    /// The request took too long.
    DeadlineExceeded = "deadline-exceeded", 504, "The request took too long";
    /// The embedding API did not answer, or not in time.
    EmbeddingUnavailable = "embedding-unavailable", 503, "The embedding API is not available";
    /// The vector store did not answer.
    StoreUnavailable = "store-unavailable", 503, "The vector store is not available";
    /// The vector store works, and does not take the request.
    StoreRefused = "store-refused", 422, "The vector store refuses the request";
    /// The disk has no room for the write.
    DiskFull = "disk-full", 507, "The disk has no room for the write";
    /// The sidecar is shutting down.
    ShuttingDown = "shutting-down", 503, "The sidecar is shutting down";
    /// A defect of the sidecar.
    Internal = "internal", 500, "The sidecar failed";
}

/// A problem document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// A URI that names the kind of problem.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same short sentence for every occurrence of the code.
    pub title: String,
    /// The HTTP status code.
    pub status: u16,
    /// The stable code.
    pub code: Code,
    /// What is wrong with this request, and what to do.
    pub detail: String,
    /// The field or parameter that is wrong, as a path such as `contexts[2].level`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The id of the request, as in the log and in the `x-request-id` header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

impl Problem {
    /// A problem of the kind `code`; `detail` says what is wrong and what to do.
    ///
    /// ```
    /// use context_manager_protocol::problem::{Code, Problem};
    ///
    /// let problem = Problem::new(Code::FieldInvalid, "token_budget is -1; it must be at least 1").field("token_budget");
    /// assert_eq!(problem.status, 422);
    /// ```
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("https://contextmanager.dev/errors/{}", code.as_str()),
            title: code.title().to_owned(),
            status: code.status(),
            code,
            detail: detail.into(),
            field: None,
            request_id: None,
        }
    }

    /// The same problem, naming the field that is wrong.
    #[must_use]
    pub fn field(self, field: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..self }
    }

    /// The same problem, naming the request.
    #[must_use]
    pub fn request_id(self, id: impl Into<String>) -> Self {
        Self { request_id: Some(id.into()), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_written_as_its_slug_and_is_unique() {
        let mut slugs: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        for code in Code::ALL {
            assert_eq!(serde_json::to_value(code).ok(), Some(code.as_str().into()));
            assert!((400..600).contains(&code.status()));
        }
        slugs.sort_unstable();
        slugs.dedup();
        assert_eq!(slugs.len(), Code::ALL.len());
    }

    #[test]
    fn every_code_is_documented() {
        let documentation = include_str!("../../docs/errors.md");
        for code in Code::ALL {
            assert!(
                documentation.contains(&format!("### `{}`", code.as_str())),
                "docs/errors.md lacks {}",
                code.as_str()
            );
        }
    }
}
