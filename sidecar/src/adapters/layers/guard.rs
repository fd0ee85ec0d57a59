//! Leaves the embedding API alone while its breaker is open, which it is as well for as long as the API asks for patience.
//!
//! Stands inside the cache, so that a hit needs no API, and outside the retries, so that a call with all its attempts counts once. What the
//! API asks for is told to the breaker there, as soon as it is heard.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    breaker::Breaker,
    ports::{
        Retry,
        embedder::{Deadline, Embedder, Error, Vector},
    },
};

/// The layer.
pub struct Guard {
    inner: Arc<dyn Embedder>,
    breaker: Arc<Breaker>,
}

impl Guard {
    /// Puts `breaker` before `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Embedder>, breaker: Arc<Breaker>) -> Self {
        Self { inner, breaker }
    }

    async fn guard<T>(&self, call: impl Future<Output = Result<T, Error>> + Send) -> Result<T, Error> {
        let permit = self.breaker.admit().map_err(Error::LeftAlone)?;
        let result = call.await;
        match &result {
            Ok(_) => permit.succeeded(),
            // What the API does not accept says nothing about whether it works for others.
            Err(Error::Refused { .. } | Error::File { .. } | Error::Setup { .. } | Error::LeftAlone(_)) => drop(permit),
            Err(
                error @ (Error::DeadlineExceeded { .. }
                | Error::Unreachable { .. }
                | Error::Throttled { .. }
                | Error::Failed { .. }
                | Error::Malformed { .. }
                | Error::Oversized { .. }
                | Error::Count { .. }
                | Error::Dimensions { .. }
                | Error::NotFinite),
            ) => match error.retry() {
                Retry::After(patience) if !patience.is_zero() => drop(permit),
                Retry::After(_) | Retry::Backoff | Retry::Never => permit.failed(),
            },
        }
        result
    }
}

#[async_trait]
impl Embedder for Guard {
    async fn embed_documents(&self, texts: &[String], deadline: Deadline) -> Result<Vec<Vector>, Error> {
        self.guard(self.inner.embed_documents(texts, deadline)).await
    }

    async fn embed_query(&self, text: &str, deadline: Deadline) -> Result<Vector, Error> {
        self.guard(self.inner.embed_query(text, deadline)).await
    }

    fn dimensions(&self) -> usize {
        self.inner.dimensions()
    }

    fn model(&self) -> &str {
        self.inner.model()
    }
}
