//! How many contexts there are, as every other read sees them: what the store has, with what waits for it laid over it. But if so many stored
//! contexts are to be changed or deleted that to look at them would take longer than a request may, what the store has is the answer until
//! they are.
//!
//! A write that reaches the store while it is counted may be counted twice or not at all; the next count has it once.

use context_manager_memory::{ContextId, Level, Timestamp};

use super::{Error, Inner, filter::Wanted, immediate, now, pending::View};
use crate::access::Reach;

/// Contexts of one read of the store.
const PAGE: usize = 100;
/// Most contexts of the store that are looked at because waiting writes change or delete them: two calls for a hundred of them.
const MOST_OUTDATED: usize = 1_000;

impl Inner {
    /// How many contexts are wanted.
    pub(super) async fn count(&self, wanted: &Wanted) -> Result<usize, Error> {
        let (now, view) = (now(), self.pending.view());
        let counted = self.store.count(wanted.selection(wanted.levels.clone(), now)).await;
        let stored = self.store_health.note(counted)?;
        let Some(view) = view else { return Ok(stored) };
        let Some(outdated) = self.outdated_of(wanted, &view, now).await? else { return Ok(stored) };
        Ok(stored.saturating_sub(outdated.len()) + immediate::waiting(&view, wanted, now).len())
    }

    /// How many contexts are alive on each level, as far as the permission reaches.
    pub(super) async fn counts(&self, reach: &Reach) -> Result<Vec<(Level, usize)>, Error> {
        let (now, view) = (now(), self.pending.view());
        let wanted = Wanted::within(reach);
        let mut counts = self.stored_counts(reach, &wanted, now).await?;
        let Some(view) = view else { return Ok(counts) };
        let Some(outdated) = self.outdated_of(&wanted, &view, now).await? else { return Ok(counts) };
        let waiting = immediate::waiting(&view, &wanted, now);
        for (level, count) in &mut counts {
            let gone = outdated.iter().filter(|outdated| *outdated == level).count();
            let come = waiting.iter().filter(|(context, _)| context.level == *level).count();
            *count = count.saturating_sub(gone) + come;
        }
        Ok(counts)
    }

    async fn stored_counts(
        &self,
        reach: &Reach,
        wanted: &Wanted,
        now: Timestamp,
    ) -> Result<Vec<(Level, usize)>, Error> {
        if reach.is_own() && reach.session().is_none() {
            let counts = self.store_health.note(self.store.counts_by_level(reach.owner(), now).await)?;
            return Ok(counts.iter().map(|(level, count)| (level, *count)).collect());
        }
        let mut counts = Vec::new();
        for level in reach.levels() {
            let counted = self.store.count(wanted.selection(vec![level], now)).await;
            counts.push((level, self.store_health.note(counted)?));
        }
        Ok(counts)
    }

    /// The levels of the wanted contexts that the store counts and that will not be there, or will be others, once all that waits has reached it.
    /// Nothing if there are too many to look at.
    async fn outdated_of(&self, wanted: &Wanted, view: &View, now: Timestamp) -> Result<Option<Vec<Level>>, Error> {
        if !self.few_are_outdated(&wanted.owner, view, now, MOST_OUTDATED).await? {
            return Ok(None);
        }
        let ids: Vec<ContextId> = self.outdated(&wanted.owner, view, now).await?.into_iter().collect();
        let mut outdated = Vec::new();
        for ids in ids.chunks(PAGE) {
            let stored = self.store_health.note(self.store.find(ids.to_vec()).await)?.into_iter();
            let wanted = stored.filter(|context| !context.is_expired(now) && wanted.matches(context));
            outdated.extend(wanted.map(|context| context.level));
        }
        Ok(Some(outdated))
    }
}
