//! Writes that wait for the store: a journal on the disk, and in memory what they make of the contexts.
//!
//! While anything waits, every write waits behind it, so that the store sees all writes in their order. Readers lay the
//! [`View`] over what the store answers; so a journaled write is seen at once, and what was deleted stays deleted.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use context_manager_journal::{Damage, Journal, Options, Record, Usage};
use context_manager_memory::{Context, ContextId, Timestamp};
use context_manager_protocol::size::ByteSize;
use tokio::{
    sync::{Notify, RwLock, RwLockReadGuard, RwLockWriteGuard},
    task::spawn_blocking,
};
use tracing::{error, warn};

use super::{Error, Part, doubt::Deleted, filter::Wanted};
use crate::{
    metrics::{Metrics, Volume},
    ports::vector_store::{Owner, Point},
    space::{self, Purpose, Space},
};

mod entry;
mod queue;
mod unreadable;
mod view;

pub(super) use entry::{Change, Clear, Delete, DeleteMatching, Entry, Oldest, Seen, Update};
use queue::{Queued, UnderWay, Waiting};
pub(super) use unreadable::Unreadable;
pub(super) use view::{View, Waits, cleared, doomed, owner};

/// How a new entry changes the view.
pub(super) enum Effect {
    /// Contexts are new, or known and as they are said to be now.
    Put { new: Vec<Point>, known: Vec<Point> },
    /// A context is gone.
    Delete(Owner, ContextId),
    /// The contexts that match are gone.
    DeleteMatching(Wanted),
}

/// The waiting writes; without a journal there never are any.
pub(super) struct Pending {
    /// `None` once it is closed.
    journal: Mutex<Option<Arc<Journal>>>,
    is_enabled: bool,
    waiting: Mutex<Waiting>,
    /// Taken after all other locks, while a write goes to the disk and into the view.
    order: RwLock<()>,
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
            order: RwLock::default(),
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
        !self.waiting().is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting().len()
    }

    /// When the latest of the waiting writes was taken.
    pub(super) fn latest(&self) -> Option<Timestamp> {
        self.waiting().latest()
    }

    /// How many contexts and other writes wait.
    pub(super) fn contexts(&self) -> usize {
        self.waiting().contexts()
    }

    /// What the waiting writes make of the contexts; nothing if the store alone counts. Take it before asking the store: a write that reaches the store in
    /// between is then seen twice and not never.
    pub(super) fn view(&self) -> Option<Arc<View>> {
        let waiting = self.waiting();
        let counts = !waiting.is_empty() || waiting.view.hides_what_comes_back();
        counts.then(|| Arc::clone(&waiting.view))
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
        Arc::make_mut(&mut waiting.view).hide(deleted());
    }

    /// Room for a write of contexts whose locks the caller holds. Writes that share a sync come into the view in any order, whatever their
    /// numbers in the journal are; they are about other contexts, so that it makes no difference.
    pub(super) async fn beside_others(&self) -> RwLockReadGuard<'_, ()> {
        self.order.read().await
    }

    /// Room for a deletion by what contexts are, which holds no locks of theirs: what comes into the view before it has a smaller number too.
    pub(super) async fn alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.order.write().await
    }

    /// Takes a write; it is on the disk when this returns. The caller holds the locks of what it writes, and room for it.
    pub(super) async fn append(&self, entry: Entry, effect: Effect) -> Result<(), Error> {
        let journal = self.journal().ok_or(Error::Interrupted)?;
        let payload = serde_json::to_vec(&entry).map_err(|_| Error::Interrupted)?;
        let vectors = match &effect {
            // What is known may be kept beside what it becomes later, and its text is not in the record of a change of its metadata.
            Effect::Put { new, known } => queue::vectors_of(new) + queue::vectors_of(known) + queue::texts_of(known),
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
        Arc::make_mut(&mut self.waiting().view).forget_dense();
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
            (waiting.len(), waiting.since())
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
