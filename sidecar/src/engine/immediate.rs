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

/// Most contexts in memory, of all sessions together: about 8 MB with 384 dimensions, unless their texts are long.
const MOST: usize = 2_048;
/// Most bytes of them: an eighth of what a sidecar has by default, however long their texts are.
const MOST_BYTES: usize = 32 << 20;
/// What a context takes beside what was written and its vectors.
const OVERHEAD: usize = 1_024;

/// A context in memory, with its vectors.
pub(super) type Held = (Arc<Context>, Arc<Vectors>);

/// A context in memory, with the bytes that are counted for it.
struct Kept {
    held: Held,
    bytes: usize,
}

#[derive(Default)]
struct Ring {
    contexts: HashMap<ContextId, Kept>,
    /// Of all contexts.
    bytes: usize,
    /// Whether some had to be left out since the start.
    incomplete: bool,
    /// Whether what the store has was put in since the start.
    filled: bool,
    /// Up to where contexts were compared with the store.
    compared: Option<ContextId>,
}

impl Ring {
    fn insert(&mut self, context: &Context, vectors: &Vectors) {
        self.remove(context.id);
        let bytes = bytes(context, vectors);
        self.bytes += bytes;
        let held = (Arc::new(context.clone()), Arc::new(vectors.clone()));
        self.contexts.insert(context.id, Kept { held, bytes });
    }

    fn remove(&mut self, id: ContextId) {
        if let Some(kept) = self.contexts.remove(&id) {
            self.bytes -= kept.bytes;
        }
    }

    fn remove_if(&mut self, goes: impl Fn(&Context) -> bool) {
        self.contexts.retain(|_, kept| !goes(&kept.held.0));
        self.bytes = self.contexts.values().map(|kept| kept.bytes).sum();
    }

    /// The oldest leave until there is room for the others.
    fn hold_bounds(&mut self) {
        while self.contexts.len() > MOST || self.bytes > MOST_BYTES {
            let oldest = self.contexts().map(|context| (context.created_at, context.id)).min();
            let Some((_, oldest)) = oldest else { return };
            self.remove(oldest);
            self.incomplete = true;
        }
    }

    fn held(&self) -> impl Iterator<Item = &Held> {
        self.contexts.values().map(|kept| &kept.held)
    }

    fn contexts(&self) -> impl Iterator<Item = &Context> {
        self.held().map(|(context, _)| context.as_ref())
    }
}

/// What a context and its vectors take in memory.
fn bytes(context: &Context, Vectors { dense_self, dense_ctx, sparse_self, sparse_ctx }: &Vectors) -> usize {
    let dense = [dense_self, dense_ctx].into_iter().flatten().map(|values| size_of_val(values.as_slice()));
    let sparse =
        [sparse_self, sparse_ctx].into_iter().map(|terms| size_of_val(terms.indices()) + size_of_val(terms.values()));
    OVERHEAD + context.written_bytes() + dense.chain(sparse).sum::<usize>()
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
            ring.remove(context.id);
            return;
        }
        ring.insert(context, vectors);
        ring.hold_bounds();
    }

    /// Those of these contexts of the store that belong here, and are not here or only as they were before.
    pub(super) fn lacking<'a>(&self, stored: impl Iterator<Item = &'a Context>) -> Vec<ContextId> {
        let ring = self.ring();
        let belongs =
            |context: &Context| self.own.owns(context) && context.level == Level::Immediate && context.is_current();
        let is_held = |context: &Context| {
            ring.contexts.get(&context.id).is_some_and(|kept| kept.held.0.version == context.version)
        };
        stored.filter(|&context| belongs(context) && !is_held(context)).map(|context| context.id).collect()
    }

    /// Forgets the dense vectors: another model makes them from now on. Their bytes stay counted, since new ones come.
    pub(super) fn forget_dense(&self) {
        for kept in self.ring().contexts.values_mut() {
            let vectors = Arc::make_mut(&mut kept.held.1);
            (vectors.dense_self, vectors.dense_ctx) = (None, None);
        }
    }

    pub(super) fn remove(&self, id: ContextId) {
        self.ring().remove(id);
    }

    pub(super) fn remove_matching(&self, wanted: &Wanted) {
        self.ring().remove_if(|context| wanted.matches(context));
    }

    /// Forgets all, and that it was filled.
    pub(super) fn forget(&self) {
        *self.ring() = Ring::default();
    }

    pub(super) fn drop_expired(&self, now: Timestamp) {
        let mut ring = self.ring();
        ring.remove_if(|context| context.is_expired(now));
        // What had to be left out may have room now; the next turn of the upkeep looks for it.
        if ring.incomplete && ring.contexts.len() < MOST / 2 && ring.bytes < MOST_BYTES / 2 {
            (ring.filled, ring.incomplete) = (false, false);
        }
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
        let of_session = || ring.contexts().filter(|context| context.session.as_ref() == session);
        immediate::evicted(of_session(), capacity, now)
            .into_iter()
            .filter_map(|id| ring.contexts.get(&id))
            .map(|kept| kept.held.0.as_ref())
            .filter(|context| !context.is_expired(now))
            .cloned()
            .collect()
    }

    /// A context that is held, with its vectors.
    pub(super) fn get(&self, id: ContextId, now: Timestamp) -> Option<Point> {
        let found = self.ring().contexts.get(&id).map(|kept| kept.held.clone());
        let found = found.filter(|(context, _)| !context.is_expired(now));
        found.map(|(context, vectors)| Point {
            context: Arc::unwrap_or_clone(context),
            vectors: Arc::unwrap_or_clone(vectors),
        })
    }

    /// The next contexts to compare with the store, at most `limit`, one after the other in the order of their ids and then from the first
    /// one on again.
    pub(super) fn next_to_compare(&self, limit: usize) -> Vec<Arc<Context>> {
        let mut ring = self.ring();
        let mut next: Vec<Arc<Context>> = ring.held().map(|(context, _)| Arc::clone(context)).collect();
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
        self.ring().held().filter(|(context, _)| !context.is_expired(now) && wanted.matches(context)).cloned().collect()
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

#[cfg(test)]
mod tests {
    use context_manager_memory::{AgentId, SparseVector, TenantId};
    use uuid::Uuid;

    use super::*;

    /// A context that was stored at this time, with a text of so many bytes.
    fn context(at: u16, bytes: usize) -> Context {
        let (id, at) = (ContextId::new(Uuid::from_u128(u128::from(at))), Timestamp::from_millis(at.into()));
        let (tenant, agent) = (TenantId::new("team-a").expect("a name"), AgentId::new("agent").expect("a name"));
        Context::new(id, tenant, agent, Level::Immediate, "x".repeat(bytes), at)
    }

    #[test]
    fn the_oldest_leave_when_the_others_have_all_the_room() {
        let immediate = Immediate::new(Owner::of(&context(1, 1)));
        immediate.set_filled();
        let terms = SparseVector::from_pairs((0..8_192).map(|term| (term, 1.0)));
        let dense_self = Some(vec![0.0; 384]);
        let vectors = Vectors { dense_self, dense_ctx: None, sparse_self: terms.clone(), sparse_ctx: terms };
        let counted = || {
            let ring = immediate.ring();
            assert_eq!(ring.bytes, ring.contexts.values().map(|kept| kept.bytes).sum::<usize>());
            (ring.contexts.len(), ring.bytes)
        };
        for at in 1..=100 {
            immediate.put(&context(at, 64 << 10), &vectors);
        }
        assert!(immediate.is_complete() && counted().0 == 100, "there is room for all");
        for at in 101..=400 {
            immediate.put(&context(at, 64 << 10), &vectors);
        }
        let (contexts, bytes) = counted();
        assert!((30 << 20..=MOST_BYTES).contains(&bytes), "{bytes} bytes");
        assert!(immediate.is_over_full() && !immediate.is_complete());
        let now = Timestamp::from_millis(400);
        let is_held = |at: u16| immediate.get(context(at, 1).id, now).is_some();
        let oldest = 401 - u16::try_from(contexts).expect("a few contexts");
        assert!(is_held(oldest) && is_held(400) && !is_held(oldest - 1), "the newest {contexts} are held");

        // What is changed, forgotten or removed is counted once.
        immediate.put(&Context { version: 2, ..context(400, 10) }, &Vectors::default());
        let shorter = counted();
        assert!(shorter.0 == contexts && shorter.1 < bytes - (190 << 10), "{shorter:?}");
        immediate.forget_dense();
        immediate.put(&Context { level: Level::ShortTerm, ..context(399, 10) }, &Vectors::default());
        immediate.remove(context(398, 1).id);
        immediate.remove(context(1, 1).id);
        immediate.put(&Context { expires_at: Some(now), ..context(397, 10) }, &Vectors::default());
        immediate.drop_expired(now);
        assert_eq!(counted().0, contexts - 3);
        for at in oldest..=400 {
            immediate.remove(context(at, 1).id);
        }
        assert_eq!(counted(), (0, 0));
    }

    #[test]
    fn there_are_never_more_than_the_most_however_small_they_are() {
        let immediate = Immediate::new(Owner::of(&context(1, 1)));
        for at in 1..=2_050 {
            immediate.put(&context(at, 1), &Vectors::default());
        }
        let ring = immediate.ring();
        assert!(ring.contexts.len() == MOST && ring.incomplete);
        assert!(ring.bytes < MOST_BYTES / 8, "{} bytes", ring.bytes);
    }
}
