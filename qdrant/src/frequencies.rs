//! Document frequencies, which the server uses and does not tell.
//!
//! What it weighs a term by can be read from the score of any context that has the term, and tells the frequency. A collection with several
//! shards weighs by those of one shard; what is read there is taken for a sample of all.

use context_manager_memory::{
    SparseVector, Vectors,
    frequencies::{Counts, DocumentFrequencies},
    store::{Clause, Clauses, Owner, schema},
};
use qdrant_client::qdrant::{
    Filter, IdfParams, Query, QueryPoints, ScoredPoint, SearchParams, VectorInput, VectorsSelector,
    WithVectorsSelector, query, vector_input, with_vectors_selector::SelectorOptions,
};

use crate::{Collection, Error, convert, filter};

/// Terms that are asked about in one call.
const TERMS: usize = 64;

impl Collection {
    /// How many of an owner's current contexts have each term of a query.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn document_frequencies(
        &self,
        owner: &Owner,
        query: &SparseVector,
    ) -> Result<DocumentFrequencies, Error> {
        let (own, with_previous) = tokio::try_join!(
            self.counts(owner, query, schema::SPARSE_SELF),
            self.counts(owner, query, schema::SPARSE_CTX)
        )?;
        Ok(DocumentFrequencies { own, with_previous })
    }

    async fn counts(&self, owner: &Owner, query: &SparseVector, name: &str) -> Result<Counts, Error> {
        let mut having = Clauses::corpus(owner);
        having.must.push(Clause::HasVector(name.to_owned()));
        let all = self.count_by(filter::of(&having)).await?;
        let corpus = filter::of(&Clauses::corpus(owner));
        let mut with = Vec::new();
        for terms in query.indices().chunks(TERMS) {
            let queries = terms.iter().map(|term| self.one_with(*term, name, &corpus)).collect();
            let found = self.batch("look for terms", queries).await?;
            for (term, points) in terms.iter().zip(found) {
                let weight = points.into_iter().next().and_then(|point| self.weight(*term, point, name));
                with.push((*term, weight.map_or(0, |weight| frequency(all, weight))));
            }
        }
        Ok(Counts::new(all, with))
    }

    /// One context that has a term, with its score and its vector.
    fn one_with(&self, term: u32, name: &str, corpus: &Filter) -> QueryPoints {
        let terms = qdrant_client::qdrant::SparseVector { indices: vec![term], values: vec![1.0] };
        let vector = VectorInput { variant: Some(vector_input::Variant::Sparse(terms)) };
        let vectors = VectorsSelector { names: vec![name.to_owned()] };
        QueryPoints {
            collection_name: self.options.collection.clone(),
            query: Some(Query { variant: Some(query::Variant::Nearest(vector)) }),
            using: Some(name.to_owned()),
            filter: Some(corpus.clone()),
            params: Some(SearchParams {
                exact: Some(true),
                idf: Some(IdfParams { corpus: Some(corpus.clone()) }),
                ..SearchParams::default()
            }),
            limit: Some(1),
            with_payload: Some(false.into()),
            with_vectors: Some(WithVectorsSelector { selector_options: Some(SelectorOptions::Include(vectors)) }),
            ..QueryPoints::default()
        }
    }

    /// What the server weighs a term by, as the score of a context that has it tells.
    fn weight(&self, term: u32, point: ScoredPoint, name: &str) -> Option<f64> {
        let Vectors { sparse_self, sparse_ctx, .. } = convert::vectors(point.vectors, self.dense());
        let vector = if name == schema::SPARSE_SELF { sparse_self } else { sparse_ctx };
        let value = vector.iter().find(|(index, _)| *index == term).map(|(_, value)| value)?;
        Some(f64::from(point.score) / f64::from(value))
    }
}

/// How many of `all` have a term of this weight; [`context_manager_memory::lexical::idf`] the other way round.
fn frequency(all: usize, weight: f64) -> usize {
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    let all_of_them = all as f64;
    let ratio = weight.exp_m1();
    let with = (all_of_them + 0.5 - 0.5 * ratio) / (1.0 + ratio);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 0 and a count")]
    let with = with.round().max(1.0) as usize;
    // One has it at least, and never more than there are.
    with.min(all)
}

#[cfg(test)]
mod tests {
    use context_manager_memory::lexical;

    use super::*;

    #[test]
    fn a_frequency_is_read_from_a_weight() {
        for all in [1, 2, 7, 300, 10_000, 1_000_000] {
            for with in [1, 2, 3, 5, 150, 299, 9_999, 100_000, 1_000_000].into_iter().filter(|with| *with <= all) {
                let found = frequency(all, f64::from(lexical::idf(all, with)));
                assert!(found.abs_diff(with) <= with / 10_000, "{found} of {with} in {all}");
            }
        }
    }
}
