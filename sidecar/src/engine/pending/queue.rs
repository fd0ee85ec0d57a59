//! The order of the waiting writes, and the memory that they take.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use context_manager_journal::Journal;
use context_manager_memory::{Context, Timestamp, Vectors};
use context_manager_protocol::size::ByteSize;

use super::{Entry, Oldest, Unreadable, View};
use crate::{engine::Error, ports::vector_store::Point};

/// A write in the queue, as it is on the disk: what it makes of the contexts is in the view already.
#[derive(Debug)]
pub(super) struct Queued {
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

    pub(super) fn new(number: u64, record: Vec<u8>, entry: &Entry, memory: u64) -> Self {
        Self { number, record, at: entry.at(), contexts: entry.contexts(), memory, problem: None }
    }

    /// One that this version cannot read.
    pub(super) fn unreadable(number: u64, record: Vec<u8>, problem: String) -> Self {
        let memory = record.len() as u64;
        Self { number, record, at: None, contexts: 1, memory, problem: Some(problem) }
    }

    /// What a write takes: its record, the texts and metadata of the view, and the vectors.
    pub(super) fn memory(record: &[u8], entry: &Entry, vectors: u64) -> u64 {
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
pub(super) fn vectors_of(points: &[Point]) -> u64 {
    let dense = |vector: &Option<Vec<f32>>| vector.as_ref().map_or(0, |vector| 4 * vector.len());
    let of = |Vectors { dense_self, dense_ctx, sparse_self, sparse_ctx }: &Vectors| {
        let sparse = 8 * (sparse_self.indices().len() + sparse_ctx.indices().len());
        dense(dense_self) + dense(dense_ctx) + sparse
    };
    points.iter().map(|point| of(&point.vectors) as u64).sum()
}

/// Bytes of the texts and metadata of points.
pub(super) fn texts_of(points: &[Point]) -> u64 {
    points.iter().map(|point| point.context.written_bytes() as u64).sum()
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    queue: VecDeque<Queued>,
    /// Bytes of memory of what is in the queue, estimated.
    memory: u64,
    /// The same of what is on its way to the disk.
    memory_under_way: u64,
    /// What the writes in the queue make of the contexts.
    pub(super) view: Arc<View>,
    /// Of each write that is on its way to the disk the least number that it can get. The journal's numbers say the order, but writes
    /// whose syncs are shared come into the queue in any; one with a smaller number may still be missing there.
    under_way: Vec<u64>,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// How many contexts and other writes there are.
    pub(super) fn contexts(&self) -> usize {
        self.queue.iter().map(|queued| queued.contexts).sum()
    }

    /// When the first one was taken, if that can be read.
    pub(super) fn since(&self) -> Option<Timestamp> {
        self.queue.front().and_then(|queued| queued.at)
    }

    /// What is to be brought to the store first, and the number up to which it then has all writes: new contexts of further writes join
    /// those of the oldest one while `joins` takes them. None of them may overtake one that is under way, which would be taken for done.
    pub(super) fn oldest(&self, mut joins: impl FnMut(&[Context]) -> bool) -> Option<(u64, Oldest)> {
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
    pub(super) fn newest_context(&self, after: u64, is_wanted: impl Fn(&Context) -> bool) -> Option<Context> {
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

    /// When the latest of them was taken.
    pub(super) fn latest(&self) -> Option<Timestamp> {
        self.queue.iter().filter_map(|queued| queued.at).max()
    }

    /// Adds to the memory that a write takes.
    pub(super) fn grow(&mut self, number: u64, memory: u64) {
        let place = self.queue.partition_point(|before| before.number < number);
        if let Some(queued) = self.queue.get_mut(place).filter(|queued| queued.number == number) {
            queued.memory += memory;
            self.memory += memory;
        }
    }

    pub(super) fn insert(&mut self, queued: Queued) {
        let place = self.queue.partition_point(|before| before.number < queued.number);
        self.memory += queued.memory;
        self.queue.insert(place, queued);
    }

    /// Forgets the writes up to a number, and says how many.
    pub(super) fn forget(&mut self, number: u64) -> usize {
        let done = self.queue.partition_point(|of| of.number <= number);
        let memory: u64 = self.queue.drain(..done).map(|queued| queued.memory).sum();
        if self.queue.is_empty() {
            let (under_way, memory_under_way) = (mem::take(&mut self.under_way), self.memory_under_way);
            let view = Arc::new(self.view.without_writes());
            *self = Self { memory_under_way, view, under_way, ..Self::default() };
        } else {
            self.memory -= memory;
            Arc::make_mut(&mut self.view).forget(number);
        }
        done
    }
}

/// A write that is on its way to the disk, with the memory that it will take; given back when it does not get there.
pub(super) struct UnderWay<'a> {
    waiting: &'a Mutex<Waiting>,
    least: u64,
    memory: u64,
}

impl<'a> UnderWay<'a> {
    /// Begins a write, if there is memory for it beside all that waits and all that is under way.
    pub(super) fn begin(
        waiting: &'a Mutex<Waiting>,
        journal: &Journal,
        memory: u64,
        most: ByteSize,
    ) -> Result<Self, Error> {
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
    pub(super) fn arrive(&mut self, waiting: &mut Waiting, queued: Queued) {
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

#[cfg(test)]
mod tests {
    use context_manager_journal::Options;
    use context_manager_memory::ContextId;

    use super::*;
    use crate::engine::pending::Delete;

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
