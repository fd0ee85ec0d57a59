//! The frames of the WebSocket [`PATH`]: an envelope around the messages that the routes take and give.
//!
//! A text frame is JSON, a binary frame is `MessagePack`; an answer has the format of its request. The message in the envelope
//! is never decoded here: it is cut out of the frame and put into the answer as it is, so that it is the same bytes as the
//! body of a request to the route, and is read by the same code.

use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::{Map, Value, value::RawValue};
use uuid::Uuid;

use crate::codec::{DecodeError, Format};

mod correlation;
mod kind;
mod splice;

pub use correlation::CorrelationId;
pub use kind::{AnswerKind, RequestKind};

/// Where the stream is opened.
pub const PATH: &str = "/v1/stream";

/// Why the sidecar closes a stream, beyond the codes of RFC 6455 section 7.4.1.
pub mod close {
    /// The key that opened the stream is not in the key ring any more: open another one with the active key.
    pub const KEY_RETIRED: u16 = 4001;
    /// Nothing was heard from the agent for several heartbeats.
    pub const SILENT: u16 = 4002;
}

/// A request of the agent.
///
/// ```
/// use context_manager_protocol::{codec::Format, stream::{RequestFrame, RequestKind}};
///
/// let text = br#"{"id": 7, "type": "ContextRequest", "message": {"query": "blue door"}}"#;
/// let frame = RequestFrame::open(Format::Json, text)?;
/// assert_eq!(frame.kind, RequestKind::ContextRequest);
/// assert_eq!(frame.message, Some(br#"{"query": "blue door"}"#.as_slice()));
/// # Ok::<(), context_manager_protocol::codec::DecodeError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "M: Deserialize<'de>"))]
pub struct RequestFrame<M> {
    /// What the answer is recognised by; only a heartbeat that answers one of the sidecar's has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<CorrelationId>,
    /// What is asked for.
    #[serde(rename = "type")]
    pub kind: RequestKind,
    /// The context that it is about, for those operations whose route has an id in its path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<Uuid>,
    /// The parameters that the route takes in its query.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub parameters: Map<String, Value>,
    /// The message that the route takes as its body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<M>,
    /// As the header `Idempotency-Key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// As the header `x-request-id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// As the header of the same name (W3C Trace Context).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
}

/// An answer of the sidecar, or a heartbeat that nobody asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound(deserialize = "M: Deserialize<'de>"))]
pub struct AnswerFrame<M> {
    /// That of the request; absent when the sidecar speaks first, or could not read the request's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<CorrelationId>,
    /// Which message it has.
    #[serde(rename = "type")]
    pub kind: AnswerKind,
    /// The HTTP status code that the route would have answered with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The id by which the sidecar's log names the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// After how many seconds the request may be sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// The message; in an [`AnswerKind::Error`] the problem document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<M>,
}

/// A sign of life, from either side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Counts the heartbeats that this side has sent on this stream, from 1 on.
    #[serde(default)]
    pub sequence: u64,
    /// Seconds since this side started.
    #[serde(default)]
    pub uptime_seconds: u64,
}

impl<M> RequestFrame<M> {
    /// A request without anything that is optional.
    #[must_use]
    pub fn new(id: impl Into<CorrelationId>, kind: RequestKind, message: Option<M>) -> Self {
        Self {
            id: Some(id.into()),
            kind,
            context: None,
            parameters: Map::new(),
            message,
            idempotency_key: None,
            request_id: None,
            traceparent: None,
            tracestate: None,
        }
    }

    fn with_message<N>(self, message: Option<N>) -> RequestFrame<N> {
        let Self { id, kind, context, parameters, message: _, idempotency_key, request_id, traceparent, tracestate } =
            self;
        RequestFrame { id, kind, context, parameters, message, idempotency_key, request_id, traceparent, tracestate }
    }
}

impl<'a> RequestFrame<&'a [u8]> {
    /// Reads the envelope, and leaves the message as the bytes that it is.
    ///
    /// # Errors
    /// When the frame is not of the format, or not such an envelope; the error names the field.
    pub fn open(format: Format, frame: &'a [u8]) -> Result<Self, DecodeError> {
        match format {
            Format::Json => {
                let read: RequestFrame<&RawValue> = format.decode(frame)?;
                let message = read.message.map(|message| message.get().as_bytes());
                Ok(read.with_message(message))
            }
            Format::MessagePack => {
                let read: RequestFrame<IgnoredAny> = format.decode(frame)?;
                let message = read.message.and_then(|_| splice::value(frame, "message"));
                Ok(read.with_message(message))
            }
        }
    }
}

/// The id of a request that cannot be read as a whole, if it has one.
#[must_use]
pub fn id_of(format: Format, frame: &[u8]) -> Option<CorrelationId> {
    #[derive(Deserialize)]
    struct OnlyId {
        id: CorrelationId,
    }
    format.decode(frame).ok().map(|OnlyId { id }| id)
}

impl AnswerFrame<()> {
    /// An answer that [`Self::encode`] puts around a message.
    #[must_use]
    pub const fn new(id: Option<CorrelationId>, kind: AnswerKind) -> Self {
        Self { id, kind, status: None, request_id: None, retry_after: None, message: None }
    }

    /// Writes the frame around a message that is already written in the same format.
    #[must_use]
    pub fn encode(&self, format: Format, message: &[u8]) -> Vec<u8> {
        let head = Self { message: None, ..self.clone() };
        splice::append(format, format.encode(&head), "message", message)
    }
}

#[cfg(test)]
mod tests;
