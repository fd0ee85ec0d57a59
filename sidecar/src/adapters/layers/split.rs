//! Splits a long list of texts into calls of at most `batch_size` texts.
//!
//! Stands outside the retries, so that a failed call repeats its own texts and not those of the calls before it.

use std::sync::Arc;

use async_trait::async_trait;

use crate::ports::embedder::{Deadline, Embedder, Error, Vector};

/// The layer.
pub struct Split {
    inner: Arc<dyn Embedder>,
    batch_size: usize,
}

impl Split {
    /// Lets `inner` see at most `batch_size` texts at once; at least one.
    #[must_use]
    pub fn new(inner: Arc<dyn Embedder>, batch_size: usize) -> Self {
        Self { inner, batch_size: batch_size.max(1) }
    }
}

#[async_trait]
impl Embedder for Split {
    async fn embed_documents(&self, texts: &[String], deadline: Deadline) -> Result<Vec<Vector>, Error> {
        let mut vectors = Vec::with_capacity(texts.len());
        for batch in texts.chunks(self.batch_size) {
            vectors.extend(self.inner.embed_documents(batch, deadline).await?);
        }
        Ok(vectors)
    }

    async fn embed_query(&self, text: &str, deadline: Deadline) -> Result<Vector, Error> {
        self.inner.embed_query(text, deadline).await
    }

    fn dimensions(&self) -> usize {
        self.inner.dimensions()
    }

    fn model(&self) -> &str {
        self.inner.model()
    }
}
