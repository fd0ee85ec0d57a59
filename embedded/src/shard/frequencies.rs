//! Document frequencies: how many contexts of a corpus have a term, kept up to date write by write.
//!
//! The engine can count them, and does so anew in each search, over every context of the corpus; on a large memory that takes longer than the
//! search itself. Here a corpus is counted once, when it is first searched, and each write then adds and takes away what it
//! changed. The counts lie in memory only.

mod counting;

use std::sync::PoisonError;

use context_manager_memory::{
    ContextId, SparseVector,
    frequencies::DocumentFrequencies,
    store::{Clause, Clauses, Owner, schema},
};
use qdrant_edge::{
    Record, RetrieveRequest, ScrollRequest, VectorInternal, VectorStructInternal, WithPayloadInterface, WithVector,
};

use counting::Counting;

use super::{Shard, lock, read};
use crate::{Error, filter};

/// Corpora that are kept at once; a directory has as many as there are owners of its contexts.
const MOST: usize = 32;
/// Contexts that are read at once while a corpus is counted.
const PAGE: usize = 1_000;

/// The corpora that have been searched.
#[derive(Debug, Default)]
pub(super) struct Frequencies {
    corpora: Vec<Corpus>,
    /// The one that is being counted.
    counting: Option<Counting>,
}

/// The counts of a corpus.
#[derive(Clone, Debug)]
pub(super) struct Corpus {
    clauses: Clauses,
    counts: DocumentFrequencies,
}

/// What some contexts have, each of them as its terms.
type Terms = Vec<(SparseVector, SparseVector)>;

impl Shard {
    /// How many of an owner's current contexts have each term of a query.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn document_frequencies(&self, owner: &Owner, query: &SparseVector) -> Result<DocumentFrequencies, Error> {
        self.frequencies_of(&Clauses::corpus(owner), |counts| counts.among(query))
    }

    /// What is to be known of the counts of a corpus, which is counted if it was not yet.
    pub(super) fn frequencies_of<T>(
        &self,
        clauses: &Clauses,
        read: impl Fn(&DocumentFrequencies) -> T,
    ) -> Result<T, Error> {
        if let Some(known) = lock(&self.frequencies).find(clauses).map(|corpus| read(&corpus.counts)) {
            return Ok(known);
        }
        // Of those who wait for the same count the first one makes it.
        let _counting = lock(&self.counting);
        if let Some(known) = lock(&self.frequencies).find(clauses).map(|corpus| read(&corpus.counts)) {
            return Ok(known);
        }
        self.count_corpus(clauses, PAGE, read, || {})
    }

    /// Makes a write that concerns no other contexts than these, and brings the counts up to date. The caller holds the lock of
    /// the writes.
    pub(super) fn counted<T>(&self, ids: &[ContextId], write: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        self.set_aside(ids);
        let corpora: Vec<Clauses> =
            lock(&self.frequencies).corpora.iter().map(|corpus| corpus.clauses.clone()).collect();
        if corpora.is_empty() {
            return write();
        }
        let terms_of = |ids: &[ContextId]| -> Result<Vec<Terms>, Error> {
            corpora.iter().map(|clauses| self.terms_of(clauses, ids)).collect()
        };
        let before = terms_of(&self.those_there(ids)?)?;
        let written = write();
        let after = written.is_ok().then(|| terms_of(ids)).transpose();
        let mut frequencies = self.frequencies.lock().unwrap_or_else(PoisonError::into_inner);
        match after {
            Ok(Some(after)) => {
                for ((clauses, before), after) in corpora.iter().zip(before).zip(after) {
                    if let Some(corpus) = frequencies.find(clauses) {
                        corpus.replace(&before, &after);
                    }
                }
            }
            // What was done is not known, so everything is counted anew.
            Ok(None) | Err(_) => frequencies.corpora.clear(),
        }
        written
    }

    /// Those of the contexts that are there already; of new ones there is none.
    fn those_there(&self, ids: &[ContextId]) -> Result<Vec<ContextId>, Error> {
        let request = RetrieveRequest {
            point_ids: ids.iter().copied().map(filter::point_id).collect(),
            with_payload: Some(WithPayloadInterface::Bool(false)),
            with_vector: Some(WithVector::Bool(false)),
        };
        let records = self.engine.retrieve(request).map_err(Error::engine("look for contexts"))?;
        Ok(records.into_iter().filter_map(|record| read::id(record.id)).collect())
    }

    /// What those of the contexts have that belong to a corpus.
    fn terms_of(&self, clauses: &Clauses, ids: &[ContextId]) -> Result<Terms, Error> {
        if ids.is_empty() {
            return Ok(Terms::new());
        }
        let mut clauses = clauses.clone();
        clauses.must.push(Clause::HasId(ids.to_vec()));
        let (found, _) = self.engine.scroll(request(&clauses, ids.len())?).map_err(Error::engine("read terms"))?;
        Ok(found.into_iter().map(terms).collect())
    }
}

/// The query's terms with their weights. The engine must be told to weigh by [`Clauses::nothing`].
pub(super) struct Weighed {
    pub(super) own: SparseVector,
    pub(super) with_previous: SparseVector,
    /// How many contexts of the corpus have words.
    pub(super) corpus: usize,
}

impl Weighed {
    pub(super) fn by(DocumentFrequencies { own, with_previous }: &DocumentFrequencies, query: &SparseVector) -> Self {
        Self { own: own.weighted(query), with_previous: with_previous.weighted(query), corpus: with_previous.all() }
    }
}

impl Frequencies {
    fn find(&mut self, clauses: &Clauses) -> Option<&mut Corpus> {
        self.corpora.iter_mut().find(|corpus| corpus.clauses == *clauses)
    }

    fn keep(&mut self, corpus: Corpus) {
        if self.corpora.len() >= MOST {
            self.corpora.remove(0);
        }
        self.corpora.push(corpus);
    }
}

impl Corpus {
    fn of(clauses: &Clauses) -> Self {
        Self { clauses: clauses.clone(), counts: DocumentFrequencies::default() }
    }

    fn replace(&mut self, before: &Terms, after: &Terms) {
        for (own, with_previous) in before {
            self.counts.take_away(own, with_previous);
        }
        for (own, with_previous) in after {
            self.counts.add(own, with_previous);
        }
    }
}

fn request(clauses: &Clauses, limit: usize) -> Result<ScrollRequest, Error> {
    Ok(ScrollRequest {
        filter: Some(filter::of(clauses)?),
        limit: Some(limit),
        with_payload: Some(WithPayloadInterface::Bool(false)),
        with_vector: WithVector::Selector(vec![schema::SPARSE_SELF.to_owned(), schema::SPARSE_CTX.to_owned()]),
        ..ScrollRequest::new()
    })
}

fn terms(record: Record) -> (SparseVector, SparseVector) {
    let mut found = (SparseVector::default(), SparseVector::default());
    if let Some(VectorStructInternal::Named(named)) = record.vector {
        for (name, vector) in named {
            match (name.as_str(), vector) {
                (schema::SPARSE_SELF, VectorInternal::Sparse(vector)) => found.0 = read::sparse(vector),
                (schema::SPARSE_CTX, VectorInternal::Sparse(vector)) => found.1 = read::sparse(vector),
                (_, VectorInternal::Dense(_) | VectorInternal::Sparse(_) | VectorInternal::MultiDense(_)) => {}
            }
        }
    }
    found
}
