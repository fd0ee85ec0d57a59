//! Writes that were given up and may still take effect, and deletions that they would undo.
//!
//! A call without an answer may lie in a connection or in a node that stands still, and be applied when that goes on. To write again does
//! no harm: a first write leaves what is there. But once the context is deleted nothing is there, and the late call brings it back. So the
//! deletion of a context in doubt is remembered: readers do not see what comes back, and it is deleted again.
//!
//! In memory, and for [`DOUBT`]: a restart forgets it, and what comes later than that stays.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use context_manager_memory::{Context, ContextId, Timestamp};
use tracing::warn;

use super::{Error, Inner, locks::Key, now};
use crate::{
    breaker,
    ports::vector_store::{self, Owner},
};

/// How long after it was given up a write may take effect.
const DOUBT: Duration = Duration::from_hours(1);
/// Most writes in doubt; further ones are not remembered. Only the oldest waiting writes are tried while the store is away.
const MOST: usize = 10_000;
/// Contexts of one look.
const BATCH: usize = 100;

/// What is in doubt.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What the writes would bring.
    writes: HashMap<ContextId, Write>,
    deleted: Arc<Deleted>,
}

#[derive(Clone, Copy, Debug)]
struct Write {
    /// The context of which it is an earlier version; else the context itself.
    of: ContextId,
    brings: Version,
    until: Instant,
}

/// By which what came back is told from what somebody else wrote under its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    number: i64,
    since: Timestamp,
}

impl From<&Context> for Version {
    fn from(context: &Context) -> Self {
        Self { number: context.version, since: context.updated_at }
    }
}

/// Deleted contexts that a write in doubt may bring back.
#[derive(Clone, Debug, Default)]
pub(super) struct Deleted(HashMap<ContextId, Tombstone>);

#[derive(Clone, Debug)]
struct Tombstone {
    owner: Owner,
    write: Write,
    /// When it was deleted; what was stored later under its id is not meant.
    at: Timestamp,
}

impl Deleted {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a context of the store is one that came back.
    pub(super) fn has(&self, context: &Context) -> bool {
        self.0.get(&context.id).is_some_and(|Tombstone { owner, write, at }| {
            owner.owns(context) && write.brings == Version::from(context) && context.created_at <= *at
        })
    }
}

impl Doubts {
    /// Notes writes of contexts without an answer.
    fn note<'a>(&self, contexts: impl Iterator<Item = &'a Context>, now: Instant) {
        let mut state = self.state();
        state.writes.retain(|_, write| write.until > now);
        for context in contexts {
            if state.writes.len() < MOST || state.writes.contains_key(&context.id) {
                let of = context.version_of.unwrap_or(context.id);
                state.writes.insert(context.id, Write { of, brings: Version::from(context), until: now + DOUBT });
            }
        }
    }

    /// Remembers the deletion of an owner's contexts `at` a time, as far as they or earlier versions of them are in doubt. Says whether any is.
    fn bury(&self, owner: &Owner, ids: &[ContextId], at: Timestamp, now: Instant) -> bool {
        let mut state = self.state();
        let State { writes, deleted } = &mut *state;
        let concerned = writes.iter().filter(|(_, write)| write.until > now && ids.contains(&write.of));
        let mut buried = concerned.map(|(id, write)| (*id, *write)).peekable();
        if buried.peek().is_none() {
            return false;
        }
        let tombstones = buried.map(|(id, write)| (id, Tombstone { owner: owner.clone(), write, at }));
        Arc::make_mut(deleted).0.extend(tombstones);
        true
    }

    /// Forgets the deletions that are meant. Says whether there were any.
    fn lift(&self, is_meant: impl Fn(&ContextId, &Write) -> bool) -> bool {
        let mut state = self.state();
        if !state.deleted.0.iter().any(|(id, tombstone)| is_meant(id, &tombstone.write)) {
            return false;
        }
        Arc::make_mut(&mut state.deleted).0.retain(|id, tombstone| !is_meant(id, &tombstone.write));
        true
    }

    /// Forgets the deletions of these ids that are in doubt no longer. Says whether there were any.
    fn settle(&self, ids: &[ContextId], now: Instant) -> bool {
        self.lift(|id, write| write.until <= now && ids.contains(id))
    }

    /// The deletions that are remembered.
    fn deleted(&self) -> Arc<Deleted> {
        Arc::clone(&self.state().deleted)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Notes that contexts were written and no answer came; a call that was not even made leaves no doubt.
    pub(super) fn doubt<'a>(&self, error: &Error, contexts: impl Iterator<Item = &'a Context>) {
        if let Error::Store(vector_store::Error::Failed(reason)) = error
            && !reason.is::<breaker::Open>()
        {
            self.doubts.note(contexts, Instant::now());
        }
    }

    /// Remembers that contexts are deleted, before they are: nobody sees those that come back.
    pub(super) fn bury(&self, owner: &Owner, ids: &[ContextId], at: Timestamp) {
        if self.doubts.bury(owner, ids, at, Instant::now()) {
            self.hide_deleted();
        }
    }

    /// These ids are not those of deleted contexts any more: they are stored anew.
    pub(super) fn unbury(&self, ids: &[ContextId]) {
        if self.doubts.lift(|id, _| ids.contains(id)) {
            self.hide_deleted();
        }
    }

    /// These contexts, with all that they were before, are not deleted after all: the store has refused it.
    pub(super) fn unbury_with_versions(&self, ids: &[ContextId]) {
        if self.doubts.lift(|_, write| ids.contains(&write.of)) {
            self.hide_deleted();
        }
    }

    /// Deletes again what came back of all that is in doubt.
    pub(super) async fn delete_all_again(&self) -> Result<(), Error> {
        let deleted = self.doubts.deleted();
        let ids: Vec<ContextId> = deleted.0.keys().copied().collect();
        for ids in ids.chunks(BATCH) {
            let since = Instant::now();
            let found = self.store_health.note(self.store.find(ids.to_vec()).await)?;
            let back: Vec<_> = found.iter().filter(|context| deleted.has(context)).map(|context| context.id).collect();
            if !back.is_empty() {
                let _write = self.writes.read().await;
                let _held = self.locks.hold(back.iter().map(|id| Key::Context(*id))).await;
                self.delete_again(&back).await?;
            }
            if self.doubts.settle(ids, since) {
                self.hide_deleted();
            }
        }
        Ok(())
    }

    /// Deletes again what came back of these, so that their ids are free. The caller holds their locks.
    pub(super) async fn delete_again(&self, ids: &[ContextId]) -> Result<(), Error> {
        let deleted = self.doubts.deleted();
        let ids: Vec<ContextId> = ids.iter().copied().filter(|id| deleted.0.contains_key(id)).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let found = self.store_health.note(self.store.find(ids).await)?;
        let mut back: HashMap<Owner, Vec<ContextId>> = HashMap::new();
        for context in found.iter().filter(|context| deleted.has(context)) {
            back.entry(Owner::of(context)).or_default().push(context.id);
        }
        for (owner, ids) in back {
            warn!(
                contexts = ids.len(),
                "A call that was given up took effect late and brought deleted contexts back; they are deleted again"
            );
            self.metrics.store.late.inc_by(ids.len() as u64);
            self.store_health.note(self.store.delete(&owner, ids).await)?;
        }
        Ok(())
    }

    fn hide_deleted(&self) {
        self.pending.hide(|| self.doubts.deleted());
    }

    /// When a deletion is made: what was stored by then is meant, also if the clock was set back since.
    pub(super) fn deletion_time<'a>(contexts: impl Iterator<Item = &'a Context>) -> Timestamp {
        contexts.map(|context| context.created_at).fold(now(), Timestamp::max)
    }
}

#[cfg(test)]
mod tests {
    use context_manager_memory::{AgentId, Level, TenantId, history};
    use uuid::Uuid;

    use super::*;

    fn context(number: u128, at: i64) -> Context {
        let (tenant, agent) = (TenantId::new("team").expect("a name"), AgentId::new("planner").expect("a name"));
        let id = ContextId::new(Uuid::from_u128(number));
        Context::new(id, tenant, agent, Level::LongTerm, "tea", Timestamp::from_millis(at))
    }

    #[test]
    fn only_what_is_in_doubt_is_remembered_and_as_long_as_it_is() {
        let doubts = Doubts::default();
        let [doubtful, sure] = [context(1, 5), context(2, 5)];
        let earlier = history::earlier(&doubtful, Timestamp::from_millis(6), Timestamp::from_millis(99));
        let owner = Owner::of(&doubtful);
        let (start, at) = (Instant::now(), Timestamp::from_millis(7));
        doubts.note([&doubtful, &earlier].into_iter(), start);
        assert!(!doubts.bury(&owner, &[sure.id], at, start));
        assert!(doubts.bury(&owner, &[sure.id, doubtful.id], at, start));
        let deleted = doubts.deleted();
        assert!(deleted.has(&doubtful) && deleted.has(&earlier) && !deleted.has(&sure));
        assert!(!deleted.has(&context(1, 8)), "it was stored later");
        let changed = Context { version: 2, updated_at: Timestamp::from_millis(6), ..doubtful.clone() };
        assert!(!deleted.has(&changed), "somebody else imported it as it was later");

        let ids = [doubtful.id, earlier.id];
        assert!(!doubts.settle(&ids, start + DOUBT / 2));
        assert!(doubts.settle(&ids, start + DOUBT));
        assert!(doubts.deleted().is_empty());
        assert!(!doubts.bury(&owner, &ids, at, start + DOUBT), "it is not in doubt any more");

        doubts.note([&doubtful, &earlier].into_iter(), start);
        assert!(doubts.bury(&owner, &[doubtful.id], at, start));
        assert!(!doubts.lift(|_, write| write.of == sure.id));
        assert!(doubts.lift(|_, write| write.of == doubtful.id) && doubts.deleted().is_empty());
    }
}
