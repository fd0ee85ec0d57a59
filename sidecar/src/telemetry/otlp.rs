//! The messages of OTLP that an export of traces needs, as far as it fills them: `opentelemetry/proto/collector/trace/v1` and what that
//! is made of, version 1.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::{
    KeyValue as Attribute, Value as Given,
    trace::{SpanContext, SpanKind, Status as Ended},
};
use prost::{Message, Oneof};

use super::tracer::Recording;

/// Set in `Span.flags` when the next bit says something.
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;
const ERROR: i32 = 2;

/// The body of an export.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ExportTraceServiceRequest {
    #[prost(message, repeated, tag = "1")]
    pub(super) resource_spans: Vec<ResourceSpans>,
}

/// The body of its answer.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ExportTraceServiceResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) partial_success: Option<PartialSuccess>,
}

/// What was not taken.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PartialSuccess {
    #[prost(int64, tag = "1")]
    pub(super) rejected_spans: i64,
    #[prost(string, tag = "2")]
    pub(super) error_message: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

/// Who exports.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[expect(clippy::struct_field_names, reason = "the names are OTLP's")]
#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 2, 3, 4")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Value {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Flag(bool),
    #[prost(int64, tag = "3")]
    Integer(i64),
    #[prost(double, tag = "4")]
    Number(f64),
}

/// An export of these spans.
pub(super) fn export(resource: &Resource, recordings: &[Recording]) -> ExportTraceServiceRequest {
    let scope = Scope { name: env!("CARGO_PKG_NAME").to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let spans = recordings.iter().map(Span::from).collect();
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans }];
    ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { resource: Some(resource.clone()), scope_spans }] }
}

impl Resource {
    pub(super) fn new<const N: usize>(attributes: [(&'static str, String); N]) -> Self {
        let attributes = attributes.into_iter().map(|(key, value)| Attribute::new(key, value));
        Self { attributes: attributes.map(|attribute| KeyValue::from(&attribute)).collect() }
    }
}

impl From<&Recording> for Span {
    fn from(recording: &Recording) -> Self {
        let Recording { context, parent, name, kind, start, end, attributes, status } = recording;
        Self {
            trace_id: context.trace_id().to_bytes().into(),
            span_id: context.span_id().to_bytes().into(),
            trace_state: context.trace_state().header(),
            parent_span_id: if parent.is_valid() { parent.span_id().to_bytes().into() } else { Vec::new() },
            name: name.to_string(),
            kind: kind_number(kind),
            start_time_unix_nano: nanoseconds(*start),
            end_time_unix_nano: nanoseconds(*end),
            attributes: attributes.iter().map(KeyValue::from).collect(),
            status: matches!(status, Ended::Error { .. }).then(|| Status { message: String::new(), code: ERROR }),
            flags: flags(context, parent),
        }
    }
}

fn flags(context: &SpanContext, parent: &SpanContext) -> u32 {
    let remote = if parent.is_remote() { IS_REMOTE } else { 0 };
    u32::from(context.trace_flags().to_u8()) | HAS_IS_REMOTE | remote
}

const fn kind_number(kind: &SpanKind) -> i32 {
    match kind {
        SpanKind::Internal => 1,
        SpanKind::Server => 2,
        SpanKind::Client => 3,
        SpanKind::Producer => 4,
        SpanKind::Consumer => 5,
    }
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl From<&Attribute> for KeyValue {
    fn from(Attribute { key, value, .. }: &Attribute) -> Self {
        Self { key: key.as_str().to_owned(), value: Some(AnyValue { value: Some(value.into()) }) }
    }
}

impl From<&Given> for Value {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the enum may grow, and everything can be written as a text")]
    fn from(value: &Given) -> Self {
        match value {
            Given::Bool(flag) => Self::Flag(*flag),
            Given::I64(integer) => Self::Integer(*integer),
            Given::F64(number) => Self::Number(*number),
            other => Self::Text(other.as_str().into_owned()),
        }
    }
}
