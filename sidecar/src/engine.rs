//! The engine: what the protocol's operations do to the memory.
//!
//! Takes and returns protocol messages; decides by `context-manager-memory`; works through the [`ports`](crate::ports). Each operation
//! takes the proof that the access rules permit it ([`Granted`]), and does nothing outside of what that reaches. Owns
//! the order of things (validate, lock, embed, write, then L1 and caches) and never the wire, the clock's unit or a technology.
//! A write that was begun is finished even if its caller hangs up, so that store, L1 and caches never disagree.

mod convert;
mod counts;
mod delete;
mod doubt;
mod drain;
mod effect;
mod embedding;
mod error;
mod filling;
mod filter;
mod following;
mod frequencies;
mod health;
mod hurry;
mod idempotency;
mod immediate;
mod journaled;
mod locks;
mod newest;
mod pending;
mod permit;
mod policy;
mod re_embed;
mod read;
mod refused;
mod retrieve;
mod sessions;
mod set_aside;
mod store;
mod stored_until;
mod transfer;
mod update;
mod upkeep;
mod within;

#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use context_manager_memory::{Timestamp, limits::Limits};
use context_manager_protocol::{
    config::{self, CircuitBreaker, EnvironmentSecrets, SidecarConfig, Store},
    level::Level,
    message::{
        Acknowledgment, AcknowledgmentBatch, Cleared, Context, ContextDelete, ContextList, ContextRequest,
        ContextResponse, ContextStore, ContextUpdate, ExportedContext, Imported, Stats,
    },
};
use secrecy::SecretString;
use tokio::sync::{RwLock, Semaphore};
use tracing::{Instrument as _, warn};
use uuid::Uuid;

use crate::{
    access::{self, Access, Granted, GrantedTenant},
    adapters::{embedded::Embedded, embedder, qdrant::Qdrant},
    aside::steps_aside,
    breaker::Breaker,
    clock::now,
    identity::Identity,
    metrics::{Metrics, Neighbour},
    ongoing::Ongoing,
    ports::{
        Embedder,
        vector_store::{Model, OnModelChange, Owner, VectorStore},
    },
    refusal::chain,
};

pub use convert::MOST_SUPERSEDED;
pub(crate) use convert::level as domain_level;
use doubt::Doubts;
use effect::Effect;
use embedding::Embedding;
pub use error::Error;
pub use filter::MOST_LEVELS;
use health::Health;
use hurry::Hurry;
pub use idempotency::IdempotencyKey;
use immediate::Immediate;
pub use journaled::journal_directory;
use locks::Locks;
use pending::Pending;
pub use permit::MOST_SCOPES;
use policy::Policy;
use re_embed::ReEmbedding;
use sessions::Sessions;
use set_aside::SetAside;
use stored_until::StoredUntil;
use upkeep::Upkeep;

/// Most pages of lists and exports that are read at once; further ones wait. Each reads up to 8 MiB, and one of a list holds up to 4.
const PAGES_AT_ONCE: usize = 4;
/// Most searches at once while writes wait for the store; as many as are at a Qdrant server at once.
const SEARCHES_AT_ONCE: usize = 8;

/// Which contexts are listed.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// Only on this level.
    pub level: Option<Level>,
    /// Most contexts of the page; it ends before that when they are large.
    pub limit: Option<i64>,
    /// Where the page starts: `next` of the page before.
    pub cursor: Option<String>,
    /// List what was so at this time, in milliseconds of Unix time.
    pub as_of: Option<i64>,
}

/// How a part of the engine is, for the health page. Has no secret and no stored text.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its name.
    pub name: &'static str,
    /// Whether requests can be served.
    pub ready: bool,
    /// Whether it works worse than it should.
    pub degraded: bool,
    /// What is the matter.
    pub detail: String,
}

/// The engine; a clone is the same one.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    /// Whose sidecar it is: the agent's own memory.
    owner: Owner,
    identity: Identity,
    access: ArcSwap<Access>,
    store: Arc<dyn VectorStore>,
    store_health: Health,
    /// How often the store was without what it held, as far as that was noticed.
    losses: AtomicU64,
    /// API key from the environment, for an embedder made anew.
    token: Option<SecretString>,
    breaker: CircuitBreaker,
    embedding: ArcSwap<Embedding>,
    policy: ArcSwap<Policy>,
    limits: Limits,
    immediate: Immediate,
    pending: Pending,
    /// Where journaled writes go that cannot reach the store.
    set_aside: SetAside,
    /// Writes that may still take effect, and deletions that they would undo.
    doubts: Doubts,
    /// What a journaled deletion is about.
    stored_until: StoredUntil,
    /// Whether the start is over.
    requests_are_served: AtomicBool,
    sessions: Sessions,
    /// Shared by writes, so that the last journaled ones can reach the store while no others join them. Taken before `locks`.
    writes: RwLock<()>,
    /// Whether all writers wait for that.
    hurry: Hurry,
    /// Whether the store has taken the journaled writes that were brought to it last.
    takes_writes: AtomicBool,
    locks: Locks,
    pages: Semaphore,
    searches: Semaphore,
    upkeep: Upkeep,
    re_embedding: ReEmbedding,
    /// Shared by all who make or compare vectors, so that those of two models never meet; alone is who changes the model.
    models: RwLock<()>,
    /// What the configuration gives up that should not be given up.
    warnings: Vec<Part>,
    metrics: Arc<Metrics>,
}

impl Engine {
    /// Opens the store, makes the embedder, and fills L1 from the store.
    ///
    /// # Errors
    /// When the store cannot be opened or the embedder cannot be made; the message says what to change.
    pub async fn open(
        config: &SidecarConfig,
        identity: &Identity,
        secrets: &EnvironmentSecrets,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Error> {
        let token = secrets.chutes_api_token.clone();
        let embedder = embedder::build(&config.embedding, &config.circuit_breaker, token.as_ref(), &metrics)
            .map_err(Error::Embedder)?;
        let model = Model { name: embedder.model().to_owned(), dimensions: embedder.dimensions() };
        let on_model_change = on_model_change(config);
        let opened: Result<Arc<dyn VectorStore>, _> = match &config.store {
            Store::Embedded(store) => {
                let opening = Box::pin(Embedded::open(store, model, on_model_change, Arc::clone(&metrics)));
                opening.await.map(|store| Arc::new(store) as _)
            }
            Store::Qdrant(store) => {
                let key = secrets.qdrant_api_key.clone();
                let breaker = Breaker::new(Neighbour::Store, &config.circuit_breaker, Arc::clone(&metrics));
                let opening = Qdrant::open(store, key, model, on_model_change, breaker, Arc::clone(&metrics));
                Box::pin(opening).await.map(|store| Arc::new(store) as _)
            }
        };
        let store = opened.map_err(Error::Open)?;
        Self::with_store(config, identity, token, metrics, store, embedder).await
    }

    /// The engine on an open store.
    async fn with_store(
        config: &SidecarConfig,
        identity: &Identity,
        token: Option<SecretString>,
        metrics: Arc<Metrics>,
        store: Arc<dyn VectorStore>,
        embedder: Arc<dyn Embedder>,
    ) -> Result<Self, Error> {
        let journal = journaled::options(config);
        let directory = journal.as_ref().map(|options| options.directory.clone());
        let owner = Owner::new(identity.tenant.clone(), identity.agent.clone());
        let pending = Pending::open(journal, config.journal.max_memory, &owner, Arc::clone(&metrics)).await?;
        let stored_until = StoredUntil::open(directory.clone()).await;
        if let Some(at) = pending.latest() {
            stored_until.note(at);
        }
        let set_aside = SetAside::open(directory, pending.is_active()).await?;
        let engine = Self {
            inner: Arc::new(Inner {
                identity: identity.clone(),
                access: ArcSwap::from_pointee(Access::new(identity, &config.access)),
                losses: AtomicU64::new(store.losses()),
                store,
                store_health: Health::default(),
                token,
                breaker: config.circuit_breaker.clone(),
                embedding: ArcSwap::from_pointee(Embedding::new(embedder, config)),
                policy: ArcSwap::from_pointee(Policy::of(config)),
                limits: Limits::default(),
                immediate: Immediate::new(owner.clone()),
                pending,
                set_aside,
                doubts: Doubts::default(),
                stored_until,
                requests_are_served: AtomicBool::new(false),
                sessions: Sessions::default(),
                writes: RwLock::default(),
                hurry: Hurry::default(),
                takes_writes: AtomicBool::new(false),
                locks: Locks::default(),
                pages: Semaphore::new(PAGES_AT_ONCE),
                searches: Semaphore::new(SEARCHES_AT_ONCE),
                upkeep: Upkeep::default(),
                re_embedding: ReEmbedding::default(),
                models: RwLock::default(),
                warnings: warnings(config, &metrics),
                owner,
                metrics,
            }),
        };
        engine.inner.look_after_memories();
        let begun = async {
            engine.inner.resolve().await?;
            engine.inner.fill_immediate().await?;
            engine.inner.refresh_gauges().await?;
            engine.inner.survey().await
        };
        match begun.await {
            Ok(()) => {}
            Err(error) if error.is_outage() || error.is_refusal() => {
                warn!(error = chain(&error), "Starting without the store; what it holds comes back with it");
            }
            Err(error) => return Err(error),
        }
        engine.inner.requests_are_served.store(true, Ordering::Release);
        Ok(engine)
    }

    /// Stores a context. With a key, sending it again changes nothing.
    ///
    /// # Errors
    /// When the message is not valid, the id is taken, the key was used for another content, or the store fails.
    pub async fn store(
        &self,
        granted: &Granted<access::Store>,
        message: ContextStore,
        key: Option<IdempotencyKey>,
    ) -> Result<Acknowledgment, Error> {
        let bytes = message.text.len();
        let messages = vec![(granted.reach().clone(), message)];
        let stored = self.write(move |inner| async move {
            Box::pin(steps_aside(bytes, inner.store_once(messages, false, key))).await
        });
        let acknowledged = stored.await?;
        acknowledged.into_iter().next().ok_or(Error::Interrupted)
    }

    /// Stores several contexts, each where it is permitted, all or none; but one whose id another sidecar takes in the same moment is refused
    /// alone. With a key, sending them again changes nothing.
    ///
    /// # Errors
    /// When a message is not valid, an id is taken, the key was used for another content, or the store fails; nothing is stored
    /// then, except beside an id that was taken in the same moment.
    pub async fn store_batch(
        &self,
        batch: Vec<(Granted<access::Store>, ContextStore)>,
        key: Option<IdempotencyKey>,
    ) -> Result<AcknowledgmentBatch, Error> {
        let bytes = batch.iter().map(|(_, message)| message.text.len()).sum();
        let messages = batch.into_iter().map(|(granted, message)| (granted.reach().clone(), message)).collect();
        let stored = self.write(move |inner| async move {
            Box::pin(steps_aside(bytes, inner.store_once(messages, true, key))).await
        });
        Ok(AcknowledgmentBatch { acknowledgments: stored.await? })
    }

    /// Finds the contexts of one or several memories that answer a query best, within a token budget.
    ///
    /// # Errors
    /// When the request is not valid. A part that fails degrades the answer instead.
    pub async fn search(
        &self,
        granted: &[Granted<access::Read>],
        request: ContextRequest,
    ) -> Result<ContextResponse, Error> {
        let _shared = self.inner.models.read().await;
        self.inner.catch_up().await;
        let reaches: Vec<_> = granted.iter().map(Granted::reach).collect();
        self.inner.retrieve(&reaches, request).await
    }

    /// A context by id, as it is or as it was at a time in milliseconds of Unix time.
    ///
    /// # Errors
    /// When there is none, or the store fails.
    pub async fn get(&self, granted: &Granted<access::Read>, id: Uuid, as_of: Option<i64>) -> Result<Context, Error> {
        self.inner.catch_up().await;
        let reach = granted.reach();
        match as_of {
            None => self.inner.context(reach, id.into()).await,
            Some(at) => self.inner.context_at(reach, id.into(), Timestamp::from_millis(at)).await,
        }
    }

    /// A page of contexts, oldest first.
    ///
    /// # Errors
    /// When a parameter is not valid, or the store fails.
    pub async fn list(&self, granted: &Granted<access::Read>, query: ListQuery) -> Result<ContextList, Error> {
        let _turn = self.inner.pages.acquire().await.map_err(|_| Error::Interrupted)?;
        self.inner.catch_up().await;
        self.inner.page(granted.reach(), query).await
    }

    /// Changes a context.
    ///
    /// # Errors
    /// When there is none, the message is not valid, the version is another one, or the store fails.
    pub async fn update(
        &self,
        granted: &Granted<access::Update>,
        id: Uuid,
        message: ContextUpdate,
    ) -> Result<Acknowledgment, Error> {
        let reach = granted.reach().clone();
        self.write(move |inner| async move { inner.change(&reach, id.into(), message).await }).await
    }

    /// Deletes a context.
    ///
    /// # Errors
    /// When there is none, or the store fails.
    pub async fn delete(&self, granted: &Granted<access::Delete>, id: Uuid) -> Result<Acknowledgment, Error> {
        let reach = granted.reach().clone();
        self.write(move |inner| async move { inner.remove(&reach, id.into()).await }).await
    }

    /// Deletes all contexts of the session that the permission is for.
    ///
    /// # Errors
    /// When it is for no session, or the store fails; some contexts may be deleted then.
    pub async fn clear_session(&self, granted: &Granted<access::Delete>) -> Result<Cleared, Error> {
        let reach = granted.reach().clone();
        self.write_in_pages(move |inner| async move { inner.clear(&reach).await }).await
    }

    /// Deletes the contexts that match, or only counts them.
    ///
    /// # Errors
    /// When the message is not valid, or the store fails; some contexts may be deleted then.
    pub async fn delete_matching(
        &self,
        granted: &Granted<access::Delete>,
        message: ContextDelete,
    ) -> Result<Cleared, Error> {
        let reach = granted.reach().clone();
        self.write_in_pages(move |inner| async move { inner.remove_matching(&reach, message).await }).await
    }

    /// The contexts after the one with the id `after`, in the order of their ids; none is the end.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn export(
        &self,
        granted: &Granted<access::Export>,
        after: Option<Uuid>,
    ) -> Result<Vec<ExportedContext>, Error> {
        self.inner.export(granted.reach(), after).await
    }

    /// Imports contexts, each with the number of its line. What is refused is part of the answer.
    ///
    /// # Errors
    /// When the store fails; some contexts may be imported then, and importing all of them again is harmless.
    pub async fn import(
        &self,
        granted: &Granted<access::Import>,
        lines: Vec<(usize, ExportedContext)>,
    ) -> Result<Imported, Error> {
        let reach = granted.reach().clone();
        self.write(move |inner| async move { inner.import(&reach, lines).await }).await
    }

    /// The contexts of the tenant after the one with the id `after`, whoever in it holds them, in the order of their ids; none is the end.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn export_tenant(
        &self,
        granted: &GrantedTenant<access::Export>,
        after: Option<Uuid>,
    ) -> Result<Vec<ExportedContext>, Error> {
        self.inner.export_tenant(granted, after).await
    }

    /// Imports contexts into the memories that they name, each with the number of its line. What is refused is part of the answer.
    ///
    /// # Errors
    /// When the store fails; some contexts may be imported then, and importing all of them again is harmless.
    pub async fn import_tenant(
        &self,
        granted: &GrantedTenant<access::Import>,
        lines: Vec<(usize, ExportedContext)>,
    ) -> Result<Imported, Error> {
        let granted = granted.clone();
        self.write(move |inner| async move { inner.import_tenant(&granted, lines).await }).await
    }

    /// Whose sidecar it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    /// The agent's own memory.
    #[cfg(test)]
    fn owner(&self) -> &Owner {
        &self.inner.owner
    }

    /// Lets all writes wait until the guard is dropped.
    #[cfg(test)]
    pub(crate) async fn hold_writes(&self) -> tokio::sync::RwLockWriteGuard<'_, ()> {
        self.inner.writes.write().await
    }

    /// What this sidecar measures.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Figures of a memory.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn stats(&self, granted: &Granted<access::Read>) -> Result<Stats, Error> {
        self.inner.resolve_if_possible().await;
        self.inner.figures(granted.reach()).await
    }

    /// How many expired contexts the store still has of those that this sidecar collects: its own agent's, and those of the shared
    /// spaces that its agent may write to.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn count_garbage(&self) -> Result<usize, Error> {
        self.inner.garbage().await
    }

    /// Deletes at most `limit` of these, and says how many; fewer than `limit` were all of them.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn collect_garbage(&self, limit: usize) -> Result<usize, Error> {
        self.detached(move |inner| with_one_model(inner, move |inner| async move { inner.collect(limit).await })).await
    }

    /// The regular work beside the requests: access counts, promotion, capacities, gauges, flush.
    ///
    /// # Errors
    /// When a part of it fails; it is tried again at the next call.
    pub async fn tick(&self) -> Result<(), Error> {
        self.detached(|inner| with_one_model(inner, |inner| async move { inner.upkeep().await })).await
    }

    /// Gives some of the contexts that lack vectors of the current model theirs. Says how long to wait before the next call, which
    /// keeps the configured rate; `None` is the end for now.
    ///
    /// # Errors
    /// When the embedding or the store fails; it is tried again at the next call.
    pub async fn embed_missing(&self) -> Result<Option<Duration>, Error> {
        self.detached(|inner| with_one_model(inner, |inner| async move { inner.embed_missing().await })).await
    }

    /// Returns when a context was stored without vectors.
    pub async fn vectors_are_missing(&self) {
        self.inner.re_embedding.expected().await;
    }

    /// Returns when a write waits in the journal.
    pub async fn journaled(&self) {
        self.inner.pending.arrival().await;
    }

    /// Brings the oldest journaled writes to the store. Says whether more are waiting.
    ///
    /// # Errors
    /// When the store fails; the writes stay where they are.
    pub async fn drain(&self) -> Result<bool, Error> {
        self.detached(|inner| with_one_model(inner, |inner| async move { inner.drain().await })).await
    }

    /// Takes over a changed configuration. What is under way keeps the old one.
    ///
    /// # Errors
    /// When the embedder cannot be made, or would make vectors that the store cannot compare with those it has and the configuration
    /// does not want them made anew.
    pub async fn reconfigure(&self, config: &SidecarConfig) -> Result<(), Error> {
        let inner = &self.inner;
        let current = inner.embedding.load_full();
        if !current.is_made_by(config) {
            let built = embedder::build(&config.embedding, &inner.breaker, inner.token.as_ref(), &inner.metrics);
            let embedder = built.map_err(Error::Embedder)?;
            let (had, wants) = (current.model(), Embedding::new(Arc::clone(&embedder), config).model());
            if had == wants {
                inner.embedding.store(Arc::new(Embedding::new(embedder, config)));
            } else if on_model_change(config) == OnModelChange::Refuse {
                return Err(Error::ModelChanged { stored: had.to_string(), wanted: wants.to_string() });
            } else {
                // Begun, it is finished even if nobody waits for it.
                let (inner, config) = (Arc::clone(inner), config.clone());
                let change = async move { inner.change_model(embedder, &config).await };
                tokio::spawn(change.in_current_span()).await.map_err(|_| Error::Interrupted)??;
            }
        }
        inner.policy.store(Arc::new(Policy::of(config)));
        inner.access.store(Arc::new(Access::new(&inner.identity, &config.access)));
        inner.look_after_memories();
        Ok(())
    }

    /// How the parts are.
    #[must_use]
    pub fn readiness(&self) -> Vec<Part> {
        let embedding = self.inner.embedding.load();
        let mut store = self.inner.store_health.part("store", "writes and reads succeed");
        if let Some(shortage) = self.inner.store.shortage() {
            store = Part { degraded: true, detail: format!("writes are refused: {shortage}"), ..store };
        }
        if let Some(trouble) = self.inner.store.trouble() {
            store = Part { degraded: true, detail: trouble, ..store };
        }
        let re_embedding = self.inner.re_embedding.part(&embedding.model().name);
        let warnings = self.inner.warnings.iter().cloned();
        let rest = self.inner.pending.part().into_iter().chain(re_embedding).chain(warnings);
        [store, embedding.part()].into_iter().chain(rest).collect()
    }

    /// Writes what is still in memory and closes the store; every later operation fails.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn shutdown(&self) -> Result<(), Error> {
        self.detached(|inner| with_one_model(inner, |inner| async move { inner.finish().await })).await
    }

    /// Runs a write of a request to its end, without a change of the model meanwhile.
    async fn write<T, F>(&self, work: impl FnOnce(Arc<Inner>) -> F + Send + 'static) -> Result<T, Error>
    where
        T: Effect + Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let work = move |inner: Arc<Inner>| async move {
            inner.resolve_if_possible().await;
            work(inner).await
        };
        self.audited(move |inner| with_one_model(inner, work)).await
    }

    /// The same for a write that may take long: it sees to the model by itself, a page at a time, because whoever changes the model waits for
    /// all that is under way, and everybody else for them.
    async fn write_in_pages<T, F>(&self, work: impl FnOnce(Arc<Inner>) -> F + Send + 'static) -> Result<T, Error>
    where
        T: Effect + Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        self.audited(move |inner| async move {
            with_one_model(Arc::clone(&inner), |inner| async move { inner.resolve_if_possible().await }).await;
            work(inner).await
        })
        .await
    }

    /// Runs a write of a request to its end, whether or not its caller waits for it. The request lasts until then, and its line of the audit
    /// log has how the write ended.
    async fn audited<T, F>(&self, work: impl FnOnce(Arc<Inner>) -> F + Send + 'static) -> Result<T, Error>
    where
        T: Effect + Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let Some(ongoing) = Ongoing::current() else { return self.detached(work).await };
        ongoing.line().begin();
        let audited = move |inner| async move {
            let ended = work(inner).await;
            ongoing.line().end(effect::of(&ended));
            ended
        };
        self.detached(audited).await
    }

    /// Runs `work` to its end, whether or not somebody waits for it.
    async fn detached<T, F>(&self, work: impl FnOnce(Arc<Inner>) -> F + Send + 'static) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        match tokio::spawn(work(Arc::clone(&self.inner)).in_current_span()).await {
            Ok(result) => result,
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(Error::Interrupted),
            },
        }
    }
}

/// Runs `work` without a change of the model meanwhile.
async fn with_one_model<F: Future>(inner: Arc<Inner>, work: impl FnOnce(Arc<Inner>) -> F) -> F::Output {
    let _shared = inner.models.read().await;
    inner.forget_what_is_lost();
    work(Arc::clone(&inner)).await
}

fn on_model_change(config: &SidecarConfig) -> OnModelChange {
    match config.embedding.on_model_change {
        config::OnModelChange::ReEmbed => OnModelChange::ReEmbed,
        config::OnModelChange::Refuse => OnModelChange::Refuse,
    }
}

/// What the configuration gives up, said in metrics and on the health page for as long as it does.
fn warnings(config: &SidecarConfig, metrics: &Metrics) -> Vec<Part> {
    let is_unverified = matches!(&config.store, Store::Qdrant(store) if store.is_unverified());
    metrics.store.tls_unverified.set(is_unverified.into());
    let detail = "store.qdrant.verify is off: whoever is on the way to Qdrant can read and change every context";
    let part = Part { name: "store_tls", ready: true, degraded: true, detail: detail.to_owned() };
    is_unverified.then_some(part).into_iter().collect()
}
