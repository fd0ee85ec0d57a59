//! The span of a request, which the log shows as well; its attributes have the names of OpenTelemetry's conventions for HTTP.
//!
//! The conventions want `url.path` and would like the query; both are left out, because they may hold an id or a session.

use context_manager_protocol::problem::Code;
use http::{HeaderMap, Method, StatusCode};
use opentelemetry::{
    Context,
    trace::{SpanContext, Status, TraceContextExt as _},
};
use tracing::{Span, error_span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::{CONTINUED, REQUEST, fail, w3c};
use crate::metrics::{Label as _, Route};

/// What is known about a request when it arrives.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Its id.
    pub id: &'a str,
    /// What it asks for.
    pub operation: Route,
    /// Its method.
    pub method: &'a Method,
    /// The template of its path.
    pub route: Option<&'a str>,
    /// What it is carried by.
    pub carrier: Carrier,
}

/// What a request is carried by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// HTTP.
    Http,
    /// A frame of a stream.
    WebSocket,
}

/// The span of a request; it continues the trace that the headers name.
#[must_use]
pub fn request(arrival: Arrival<'_>, headers: &HeaderMap) -> Span {
    let Arrival { id, operation, .. } = arrival;
    let (operation, route) = (operation.as_str(), arrival.route);
    let parent = w3c::extract(headers);
    // Of the highest level, so that whatever is logged inside names the request at every log level.
    let span = if parent.is_some() {
        error_span!(
            target: CONTINUED, "request",
            request.id = id, operation, http.route = route, trace_id = Empty, span_id = Empty
        )
    } else {
        error_span!(
            target: REQUEST, "request",
            request.id = id, operation, http.route = route, trace_id = Empty, span_id = Empty
        )
    };
    if !span.is_disabled() {
        begin(&span, arrival, parent.unwrap_or(SpanContext::NONE));
    }
    span
}

fn begin(span: &Span, Arrival { method, route, carrier, .. }: Arrival<'_>, parent: SpanContext) {
    let from = parent.span_id();
    // Without the layer of traces there is nobody to tell.
    if span.set_parent(Context::new().with_remote_span_context(parent)).is_err() {
        return;
    }
    let known = if is_known(method) { method.as_str() } else { "_OTHER" };
    let shown = if is_known(method) { method.as_str() } else { "HTTP" };
    span.set_attribute("otel.kind", "server");
    span.set_attribute("otel.name", route.map_or_else(|| shown.to_owned(), |route| format!("{shown} {route}")));
    span.set_attribute("http.request.method", known.to_owned());
    span.set_attribute("url.scheme", "http");
    let protocol = match carrier {
        Carrier::Http => "http",
        Carrier::WebSocket => "websocket",
    };
    span.set_attribute("network.protocol.name", protocol);
    let context = span.context();
    let context = context.span().span_context().clone();
    if context.is_valid() {
        span.record("trace_id", tracing::field::display(context.trace_id()));
        // A context that is only handed on names the caller's span.
        if context.span_id() != from {
            span.record("span_id", tracing::field::display(context.span_id()));
        }
    }
}

/// Says how a request was answered.
pub fn answered(span: &Span, status: StatusCode, problem: Option<Code>) {
    if span.is_disabled() {
        return;
    }
    span.set_attribute("http.response.status_code", i64::from(status.as_u16()));
    let kind = problem.map(Code::as_str);
    if status.is_server_error() {
        fail(span, kind.unwrap_or(status.as_str()));
        span.set_status(Status::error(""));
    } else if let Some(kind) = kind {
        // By the conventions, a caller's mistake is no error of the server.
        span.set_attribute("error.type", kind);
    }
}

/// The methods that OpenTelemetry's conventions name.
fn is_known(method: &Method) -> bool {
    use Method as M;
    [M::GET, M::HEAD, M::POST, M::PUT, M::DELETE, M::CONNECT, M::OPTIONS, M::TRACE, M::PATCH].contains(method)
}
