//! The embedded store behind the port: its calls block, so each runs on a thread of the runtime's blocking pool.
//!
//! At most [`PARALLEL`] run at once; further ones wait in order without a thread. A call that was begun is finished even if
//! nobody waits for it any more, so a caller who hangs up never leaves half a write.

use std::{
    num::NonZero,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Instant,
};

use async_trait::async_trait;
use context_manager_embedded::{self as store, Durability, OpenOptions, Shard};
use context_manager_memory::{Context, ContextId, PerLevel, SessionId, Timestamp, Vectors, rank::Candidate};
use context_manager_protocol::config;
use tokio::{sync::Semaphore, task::spawn_blocking};

use crate::{
    metrics::{Metrics, Outcome, StoreOperation},
    ports::vector_store::{
        Access, Error, Owner, Page, Point, Search, Selection, SessionEnd, Stats, Updated, VectorStore,
    },
};

/// Most calls at once. Writes follow one another in the store anyway, but those that wait for one flush share it.
const PARALLEL: u32 = 16;
/// Most searches at once, if there are as many processors. They compute all the time, so more would only take memory and caches from each
/// other.
const SEARCHING: usize = 4;

/// The adapter.
pub struct Embedded {
    /// `None` once it is closed.
    shard: Mutex<Option<Arc<Shard>>>,
    permits: Arc<Semaphore>,
    searching: Semaphore,
    metrics: Arc<Metrics>,
}

impl Embedded {
    /// Opens the directory, making it if it is not there.
    ///
    /// # Errors
    /// When another process uses it, it was made for another model, it is damaged, or the disk fails.
    pub async fn open(
        config: &config::EmbeddedStore,
        dimensions: usize,
        model: &str,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Error> {
        let options = options(&config.path, config.durability, dimensions, model);
        let opened = spawn_blocking(move || Shard::open(options)).await;
        let shard = opened.map_err(|error| Error::Failed(Arc::new(error)))?.map_err(translate)?;
        let permits = Arc::new(Semaphore::new(PARALLEL as usize));
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        let searching = Semaphore::new(processors.min(SEARCHING));
        Ok(Self { shard: Mutex::new(Some(Arc::new(shard))), permits, searching, metrics })
    }

    async fn call<T: Send + 'static>(
        &self,
        operation: StoreOperation,
        call: impl FnOnce(&Shard) -> Result<T, store::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| Error::Closed)?;
        let shard = self.shard.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(Error::Closed)?;
        let metrics = Arc::clone(&self.metrics);
        let called = spawn_blocking(move || {
            let since = Instant::now();
            let result = call(&shard);
            let outcome = if result.is_ok() { Outcome::Ok } else { Outcome::Error };
            metrics.store.duration.observe(operation, outcome, since.elapsed());
            // The last one to let go of the store closes it, and whoever has all permits relies on being that one.
            drop(shard);
            drop(permit);
            result
        });
        called.await.map_err(|error| Error::Failed(Arc::new(error)))?.map_err(translate)
    }
}

fn options(path: &Path, durability: config::Durability, dimensions: usize, model: &str) -> OpenOptions {
    let durability = match durability {
        config::Durability::Process => Durability::Process,
        config::Durability::Node => Durability::Node,
    };
    OpenOptions { durability, ..OpenOptions::new(path, dimensions, model) }
}

fn translate(error: store::Error) -> Error {
    if error.is_callers() { Error::Refused(Arc::new(error)) } else { Error::Failed(Arc::new(error)) }
}

#[async_trait]
impl VectorStore for Embedded {
    async fn upsert(&self, points: Vec<Point>) -> Result<(), Error> {
        self.call(StoreOperation::Upsert, move |shard| shard.upsert(&points)).await
    }

    async fn update(&self, context: Context, vectors: Option<Vectors>, expected: i64) -> Result<Updated, Error> {
        self.call(StoreOperation::Update, move |shard| shard.update(&context, vectors.as_ref(), expected)).await
    }

    async fn find(&self, ids: Vec<ContextId>) -> Result<Vec<Context>, Error> {
        self.call(StoreOperation::Get, move |shard| shard.find(&ids)).await
    }

    async fn get(&self, owner: &Owner, ids: Vec<ContextId>, now: Timestamp) -> Result<Vec<Point>, Error> {
        let owner = owner.clone();
        self.call(StoreOperation::Get, move |shard| shard.get_points(&owner, &ids, now)).await
    }

    async fn candidates(&self, searches: Vec<Search>) -> Result<Vec<Candidate>, Error> {
        let search = move |shard: &Shard| {
            let mut candidates = Vec::new();
            for search in &searches {
                candidates.extend(shard.search(search)?);
            }
            Ok(candidates)
        };
        let _turn = self.searching.acquire().await.map_err(|_| Error::Closed)?;
        self.call(StoreOperation::Candidates, search).await
    }

    async fn list(&self, selection: Selection, from: Option<ContextId>, limit: usize) -> Result<Page, Error> {
        self.call(StoreOperation::List, move |shard| shard.list(&selection, from, limit)).await
    }

    async fn counts_by_level(&self, owner: &Owner, now: Timestamp) -> Result<PerLevel<usize>, Error> {
        let owner = owner.clone();
        self.call(StoreOperation::Count, move |shard| shard.counts_by_level(&owner, now)).await
    }

    async fn count(&self, selection: Selection) -> Result<usize, Error> {
        self.call(StoreOperation::Count, move |shard| shard.count(&selection)).await
    }

    async fn session_end(&self, owner: &Owner, session: &SessionId, now: Timestamp) -> Result<SessionEnd, Error> {
        let (owner, session) = (owner.clone(), session.clone());
        let end = move |shard: &Shard| {
            let sequence = shard.max_sequence(&owner, Some(&session))?;
            let last = match sequence {
                Some(_) => shard.session_tail(&owner, Some(&session), 1, now)?.pop(),
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
        let (owner, session) = (owner.clone(), session.clone());
        self.call(StoreOperation::SessionTail, move |shard| shard.before(&owner, &session, sequence, now)).await
    }

    async fn count_accesses(&self, owner: &Owner, accesses: Vec<Access>) -> Result<(), Error> {
        let owner = owner.clone();
        self.call(StoreOperation::CountAccesses, move |shard| shard.count_accesses(&owner, &accesses)).await
    }

    async fn delete(&self, owner: &Owner, ids: Vec<ContextId>) -> Result<usize, Error> {
        let owner = owner.clone();
        self.call(StoreOperation::Delete, move |shard| shard.delete(&owner, &ids)).await
    }

    async fn delete_selected(&self, selection: Selection, limit: usize) -> Result<usize, Error> {
        self.call(StoreOperation::Delete, move |shard| shard.delete_selected(&selection, limit)).await
    }

    async fn delete_expired(&self, now: Timestamp, limit: usize) -> Result<usize, Error> {
        self.call(StoreOperation::DeleteExpired, move |shard| shard.delete_expired(now, limit)).await
    }

    async fn stats(&self) -> Result<Stats, Error> {
        self.call(StoreOperation::Stats, Shard::stats).await
    }

    async fn flush(&self) -> Result<(), Error> {
        self.call(StoreOperation::Flush, Shard::flush).await
    }

    async fn compact(&self) -> Result<bool, Error> {
        self.call(StoreOperation::Compact, Shard::compact).await
    }

    async fn close(&self) -> Result<(), Error> {
        let Ok(_all) = self.permits.acquire_many(PARALLEL).await else { return Ok(()) };
        let shard = self.shard.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.permits.close();
        let Some(shard) = shard.and_then(Arc::into_inner) else { return Ok(()) };
        spawn_blocking(move || shard.close()).await.map_err(|error| Error::Failed(Arc::new(error)))?.map_err(translate)
    }
}
