//! L1: the immediate contexts in memory, a copy of what the store has on that level.
//!
//! It answers searches that ask for nothing else, decides which contexts leave a full ring, and is what is left when the store
//! fails. Its size is bounded; when it cannot hold all, it says so, and the store is asked instead.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use context_manager_memory::{
    Context, ContextId, Level, QueryVectors, SessionId, Timestamp, Vectors, immediate, local, rank::Candidate,
};

use super::filter::Wanted;

/// Most contexts in memory, of all sessions together: about 8 MB with 384 dimensions.
const MOST: usize = 2_048;

#[derive(Default)]
struct Ring {
    contexts: HashMap<ContextId, (Context, Vectors)>,
    /// Whether some had to be left out since the start.
    incomplete: bool,
}

/// The copy.
#[derive(Default)]
pub(super) struct Immediate(Mutex<Ring>);

impl Immediate {
    /// Puts in the current state of a context, or takes it out if it is on another level by now.
    pub(super) fn put(&self, context: &Context, vectors: &Vectors) {
        let mut ring = self.ring();
        if context.level != Level::Immediate {
            ring.contexts.remove(&context.id);
            return;
        }
        ring.contexts.insert(context.id, (context.clone(), vectors.clone()));
        if ring.contexts.len() > MOST {
            let oldest = ring.contexts.values().map(|(context, _)| (context.created_at, context.id)).min();
            if let Some((_, oldest)) = oldest {
                ring.contexts.remove(&oldest);
            }
            ring.incomplete = true;
        }
    }

    pub(super) fn remove(&self, id: ContextId) {
        self.ring().contexts.remove(&id);
    }

    pub(super) fn clear(&self, session: &SessionId) {
        self.ring().contexts.retain(|_, (context, _)| context.session.as_ref() != Some(session));
    }

    pub(super) fn drop_expired(&self, now: Timestamp) {
        self.ring().contexts.retain(|_, (context, _)| !context.is_expired(now));
    }

    /// Whether every immediate context is here.
    pub(super) fn is_complete(&self) -> bool {
        !self.ring().incomplete
    }

    /// The living contexts that make room, so that the session has at most `capacity`.
    pub(super) fn surplus(&self, session: Option<&SessionId>, capacity: usize, now: Timestamp) -> Vec<Context> {
        let ring = self.ring();
        let of_session =
            || ring.contexts.values().map(|(context, _)| context).filter(|context| context.session.as_ref() == session);
        immediate::evicted(of_session(), capacity, now)
            .into_iter()
            .filter_map(|id| ring.contexts.get(&id))
            .map(|(context, _)| context)
            .filter(|context| !context.is_expired(now))
            .cloned()
            .collect()
    }

    /// The wanted contexts with their scores; document frequencies are those of the wanted ones.
    pub(super) fn candidates(&self, query: &QueryVectors, wanted: &Wanted, now: Timestamp) -> Vec<Candidate> {
        let found: Vec<(Context, Vectors)> = self
            .ring()
            .contexts
            .values()
            .filter(|(context, _)| !context.is_expired(now) && wanted.matches(context))
            .cloned()
            .collect();
        local::score(query, &found)
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
