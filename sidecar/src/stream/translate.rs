//! Between frames and requests: a frame becomes the request to the route that it stands for, an answer becomes a frame.
//!
//! Nothing is decided here that a route or a layer decides. Only what has no place in a request is refused.

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, Uri, header},
    response::Response,
};
use context_manager_protocol::{
    codec::Format,
    problem::Code,
    stream::{AnswerFrame, AnswerKind, CorrelationId, RequestFrame, RequestKind, id_of},
    trace_context::{TRACEPARENT, TRACESTATE},
};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio_tungstenite::tungstenite::{Message, protocol::frame::Utf8Bytes};
use url::form_urlencoded::Serializer;

use crate::{
    layers::request_id,
    metrics::Frame,
    refusal::Refusal,
    routes::{exchange::undecodable, path},
};

/// What a frame is.
pub(super) enum Received {
    /// A sign of life, which is answered if it has an id.
    Heartbeat(Option<CorrelationId>),
    /// Something to answer.
    Asked(Box<Asked>),
}

/// A frame that is answered by a route, or for which a refusal goes the way of a request.
pub(super) struct Asked {
    /// How the agent names it.
    pub(super) id: Option<CorrelationId>,
    /// How it is counted.
    pub(super) frame: Frame,
    /// The message of a good answer.
    pub(super) answer: AnswerKind,
    /// The request that it stands for.
    pub(super) request: Result<Request, Refusal>,
}

/// Reads a frame.
pub(super) fn read(format: Format, bytes: &Bytes) -> Received {
    let unreadable = |id, kind: Option<RequestKind>, refusal| {
        let frame = kind.map_or(Frame::Unknown, Frame::from);
        Received::Asked(Box::new(Asked { id, frame, answer: AnswerKind::Error, request: Err(refusal) }))
    };
    let frame = match RequestFrame::open(format, bytes) {
        Ok(frame) => frame,
        Err(error) => return unreadable(id_of(format, bytes), None, undecodable(error)),
    };
    let kind = frame.kind;
    let Some(route) = Route::of(kind, frame.context.is_some()) else {
        return match unused_by_heartbeat(&frame) {
            None => Received::Heartbeat(frame.id),
            Some(refusal) => unreadable(frame.id, Some(kind), refusal),
        };
    };
    let Some(id) = frame.id.clone() else {
        let refusal = wrong("id", "the id is missing; give each request one, to recognise its answer");
        return unreadable(None, Some(kind), refusal);
    };
    let request = request(&route, frame, format, bytes);
    Received::Asked(Box::new(Asked { id: Some(id), frame: kind.into(), answer: route.answer, request }))
}

/// The route that a frame stands for.
struct Route {
    method: Method,
    path: &'static str,
    takes_message: bool,
    answer: AnswerKind,
}

impl Route {
    /// None for a heartbeat, which is not about the memory.
    fn of(kind: RequestKind, of_one_context: bool) -> Option<Self> {
        use AnswerKind as A;
        let route = |method, path, takes_message, answer| Some(Self { method, path, takes_message, answer });
        match kind {
            RequestKind::ContextStore => route(Method::POST, path::CONTEXTS, true, A::Acknowledgment),
            RequestKind::ContextStoreBatch => route(Method::POST, path::BATCH, true, A::AcknowledgmentBatch),
            RequestKind::ContextRequest => route(Method::POST, path::SEARCH, true, A::ContextResponse),
            RequestKind::ContextUpdate => route(Method::PATCH, path::CONTEXT, true, A::Acknowledgment),
            RequestKind::ContextDelete if of_one_context => {
                route(Method::DELETE, path::CONTEXT, false, A::Acknowledgment)
            }
            RequestKind::ContextDelete => route(Method::POST, path::DELETE, true, A::Cleared),
            RequestKind::GetContext => route(Method::GET, path::CONTEXT, false, A::Context),
            RequestKind::ListContexts => route(Method::GET, path::CONTEXTS, false, A::ContextList),
            RequestKind::ClearSession => route(Method::DELETE, path::CONTEXTS, false, A::Cleared),
            RequestKind::GetStats => route(Method::GET, path::STATS, false, A::Stats),
            RequestKind::Heartbeat => None,
        }
    }
}

fn request(route: &Route, frame: RequestFrame<&[u8]>, format: Format, bytes: &Bytes) -> Result<Request, Refusal> {
    let RequestFrame {
        id: _,
        kind,
        context,
        parameters,
        message,
        idempotency_key,
        request_id,
        traceparent,
        tracestate,
    } = frame;
    let path = match (context, route.path == path::CONTEXT) {
        (Some(id), true) => route.path.replace("{id}", &id.to_string()),
        (None, false) => route.path.to_owned(),
        (None, true) => {
            return Err(wrong("context", format!("{kind:?} is about one context; name its id in `context`")));
        }
        (Some(_), false) => return Err(wrong("context", format!("{kind:?} is not about one context; leave it out"))),
    };
    let body = match (message, route.takes_message) {
        (Some(message), true) => bytes.slice_ref(message),
        (None, false) => Bytes::new(),
        (None, true) => return Err(wrong("message", format!("{kind:?} has a message; put it into `message`"))),
        (Some(_), false) => return Err(wrong("message", format!("this {kind:?} has no message; leave it out"))),
    };
    let mut request = Request::new(Body::from(body.clone()));
    *request.method_mut() = route.method.clone();
    *request.uri_mut() = uri(&path, &parameters)?;
    let headers = request.headers_mut();
    let media_type = HeaderValue::from_static(format.media_type());
    headers.insert(header::ACCEPT, media_type.clone());
    headers.insert(header::CONTENT_LENGTH, body.len().into());
    if route.takes_message {
        headers.insert(header::CONTENT_TYPE, media_type);
    }
    put(headers, "idempotency-key", "idempotency_key", idempotency_key)?;
    put(headers, "x-request-id", "request_id", request_id)?;
    // What is not valid here is as none and no mistake (W3C Trace Context), so also what no header can carry.
    for (name, value) in [(TRACEPARENT, traceparent), (TRACESTATE, tracestate)] {
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            headers.insert(name, value);
        }
    }
    Ok(request)
}

/// A request for nothing, which carries a refusal.
pub(super) fn empty(format: Format) -> Request {
    let mut request = Request::new(Body::empty());
    request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static(format.media_type()));
    request
}

fn put(headers: &mut HeaderMap, name: &'static str, field: &str, value: Option<String>) -> Result<(), Refusal> {
    if let Some(value) = value {
        let value =
            HeaderValue::try_from(value).map_err(|_| wrong(field, "it must be visible ASCII, as in a header"))?;
        headers.insert(name, value);
    }
    Ok(())
}

fn uri(path: &str, parameters: &serde_json::Map<String, Value>) -> Result<Uri, Refusal> {
    let mut query = Serializer::new(String::new());
    for (name, value) in parameters {
        match value {
            Value::String(text) => query.append_pair(name, text),
            Value::Number(number) => query.append_pair(name, &number.to_string()),
            Value::Bool(flag) => query.append_pair(name, &flag.to_string()),
            Value::Null => &mut query,
            Value::Array(_) | Value::Object(_) => {
                return Err(wrong(format!("parameters.{name}"), "a parameter is a text, a number or a boolean"));
            }
        };
    }
    let query = query.finish();
    let uri = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
    uri.parse().map_err(|_| wrong("parameters", "the parameters are too long"))
}

/// What a heartbeat has that it cannot mean anything by.
fn unused_by_heartbeat(frame: &RequestFrame<&[u8]>) -> Option<Refusal> {
    let unused = |field: &str| Some(wrong(field, "a Heartbeat has at most an id and a message; leave it out"));
    if frame.context.is_some() {
        unused("context")
    } else if !frame.parameters.is_empty() {
        unused("parameters")
    } else if frame.idempotency_key.is_some() {
        unused("idempotency_key")
    } else {
        None
    }
}

fn wrong(field: impl Into<String>, detail: impl Into<String>) -> Refusal {
    Refusal::new(Code::FieldInvalid, detail).field(field)
}

/// The answer of a route as a frame.
pub(super) async fn answer(format: Format, id: Option<CorrelationId>, kind: AnswerKind, response: Response) -> Message {
    let (parts, body) = response.into_parts();
    let text = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let head = AnswerFrame {
        status: Some(parts.status.as_u16()),
        request_id: text(request_id::HEADER).map(ToOwned::to_owned),
        retry_after: text(header::RETRY_AFTER).and_then(|seconds| seconds.parse().ok()),
        ..AnswerFrame::new(id, if parts.status.is_success() { kind } else { AnswerKind::Error })
    };
    // The body of every route of a stream is whole already.
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    message(format, if body.is_empty() { format.encode(&head) } else { head.encode(format, &body) })
}

/// Encoded bytes in the kind of frame that their format goes in.
pub(super) fn message(format: Format, bytes: Vec<u8>) -> Message {
    match format {
        // JSON is UTF-8 (RFC 8259 section 8.1), so the check cannot fail.
        Format::Json => Utf8Bytes::try_from(bytes).map_or_else(|_| Message::Text(Utf8Bytes::default()), Message::Text),
        Format::MessagePack => Message::Binary(bytes.into()),
    }
}
