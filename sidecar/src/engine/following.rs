//! What follows a context in its session is also found by that context's words, so a change of one changes how the next is found.
//!
//! The next one gets its new vectors first and the context is changed or deleted then: an end of the process in between leaves a
//! context that is found a little worse, and never one that is found by words that were deleted. The caller holds the
//! session's lock. What expires or makes room stays in the vectors of what follows it as long as that lives.

use std::collections::{BTreeMap, HashSet};

use context_manager_memory::{Context, ContextId, SessionId, index_text::index_texts};

use super::{Error, Inner, embedding::with_lexical, now};
use crate::ports::vector_store::{Owner, Updated};

/// Attempts against changes that the sidecar itself makes beside, such as a promotion.
const ATTEMPTS: usize = 5;

impl Inner {
    /// Makes the vectors of the context that follows `changed` anew.
    pub(super) async fn follow_change(&self, changed: &Context) -> Result<(), Error> {
        let Some(session) = &changed.session else { return Ok(()) };
        match self.after(&Owner::of(changed), session, changed.sequence).await? {
            Some(next) => self.index_anew(vec![(next, Some(changed.clone()))]).await,
            None => Ok(()),
        }
    }

    /// Makes the vectors of the contexts that follow `leaving` anew, as if those were gone.
    pub(super) async fn follow_removal(&self, owner: &Owner, leaving: &[Context]) -> Result<(), Error> {
        let gone: HashSet<ContextId> = leaving.iter().map(|context| context.id).collect();
        let mut sessions: BTreeMap<&SessionId, Vec<i64>> = BTreeMap::new();
        for context in leaving.iter().filter(|context| context.is_current()) {
            if let Some(session) = &context.session {
                sessions.entry(session).or_default().push(context.sequence);
            }
        }
        let mut following = Vec::new();
        for (session, mut places) in sessions {
            places.sort_unstable();
            for (at, &place) in places.iter().enumerate() {
                // Of contexts that leave one after the other only the last is followed by one that stays.
                if place.checked_add(1).is_some_and(|next| places.get(at + 1) == Some(&next)) {
                    continue;
                }
                let Some(next) = self.after(owner, session, place).await?.filter(|next| !gone.contains(&next.id))
                else {
                    continue;
                };
                let previous = self.staying_before(owner, session, place, &gone).await?;
                following.push((next, previous));
            }
        }
        self.index_anew(following).await
    }

    /// The context after a place of a session.
    pub(super) async fn after(
        &self,
        owner: &Owner,
        session: &SessionId,
        sequence: i64,
    ) -> Result<Option<Context>, Error> {
        Ok(self.store_health.note(self.store.after(owner, session, sequence, now()).await)?)
    }

    /// The last context before a place of a session that is not about to go.
    async fn staying_before(
        &self,
        owner: &Owner,
        session: &SessionId,
        mut place: i64,
        gone: &HashSet<ContextId>,
    ) -> Result<Option<Context>, Error> {
        loop {
            let before = self.store.before(owner, session, place, now()).await;
            match self.store_health.note(before)? {
                Some(before) if gone.contains(&before.id) => place = before.sequence,
                before => return Ok(before),
            }
        }
    }

    /// Makes the vectors of contexts, each with the one before it. The versions stay: for the caller nothing has changed.
    pub(super) async fn index_anew(&self, contexts: Vec<(Context, Option<Context>)>) -> Result<(), Error> {
        if contexts.is_empty() {
            return Ok(());
        }
        let texts: Vec<_> =
            contexts.iter().map(|(context, previous)| index_texts(context, previous.as_ref())).collect();
        let owners = contexts.iter().map(|(context, _)| Owner::of(context)).collect();
        let dense = self.dense_or_later(&texts, &owners).await;
        for ((mut context, _), vectors) in contexts.into_iter().zip(with_lexical(&texts, dense)) {
            for _ in 0..ATTEMPTS {
                let written = self.store.update(context.clone(), Some(vectors.clone()), context.version).await;
                match self.store_health.note(written)? {
                    Updated::Applied => {
                        self.immediate.put(&context, &vectors);
                        if vectors.dense_self.is_none() {
                            self.note_lacking([&context]);
                        }
                    }
                    Updated::Conflict { current } if current.text == context.text => {
                        context = *current;
                        continue;
                    }
                    Updated::Conflict { .. } | Updated::Missing => {}
                }
                break;
            }
        }
        Ok(())
    }
}
