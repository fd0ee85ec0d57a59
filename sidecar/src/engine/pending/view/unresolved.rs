//! Waiting changes that were read from the disk, and whose contexts only the store has: a process before this one took them. Until it is
//! known what they are of, nobody sees what they make of it; so that is looked up before anything is read.

use std::{collections::HashMap, sync::Arc};

use context_manager_memory::{ContextId, index_text::index_texts, lexical::Bm25};

use super::{Update, View};
use crate::engine::pending::queue::{texts_of, vectors_of};
use crate::ports::vector_store::{Owner, Point};

/// Such a change.
#[derive(Clone, Debug)]
pub(super) struct Unresolved {
    number: u64,
    owner: Owner,
    update: Arc<Update>,
}

impl Unresolved {
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    pub(super) const fn owner(&self) -> &Owner {
        &self.owner
    }
}

impl View {
    /// Whether there are any.
    pub(in crate::engine::pending) fn has_unresolved(&self) -> bool {
        !self.unresolved.is_empty()
    }

    /// The contexts of each owner that have to be looked up.
    pub(in crate::engine) fn unresolved(&self) -> HashMap<&Owner, Vec<ContextId>> {
        let mut ids: HashMap<&Owner, Vec<ContextId>> = HashMap::new();
        for (id, changes) in &self.unresolved {
            ids.entry(&changes[0].owner).or_default().push(*id);
        }
        ids
    }

    /// Keeps a change of a context that is not known yet.
    pub(super) fn wait_for(&mut self, number: u64, owner: Owner, update: &Update) {
        if self.is_deleted(&owner, update.id) {
            return;
        }
        let change = Unresolved { number, owner, update: Arc::new(update.clone()) };
        let changes = self.unresolved.entry(update.id).or_default();
        // A context is one owner's.
        if changes.first().is_none_or(|first| first.owner == change.owner) {
            changes.push(change);
        }
    }

    /// Whether the same changes of a context are still to be resolved as in another view.
    pub(in crate::engine::pending) fn has_unresolved_of(&self, id: ContextId, other: &Self) -> bool {
        let numbers = |view: &Self| -> Option<Vec<u64>> {
            Some(view.unresolved.get(&id)?.iter().map(|change| change.number).collect())
        };
        numbers(self).is_some_and(|these| Some(these) == numbers(other))
    }

    /// Makes the changes of a context that the store has, as it will make them; of one that it does not have nothing is left to be seen. Says
    /// what each takes in memory, by the number of its write.
    pub(in crate::engine::pending) fn resolve(&mut self, id: ContextId, stored: Option<Point>) -> Vec<(u64, u64)> {
        let changes = self.unresolved.remove(&id).unwrap_or_default();
        let Some(mut point) = stored.filter(|point| point.context.is_current()) else { return Vec::new() };
        let mut memory = Vec::new();
        for Unresolved { number, owner: _, update } in changes {
            if update.is_made_in(&point.context) || update.is_outdated_by(&point.context) {
                continue;
            }
            let Ok(context) = update.made_of(&point.context) else { continue };
            if context.text != point.context.text {
                point.vectors = index_texts(&context, None).vectors(&Bm25::default(), None);
            }
            point.context = context;
            let points = std::slice::from_ref(&point);
            memory.push((number, vectors_of(points) + texts_of(points)));
            self.put(number, point.clone(), false);
        }
        if let Some((last, _)) = memory.last()
            && let Some((number, _)) =
                self.doomed.iter().find(|(of, wanted)| of > last && wanted.matches(&point.context))
        {
            self.delete(*number, Owner::of(&point.context), id);
        }
        memory
    }
}
