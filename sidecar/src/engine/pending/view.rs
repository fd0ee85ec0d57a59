//! What the waiting writes make of the contexts. Readers lay it over what the store answers.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use context_manager_memory::{
    Context, ContextId, Holder, Level, SessionId, Timestamp, Vectors, index_text::index_texts, lexical::Bm25,
};
use context_manager_protocol::message::ContextDelete;

use super::{Clear, Delete, DeleteMatching, Entry, Update};
use crate::{
    engine::{
        Error, convert,
        doubt::Deleted,
        filter::{self, Wanted},
        within::Within,
    },
    ports::vector_store::{Owner, Point, SessionEnd, Validity},
};

mod past;
mod unresolved;

use unresolved::Unresolved;

/// A context as the waiting writes leave it.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Waits {
    pub(in crate::engine) context: Arc<Context>,
    pub(in crate::engine) vectors: Arc<Vectors>,
    /// The write by which the store gets its id, as long as it has never had it.
    brought_by: Option<u64>,
    /// The last write about it.
    number: u64,
}

impl Waits {
    pub(in crate::engine) fn point(&self) -> Point {
        Point { context: self.context.as_ref().clone(), vectors: self.vectors.as_ref().clone() }
    }
}

/// A context that a waiting write deletes.
#[derive(Clone, Copy, Debug)]
struct Gone {
    /// The write by which the store gets it, as long as it has never had it.
    brought_by: Option<u64>,
    /// The write that deletes it.
    number: u64,
}

/// What the waiting writes make of the contexts. With each part is the number of the last write about it: what has reached the store
/// is forgotten.
#[derive(Clone, Debug, Default)]
pub(in crate::engine) struct View {
    points: HashMap<ContextId, Waits>,
    deleted: HashMap<(Owner, ContextId), Gone>,
    doomed: Vec<(u64, Arc<Wanted>)>,
    /// Contexts, and which one took their place when.
    superseded: HashMap<ContextId, (u64, ContextId, Timestamp)>,
    /// What was deleted, and a write in doubt may bring back; whatever waits.
    late: Arc<Deleted>,
    /// What changed contexts were after an earlier one of the waiting writes, until the next one; the oldest first.
    earlier: HashMap<ContextId, Vec<(Waits, Timestamp)>>,
    /// Changes of contexts that only the store knows; the first one first.
    unresolved: HashMap<ContextId, Vec<Unresolved>>,
}

impl View {
    /// The context as the waiting writes leave it.
    pub(in crate::engine) fn get(&self, id: ContextId) -> Option<&Waits> {
        self.points.get(&id)
    }

    /// Whether a search or a list must not have this context from the store: what it says is outdated, or another one takes
    /// its place.
    pub(in crate::engine) fn hides(&self, context: &Context) -> bool {
        self.replaces(context) || self.superseded.contains_key(&context.id)
    }

    /// Whether what the store says about this context is outdated: it was changed, or it is gone.
    pub(in crate::engine) fn replaces(&self, context: &Context) -> bool {
        self.points.contains_key(&context.id)
            || self.late.has(context)
            || self.is_deleted(&Owner::of(context), context.id)
            || self.doomed.iter().any(|(_, wanted)| wanted.matches(context))
    }

    /// Whether a context that was read from here or from the store is not there any more.
    pub(in crate::engine) fn is_gone(&self, context: &Context) -> bool {
        !self.points.contains_key(&context.id) && self.replaces(context)
    }

    /// Whether a write waits.
    pub(in crate::engine) fn has_writes(&self) -> bool {
        !(self.points.is_empty() && self.deleted.is_empty() && self.doomed.is_empty() && self.superseded.is_empty())
    }

    /// The context that takes the place of this one by a waiting write.
    pub(in crate::engine) fn successor(&self, id: ContextId) -> Option<ContextId> {
        self.superseded.get(&id).map(|(_, by, _)| *by)
    }

    /// Whether a waiting write deletes this context by its id.
    pub(in crate::engine) fn is_deleted(&self, owner: &Owner, id: ContextId) -> bool {
        !self.deleted.is_empty() && self.deleted.contains_key(&(owner.clone(), id))
    }

    /// The contexts that are new or changed, and whose place no other takes.
    pub(in crate::engine) fn points(&self) -> impl Iterator<Item = &Waits> {
        self.points.values().filter(|point| !self.superseded.contains_key(&point.context.id))
    }

    /// The contexts of the store that the waiting writes change, delete or supersede one by one; some may be another's.
    pub(in crate::engine) fn concerned(&self, owner: &Owner) -> BTreeSet<ContextId> {
        let changed = |point: &&Waits| point.brought_by.is_none() && owner.owns(&point.context);
        let put = self.points.values().filter(changed).map(|point| point.context.id);
        let stored = self.deleted.iter().filter(|(_, gone)| gone.brought_by.is_none());
        let deleted = stored.map(|(key, _)| key).filter(|(of, _)| of == owner).map(|(_, id)| *id);
        put.chain(deleted).chain(self.superseded.keys().copied()).collect()
    }

    /// The contexts that would expire, and that a waiting change may have given a longer life than the store knows of.
    pub(in crate::engine) fn kept_alive(&self, now: Timestamp) -> Vec<ContextId> {
        let changed = self.points.values().map(|waits| &waits.context).filter(|context| context.version > 1);
        let alive = changed.filter(|context| context.expires_at.is_some() && !context.is_expired(now));
        alive.map(|context| context.id).chain(self.unresolved.keys().copied()).collect()
    }

    /// What the waiting writes delete of an owner's by what it is.
    pub(in crate::engine) fn doomed(&self, owner: &Owner) -> impl Iterator<Item = &Wanted> {
        self.doomed.iter().map(|(_, wanted)| wanted.as_ref()).filter(|wanted| wanted.owner == *owner)
    }

    /// The last context of a session, as far as the waiting writes tell.
    pub(in crate::engine) fn session_end(&self, owner: &Owner, session: &SessionId) -> Option<SessionEnd> {
        let is_of = |context: &&Context| owner.owns(context) && context.session.as_ref() == Some(session);
        let of_session = self.points().map(|point| point.context.as_ref()).filter(is_of);
        let last = of_session.max_by_key(|context| (context.sequence, context.created_at, context.id))?;
        Some(SessionEnd { sequence: Some(last.sequence), last: Some(last.clone()) })
    }

    /// Since when what the store says about a context is not so any more, because of a waiting change.
    fn changed_since(&self, id: ContextId) -> Option<Timestamp> {
        let oldest = self.earlier.get(&id).and_then(|versions| versions.first()).map(|(waits, _)| waits);
        oldest.or_else(|| self.points.get(&id)).map(|waits| waits.context.updated_at)
    }

    /// What was deleted and may come back, alone.
    pub(super) fn without_writes(&self) -> Self {
        Self { late: Arc::clone(&self.late), ..Self::default() }
    }

    /// Whether it changes what the store answers although nothing waits.
    pub(super) fn hides_what_comes_back(&self) -> bool {
        !self.late.is_empty()
    }

    /// Hides what was deleted and may come back, whatever waits.
    pub(super) fn hide(&mut self, late: Arc<Deleted>) {
        self.late = late;
    }

    /// Forgets the dense vectors.
    pub(super) fn forget_dense(&mut self) {
        for point in self.points.values_mut() {
            let vectors = Arc::make_mut(&mut point.vectors);
            (vectors.dense_self, vectors.dense_ctx) = (None, None);
        }
    }

    pub(super) fn put(&mut self, number: u64, Point { context, vectors }: Point, is_new: bool) {
        let gone = if self.deleted.is_empty() { None } else { self.deleted.remove(&(Owner::of(&context), context.id)) };
        self.unresolved.remove(&context.id);
        let by = (number, context.id, context.created_at);
        self.superseded.extend(context.supersedes.iter().map(|id| (*id, by)));
        let before = self.points.get(&context.id);
        // What had its id before gets to the store by an earlier write, or is there.
        let had = before.map(|before| before.brought_by).or(gone.map(|gone| gone.brought_by));
        let brought_by = had.unwrap_or(is_new.then_some(number));
        if let Some(before) = before.filter(|before| before.context.version < context.version) {
            self.earlier.entry(context.id).or_default().push((before.clone(), context.updated_at));
        }
        let waits = Waits { context: Arc::new(context), vectors: Arc::new(vectors), brought_by, number };
        self.points.insert(waits.context.id, waits);
    }

    pub(super) fn delete(&mut self, number: u64, owner: Owner, id: ContextId) {
        let mut brought_by = None;
        if self.points.get(&id).is_some_and(|point| owner.owns(&point.context)) {
            brought_by = self.points.remove(&id).and_then(|point| point.brought_by);
            self.earlier.remove(&id);
        }
        self.unresolved.retain(|changed, changes| *changed != id || changes[0].owner() != &owner);
        self.deleted.insert((owner, id), Gone { brought_by, number });
    }

    pub(super) fn delete_matching(&mut self, number: u64, wanted: Wanted) {
        let gone = self.points.extract_if(|_, point| wanted.matches(&point.context));
        // What the store has of them, or gets by a write before this one, may be no such thing, and goes with them.
        let gone = gone.map(|(id, Waits { brought_by, .. })| ((wanted.owner.clone(), id), Gone { brought_by, number }));
        self.deleted.extend(gone);
        self.earlier.retain(|id, _| self.points.contains_key(id));
        self.doomed.push((number, Arc::new(wanted)));
    }

    /// Forgets what the writes up to a number were about: they have reached the store.
    pub(super) fn forget(&mut self, number: u64) {
        let waits_for = |brought_by: Option<u64>| brought_by.filter(|by| *by > number);
        self.points.retain(|_, waits| {
            waits.brought_by = waits_for(waits.brought_by);
            waits.number > number
        });
        self.deleted.retain(|_, gone| {
            gone.brought_by = waits_for(gone.brought_by);
            gone.number > number
        });
        self.doomed.retain(|(of, _)| *of > number);
        self.superseded.retain(|_, (of, _, _)| *of > number);
        self.earlier.retain(|_, versions| {
            versions.retain(|(waits, _)| waits.number > number);
            !versions.is_empty()
        });
        self.unresolved.retain(|_, changes| {
            changes.retain(|change| change.number() > number);
            !changes.is_empty()
        });
    }

    /// What an entry that was read from the disk makes of the contexts; vectors are those of the words alone.
    pub(super) fn replay(&mut self, number: u64, entry: &Entry, own: &Owner) -> Result<(), Error> {
        match entry {
            Entry::Store { contexts } => {
                for context in contexts {
                    let vectors = index_texts(context, None).vectors(&Bm25::default(), None);
                    // The last process may have brought it to the store.
                    self.put(number, Point { context: context.clone(), vectors }, false);
                }
            }
            Entry::Update(update) => {
                let owner = owner(own, update.holder.as_ref());
                let Some(point) = self.get(update.id) else {
                    self.wait_for(number, owner, update);
                    return Ok(());
                };
                if !owner.owns(&point.context) {
                    return Ok(());
                }
                let Ok(context) = update.made_of(&point.context) else { return Ok(()) };
                let vectors = index_texts(&context, None).vectors(&Bm25::default(), None);
                self.put(number, Point { context, vectors }, false);
            }
            Entry::Delete(Delete { id, holder, at: _ }) => self.delete(number, owner(own, holder.as_ref()), *id),
            Entry::Clear(Clear { session, within, at: _ }) => {
                self.delete_matching(number, cleared(session, within.clone(), own));
            }
            Entry::DeleteMatching(DeleteMatching { message, within, at }) => {
                self.delete_matching(number, doomed(message.clone(), within.clone(), *at, own)?);
            }
        }
        Ok(())
    }
}

/// Whose memory an entry is about.
pub(in crate::engine) fn owner(own: &Owner, holder: Option<&Holder>) -> Owner {
    holder.map_or_else(|| own.clone(), |holder| Owner { tenant: own.tenant.clone(), holder: holder.clone() })
}

/// What clearing a session is about: also what it was before.
pub(in crate::engine) fn cleared(session: &SessionId, within: Option<Within>, own: &Owner) -> Wanted {
    let wanted = within.map_or_else(|| Wanted::all(own.clone()), |within| within.wanted(own));
    Wanted { session: Some(session.clone()), validity: Validity::Any, ..wanted }
}

/// What a deletion by conditions is about.
pub(in crate::engine) fn doomed(
    message: ContextDelete,
    within: Option<Within>,
    at: Timestamp,
    own: &Owner,
) -> Result<Wanted, Error> {
    let wanted = match within {
        Some(within) => within.wanted(own),
        None => Wanted {
            session: message.session.as_deref().map(convert::session).transpose()?,
            levels: message
                .levels
                .as_ref()
                .map_or_else(|| Level::ALL.to_vec(), |levels| levels.iter().copied().map(convert::level).collect()),
            ..Wanted::all(own.clone())
        },
    };
    filter::of_deletion(message, wanted, Some(at))
}
