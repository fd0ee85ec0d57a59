//! How rare a term is in what is stored and what waits in the journal together, so that it weighs the same before a context reaches
//! the store and after. What a session adds to a score may still change: the numbers of waiting contexts are provisional.

use std::collections::{BTreeSet, HashMap};

use context_manager_memory::{
    ContextId, QueryVectors, SparseVector, Timestamp, Vectors, frequencies::DocumentFrequencies,
};

use super::{Inner, filter::Wanted, pending::View};
use crate::ports::vector_store::{Error, Expiry, Owner, Point, Selection, Validity};

/// Contexts of one read of the store.
const PAGE: usize = 100;
/// Most contexts of the store that a search looks at because waiting writes change or delete them.
const MOST_OUTDATED: usize = 256;
/// Most waiting deletions of what is not named one by one whose contexts anybody looks at: to count them takes a call for each.
const MOST_DOOMED: usize = 16;

impl Inner {
    /// The document frequencies of each memory that is searched, as they are when all that waits has reached the store; but if more than a
    /// few hundred stored contexts are to be changed or deleted, or many deletions wait, those count until they are. Nothing for a query without
    /// words.
    pub(super) async fn frequencies(
        &self,
        query: &QueryVectors,
        searched: &[&Wanted],
        view: &View,
        now: Timestamp,
    ) -> Result<HashMap<Owner, DocumentFrequencies>, Error> {
        let mut frequencies = HashMap::new();
        let Some(terms) = query.sparse.as_ref().filter(|terms| !terms.is_empty()) else { return Ok(frequencies) };
        for wanted in searched {
            if !frequencies.contains_key(&wanted.owner) {
                let of_owner = self.with_waiting(&wanted.owner, terms, view, now).await?;
                frequencies.insert(wanted.owner.clone(), of_owner);
            }
        }
        Ok(frequencies)
    }

    async fn with_waiting(
        &self,
        owner: &Owner,
        terms: &SparseVector,
        view: &View,
        now: Timestamp,
    ) -> Result<DocumentFrequencies, Error> {
        let mut counts = self.store.document_frequencies(owner, terms.clone()).await?;
        if self.few_are_outdated(owner, view, now, MOST_OUTDATED).await? {
            let vectors = self.outdated_vectors(owner, view, now).await?;
            for Vectors { dense_self: _, dense_ctx: _, sparse_self, sparse_ctx } in vectors {
                counts.take_away(&sparse_self, &sparse_ctx);
            }
        }
        let waiting = view.points().filter(|point| owner.owns(&point.context));
        let current = waiting.filter(|point| point.context.is_current()).map(|point| point.vectors.as_ref());
        counts.extend(&DocumentFrequencies::of(terms, current));
        Ok(counts)
    }

    /// Whether at most so many contexts are outdated that one can look at them.
    pub(super) async fn few_are_outdated(
        &self,
        owner: &Owner,
        view: &View,
        now: Timestamp,
        most: usize,
    ) -> Result<bool, Error> {
        if view.doomed(owner).nth(MOST_DOOMED).is_some() {
            return Ok(false);
        }
        let mut outdated = view.concerned(owner).len();
        for doomed in view.doomed(owner) {
            if outdated > most {
                break;
            }
            outdated += self.store.count(counted(doomed, now)).await?;
        }
        Ok(outdated <= most)
    }

    /// The vectors of what the store counts and will not count any more.
    async fn outdated_vectors(&self, owner: &Owner, view: &View, now: Timestamp) -> Result<Vec<Vectors>, Error> {
        let ids: Vec<ContextId> = self.outdated(owner, view, now).await?.into_iter().collect();
        let mut vectors = Vec::new();
        for ids in ids.chunks(PAGE) {
            let stored = self.store.get(owner, ids.to_vec(), now).await?.into_iter();
            let current = stored.filter(|point| point.context.is_current());
            vectors.extend(current.map(|Point { context: _, vectors }| vectors));
        }
        Ok(vectors)
    }

    /// What the store may have of an owner and will not have any more, or otherwise, once all that waits has reached it.
    pub(super) async fn outdated(
        &self,
        owner: &Owner,
        view: &View,
        now: Timestamp,
    ) -> Result<BTreeSet<ContextId>, Error> {
        let mut ids = view.concerned(owner);
        for doomed in view.doomed(owner) {
            let selection = counted(doomed, now);
            let mut from = None;
            loop {
                let page = self.store.list(selection.clone(), from, PAGE).await?;
                ids.extend(page.contexts.iter().map(|context| context.id));
                match page.next {
                    Some(next) => from = Some(next),
                    None => break,
                }
            }
        }
        Ok(ids)
    }
}

/// What the store counts of what is to be deleted.
fn counted(doomed: &Wanted, now: Timestamp) -> Selection {
    Selection { expiry: Expiry::Any, validity: Validity::Current, ..doomed.selection(doomed.levels.clone(), now) }
}
