//! Deleting by id, by session, and what has expired.

use std::time::Instant;

use context_manager_memory::{Context, ContextId, history};
use context_manager_protocol::message::{AckStatus, Acknowledgment, Cleared, ContextDelete};
use tokio::sync::{MutexGuard, RwLockReadGuard};

use super::{
    Error, Inner,
    filter::{self, Wanted},
    locks::Key,
    now,
};
use crate::{
    access::Reach,
    ports::vector_store::{Owner, Selection, Validity},
};

/// Ids of one deletion; a longer session takes several.
const BATCH: usize = 500;
/// Contexts of one read.
const PAGE: usize = 100;

/// A page of a deletion by what contexts are.
struct DeletedPage {
    /// How many of them could be seen.
    seen: usize,
    /// Where the next page begins; `None` after the last one.
    next: Option<ContextId>,
}

impl Inner {
    pub(super) async fn remove(&self, reach: &Reach, id: ContextId) -> Result<Acknowledgment, Error> {
        let _write = self.writes.read().await;
        let _held = self.lock_context(reach.owner(), id).await;
        match self.unless_journaling(self.remove_now(reach, id)).await? {
            Some(context) => Ok(self.acknowledgment(&context, AckStatus::Deleted)),
            None => self.journal_removal(reach, id).await,
        }
    }

    async fn remove_now(&self, reach: &Reach, id: ContextId) -> Result<Context, Error> {
        let context = self.point(reach, id).await?.context;
        self.erase(reach.owner(), std::slice::from_ref(&context)).await?;
        Ok(context)
    }

    /// Locks a context and its session, as far as the sidecar can tell which that is.
    pub(super) async fn lock_context(&self, owner: &Owner, id: ContextId) -> Vec<MutexGuard<'_, ()>> {
        // While writes are journaled, nothing but the context itself is touched.
        let point = if self.pending.is_active() { None } else { self.point_of(owner, id).await.ok() };
        let session = point.and_then(|point| point.context.session);
        self.locks.hold([Some(Key::Context(id)), session.as_ref().map(Key::Session)].into_iter().flatten()).await
    }

    /// Deletes an owner's contexts and what they were from the store and from memory. The caller holds their locks.
    pub(super) async fn erase(&self, owner: &Owner, contexts: &[Context]) -> Result<(), Error> {
        self.follow_removal(owner, contexts).await?;
        self.delete_with_versions(owner, contexts).await?;
        for context in contexts {
            self.immediate.remove(context.id);
            self.sessions.forget(context.session.as_ref()).await;
        }
        Ok(())
    }

    /// Deletes an owner's contexts from the store, with all that they were before.
    pub(super) async fn delete_with_versions(&self, owner: &Owner, contexts: &[Context]) -> Result<(), Error> {
        let of_contexts: Vec<ContextId> = contexts.iter().map(|context| context.id).collect();
        self.bury(owner, &of_contexts, Self::deletion_time(contexts.iter()));
        let deleted = self.delete_points(owner, contexts).await;
        if deleted.as_ref().is_err_and(|error| !error.is_outage()) {
            self.unbury_with_versions(&of_contexts);
        }
        deleted
    }

    async fn delete_points(&self, owner: &Owner, contexts: &[Context]) -> Result<(), Error> {
        let originals = || contexts.iter().filter(|context| context.version_of.is_none());
        for context in originals().filter(|context| context.version > history::MOST_VERSIONS) {
            let everything = Selection::alive(owner.clone(), now()).with_all_that_was();
            self.delete_all(&Selection { version_of: Some(context.id), ..everything }).await?;
        }
        // A change that failed may have kept the version that they have. The contexts go last, so that a deletion that was interrupted can
        // be repeated as a whole.
        let kept = |context: &Context| history::earlier_ids(context.id, context.version.saturating_add(1));
        let earlier = originals().flat_map(kept);
        let ids: Vec<ContextId> = earlier.chain(contexts.iter().map(|context| context.id)).collect();
        for ids in ids.chunks(BATCH) {
            self.store_health.note(self.store.delete(owner, ids.to_vec()).await)?;
        }
        Ok(())
    }

    /// Deletes a session's contexts. The expired ones go too, but nobody could see them, so they are not counted.
    pub(super) async fn clear(&self, reach: &Reach) -> Result<Cleared, Error> {
        let Some(session) = reach.session().cloned() else {
            return Err(Error::field("session", "session is missing; name the session to clear"));
        };
        let wanted = Wanted::within(reach);
        let (deleted, rest) = self.delete_now(&wanted).await?;
        let Some(_write) = rest else { return Ok(Cleared { deleted, journaled: false }) };
        let _held = self.locks.hold([Key::Session(&session)]).await;
        let rest = self.journal_clearing(session.clone(), wanted).await?;
        Ok(Cleared { deleted: deleted + rest.deleted, ..rest })
    }

    /// Deletes the contexts that match. The expired ones go too, but nobody could see them, so they are not counted.
    pub(super) async fn remove_matching(&self, reach: &Reach, message: ContextDelete) -> Result<Cleared, Error> {
        let levels = filter::levels(message.levels.clone(), reach)?;
        let wanted = filter::of_deletion(message.clone(), Wanted { levels, ..Wanted::within(reach) }, None)?;
        self.limits.filter(&wanted.metadata)?;
        if message.dry_run {
            let deleted = self.count(&wanted).await?;
            return Ok(Cleared { deleted, journaled: false });
        }
        let (deleted, rest) = self.delete_now(&wanted).await?;
        let Some(_write) = rest else { return Ok(Cleared { deleted, journaled: false }) };
        let rest = self.journal_deletion(message, wanted).await?;
        Ok(Cleared { deleted: deleted + rest.deleted, ..rest })
    }

    /// Deletes what is wanted from the store, and what was. Says how many of them could be seen; with the guard of a writer, if the rest is to
    /// be journaled.
    ///
    /// It is a write anew with each page: whoever wants to be the only writer, or to change the model, does not wait for its end, and
    /// others not for them.
    async fn delete_now(&self, wanted: &Wanted) -> Result<(usize, Option<RwLockReadGuard<'_, ()>>), Error> {
        let (mut seen, mut from) = (0, None);
        loop {
            let _model = self.models.read().await;
            let write = self.writes.read().await;
            let Some(page) = self.unless_journaling(self.delete_page(wanted, from)).await? else {
                return Ok((seen, Some(write)));
            };
            seen += page.seen;
            if page.next.is_none() {
                return Ok((seen, None));
            }
            from = page.next;
        }
    }

    /// The same for what was journaled, until the page during which it gets to be the time `until`. Says whether nothing of it is left.
    pub(super) async fn delete_until(&self, wanted: &Wanted, until: Option<Instant>) -> Result<bool, Error> {
        let mut from = None;
        loop {
            from = self.delete_page(wanted, from).await?.next;
            if from.is_none() || until.is_some_and(|until| Instant::now() >= until) {
                return Ok(from.is_none());
            }
        }
    }

    /// Deletes a page of what is wanted, from the id `from` on. It is read again under the locks of its contexts, so that no write that runs
    /// beside brings back what was deleted.
    async fn delete_page(&self, wanted: &Wanted, from: Option<ContextId>) -> Result<DeletedPage, Error> {
        let wanted = Wanted { validity: Validity::Any, ..wanted.clone() };
        let selection = wanted.selection(wanted.levels.clone(), now()).with_all_that_was();
        let page = self.store_health.note(self.store.list(selection, from, PAGE).await)?;
        let ids = page.contexts.iter().map(|context| Key::Context(context.id));
        let sessions = page.contexts.iter().filter_map(|context| context.session.as_ref()).map(Key::Session);
        let _held = self.locks.hold(ids.chain(sessions)).await;
        let ids: Vec<ContextId> = page.contexts.iter().map(|context| context.id).collect();
        drop(page.contexts);
        let mut contexts = self.store_health.note(self.store.find(ids).await)?;
        contexts.retain(|context| wanted.matches(context));
        if wanted.is_whole_session() {
            // Nothing that stays follows anything that goes.
            self.delete_with_versions(&wanted.owner, &contexts).await?;
            for context in &contexts {
                self.immediate.remove(context.id);
            }
            self.sessions.forget(wanted.session.as_ref()).await;
        } else {
            self.erase(&wanted.owner, &contexts).await?;
        }
        let now = now();
        let seen = contexts.iter().filter(|context| context.is_current() && !context.is_expired(now)).count();
        Ok(DeletedPage { seen, next: page.next })
    }

    async fn delete_all(&self, selection: &Selection) -> Result<(), Error> {
        loop {
            let batch = self.store_health.note(self.store.delete_selected(selection.clone(), BATCH).await)?;
            if batch < BATCH {
                return Ok(());
            }
        }
    }

    pub(super) async fn garbage(&self) -> Result<usize, Error> {
        let collected = self.collected();
        Ok(self.store_health.note(self.store.count_expired(collected.as_deref(), now()).await)?)
    }

    pub(super) async fn collect(&self, limit: usize) -> Result<usize, Error> {
        let now = now();
        self.immediate.drop_expired(now);
        let collected = self.collected();
        // What lives on by a change that waits is expired only as far as the store knows.
        let spared = self.pending.view().map(|view| view.kept_alive(now)).unwrap_or_default();
        Ok(self.store_health.note(self.store.delete_expired(collected.as_deref(), &spared, now, limit).await)?)
    }

    /// Whose garbage is collected here; everybody's in a store that no other sidecar uses. In a shared one others' clocks and settings say
    /// when theirs is due, and what nobody collects is the operator's sweeper's.
    fn collected(&self) -> Option<Vec<Owner>> {
        let access = self.access.load();
        let collected = || self.looked_after().into_iter().filter(|owner| access.collects(owner)).collect();
        self.store.is_shared().then(collected)
    }
}
