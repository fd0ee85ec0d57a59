//! Remembers vectors by text, and lets concurrent calls for one text share a single call to the embedder.
//!
//! Keys are SHA-256 digests, so that the cache's size does not depend on the texts' lengths and no text stays in
//! memory because of it. The weight of an entry is what it occupies. A failure is never remembered.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use context_manager_protocol::config;
use futures::{FutureExt as _, future::try_join_all};
use moka::future::Cache as Entries;
use sha2::{Digest as _, Sha256};

use crate::{
    metrics::Metrics,
    ports::embedder::{Deadline, Embedder, Error, Vector},
};

/// What an entry costs beside its vector: the digest, the shared pointer's counts, and the cache's own bookkeeping.
const ENTRY_OVERHEAD_BYTES: usize = 192;

type Key = [u8; 32];

/// Queries and documents have keys of their own, because their prefixes may differ.
#[derive(Clone, Copy)]
enum Kind {
    Document,
    Query,
}

/// The layer.
pub struct Cache {
    inner: Arc<dyn Embedder>,
    entries: Entries<Key, Vector>,
    metrics: Arc<Metrics>,
}

impl Cache {
    /// Puts a cache of the configured size and age before `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Embedder>, config: &config::Cache, metrics: Arc<Metrics>) -> Self {
        let weigh = |_: &Key, vector: &Vector| {
            u32::try_from(ENTRY_OVERHEAD_BYTES + size_of_val::<[f32]>(vector)).unwrap_or(u32::MAX)
        };
        let entries = Entries::builder()
            .max_capacity(config.capacity.bytes())
            .time_to_live(config.ttl.get())
            .weigher(weigh)
            .build();
        Self { inner, entries, metrics }
    }

    fn count(&self, hits: usize, misses: usize) {
        let embedding = &self.metrics.embedding;
        embedding.cache_hits.inc_by(hits as u64);
        embedding.cache_misses.inc_by(misses as u64);
        embedding.cache_entries.set(i64::try_from(self.entries.entry_count()).unwrap_or(i64::MAX));
        embedding.cache_bytes.set(i64::try_from(self.entries.weighted_size()).unwrap_or(i64::MAX));
    }
}

fn key(kind: Kind, text: &str) -> Key {
    let kind: &[u8] = match kind {
        Kind::Document => b"d",
        Kind::Query => b"q",
    };
    Sha256::new().chain_update(kind).chain_update(text).finalize().into()
}

#[async_trait]
impl Embedder for Cache {
    async fn embed_documents(&self, texts: &[String], deadline: Deadline) -> Result<Vec<Vector>, Error> {
        let keys: Vec<Key> = texts.iter().map(|text| key(Kind::Document, text)).collect();
        let mut found: HashMap<Key, Vector> = HashMap::with_capacity(keys.len());
        let mut missing: Vec<(Key, String)> = Vec::new();
        for (key, text) in keys.iter().zip(texts) {
            if found.contains_key(key) || missing.iter().any(|(other, _)| other == key) {
                continue;
            }
            match self.entries.get(key).await {
                Some(vector) => _ = found.insert(*key, vector),
                None => missing.push((*key, text.clone())),
            }
        }
        self.count(keys.len() - missing.len(), missing.len());
        if !missing.is_empty() {
            let (missing, texts): (Vec<Key>, Vec<String>) = missing.into_iter().unzip();
            // One call for all that is missing. It is begun by the first key that nobody else is already asking for,
            // and not at all when other callers are asking for all of them.
            let batch = async { self.inner.embed_documents(&texts, deadline).await.map(Arc::new) }.boxed().shared();
            let flights = missing.iter().enumerate().map(|(position, key)| {
                let batch = batch.clone();
                async move {
                    let vector = async move { batch.await.map(|vectors| vectors.get(position).cloned()) };
                    let vector =
                        async { vector.await?.ok_or(Error::Count { expected: position + 1, actual: position }) };
                    self.entries.try_get_with(*key, vector).await.map_err(|shared| Error::clone(&shared))
                }
            });
            let vectors = deadline.bound(try_join_all(flights)).await?;
            found.extend(missing.iter().copied().zip(vectors));
        }
        let expected = keys.len();
        let vectors: Vec<Vector> = keys.iter().filter_map(|key| found.get(key).cloned()).collect();
        if vectors.len() == expected { Ok(vectors) } else { Err(Error::Count { expected, actual: vectors.len() }) }
    }

    async fn embed_query(&self, text: &str, deadline: Deadline) -> Result<Vector, Error> {
        let key = key(Kind::Query, text);
        if let Some(vector) = self.entries.get(&key).await {
            self.count(1, 0);
            return Ok(vector);
        }
        self.count(0, 1);
        // Another caller's flight has that caller's deadline; ours holds all the same.
        let flight = self.entries.try_get_with(key, self.inner.embed_query(text, deadline));
        deadline.bound(flight.map(|result| result.map_err(|shared| Error::clone(&shared)))).await
    }

    fn dimensions(&self) -> usize {
        self.inner.dimensions()
    }

    fn model(&self) -> &str {
        self.inner.model()
    }
}
