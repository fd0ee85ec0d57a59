//! The best of more candidates than there is memory for.

use context_manager_memory::{LegScores, rank::Candidate};

/// The candidates, or as many of the best as have `most_bytes` of texts and metadata together; one at least. Good is what has large shares
/// of the best score of each leg.
pub(super) fn best_within(mut candidates: Vec<Candidate>, most_bytes: usize) -> Vec<Candidate> {
    let bytes = |candidate: &Candidate| candidate.context.written_bytes();
    if candidates.iter().map(bytes).sum::<usize>() <= most_bytes {
        return candidates;
    }
    let mut best = [0.0_f32; 4];
    for candidate in &candidates {
        for (best, score) in best.iter_mut().zip(legs(&candidate.scores)) {
            *best = best.max(score);
        }
    }
    let goodness = |candidate: &Candidate| -> f32 {
        let shares = legs(&candidate.scores).into_iter().zip(best);
        shares.map(|(score, best)| if best > 0.0 { score / best } else { 0.0 }).sum()
    };
    candidates.sort_by(|one, other| goodness(other).total_cmp(&goodness(one)));
    let mut sum = 0;
    let kept = candidates.iter().take_while(|candidate| {
        sum += bytes(candidate);
        sum <= most_bytes
    });
    let kept = kept.count().max(1);
    candidates.truncate(kept);
    candidates
}

fn legs(LegScores { dense_self, dense_ctx, sparse_self, sparse_ctx }: &LegScores) -> [f32; 4] {
    [dense_self, dense_ctx, sparse_self, sparse_ctx].map(|score| score.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use context_manager_memory::{AgentId, Context, ContextId, Level, TenantId, Timestamp};
    use uuid::Uuid;

    use super::*;

    /// A candidate with so many bytes of text, and scores of words and of meaning.
    fn candidate(number: u128, bytes: usize, words: f32, meaning: Option<f32>) -> Candidate {
        let (id, at) = (ContextId::new(Uuid::from_u128(number)), Timestamp::from_millis(0));
        let (tenant, agent) = (TenantId::new("team-a").expect("a name"), AgentId::new("agent").expect("a name"));
        let context = Context::new(id, tenant, agent, Level::LongTerm, "x".repeat(bytes), at);
        let scores = LegScores { dense_self: meaning, sparse_self: Some(words), ..LegScores::default() };
        Candidate { context: context.into(), scores }
    }

    #[test]
    fn of_too_many_the_best_on_all_legs_together_stay() {
        let all = || {
            vec![
                candidate(1, 400, 1.0, None),
                candidate(2, 400, 9.0, Some(0.9)),
                candidate(3, 400, 10.0, Some(0.1)),
                candidate(4, 400, 0.0, Some(0.2)),
            ]
        };
        let ids = |most_bytes| {
            let kept = best_within(all(), most_bytes);
            kept.iter().map(|candidate| candidate.context.id.as_uuid().as_u128()).collect::<Vec<_>>()
        };
        assert_eq!(ids(10_000), [1, 2, 3, 4], "there is room for all");
        assert_eq!(ids(1_000), [2, 3]);
        assert_eq!(ids(1), [2], "one stays whatever it has");
    }
}
