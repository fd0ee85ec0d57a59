//! Retrieval: the best of each leg of all searches in one batch, then the exact scores of their union in one more.

use std::collections::{BTreeSet, HashMap};

use context_manager_memory::{
    ContextId, LegScores, QueryVectors,
    frequencies::DocumentFrequencies,
    rank::Candidate,
    store::{Clauses, DenseNames, Search, schema},
};
use qdrant_client::qdrant::{
    DenseVector, Filter, IdfParams, Query, QueryBatchPoints, QueryPoints, ScoredPoint, SearchParams, VectorInput,
    query, vector_input,
};

use crate::{Collection, Error, convert, filter};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leg {
    DenseSelf,
    DenseCtx,
    SparseSelf,
    SparseCtx,
}

impl Leg {
    fn vector_name(self, dense: &DenseNames) -> &str {
        match self {
            Self::DenseSelf => &dense.own,
            Self::DenseCtx => &dense.with_previous,
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

    /// What a context has that the server does not return: no term in common is a score of nothing, no vector is no score.
    const fn absent(self) -> Option<f32> {
        match self {
            Self::DenseSelf | Self::DenseCtx => None,
            Self::SparseSelf | Self::SparseCtx => Some(0.0),
        }
    }
}

/// One search on its way.
struct Asked<'a> {
    search: &'a Search,
    legs: Vec<(Leg, VectorInput)>,
    /// By which the server weighs: by nothing if the terms have their weights already.
    corpus: Filter,
}

impl Collection {
    /// The candidates of several searches with their exact scores, in no particular order, in two round trips. The document
    /// frequencies are those of the owner's own contexts, unless a search brings some: nobody else's memory moves a score.
    ///
    /// # Errors
    /// When a query's vector has the wrong length or a value that is no number, when a selection cannot be expressed, or when the
    /// server fails.
    pub async fn search(&self, searches: &[Search]) -> Result<Vec<Candidate>, Error> {
        let asked = searches.iter().map(|search| self.asked(search)).collect::<Result<Vec<_>, _>>()?;
        let mut first = Vec::new();
        for Asked { search, legs, corpus } in &asked {
            let filter = self.selected(&search.selection)?;
            first.extend(legs.iter().map(|leg| self.leg(leg, &filter, corpus, search.per_leg.max(1), false)));
        }
        let mut best = self.batch("search", first).await?.into_iter();
        let mut second = Vec::new();
        let mut unions = Vec::with_capacity(asked.len());
        for Asked { legs, corpus, .. } in &asked {
            let found: Vec<HashMap<ContextId, f32>> = best.by_ref().take(legs.len()).map(scores).collect();
            let union: BTreeSet<ContextId> = found.iter().flat_map(HashMap::keys).copied().collect();
            let ids: Vec<ContextId> = union.into_iter().collect();
            if !ids.is_empty() {
                let filter = filter::of(&Clauses::ids(&ids));
                second.extend(legs.iter().map(|leg| self.leg(leg, &filter, corpus, ids.len(), true)));
                second.push(self.payloads(filter, ids.len()));
            }
            unions.push(ids);
        }
        let mut exact = self.batch("score candidates", second).await?.into_iter();
        let mut candidates = Vec::new();
        for (Asked { search, legs, .. }, ids) in asked.iter().zip(unions) {
            if ids.is_empty() {
                continue;
            }
            let by_leg: Vec<HashMap<ContextId, f32>> = exact.by_ref().take(legs.len()).map(scores).collect();
            let points = exact.next().unwrap_or_default();
            let contexts = points.into_iter().filter_map(|point| convert::context(point.id, point.payload));
            candidates.extend(contexts.filter(|context| search.selection.admits(context)).map(|context| {
                let mut scores = LegScores::default();
                for ((leg, _), found) in legs.iter().zip(&by_leg) {
                    *leg.score_of(&mut scores) = found.get(&context.id).copied().or(leg.absent());
                }
                Candidate { context: context.into(), scores }
            }));
        }
        Ok(candidates)
    }

    fn asked<'a>(&self, search: &'a Search) -> Result<Asked<'a>, Error> {
        let Search { query, selection, per_leg: _, frequencies } = search;
        let legs = self.legs(query, frequencies.as_ref())?;
        let corpus = match frequencies {
            Some(_) => Clauses::nothing(),
            None => Clauses::corpus(&selection.owner),
        };
        Ok(Asked { search, legs, corpus: filter::of(&corpus) })
    }

    fn legs(
        &self,
        query: &QueryVectors,
        frequencies: Option<&DocumentFrequencies>,
    ) -> Result<Vec<(Leg, VectorInput)>, Error> {
        let input = |variant| VectorInput { variant: Some(variant) };
        let mut legs = Vec::with_capacity(4);
        if let Some(dense) = &query.dense {
            convert::check_dense(None, dense, self.options.model.dimensions)?;
            let dense = || input(vector_input::Variant::Dense(DenseVector { data: dense.clone() }));
            legs.extend([Leg::DenseSelf, Leg::DenseCtx].map(|leg| (leg, dense())));
        }
        if let Some(terms) = query.sparse.as_ref().filter(|terms| !terms.is_empty()) {
            let [own, with_previous] = match frequencies {
                Some(frequencies) => {
                    [&frequencies.own, &frequencies.with_previous].map(|counts| counts.weighted(terms))
                }
                None => [terms.clone(), terms.clone()],
            };
            for (leg, terms) in [(Leg::SparseSelf, own), (Leg::SparseCtx, with_previous)] {
                legs.push((leg, input(vector_input::Variant::Sparse(convert::sparse(None, &terms)?))));
            }
        }
        Ok(legs)
    }

    fn leg(
        &self,
        (leg, vector): &(Leg, VectorInput),
        filter: &Filter,
        corpus: &Filter,
        limit: usize,
        exact: bool,
    ) -> QueryPoints {
        let idf = match leg {
            Leg::SparseSelf | Leg::SparseCtx => Some(IdfParams { corpus: Some(corpus.clone()) }),
            Leg::DenseSelf | Leg::DenseCtx => None,
        };
        QueryPoints {
            collection_name: self.options.collection.clone(),
            query: Some(Query { variant: Some(query::Variant::Nearest(vector.clone())) }),
            using: Some(leg.vector_name(self.dense()).to_owned()),
            filter: Some(filter.clone()),
            params: Some(SearchParams { exact: Some(exact), idf, ..SearchParams::default() }),
            limit: Some(limit as u64),
            with_payload: Some(false.into()),
            ..QueryPoints::default()
        }
    }

    /// A query without a vector returns the points that the filter finds.
    fn payloads(&self, filter: Filter, limit: usize) -> QueryPoints {
        QueryPoints {
            collection_name: self.options.collection.clone(),
            filter: Some(filter),
            limit: Some(limit as u64),
            with_payload: Some(true.into()),
            ..QueryPoints::default()
        }
    }

    pub(crate) async fn batch(
        &self,
        action: &'static str,
        query_points: Vec<QueryPoints>,
    ) -> Result<Vec<Vec<ScoredPoint>>, Error> {
        if query_points.is_empty() {
            return Ok(Vec::new());
        }
        let collection_name = self.options.collection.clone();
        let request = QueryBatchPoints { collection_name, query_points, ..QueryBatchPoints::default() };
        let answer = self.call(action, self.points.clone().query_batch(request)).await?;
        Ok(answer.result.into_iter().map(|batch| batch.result).collect())
    }
}

fn scores(points: Vec<ScoredPoint>) -> HashMap<ContextId, f32> {
    points.into_iter().filter_map(|point| Some((convert::id(point.id)?, point.score))).collect()
}
