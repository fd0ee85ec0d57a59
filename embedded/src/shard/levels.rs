//! How many contexts are on each level. It is asked every few seconds for a gauge, and counting looks at every context of the owner, so
//! the last answer is kept: it stands until something is written, or something has expired.

use std::sync::atomic::Ordering;

use context_manager_memory::{
    PerLevel, Timestamp,
    store::{Clauses, Owner, Selection},
};
use qdrant_edge::CountRequest;

use super::{Shard, lock};
use crate::{Error, filter};

/// The last answer.
#[derive(Clone, Debug)]
pub(super) struct Levels {
    owner: Owner,
    /// How many changes of contexts there had been before it was counted.
    changes: u64,
    at: Timestamp,
    counts: PerLevel<usize>,
}

impl Shard {
    /// How many of an owner's contexts are alive at `now` on each level.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn counts_by_level(&self, owner: &Owner, now: Timestamp) -> Result<PerLevel<usize>, Error> {
        // A write counts as a change when it is done, so one that comes between is a change after these.
        let changes = self.changes.load(Ordering::Acquire);
        let kept = lock(&self.levels).clone();
        if let Some(kept) = kept.filter(|kept| kept.owner == *owner && kept.changes == changes && kept.at <= now)
            && self.expired_between(owner, kept.at, now)? == 0
        {
            return Ok(kept.counts);
        }
        let PerLevel { immediate, short_term, long_term } = PerLevel::from_fn(|level| {
            self.count(&Selection { levels: Some(vec![level]), ..Selection::alive(owner.clone(), now) })
        });
        let counts = PerLevel { immediate: immediate?, short_term: short_term?, long_term: long_term? };
        *lock(&self.levels) = Some(Levels { owner: owner.clone(), changes, at: now, counts });
        Ok(counts)
    }

    fn expired_between(&self, owner: &Owner, after: Timestamp, until: Timestamp) -> Result<usize, Error> {
        if after == until {
            return Ok(0);
        }
        let clauses = Clauses::expired_between(owner, after, until);
        let request = CountRequest { filter: Some(filter::of(&clauses)?), exact: true };
        self.engine.count(request).map_err(Error::engine("count expired contexts"))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
mod tests {
    use context_manager_memory::{
        AgentId, Context, ContextId, Level, TenantId, Vectors,
        store::{Access, Point},
    };
    use qdrant_edge::{PointOperations, UpdateOperation};

    use super::*;
    use crate::OpenOptions;

    #[test]
    fn an_answer_stands_until_something_is_written_or_has_expired() {
        let directory = tempfile::tempdir().unwrap();
        let shard = Shard::open(OpenOptions::new(directory.path(), 4, "model")).unwrap();
        let owner = Owner::new(TenantId::new("t").unwrap(), AgentId::new("a").unwrap());
        let other = Owner::new(TenantId::new("t").unwrap(), AgentId::new("b").unwrap());
        let at = Timestamp::from_millis;
        let id = |number| ContextId::new(uuid::Uuid::from_u128(number));
        let context = |number: u128, level: Level, expires_at: Option<i64>| {
            let context = Context::new(id(number), owner.tenant.clone(), owner.holder.clone(), level, "tea", at(0));
            Context { expires_at: expires_at.map(at), ..context }
        };
        let put = |context: Context| shard.upsert(&[Point { context, vectors: Vectors::default() }]).unwrap();
        let counts = |owner: &Owner, now: i64| {
            let PerLevel { immediate, short_term, long_term } = shard.counts_by_level(owner, at(now)).unwrap();
            (immediate, short_term, long_term)
        };
        put(context(1, Level::ShortTerm, Some(100)));
        put(context(2, Level::LongTerm, None));
        assert_eq!(counts(&owner, 0), (0, 1, 1));

        // What is removed behind the store's back is noticed only if it is counted anew.
        let remove = PointOperations::DeletePoints { ids: vec![filter::point_id(id(2))] };
        shard.engine.update(UpdateOperation::PointOperation(remove)).unwrap();
        shard.count_accesses(&owner, &[Access { id: id(1), times: 1, at: at(1) }]).unwrap();
        assert_eq!(counts(&owner, 50), (0, 1, 1), "the last answer stands");
        assert_eq!(counts(&owner, 100), (0, 0, 0), "one has expired");
        assert_eq!(counts(&owner, 50), (0, 1, 0), "and at an earlier time it has not");

        put(context(3, Level::Immediate, None));
        assert_eq!(counts(&owner, 50), (1, 1, 0));
        assert_eq!(counts(&other, 50), (0, 0, 0), "another owner's answer is another one");
        shard.update(&Context { version: 2, ..context(3, Level::LongTerm, None) }, None, 1).unwrap();
        assert_eq!(counts(&owner, 50), (0, 1, 1));
        shard.delete(&owner, &[id(3)]).unwrap();
        assert_eq!(counts(&owner, 50), (0, 1, 0));
    }
}
