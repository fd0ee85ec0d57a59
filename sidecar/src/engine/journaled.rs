//! Writes while the store is away: they are taken from what the sidecar knows itself, and go to the journal.

use std::{collections::HashMap, path::PathBuf};

use context_manager_journal::Options;
use context_manager_memory::{
    Context, ContextId, Holder, SessionId, Timestamp,
    update::{self, Change},
};
use context_manager_protocol::{
    config::{SidecarConfig, Store},
    message::{AckStatus, Acknowledgment, Cleared, ContextDelete},
};
use tracing::warn;

use super::{
    Error, Inner,
    filter::{self, Wanted},
    immediate, now,
    pending::{Clear, Delete, DeleteMatching, Effect, Entry, Seen, Update, View, Waits, cleared},
    read::seen,
    store::{Draft, Thread, may_have_been, says_the_same, sessions_of, thread_of},
    within::Within,
};
use crate::{
    access::Reach,
    ports::vector_store::{Owner, Point, SessionEnd},
    refusal::chain,
};

/// Where the journal is; `None` beside a Qdrant server without a directory for it.
#[must_use]
pub fn journal_directory(config: &SidecarConfig) -> Option<PathBuf> {
    match (&config.journal.path, &config.store) {
        (Some(path), _) => Some(path.clone()),
        (None, Store::Embedded(store)) => Some(store.path.join("journal")),
        (None, Store::Qdrant(_)) => None,
    }
}

pub(super) fn options(config: &SidecarConfig) -> Option<Options> {
    let directory = journal_directory(config);
    if directory.is_none() {
        warn!("journal.path is not set: writes are refused while the Qdrant server cannot be reached");
    }
    Some(Options { max_bytes: config.journal.max_size.bytes(), ..Options::new(directory?) })
}

impl Inner {
    /// The outcome of a write to the store; `None` when it has to be journaled, because others wait already or the store is away.
    pub(super) async fn unless_journaling<T>(
        &self,
        write: impl Future<Output = Result<T, Error>>,
    ) -> Result<Option<T>, Error> {
        if self.pending.is_active() {
            return Ok(None);
        }
        match write.await {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_outage() && self.pending.is_enabled() => {
                warn!(error = chain(&error), "The store is away; writes are journaled");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// A living context as far as the sidecar knows it without the store.
    fn known(&self, owner: &Owner, id: ContextId, now: Timestamp) -> Option<Point> {
        let found = match self.pending.view() {
            Some(view) => {
                let held = || self.immediate.get(id, now).filter(|point| !view.hides(&point.context));
                view.get(id).map(Waits::point).or_else(held)
            }
            None => self.immediate.get(id, now),
        };
        found.filter(|point| owner.owns(&point.context) && !point.context.is_expired(now))
    }

    /// The same, or the store's, as far as the permission reaches.
    async fn known_or_stored(&self, reach: &Reach, id: ContextId, now: Timestamp) -> Result<Point, Error> {
        match self.known(reach.owner(), id, now) {
            Some(point) => seen(reach, Ok(point), id),
            None => self.point(reach, id).await,
        }
    }

    /// Journals new contexts, and those which are there already but may not have superseded others yet, because the store went away in
    /// between. Whether the store has their ids is found out when they get there.
    pub(super) async fn journal_contexts(
        &self,
        reaches: &[Reach],
        contexts: Vec<Context>,
        now: Timestamp,
    ) -> Result<(Vec<Draft>, AckStatus), Error> {
        let supersedes = |(reach, context): (&Reach, &Context)| !reach.is_own() && !context.supersedes.is_empty();
        if reaches.iter().zip(&contexts).any(supersedes) {
            // Whether it may take their place depends on what they are, and that is in the store.
            return Err(Error::Journaling);
        }
        let view = self.pending.view();
        let mut unfinished = Vec::new();
        let mut waits = false;
        let mut drafts = Vec::with_capacity(contexts.len());
        for context in contexts {
            let known = self.known(&Owner::of(&context), context.id, now);
            let draft = compare_known(view.as_deref(), known.as_ref().map(|point| &point.context), context, now)?;
            if let (Draft::There(there), Some(point)) = (&draft, known) {
                if view.as_ref().is_some_and(|view| view.get(there.id).is_some()) {
                    waits = true;
                } else if !there.supersedes.is_empty() {
                    unfinished.push(point);
                }
            }
            drafts.push(draft);
        }
        let mut ends: HashMap<Thread, SessionEnd> = HashMap::new();
        for (owner, session) in sessions_of(&drafts) {
            let end = match view.as_ref().and_then(|view| view.session_end(&owner, &session)) {
                Some(end) => Some(end),
                None => self.remembered_end(&owner, &session).await,
            };
            ends.insert((owner, session), end.unwrap_or_default());
        }
        let new = self.make_points(&mut drafts, &mut ends).await;
        let contexts: Vec<Context> = new.iter().chain(&unfinished).map(|point| point.context.clone()).collect();
        if contexts.is_empty() {
            return Ok((drafts, if waits { AckStatus::Journaled } else { AckStatus::Stored }));
        }
        let _room = self.pending.beside_others().await;
        self.pending.append(Entry::Store { contexts }, Effect::Put { new, known: unfinished }).await?;
        Ok((drafts, AckStatus::Journaled))
    }

    /// Journals a change that was asked for `at` a time. The context must be known, because the answer depends on it.
    pub(super) async fn journal_change(
        &self,
        reach: &Reach,
        id: ContextId,
        change: Change,
        at: Timestamp,
    ) -> Result<Acknowledgment, Error> {
        let current = self.known_or_stored(reach, id, now()).await?;
        if let Some(by) = self.pending.view().and_then(|view| view.successor(id)) {
            return Err(Error::Past { id, superseded_by: Some(by) });
        }
        let Change { text, metadata, ttl, if_version } = change.clone();
        let changed = update::apply(&current.context, change, at)?.by(reach.agent());
        self.limits.metadata(&changed.metadata)?;
        let vectors = if changed.text == current.context.text {
            current.vectors
        } else {
            let mut drafts = [Draft::New(changed.clone())];
            let sequence = changed.sequence;
            let before = SessionEnd { sequence: Some(sequence.saturating_sub(1)), last: None };
            let mut ends = thread_of(&changed).map(|thread| (thread, before)).into_iter().collect();
            self.make_points(&mut drafts, &mut ends).await.remove(0).vectors
        };
        let expected = current.context.version;
        // It is that version here, and has to be when it gets there.
        let if_version = if_version.map(|version| Seen { version, since: current.context.updated_at });
        let holder = other(reach);
        let entry = Entry::Update(Update { id, holder, expected, if_version, text, metadata, ttl, at });
        let point = Point { context: changed.clone(), vectors };
        let _room = self.pending.beside_others().await;
        if self.pending.view().is_some_and(|view| view.is_gone(&current.context)) {
            // A deletion by what contexts are does not wait for the lock of this one.
            seen(reach, Err(Error::NotFound(id)), id)?;
        }
        self.pending.append(entry, Effect::Put { new: Vec::new(), known: vec![point] }).await?;
        Ok(self.acknowledgment(&changed, AckStatus::Journaled))
    }

    /// Journals a deletion. A context that only the store knows is deleted when the deletion gets there; but only if it may be
    /// deleted whatever it is.
    pub(super) async fn journal_removal(&self, reach: &Reach, id: ContextId) -> Result<Acknowledgment, Error> {
        let now = now();
        let known = match self.known_or_stored(reach, id, now).await {
            Ok(point) => Some(point.context),
            Err(error) if error.is_outage() && reach.is_own() && reach.session().is_none() => None,
            Err(error) => return Err(error),
        };
        let at = known.as_ref().map_or_else(|| self.stored_until(now), |context| now.max(context.created_at));
        let entry = Entry::Delete(Delete { id, holder: other(reach), at });
        let _room = self.pending.beside_others().await;
        self.pending.append(entry, Effect::Delete(reach.owner().clone(), id)).await?;
        self.immediate.remove(id);
        if let Some(context) = &known {
            self.sessions.forget(context.session.as_ref()).await;
        }
        let unknown =
            Acknowledgment { id: id.as_uuid(), status: AckStatus::Journaled, version: 0, tokens: 0, expires_at: None };
        Ok(known.map_or(unknown, |context| self.acknowledgment(&context, AckStatus::Journaled)))
    }

    /// Journals the end of a session's contexts. What another sidecar stores later is not meant.
    pub(super) async fn journal_clearing(&self, session: SessionId, mut wanted: Wanted) -> Result<Cleared, Error> {
        let _room = self.pending.alone().await;
        let now = now();
        let Known { count: deleted, until } = self.known_matching(&wanted, now);
        wanted.created_before = Some(filter::after(until));
        let within = Some(Within::of(&wanted));
        wanted = cleared(&session, within.clone(), &self.owner);
        let entry = Entry::Clear(Clear { session: session.clone(), within, at: now });
        self.pending.append(entry, Effect::DeleteMatching(wanted.clone())).await?;
        self.immediate.remove_matching(&wanted);
        self.sessions.forget(Some(&session)).await;
        Ok(Cleared { deleted, journaled: true })
    }

    /// Journals the end of the contexts that match.
    pub(super) async fn journal_deletion(&self, message: ContextDelete, mut wanted: Wanted) -> Result<Cleared, Error> {
        let _room = self.pending.alone().await;
        let Known { count: deleted, until } = self.known_matching(&wanted, now());
        let end = filter::after(until);
        wanted.created_before = Some(wanted.created_before.map_or(end, |before| before.min(end)));
        let entry = Entry::DeleteMatching(DeleteMatching { message, within: Some(Within::of(&wanted)), at: until });
        self.pending.append(entry, Effect::DeleteMatching(wanted.clone())).await?;
        self.immediate.remove_matching(&wanted);
        self.sessions.forget_all();
        Ok(Cleared { deleted, journaled: true })
    }

    /// What was stored here before now, was stored by then; that is later than now if the clock was set back.
    fn stored_until(&self, now: Timestamp) -> Timestamp {
        now.max(self.stored_until.get())
    }

    /// The contexts that match, as far as the sidecar knows without the store.
    fn known_matching(&self, wanted: &Wanted, now: Timestamp) -> Known {
        let mut known: HashMap<ContextId, Timestamp> = HashMap::new();
        let held = self.immediate.matching(wanted, now);
        let waiting = self.pending.view().map(|view| immediate::waiting(&view, wanted, now)).unwrap_or_default();
        for (context, _) in held.into_iter().chain(waiting) {
            known.insert(context.id, context.created_at);
        }
        Known { count: known.len(), until: known.values().copied().fold(self.stored_until(now), Timestamp::max) }
    }
}

/// Compares a new context with the one that has its id, as far as the sidecar knows it without the store.
fn compare_known(
    view: Option<&View>,
    there: Option<&Context>,
    context: Context,
    now: Timestamp,
) -> Result<Draft, Error> {
    match there {
        // What it was when it was stored counts, and that is in the store unless it waits as well.
        Some(there) if may_have_been(there, &context, now) => match view.and_then(|view| view.as_stored(there)) {
            Some(first) if says_the_same(first, &context) => Ok(Draft::There(there.clone())),
            Some(_) => Err(Error::IdTaken(context.id)),
            None => Err(Error::Journaling),
        },
        there => Draft::of(there.cloned(), context, now),
    }
}

/// Contexts that a journaled deletion is about.
struct Known {
    count: usize,
    /// What was stored until then is meant: until now, or later if the clock was set back since.
    until: Timestamp,
}

/// The holder of a memory that is not the agent's own.
fn other(reach: &Reach) -> Option<Holder> {
    (!reach.is_own()).then(|| reach.owner().holder.clone())
}
