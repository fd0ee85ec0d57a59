//! A collection of a Qdrant server behind the port.
//!
//! The key is read from its file for every call, so that a rotated one is used by the next. A server that asks for patience gets it:
//! the breaker leaves it alone for as long as it asks.

use std::{
    future::Future,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use context_manager_memory::{
    Context, ContextId, PerLevel, SessionId, SparseVector, Timestamp, Vectors, frequencies::DocumentFrequencies,
    rank::Candidate,
};
use context_manager_protocol::config::QdrantStore;
use context_manager_qdrant::{self as store, Collection, Identity, Options, Sizing, Trust};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::{OnceCell, Semaphore};
use tracing::warn;

mod absence;

use absence::Absence;

use crate::{
    breaker::Breaker,
    metrics::{Metrics, Outcome, StoreOperation},
    ports::vector_store::{
        Access, Error, Ids, Model, NewDense, OnModelChange, Owner, Page, Point, Search, Selection, SessionEnd, Stats,
        Tenant, Updated, VectorStore,
    },
    refusal::chain,
    telemetry,
};

/// Most searches at once: the answer to each may take 8 MiB before it is decoded.
const SEARCHING: usize = 8;

/// The adapter.
pub struct Qdrant {
    current: ArcSwap<Current>,
    key_file: Option<PathBuf>,
    /// Whether the key was read at the last attempt; after the first success a file that cannot be read leaves the last key in force.
    key_is_current: OnceLock<AtomicBool>,
    closed: AtomicBool,
    searching: Semaphore,
    absence: Absence,
    breaker: Breaker,
    /// For traces.
    server: telemetry::Server,
    metrics: Arc<Metrics>,
}

/// The collection with one model's vectors.
struct Current {
    collection: Collection,
    /// Set when the collection was made or checked; before that, each call begins with it.
    opened: OnceCell<()>,
}

impl Current {
    const fn new(collection: Collection) -> Self {
        Self { collection, opened: OnceCell::const_new() }
    }
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
        model: Model,
        on_model_change: OnModelChange,
        breaker: Breaker,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Error> {
        let options = Options { on_model_change, ..options(config, model) };
        let collection = Collection::connect(options).map_err(translate)?;
        collection.set_api_key(key.as_ref().map(SecretString::expose_secret)).map_err(translate)?;
        let (closed, searching) = (AtomicBool::new(false), Semaphore::new(SEARCHING));
        let key_file = config.api_key_file.clone();
        let (current, key_is_current) = (ArcSwap::from_pointee(Current::new(collection)), OnceLock::new());
        let server = telemetry::Server::of(config);
        let absence = Absence::new(config.collection.clone(), 2 * breaker.open_for(), Arc::clone(&metrics));
        let adapter = Self { current, key_file, key_is_current, closed, searching, absence, breaker, server, metrics };
        match adapter.ready(&adapter.current()).await {
            Ok(()) => {}
            Err(error) if is_ours(&error) => return Err(translate(error)),
            Err(error) => warn!(error = chain(&error), "The Qdrant server cannot be used; starting without it"),
        }
        Ok(adapter)
    }

    fn current(&self) -> Arc<Current> {
        self.current.load_full()
    }

    async fn ready(&self, current: &Current) -> Result<(), store::Error> {
        self.refresh_key(&current.collection).await?;
        let open = || async {
            if current.collection.open_or_make().await? {
                self.absence.made_anew();
            }
            Ok(())
        };
        let opened = current.opened.get_or_try_init(open).await;
        opened.copied().map_err(store::Error::as_failure)
    }

    async fn refresh_key(&self, collection: &Collection) -> Result<(), store::Error> {
        let Some(path) = &self.key_file else { return Ok(()) };
        let read = match tokio::fs::read_to_string(path).await {
            // Whoever replaces the file by writing to it empties it first.
            Ok(key) if key.trim().is_empty() => Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(key) => Ok(key),
            Err(error) => Err(error),
        };
        match (read, self.key_is_current.get()) {
            (Ok(key), _) => {
                collection.set_api_key(Some(key.trim()))?;
                self.key_is_current.get_or_init(AtomicBool::default).store(true, Ordering::Release);
                Ok(())
            }
            (Err(error), Some(is_current)) => {
                if is_current.swap(false, Ordering::AcqRel) {
                    warn!(%error, path = %path.display(), "The API key for Qdrant cannot be read; the last one stays");
                }
                Ok(())
            }
            (Err(source), None) => Err(store::Error::File { path: path.clone(), source: source.into() }),
        }
    }

    async fn call<T>(
        &self,
        current: &Arc<Current>,
        operation: StoreOperation,
        call: impl Future<Output = Result<T, store::Error>>,
    ) -> Result<T, Error> {
        let span = telemetry::store_server(operation, &self.server);
        telemetry::watched(&span, Box::pin(self.called(current, operation, call)), Error::kind).await
    }

    async fn called<T>(
        &self,
        current: &Arc<Current>,
        operation: StoreOperation,
        call: impl Future<Output = Result<T, store::Error>>,
    ) -> Result<T, Error> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        let permit = self.breaker.admit().map_err(|open| Error::Failed(Arc::new(open)))?;
        let since = Instant::now();
        let result = match Box::pin(self.ready(current)).await {
            Ok(()) => call.await,
            Err(error) => Err(error),
        };
        if let Err(error) = &result
            && error.is_not_found()
        {
            self.look_for_collection(current).await;
        }
        match &result {
            Ok(_) => {
                self.absence.end();
                permit.succeeded();
            }
            Err(error) if error.is_refusal() => permit.succeeded(),
            Err(error) if is_ours(error) => drop(permit),
            Err(error) => match error.retry_after() {
                Some(patience) => permit.told_to_wait(patience),
                None => permit.failed(),
            },
        }
        let result = result.map_err(translate);
        let outcome = if result.is_ok() { Outcome::Ok } else { Outcome::Error };
        self.metrics.store.duration.observe(operation, outcome, since.elapsed());
        result
    }

    /// Something was not found: perhaps the collection itself. If it stays away, the next call begins as the first one did.
    async fn look_for_collection(&self, current: &Arc<Current>) {
        if matches!(current.collection.is_there().await, Ok(false)) && self.absence.note(Instant::now()) {
            let anew = Arc::new(Current::new(current.collection.unopened()));
            // Unless the model was changed meanwhile, which opens it too.
            self.current.compare_and_swap(current, anew);
        }
    }
}

fn options(config: &QdrantStore, model: Model) -> Options {
    let trust = match &config.ca_file {
        _ if !config.verify => Trust::Anybody,
        Some(path) => Trust::File(path.clone()),
        None => Trust::WebRoots,
    };
    let identity = config.cert_file.clone().zip(config.key_file.clone());
    Options {
        trust,
        identity: identity.map(|(certificate, key)| Identity::Files { certificate, key }),
        timeout: config.timeout.get(),
        sizing: Sizing {
            shards: config.shards,
            replication_factor: config.replication_factor,
            write_consistency: config.write_consistency,
        },
        call_headers: telemetry::context_pairs,
        ..Options::new(&config.url, &config.collection, model.dimensions, model.name)
    }
}

/// Whether the call or the settings are wrong, so that it says nothing about the server.
const fn is_ours(error: &store::Error) -> bool {
    error.is_callers() || error.is_configuration()
}

fn translate(error: store::Error) -> Error {
    if error.is_configuration() {
        Error::Misconfigured(Arc::new(error))
    } else if error.is_callers() || error.is_refusal() {
        Error::Refused(Arc::new(error))
    } else {
        Error::Failed(Arc::new(error))
    }
}

#[async_trait]
impl VectorStore for Qdrant {
    async fn insert(&self, points: Vec<Point>, ids: Ids, now: Timestamp) -> Result<(), Error> {
        let current = self.current();
        self.call(&current, StoreOperation::Upsert, current.collection.insert(&points, ids, now)).await
    }

    async fn upsert(&self, points: Vec<Point>) -> Result<(), Error> {
        let current = self.current();
        self.call(&current, StoreOperation::Upsert, current.collection.upsert(&points)).await
    }

    async fn update(&self, context: Context, vectors: Option<Vectors>, expected: i64) -> Result<Updated, Error> {
        let current = self.current();
        self.call(&current, StoreOperation::Update, current.collection.update(&context, vectors.as_ref(), expected))
            .await
    }

    async fn set_expiries(&self, owner: &Owner, expiries: Vec<(ContextId, Timestamp)>) -> Result<(), Error> {
        let current = self.current();
        self.call(&current, StoreOperation::Update, current.collection.set_expiries(owner, &expiries)).await
    }

    async fn find(&self, ids: Vec<ContextId>) -> Result<Vec<Context>, Error> {
        let current = self.current();
        self.call(&current, StoreOperation::Get, current.collection.find(&ids)).await
    }

    async fn get(&self, owner: &Owner, ids: Vec<ContextId>, now: Timestamp) -> Result<Vec<Point>, Error> {
        let current = self.current();
        self.call(&current, StoreOperation::Get, current.collection.get_points(owner, &ids, now)).await
    }

    async fn candidates(&self, searches: Vec<Search>) -> Result<Vec<Candidate>, Error> {
        let _turn = self.searching.acquire().await.map_err(|_| Error::Closed)?;
        let current = self.current();
        self.call(&current, StoreOperation::Candidates, current.collection.search(&searches)).await
    }

    async fn document_frequencies(&self, owner: &Owner, query: SparseVector) -> Result<DocumentFrequencies, Error> {
        let current = self.current();
        let frequencies = Box::pin(current.collection.document_frequencies(owner, &query));
        self.call(&current, StoreOperation::Frequencies, frequencies).await
    }

    async fn list(&self, selection: Selection, from: Option<ContextId>, limit: usize) -> Result<Page, Error> {
        let current = self.current();
        self.call(&current, StoreOperation::List, current.collection.list(&selection, from, limit)).await
    }

    async fn latest(&self, selection: Selection, limit: usize) -> Result<Vec<Context>, Error> {
        let _turn = self.searching.acquire().await.map_err(|_| Error::Closed)?;
        let current = self.current();
        self.call(&current, StoreOperation::List, current.collection.latest(&selection, limit)).await
    }

    async fn list_tenant(&self, tenant: &Tenant, from: Option<ContextId>, limit: usize) -> Result<Page, Error> {
        let current = self.current();
        self.call(&current, StoreOperation::List, current.collection.list_tenant(tenant, from, limit)).await
    }

    async fn counts_by_level(&self, owner: &Owner, now: Timestamp) -> Result<PerLevel<usize>, Error> {
        let current = self.current();
        self.call(&current, StoreOperation::Count, Box::pin(current.collection.counts_by_level(owner, now))).await
    }

    async fn count(&self, selection: Selection) -> Result<usize, Error> {
        let current = self.current();
        self.call(&current, StoreOperation::Count, current.collection.count(&selection)).await
    }

    async fn session_end(&self, owner: &Owner, session: &SessionId, now: Timestamp) -> Result<SessionEnd, Error> {
        let current = self.current();
        let end = async {
            let newest = current.collection.newest(owner, session).await?;
            let sequence = newest.as_ref().map(|newest| newest.sequence);
            // The one with the highest number is nearly always alive, and then it is the last one.
            let last = match newest {
                Some(newest) if !Selection::alive(owner.clone(), now).admits(&newest) => {
                    current.collection.last(owner, session, now).await?
                }
                newest => newest,
            };
            Ok(SessionEnd { sequence, last })
        };
        self.call(&current, StoreOperation::SessionTail, end).await
    }

    async fn before(
        &self,
        owner: &Owner,
        session: &SessionId,
        sequence: i64,
        now: Timestamp,
    ) -> Result<Option<Context>, Error> {
        let current = self.current();
        self.call(&current, StoreOperation::SessionTail, current.collection.before(owner, session, sequence, now)).await
    }

    async fn after(
        &self,
        owner: &Owner,
        session: &SessionId,
        sequence: i64,
        now: Timestamp,
    ) -> Result<Option<Context>, Error> {
        let current = self.current();
        self.call(&current, StoreOperation::SessionTail, current.collection.after(owner, session, sequence, now)).await
    }

    async fn count_accesses(&self, owner: &Owner, accesses: Vec<Access>) -> Result<(), Error> {
        let current = self.current();
        self.call(&current, StoreOperation::CountAccesses, current.collection.count_accesses(owner, &accesses)).await
    }

    async fn delete(&self, owner: &Owner, ids: Vec<ContextId>) -> Result<usize, Error> {
        let current = self.current();
        self.call(&current, StoreOperation::Delete, current.collection.delete(owner, &ids)).await
    }

    async fn delete_selected(&self, selection: Selection, limit: usize) -> Result<usize, Error> {
        let current = self.current();
        self.call(&current, StoreOperation::Delete, current.collection.delete_selected(&selection, limit)).await
    }

    async fn count_expired(&self, owners: Option<&[Owner]>, now: Timestamp) -> Result<usize, Error> {
        let current = self.current();
        self.call(&current, StoreOperation::Count, current.collection.count_expired(owners, now)).await
    }

    async fn delete_expired(
        &self,
        owners: Option<&[Owner]>,
        spared: &[ContextId],
        now: Timestamp,
        limit: usize,
    ) -> Result<usize, Error> {
        let current = self.current();
        let deleted = current.collection.delete_expired(owners, spared, now, limit);
        self.call(&current, StoreOperation::DeleteExpired, deleted).await
    }

    /// A server that is away gets a place for the new vectors when it is back: each call begins with making sure.
    async fn switch_model(&self, model: Model) -> Result<(), Error> {
        let collection = self.current().collection.for_model(model, OnModelChange::ReEmbed);
        let new = Arc::new(Current::new(collection));
        match self.call(&new, StoreOperation::SwitchModel, async { Ok(()) }).await {
            Ok(()) | Err(Error::Failed(_)) => {
                self.current.store(new);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn set_vectors(&self, owner: &Owner, vectors: Vec<NewDense>) -> Result<(), Error> {
        let current = self.current();
        self.call(&current, StoreOperation::SetVectors, current.collection.set_vectors(owner, &vectors)).await
    }

    async fn drop_former_vectors(&self, owner: &Owner, limit: usize) -> Result<usize, Error> {
        let current = self.current();
        let dropped = current.collection.drop_former_vectors(owner, limit);
        self.call(&current, StoreOperation::DropFormerVectors, dropped).await
    }

    async fn stats(&self) -> Result<Stats, Error> {
        let current = self.current();
        self.call(&current, StoreOperation::Stats, current.collection.stats()).await
    }

    fn losses(&self) -> u64 {
        self.absence.ended()
    }

    fn trouble(&self) -> Option<String> {
        self.absence.detail()
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
