//! The port to where contexts are kept and found.
//!
//! Owns the contract: a write that returned survives the end of the process; every call but those that say otherwise is
//! about one [`Owner`], so nobody else's contexts can be reached; nothing expired at the given time is returned. A call that is
//! dropped half-way may still take effect.
//!
//! Dense vectors are those of one model at a time. What other models have made may lie beside them and is neither returned nor
//! compared.

use std::{error::Error as StdError, sync::Arc};

use async_trait::async_trait;
use context_manager_memory::{
    Context, ContextId, PerLevel, SessionId, SparseVector, Timestamp, Vectors, frequencies::DocumentFrequencies,
    rank::Candidate,
};

pub use context_manager_memory::store::{
    Access, Condition, Dense, Expiry, Ids, Model, NewDense, OnModelChange, Operator, Owner, Page, Point, Scalar,
    Search, Selection, Sessions, Stats, Tenant, Updated, Validity,
};

use super::Retry;
use crate::space::Full;

/// Keeps and finds contexts.
#[async_trait]
pub trait VectorStore: Send + Sync + 'static {
    /// Stores new contexts, all or none. One whose id is taken stays as it is, so that a call which takes effect late, after its caller gave
    /// up and wrote again, takes nothing back; unless it is the same owner's, expired at `now`, and the ids are claimed.
    async fn insert(&self, points: Vec<Point>, ids: Ids, now: Timestamp) -> Result<(), Error>;

    /// Stores contexts, all or none; one that is there already is replaced.
    async fn upsert(&self, points: Vec<Point>) -> Result<(), Error>;

    /// Replaces a context if it still has the version `expected`; with `None` as vectors those it has stay. The counts of its
    /// accesses stay as they are in the store.
    async fn update(&self, context: Context, vectors: Option<Vectors>, expected: i64) -> Result<Updated, Error>;

    /// Lets an owner's contexts expire at these times; everything else about them stays. What is not there any more is left out.
    async fn set_expiries(&self, owner: &Owner, expiries: Vec<(ContextId, Timestamp)>) -> Result<(), Error>;

    /// Contexts by id, whoever owns them and expired or not: only for telling whether an id is taken.
    async fn find(&self, ids: Vec<ContextId>) -> Result<Vec<Context>, Error>;

    /// An owner's contexts with these ids, with their vectors.
    async fn get(&self, owner: &Owner, ids: Vec<ContextId>, now: Timestamp) -> Result<Vec<Point>, Error>;

    /// The candidates of several searches with their exact scores, in one round trip.
    async fn candidates(&self, searches: Vec<Search>) -> Result<Vec<Candidate>, Error>;

    /// How many of an owner's current contexts have each term of a query, which is what a search weighs by that brings no
    /// frequencies of its own.
    async fn document_frequencies(&self, owner: &Owner, query: SparseVector) -> Result<DocumentFrequencies, Error>;

    /// A page of contexts in the order of their ids, from the id `from` on.
    async fn list(&self, selection: Selection, from: Option<ContextId>, limit: usize) -> Result<Page, Error>;

    /// The selected contexts that were stored last, newest first, at most `limit` of them.
    async fn latest(&self, selection: Selection, limit: usize) -> Result<Vec<Context>, Error>;

    /// A page of a tenant's contexts, whoever in it holds them, in the order of their ids, from the id `from` on: only for moving the
    /// tenant.
    async fn list_tenant(&self, tenant: &Tenant, from: Option<ContextId>, limit: usize) -> Result<Page, Error>;

    /// How many contexts are alive on each level.
    async fn counts_by_level(&self, owner: &Owner, now: Timestamp) -> Result<PerLevel<usize>, Error>;

    /// How many contexts are selected.
    async fn count(&self, selection: Selection) -> Result<usize, Error>;

    /// The end of a session: the highest number given in it, expired contexts included, and its last living context.
    async fn session_end(&self, owner: &Owner, session: &SessionId, now: Timestamp) -> Result<SessionEnd, Error>;

    /// The last living context of a session before the one with the number `sequence`.
    async fn before(
        &self,
        owner: &Owner,
        session: &SessionId,
        sequence: i64,
        now: Timestamp,
    ) -> Result<Option<Context>, Error>;

    /// The first living context of a session after the one with the number `sequence`.
    async fn after(
        &self,
        owner: &Owner,
        session: &SessionId,
        sequence: i64,
        now: Timestamp,
    ) -> Result<Option<Context>, Error>;

    /// Adds to access counts; what is not there any more is left out.
    async fn count_accesses(&self, owner: &Owner, accesses: Vec<Access>) -> Result<(), Error>;

    /// Deletes an owner's contexts, and says how many there were.
    async fn delete(&self, owner: &Owner, ids: Vec<ContextId>) -> Result<usize, Error>;

    /// Deletes at most `limit` of the selected contexts, and says how many; fewer than `limit` were all of them.
    async fn delete_selected(&self, selection: Selection, limit: usize) -> Result<usize, Error>;

    /// How many contexts of these owners, or of all when none are named, are expired at `now` and still there.
    async fn count_expired(&self, owners: Option<&[Owner]>, now: Timestamp) -> Result<usize, Error>;

    /// Deletes at most `limit` contexts of these owners, or of all when none are named, that are expired at `now` and not `spared`, and says
    /// how many; fewer than `limit` were all of them.
    async fn delete_expired(
        &self,
        owners: Option<&[Owner]>,
        spared: &[ContextId],
        now: Timestamp,
        limit: usize,
    ) -> Result<usize, Error>;

    /// What the store holds, of all owners.
    async fn stats(&self) -> Result<Stats, Error>;

    /// From now on dense vectors are this model's. Those of the former one stay; contexts that have none of the new one count as
    /// [`Dense::Missing`]. A failure leaves the former one in force.
    async fn switch_model(&self, model: Model) -> Result<(), Error>;

    /// Gives contexts their dense vectors, if they still have the version that is named; everything else about them stays.
    async fn set_vectors(&self, owner: &Owner, vectors: Vec<NewDense>) -> Result<(), Error>;

    /// Drops other models' vectors of at most `limit` of an owner's contexts, and says how many had some; fewer than `limit` were
    /// all of them.
    async fn drop_former_vectors(&self, owner: &Owner, limit: usize) -> Result<usize, Error>;

    /// Makes all writes survive the end of the machine.
    async fn flush(&self) -> Result<(), Error>;

    /// Gives back the space of what was deleted, if enough was to be worth it. Says whether it did anything.
    async fn compact(&self) -> Result<bool, Error>;

    /// Whether other sidecars keep contexts in it as well.
    fn is_shared(&self) -> bool {
        true
    }

    /// What is missing on its disk, if writes are refused for that, or were of late.
    fn shortage(&self) -> Option<Full> {
        None
    }

    /// How often all that it holds was gone for a while, by another's hand: what came back may be nothing, or what was there before, so what
    /// is remembered of it is not to be relied on.
    fn losses(&self) -> u64 {
        0
    }

    /// What a person has to know beside what the last call said.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Finishes what is under way, flushes, and lets go of the store; every later call fails with [`Error::Closed`].
    async fn close(&self) -> Result<(), Error>;
}

/// The end of a session.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SessionEnd {
    /// The highest number given; `None` in a new session.
    pub sequence: Option<i64>,
    /// The last context that is alive.
    pub last: Option<Context>,
}

/// Why a call failed. What the store said is for the log; the caller is told that it failed and whether to try again.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The store works, and does not take this call: what it carries cannot be stored, or a limit of the store forbids it. It may
    /// take others.
    #[error("the vector store refuses the call")]
    Refused(#[source] Arc<dyn StdError + Send + Sync>),
    /// The settings do not fit the store, so that it cannot be used at all.
    #[error("the vector store cannot be used with these settings")]
    Misconfigured(#[source] Arc<dyn StdError + Send + Sync>),
    /// The store failed.
    #[error("the vector store failed")]
    Failed(#[source] Arc<dyn StdError + Send + Sync>),
    /// The disk has no room for it; nothing was written.
    #[error(transparent)]
    DiskFull(#[from] Full),
    /// The store is closed.
    #[error("the vector store is closed")]
    Closed,
}

impl Error {
    /// What is the matter, in one of a few words.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::Misconfigured(_) => "misconfigured",
            Self::Failed(_) => "failed",
            Self::DiskFull(_) => "disk_full",
            Self::Closed => "closed",
        }
    }

    /// Whether and when the same call may be made again.
    #[must_use]
    pub const fn retry(&self) -> Retry {
        match self {
            Self::Refused(_) | Self::Misconfigured(_) | Self::Closed => Retry::Never,
            Self::Failed(_) | Self::DiskFull(_) => Retry::Backoff,
        }
    }
}
