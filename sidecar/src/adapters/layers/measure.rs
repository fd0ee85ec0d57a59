//! Counts and times the calls that really go to the embedder.
//!
//! Stands inside the cache, so that a hit is not an embedding, and outside the retries, so that a call counts once
//! with the time its caller waited.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;

use crate::{
    metrics::{EmbeddingKind, Metrics, Outcome},
    ports::embedder::{Deadline, Embedder, Error, Vector},
    telemetry,
};

/// The layer.
pub struct Measure {
    inner: Arc<dyn Embedder>,
    metrics: Arc<Metrics>,
}

impl Measure {
    /// Reports every call of `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Embedder>, metrics: Arc<Metrics>) -> Self {
        Self { inner, metrics }
    }

    async fn report<T>(
        &self,
        kind: EmbeddingKind,
        texts: usize,
        call: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        let started = Instant::now();
        let span = telemetry::embedding(kind, self.inner.model(), texts);
        let result = telemetry::watched(&span, call, Error::kind).await;
        let outcome = if result.is_ok() { Outcome::Ok } else { Outcome::Error };
        self.metrics.embedding.texts.add(kind, texts as u64);
        self.metrics.embedding.duration.observe(kind, outcome, started.elapsed());
        result
    }
}

#[async_trait]
impl Embedder for Measure {
    async fn embed_documents(&self, texts: &[String], deadline: Deadline) -> Result<Vec<Vector>, Error> {
        self.report(EmbeddingKind::Documents, texts.len(), self.inner.embed_documents(texts, deadline)).await
    }

    async fn embed_query(&self, text: &str, deadline: Deadline) -> Result<Vector, Error> {
        self.report(EmbeddingKind::Query, 1, self.inner.embed_query(text, deadline)).await
    }

    fn dimensions(&self) -> usize {
        self.inner.dimensions()
    }

    fn model(&self) -> &str {
        self.inner.model()
    }
}
