//! The embedded store behind the port: its calls block, so each runs on a thread of the runtime's blocking pool.
//!
//! At most [`PARALLEL`] run at once; further ones wait in order without a thread. A call that was begun is finished even if
//! nobody waits for it any more, so a caller who hangs up never leaves half a write; its place is given back when it ends and not
//! before. One that was not begun when its caller hangs up never is.

use std::{
    num::NonZero,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use async_trait::async_trait;
use context_manager_embedded::{self as store, Durability, Former, OpenOptions, Shard};
use context_manager_memory::{
    Context, ContextId, PerLevel, SessionId, SparseVector, Timestamp, Vectors, frequencies::DocumentFrequencies,
    rank::Candidate,
};
use context_manager_protocol::config;
use tokio::{sync::Semaphore, task::spawn_blocking};
use tokio_util::task::AbortOnDropHandle;
use tracing::error;

use super::trimmed::best_within;
use crate::{
    metrics::{Metrics, Outcome, StoreOperation, Volume},
    ports::vector_store::{
        Access, Error, Ids, Model, NewDense, OnModelChange, Owner, Page, Point, Search, Selection, SessionEnd, Stats,
        Tenant, Updated, VectorStore,
    },
    refusal::chain,
    space::{self, Full, Purpose, Space},
    telemetry,
};

#[cfg(test)]
mod tests;

/// Most calls at once. Writes follow one another in the store anyway, but those that wait for one flush share it.
const PARALLEL: u32 = 16;
/// Most searches at once, if there are as many processors. They compute all the time, so more would only take memory and caches from each
/// other.
const SEARCHING: usize = 4;

/// Room that a context takes at most beside its text: its vectors and their terms, in the log and in the files.
const PER_CONTEXT: u64 = 64 << 10;
/// How often each byte of a text is written at most.
const PER_BYTE: u64 = 8;
/// Room for a write without texts.
const SMALL: u64 = 1 << 20;

/// The adapter.
pub struct Embedded {
    /// `None` once it is closed.
    shard: Mutex<Option<Arc<Shard>>>,
    /// How it was opened.
    options: Mutex<OpenOptions>,
    permits: Arc<Semaphore>,
    searching: Arc<Semaphore>,
    space: Arc<Space>,
    metrics: Arc<Metrics>,
}

impl Embedded {
    /// Opens the directory, making it if it is not there.
    ///
    /// # Errors
    /// When another process uses it, it was made for another model and may not change, it is damaged, or the disk fails.
    pub async fn open(
        config: &config::EmbeddedStore,
        model: Model,
        on_model_change: OnModelChange,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Error> {
        let space = Space::new(Volume::Store, &config.path, space::STORE_RESERVE, Arc::clone(&metrics));
        let options = OpenOptions { on_model_change, ..options(&config.path, config.durability, model) };
        space.check(room_for_opening(&options)?)?;
        let opening = options.clone();
        let opened = spawn_blocking(move || Shard::open(opening)).await;
        let shard = opened.map_err(|error| Error::Failed(Arc::new(error)))?.map_err(translate)?;
        let permits = Arc::new(Semaphore::new(PARALLEL as usize));
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        let searching = Arc::new(Semaphore::new(processors.min(SEARCHING)));
        let shard = Mutex::new(Some(Arc::new(shard)));
        Ok(Self { shard, options: Mutex::new(options), permits, searching, space, metrics })
    }

    /// Opens the store anew with other options, while every call waits; if that fails, with the former ones. What is there then is
    /// what it is opened with later as well, but for what becomes of former vectors.
    async fn reopen(&self, operation: StoreOperation, change: impl FnOnce(&mut OpenOptions)) -> Result<(), Error> {
        telemetry::watched(&telemetry::store(operation), self.reopened(operation, change), Error::kind).await
    }

    async fn reopened(&self, operation: StoreOperation, change: impl FnOnce(&mut OpenOptions)) -> Result<(), Error> {
        let _all = self.permits.acquire_many(PARALLEL).await.map_err(|_| Error::Closed)?;
        let former = lock(&self.options).clone();
        let mut wanted = former.clone();
        change(&mut wanted);
        self.space.check(room_for_opening(&wanted)?)?;
        let shard = lock(&self.shard).take().and_then(Arc::into_inner).ok_or(Error::Closed)?;
        let since = Instant::now();
        let kept = OpenOptions { former: Former::Keep, ..wanted.clone() };
        let reopened = spawn_blocking(move || {
            let closed = shard.close();
            match closed.and_then(|()| Shard::open(wanted)) {
                Ok(shard) => (Some(shard), Ok(())),
                Err(error) => (Shard::open(former).inspect_err(log_lost).ok(), Err(error)),
            }
        });
        let (shard, result) = reopened.await.map_err(|error| Error::Failed(Arc::new(error)))?;
        *lock(&self.shard) = shard.map(Arc::new);
        let outcome = if result.is_ok() { Outcome::Ok } else { Outcome::Error };
        self.metrics.store.duration.observe(operation, outcome, since.elapsed());
        result.map_err(translate)?;
        *lock(&self.options) = kept;
        Ok(())
    }

    async fn call<T: Send + 'static>(
        &self,
        operation: StoreOperation,
        call: impl FnOnce(&Shard) -> Result<T, store::Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.claiming(operation, None, call).await
    }

    /// A removal. It may use a part of the reserve, since it is the remedy.
    async fn remove<T: Send + 'static>(
        &self,
        operation: StoreOperation,
        call: impl FnOnce(&Shard) -> Result<T, store::Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.claiming(operation, Some((Purpose::Removal, SMALL)), call).await
    }

    /// A call that takes at most so much room on the disk.
    async fn claiming<T: Send + 'static>(
        &self,
        operation: StoreOperation,
        claim: Option<(Purpose, u64)>,
        call: impl FnOnce(&Shard) -> Result<T, store::Error> + Send + 'static,
    ) -> Result<T, Error> {
        telemetry::watched(&telemetry::store(operation), self.called(operation, claim, call), Error::kind).await
    }

    async fn called<T: Send + 'static>(
        &self,
        operation: StoreOperation,
        claim: Option<(Purpose, u64)>,
        call: impl FnOnce(&Shard) -> Result<T, store::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| Error::Closed)?;
        let shard = lock(&self.shard).clone().ok_or(Error::Closed)?;
        let metrics = Arc::clone(&self.metrics);
        // Claimed last, so that a call that waits for its turn holds no room.
        let claim = claim.map(|(purpose, bytes)| self.space.claim(purpose, bytes)).transpose()?;
        // Aborting a call that runs has no effect; one that still waits for a thread never begins.
        let called = AbortOnDropHandle::new(spawn_blocking(move || {
            let since = Instant::now();
            let result = call(&shard);
            let outcome = if result.is_ok() { Outcome::Ok } else { Outcome::Error };
            metrics.store.duration.observe(operation, outcome, since.elapsed());
            // The last one to let go of the store closes it, and whoever has all permits relies on being that one.
            drop(shard);
            drop(permit);
            drop(claim);
            result
        }));
        called.await.map_err(|error| Error::Failed(Arc::new(error)))?.map_err(translate)
    }
}

/// The room that contexts take at most: in the log and in the engine's files, with vectors, terms and indexes.
fn room<'a>(contexts: impl IntoIterator<Item = &'a Context>) -> u64 {
    let of = |context: &Context| PER_CONTEXT + PER_BYTE * context.written_bytes() as u64;
    contexts.into_iter().map(of).fold(0, u64::saturating_add)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn log_lost(error: &store::Error) {
    error!(error = chain(error), "The store cannot be opened any more; the next start says why");
}

/// Room without which a directory is not opened. What is written anew is there twice for a while.
fn room_for_opening(options: &OpenOptions) -> Result<u64, Error> {
    let anew = Shard::writes_anew(options).map_err(translate)?;
    Ok(space::STORE_OPENING.saturating_add(anew))
}

fn options(path: &Path, durability: config::Durability, model: Model) -> OpenOptions {
    let durability = match durability {
        config::Durability::Process => Durability::Process,
        config::Durability::Node => Durability::Node,
    };
    OpenOptions { durability, ..OpenOptions::new(path, model.dimensions, model.name) }
}

fn translate(error: store::Error) -> Error {
    if error.is_callers() { Error::Refused(Arc::new(error)) } else { Error::Failed(Arc::new(error)) }
}

#[async_trait]
impl VectorStore for Embedded {
    async fn insert(&self, points: Vec<Point>, _: Ids, now: Timestamp) -> Result<(), Error> {
        let claim = (Purpose::Content, room(points.iter().map(|point| &point.context)));
        self.claiming(StoreOperation::Upsert, Some(claim), move |shard| shard.insert(&points, now)).await
    }

    async fn upsert(&self, points: Vec<Point>) -> Result<(), Error> {
        let room = room(points.iter().map(|point| &point.context));
        self.claiming(StoreOperation::Upsert, Some((Purpose::Content, room)), move |shard| shard.upsert(&points)).await
    }

    async fn update(&self, context: Context, vectors: Option<Vectors>, expected: i64) -> Result<Updated, Error> {
        let claim = (Purpose::Content, room([&context]));
        let update = move |shard: &Shard| shard.update(&context, vectors.as_ref(), expected);
        self.claiming(StoreOperation::Update, Some(claim), update).await
    }

    async fn set_expiries(&self, owner: &Owner, expiries: Vec<(ContextId, Timestamp)>) -> Result<(), Error> {
        let owner = owner.clone();
        self.remove(StoreOperation::Update, move |shard| shard.set_expiries(&owner, &expiries)).await
    }

    async fn find(&self, ids: Vec<ContextId>) -> Result<Vec<Context>, Error> {
        self.call(StoreOperation::Get, move |shard| shard.find(&ids)).await
    }

    async fn get(&self, owner: &Owner, ids: Vec<ContextId>, now: Timestamp) -> Result<Vec<Point>, Error> {
        let owner = owner.clone();
        self.call(StoreOperation::Get, move |shard| shard.get_points(&owner, &ids, now)).await
    }

    async fn candidates(&self, searches: Vec<Search>) -> Result<Vec<Candidate>, Error> {
        let turn = Arc::clone(&self.searching).acquire_owned().await.map_err(|_| Error::Closed)?;
        let search = move |shard: &Shard| {
            // As long as it computes, whether anybody waits for it or not.
            let _turn = turn;
            let mut candidates = Vec::new();
            for search in &searches {
                candidates.extend(shard.search(search)?);
                candidates = best_within(candidates, Shard::CANDIDATES_BYTES);
            }
            Ok(candidates)
        };
        self.call(StoreOperation::Candidates, search).await
    }

    async fn document_frequencies(&self, owner: &Owner, query: SparseVector) -> Result<DocumentFrequencies, Error> {
        let owner = owner.clone();
        let count = move |shard: &Shard| shard.document_frequencies(&owner, &query);
        self.call(StoreOperation::Frequencies, count).await
    }

    async fn list(&self, selection: Selection, from: Option<ContextId>, limit: usize) -> Result<Page, Error> {
        self.call(StoreOperation::List, move |shard| shard.list(&selection, from, limit)).await
    }

    async fn latest(&self, selection: Selection, limit: usize) -> Result<Vec<Context>, Error> {
        let turn = Arc::clone(&self.searching).acquire_owned().await.map_err(|_| Error::Closed)?;
        let latest = move |shard: &Shard| {
            let _turn = turn;
            shard.latest(&selection, limit)
        };
        self.call(StoreOperation::List, latest).await
    }

    async fn list_tenant(&self, tenant: &Tenant, from: Option<ContextId>, limit: usize) -> Result<Page, Error> {
        let tenant = tenant.clone();
        self.call(StoreOperation::List, move |shard| shard.list_tenant(&tenant, from, limit)).await
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

    async fn after(
        &self,
        owner: &Owner,
        session: &SessionId,
        sequence: i64,
        now: Timestamp,
    ) -> Result<Option<Context>, Error> {
        let (owner, session) = (owner.clone(), session.clone());
        self.call(StoreOperation::SessionTail, move |shard| shard.after(&owner, &session, sequence, now)).await
    }

    async fn count_accesses(&self, owner: &Owner, accesses: Vec<Access>) -> Result<(), Error> {
        let owner = owner.clone();
        self.remove(StoreOperation::CountAccesses, move |shard| shard.count_accesses(&owner, &accesses)).await
    }

    async fn delete(&self, owner: &Owner, ids: Vec<ContextId>) -> Result<usize, Error> {
        let owner = owner.clone();
        self.remove(StoreOperation::Delete, move |shard| shard.delete(&owner, &ids)).await
    }

    async fn delete_selected(&self, selection: Selection, limit: usize) -> Result<usize, Error> {
        self.remove(StoreOperation::Delete, move |shard| shard.delete_selected(&selection, limit)).await
    }

    async fn count_expired(&self, owners: Option<&[Owner]>, now: Timestamp) -> Result<usize, Error> {
        let owners = owners.map(<[Owner]>::to_vec);
        self.call(StoreOperation::Count, move |shard| shard.count_expired(owners.as_deref(), now)).await
    }

    async fn delete_expired(
        &self,
        owners: Option<&[Owner]>,
        spared: &[ContextId],
        now: Timestamp,
        limit: usize,
    ) -> Result<usize, Error> {
        let (owners, spared) = (owners.map(<[Owner]>::to_vec), spared.to_vec());
        let delete = move |shard: &Shard| shard.delete_expired(owners.as_deref(), &spared, now, limit);
        self.remove(StoreOperation::DeleteExpired, delete).await
    }

    async fn switch_model(&self, model: Model) -> Result<(), Error> {
        let change = |options: &mut OpenOptions| {
            (options.model, options.on_model_change) = (model, OnModelChange::ReEmbed);
        };
        self.reopen(StoreOperation::SwitchModel, change).await
    }

    async fn set_vectors(&self, owner: &Owner, vectors: Vec<NewDense>) -> Result<(), Error> {
        let owner = owner.clone();
        let claim = (Purpose::Content, PER_CONTEXT.saturating_mul(vectors.len() as u64));
        let set = move |shard: &Shard| shard.set_vectors(&owner, &vectors);
        self.claiming(StoreOperation::SetVectors, Some(claim), set).await
    }

    /// The directory is one agent's, so the files are written anew without any of them.
    async fn drop_former_vectors(&self, _: &Owner, _: usize) -> Result<usize, Error> {
        let operation = StoreOperation::DropFormerVectors;
        let contexts =
            self.call(operation, |shard| Ok(if shard.former_models().is_empty() { 0 } else { shard.stats()?.points }));
        let contexts = contexts.await?;
        if contexts > 0 {
            self.reopen(operation, |options| options.former = Former::Drop).await?;
        }
        // None is left, which a number below the limit says.
        Ok(0)
    }

    async fn stats(&self) -> Result<Stats, Error> {
        self.call(StoreOperation::Stats, Shard::stats).await
    }

    async fn flush(&self) -> Result<(), Error> {
        self.call(StoreOperation::Flush, Shard::flush).await
    }

    async fn compact(&self) -> Result<bool, Error> {
        let space = Arc::clone(&self.space);
        let compact = move |shard: &Shard| {
            // It is asked at every turn of the upkeep, and files are measured only when there is something to do.
            if !shard.is_worth_compacting() {
                return Ok(false);
            }
            // What is written anew is there twice for a while.
            let stored = shard.stats()?.disk_bytes.unwrap_or_default();
            if space.check(stored.saturating_add(space::STORE_RESERVE / 2)).is_err() {
                return Ok(false);
            }
            shard.compact()
        };
        self.call(StoreOperation::Compact, compact).await
    }

    /// The directory is locked by its one sidecar.
    fn is_shared(&self) -> bool {
        false
    }

    fn shortage(&self) -> Option<Full> {
        self.space.shortage()
    }

    async fn close(&self) -> Result<(), Error> {
        let Ok(_all) = self.permits.acquire_many(PARALLEL).await else { return Ok(()) };
        let shard = lock(&self.shard).take();
        self.permits.close();
        let Some(shard) = shard.and_then(Arc::into_inner) else { return Ok(()) };
        spawn_blocking(move || shard.close()).await.map_err(|error| Error::Failed(Arc::new(error)))?.map_err(translate)
    }
}
