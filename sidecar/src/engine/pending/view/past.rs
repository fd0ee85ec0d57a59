//! What the waiting writes make of the past: a reader of an earlier time sees what it would see after they have reached the store.
//!
//! A change ends what the store still calls current, and begins something; between two waiting changes lies a version that the store
//! has never had. What is deleted has no past.

use std::sync::Arc;

use context_manager_memory::{Context, ContextId, Timestamp, history};

use super::{View, Waits};
use crate::{engine::immediate::Held, ports::vector_store::Owner};

/// Until when it is kept what was so until a time; `None` keeps nothing.
pub(in crate::engine) type Keep<'a> = &'a dyn Fn(Timestamp) -> Option<Timestamp>;

impl View {
    /// A context of the store as it will be for a reader of the time `at`, at which the store says it was so; nothing if it was not, or
    /// will be gone.
    pub(in crate::engine) fn stored_at(&self, context: Context, at: Timestamp, keep: Keep<'_>) -> Option<Context> {
        let id = context.version_of.unwrap_or(context.id);
        let is_doomed = || self.doomed.iter().any(|(_, wanted)| wanted.matches_whenever(&context));
        if self.late.has(&context) || self.is_deleted(&Owner::of(&context), id) || is_doomed() {
            return None;
        }
        if context.version_of.is_some() {
            return Some(context);
        }
        match self.changed_since(id) {
            Some(since) if since <= at => None,
            // It goes on to have its own id until there is another one with it, so that pages of a list stay in their order.
            Some(since) => {
                let earlier = history::earlier(&context, since, keep(since)?);
                Some(Context { id: context.id, version_of: None, ..earlier })
            }
            None => self.before_its_successor(context, at, keep),
        }
    }

    /// The waiting contexts as they were at a time.
    pub(in crate::engine) fn waiting_at(&self, at: Timestamp, keep: Keep<'_>) -> Vec<Held> {
        let is_it = |waits: &&Waits| waits.context.is_valid_at(at);
        let current = self.points.values().filter(is_it).filter_map(|Waits { context, vectors, .. }| {
            let context = if self.superseded.contains_key(&context.id) {
                Arc::new(self.before_its_successor(context.as_ref().clone(), at, keep)?)
            } else {
                Arc::clone(context)
            };
            Some((context, Arc::clone(vectors)))
        });
        let earlier = self.earlier.keys().filter_map(|id| self.earlier_at(*id, at, keep));
        current.chain(earlier).collect()
    }

    /// What a changed context was at a time, after one of the waiting changes and before the next.
    pub(in crate::engine) fn earlier_at(&self, id: ContextId, at: Timestamp, keep: Keep<'_>) -> Option<Held> {
        let mut versions = self.earlier.get(&id)?.iter();
        let (waits, until) = versions.find(|(waits, until)| waits.context.updated_at <= at && at < *until)?;
        let context = history::earlier(&waits.context, *until, keep(*until)?);
        if self.doomed.iter().any(|(_, wanted)| wanted.matches_whenever(&context)) {
            return None;
        }
        Some((Arc::new(context), Arc::clone(&waits.vectors)))
    }

    /// What a changed context was when it was stored, if that waits as well.
    pub(in crate::engine) fn as_stored(&self, changed: &Context) -> Option<&Context> {
        let mut earlier = self.earlier.get(&changed.id)?.iter().map(|(waits, _)| waits.context.as_ref());
        // Its id may have had another context before, which has expired.
        earlier.find(|context| context.created_at == changed.created_at && context.updated_at == context.created_at)
    }

    /// A context that another one may have superseded, if it had not by then.
    pub(in crate::engine) fn before_its_successor(
        &self,
        context: Context,
        at: Timestamp,
        keep: Keep<'_>,
    ) -> Option<Context> {
        match self.superseded.get(&context.id) {
            None => Some(context),
            Some((_, _, since)) if *since <= at => None,
            Some((_, by, since)) => Some(history::superseded(&context, *by, *since, keep(*since)?)),
        }
    }
}
