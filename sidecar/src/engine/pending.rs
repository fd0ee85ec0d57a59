//! Writes that wait for the store: a journal on the disk, and in memory what they make of the contexts.
//!
//! While anything waits, every write waits behind it, so that the store sees all writes in their order. Readers lay the
//! [`View`] over what the store answers; so a journaled write is seen at once, and what was deleted stays deleted.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use context_manager_journal::{Damage, Journal, Options, Record, Usage};
use context_manager_memory::{
    Context, ContextId, Holder, Level, SessionId, Timestamp, Vectors, index_text::index_texts, lexical::Bm25,
};
use context_manager_protocol::{message::ContextDelete, size::ByteSize};
use tokio::{sync::Notify, task::spawn_blocking};
use tracing::{error, warn};

use super::{
    Error, Part, convert,
    doubt::Deleted,
    filter::{self, Wanted},
    within::Within,
};
use crate::{
    metrics::{Metrics, Volume},
    ports::vector_store::{Owner, Point, SessionEnd, Validity},
    space::{self, Purpose, Space},
};

mod entry;
mod past;
mod unreadable;
mod unresolved;

pub(super) use entry::{Change, Clear, Delete, DeleteMatching, Entry, Oldest, Seen, Update};
pub(super) use unreadable::Unreadable;
use unresolved::Unresolved;

/// A context as the waiting writes leave it.
#[derive(Clone, Debug)]
pub(super) struct Waits {
    pub(super) context: Arc<Context>,
    pub(super) vectors: Arc<Vectors>,
    /// Whether the store has never had it.
    is_new: bool,
    /// The last write about it.
    number: u64,
}

impl Waits {
    pub(super) fn point(&self) -> Point {
        Point { context: self.context.as_ref().clone(), vectors: self.vectors.as_ref().clone() }
    }
}

/// What the waiting writes make of the contexts. With each part is the number of the last write about it: what has reached the store
/// is forgotten.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    points: HashMap<ContextId, Waits>,
    deleted: HashMap<(Owner, ContextId), u64>,
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
    pub(super) fn get(&self, id: ContextId) -> Option<&Waits> {
        self.points.get(&id)
    }

    /// Whether a search or a list must not have this context from the store: what it says is outdated, or another one takes
    /// its place.
    pub(super) fn hides(&self, context: &Context) -> bool {
        self.replaces(context) || self.superseded.contains_key(&context.id)
    }

    /// Whether what the store says about this context is outdated: it was changed, or it is gone.
    pub(super) fn replaces(&self, context: &Context) -> bool {
        self.points.contains_key(&context.id)
            || self.late.has(context)
            || self.is_deleted(&Owner::of(context), context.id)
            || self.doomed.iter().any(|(_, wanted)| wanted.matches(context))
    }

    /// Whether a write waits.
    pub(super) fn has_writes(&self) -> bool {
        !(self.points.is_empty() && self.deleted.is_empty() && self.doomed.is_empty() && self.superseded.is_empty())
    }

    /// The context that takes the place of this one by a waiting write.
    pub(super) fn successor(&self, id: ContextId) -> Option<ContextId> {
        self.superseded.get(&id).map(|(_, by, _)| *by)
    }

    /// Whether a waiting write deletes this context by its id.
    pub(super) fn is_deleted(&self, owner: &Owner, id: ContextId) -> bool {
        !self.deleted.is_empty() && self.deleted.contains_key(&(owner.clone(), id))
    }

    /// The contexts that are new or changed, and whose place no other takes.
    pub(super) fn points(&self) -> impl Iterator<Item = &Waits> {
        self.points.values().filter(|point| !self.superseded.contains_key(&point.context.id))
    }

    /// The contexts of the store that the waiting writes change, delete or supersede one by one; some may be another's.
    pub(super) fn concerned(&self, owner: &Owner) -> BTreeSet<ContextId> {
        let changed = |point: &&Waits| !point.is_new && owner.owns(&point.context);
        let put = self.points.values().filter(changed).map(|point| point.context.id);
        let deleted = self.deleted.keys().filter(|(of, _)| of == owner).map(|(_, id)| *id);
        put.chain(deleted).chain(self.superseded.keys().copied()).collect()
    }

    /// The contexts that would expire, and that a waiting change may have given a longer life than the store knows of.
    pub(super) fn kept_alive(&self, now: Timestamp) -> Vec<ContextId> {
        let changed = self.points.values().map(|waits| &waits.context).filter(|context| context.version > 1);
        let alive = changed.filter(|context| context.expires_at.is_some() && !context.is_expired(now));
        alive.map(|context| context.id).chain(self.unresolved.keys().copied()).collect()
    }

    /// What the waiting writes delete of an owner's by what it is.
    pub(super) fn doomed(&self, owner: &Owner) -> impl Iterator<Item = &Wanted> {
        self.doomed.iter().map(|(_, wanted)| wanted.as_ref()).filter(|wanted| wanted.owner == *owner)
    }

    /// The last context of a session, as far as the waiting writes tell.
    pub(super) fn session_end(&self, owner: &Owner, session: &SessionId) -> Option<SessionEnd> {
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

    fn put(&mut self, number: u64, Point { context, vectors }: Point, is_new: bool) {
        if !self.deleted.is_empty() {
            self.deleted.remove(&(Owner::of(&context), context.id));
        }
        self.unresolved.remove(&context.id);
        let by = (number, context.id, context.created_at);
        self.superseded.extend(context.supersedes.iter().map(|id| (*id, by)));
        let before = self.points.get(&context.id);
        let is_new = is_new || before.is_some_and(|before| before.is_new);
        if let Some(before) = before.filter(|before| before.context.version < context.version) {
            self.earlier.entry(context.id).or_default().push((before.clone(), context.updated_at));
        }
        let waits = Waits { context: Arc::new(context), vectors: Arc::new(vectors), is_new, number };
        self.points.insert(waits.context.id, waits);
    }

    fn delete(&mut self, number: u64, owner: Owner, id: ContextId) {
        if self.points.get(&id).is_some_and(|point| owner.owns(&point.context)) {
            self.points.remove(&id);
            self.earlier.remove(&id);
        }
        self.unresolved.retain(|changed, changes| *changed != id || changes[0].owner() != &owner);
        self.deleted.insert((owner, id), number);
    }

    fn delete_matching(&mut self, number: u64, wanted: Wanted) {
        let gone = self.points.extract_if(|_, point| wanted.matches(&point.context));
        // What the store has of them may be no such thing, and goes with them.
        let gone = gone.filter(|(_, point)| !point.is_new).map(|(id, _)| ((wanted.owner.clone(), id), number));
        self.deleted.extend(gone);
        self.earlier.retain(|id, _| self.points.contains_key(id));
        self.doomed.push((number, Arc::new(wanted)));
    }

    /// Forgets what the writes up to a number were about: they have reached the store.
    fn forget(&mut self, number: u64) {
        self.points.retain(|_, waits| waits.number > number);
        self.deleted.retain(|_, of| *of > number);
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
    fn replay(&mut self, number: u64, entry: &Entry, own: &Owner) -> Result<(), Error> {
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
pub(super) fn owner(own: &Owner, holder: Option<&Holder>) -> Owner {
    holder.map_or_else(|| own.clone(), |holder| Owner { tenant: own.tenant.clone(), holder: holder.clone() })
}

/// What clearing a session is about: also what it was before.
pub(super) fn cleared(session: &SessionId, within: Option<Within>, own: &Owner) -> Wanted {
    let wanted = within.map_or_else(|| Wanted::all(own.clone()), |within| within.wanted(own));
    Wanted { session: Some(session.clone()), validity: Validity::Any, ..wanted }
}

/// What a deletion by conditions is about.
pub(super) fn doomed(
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

/// How a new entry changes the view.
pub(super) enum Effect {
    /// Contexts are new, or known and as they are said to be now.
    Put { new: Vec<Point>, known: Vec<Point> },
    /// A context is gone.
    Delete(Owner, ContextId),
    /// The contexts that match are gone.
    DeleteMatching(Wanted),
}

/// A write in the queue, as it is on the disk: what it makes of the contexts is in the view already.
#[derive(Debug)]
struct Queued {
    number: u64,
    record: Vec<u8>,
    at: Option<Timestamp>,
    /// Contexts, or 1 of another write.
    contexts: usize,
    /// Bytes of memory, with its part of the view; an estimate.
    memory: u64,
    /// Why this version cannot read it, if it cannot.
    problem: Option<String>,
}

impl Queued {
    /// A context, and the two maps' entries for it, without its text.
    const CONTEXT: u64 = 2 << 10;

    fn new(number: u64, record: Vec<u8>, entry: &Entry, memory: u64) -> Self {
        Self { number, record, at: entry.at(), contexts: entry.contexts(), memory, problem: None }
    }

    /// One that this version cannot read.
    fn unreadable(number: u64, record: Vec<u8>, problem: String) -> Self {
        let memory = record.len() as u64;
        Self { number, record, at: None, contexts: 1, memory, problem: Some(problem) }
    }

    /// What a write takes: its record, the texts and metadata of the view, and the vectors.
    fn memory(record: &[u8], entry: &Entry, vectors: u64) -> u64 {
        3 * record.len() as u64 + entry.contexts() as u64 * Self::CONTEXT + vectors
    }

    fn entry(&self) -> Result<Entry, Unreadable> {
        let read = match &self.problem {
            Some(problem) => Err(problem.clone()),
            None => Entry::decode(&self.record).map_err(|error| error.to_string()),
        };
        read.map_err(|problem| Unreadable { number: self.number, problem, record: self.record.clone() })
    }
}

/// Bytes of the vectors of points.
fn vectors_of(points: &[Point]) -> u64 {
    let dense = |vector: &Option<Vec<f32>>| vector.as_ref().map_or(0, |vector| 4 * vector.len());
    let of = |Vectors { dense_self, dense_ctx, sparse_self, sparse_ctx }: &Vectors| {
        let sparse = 8 * (sparse_self.indices().len() + sparse_ctx.indices().len());
        dense(dense_self) + dense(dense_ctx) + sparse
    };
    points.iter().map(|point| of(&point.vectors) as u64).sum()
}

/// Bytes of the texts and metadata of points.
fn texts_of(points: &[Point]) -> u64 {
    points.iter().map(|point| point.context.written_bytes() as u64).sum()
}

#[derive(Debug, Default)]
struct Waiting {
    queue: VecDeque<Queued>,
    /// Bytes of memory of what is in the queue, estimated.
    memory: u64,
    /// The same of what is on its way to the disk.
    memory_under_way: u64,
    view: Arc<View>,
    /// Of each write that is on its way to the disk the least number that it can get. The journal's numbers say the order, but writes
    /// whose syncs are shared come into the queue in any; one with a smaller number may still be missing there.
    under_way: Vec<u64>,
}

impl Waiting {
    /// What is to be brought to the store first, and the number up to which it then has all writes: new contexts of further writes join
    /// those of the oldest one while `joins` takes them. None of them may overtake one that is under way, which would be taken for done.
    fn oldest(&self, mut joins: impl FnMut(&[Context]) -> bool) -> Option<(u64, Oldest)> {
        let mut writes = self.complete();
        let first = writes.next()?;
        let mut contexts = match first.entry().map_or_else(Oldest::Unreadable, Oldest::from) {
            Oldest::Contexts(contexts) => contexts,
            alone @ (Oldest::Change(_) | Oldest::Unreadable(_)) => return Some((first.number, alone)),
        };
        let mut last = first.number;
        joins(&contexts);
        for queued in writes {
            let Ok(Entry::Store { contexts: more }) = queued.entry() else { break };
            if !joins(&more) {
                break;
            }
            contexts.extend(more);
            last = queued.number;
        }
        Some((last, Oldest::Contexts(contexts)))
    }

    /// The newest new context behind the number `after` that `is_wanted`; none of a write that is under way.
    fn newest_context(&self, after: u64, is_wanted: impl Fn(&Context) -> bool) -> Option<Context> {
        let behind = self.complete().rev().take_while(|queued| queued.number > after);
        let contexts = behind.filter_map(|queued| match queued.entry() {
            Ok(Entry::Store { contexts }) => contexts.into_iter().find(&is_wanted),
            Ok(_) | Err(_) => None,
        });
        contexts.into_iter().next()
    }

    /// The writes before which none is under way, in their order.
    fn complete(&self) -> impl DoubleEndedIterator<Item = &Queued> {
        let complete_below = self.under_way.iter().min().copied().unwrap_or(u64::MAX);
        let complete = self.queue.partition_point(|queued| queued.number < complete_below);
        self.queue.range(..complete)
    }

    /// Adds to the memory that a write takes.
    fn grow(&mut self, number: u64, memory: u64) {
        let place = self.queue.partition_point(|before| before.number < number);
        if let Some(queued) = self.queue.get_mut(place).filter(|queued| queued.number == number) {
            queued.memory += memory;
            self.memory += memory;
        }
    }

    fn insert(&mut self, queued: Queued) {
        let place = self.queue.partition_point(|before| before.number < queued.number);
        self.memory += queued.memory;
        self.queue.insert(place, queued);
    }

    /// Forgets the writes up to a number, and says how many.
    fn forget(&mut self, number: u64) -> usize {
        let done = self.queue.partition_point(|of| of.number <= number);
        let memory: u64 = self.queue.drain(..done).map(|queued| queued.memory).sum();
        if self.queue.is_empty() {
            let (under_way, memory_under_way) = (mem::take(&mut self.under_way), self.memory_under_way);
            let view = View { late: Arc::clone(&self.view.late), ..View::default() };
            *self = Self { memory_under_way, under_way, view: Arc::new(view), ..Self::default() };
        } else {
            self.memory -= memory;
            Arc::make_mut(&mut self.view).forget(number);
        }
        done
    }
}

/// A write that is on its way to the disk, with the memory that it will take; given back when it does not get there.
struct UnderWay<'a> {
    waiting: &'a Mutex<Waiting>,
    least: u64,
    memory: u64,
}

impl<'a> UnderWay<'a> {
    /// Begins a write, if there is memory for it beside all that waits and all that is under way.
    fn begin(waiting: &'a Mutex<Waiting>, journal: &Journal, memory: u64, most: ByteSize) -> Result<Self, Error> {
        let mut locked = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if locked.memory + locked.memory_under_way + memory > most.bytes() {
            return Err(Error::JournalMemory(most));
        }
        let least = journal.next();
        locked.under_way.push(least);
        locked.memory_under_way += memory;
        Ok(Self { waiting, least, memory })
    }

    /// Puts the write in the queue, which has its memory from now on.
    fn arrive(&mut self, waiting: &mut Waiting, queued: Queued) {
        waiting.memory_under_way -= mem::take(&mut self.memory);
        waiting.insert(queued);
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.memory_under_way -= self.memory;
        if let Some(place) = waiting.under_way.iter().position(|least| *least == self.least) {
            waiting.under_way.swap_remove(place);
        }
    }
}

/// The waiting writes; without a journal there never are any.
pub(super) struct Pending {
    /// `None` once it is closed.
    journal: Mutex<Option<Arc<Journal>>>,
    is_enabled: bool,
    waiting: Mutex<Waiting>,
    /// Most memory of waiting writes; what was there at the start may be more.
    most: ByteSize,
    arrived: Notify,
    space: Option<Arc<Space>>,
    metrics: Arc<Metrics>,
}

impl Pending {
    /// Opens the journal, if there is to be one, with what waits in it.
    pub(super) async fn open(
        options: Option<Options>,
        most: ByteSize,
        own: &Owner,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Error> {
        let mut waiting = Waiting::default();
        let space = options.as_ref().map(|options| {
            Space::new(Volume::Journal, &options.directory, space::JOURNAL_RESERVE, Arc::clone(&metrics))
        });
        let journal = match options {
            None => None,
            Some(options) => {
                let opened = spawn_blocking(move || Journal::open(options)).await.map_err(|_| Error::Interrupted)?;
                let (journal, opened) = opened?;
                for Damage { bytes, aside } in opened.damage {
                    warn!(bytes, aside = %aside.display(), "Set aside what was no whole record at the end of a journal file");
                }
                let mut view = View::default();
                for Record { number, payload } in opened.records {
                    let read = Entry::decode(&payload).map_err(|error| error.to_string());
                    let read = read.and_then(|entry| match view.replay(number, &entry, own) {
                        Ok(()) => Ok(entry),
                        Err(error) => Err(error.to_string()),
                    });
                    waiting.insert(match read {
                        Ok(entry) => {
                            let memory = Queued::memory(&payload, &entry, 0);
                            Queued::new(number, payload, &entry, memory)
                        }
                        Err(problem) => {
                            error!(
                                record = number,
                                bytes = payload.len(),
                                "A record of the journal cannot be read by this version; it is set aside in its turn, unless the version \
                                 that wrote it is started before"
                            );
                            Queued::unreadable(number, payload, problem)
                        }
                    });
                }
                waiting.view = Arc::new(view);
                Some(Arc::new(journal))
            }
        };
        let is_enabled = journal.is_some();
        let pending = Self {
            journal: Mutex::new(journal),
            is_enabled,
            waiting: Mutex::new(waiting),
            most,
            arrived: Notify::new(),
            space,
            metrics,
        };
        pending.show();
        Ok(pending)
    }

    /// Whether there is a journal.
    pub(super) const fn is_enabled(&self) -> bool {
        self.is_enabled
    }

    /// Whether something waits, so that further writes have to wait as well.
    pub(super) fn is_active(&self) -> bool {
        !self.waiting().queue.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting().queue.len()
    }

    /// When the latest of the waiting writes was taken.
    pub(super) fn latest(&self) -> Option<Timestamp> {
        self.waiting().queue.iter().filter_map(|queued| queued.at).max()
    }

    /// How many contexts and other writes wait.
    pub(super) fn contexts(&self) -> usize {
        self.waiting().queue.iter().map(|queued| queued.contexts).sum()
    }

    /// What the waiting writes make of the contexts; nothing if the store alone counts. Take it before asking the store: a write that reaches the store in
    /// between is then seen twice and not never.
    pub(super) fn view(&self) -> Option<Arc<View>> {
        let waiting = self.waiting();
        let changes_nothing = waiting.queue.is_empty() && waiting.view.late.is_empty();
        (!changes_nothing).then(|| Arc::clone(&waiting.view))
    }

    /// What waits, if something of it is to be [resolved](Self::resolve).
    pub(super) fn unresolved(&self) -> Option<Arc<View>> {
        let waiting = self.waiting();
        waiting.view.has_unresolved().then(|| Arc::clone(&waiting.view))
    }

    /// Takes what the store has of these contexts, whose changes were to be resolved when it was `seen`. If some of these have reached the store
    /// since, it may have been asked before or after that, so their context waits for the next time.
    pub(super) fn resolve(&self, seen: &View, ids: &[ContextId], stored: Vec<Point>) {
        let mut stored: HashMap<ContextId, Point> = stored.into_iter().map(|point| (point.context.id, point)).collect();
        let mut waiting = self.waiting();
        for id in ids {
            if waiting.view.has_unresolved_of(*id, seen) {
                let memory = Arc::make_mut(&mut waiting.view).resolve(*id, stored.remove(id));
                for (number, memory) in memory {
                    waiting.grow(number, memory);
                }
            }
        }
    }

    /// Lets readers not see what was deleted and may come back.
    pub(super) fn hide(&self, deleted: impl FnOnce() -> Arc<Deleted>) {
        let mut waiting = self.waiting();
        // Asked for under the lock, so that the last one counts.
        Arc::make_mut(&mut waiting.view).late = deleted();
    }

    /// Takes a write; it is on the disk when this returns. The caller holds the locks of what it writes.
    pub(super) async fn append(&self, entry: Entry, effect: Effect) -> Result<(), Error> {
        let journal = self.journal().ok_or(Error::Interrupted)?;
        let payload = serde_json::to_vec(&entry).map_err(|_| Error::Interrupted)?;
        let vectors = match &effect {
            // What is known may be kept beside what it becomes later, and its text is not in the record of a change of its metadata.
            Effect::Put { new, known } => vectors_of(new) + vectors_of(known) + texts_of(known),
            Effect::Delete(..) | Effect::DeleteMatching(_) => 0,
        };
        let memory = Queued::memory(&payload, &entry, vectors);
        let mut under_way = UnderWay::begin(&self.waiting, &journal, memory, self.most)?;
        let room = payload.len() as u64;
        let claim = self.space.as_ref().map(|space| space.claim(Purpose::Content, room)).transpose();
        let claim = claim.map_err(Error::JournalDisk)?;
        let appending = spawn_blocking(move || (journal.append(&payload), payload));
        let (appended, payload) = appending.await.map_err(|_| Error::Interrupted)?;
        let number = appended?;
        drop(claim);
        {
            let mut waiting = self.waiting();
            under_way.arrive(&mut waiting, Queued::new(number, payload, &entry, memory));
            let view = Arc::make_mut(&mut waiting.view);
            match effect {
                Effect::Put { new, known } => {
                    for point in new {
                        view.put(number, point, true);
                    }
                    for point in known {
                        view.put(number, point, false);
                    }
                }
                Effect::Delete(owner, id) => view.delete(number, owner, id),
                Effect::DeleteMatching(wanted) => view.delete_matching(number, wanted),
            }
        }
        drop(under_way);
        self.metrics.journal.appended.inc();
        self.show();
        self.arrived.notify_one();
        Ok(())
    }

    /// Forgets the dense vectors: another model makes them from now on. The store gets new ones with the writes.
    pub(super) fn forget_dense(&self) {
        for point in Arc::make_mut(&mut self.waiting().view).points.values_mut() {
            let vectors = Arc::make_mut(&mut point.vectors);
            (vectors.dense_self, vectors.dense_ctx) = (None, None);
        }
    }

    /// Waits until something waits.
    pub(super) async fn arrival(&self) {
        while !self.is_active() {
            self.arrived.notified().await;
        }
    }

    /// What is to be brought to the store first, and the number up to which it then has all writes; new contexts join while `joins` takes
    /// them. Nothing while an older write is still on its way to the disk.
    pub(super) fn oldest(&self, joins: impl FnMut(&[Context]) -> bool) -> Option<(u64, Oldest)> {
        self.waiting().oldest(joins)
    }

    /// The newest new context that waits behind the number `after` and `is_wanted`.
    pub(super) fn newest_context(&self, after: u64, is_wanted: impl Fn(&Context) -> bool) -> Option<Context> {
        self.waiting().newest_context(after, is_wanted)
    }

    /// Forgets the writes up to a number: they have reached the store.
    pub(super) async fn complete(&self, number: u64) -> Result<(), Error> {
        let journal = self.journal().ok_or(Error::Interrupted)?;
        spawn_blocking(move || journal.complete(number)).await.map_err(|_| Error::Interrupted)??;
        let done = self.waiting().forget(number);
        self.metrics.journal.drained.inc_by(done as u64);
        self.show();
        Ok(())
    }

    fn usage(&self) -> Usage {
        self.journal().map(|journal| journal.usage()).unwrap_or_default()
    }

    /// Brings the gauges up to date.
    pub(super) fn show(&self) {
        let (entries, oldest) = {
            let waiting = self.waiting();
            (waiting.queue.len(), waiting.queue.front().and_then(|queued| queued.at))
        };
        let Usage { bytes, limit } = self.usage();
        let gauges = &self.metrics.journal;
        gauges.entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
        gauges.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        gauges.limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
        let age = oldest.map_or(0, |at| super::now().as_millis().saturating_sub(at.as_millis()).max(0));
        gauges.oldest.set(std::time::Duration::from_millis(age.unsigned_abs()).as_secs_f64());
    }

    /// The state for the health page; nothing without a journal.
    pub(super) fn part(&self) -> Option<Part> {
        if !self.is_enabled {
            return None;
        }
        let waiting = self.len();
        let detail = match waiting {
            0 => "no write waits for the store".to_owned(),
            1 => "1 write waits for the store".to_owned(),
            _ => format!("{waiting} writes wait for the store"),
        };
        let shortage = self.space.as_ref().and_then(|space| space.shortage());
        let degraded = waiting > 0 || shortage.is_some();
        let detail = shortage.map_or(detail.clone(), |full| format!("{detail}; {full}"));
        Some(Part { name: "journal", ready: true, degraded, detail })
    }

    /// Lets go of the journal; what waits is there at the next start.
    pub(super) fn close(&self) {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn journal(&self) -> Option<Arc<Journal>> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queued(number: u64) -> Queued {
        let id = ContextId::new(uuid::Uuid::from_u128(u128::from(number)));
        let entry = Entry::Delete(Delete { id, holder: None, at: Timestamp::from_millis(0) });
        Queued::new(number, serde_json::to_vec(&entry).expect("an entry"), &entry, 0)
    }

    #[test]
    fn writes_that_are_on_their_way_together_take_no_more_memory_than_there_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let (journal, _) = Journal::open(Options::new(directory.path())).expect("a journal");
        let waiting = Mutex::new(Waiting::default());
        let begin = |memory| UnderWay::begin(&waiting, &journal, memory, ByteSize::new(100));
        let locked = || waiting.lock().expect("not poisoned");
        let taken = || {
            let waiting = locked();
            (waiting.memory, waiting.memory_under_way)
        };
        let mut first = begin(60).expect("room");
        assert!(matches!(begin(60), Err(Error::JournalMemory(_))), "the first one is not on the disk yet, and counts");
        let second = begin(40).expect("room");
        assert!(begin(1).is_err());
        drop(second);
        assert_eq!(taken(), (0, 60), "what did not get there takes nothing");
        first.arrive(&mut locked(), Queued { memory: 60, ..queued(0) });
        drop(first);
        assert_eq!(taken(), (60, 0));
        let third = begin(40).expect("room");
        assert_eq!(locked().forget(0), 1);
        assert_eq!(taken(), (0, 40), "what is under way counts beside an empty queue");
        drop(third);
        assert!(begin(100).is_ok());
    }

    fn numbers(waiting: &Waiting) -> Vec<u64> {
        waiting.complete().map(|queued| queued.number).collect()
    }

    #[test]
    fn a_write_does_not_overtake_one_that_is_still_on_its_way_to_the_disk() {
        let directory = tempfile::tempdir().expect("a directory");
        let (journal, _) = Journal::open(Options::new(directory.path())).expect("a journal");
        let waiting = Mutex::new(Waiting::default());
        let begin = || UnderWay::begin(&waiting, &journal, 0, ByteSize::new(0)).expect("room");
        let (slow, quick) = (begin(), begin());
        let first = journal.append(b"slow").expect("appended");
        let second = journal.append(b"quick").expect("appended");

        waiting.lock().expect("not poisoned").insert(queued(second));
        drop(quick);
        assert_eq!(
            numbers(&waiting.lock().expect("not poisoned")),
            Vec::<u64>::new(),
            "the first one is not there yet"
        );
        waiting.lock().expect("not poisoned").insert(queued(first));
        drop(slow);
        assert_eq!(numbers(&waiting.lock().expect("not poisoned")), [first, second]);

        // What begins after that waits for its own turn only.
        let third = begin();
        assert_eq!(numbers(&waiting.lock().expect("not poisoned")), [first, second]);
        assert_eq!(waiting.lock().expect("not poisoned").forget(second), 2);
        let number = journal.append(b"third").expect("appended");
        waiting.lock().expect("not poisoned").insert(queued(number));
        assert_eq!(
            numbers(&waiting.lock().expect("not poisoned")),
            Vec::<u64>::new(),
            "what is under way is kept beside an empty queue"
        );
        drop(third);
        assert_eq!(numbers(&waiting.lock().expect("not poisoned")), [number]);
    }
}
