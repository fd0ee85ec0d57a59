//! What a query gets that has nothing to compare: only stop words, and no embedding. "And then?" asks for what was last, so the newest
//! contexts answer, and the answer says in `degraded` that the query had no part in it.

use std::time::Duration;

use context_manager_memory::{ContextId, LegScores, QueryVectors, SparseVector, Timestamp, rank::Candidate};
use uuid::Uuid;

use super::Inner;
use crate::ports::vector_store::{Error, Search};

/// How far back is looked, until something is there: ids begin with the time at which they were made.
const BACK: [Duration; 6] = [
    Duration::from_mins(1),
    Duration::from_mins(10),
    Duration::from_hours(1),
    Duration::from_hours(6),
    Duration::from_hours(24),
    Duration::from_hours(24 * 30),
];
/// Contexts of one search.
const MOST: usize = 100;
/// Fewer than these are not enough while there may be older ones.
const ENOUGH: usize = 20;

/// Whether neither words nor meaning can be compared; a vector of zeros is the built-in embedder's of a text without words.
pub(super) fn says_nothing(query: &QueryVectors) -> bool {
    let is_zero = |vector: &Vec<f32>| vector.iter().all(|value| *value == 0.0);
    query.dense.as_ref().is_none_or(is_zero) && query.sparse.as_ref().is_none_or(SparseVector::is_empty)
}

/// The newer one has the higher score.
pub(super) fn by_age(candidates: &mut [Candidate]) {
    candidates.sort_by_key(|candidate| (candidate.context.created_at, candidate.context.id));
    for (place, candidate) in candidates.iter_mut().enumerate() {
        let place = u16::try_from(place).unwrap_or(u16::MAX);
        candidate.scores = LegScores { sparse_self: Some(f32::from(place) + 1.0), ..LegScores::default() };
    }
}

impl Inner {
    /// Some of the newest contexts of what is searched.
    pub(super) async fn newest(&self, searches: Vec<Search>, now: Timestamp) -> Result<Vec<Candidate>, Error> {
        let mut newest = Vec::new();
        for Search { selection, .. } in searches {
            let mut found = Vec::new();
            for from in BACK.iter().map(|back| first_id(now, *back)).chain([None]) {
                found = self.store.list(selection.clone(), from, MOST).await?.contexts;
                if found.len() >= ENOUGH {
                    break;
                }
            }
            let candidate = |context| Candidate { context: std::sync::Arc::new(context), scores: LegScores::default() };
            newest.extend(found.into_iter().map(candidate));
        }
        Ok(newest)
    }
}

/// The first id that may have been made so long ago (UUID version 7, RFC 9562).
fn first_id(now: Timestamp, back: Duration) -> Option<ContextId> {
    let millis = u64::try_from(now.as_millis()).ok()?.checked_sub(u64::try_from(back.as_millis()).ok()?)?;
    Some(ContextId::new(Uuid::from_u128(u128::from(millis) << 80)))
}
