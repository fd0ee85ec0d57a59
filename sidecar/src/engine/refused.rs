//! Journaled writes that the store refuses, although it works.
//!
//! A store may refuse one write for what it carries, or every write because it is full by its own limits. The first would stop all
//! that wait behind it for ever; the second ends when somebody changes the limits, and nothing may be given up for it. What tells
//! them apart is another write: what is refused is set aside only when the store takes another one after that.

use context_manager_memory::Context;

use super::{Error, Inner, now, pending::Entry};
use crate::ports::vector_store::{Point, Selection, Updated};

impl Inner {
    /// Brings the contexts of journaled writes up to the number `last` to the store, except those that it refuses while it takes others.
    pub(super) async fn drain_acceptable(&self, contexts: Vec<Context>, last: u64) -> Result<(), Error> {
        match self.drain_contexts(contexts.clone()).await {
            Ok(_) => Ok(()),
            Err(refusal) if refusal.is_refusal() && self.takes_another(&contexts, last).await? => {
                self.drain_apart(contexts).await
            }
            Err(error) => Err(error),
        }
    }

    /// Sets a change or a deletion aside that the store has refused, if it takes other writes; otherwise it waits.
    pub(super) async fn set_aside_refused(&self, entry: Entry, last: u64, refusal: Error) -> Result<(), Error> {
        if !refusal.is_refusal() || !(self.takes_another(&[], last).await? || self.takes_a_rewrite(&entry).await?) {
            return Err(refusal);
        }
        self.set_aside.refused_change(entry, &self.metrics).await
    }

    /// Halves what is refused until each context is taken or refused alone.
    async fn drain_apart(&self, contexts: Vec<Context>) -> Result<(), Error> {
        let mut parts = vec![contexts];
        while let Some(mut part) = parts.pop() {
            match self.drain_contexts(part.clone()).await {
                Ok(_) => {}
                Err(refusal) if refusal.is_refusal() => {
                    let later = part.split_off(part.len() / 2);
                    if part.is_empty() {
                        for refused in later {
                            self.set_aside.refused(refused, &self.metrics).await?;
                        }
                    } else {
                        parts.extend([later, part]);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether the store takes another new context: the newest one that waits behind the number `last`, or one of those that were refused
    /// together. A context that supersedes others has to come after them, so it is no witness.
    async fn takes_another(&self, refused: &[Context], last: u64) -> Result<bool, Error> {
        let newest = self.pending.newest_context(last, |context| context.supersedes.is_empty())?;
        let among = match refused {
            [] | [_] => Vec::new(),
            [first, .., last] => vec![last.clone(), first.clone(), refused[refused.len() / 2].clone()],
        };
        for witness in newest.into_iter().chain(among) {
            match self.drain_contexts(vec![witness]).await {
                Ok(written) if written > 0 => return Ok(true),
                Ok(_) => {}
                Err(error) if error.is_refusal() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Whether the store takes one of the agent's contexts as it is, other than the one that `refused` is about.
    async fn takes_a_rewrite(&self, refused: &Entry) -> Result<bool, Error> {
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
