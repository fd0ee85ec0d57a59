//! Document frequencies: how many contexts of a corpus have a term, kept up to date write by write.
//!
//! The engine can count them, and does so anew in each search, over every context of the corpus; on a large memory that takes longer than the
//! search itself. Here a corpus is counted once, when it is first searched, and each write then adds and takes away what it
//! changed. The counts lie in memory only.

mod counting;

use std::{collections::HashMap, sync::PoisonError};

use context_manager_memory::{
    ContextId, SparseVector, lexical,
    store::{Clause, Clauses, schema},
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
/// What the engine's own weight is for a term of an empty corpus; it multiplies every weight, so each is divided by it before.
const ENGINES_WEIGHT: f32 = std::f32::consts::LN_2;

/// The corpora that have been searched.
#[derive(Debug, Default)]
pub(super) struct Frequencies {
    corpora: Vec<Corpus>,
    /// The one that is being counted.
    counting: Option<Counting>,
}

/// The counts of a corpus, for each sparse vector.
#[derive(Clone, Debug)]
pub(super) struct Corpus {
    clauses: Clauses,
    own: Counts,
    with_previous: Counts,
}

#[derive(Clone, Debug, Default)]
struct Counts {
    /// How many have the vector at all.
    all: usize,
    /// How many have a term.
    with: HashMap<u32, usize>,
}

/// What some contexts have, each of them as its terms.
type Terms = Vec<(SparseVector, SparseVector)>;

impl Counts {
    fn add(&mut self, vector: &SparseVector) {
        if !vector.is_empty() {
            self.all += 1;
            for term in vector.indices() {
                *self.with.entry(*term).or_default() += 1;
            }
        }
    }

    fn take_away(&mut self, vector: &SparseVector) {
        if !vector.is_empty() {
            self.all = self.all.saturating_sub(1);
            for term in vector.indices() {
                if let Some(count) = self.with.get_mut(term) {
                    *count = count.saturating_sub(1);
                    if *count == 0 {
                        self.with.remove(term);
                    }
                }
            }
        }
    }

    fn weighted(&self, query: &SparseVector) -> SparseVector {
        let with = |term| self.with.get(&term).copied().unwrap_or_default();
        let weight = |(term, value)| (term, value * lexical::idf(self.all, with(term)) / ENGINES_WEIGHT);
        SparseVector::from_pairs(query.iter().map(weight))
    }
}

impl Shard {
    /// The query's terms weighted by their rarity in a corpus, for each sparse vector, and how many contexts the corpus has. The engine
    /// must be told to weigh by [`nothing`].
    pub(super) fn weigh(&self, query: &SparseVector, clauses: &Clauses) -> Result<Weighed, Error> {
        if let Some(weighed) = lock(&self.frequencies).find(clauses).map(|corpus| corpus.weigh(query)) {
            return Ok(weighed);
        }
        // Of those who wait for the same count the first one makes it.
        let _counting = lock(&self.counting);
        if let Some(weighed) = lock(&self.frequencies).find(clauses).map(|corpus| corpus.weigh(query)) {
            return Ok(weighed);
        }
        self.count_corpus(clauses, PAGE, query, || {})
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

/// The query's terms with their weights.
pub(super) struct Weighed {
    pub(super) own: SparseVector,
    pub(super) with_previous: SparseVector,
    /// How many contexts of the corpus have words.
    pub(super) corpus: usize,
}

/// The corpus by which the engine weighs when the weights are made here.
pub(super) fn nothing() -> Clauses {
    Clauses::ids(&[])
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
        Self { clauses: clauses.clone(), own: Counts::default(), with_previous: Counts::default() }
    }

    fn weigh(&self, query: &SparseVector) -> Weighed {
        let Self { clauses: _, own, with_previous } = self;
        Weighed { own: own.weighted(query), with_previous: with_previous.weighted(query), corpus: with_previous.all }
    }

    fn replace(&mut self, before: &Terms, after: &Terms) {
        for (own, with_previous) in before {
            self.own.take_away(own);
            self.with_previous.take_away(with_previous);
        }
        for (own, with_previous) in after {
            self.own.add(own);
            self.with_previous.add(with_previous);
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
