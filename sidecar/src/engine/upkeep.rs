//! The work beside the requests: access counts, promotion, capacities of sessions, gauges, flush, space.
//!
//! Each turn is bounded, and what it did not manage is done by a later one. What is noted here in memory is lost with the
//! process; it is a count of accesses or a reminder, never a context.

use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::{Mutex, MutexGuard, PoisonError, atomic::Ordering},
};

use context_manager_memory::{Context, ContextId, Level, SessionId, Timestamp, Vectors, promotion};
use tracing::{debug, warn};

use super::{Error, Inner, locks::Key, now, stored_until::FROM_A_FAST_CLOCK};
use crate::ports::vector_store::{Access, Owner, Point, Selection, Sessions, Updated};

/// Most contexts whose accesses are noted between two turns; further ones are not counted.
const MOST_ACCESSED: usize = 10_000;
/// Most sessions that are noted because they have got a context. One that is not is looked at when it gets the next one; until then,
/// or until they expire, it may have more short-term contexts than it should.
const MOST_TOUCHED: usize = 4_096;
/// Most sessions that are looked at in one turn.
pub(super) const HELD_AT_ONCE: usize = 256;
/// Accesses of one write to the store, and contexts that make room at once.
const BATCH: usize = 128;
/// Contexts of one read of the store.
const PAGE: usize = 100;

/// What is to be done.
#[derive(Default)]
pub(super) struct Upkeep {
    accesses: Mutex<HashMap<(Owner, ContextId), (i64, Timestamp)>>,
    touched: Mutex<HashSet<(Owner, SessionId)>>,
}

impl Upkeep {
    /// Notes that contexts were returned.
    pub(super) fn count_accesses<'a>(&self, contexts: impl Iterator<Item = &'a Context>, now: Timestamp) {
        let mut accesses = lock(&self.accesses);
        for context in contexts {
            let key = (Owner::of(context), context.id);
            if accesses.len() < MOST_ACCESSED || accesses.contains_key(&key) {
                let (times, at) = accesses.entry(key).or_insert((0, now));
                *times += 1;
                *at = now;
            }
        }
    }

    /// Takes what was noted, in batches of one owner's each.
    fn take_accesses(&self) -> Taken<'_> {
        let mut by_owner: HashMap<Owner, Vec<Access>> = HashMap::new();
        for ((owner, id), (times, at)) in mem::take(&mut *lock(&self.accesses)) {
            by_owner.entry(owner).or_default().push(Access { id, times, at });
        }
        let batches = by_owner.into_iter().flat_map(|(owner, accesses)| {
            accesses.chunks(BATCH).map(|batch| (owner.clone(), batch.to_vec())).collect::<Vec<_>>()
        });
        Taken { upkeep: self, batches: batches.collect() }
    }

    /// Notes again what could not be written.
    fn count_again(&self, owner: &Owner, uncounted: &[Access]) {
        let mut accesses = lock(&self.accesses);
        for Access { id, times, at } in uncounted {
            let (since, latest) = accesses.entry((owner.clone(), *id)).or_insert((0, *at));
            *since += times;
            *latest = (*latest).max(*at);
        }
    }

    /// Notes that a session has got a context.
    pub(super) fn touch(&self, owner: Owner, session: SessionId) {
        let mut touched = lock(&self.touched);
        if touched.len() < MOST_TOUCHED {
            touched.insert((owner, session));
        }
    }

    /// How many sessions are to be looked at.
    #[cfg(test)]
    pub(super) fn touched(&self) -> usize {
        lock(&self.touched).len()
    }
}

/// Accesses on their way to the store. Those that have not got there when this is dropped are noted again, whatever was in the way:
/// a failure, or the end of the turn. A call that was broken off may have counted them already; then they count twice.
struct Taken<'a> {
    upkeep: &'a Upkeep,
    batches: Vec<(Owner, Vec<Access>)>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        for (owner, batch) in &self.batches {
            self.upkeep.count_again(owner, batch);
        }
    }
}

impl Inner {
    /// One turn. All parts are tried; the first failure is returned.
    pub(super) async fn upkeep(&self) -> Result<(), Error> {
        self.pending.show();
        self.stored_until.keep().await;
        if self.pending.is_active() {
            // The store is away or is catching up; nothing is moved in it until all writes before are there.
            return Ok(());
        }
        if !self.immediate.is_filled() {
            self.fill_immediate().await?;
        }
        if self.store.shortage().is_some_and(|full| full.is_below_reserve()) {
            // Nothing is added now; what gives room, or says how much there is, goes on.
            let flushed = self.store_health.note(self.store.flush().await).map_err(Error::from);
            return [self.delete_all_again().await, flushed, self.give_back_space().await, self.refresh_gauges().await]
                .into_iter()
                .collect();
        }
        let results = [
            // First, because how long writes lie unflushed is promised, and not how long the rest takes.
            self.store_health.note(self.store.flush().await).map_err(Error::from),
            self.delete_all_again().await,
            self.write_accesses().await,
            self.hold_capacities().await,
            self.compare_immediate().await,
            self.refresh_gauges().await,
            self.give_back_space().await,
        ];
        results.into_iter().collect()
    }

    /// If the store may have lost what it held, nothing is known of that any more. L1 is filled again by the regular work, and the store is asked
    /// until then: what was lost is found nowhere, and not here alone.
    pub(super) fn forget_what_is_lost(&self) {
        let losses = self.store.losses();
        if self.losses.swap(losses, Ordering::AcqRel) != losses {
            warn!("The store was without what it held; immediate contexts are read from it again");
            self.immediate.forget();
            self.sessions.forget_all();
        }
    }

    pub(super) async fn finish(&self) -> Result<(), Error> {
        let counted = self.write_accesses().await;
        self.stored_until.keep().await;
        self.pending.close();
        self.store.close().await?;
        counted
    }

    async fn give_back_space(&self) -> Result<(), Error> {
        if self.store_health.note(self.store.compact().await)? {
            debug!("Gave back the space of deleted contexts");
        }
        Ok(())
    }

    async fn write_accesses(&self) -> Result<(), Error> {
        let mut taken = self.upkeep.take_accesses();
        let (mut first_failure, mut failed) = (Ok(()), 0);
        while failed < taken.batches.len() {
            let (owner, batch) = &mut taken.batches[failed];
            match self.write_batch(owner, batch).await {
                Ok(()) => drop(taken.batches.swap_remove(failed)),
                Err(error) => {
                    first_failure = first_failure.and(Err(error));
                    failed += 1;
                }
            }
        }
        first_failure
    }

    /// Adds accesses to the contexts' counts, and promotes those that have earned it by them. Who may only read a memory promotes nothing
    /// in it.
    async fn write_batch(&self, owner: &Owner, batch: &mut [Access]) -> Result<(), Error> {
        self.store_health.note(self.store.count_accesses(owner, batch.to_vec()).await)?;
        // If anything fails from here on, they are looked at again, and not counted again.
        for access in &mut *batch {
            access.times = 0;
        }
        let (ids, now) = (batch.iter().map(|access| access.id).collect(), now());
        let access = self.access.load_full();
        for Point { context, .. } in self.store_health.note(self.store.get(owner, ids, now).await)? {
            if access.may_promote(&context) && promotion::is_due(&context, self.policy.load().min_accesses, now) {
                let _held = self.locks.hold([Key::Context(context.id)]).await;
                self.promote(&context).await?;
            }
        }
        Ok(())
    }

    /// Moves a context that has earned it to long-term memory, unless it was changed or has expired since it was read. The caller holds its
    /// lock.
    async fn promote(&self, context: &Context) -> Result<(), Error> {
        // Not the time at which it was read: what came before it may have taken longer than it lives.
        let now = now();
        if context.is_expired(now) {
            return Ok(());
        }
        let moved = promotion::moved(context, Level::LongTerm, now, &self.policy.load().ttls);
        if self.update_with_versions(context, &moved, None).await? == Updated::Applied {
            self.metrics.contexts.promoted.inc();
        }
        Ok(())
    }

    /// The oldest short-term contexts of a session that has too many make room: they are promoted if they have earned it, else
    /// deleted. A context without a session counts towards no capacity. Of many sessions some are left to the next turn.
    async fn hold_capacities(&self) -> Result<(), Error> {
        let mut touched = mem::take(&mut *lock(&self.upkeep.touched)).into_iter();
        let Some(capacity) = self.policy.load().capacities[Level::ShortTerm] else { return Ok(()) };
        let mut held = Ok(());
        for (owner, session) in touched.by_ref().take(HELD_AT_ONCE) {
            held = self.hold_capacity(&owner, &session, capacity).await;
            if held.is_err() {
                self.upkeep.touch(owner, session);
                break;
            }
        }
        // A new set has another order, so each has its turn, however many come.
        lock(&self.upkeep.touched).extend(touched);
        held
    }

    async fn hold_capacity(&self, owner: &Owner, session: &SessionId, capacity: usize) -> Result<(), Error> {
        let selection = short_term(owner, session);
        let count = self.store_health.note(self.store.count(selection.clone()).await)?;
        if count <= capacity {
            return Ok(());
        }
        let mut ages = self.ages(selection).await?;
        ages.sort_unstable();
        let surplus = ages.len().saturating_sub(capacity);
        let oldest: Vec<ContextId> = ages.into_iter().take(surplus).map(|(.., id)| id).collect();
        for ids in oldest.chunks(BATCH) {
            self.leave(owner, session, ids, capacity).await?;
        }
        Ok(())
    }

    /// Contexts make room, as many as there are too many. They and their number are read again under the locks: they may have been
    /// changed, moved or deleted since they were picked.
    async fn leave(&self, owner: &Owner, session: &SessionId, ids: &[ContextId], capacity: usize) -> Result<(), Error> {
        let keys = ids.iter().copied().map(Key::Context).chain([Key::Session(session)]);
        let _held = self.locks.hold(keys).await;
        let now = now();
        let count = self.store_health.note(self.store.count(short_term(owner, session)).await)?;
        let found = self.store_health.note(self.store.get(owner, ids.to_vec(), now).await)?;
        let mut contexts: Vec<Context> = found.into_iter().map(|point| point.context).collect();
        contexts.retain(|context| context.level == Level::ShortTerm && context.is_current());
        contexts.sort_by_key(age);
        contexts.truncate(count.saturating_sub(capacity));
        let min_accesses = self.policy.load().min_accesses;
        let (due, leaving): (Vec<_>, Vec<_>) =
            contexts.into_iter().partition(|context| promotion::is_due(context, min_accesses, now));
        for context in due {
            self.promote(&context).await?;
        }
        self.metrics.contexts.evicted.add(super::convert::level_message(Level::ShortTerm), leaving.len() as u64);
        debug!(contexts = leaving.len(), "The oldest short-term contexts of a full session made room");
        self.delete_with_versions(owner, &leaving).await?;
        self.sessions.forget(Some(session)).await;
        Ok(())
    }

    /// How old the selected contexts are. No more of them than a page is in memory at once.
    async fn ages(&self, selection: Selection) -> Result<Vec<Age>, Error> {
        let (mut ages, mut from) = (Vec::new(), None);
        loop {
            let page = self.store_health.note(self.store.list(selection.clone(), from, PAGE).await)?;
            ages.extend(page.contexts.iter().map(age));
            match page.next {
                Some(next) => from = Some(next),
                None => return Ok(ages),
            }
        }
    }

    pub(super) async fn refresh_gauges(&self) -> Result<(), Error> {
        let counts = self.store_health.note(self.store.counts_by_level(&self.owner, now()).await)?;
        for (level, count) in counts.iter() {
            self.metrics.contexts.stored.set(super::convert::level_message(level), *count);
        }
        let stats = self.store_health.note(self.store.stats().await)?;
        self.metrics.store.disk_bytes.set(stats.disk_bytes.map_or(0, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)));
        Ok(())
    }

    /// Fills L1 with what the store has on that level.
    pub(super) async fn fill_immediate(&self) -> Result<(), Error> {
        let selection =
            Selection { levels: Some(vec![Level::Immediate]), ..Selection::alive(self.owner.clone(), now()) };
        let mut from = None;
        loop {
            let page = self.store_health.note(self.store.list(selection.clone(), from, PAGE).await)?;
            let ids = page.contexts.iter().map(|context| context.id).collect();
            for Point { context, vectors } in self.store_health.note(self.store.get(&self.owner, ids, now()).await)? {
                self.refill(context, vectors).await?;
            }
            match page.next {
                Some(_) if self.immediate.is_over_full() => {
                    self.immediate.set_filled();
                    warn!("There are more immediate contexts than fit in memory; searches of that level ask the store");
                    return Ok(());
                }
                Some(next) => from = Some(next),
                None => {
                    self.immediate.set_filled();
                    return Ok(());
                }
            }
        }
    }

    /// Puts a context in L1 unless it was changed or deleted since it was read: requests may be served already.
    async fn refill(&self, context: Context, vectors: Vectors) -> Result<(), Error> {
        self.stored_until.note(context.created_at.min(now() + FROM_A_FAST_CLOCK));
        if self.requests_are_served.load(Ordering::Acquire) {
            return self.renew(&context).await;
        }
        self.immediate.put(&context, &vectors);
        Ok(())
    }

    /// Brings L1 up to date with what replicas of the agent have changed or deleted, a page at a time: it is what answers when the store is
    /// away.
    async fn compare_immediate(&self) -> Result<(), Error> {
        if !self.store.is_shared() {
            return Ok(());
        }
        let held = self.immediate.next_to_compare(PAGE);
        if held.is_empty() {
            return Ok(());
        }
        let ids = held.iter().map(|context| context.id).collect();
        let found = self.store_health.note(self.store.find(ids).await)?;
        let versions: HashMap<ContextId, i64> =
            found.into_iter().map(|context| (context.id, context.version)).collect();
        for context in held.iter().filter(|context| versions.get(&context.id) != Some(&context.version)) {
            self.renew(context).await?;
        }
        Ok(())
    }

    /// Puts a context in L1 as it is, or takes it out if it is not there any more.
    async fn renew(&self, context: &Context) -> Result<(), Error> {
        let keys = [Some(Key::Context(context.id)), context.session.as_ref().map(Key::Session)];
        let _held = self.locks.hold(keys.into_iter().flatten()).await;
        let found = self.store_health.note(self.store.get(&self.owner, vec![context.id], now()).await)?;
        match found.into_iter().next() {
            Some(Point { context, vectors }) => self.immediate.put(&context, &vectors),
            None => self.immediate.remove(context.id),
        }
        Ok(())
    }
}

/// The short-term contexts of a session.
fn short_term(owner: &Owner, session: &SessionId) -> Selection {
    Selection {
        sessions: Sessions::Only(session.clone()),
        levels: Some(vec![Level::ShortTerm]),
        ..Selection::alive(owner.clone(), now())
    }
}

/// What a session's contexts are ordered by.
type Age = (i64, Timestamp, ContextId);

/// The oldest of a session come first.
fn age(context: &Context) -> Age {
    (context.sequence, context.created_at, context.id)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
