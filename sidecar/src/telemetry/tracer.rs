//! Makes spans, and hands those that are recorded to the export when they end.
//!
//! The API is OpenTelemetry's; its SDK is not used, see docs/adr/0019. There are no events and no links: nothing here makes any.

use std::{borrow::Cow, sync::Arc, time::SystemTime};

use opentelemetry::{
    Context, KeyValue, Value,
    trace::{self, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId},
};

use super::Shared;

/// Attributes about the span itself, for spans whose fields the log shows too.
const NAME: &str = "otel.name";
const KIND: &str = "otel.kind";
/// Fields that are for the log alone: a span has its ids anyway.
const FOR_THE_LOG: [&str; 2] = ["trace_id", "span_id"];

/// Makes spans.
#[derive(Debug)]
pub(super) struct Tracer {
    shared: Arc<Shared>,
}

/// A span; one that is not recorded only hands on its context.
#[derive(Debug)]
pub(super) struct Span {
    context: SpanContext,
    recording: Option<Box<Recording>>,
    shared: Arc<Shared>,
}

/// What a span says.
#[derive(Debug)]
pub(super) struct Recording {
    pub(super) context: SpanContext,
    pub(super) parent: SpanContext,
    pub(super) name: Cow<'static, str>,
    pub(super) kind: SpanKind,
    pub(super) start: SystemTime,
    pub(super) end: SystemTime,
    pub(super) attributes: Vec<KeyValue>,
    pub(super) status: Status,
}

impl Tracer {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn span(&self, context: SpanContext, recording: Option<Box<Recording>>) -> Span {
        Span { context, recording, shared: Arc::clone(&self.shared) }
    }
}

impl trace::Tracer for Tracer {
    type Span = Span;

    fn build_with_context(&self, builder: SpanBuilder, parent: &Context) -> Span {
        let parent = parent.span().span_context().clone();
        // While nothing is exported, the caller's context is handed on as it is.
        let Some(pipeline) = self.shared.pipeline.load_full() else { return self.span(parent, None) };
        let start = builder.start_time.unwrap_or_else(SystemTime::now);
        let mut recording = Recording {
            context: SpanContext::empty_context(),
            parent,
            name: builder.name,
            kind: builder.span_kind.unwrap_or(SpanKind::Internal),
            start,
            end: start,
            attributes: Vec::with_capacity(builder.attributes.as_ref().map_or(0, Vec::len)),
            status: Status::Unset,
        };
        builder.attributes.into_iter().flatten().for_each(|attribute| recording.set(attribute));
        let parent = &recording.parent;
        let trace = if parent.is_valid() { parent.trace_id() } else { TraceId::from_bytes(random()) };
        let is_sampled = pipeline.sampling().is_sampled(parent, trace, &recording.kind);
        let flags = if is_sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
        let span = SpanId::from_bytes(random());
        let context = SpanContext::new(trace, span, flags, false, parent.trace_state().clone());
        recording.context = context.clone();
        self.span(context, is_sampled.then(|| Box::new(recording)))
    }
}

impl Recording {
    fn set(&mut self, KeyValue { key, value, .. }: KeyValue) {
        match (key.as_str(), value) {
            (NAME, value) => self.name = value.as_str().into_owned().into(),
            (KIND, value) => self.kind = kind(&value),
            (key, _) if FOR_THE_LOG.contains(&key) => {}
            (_, value) => match self.attributes.iter_mut().find(|there| there.key == key) {
                Some(there) => there.value = value,
                None => self.attributes.push(KeyValue::new(key, value)),
            },
        }
    }
}

fn kind(value: &Value) -> SpanKind {
    match value.as_str().as_ref() {
        "server" => SpanKind::Server,
        "client" => SpanKind::Client,
        _ => SpanKind::Internal,
    }
}

/// Ids are not all zeros.
fn random<const N: usize>() -> [u8; N] {
    loop {
        let id: [u8; N] = rand::random();
        if id != [0; N] {
            return id;
        }
    }
}

impl trace::Span for Span {
    fn add_event_with_timestamp<T>(&mut self, _: T, _: SystemTime, _: Vec<KeyValue>)
    where
        T: Into<Cow<'static, str>>,
    {
    }

    fn span_context(&self) -> &SpanContext {
        &self.context
    }

    fn is_recording(&self) -> bool {
        self.recording.is_some()
    }

    fn set_attribute(&mut self, attribute: KeyValue) {
        if let Some(recording) = &mut self.recording {
            recording.set(attribute);
        }
    }

    fn set_status(&mut self, status: Status) {
        if let Some(recording) = &mut self.recording
            && status > recording.status
        {
            recording.status = status;
        }
    }

    fn update_name<T>(&mut self, name: T)
    where
        T: Into<Cow<'static, str>>,
    {
        if let Some(recording) = &mut self.recording {
            recording.name = name.into();
        }
    }

    fn add_link(&mut self, _: SpanContext, _: Vec<KeyValue>) {}

    fn end_with_timestamp(&mut self, end: SystemTime) {
        let Some(mut recording) = self.recording.take() else { return };
        recording.end = end.max(recording.start);
        if let Some(pipeline) = &*self.shared.pipeline.load() {
            pipeline.offer(*recording);
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        trace::Span::end(self);
    }
}
