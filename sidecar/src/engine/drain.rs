//! Bringing journaled writes to the store, in their order and without effect when they are there already.
//!
//! A write is marked complete after the store has it, so an end of the process in between brings it again: every step
//! looks first whether it was done.

use std::{
    collections::HashMap,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use context_manager_memory::{Context, ContextId, Timestamp, history};
use tokio::time::timeout_at;
use tracing::{info, warn};

use super::{
    Error, Inner,
    filter::Wanted,
    locks::Key,
    now,
    pending::{self, Change, Clear, Delete, DeleteMatching, Oldest, Update},
    refused::Left,
    store::{Draft, came_of, is_owned_alike},
};
use crate::{
    metrics::Dropped,
    ports::vector_store::{Owner, Point, Updated},
};

/// Most contexts of one call of the store, and of the embedding.
const BATCH: usize = 100;
/// Most bytes of their texts and metadata; a context that has more goes alone. A call that takes longer than its deadline because of its
/// size would fail again however often it is tried.
const BATCH_BYTES: usize = 256 << 10;
/// Latest earlier versions among which a change is looked for.
const VERSIONS: usize = 100;
/// Attempts of one change against changes from elsewhere.
const ATTEMPTS: usize = 5;

/// Most contexts and other writes that are still waiting when new ones stop joining them. Writes that come at the pace at which others leave
/// would keep the journal in use for ever; for these last ones they wait, and then go to the store themselves.
const LAST: usize = 1_000;
/// Longest time for which they wait at a stretch, but for the step that is under way then; with the time that those take who write
/// already. Those that have waited are journaled and answered before the next stretch.
const LONGEST_ALONE: Duration = Duration::from_secs(1);

impl Inner {
    /// Brings the oldest waiting writes to the store, or all when they are the last and there is time. Says whether more are waiting.
    pub(super) async fn drain(&self) -> Result<bool, Error> {
        // Nobody waits for a store that may not answer.
        if !self.takes_writes.load(Ordering::Acquire) || self.pending.contexts() > LAST {
            return self.drain_step(None).await;
        }
        let until = Instant::now() + LONGEST_ALONE;
        let _hurrying = self.hurry.begin();
        let Ok(_alone) = timeout_at(until.into(), self.writes.write()).await else {
            // Somebody writes for longer than others may wait. They go on beside it, and so does this.
            return self.drain_step(None).await;
        };
        loop {
            let drained = self.drain_step(Some(until)).await;
            if !matches!(drained, Ok(true)) || !self.takes_writes.load(Ordering::Acquire) || Instant::now() >= until {
                return drained;
            }
        }
    }

    /// One step. A deletion of many contexts is broken off at the time `until`; the next step goes on with it, and nobody waits for that.
    async fn drain_step(&self, until: Option<Instant>) -> Result<bool, Error> {
        let drained = self.drain_oldest(until).await;
        self.takes_writes.store(matches!(drained, Ok(Drained::More)), Ordering::Release);
        Ok(match drained? {
            Drained::All => false,
            Drained::More | Drained::InPart => true,
        })
    }

    async fn drain_oldest(&self, until: Option<Instant>) -> Result<Drained, Error> {
        // Readers are to see what waits as soon as the store answers, also if it takes no writes.
        if let Err(error) = self.resolve().await
            && !error.is_refusal()
        {
            return Err(error);
        }
        let mut load = Load::default();
        let oldest = self.pending.oldest(|contexts| {
            for context in contexts {
                load.add(context);
            }
            load.is_bearable()
        });
        let Some((last, oldest)) = oldest else {
            if self.pending.is_active() {
                // The oldest one will be in the queue as soon as it is on the disk.
                tokio::time::sleep(Duration::from_millis(1)).await;
                return Ok(Drained::More);
            }
            return Ok(Drained::All);
        };
        match oldest {
            Oldest::Contexts(contexts) => {
                let mut left = Left::default();
                // The oldest write alone may be more than one call takes.
                for contexts in bearable(contexts) {
                    self.drain_acceptable(contexts, last, &mut left).await?;
                }
                self.set_aside_left(left).await?;
            }
            Oldest::Change(change) => {
                if !self.drain_change(*change, last, until).await? {
                    return Ok(Drained::InPart);
                }
            }
            Oldest::Unreadable(unreadable) => self.set_aside.unreadable(unreadable, &self.metrics).await?,
        }
        self.pending.complete(last).await?;
        self.set_aside.complete();
        let more = self.pending.is_active();
        if !more {
            self.set_aside.forget().await;
            self.hurry.is_over();
            info!("All journaled writes have reached the store");
        }
        Ok(if more { Drained::More } else { Drained::All })
    }

    /// Brings a change or a deletion to the store, or sets it aside: with what it is of, or because the store refuses it. Says whether that
    /// is done; a deletion may have got only a part of its contexts by the time `until`.
    async fn drain_change(&self, change: Change, last: u64, until: Option<Instant>) -> Result<bool, Error> {
        if let Some(why) = change.context().and_then(|id| self.set_aside.why(id))
            && !self.is_of_what_is_stored(&change).await?
        {
            self.set_aside.change_of(change, why, &self.metrics).await?;
            return Ok(true);
        }
        match self.make(change.clone(), until).await {
            Ok(Made::Done) => {}
            Ok(Made::InPart) => return Ok(false),
            Ok(Made::ContextHasChanged) => self.set_aside.outdated_change(change, &self.metrics).await?,
            Ok(Made::ContextIsLater(created_at)) => {
                // It was brought before, and what was stored behind it too, when the last process ended.
                let is_behind =
                    |context: &Context| Some(context.id) == change.context() && context.created_at == created_at;
                if self.pending.newest_context(last, is_behind).is_none() {
                    self.set_aside.spared_deletion(change, &self.metrics).await?;
                }
            }
            Ok(Made::ContextIsGone) if self.set_aside.has_unreadable() => {
                self.set_aside.change_of(change, Dropped::Unreadable, &self.metrics).await?;
            }
            Ok(Made::ContextIsGone) => {
                if let Change::Update(Update { id, .. }) = change {
                    self.metrics.journal.dropped.add(Dropped::Missing, 1);
                    warn!(context.id = %id, "A journaled change came too late: the context is gone");
                }
            }
            Err(error) => self.set_aside_refused(change, last, error).await?,
        }
        Ok(true)
    }

    /// Whether a change says that it is of the version that the store has, or was made of it.
    async fn is_of_what_is_stored(&self, change: &Change) -> Result<bool, Error> {
        let Change::Update(Update { id, if_version: Some(seen), at, .. }) = change else { return Ok(false) };
        let found = self.store_health.note(self.store.find(vec![*id]).await)?;
        Ok(found.iter().any(|stored| [seen.since, *at].contains(&stored.updated_at)))
    }

    /// Makes a change or a deletion in the store.
    async fn make(&self, change: Change, until: Option<Instant>) -> Result<Made, Error> {
        match change {
            Change::Update(update) => self.drain_update(update).await,
            Change::Delete(Delete { id, holder, at }) => {
                self.drain_deletion(&pending::owner(&self.owner, holder.as_ref()), id, at).await
            }
            Change::Clear(Clear { session, within, at: _ }) => {
                self.drain_deletions(&pending::cleared(&session, within, &self.owner), until).await
            }
            Change::DeleteMatching(DeleteMatching { message, within, at }) => {
                self.drain_deletions(&pending::doomed(message, within, at, &self.owner)?, until).await
            }
        }
    }

    async fn drain_deletions(&self, wanted: &Wanted, until: Option<Instant>) -> Result<Made, Error> {
        let is_whole = self.delete_until(wanted, until).await?;
        Ok(if is_whole { Made::Done } else { Made::InPart })
    }

    /// Brings contexts to the store, except those whose ids somebody else has taken.
    pub(super) async fn drain_contexts(&self, contexts: Vec<Context>) -> Result<Brought, Error> {
        let now = now();
        let sessions = contexts.iter().filter_map(|context| context.session.clone()).collect::<Vec<_>>();
        let keys = contexts.iter().map(|context| Key::Context(context.id)).chain(sessions.iter().map(Key::Session));
        let _held = self.locks.hold(keys.collect::<Vec<_>>()).await;
        let ids: Vec<ContextId> = contexts.iter().map(|context| context.id).collect();
        self.delete_again(&ids).await?;
        let found = self.store_health.note(self.store.find(ids).await)?;
        let there: HashMap<ContextId, Context> = found.into_iter().map(|context| (context.id, context)).collect();
        let view = self.pending.view();
        // A change that waits behind it may have given it a longer life.
        let lives_on = |context: &Context| {
            let left = view.as_ref().and_then(|view| view.get(context.id));
            left.is_some_and(|left| left.context.created_at == context.created_at && !left.context.is_expired(now))
        };
        // What they supersede is closed also if they have expired since: it does not get its place back.
        let superseding: Vec<Context> =
            contexts.iter().filter(|context| !context.supersedes.is_empty()).cloned().collect();
        let (mut drafts, mut conflicts) = (Vec::new(), Vec::new());
        for context in contexts {
            match there.get(&context.id) {
                Some(there) if !gives_way(there, &context, now) => {
                    // It was brought before, and may have been changed since.
                    if came_of(there, &context) || self.was_stored_as(there, &context, now).await? {
                        drafts.push(Draft::There(there.clone()));
                    } else {
                        conflicts.push(context);
                    }
                }
                Some(_) | None if context.is_expired(now) && !lives_on(&context) => {
                    self.metrics.journal.dropped.add(Dropped::Expired, 1);
                }
                Some(_) | None => drafts.push(Draft::New(context)),
            }
        }
        for draft in &drafts {
            // What the cache remembers may be from before the outage, when another sidecar may have gone on with the session.
            self.sessions.forget(draft.context().session.as_ref()).await;
        }
        let claimed: Vec<ContextId> = drafts.iter().map(|draft| draft.context().id).collect();
        let taken = self.write(&mut drafts, &claimed, now).await?;
        let lost = drafts.extract_if(.., |draft| taken.contains(&draft.context().id));
        conflicts.extend(lost.map(Draft::into_context));
        for context in &superseding {
            if !conflicts.iter().any(|conflict| conflict.id == context.id) {
                self.close_superseded(context).await?;
            }
        }
        let new = drafts.iter().filter(|draft| matches!(draft, Draft::New(_))).count();
        Ok(Brought { new, ids: drafts.iter().map(|draft| draft.context().id).collect(), conflicts })
    }

    async fn drain_deletion(&self, owner: &Owner, id: ContextId, at: Timestamp) -> Result<Made, Error> {
        let found = self.store_health.note(self.store.find(vec![id]).await)?;
        // What another sidecar has stored under this id since is not meant.
        let (context, later): (Vec<Context>, Vec<Context>) =
            found.into_iter().filter(|context| owner.owns(context)).partition(|context| context.created_at <= at);
        // The deletion may have taken effect before, without an answer.
        self.bury(owner, &[id], at);
        if let Some(context) = context.first() {
            let keys = [Some(Key::Context(id)), context.session.as_ref().map(Key::Session)];
            let _held = self.locks.hold(keys.into_iter().flatten()).await;
            self.erase(owner, std::slice::from_ref(context)).await?;
        }
        self.immediate.remove(id);
        Ok(match (context.first(), later.first()) {
            (Some(_), _) => Made::Done,
            (None, Some(later)) => Made::ContextIsLater(later.created_at),
            (None, None) => Made::ContextIsGone,
        })
    }

    async fn drain_update(&self, update: Update) -> Result<Made, Error> {
        let (id, at) = (update.id, update.at);
        let owner = pending::owner(&self.owner, update.holder.as_ref());
        let mut session = None;
        for _ in 0..ATTEMPTS {
            let keys = [Some(Key::Context(id)), session.as_ref().map(Key::Session)];
            let _held = self.locks.hold(keys.into_iter().flatten()).await;
            // What was alive when the change was acknowledged may have expired since, as far as the store knows.
            let found = self.store_health.note(self.store.get(&owner, vec![id], at.min(now())).await)?;
            let Some(current) = found.into_iter().next() else { return Ok(Made::ContextIsGone) };
            if current.context.session != session {
                session = current.context.session;
                continue;
            }
            if !current.context.is_current() {
                self.metrics.journal.dropped.add(Dropped::Missing, 1);
                warn!(context.id = %id, "A journaled change came too late: another context took the place of this one");
                return Ok(Made::Done);
            }
            let is_made = self.was_made(&current.context, &update).await?;
            if is_made || update.is_outdated_by(&current.context) {
                // What is in memory may be from before.
                self.immediate.put(&current.context, &current.vectors);
                return Ok(if is_made { Made::Done } else { Made::ContextHasChanged });
            }
            let changed = update.made_of(&current.context)?.by(&self.identity.agent);
            let vectors =
                if changed.text == current.context.text { None } else { Some(self.vectors_of(&changed).await?) };
            self.keep_version(&current, &changed).await?;
            if vectors.is_some() {
                self.follow_change(&changed).await?;
            }
            match self.update_with_versions(&current.context, &changed, vectors.clone()).await? {
                Updated::Applied => {
                    self.immediate.put(&changed, &vectors.unwrap_or(current.vectors));
                    self.sessions.forget(changed.session.as_ref()).await;
                    return Ok(Made::Done);
                }
                Updated::Missing => {
                    // It went meanwhile, and what was kept of it goes with it.
                    let kept = vec![history::version_id(id, current.context.version)];
                    self.store_health.note(self.store.delete(&owner, kept).await)?;
                }
                Updated::Conflict { .. } => {}
            }
        }
        Err(Error::Interrupted)
    }

    /// Whether a change was made, and perhaps others since, as far as versions are kept.
    async fn was_made(&self, current: &Context, update: &Update) -> Result<bool, Error> {
        if update.is_made_in(current) {
            return Ok(true);
        }
        let since = usize::try_from(current.version.saturating_sub(update.expected).saturating_sub(1))
            .unwrap_or(0)
            .min(VERSIONS);
        if since == 0 {
            return Ok(false);
        }
        let earlier = history::earlier_ids(current.id, current.version).take(since).collect();
        let alive = update.at.min(now());
        let found = self.store_health.note(self.store.get(&Owner::of(current), earlier, alive).await)?;
        Ok(found.iter().any(|Point { context, .. }| update.is_made_in(context)))
    }
}

/// How far a step came.
enum Drained {
    /// Nothing waits any more.
    All,
    /// What it took has reached the store, and more waits.
    More,
    /// Its deletion was broken off: the time was up.
    InPart,
}

/// What became of a change or a deletion.
enum Made {
    /// The store has it.
    Done,
    /// It has deleted a part of what is to go: the time was up.
    InPart,
    /// The context that it names is not there, or not any more.
    ContextIsGone,
    /// The context that it names seems to have been stored after it, at this time.
    ContextIsLater(Timestamp),
    /// It is of a version that the context does not have any more.
    ContextHasChanged,
}

/// What became of contexts that were to be brought to the store.
pub(super) struct Brought {
    /// How many of them it did not have before.
    pub(super) new: usize,
    /// Those that it has now.
    pub(super) ids: Vec<ContextId>,
    /// Those whose ids somebody else has taken; they are still to be set aside.
    pub(super) conflicts: Vec<Context>,
}

/// How much a call carries.
#[derive(Default)]
struct Load {
    contexts: usize,
    bytes: usize,
}

impl Load {
    fn add(&mut self, context: &Context) {
        self.contexts += 1;
        self.bytes += context.written_bytes();
    }

    const fn is_bearable(&self) -> bool {
        self.contexts <= BATCH && self.bytes <= BATCH_BYTES
    }
}

/// The contexts in their order, as many at a time as one call takes; at least one.
fn bearable(contexts: Vec<Context>) -> Vec<Vec<Context>> {
    let mut parts: Vec<Vec<Context>> = Vec::new();
    let mut load = Load::default();
    for context in contexts {
        load.add(&context);
        match parts.last_mut() {
            Some(part) if load.is_bearable() => part.push(context),
            Some(_) | None => {
                load = Load::default();
                load.add(&context);
                parts.push(vec![context]);
            }
        }
    }
    parts
}

/// Whether a context of the store is one that had the id before and has expired. The one that waits may have been brought before, and have
/// expired since.
fn gives_way(there: &Context, waiting: &Context, now: Timestamp) -> bool {
    there.is_expired(now) && is_owned_alike(there, waiting) && there.created_at != waiting.created_at
}
