//! The built-in embedder as the port's implementation: no network, so no retries, no cache, and it never fails. What is long is
//! embedded aside.

use async_trait::async_trait;
use context_manager_memory::builtin;

use crate::{
    aside::aside,
    ports::embedder::{Deadline, Embedder, Error, Vector},
};

/// The adapter.
#[derive(Clone, Copy, Debug)]
pub struct Builtin {
    dimensions: usize,
}

impl Builtin {
    /// An embedder whose vectors have this length.
    #[must_use]
    pub const fn new(dimensions: usize) -> Self {
        Self { dimensions }
    }

    fn embed(self, text: &str) -> Vector {
        builtin::embed(text, self.dimensions).into()
    }
}

#[async_trait]
impl Embedder for Builtin {
    async fn embed_documents(&self, texts: &[String], _: Deadline) -> Result<Vec<Vector>, Error> {
        let bytes = texts.iter().map(String::len).sum();
        Ok(aside(bytes, || texts.iter().map(|text| self.embed(text)).collect()))
    }

    async fn embed_query(&self, text: &str, _: Deadline) -> Result<Vector, Error> {
        Ok(self.embed(text))
    }

    fn dimensions(&self) -> usize {
        self.dimensions
    }

    fn model(&self) -> &str {
        builtin::MODEL
    }
}
