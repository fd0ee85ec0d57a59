//! What a store of contexts is asked and what it answers: the vocabulary that the embedded and the remote store share.
//!
//! Owns how a context lies in a collection ([`schema`]), which contexts a call is about ([`Selection`]), how that is expressed
//! ([`Clauses`]) and what is wrong with a call itself ([`InvalidCall`]). It never calls a store.

mod clause;
mod invalid;
mod model;
pub mod schema;
mod selection;

use std::collections::BTreeMap;

use crate::{Context, ContextId, QueryVectors, Timestamp, Vectors, frequencies::DocumentFrequencies};

pub use clause::{Bounds, Clause, Clauses};
pub use invalid::InvalidCall;
pub use model::{DenseNames, Model, OnModelChange};
pub use selection::{Condition, Dense, Expiry, Operator, Owner, Scalar, Selection, Sessions, Tenant, Validity};

/// A search.
#[derive(Clone, Debug, PartialEq)]
pub struct Search {
    /// What is searched for; a missing vector leaves its two legs out.
    pub query: QueryVectors,
    /// Where.
    pub selection: Selection,
    /// How many of the best each leg contributes.
    pub per_leg: usize,
    /// By which the lexical legs weigh; by those of the owner's stored contexts when absent.
    pub frequencies: Option<DocumentFrequencies>,
}

impl Search {
    /// How many of the best each leg contributes unless said otherwise.
    pub const PER_LEG: usize = 100;
}

/// A context with its vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// The context.
    pub context: Context,
    /// Its vectors; dense ones may be missing. The engine scales dense vectors to unit length.
    pub vectors: Vectors,
}

/// Who may be writing the ids of new contexts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// They were just made, so this is the only call that has them, unless it is made again.
    Fresh,
    /// Callers chose them, or they are from before: others may write them at the same time, or have written them.
    Claimed,
}

/// The dense vectors of a context that has none of the current model yet.
#[derive(Clone, Debug, PartialEq)]
pub struct NewDense {
    /// Which one.
    pub id: ContextId,
    /// The version whose text they are of; another one keeps what it has.
    pub version: i64,
    /// Of its own text.
    pub own: Vec<f32>,
    /// Of the same text with the previous one.
    pub with_previous: Vec<f32>,
}

/// Contexts that are to expire, together with those of the same time. Of several times for one context the last one counts.
#[must_use]
pub fn by_time(expiries: &[(ContextId, Timestamp)]) -> BTreeMap<Timestamp, Vec<ContextId>> {
    let once: BTreeMap<ContextId, Timestamp> = expiries.iter().copied().collect();
    let mut by_time: BTreeMap<Timestamp, Vec<ContextId>> = BTreeMap::new();
    for (id, at) in once {
        by_time.entry(at).or_default().push(id);
    }
    by_time
}

/// A context was returned by retrievals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Which one.
    pub id: ContextId,
    /// How often since the last call.
    pub times: i64,
    /// When last.
    pub at: Timestamp,
}

/// What came of an update.
#[derive(Clone, Debug, PartialEq)]
pub enum Updated {
    /// It is done.
    Applied,
    /// The context has another version by now; nothing was changed.
    Conflict {
        /// The context as it is.
        current: Box<Context>,
    },
    /// The owner has no such context; nothing was changed.
    Missing,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The contexts, ordered by id.
    pub contexts: Vec<Context>,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<ContextId>,
}

/// What the store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Contexts, expired ones that are not collected yet included.
    pub points: usize,
    /// What the directory takes on the disk in bytes; `None` of a remote store.
    pub disk_bytes: Option<u64>,
    /// Writes since the last flush: what the end of the machine would cost, and what the next open would replay.
    pub unflushed_writes: u64,
    /// How often a stored payload turned out not to be a context; each is logged and left out of the answer.
    pub unreadable: u64,
}
