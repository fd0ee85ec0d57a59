//! Retrieval: the best of each leg, then the exact score of each of them on every leg.
//!
//! Fusing lists that were cut at different places loses what one leg has just below its cut. So the union of the legs' best is
//! scored once more on all legs, and the ranking gets four comparable scores for each candidate.

use std::collections::{BTreeSet, HashMap};

use context_manager_memory::{
    Context, ContextId, LegScores, QueryVectors,
    rank::Candidate,
    store::{Clauses, Search, schema},
};
use qdrant_edge::{
    Filter, IdfCorpusParams, IdfParams, NamedQuery, QueryBatchRequest, QueryEnum, QueryRequest, ScoringQuery,
    SearchParams, VectorInternal, WithVector,
};

use super::{Shard, read, write};
use crate::{Error, filter};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leg {
    DenseSelf,
    DenseCtx,
    SparseSelf,
    SparseCtx,
}

impl Leg {
    const fn vector_name(self) -> &'static str {
        match self {
            Self::DenseSelf => schema::DENSE_SELF,
            Self::DenseCtx => schema::DENSE_CTX,
            Self::SparseSelf => schema::SPARSE_SELF,
            Self::SparseCtx => schema::SPARSE_CTX,
        }
    }

    fn score_of(self, scores: &mut LegScores) -> &mut Option<f32> {
        match self {
            Self::DenseSelf => &mut scores.dense_self,
            Self::DenseCtx => &mut scores.dense_ctx,
            Self::SparseSelf => &mut scores.sparse_self,
            Self::SparseCtx => &mut scores.sparse_ctx,
        }
    }

    /// What a context has that the engine does not return: no term in common is a score of nothing, no vector is no score.
    const fn absent(self) -> Option<f32> {
        match self {
            Self::DenseSelf | Self::DenseCtx => None,
            Self::SparseSelf | Self::SparseCtx => Some(0.0),
        }
    }
}

impl Shard {
    /// The candidates for a query with their exact scores, in no particular order. The document frequencies are those of the
    /// owner's own contexts: nobody else's memory moves a score.
    ///
    /// # Errors
    /// When the query's vector has the wrong length or a value that is no number, when the selection cannot be expressed, or when
    /// the engine fails.
    pub fn search(&self, search: &Search) -> Result<Vec<Candidate>, Error> {
        let Search { query, selection, per_leg } = search;
        let legs = self.legs(query)?;
        if legs.is_empty() {
            return Ok(Vec::new());
        }
        let corpus = filter::of(&Clauses::corpus(&selection.owner))?;
        let best = self.score(&legs, &filter::of(&Clauses::of(selection)?)?, &corpus, (*per_leg).max(1))?;
        // A leg that found fewer than it was asked for has found all there is.
        let complete = best.iter().all(|scores| scores.len() < *per_leg);
        let union: BTreeSet<ContextId> = best.iter().flat_map(HashMap::keys).copied().collect();
        let ids: Vec<ContextId> = union.into_iter().collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let exact =
            if complete { best } else { self.score(&legs, &filter::of(&Clauses::ids(&ids))?, &corpus, ids.len())? };
        let records = self.retrieve(&ids, WithVector::Bool(false))?;
        let contexts = records.into_iter().filter_map(|(id, payload, _)| self.decode(id, payload));
        let contexts = contexts.filter(|context| selection.admits(context));
        Ok(contexts.map(|context| candidate(context, &legs, &exact)).collect())
    }

    fn legs(&self, query: &QueryVectors) -> Result<Vec<(Leg, VectorInternal)>, Error> {
        let mut legs = Vec::with_capacity(4);
        if let Some(dense) = &query.dense {
            self.check_dense(None, dense)?;
            legs.extend([Leg::DenseSelf, Leg::DenseCtx].map(|leg| (leg, VectorInternal::Dense(dense.clone()))));
        }
        if let Some(terms) = query.sparse.as_ref().filter(|terms| !terms.is_empty()) {
            let terms = write::sparse(None, terms)?;
            legs.extend([Leg::SparseSelf, Leg::SparseCtx].map(|leg| (leg, VectorInternal::Sparse(terms.clone()))));
        }
        Ok(legs)
    }

    /// The scores of each leg's best `limit` within a filter, in one call of the engine.
    fn score(
        &self,
        legs: &[(Leg, VectorInternal)],
        filter: &Filter,
        corpus: &Filter,
        limit: usize,
    ) -> Result<Vec<HashMap<ContextId, f32>>, Error> {
        let request = |(leg, vector): &(Leg, VectorInternal)| {
            let idf = match vector {
                VectorInternal::Sparse(_) => Some(IdfParams::Corpus(IdfCorpusParams { corpus: corpus.clone() })),
                VectorInternal::Dense(_) | VectorInternal::MultiDense(_) => None,
            };
            let nearest = NamedQuery::new(vector.clone(), leg.vector_name());
            QueryRequest {
                query: Some(ScoringQuery::Vector(QueryEnum::Nearest(nearest))),
                filter: Some(filter.clone()),
                params: Some(SearchParams { exact: true, idf, ..SearchParams::default() }),
                ..QueryRequest::new(limit)
            }
        };
        let batch = QueryBatchRequest::new(legs.iter().map(request).collect());
        let results = self.engine.query_batch(batch).map_err(Error::engine("search"))?;
        let scores = |points: Vec<qdrant_edge::ScoredPoint>| {
            points.into_iter().filter_map(|point| Some((read::id(point.id)?, point.score))).collect()
        };
        Ok(results.into_iter().map(scores).collect())
    }
}

fn candidate(context: Context, legs: &[(Leg, VectorInternal)], exact: &[HashMap<ContextId, f32>]) -> Candidate {
    let mut scores = LegScores::default();
    for ((leg, _), found) in legs.iter().zip(exact) {
        *leg.score_of(&mut scores) = found.get(&context.id).copied().or(leg.absent());
    }
    Candidate { context, scores }
}
