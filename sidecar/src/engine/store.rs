//! Storing: validate all, number them within their sessions, make vectors, write once, then bring L1 and caches up to date.
//!
//! When the embedding fails the contexts are stored without dense vectors: they are safe and found by their words at once, and
//! upkeep adds the vectors later. Nothing is refused because a neighbour is down.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use context_manager_memory::{
    Context, ContextId, Level, SessionId, Timestamp, Vectors,
    alike::alike,
    history,
    index_text::{IndexTexts, index_texts},
    lexical::Bm25,
    promotion,
};
use context_manager_protocol::message::{AckStatus, Acknowledgment, ContextStore};
use futures::future::try_join_all;
use tracing::warn;
use uuid::Uuid;

use super::{Error, IdempotencyKey, Inner, convert, locks::Key, now};
use crate::{
    access::{Operation, Reach},
    metrics::Degradation,
    ports::vector_store::{Ids, Owner, Point, SessionEnd, Updated},
    refusal::chain,
};

/// How often a context can be moved to another level.
const MOST_MOVES: usize = Level::ALL.len() - 1;
/// Sessions whose ends are read at the same time.
const SESSIONS_AT_ONCE: usize = 16;
/// Contexts of one read with their vectors.
const POINTS_AT_ONCE: usize = 100;

/// A context of the request.
pub(super) enum Draft {
    /// It is to be written.
    New(Context),
    /// It was written before, by the same request sent twice.
    There(Context),
}

impl Draft {
    /// Compares a context of the request with the one that has its id.
    pub(super) fn of(there: Option<Context>, context: Context, now: Timestamp) -> Result<Self, Error> {
        match there {
            Some(there) if there.is_expired(now) && is_owned_alike(&there, &context) => Ok(Self::New(context)),
            Some(there) if says_the_same(&there, &context) => Ok(Self::There(there)),
            Some(_) => Err(Error::IdTaken(context.id)),
            None => Ok(Self::New(context)),
        }
    }

    pub(super) const fn context(&self) -> &Context {
        match self {
            Self::New(context) | Self::There(context) => context,
        }
    }

    pub(super) fn into_context(self) -> Context {
        match self {
            Self::New(context) | Self::There(context) => context,
        }
    }
}

impl Inner {
    /// Stores all contexts or none, once for each key, each where its permission reaches; but one whose id another sidecar takes between the
    /// look and the write is refused alone.
    pub(super) async fn store_once(
        &self,
        mut messages: Vec<(Reach, ContextStore)>,
        is_batch: bool,
        key: Option<IdempotencyKey>,
    ) -> Result<Vec<Acknowledgment>, Error> {
        let Some(key) = key else { return self.store_all(messages, is_batch).await };
        let own: HashSet<Uuid> = messages.iter().filter_map(|(_, message)| message.id).collect();
        key.assign(&self.owner, &mut messages);
        self.store_all(messages, is_batch).await.map_err(|error| {
            let is_keys = matches!(&error, Error::IdTaken(id) if !own.contains(&id.as_uuid()));
            if is_keys { Error::KeyReused } else { error }
        })
    }

    /// Stores all contexts or none; `is_batch` says how a refusal names a field.
    async fn store_all(
        &self,
        messages: Vec<(Reach, ContextStore)>,
        is_batch: bool,
    ) -> Result<Vec<Acknowledgment>, Error> {
        let since = Instant::now();
        if is_batch {
            self.limits.batch(messages.len())?;
        }
        let path = |index: usize| if is_batch { format!("contexts[{index}].") } else { String::new() };
        let now = now();
        let chosen: Vec<bool> = messages.iter().map(|(_, message)| message.id.is_some()).collect();
        let ttls = self.policy.load().ttls;
        let mut contexts = Vec::with_capacity(messages.len());
        let mut seen = HashSet::with_capacity(messages.len());
        let mut reaches = Vec::with_capacity(messages.len());
        for (index, (reach, message)) in messages.into_iter().enumerate() {
            let context = convert::new_context(message, &reach, &self.limits, &ttls, now)
                .map_err(|error| error.within(&path(index)))?;
            reaches.push(reach);
            if !seen.insert(context.id) {
                let message = format!("the id {} occurs twice in the batch; give each context its own", context.id);
                return Err(Error::field(format!("{}id", path(index)), message));
            }
            contexts.push(context);
        }
        let _write = self.writes.read().await;
        let ids = contexts.iter().map(|context| Key::Context(context.id));
        let sessions = contexts.iter().filter_map(|context| context.session.as_ref()).map(Key::Session);
        let superseded = self.superseded(&contexts).await;
        let closed = superseded.iter().flat_map(|(id, session)| {
            [Some(Key::Context(*id)), session.as_ref().map(Key::Session)].into_iter().flatten()
        });
        let _held = self.locks.hold(ids.chain(sessions).chain(closed).collect::<Vec<_>>()).await;

        let chosen: Vec<ContextId> =
            contexts.iter().zip(chosen).filter(|(_, chosen)| *chosen).map(|(context, _)| context.id).collect();
        let (drafts, status) = match self.unless_journaling(self.store_now(&reaches, &contexts, chosen, now)).await? {
            Some(drafts) => (drafts, AckStatus::Stored),
            None => self.journal_contexts(&reaches, contexts, now).await?,
        };
        self.metrics.contexts.store_duration.observe(since.elapsed().as_secs_f64());
        Ok(drafts.iter().map(|draft| self.acknowledgment(draft.context(), status)).collect())
    }

    async fn store_now(
        &self,
        reaches: &[Reach],
        contexts: &[Context],
        chosen: Vec<ContextId>,
        now: Timestamp,
    ) -> Result<Vec<Draft>, Error> {
        let mut drafts = self.compare(contexts.to_vec(), chosen.clone(), now).await?;
        for (reach, draft) in reaches.iter().zip(&drafts) {
            // What the first of two equal requests superseded may be gone by now.
            if let Draft::New(context) = draft {
                self.check_superseded(reach, context).await?;
            }
        }
        let taken = self.write(&mut drafts, &chosen, now).await?;
        drafts.retain(|draft| !taken.contains(&draft.context().id));
        self.close_all_superseded(&drafts).await?;
        match taken.into_iter().next() {
            Some(id) => Err(Error::IdTaken(id)),
            None => Ok(drafts),
        }
    }

    /// After the new contexts are there, also if they were there before: the last attempt may have ended in between.
    async fn close_all_superseded(&self, drafts: &[Draft]) -> Result<(), Error> {
        for draft in drafts {
            self.close_superseded(draft.context()).await?;
        }
        Ok(())
    }

    /// The contexts whose place new ones take, with their sessions as far as the sidecar can tell them.
    async fn superseded(&self, contexts: &[Context]) -> Vec<(ContextId, Option<SessionId>)> {
        let mut superseded = Vec::new();
        for context in contexts {
            let owner = Owner::of(context);
            for id in context.supersedes.iter().copied() {
                let point = if self.pending.is_active() { None } else { self.point_of(&owner, id).await.ok() };
                superseded.push((id, point.and_then(|point| point.context.session)));
            }
        }
        superseded
    }

    /// What is superseded must be there, so that a wrong id is noticed; outside the agent's own memory it must be what the agent may
    /// change, and what is not there is then no different.
    async fn check_superseded(&self, reach: &Reach, context: &Context) -> Result<(), Error> {
        for (place, id) in context.supersedes.iter().enumerate() {
            match self.point_of(reach.owner(), *id).await {
                Ok(point) if reach.may_supersede(&point.context) => {}
                Ok(_) | Err(Error::NotFound(_)) if !reach.is_own() => {
                    return Err(reach.deny_also(Operation::Update).into());
                }
                Ok(_) | Err(Error::NotFound(_)) => {
                    let message = format!("there is no context {id} to supersede; leave it out");
                    return Err(Error::field(format!("supersedes[{place}]"), message));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Tells new contexts from those that are there already. Ids made here cannot be taken, so only chosen ones are looked up.
    async fn compare(
        &self,
        contexts: Vec<Context>,
        chosen: Vec<ContextId>,
        now: Timestamp,
    ) -> Result<Vec<Draft>, Error> {
        let mut taken = HashMap::new();
        if !chosen.is_empty() {
            self.delete_again(&chosen).await?;
            let found = self.store_health.note(self.store.find(chosen).await)?;
            taken.extend(found.into_iter().map(|context| (context.id, context)));
        }
        let mut drafts = Vec::with_capacity(contexts.len());
        for context in contexts {
            let there = taken.remove(&context.id);
            drafts.push(match there {
                Some(there) if self.was_stored_as(&there, &context, now).await? => Draft::There(there),
                there => Draft::of(there, context, now)?,
            });
        }
        Ok(drafts)
    }

    /// Whether a context that was changed since was the same when it was stored, as far as that is kept: as one of its first versions, because
    /// a context that is moved to another level before it is changed keeps nothing of the version before.
    pub(super) async fn was_stored_as(&self, there: &Context, new: &Context, now: Timestamp) -> Result<bool, Error> {
        if !may_have_been(there, new, now) {
            return Ok(false);
        }
        let first = (1..there.version).take(MOST_MOVES + 1).map(|version| history::version_id(there.id, version));
        let found = self.store_health.note(self.store.get(&Owner::of(there), first.collect(), now).await)?;
        let as_stored = |context: &Context| context.updated_at == context.created_at && says_the_same(context, new);
        Ok(found.iter().any(|first| as_stored(&first.context)))
    }

    /// Writes the new contexts, and says which of the ids `claimed`, of contexts that others may write at the same time, somebody else
    /// took first.
    pub(super) async fn write(
        &self,
        drafts: &mut [Draft],
        claimed: &[ContextId],
        now: Timestamp,
    ) -> Result<Vec<ContextId>, Error> {
        let mut rings = self.put_lacking(self.immediate.lacking(written_before(drafts))).await?;
        let mut ends = self.session_ends(sessions_of(drafts), now).await?;
        let mut points = self.make_points(drafts, &mut ends).await;
        let written = if points.is_empty() { Ok(Vec::new()) } else { self.insert(&points, claimed, now).await };
        if !matches!(&written, Ok(taken) if taken.is_empty()) {
            // What was written is unknown, or not all, so the store is asked for the numbers next time.
            for (_, session) in ends.keys() {
                self.sessions.forget(Some(session)).await;
            }
        }
        let taken = written?;
        points.retain(|point| !taken.contains(&point.context.id));
        for ((owner, session), end) in ends {
            if owner == self.owner && taken.is_empty() {
                self.sessions.remember(session.clone(), end).await;
            }
            self.upkeep.touch(owner, session);
        }
        for Point { context, vectors } in &points {
            if context.level == Level::Immediate {
                self.immediate.put(context, vectors);
                rings.insert(context.session.clone());
            }
        }
        for session in rings {
            self.make_room(session.as_ref()).await;
        }
        Ok(taken)
    }

    /// Puts contexts in L1 that the store has and L1 lacks: they were written by a call whose answer was lost, or by a replica. Says whose
    /// rings they have come to. The caller holds their locks.
    pub(super) async fn put_lacking(&self, lacking: Vec<ContextId>) -> Result<HashSet<Option<SessionId>>, Error> {
        let mut rings = HashSet::new();
        for ids in lacking.chunks(POINTS_AT_ONCE) {
            let found = self.store_health.note(self.store.get(&self.owner, ids.to_vec(), now()).await)?;
            for Point { context, vectors } in found {
                self.immediate.put(&context, &vectors);
                rings.insert(context.session);
            }
        }
        Ok(rings)
    }

    /// Inserts contexts, and says which of the ids `claimed` are somebody else's. The store keeps the first of two contexts with one id and
    /// does not tell who came second, so those that another sidecar may have written meanwhile are read again.
    pub(super) async fn insert(
        &self,
        points: &[Point],
        claimed: &[ContextId],
        now: Timestamp,
    ) -> Result<Vec<ContextId>, Error> {
        let written: HashMap<ContextId, &Context> =
            points.iter().map(|point| (point.context.id, &point.context)).collect();
        let claimed: Vec<ContextId> = claimed.iter().copied().filter(|id| written.contains_key(id)).collect();
        let ids = if claimed.is_empty() { Ids::Fresh } else { Ids::Claimed };
        let inserted = self.store_health.note(self.store.insert(points.to_vec(), ids, now).await).map_err(Error::from);
        match inserted {
            Ok(()) => {
                let lacking = points.iter().filter(|point| point.vectors.dense_self.is_none());
                self.note_lacking(lacking.map(|point| &point.context));
                self.unbury(&written.keys().copied().collect::<Vec<_>>());
            }
            Err(error) => {
                self.doubt(&error, points.iter().map(|point| &point.context));
                return Err(error);
            }
        }
        let mut taken = Vec::new();
        if claimed.is_empty() {
            return Ok(taken);
        }
        for there in self.store_health.note(self.store.find(claimed).await)? {
            let Some(new) = written.get(&there.id) else { continue };
            if !came_of(&there, new) && !self.was_stored_as(&there, new, now).await? {
                taken.push(there.id);
            }
        }
        Ok(taken)
    }

    /// Numbers the new contexts within their sessions, whose ends are brought up to date, and makes their vectors.
    pub(super) async fn make_points(&self, drafts: &mut [Draft], ends: &mut HashMap<Thread, SessionEnd>) -> Vec<Point> {
        let (mut points, mut texts) = (Vec::new(), Vec::new());
        for draft in drafts {
            let Draft::New(context) = draft else { continue };
            self.stored_until.note(context.created_at);
            let mut previous = None;
            if let Some(thread) = thread_of(context) {
                let end = ends.remove(&thread).unwrap_or_default();
                context.sequence = end.sequence.map_or(0, |last| last.saturating_add(1));
                previous = end.last;
                ends.insert(thread, SessionEnd { sequence: Some(context.sequence), last: Some(context.clone()) });
            }
            texts.push(index_texts(context, previous.as_ref()));
            points.push(Point { context: context.clone(), vectors: Vectors::default() });
        }
        if points.is_empty() {
            return points;
        }
        let owners: HashSet<Owner> = points.iter().map(|point| Owner::of(&point.context)).collect();
        let dense = self.dense_or_later(&texts, &owners).await;
        for ((point, texts), dense) in points.iter_mut().zip(&texts).zip(dense) {
            point.vectors = texts.vectors(&Bm25::default(), dense);
        }
        points
    }

    /// The dense vectors of texts; none when the embedding fails, they are added later then.
    pub(super) async fn dense_or_later(
        &self,
        texts: &[IndexTexts],
        owners: &HashSet<Owner>,
    ) -> Vec<Option<(Vec<f32>, Vec<f32>)>> {
        for owner in owners {
            self.re_embedding.visit(owner);
        }
        let embedding = self.embedding.load_full();
        match self.hurry.patience(embedding.documents(texts)).await {
            Some(Ok(dense)) => dense.into_iter().map(Some).collect(),
            failed => {
                let error = failed.and_then(Result::err);
                let error = error.map_or_else(|| "too slow while all writers wait".to_owned(), |error| chain(&error));
                warn!(error, contexts = texts.len(), "Stored without dense vectors; they are added later");
                self.metrics.contexts.degraded.add(Degradation::Embedding, 1);
                // Which of them are whose does not matter: they are counted together, and anew before long.
                if let Some(owner) = owners.iter().next() {
                    self.re_embedding.lack(owner, texts.len());
                }
                vec![None; texts.len()]
            }
        }
    }

    /// Has contexts looked for that are in the store without dense vectors now.
    pub(super) fn note_lacking<'a>(&self, written: impl IntoIterator<Item = &'a Context>) {
        let mut lacking: HashMap<Owner, usize> = HashMap::new();
        for context in written {
            *lacking.entry(Owner::of(context)).or_default() += 1;
        }
        for (owner, contexts) in lacking {
            self.re_embedding.are_there(&owner, contexts);
        }
    }

    /// The end of a session as it is remembered; what replicas of the agent have done in it since is not part of that. Of a memory that
    /// other agents write to, nothing is remembered.
    pub(super) async fn remembered_end(&self, owner: &Owner, session: &SessionId) -> Option<SessionEnd> {
        let is_mine_alone = *owner == self.owner && !self.access.load().others_write();
        if is_mine_alone { self.sessions.get(session).await } else { None }
    }

    async fn session_ends(
        &self,
        threads: HashSet<Thread>,
        now: Timestamp,
    ) -> Result<HashMap<Thread, SessionEnd>, Error> {
        let threads: Vec<Thread> = threads.into_iter().collect();
        let mut ends = HashMap::with_capacity(threads.len());
        for threads in threads.chunks(SESSIONS_AT_ONCE) {
            let read = threads.iter().map(|(owner, session)| self.session_end(owner, session, now));
            ends.extend(threads.iter().cloned().zip(try_join_all(read).await?));
        }
        Ok(ends)
    }

    /// The end of a session. In a store that others use as well it is what the store says: a replica of the agent may have gone on with the
    /// session, or have deleted what was its end, since this sidecar wrote to it.
    async fn session_end(&self, owner: &Owner, session: &SessionId, now: Timestamp) -> Result<SessionEnd, Error> {
        let is_alive = |end: &SessionEnd| end.last.as_ref().is_none_or(|last| !last.is_expired(now));
        if !self.store.is_shared()
            && let Some(end) = self.remembered_end(owner, session).await.filter(is_alive)
        {
            return Ok(end);
        }
        Ok(self.store_health.note(self.store.session_end(owner, session, now).await)?)
    }

    /// Moves the oldest immediate contexts of a full ring to short-term memory, where they live on as long as that level's
    /// contexts do. What fails is tried again with the next context of the session.
    async fn make_room(&self, session: Option<&SessionId>) {
        let policy = self.policy.load_full();
        let Some(capacity) = policy.capacities[Level::Immediate] else { return };
        for context in self.immediate.surplus(session, capacity, now()) {
            // Not the time of the request, which has waited since: nothing lives on that had expired by now.
            let now = now();
            // What a waiting deletion is about stays where that deletion finds it.
            let is_gone = self.pending.view().is_some_and(|view| view.is_gone(&context));
            if is_gone || context.is_expired(now) {
                continue;
            }
            let moved = promotion::moved(&context, Level::ShortTerm, now, &policy.ttls);
            match self.update_with_versions(&context, &moved, None).await {
                Ok(Updated::Applied) => self.metrics.contexts.evicted.add(convert::level_message(context.level), 1),
                // Deleted or changed by another sidecar, which has it in its own L1 if it is still on this level.
                Ok(Updated::Missing | Updated::Conflict { .. }) if self.store.is_shared() => {}
                // Deleted or changed meanwhile: whoever did it has put the new state in L1, or taken it out.
                Ok(Updated::Missing | Updated::Conflict { .. }) => continue,
                Err(error) => {
                    warn!(error = chain(&error), "Failed to move a context from immediate to short-term memory");
                    return;
                }
            }
            self.immediate.remove(context.id);
        }
    }
}

/// A session of a memory.
pub(super) type Thread = (Owner, SessionId);

/// The session of a context.
pub(super) fn thread_of(context: &Context) -> Option<Thread> {
    context.session.clone().map(|session| (Owner::of(context), session))
}

/// The contexts that are there already.
fn written_before(drafts: &[Draft]) -> impl Iterator<Item = &Context> {
    drafts.iter().filter_map(|draft| match draft {
        Draft::There(context) => Some(context),
        Draft::New(_) => None,
    })
}

/// The sessions that get new contexts.
pub(super) fn sessions_of(drafts: &[Draft]) -> HashSet<Thread> {
    let new = drafts.iter().filter_map(|draft| match draft {
        Draft::New(context) => thread_of(context),
        Draft::There(_) => None,
    });
    new.collect()
}

/// Whether storing `new` again is harmless, because `there` is what it would become. A context that was promoted or made
/// room since is on another level, and still the same.
pub(super) fn says_the_same(there: &Context, new: &Context) -> bool {
    is_owned_alike(there, new)
        && there.text == new.text
        && there.session == new.session
        && there.actor == new.actor
        && alike(&there.metadata, &new.metadata)
        && there.ttl == new.ttl
        && there.occurred_at == new.occurred_at
        && there.supersedes == new.supersedes
        && (there.level == new.level || there.version > 1)
}

/// Whether `there` says something else than `new`, and was changed since it was stored, so that it may have been the same then.
pub(super) fn may_have_been(there: &Context, new: &Context, now: Timestamp) -> bool {
    there.version > 1 && !there.is_expired(now) && is_owned_alike(there, new) && !says_the_same(there, new)
}

/// Whether `there` is what became of `new`: the same but for later changes.
pub(super) fn came_of(there: &Context, new: &Context) -> bool {
    says_the_same(there, new) || (is_owned_alike(there, new) && there.version > 1 && there.created_at == new.created_at)
}

pub(super) fn is_owned_alike(there: &Context, new: &Context) -> bool {
    there.tenant == new.tenant && there.holder == new.holder
}
