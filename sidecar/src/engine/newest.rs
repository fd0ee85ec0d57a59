//! What a query gets that has nothing to compare: it has stop words alone, or no word that is in memory, and its meaning cannot be
//! compared. "And then?" asks for what was last, so the newest contexts answer, and the answer says in `degraded` that the query had no part
//! in it.

use std::cmp::Reverse;

use context_manager_memory::{LegScores, QueryVectors, SparseVector, rank::Candidate};

use super::Inner;
use crate::ports::vector_store::{Error, Search};

/// Contexts of one search.
const MOST: usize = 100;
/// Bytes of texts and metadata that those of all searches of a request have together, as other candidates do.
const MOST_BYTES: usize = 8 << 20;

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

/// The candidates, or as many of the newest as have `most_bytes` together; one at least.
fn newest_within(mut candidates: Vec<Candidate>, most_bytes: usize) -> Vec<Candidate> {
    candidates.sort_by_key(|candidate| Reverse((candidate.context.created_at, candidate.context.id)));
    let mut bytes = 0;
    let kept = candidates.iter().take_while(|candidate| {
        bytes += candidate.context.written_bytes();
        bytes <= most_bytes
    });
    let kept = kept.count().max(1);
    candidates.truncate(kept);
    candidates
}

impl Inner {
    /// The newest contexts of what is searched, by when they were stored: an id need not say that.
    pub(super) async fn newest(&self, searches: Vec<Search>) -> Result<Vec<Candidate>, Error> {
        let mut newest = Vec::new();
        for Search { selection, .. } in searches {
            let found = self.store.latest(selection, MOST).await?.into_iter();
            newest.extend(found.map(|context| Candidate { context: context.into(), scores: LegScores::default() }));
            newest = newest_within(newest, MOST_BYTES);
        }
        Ok(newest)
    }
}
