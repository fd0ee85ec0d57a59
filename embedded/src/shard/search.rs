//! Retrieval: the best of each leg, then the exact score of each of them on every leg.
//!
//! Fusing lists that were cut at different places loses what one leg has just below its cut. So the union of the legs' best is
//! scored once more on all legs, and the ranking gets four comparable scores for each candidate.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, atomic::Ordering},
};

use context_manager_memory::{
    Context, ContextId, Leg, LegScores, QueryVectors,
    frequencies::DocumentFrequencies,
    rank::Candidate,
    store::{Clauses, DenseNames, InvalidCall, Search, Selection},
};
use qdrant_edge::{
    CountRequest, Filter, IdfCorpusParams, IdfParams, NamedQuery, QueryBatchRequest, QueryEnum, QueryRequest,
    ScoringQuery, SearchParams, VectorInternal,
};

use super::{
    Shard,
    frequencies::Weighed,
    read::{self, Within},
    write,
};
use crate::{Error, filter};

/// How many more than the best are looked at when there is no filter, for those that are not selected.
const MORE: usize = 28;
/// Contexts from which on a filter takes long enough to try without.
const WORTH_A_TRY: usize = 500;
/// Searches that go by without a try after one that was in vain.
pub(super) const PAUSE: usize = 64;

/// What a search asks of the engine.
struct Asked {
    legs: Vec<(Leg, VectorInternal)>,
    /// How many contexts have a part in the document frequencies.
    corpus: usize,
}

/// The best of each leg, at most as many as were asked for, and the contexts they are, if these were read already.
struct Best {
    legs: Vec<Scores>,
    contexts: Option<Vec<Arc<Context>>>,
}

/// What a leg found, best first.
type Scores = Vec<(ContextId, f32)>;

impl Shard {
    /// Bytes of texts and metadata that all candidates of a search may have together: a few hundred contexts are far smaller, unless all are
    /// as long as they may be.
    pub const CANDIDATES_BYTES: usize = 8 << 20;

    /// The candidates for a query with their exact scores, in no particular order; if all are more than
    /// [`CANDIDATES_BYTES`](Self::CANDIDATES_BYTES), the best of them. The document frequencies are those of the
    /// owner's own contexts, unless the search brings some: nobody else's memory moves a score.
    ///
    /// # Errors
    /// When the query's vector has the wrong length or a value that is no number, when the selection cannot be expressed, or when
    /// the engine fails.
    pub fn search(&self, search: &Search) -> Result<Vec<Candidate>, Error> {
        let Search { query, selection, per_leg, frequencies } = search;
        let per_leg = (*per_leg).max(1);
        let asked = self.understand(query, selection, frequencies.as_ref())?;
        if asked.legs.is_empty() {
            return Ok(Vec::new());
        }
        let best = match self.best_of_all(&asked, selection, per_leg)? {
            Some(best) => best,
            None => self.best_of_selected(&asked, selection, per_leg)?,
        };
        let ids = union(&best.legs);
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        // A leg that found fewer than it was asked for has found all there is.
        let is_complete = best.legs.iter().all(|scores| scores.len() < per_leg);
        let exact = if is_complete {
            best.legs
        } else {
            self.score(&asked.legs, Some(&filter::of(&Clauses::ids(&ids))?), ids.len())?
        };
        let exact: Vec<HashMap<ContextId, f32>> =
            exact.into_iter().map(|scores| scores.into_iter().collect()).collect();
        let contexts = match best.contexts {
            Some(contexts) => contexts,
            // By their scores, so that no more of them are read than there is room for.
            None => self.contexts_within(&best_first(ids, &exact), Self::CANDIDATES_BYTES)?.contexts,
        };
        let admitted = contexts.into_iter().filter(|context| selection.admits(context));
        Ok(admitted.map(|context| candidate(context, &asked.legs, &exact)).collect())
    }

    fn understand(
        &self,
        query: &QueryVectors,
        selection: &Selection,
        frequencies: Option<&DocumentFrequencies>,
    ) -> Result<Asked, Error> {
        let mut legs = Vec::with_capacity(4);
        if let Some(dense) = &query.dense {
            self.check_dense(None, dense)?;
            legs.extend([Leg::DenseSelf, Leg::DenseCtx].map(|leg| (leg, VectorInternal::Dense(dense.clone()))));
        }
        let terms = query.sparse.clone().unwrap_or_default();
        InvalidCall::check_sparse(None, &terms)?;
        let weigh = |frequencies: &DocumentFrequencies| Weighed::by(frequencies, &terms);
        let Weighed { own, with_previous, corpus } = match frequencies {
            Some(frequencies) => weigh(frequencies),
            None => self.frequencies_of(&Clauses::corpus(&selection.owner), weigh)?,
        };
        if !terms.is_empty() {
            for (leg, terms) in [(Leg::SparseSelf, own), (Leg::SparseCtx, with_previous)] {
                legs.push((leg, VectorInternal::Sparse(write::sparse(None, &terms)?)));
            }
        }
        Ok(Asked { legs, corpus })
    }

    /// The best of all there are, if that tells the best of the selected ones: when nearly all are selected, a filter takes far longer than
    /// looking at a few more, because the engine asks it for every context.
    fn best_of_all(&self, asked: &Asked, selection: &Selection, per_leg: usize) -> Result<Option<Best>, Error> {
        if !self.is_worth_a_try(asked, selection)? {
            return Ok(None);
        }
        let all = self.score(&asked.legs, None, per_leg + MORE)?;
        let Within { contexts, is_all } = self.contexts_within(&union(&all), Self::CANDIDATES_BYTES)?;
        if !is_all {
            // Which of them are selected is not known without reading them; a filter reads none.
            self.tries.store(0, Ordering::Relaxed);
            return Ok(None);
        }
        let contexts: HashMap<ContextId, Arc<Context>> =
            contexts.into_iter().map(|context| (context.id, context)).collect();
        let is_selected =
            |(id, _): &&(ContextId, f32)| contexts.get(id).is_some_and(|context| selection.admits(context));
        let legs: Vec<Scores> =
            all.iter().map(|scores| scores.iter().filter(is_selected).take(per_leg).copied().collect()).collect();
        let is_enough = |(all, selected): (&Scores, &Scores)| selected.len() == per_leg || all.len() < per_leg + MORE;
        if !all.iter().zip(&legs).all(is_enough) {
            self.tries.store(0, Ordering::Relaxed);
            return Ok(None);
        }
        let contexts = union(&legs).iter().filter_map(|id| contexts.get(id)).cloned().collect();
        Ok(Some(Best { legs, contexts: Some(contexts) }))
    }

    /// Whether the best of all probably tell the best of the selected. After it did not, some searches go by without a try.
    fn is_worth_a_try(&self, Asked { legs: _, corpus }: &Asked, selection: &Selection) -> Result<bool, Error> {
        if !selection.is_of_levels_alone() || selection.levels.as_ref().is_some_and(|levels| levels.len() < 2) {
            return Ok(false);
        }
        // An exact count would look at every point.
        let about = CountRequest { filter: None, exact: false };
        let points = self.engine.count(about).map_err(Error::engine("count the contexts"))?;
        if points < WORTH_A_TRY || corpus * 4 < points * 3 {
            return Ok(false);
        }
        Ok(self.tries.fetch_add(1, Ordering::Relaxed) >= PAUSE)
    }

    fn best_of_selected(&self, asked: &Asked, selection: &Selection, per_leg: usize) -> Result<Best, Error> {
        let legs = self.score(&asked.legs, Some(&filter::of(&Clauses::of(selection)?)?), per_leg)?;
        Ok(Best { legs, contexts: None })
    }

    /// What each leg finds within a filter, at most `limit`, in one call of the engine.
    fn score(
        &self,
        legs: &[(Leg, VectorInternal)],
        filter: Option<&Filter>,
        limit: usize,
    ) -> Result<Vec<Scores>, Error> {
        // The terms have their weights already.
        let corpus = filter::of(&Clauses::nothing())?;
        let names = DenseNames::default();
        let request = |(leg, vector): &(Leg, VectorInternal)| {
            let idf = match vector {
                VectorInternal::Sparse(_) => Some(IdfParams::Corpus(IdfCorpusParams { corpus: corpus.clone() })),
                VectorInternal::Dense(_) | VectorInternal::MultiDense(_) => None,
            };
            let nearest = NamedQuery::new(vector.clone(), names.name_of(*leg));
            QueryRequest {
                query: Some(ScoringQuery::Vector(QueryEnum::Nearest(nearest))),
                filter: filter.cloned(),
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

fn union(legs: &[Scores]) -> Vec<ContextId> {
    let ids: BTreeSet<ContextId> = legs.iter().flatten().map(|(id, _)| *id).collect();
    ids.into_iter().collect()
}

/// The contexts by how good they are: each leg as a share of the best one's, added.
fn best_first(ids: Vec<ContextId>, exact: &[HashMap<ContextId, f32>]) -> Vec<ContextId> {
    let best: Vec<f32> = exact.iter().map(|found| found.values().copied().fold(0.0, f32::max)).collect();
    let goodness = |id: &ContextId| -> f32 {
        let legs = exact.iter().zip(&best).filter(|(_, best)| **best > 0.0);
        legs.map(|(found, best)| found.get(id).map_or(0.0, |score| score / best)).sum()
    };
    let mut ids: Vec<(f32, ContextId)> = ids.into_iter().map(|id| (goodness(&id), id)).collect();
    ids.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    ids.into_iter().map(|(_, id)| id).collect()
}

fn candidate(context: Arc<Context>, legs: &[(Leg, VectorInternal)], exact: &[HashMap<ContextId, f32>]) -> Candidate {
    let found = legs.iter().zip(exact).map(|((leg, _), found)| (*leg, found.get(&context.id).copied()));
    let scores = LegScores::of_found(found);
    Candidate { context, scores }
}
