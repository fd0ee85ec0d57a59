//! Scoring of contexts that are held in memory, as a store would score them: for L1, and for what no store has yet.

use std::{borrow::Borrow, sync::Arc};

use crate::{
    Context, Leg, LegScores, QueryVectors, SparseVector, Vectors,
    frequencies::{Counts, DocumentFrequencies},
    rank::Candidate,
    vectors::cosine,
};

/// Scores each context on each leg; the document frequencies are those of the given contexts.
///
/// ```
/// # use context_manager_memory::{AgentId, Context, ContextId, Level, QueryVectors, TenantId, Timestamp};
/// use context_manager_memory::{index_text::index_texts, lexical::{self, Bm25}, local::score};
///
/// # let now = Timestamp::from_millis(0);
/// # let id = ContextId::new(uuid::Uuid::from_u128(1));
/// # let context = Context::new(id, TenantId::new("t").unwrap(), AgentId::new("a").unwrap(), Level::Immediate, "green tea", now);
/// let vectors = index_texts(&context, None).vectors(&Bm25::default(), None);
/// let query = QueryVectors { dense: None, sparse: Some(lexical::query("tea")) };
/// let scored = score(&query, &[(context, vectors)]);
/// assert!(scored[0].scores.sparse_self > Some(0.0));
/// assert_eq!(scored[0].scores.dense_self, None);
/// ```
#[must_use]
pub fn score<C, V>(query: &QueryVectors, contexts: &[(C, V)]) -> Vec<Candidate>
where
    C: Clone + Into<Arc<Context>>,
    V: Borrow<Vectors>,
{
    let terms = query.sparse.clone().unwrap_or_default();
    score_by(query, contexts, &DocumentFrequencies::of(&terms, contexts.iter().map(|(_, vectors)| vectors.borrow())))
}

/// Scores each context on each leg by the document frequencies of a corpus that is known.
#[must_use]
pub fn score_by<C, V>(query: &QueryVectors, contexts: &[(C, V)], frequencies: &DocumentFrequencies) -> Vec<Candidate>
where
    C: Clone + Into<Arc<Context>>,
    V: Borrow<Vectors>,
{
    let dense = |vector: &Option<Vec<f32>>| {
        query.dense.as_ref().zip(vector.as_ref()).map(|(query, vector)| cosine(query, vector))
    };
    let sparse = |vector: &SparseVector, counts: &Counts| {
        query.sparse.as_ref().map(|query| query.dot_weighted(vector, |term| counts.weight(term)))
    };
    contexts
        .iter()
        .map(|(context, vectors)| (context, vectors.borrow()))
        .map(|(context, vectors)| Candidate {
            context: context.clone().into(),
            scores: LegScores {
                dense_self: dense(&vectors.dense_self),
                dense_ctx: dense(&vectors.dense_ctx),
                sparse_self: sparse(&vectors.sparse_self, &frequencies.own),
                sparse_ctx: sparse(&vectors.sparse_ctx, &frequencies.with_previous),
            },
        })
        .collect()
}

/// The `most` best candidates of each leg, as a store would give them; all of them if there are no more than that.
#[must_use]
pub fn best(candidates: Vec<Candidate>, most: usize) -> Vec<Candidate> {
    if candidates.len() <= most {
        return candidates;
    }
    let mut is_best = vec![false; candidates.len()];
    for leg in Leg::ALL {
        let scored = candidates.iter().enumerate();
        let mut scored: Vec<(usize, f32)> =
            scored.filter_map(|(place, candidate)| candidate.scores.on(leg).map(|score| (place, score))).collect();
        if scored.len() > most {
            scored.select_nth_unstable_by(most, |(_, one), (_, other)| other.total_cmp(one));
        }
        for (place, _) in scored.into_iter().take(most) {
            is_best[place] = true;
        }
    }
    candidates.into_iter().zip(is_best).filter_map(|(candidate, is_best)| is_best.then_some(candidate)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Level,
        context::tests::sample,
        index_text::index_texts,
        lexical::{self, Bm25},
    };

    #[test]
    fn a_rare_word_outweighs_a_common_one() {
        let texts = ["tea again", "tea again", "tea again", "violin again"];
        let contexts: Vec<_> = (0_u128..)
            .zip(texts)
            .map(|(number, text)| {
                let context = sample(number, Level::Immediate, text);
                let texts = index_texts(&context, None);
                let vectors = texts.vectors(&Bm25::default(), Some(texts.builtin(64)));
                (context, vectors)
            })
            .collect();
        let query = QueryVectors {
            dense: Some(crate::builtin::embed("tea violin", 64)),
            sparse: Some(lexical::query("tea violin")),
        };
        let scored = score(&query, &contexts);
        assert!(scored[3].scores.sparse_self > scored[0].scores.sparse_self);
        assert!(scored.iter().all(|candidate| candidate.scores.dense_ctx.is_some()));
    }

    #[test]
    fn no_context_gives_no_candidate() {
        let none: [(Context, Vectors); 0] = [];
        assert!(score(&QueryVectors { dense: None, sparse: Some(lexical::query("tea")) }, &none).is_empty());
    }

    #[test]
    fn the_best_of_each_leg_are_kept() {
        let of = |number: u8, dense: f32, sparse: f32| Candidate {
            context: Arc::new(sample(u128::from(number), Level::Immediate, "tea")),
            scores: LegScores { dense_self: Some(dense), dense_ctx: None, sparse_self: Some(sparse), sparse_ctx: None },
        };
        let candidates: Vec<Candidate> =
            (0..10).map(|number| of(number, f32::from(number), -f32::from(number))).collect();
        let kept = best(candidates.clone(), 2);
        let scores: Vec<_> = kept.iter().map(|candidate| candidate.scores.dense_self).collect();
        assert_eq!(scores, [0.0, 1.0, 8.0, 9.0].map(Some));
        assert_eq!(best(candidates.clone(), 10).len(), 10);
    }
}
