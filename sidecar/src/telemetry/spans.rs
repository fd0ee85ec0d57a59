//! The spans beside those of requests: what is done for a request, what is called for it, and the work in the background.

use std::fmt;

use context_manager_protocol::config;
use http::{StatusCode, Uri};
use opentelemetry::trace::Status;
use tracing::{Instrument as _, Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use url::Url;

use super::TARGET;
use crate::metrics::{EmbeddingKind, Label as _, StoreOperation};

/// Work that nobody waits for; each piece of it is a trace of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Deleting what is expired.
    CollectGarbage,
    /// Access counts, promotion, capacities, gauges, flush.
    Upkeep,
    /// Vectors for contexts that lack them.
    ReEmbed,
    /// Bringing journaled writes to the store.
    DrainJournal,
}

/// The span of a piece of work in the background.
#[must_use]
pub fn background(work: Work) -> Span {
    let name = match work {
        Work::CollectGarbage => "collect garbage",
        Work::Upkeep => "upkeep",
        Work::ReEmbed => "re-embed",
        Work::DrainJournal => "drain journal",
    };
    info_span!(target: TARGET, parent: None, "background", otel.name = name)
}

/// The span of finding out who calls: reading the body and checking the signature.
#[must_use]
pub fn authentication() -> Span {
    info_span!(target: TARGET, "authenticate")
}

/// The span of making vectors, with all attempts; each attempt over HTTP has its own inside.
#[must_use]
pub fn embedding(kind: EmbeddingKind, model: &str, texts: usize) -> Span {
    info_span!(
        target: TARGET, "embeddings",
        gen_ai.operation.name = "embeddings", gen_ai.request.model = model,
        context_manager.embedding.kind = kind.as_str(), context_manager.embedding.texts = texts,
    )
}

/// The span of a call over HTTP. Of the URL it has the server alone: the rest may hold a key.
#[must_use]
pub fn http_call(method: &'static str, url: &Url) -> Span {
    info_span!(
        target: TARGET, "http",
        otel.name = method, otel.kind = "client", http.request.method = method,
        server.address = url.host_str(), server.port = url.port_or_known_default(),
    )
}

/// Says how a call over HTTP was answered.
pub fn http_answered(span: &Span, status: StatusCode) {
    if !span.is_disabled() {
        span.set_attribute("http.response.status_code", i64::from(status.as_u16()));
    }
}

/// The span of a call to the embedded store.
#[must_use]
pub fn store(operation: StoreOperation) -> Span {
    let operation = operation.as_str();
    info_span!(
        target: TARGET, "store",
        otel.name = format!("store {operation}"), db.system.name = "qdrant", db.operation.name = operation,
        context_manager.store = "embedded",
    )
}

/// The span of a call to a Qdrant server.
#[must_use]
pub fn store_server(operation: StoreOperation, server: &Server) -> Span {
    let operation = operation.as_str();
    info_span!(
        target: TARGET, "store",
        otel.name = format!("store {operation}"), otel.kind = "client",
        db.system.name = "qdrant", db.operation.name = operation, db.collection.name = server.collection,
        server.address = server.address, server.port = server.port, context_manager.store = "qdrant",
    )
}

/// What the spans of calls to a Qdrant server say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    collection: String,
    address: Option<String>,
    port: Option<u16>,
}

impl Server {
    /// The server of a configuration.
    #[must_use]
    pub fn of(config: &config::QdrantStore) -> Self {
        let uri = config.url.parse::<Uri>().ok();
        let address = uri.as_ref().and_then(Uri::host).map(ToOwned::to_owned);
        Self { collection: config.collection.clone(), address, port: uri.and_then(|uri| uri.port_u16()) }
    }
}

/// The span of ranking and packing.
#[must_use]
pub fn ranking(candidates: usize) -> Span {
    info_span!(target: TARGET, "rank", otel.name = "rank and pack", context_manager.candidates = candidates)
}

/// The span of writing to the journal.
#[must_use]
pub fn journal_append() -> Span {
    info_span!(target: TARGET, "journal", otel.name = "append to journal")
}

/// Does a span's work; if it fails, the span says by this word that it did. Why is in the log.
///
/// # Errors
/// Those of the work.
pub async fn watched<T, E>(
    span: &Span,
    work: impl Future<Output = Result<T, E>>,
    kind: impl FnOnce(&E) -> &'static str,
) -> Result<T, E> {
    let result = work.instrument(span.clone()).await;
    if let Err(error) = &result {
        fail(span, kind(error));
    }
    result
}

/// Says that a span's work failed. The word is one of few: the message of an error may quote what it is about.
pub fn fail(span: &Span, kind: impl fmt::Display) {
    if !span.is_disabled() {
        span.set_attribute("error.type", kind.to_string());
        span.set_status(Status::error(""));
    }
}
