//! The embedder in use, its time limit, and how its last call went.

use std::{sync::Arc, time::Duration};

use context_manager_memory::{Vectors, index_text::IndexTexts, lexical::Bm25};
use context_manager_protocol::config::{self, SidecarConfig};

use super::{Part, health::Health};
use crate::{
    aside::aside,
    ports::{
        embedder::{Deadline, Embedder, Error, Vector},
        vector_store::Model,
    },
};

/// The dense vectors of a context: of its own text, and with the previous context's.
pub(super) type Dense = (Vec<f32>, Vec<f32>);

/// All vectors of contexts: the lexical ones are made here, with the dense ones that there are. What is long is worked on aside.
pub(super) fn with_lexical(texts: &[IndexTexts], dense: Vec<Option<Dense>>) -> Vec<Vectors> {
    let bytes = texts.iter().map(|texts| texts.own.len() + texts.with_previous.len()).sum();
    aside(bytes, || texts.iter().zip(dense).map(|(texts, dense)| texts.vectors(&Bm25::default(), dense)).collect())
}

/// The embedder in use.
pub(super) struct Embedding {
    embedder: Arc<dyn Embedder>,
    timeout: Duration,
    made_by: config::Embedding,
    health: Health,
}

impl Embedding {
    pub(super) fn new(embedder: Arc<dyn Embedder>, config: &SidecarConfig) -> Self {
        let made_by = config.embedding.clone();
        Self { embedder, timeout: made_by.timeout.get(), made_by, health: Health::default() }
    }

    /// Whether `config` would make the same embedder.
    pub(super) fn is_made_by(&self, config: &SidecarConfig) -> bool {
        self.made_by == config.embedding
    }

    pub(super) fn model(&self) -> Model {
        Model { name: self.embedder.model().to_owned(), dimensions: self.embedder.dimensions() }
    }

    /// How long so many contexts take at the average rate at which they get vectors that they lack.
    pub(super) fn pause_after(&self, contexts: usize) -> Duration {
        let contexts = u32::try_from(contexts).map_or(f64::MAX, f64::from);
        Duration::try_from_secs_f64(contexts / self.made_by.re_embedding.contexts_per_second).unwrap_or(Duration::MAX)
    }

    /// How long vectors of former models are kept.
    pub(super) fn keeps_former_for(&self) -> Duration {
        self.made_by.re_embedding.keep_former_for.get()
    }

    /// The vectors of several contexts, in one call.
    pub(super) async fn documents(&self, texts: &[IndexTexts]) -> Result<Vec<Dense>, Error> {
        let all: Vec<String> =
            texts.iter().flat_map(|texts| [texts.own.clone(), texts.with_previous.clone()]).collect();
        let vectors = self.embed(&all).await?;
        Ok(vectors.chunks_exact(2).map(|pair| (pair[0].to_vec(), pair[1].to_vec())).collect())
    }

    /// The vectors of a context by one text, which stands for both.
    pub(super) async fn document(&self, text: &str) -> Result<Dense, Error> {
        let vectors = self.embed(&[text.to_owned()]).await?;
        let vector = vectors.first().ok_or(Error::Count { expected: 1, actual: 0 })?;
        Ok((vector.to_vec(), vector.to_vec()))
    }

    async fn embed(&self, texts: &[String]) -> Result<Vec<Vector>, Error> {
        let called = self.embedder.embed_documents(texts, Deadline::after(self.timeout)).await;
        let vectors = self.health.note(called)?;
        if vectors.len() == texts.len() {
            Ok(vectors)
        } else {
            Err(Error::Count { expected: texts.len(), actual: vectors.len() })
        }
    }

    /// The vector of a query.
    pub(super) async fn query(&self, text: &str) -> Result<Vector, Error> {
        let called = self.embedder.embed_query(text, Deadline::after(self.timeout)).await;
        self.health.note(called)
    }

    pub(super) fn part(&self) -> Part {
        self.health.part("embedding", self.embedder.model())
    }
}
