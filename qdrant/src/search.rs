//! Retrieval: the best of each leg of all searches in one batch, then the exact scores of their union in one more.

use std::collections::{BTreeSet, HashMap};

use context_manager_memory::{
    Context, ContextId, Leg, LegScores, QueryVectors,
    frequencies::DocumentFrequencies,
    rank::Candidate,
    store::{Clauses, Search},
};
use qdrant_client::qdrant::{
    DenseVector, Filter, IdfParams, Query, QueryBatchPoints, QueryPoints, ScoredPoint, SearchParams, VectorInput,
    query, vector_input,
};

use crate::{Collection, Error, convert, filter};

/// What scoring is called in an error.
const SCORE: &str = "score candidates";
/// Largest answer to a search: a few hundred contexts of each level are far smaller, unless all are as long as they may be.
const LARGEST_ANSWER: usize = 8 << 20;
/// Contexts of one read, where they do not come with their scores: at most 5 MiB.
const AT_ONCE: usize = 64;

/// The exact scores of a union by leg, and its contexts.
#[derive(Default)]
struct Exact {
    by_leg: Vec<HashMap<ContextId, f32>>,
    contexts: Vec<Context>,
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
        let mut unions = Vec::with_capacity(asked.len());
        for Asked { legs, .. } in &asked {
            let found: Vec<HashMap<ContextId, f32>> = best.by_ref().take(legs.len()).map(scores).collect();
            let union: BTreeSet<ContextId> = found.iter().flat_map(HashMap::keys).copied().collect();
            unions.push(union.into_iter().collect::<Vec<_>>());
        }
        let mut candidates = Vec::new();
        for (Asked { search, legs, .. }, Exact { by_leg, contexts }) in
            asked.iter().zip(self.exact(&asked, &unions).await?)
        {
            candidates.extend(contexts.into_iter().filter(|context| search.selection.admits(context)).map(|context| {
                let found = legs.iter().zip(&by_leg).map(|((leg, _), found)| (*leg, found.get(&context.id).copied()));
                let scores = LegScores::of_found(found);
                Candidate { context: context.into(), scores }
            }));
        }
        Ok(candidates)
    }

    /// The exact scores of each union, and its contexts, in one call. If that is more than this side holds at once, the scores come alone,
    /// and the contexts some at a time after them, as many of the best as there is room for.
    async fn exact(&self, asked: &[Asked<'_>], unions: &[Vec<ContextId>]) -> Result<Vec<Exact>, Error> {
        let queries = |with_contexts: bool| {
            let mut queries = Vec::new();
            for (Asked { legs, corpus, .. }, ids) in asked.iter().zip(unions).filter(|(_, ids)| !ids.is_empty()) {
                let filter = filter::of(&Clauses::ids(ids));
                queries.extend(legs.iter().map(|leg| self.leg(leg, &filter, corpus, ids.len(), true)));
                if with_contexts {
                    queries.push(self.payloads(filter, ids.len()));
                }
            }
            queries
        };
        let whole = self.batch(SCORE, queries(true)).await;
        let is_whole = !matches!(&whole, Err(error) if error.is_too_large());
        let answers = if is_whole { whole? } else { self.batch(SCORE, queries(false)).await? };
        let mut answers = answers.into_iter();
        let mut exact: Vec<Exact> = Vec::with_capacity(asked.len());
        for (Asked { legs, .. }, ids) in asked.iter().zip(unions) {
            if ids.is_empty() {
                exact.push(Exact::default());
                continue;
            }
            let by_leg = answers.by_ref().take(legs.len()).map(scores).collect();
            let points = if is_whole { answers.next().unwrap_or_default() } else { Vec::new() };
            let contexts = points.into_iter().filter_map(|point| convert::context(point.id, point.payload));
            exact.push(Exact { by_leg, contexts: contexts.collect() });
        }
        if !is_whole {
            self.read_best(&mut exact, unions).await?;
        }
        Ok(exact)
    }

    /// Reads the contexts of unions, the best of all first, until there is no room for more.
    async fn read_best(&self, exact: &mut [Exact], unions: &[Vec<ContextId>]) -> Result<(), Error> {
        let mut best: Vec<(f32, usize, ContextId)> = Vec::new();
        for (place, (Exact { by_leg, .. }, ids)) in exact.iter().zip(unions).enumerate() {
            best.extend(ids.iter().map(|id| (normalised(by_leg, *id), place, *id)));
        }
        best.sort_by(|(one, ..), (other, ..)| other.total_cmp(one));
        let mut bytes = 0;
        for part in best.chunks(AT_ONCE) {
            let ids: Vec<ContextId> = part.iter().map(|(_, _, id)| *id).collect();
            let mut contexts: HashMap<ContextId, Context> =
                self.find(&ids).await?.into_iter().map(|context| (context.id, context)).collect();
            for (_, place, id) in part {
                let Some(context) = contexts.remove(id) else { continue };
                bytes += context.written_bytes();
                if bytes > LARGEST_ANSWER {
                    return Ok(());
                }
                exact[*place].contexts.push(context);
            }
        }
        Ok(())
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
            using: Some(self.dense().name_of(*leg).to_owned()),
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
        let mut points = self.points.clone().max_decoding_message_size(LARGEST_ANSWER);
        let answer = self.call(action, points.query_batch(request)).await?;
        Ok(answer.result.into_iter().map(|batch| batch.result).collect())
    }
}

fn scores(points: Vec<ScoredPoint>) -> HashMap<ContextId, f32> {
    points.into_iter().filter_map(|point| Some((convert::id(point.id)?, point.score))).collect()
}

/// How good a context is among those that were found with it: its legs, each as a share of the best one's, added.
fn normalised(by_leg: &[HashMap<ContextId, f32>], id: ContextId) -> f32 {
    let share = |found: &HashMap<ContextId, f32>| {
        let best = found.values().copied().fold(0.0, f32::max);
        if best > 0.0 { found.get(&id).map_or(0.0, |score| score / best) } else { 0.0 }
    };
    by_leg.iter().map(share).sum()
}
