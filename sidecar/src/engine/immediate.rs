//! L1: the immediate contexts in memory, a copy of what the store has on that level.
//!
//! It answers searches that ask for nothing else, decides which contexts leave a full ring, and is what is left when the store
//! fails. Its size is bounded; when it cannot hold all, it says so, and the store is asked instead. So it is where others use the store as
//! well: what replicas of the agent store is not in here, and what they change or delete is noticed some turns of the upkeep later.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use context_manager_memory::{
    Context, ContextId, Level, QueryVectors, SessionId, Timestamp, Vectors, immediate, local, rank::Candidate,
};

use super::{filter::Wanted, pending::View};
use crate::ports::vector_store::{Owner, Point};

/// Most contexts in memory, of all sessions together: about 8 MB with 384 dimensions.
const MOST: usize = 2_048;

/// A context in memory, with its vectors.
pub(super) type Held = (Arc<Context>, Arc<Vectors>);

#[derive(Default)]
struct Ring {
    contexts: HashMap<ContextId, Held>,
    /// Whether some had to be left out since the start.
    incomplete: bool,
    /// Whether what the store has was put in since the start.
    filled: bool,
    /// Up to where contexts were compared with the store.
    compared: Option<ContextId>,
}

/// The copy.
pub(super) struct Immediate {
    own: Owner,
    ring: Mutex<Ring>,
}

impl Immediate {
    /// The empty copy of an agent's own memory.
    pub(super) fn new(own: Owner) -> Self {
        Self { own, ring: Mutex::default() }
    }

    /// Puts in the current state of a context, or takes it out if it is on another level by now. What is not the agent's own is left out.
    pub(super) fn put(&self, context: &Context, vectors: &Vectors) {
        if !self.own.owns(context) {
            return;
        }
        let mut ring = self.ring();
        if context.level != Level::Immediate || !context.is_current() {
            ring.contexts.remove(&context.id);
            return;
        }
        ring.contexts.insert(context.id, (Arc::new(context.clone()), Arc::new(vectors.clone())));
        if ring.contexts.len() > MOST {
            let oldest = ring.contexts.values().map(|(context, _)| (context.created_at, context.id)).min();
            if let Some((_, oldest)) = oldest {
                ring.contexts.remove(&oldest);
            }
            ring.incomplete = true;
        }
    }

    /// Those of these contexts of the store that belong here, and are not here or only as they were before.
    pub(super) fn lacking<'a>(&self, stored: impl Iterator<Item = &'a Context>) -> Vec<ContextId> {
        let ring = self.ring();
        let belongs =
            |context: &Context| self.own.owns(context) && context.level == Level::Immediate && context.is_current();
        let is_held =
            |context: &Context| ring.contexts.get(&context.id).is_some_and(|(held, _)| held.version == context.version);
        stored.filter(|&context| belongs(context) && !is_held(context)).map(|context| context.id).collect()
    }

    /// Forgets the dense vectors: another model makes them from now on.
    pub(super) fn forget_dense(&self) {
        for (_, vectors) in self.ring().contexts.values_mut() {
            let vectors = Arc::make_mut(vectors);
            (vectors.dense_self, vectors.dense_ctx) = (None, None);
        }
    }

    pub(super) fn remove(&self, id: ContextId) {
        self.ring().contexts.remove(&id);
    }

    pub(super) fn remove_matching(&self, wanted: &Wanted) {
        self.ring().contexts.retain(|_, (context, _)| !wanted.matches(context));
    }

    /// Forgets all, and that it was filled.
    pub(super) fn forget(&self) {
        *self.ring() = Ring::default();
    }

    pub(super) fn drop_expired(&self, now: Timestamp) {
        self.ring().contexts.retain(|_, (context, _)| !context.is_expired(now));
    }

    /// Whether some had to be left out.
    pub(super) fn is_over_full(&self) -> bool {
        self.ring().incomplete
    }

    /// Whether every immediate context is here.
    pub(super) fn is_complete(&self) -> bool {
        let ring = self.ring();
        ring.filled && !ring.incomplete
    }

    /// The living contexts that make room, so that the session has at most `capacity`.
    pub(super) fn surplus(&self, session: Option<&SessionId>, capacity: usize, now: Timestamp) -> Vec<Context> {
        let ring = self.ring();
        let of_session = || {
            ring.contexts
                .values()
                .map(|(context, _)| context.as_ref())
                .filter(|context| context.session.as_ref() == session)
        };
        immediate::evicted(of_session(), capacity, now)
            .into_iter()
            .filter_map(|id| ring.contexts.get(&id))
            .map(|(context, _)| context.as_ref())
            .filter(|context| !context.is_expired(now))
            .cloned()
            .collect()
    }

    /// A context that is held, with its vectors.
    pub(super) fn get(&self, id: ContextId, now: Timestamp) -> Option<Point> {
        let found = self.ring().contexts.get(&id).cloned().filter(|(context, _)| !context.is_expired(now));
        found.map(|(context, vectors)| Point {
            context: Arc::unwrap_or_clone(context),
            vectors: Arc::unwrap_or_clone(vectors),
        })
    }

    /// The next contexts to compare with the store, at most `limit`, one after the other in the order of their ids and then from the first
    /// one on again.
    pub(super) fn next_to_compare(&self, limit: usize) -> Vec<Arc<Context>> {
        let mut ring = self.ring();
        let mut next: Vec<Arc<Context>> = ring.contexts.values().map(|(context, _)| Arc::clone(context)).collect();
        next.sort_unstable_by_key(|context| context.id);
        let from = ring.compared.map_or(0, |last| next.partition_point(|context| context.id <= last));
        if from < next.len() {
            next.drain(..from);
        }
        next.truncate(limit);
        ring.compared = next.last().map(|context| context.id);
        next
    }

    /// Says that everything the store has on this level is here by now, or was left out on purpose.
    pub(super) fn set_filled(&self) {
        self.ring().filled = true;
    }

    /// Whether what the store has was put in since the start.
    pub(super) fn is_filled(&self) -> bool {
        self.ring().filled
    }

    /// The wanted contexts with their scores; document frequencies are those of the wanted ones. What waits in the journal takes part.
    pub(super) fn candidates(
        &self,
        query: &QueryVectors,
        wanted: &Wanted,
        view: Option<&View>,
        now: Timestamp,
    ) -> Vec<Candidate> {
        let mut found = self.matching(wanted, now);
        if let Some(view) = view {
            found.retain(|(context, _)| !view.hides(context));
            found.extend(waiting(view, wanted, now));
        }
        local::score(query, &found)
    }

    /// The wanted contexts.
    pub(super) fn matching(&self, wanted: &Wanted, now: Timestamp) -> Vec<Held> {
        self.ring()
            .contexts
            .values()
            .filter(|(context, _)| !context.is_expired(now) && wanted.matches(context))
            .cloned()
            .collect()
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The wanted contexts of those that wait in the journal.
pub(super) fn waiting(view: &View, wanted: &Wanted, now: Timestamp) -> Vec<Held> {
    let alive = view.points().filter(|point| !point.context.is_expired(now) && wanted.matches(&point.context));
    alive.map(|point| (Arc::clone(&point.context), Arc::clone(&point.vectors))).collect()
}
