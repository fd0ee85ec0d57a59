//! Scoring of contexts that are held in memory, as a store would score them: for L1, and for what no store has yet.

use std::sync::Arc;

use crate::{
    Context, LegScores, QueryVectors, SparseVector, Vectors,
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
pub fn score(query: &QueryVectors, contexts: &[(Context, Vectors)]) -> Vec<Candidate> {
    let terms = query.sparse.clone().unwrap_or_default();
    score_by(query, contexts, &DocumentFrequencies::of(&terms, contexts.iter().map(|(_, vectors)| vectors)))
}

/// Scores each context on each leg by the document frequencies of a corpus that is known.
#[must_use]
pub fn score_by(
    query: &QueryVectors,
    contexts: &[(Context, Vectors)],
    frequencies: &DocumentFrequencies,
) -> Vec<Candidate> {
    let dense = |vector: &Option<Vec<f32>>| {
        query.dense.as_ref().zip(vector.as_ref()).map(|(query, vector)| cosine(query, vector))
    };
    let sparse = |vector: &SparseVector, counts: &Counts| {
        query.sparse.as_ref().map(|query| query.dot_weighted(vector, |term| counts.weight(term)))
    };
    contexts
        .iter()
        .map(|(context, vectors)| Candidate {
            context: Arc::new(context.clone()),
            scores: LegScores {
                dense_self: dense(&vectors.dense_self),
                dense_ctx: dense(&vectors.dense_ctx),
                sparse_self: sparse(&vectors.sparse_self, &frequencies.own),
                sparse_ctx: sparse(&vectors.sparse_ctx, &frequencies.with_previous),
            },
        })
        .collect()
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
        assert!(score(&QueryVectors { dense: None, sparse: Some(lexical::query("tea")) }, &[]).is_empty());
    }
}
