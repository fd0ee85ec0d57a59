//! Journaled writes that the store refuses, although it works.
//!
//! A store may refuse one write for what it carries, or every write because it is full by its own limits. The first would stop all
//! that wait behind it for ever; the second ends when somebody changes the limits, and nothing may be given up for it. What tells
//! them apart is another write: what is refused is set aside only when the store takes another one after that.

use std::collections::HashSet;

use context_manager_memory::Context;

use super::{Error, Inner, drain::Brought, now, pending::Change};
use crate::ports::vector_store::{Point, Selection, Updated};

/// Most waiting contexts that are tried to find out whether the store takes any.
const WITNESSES: usize = 3;

/// Contexts that are left over, to be set aside when the others of their write are in the store: each attempt that fails in between finds
/// them again.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// Somebody else has taken their ids.
    conflicts: Vec<Context>,
    /// The store refuses them.
    refused: Vec<Context>,
}

impl Inner {
    /// Brings the contexts of journaled writes up to the number `last` to the store, except those that it refuses while it takes others,
    /// and those whose ids are taken.
    pub(super) async fn drain_acceptable(
        &self,
        contexts: Vec<Context>,
        last: u64,
        left: &mut Left,
    ) -> Result<(), Error> {
        match self.drain_contexts(contexts.clone()).await {
            Ok(brought) => self.note_brought(brought, left).await?,
            Err(refusal) if refusal.is_refusal() && self.takes_another(&contexts, last).await? => {
                self.drain_apart(contexts, left).await?;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn note_brought(&self, brought: Brought, left: &mut Left) -> Result<(), Error> {
        // One that was set aside before may have been stored again since.
        self.set_aside.are_stored(&brought.ids).await?;
        left.conflicts.extend(brought.conflicts);
        Ok(())
    }

    /// Sets contexts aside that are left over.
    pub(super) async fn set_aside_left(&self, Left { conflicts, refused }: Left) -> Result<(), Error> {
        for context in &conflicts {
            self.immediate.remove(context.id);
        }
        self.set_aside.conflicts(conflicts, &self.metrics).await?;
        self.set_aside.refused(refused, &self.metrics).await
    }

    /// Sets a change or a deletion aside that the store has refused, if it takes other writes; otherwise it waits.
    pub(super) async fn set_aside_refused(&self, change: Change, last: u64, refusal: Error) -> Result<(), Error> {
        if !refusal.is_refusal() || !(self.takes_another(&[], last).await? || self.takes_a_rewrite(&change).await?) {
            return Err(refusal);
        }
        self.set_aside.refused_change(change, &self.metrics).await
    }

    /// Halves what is refused until each context is taken or refused alone.
    async fn drain_apart(&self, contexts: Vec<Context>, left: &mut Left) -> Result<(), Error> {
        let mut parts = vec![contexts];
        while let Some(mut part) = parts.pop() {
            match self.drain_contexts(part.clone()).await {
                Ok(brought) => self.note_brought(brought, left).await?,
                Err(refusal) if refusal.is_refusal() => {
                    let later = part.split_off(part.len() / 2);
                    if part.is_empty() {
                        left.refused.extend(later);
                    } else {
                        parts.extend([later, part]);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether the store takes another new context: one of the newest that wait behind the number `last`, or one of those that were refused
    /// together. A context that supersedes others has to come after them, so it is no witness; one whose id is taken says nothing, and is
    /// set aside in its turn.
    async fn takes_another(&self, refused: &[Context], last: u64) -> Result<bool, Error> {
        let mut tried = HashSet::new();
        let among = match refused {
            [] | [_] => Vec::new(),
            [first, .., last] => vec![last.clone(), first.clone(), refused[refused.len() / 2].clone()],
        };
        for _ in 0..WITNESSES {
            let is_witness = |context: &Context| context.supersedes.is_empty() && !tried.contains(&context.id);
            let Some(witness) = self.pending.newest_context(last, is_witness) else { break };
            tried.insert(witness.id);
            match self.is_taken(witness).await? {
                Some(true) => return Ok(true),
                Some(false) => break,
                None => {}
            }
        }
        self.takes_one_of(among).await
    }

    async fn takes_one_of(&self, contexts: Vec<Context>) -> Result<bool, Error> {
        for context in contexts {
            if self.is_taken(context).await? == Some(true) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the store takes this context; `None` if it says nothing about that.
    async fn is_taken(&self, context: Context) -> Result<Option<bool>, Error> {
        match self.drain_contexts(vec![context]).await {
            Ok(brought) => Ok((brought.new > 0).then_some(true)),
            Err(error) if error.is_refusal() => Ok(Some(false)),
            Err(error) => Err(error),
        }
    }

    /// Whether the store takes one of the agent's contexts as it is, other than the one that `refused` is about.
    async fn takes_a_rewrite(&self, refused: &Change) -> Result<bool, Error> {
        let now = now();
        let page = self.store.list(Selection::alive(self.owner.clone(), now), None, 2).await;
        let page = self.store_health.note(page)?;
        let Some(other) = page.contexts.into_iter().find(|context| refused.context() != Some(context.id)) else {
            return Ok(false);
        };
        let found = self.store_health.note(self.store.get(&self.owner, vec![other.id], now).await)?;
        let Some(Point { context, vectors }) = found.into_iter().next() else { return Ok(false) };
        let version = context.version;
        match self.store_health.note(self.store.update(context, Some(vectors), version).await).map_err(Error::from) {
            Ok(updated) => Ok(matches!(updated, Updated::Applied)),
            Err(error) if error.is_refusal() => Ok(false),
            Err(error) => Err(error),
        }
    }
}
