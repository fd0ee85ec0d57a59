//! A collection of a Qdrant server behind the port.
//!
//! The key is read from its file for every call, so that a rotated one is used by the next.

use std::{
    future::Future,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use async_trait::async_trait;
use context_manager_memory::{Context, ContextId, PerLevel, SessionId, Timestamp, Vectors, rank::Candidate};
use context_manager_protocol::config::QdrantStore;
use context_manager_qdrant::{self as store, Collection, Options, Sizing, Trust};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::OnceCell;
use tracing::warn;

use crate::{
    breaker::Breaker,
    metrics::{Metrics, Outcome, StoreOperation},
    ports::vector_store::{
        Access, Error, Owner, Page, Point, Search, Selection, SessionEnd, Stats, Updated, VectorStore,
    },
    refusal::chain,
};

/// The adapter.
pub struct Qdrant {
    collection: Collection,
    key_file: Option<PathBuf>,
    closed: AtomicBool,
    /// Set when the collection was made or checked; before that, each call begins with it.
    opened: OnceCell<()>,
    breaker: Breaker,
    metrics: Arc<Metrics>,
}

impl Qdrant {
    /// Reaches the server, and makes or checks the collection.
    ///
    /// # Errors
    /// When the collection was made for something else, or the settings cannot be used. A server that cannot be reached is no error:
    /// the calls fail until it can.
    pub async fn open(
        config: &QdrantStore,
        key: Option<SecretString>,
        dimensions: usize,
        model: &str,
        breaker: Breaker,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Error> {
        let trust = match &config.ca_file {
            _ if !config.verify => Trust::Anybody,
            Some(path) => Trust::Bundle(tokio::fs::read(path).await.map_err(|error| Error::Failed(Arc::new(error)))?),
            None => Trust::WebRoots,
        };
        let options = Options {
            trust,
            timeout: config.timeout.get(),
            sizing: Sizing {
                shards: config.shards,
                replication_factor: config.replication_factor,
                write_consistency: config.write_consistency,
            },
            ..Options::new(&config.url, &config.collection, dimensions, model)
        };
        let collection = Collection::connect(options).map_err(translate)?;
        collection.set_api_key(key.as_ref().map(SecretString::expose_secret)).map_err(translate)?;
        let closed = AtomicBool::new(false);
        let key_file = config.api_key_file.clone();
        let adapter = Self { collection, key_file, closed, opened: OnceCell::new(), breaker, metrics };
        match adapter.ready().await {
            Ok(()) => {}
            Err(error @ Error::Failed(_)) => {
                warn!(error = chain(&error), "The Qdrant server cannot be reached; starting without it");
            }
            Err(error) => return Err(error),
        }
        Ok(adapter)
    }

    async fn ready(&self) -> Result<(), Error> {
        self.refresh_key().await?;
        let open = || async { self.collection.open().await.map_err(translate) };
        self.opened.get_or_try_init(open).await.copied()
    }

    async fn refresh_key(&self) -> Result<(), Error> {
        let Some(path) = &self.key_file else { return Ok(()) };
        let key = tokio::fs::read_to_string(path).await.map_err(|error| Error::Failed(Arc::new(error)))?;
        self.collection.set_api_key(Some(key.trim())).map_err(translate)
    }

    async fn call<T>(
        &self,
        operation: StoreOperation,
        call: impl Future<Output = Result<T, store::Error>>,
    ) -> Result<T, Error> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        let permit = self.breaker.admit().map_err(|open| Error::Failed(Arc::new(open)))?;
        let since = Instant::now();
        let result = match Box::pin(self.ready()).await {
            Ok(()) => call.await.map_err(translate),
            Err(error) => Err(error),
        };
        match &result {
            Ok(_) => permit.succeeded(),
            Err(Error::Failed(_)) => permit.failed(),
            Err(Error::Refused(_) | Error::Closed) => drop(permit),
        }
        let outcome = if result.is_ok() { Outcome::Ok } else { Outcome::Error };
        self.metrics.store.duration.observe(operation, outcome, since.elapsed());
        result
    }
}

fn translate(error: store::Error) -> Error {
    if error.is_callers() || error.is_configuration() {
        Error::Refused(Arc::new(error))
    } else {
        Error::Failed(Arc::new(error))
    }
}

#[async_trait]
impl VectorStore for Qdrant {
    async fn upsert(&self, points: Vec<Point>) -> Result<(), Error> {
        self.call(StoreOperation::Upsert, self.collection.upsert(&points)).await
    }

    async fn update(&self, context: Context, vectors: Option<Vectors>, expected: i64) -> Result<Updated, Error> {
        self.call(StoreOperation::Update, self.collection.update(&context, vectors.as_ref(), expected)).await
    }

    async fn find(&self, ids: Vec<ContextId>) -> Result<Vec<Context>, Error> {
        self.call(StoreOperation::Get, self.collection.find(&ids)).await
    }

    async fn get(&self, owner: &Owner, ids: Vec<ContextId>, now: Timestamp) -> Result<Vec<Point>, Error> {
        self.call(StoreOperation::Get, self.collection.get_points(owner, &ids, now)).await
    }

    async fn candidates(&self, searches: Vec<Search>) -> Result<Vec<Candidate>, Error> {
        self.call(StoreOperation::Candidates, self.collection.search(&searches)).await
    }

    async fn list(&self, selection: Selection, from: Option<ContextId>, limit: usize) -> Result<Page, Error> {
        self.call(StoreOperation::List, self.collection.list(&selection, from, limit)).await
    }

    async fn counts_by_level(&self, owner: &Owner, now: Timestamp) -> Result<PerLevel<usize>, Error> {
        self.call(StoreOperation::Count, Box::pin(self.collection.counts_by_level(owner, now))).await
    }

    async fn count(&self, selection: Selection) -> Result<usize, Error> {
        self.call(StoreOperation::Count, self.collection.count(&selection)).await
    }

    async fn session_end(&self, owner: &Owner, session: &SessionId, now: Timestamp) -> Result<SessionEnd, Error> {
        let end = async {
            let sequence = self.collection.max_sequence(owner, session).await?;
            let last = match sequence {
                Some(_) => self.collection.last(owner, session, now).await?,
                None => None,
            };
            Ok(SessionEnd { sequence, last })
        };
        self.call(StoreOperation::SessionTail, end).await
    }

    async fn before(
        &self,
        owner: &Owner,
        session: &SessionId,
        sequence: i64,
        now: Timestamp,
    ) -> Result<Option<Context>, Error> {
        self.call(StoreOperation::SessionTail, self.collection.before(owner, session, sequence, now)).await
    }

    async fn count_accesses(&self, owner: &Owner, accesses: Vec<Access>) -> Result<(), Error> {
        self.call(StoreOperation::CountAccesses, self.collection.count_accesses(owner, &accesses)).await
    }

    async fn delete(&self, owner: &Owner, ids: Vec<ContextId>) -> Result<usize, Error> {
        self.call(StoreOperation::Delete, self.collection.delete(owner, &ids)).await
    }

    async fn delete_selected(&self, selection: Selection, limit: usize) -> Result<usize, Error> {
        self.call(StoreOperation::Delete, self.collection.delete_selected(&selection, limit)).await
    }

    async fn delete_expired(&self, now: Timestamp, limit: usize) -> Result<usize, Error> {
        self.call(StoreOperation::DeleteExpired, self.collection.delete_expired(now, limit)).await
    }

    async fn stats(&self) -> Result<Stats, Error> {
        self.call(StoreOperation::Stats, self.collection.stats()).await
    }

    /// Each write is on the server's disk when it returns.
    async fn flush(&self) -> Result<(), Error> {
        if self.closed.load(Ordering::Acquire) { Err(Error::Closed) } else { Ok(()) }
    }

    /// The server does it by itself.
    async fn compact(&self) -> Result<bool, Error> {
        Ok(false)
    }

    async fn close(&self) -> Result<(), Error> {
        self.closed.store(true, Ordering::Release);
        Ok(())
    }
}
