//! The first count of a corpus, which goes on while contexts are written.
//!
//! The corpus is read page by page in the order of the ids, without the lock of the writes. What is written meanwhile is set aside: its
//! former terms are taken away if its page was read already, and not added if it was not. At the end, under the lock, what was set
//! aside is read as it is by then. So the lock is held for as many contexts as were written, however many there are.

use std::collections::BTreeSet;

use context_manager_memory::{ContextId, SparseVector, frequencies::DocumentFrequencies, store::Clauses};
use qdrant_edge::PointId;

use super::{Corpus, Shard, Terms, lock, request, terms};
use crate::{Error, filter};

/// A corpus that is being counted.
#[derive(Debug)]
pub(super) struct Counting {
    corpus: Corpus,
    read: Read,
    /// Contexts that were written since the count began.
    aside: BTreeSet<ContextId>,
}

/// Which contexts have been read.
#[derive(Debug)]
enum Read {
    Nothing,
    Below(PointId),
    All,
}

impl Counting {
    fn new(clauses: &Clauses) -> Self {
        Self { corpus: Corpus::of(clauses), read: Read::Nothing, aside: BTreeSet::new() }
    }

    /// Those of the contexts whose terms are part of the count; all of them are set aside from now on.
    fn set_aside(&mut self, ids: &[ContextId]) -> Vec<ContextId> {
        let mut counted: Vec<ContextId> = ids.iter().copied().filter(|id| self.aside.insert(*id)).collect();
        counted.retain(|id| match &self.read {
            Read::Nothing => false,
            Read::Below(next) => filter::point_id(*id) < *next,
            Read::All => true,
        });
        counted
    }

    fn add(&mut self, page: Vec<(PointId, (SparseVector, SparseVector))>, next: Option<PointId>) {
        let aside: BTreeSet<PointId> = self.aside.iter().copied().map(filter::point_id).collect();
        let untouched = page.into_iter().filter(|(id, _)| !aside.contains(id));
        self.corpus.replace(&Terms::new(), &untouched.map(|(_, terms)| terms).collect());
        self.read = next.map_or(Read::All, Read::Below);
    }
}

impl Shard {
    /// Counts a corpus, keeps the counts, and tells what `read` is to know of them. The caller holds the lock of the counting, and nothing else.
    /// `after_page` is called after each page.
    pub(super) fn count_corpus<T>(
        &self,
        clauses: &Clauses,
        page: usize,
        read: impl Fn(&DocumentFrequencies) -> T,
        mut after_page: impl FnMut(),
    ) -> Result<T, Error> {
        loop {
            {
                // A write that is under way knows nothing of this count yet.
                let _writes = lock(&self.writes);
                lock(&self.frequencies).counting = Some(Counting::new(clauses));
            }
            let counted = self.read_pages(clauses, page, &mut after_page);
            match counted.and_then(|()| self.finish(clauses, page, &read)) {
                Ok(Some(known)) => return Ok(known),
                // Given up by a write.
                Ok(None) => {}
                Err(error) => {
                    lock(&self.frequencies).counting = None;
                    return Err(error);
                }
            }
        }
    }

    fn read_pages(&self, clauses: &Clauses, page: usize, mut after_page: impl FnMut()) -> Result<(), Error> {
        let mut from = None;
        loop {
            let mut request = request(clauses, page)?;
            request.offset = from;
            let (records, next) = self.engine.scroll(request).map_err(Error::engine("count terms"))?;
            let page = records.into_iter().map(|record| (record.id, terms(record))).collect();
            match &mut lock(&self.frequencies).counting {
                Some(counting) => counting.add(page, next),
                None => return Ok(()),
            }
            after_page();
            match next {
                Some(next) => from = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Adds what was set aside. Nothing if the count was given up.
    fn finish<T>(
        &self,
        clauses: &Clauses,
        page: usize,
        read: impl Fn(&DocumentFrequencies) -> T,
    ) -> Result<Option<T>, Error> {
        let _writes = lock(&self.writes);
        let aside: Vec<ContextId> = match &lock(&self.frequencies).counting {
            Some(counting) => counting.aside.iter().copied().collect(),
            None => return Ok(None),
        };
        let mut found = Terms::new();
        for ids in aside.chunks(page) {
            found.extend(self.terms_of(clauses, ids)?);
        }
        let mut frequencies = lock(&self.frequencies);
        let Some(Counting { mut corpus, read: _, aside: _ }) = frequencies.counting.take() else { return Ok(None) };
        corpus.replace(&Terms::new(), &found);
        let known = read(&corpus.counts);
        frequencies.keep(corpus);
        Ok(Some(known))
    }

    /// Sets aside what is about to be written. The caller holds the lock of the writes.
    pub(super) fn set_aside(&self, ids: &[ContextId]) {
        let (clauses, counted) = match &mut lock(&self.frequencies).counting {
            Some(counting) => (counting.corpus.clauses.clone(), counting.set_aside(ids)),
            None => return,
        };
        if counted.is_empty() {
            return;
        }
        let before = self.terms_of(&clauses, &counted);
        let counting = &mut lock(&self.frequencies).counting;
        match (before, counting.as_mut()) {
            (Ok(before), Some(counting)) => counting.corpus.replace(&before, &Terms::new()),
            (Err(_), _) => *counting = None,
            (Ok(_), None) => {}
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
mod tests {
    use std::thread;

    use context_manager_memory::{
        AgentId, Context, Level, TenantId, Timestamp,
        index_text::index_texts,
        lexical::Bm25,
        store::{Owner, Point},
    };

    use super::*;
    use crate::OpenOptions;

    const NOW: Timestamp = Timestamp::from_millis(0);

    fn me() -> Owner {
        Owner::new(TenantId::new("t").unwrap(), AgentId::new("a").unwrap())
    }

    fn id(number: u128) -> ContextId {
        ContextId::new(uuid::Uuid::from_u128(number))
    }

    fn point(number: u128, text: &str) -> Point {
        let Owner { tenant, holder } = me();
        let context = Context::new(id(number), tenant, holder, Level::LongTerm, text, NOW);
        let vectors = index_texts(&context, None).vectors(&Bm25::default(), None);
        Point { context, vectors }
    }

    fn kept(shard: &Shard, clauses: &Clauses) -> DocumentFrequencies {
        lock(&shard.frequencies).find(clauses).unwrap().counts.clone()
    }

    /// After each page another thread changes, adds and deletes contexts on both sides of what has been read, and is waited for.
    #[test]
    fn writes_finish_while_a_corpus_is_counted_and_are_part_of_the_count() {
        let directory = tempfile::tempdir().unwrap();
        let shard = Shard::open(OpenOptions::new(directory.path(), 4, "model")).unwrap();
        let points: Vec<Point> = (10..30).map(|number| point(number, &format!("tea word{number}"))).collect();
        shard.upsert(&points).unwrap();
        let clauses = Clauses::corpus(&me());

        let (mut pages, mut reads) = (0, 0);
        shard
            .count_corpus(
                &clauses,
                4,
                |_| (),
                || {
                    pages += 1;
                    let writing = || {
                        shard.upsert(&[
                            point(10, "violin"),
                            point(pages, "violin first"),
                            point(100 + pages, "tea"),
                        ])?;
                        let late = points[19].context.clone();
                        shard.update(&Context { text: "changed".to_owned(), ..late }, None, 1)?;
                        shard.delete(&me(), &[id(10 + 3 * pages), id(30 - pages)])?;
                        shard.find(&[id(10)])
                    };
                    let found = thread::scope(|scope| scope.spawn(writing).join().unwrap()).unwrap();
                    reads += found.len();
                },
            )
            .unwrap();
        assert!(pages >= 4, "{pages} pages");
        assert_eq!(reads as u128, pages);

        let meanwhile = kept(&shard, &clauses);
        shard.count_corpus(&clauses, 1_000, |_| (), || {}).unwrap();
        let afresh = {
            let mut frequencies = lock(&shard.frequencies);
            frequencies.corpora.remove(0);
            drop(frequencies);
            kept(&shard, &clauses)
        };
        assert_eq!(meanwhile, afresh);

        // And it is kept up to date like any other.
        shard.upsert(&[point(200, "violin")]).unwrap();
        shard.delete(&me(), &[id(10)]).unwrap();
        let followed = kept(&shard, &clauses);
        lock(&shard.frequencies).corpora.clear();
        shard.count_corpus(&clauses, 1_000, |_| (), || {}).unwrap();
        assert_eq!(followed, kept(&shard, &clauses));
    }
}
