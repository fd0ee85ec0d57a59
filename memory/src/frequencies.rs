//! Document frequencies: how many contexts have a term, which tells how much it says about one of them.
//!
//! A store knows them for what it holds. What waits for a store is added to that, so that a context has one score wherever it is.

use std::collections::HashMap;

use crate::{SparseVector, Vectors, lexical};

/// The counts of a corpus, for each sparse vector of its contexts.
///
/// ```
/// # use context_manager_memory::{AgentId, Context, ContextId, Level, TenantId, Timestamp};
/// use context_manager_memory::{frequencies::DocumentFrequencies, index_text::index_texts, lexical::{self, Bm25}};
///
/// # let id = ContextId::new(uuid::Uuid::from_u128(1));
/// # let (tenant, agent) = (TenantId::new("t").unwrap(), AgentId::new("a").unwrap());
/// # let context = Context::new(id, tenant, agent, Level::LongTerm, "green tea", Timestamp::from_millis(0));
/// let vectors = index_texts(&context, None).vectors(&Bm25::default(), None);
/// let counts = DocumentFrequencies::of(&lexical::query("tea or coffee"), [&vectors]);
/// assert_eq!((counts.own.all(), counts.own.with(lexical::index("tea"))), (1, 1));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DocumentFrequencies {
    /// Of the contexts' own texts.
    pub own: Counts,
    /// Of the same texts with the previous ones.
    pub with_previous: Counts,
}

/// The counts of one sparse vector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    all: usize,
    with: HashMap<u32, usize>,
}

impl DocumentFrequencies {
    /// How many of some contexts have each term of a query.
    #[must_use]
    pub fn of<'a>(query: &SparseVector, contexts: impl IntoIterator<Item = &'a Vectors>) -> Self {
        let mut counts = Self::default();
        for Vectors { dense_self: _, dense_ctx: _, sparse_self, sparse_ctx } in contexts {
            counts.own.add(sparse_self, |term| query.has(term));
            counts.with_previous.add(sparse_ctx, |term| query.has(term));
        }
        counts
    }

    /// Counts one more context, with all its terms.
    pub fn add(&mut self, own: &SparseVector, with_previous: &SparseVector) {
        self.own.add(own, |_| true);
        self.with_previous.add(with_previous, |_| true);
    }

    /// Counts a context no more.
    pub fn take_away(&mut self, own: &SparseVector, with_previous: &SparseVector) {
        self.own.take_away(own);
        self.with_previous.take_away(with_previous);
    }

    /// Those of a query's terms alone.
    #[must_use]
    pub fn among(&self, query: &SparseVector) -> Self {
        Self { own: self.own.among(query), with_previous: self.with_previous.among(query) }
    }

    /// Counts the contexts of another corpus as well.
    pub fn extend(&mut self, other: &Self) {
        self.own.extend(&other.own);
        self.with_previous.extend(&other.with_previous);
    }
}

impl Counts {
    /// Counts that are known: of all contexts that have the vector, and of those that have each term.
    #[must_use]
    pub fn new(all: usize, with: impl IntoIterator<Item = (u32, usize)>) -> Self {
        Self { all, with: with.into_iter().filter(|(_, count)| *count > 0).collect() }
    }

    /// How many contexts have the vector at all.
    #[must_use]
    pub const fn all(&self) -> usize {
        self.all
    }

    /// How many contexts have a term.
    #[must_use]
    pub fn with(&self, term: u32) -> usize {
        self.with.get(&term).copied().unwrap_or_default()
    }

    /// What a term weighs by its rarity.
    #[must_use]
    pub fn weight(&self, term: u32) -> f32 {
        lexical::idf(self.all, self.with(term))
    }

    /// A query's terms with their weights, for an engine that is told to weigh by [`Clauses::nothing`](crate::store::Clauses::nothing):
    /// it multiplies each by the weight of a term in a corpus of nothing.
    #[must_use]
    pub fn weighted(&self, query: &SparseVector) -> SparseVector {
        let of_nothing = lexical::idf(0, 0);
        SparseVector::from_pairs(query.iter().map(|(term, value)| (term, value * self.weight(term) / of_nothing)))
    }

    fn add(&mut self, vector: &SparseVector, is_counted: impl Fn(u32) -> bool) {
        if !vector.is_empty() {
            self.all += 1;
            for term in vector.indices().iter().filter(|term| is_counted(**term)) {
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

    fn among(&self, query: &SparseVector) -> Self {
        Self::new(self.all, query.indices().iter().map(|term| (*term, self.with(*term))))
    }

    fn extend(&mut self, other: &Self) {
        self.all += other.all;
        for (term, count) in &other.with {
            *self.with.entry(*term).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(terms: &[u32]) -> SparseVector {
        SparseVector::from_pairs(terms.iter().map(|term| (*term, 1.0)))
    }

    #[test]
    fn what_is_taken_away_was_never_there() {
        let mut counts = DocumentFrequencies::default();
        counts.add(&terms(&[1, 2]), &terms(&[1, 2, 3]));
        let before = counts.clone();
        counts.add(&terms(&[2, 4]), &terms(&[]));
        assert_eq!((counts.own.all(), counts.with_previous.all()), (2, 1), "no terms are no vector");
        counts.take_away(&terms(&[2, 4]), &terms(&[]));
        assert_eq!(counts, before);
    }

    #[test]
    fn two_corpora_together_are_counted_like_one() {
        let vectors = |own: &[u32]| Vectors { sparse_self: terms(own), sparse_ctx: terms(own), ..Vectors::default() };
        let (one, other) = ([vectors(&[1, 2]), vectors(&[2])], [vectors(&[2, 9]), vectors(&[])]);
        let query = terms(&[2, 5, 9]);
        let mut together = DocumentFrequencies::of(&query, &one);
        together.extend(&DocumentFrequencies::of(&query, &other));
        assert_eq!(together, DocumentFrequencies::of(&query, one.iter().chain(&other)));
        assert_eq!([1, 2, 5, 9].map(|term| together.own.with(term)), [0, 3, 0, 1]);
    }
}
