//! Deleting by id, by session, and what has expired.

use context_manager_memory::{Context, ContextId, SessionId, history};
use context_manager_protocol::message::{AckStatus, Acknowledgment, Cleared, ContextDelete};

use super::{
    Error, Inner, convert,
    filter::{self, Wanted},
    locks::Key,
    now,
};
use crate::{
    access::Reach,
    ports::vector_store::{Owner, Selection, Validity},
};

/// Contexts of one deletion; a longer session takes several.
const BATCH: usize = 500;

impl Inner {
    pub(super) async fn remove(&self, reach: &Reach, id: ContextId) -> Result<Acknowledgment, Error> {
        let _held = self.locks.hold([Key::Context(id)]).await;
        match self.unless_journaling(self.remove_now(reach, id)).await? {
            Some(context) => Ok(convert::acknowledgment(&context, AckStatus::Deleted)),
            None => self.journal_removal(reach, id).await,
        }
    }

    async fn remove_now(&self, reach: &Reach, id: ContextId) -> Result<Context, Error> {
        let context = self.point(reach, id).await?.context;
        self.delete_with_versions(reach.owner(), id).await?;
        self.immediate.remove(id);
        self.sessions.forget(context.session.as_ref()).await;
        Ok(context)
    }

    /// Deletes a context and what it was before.
    pub(super) async fn delete_with_versions(&self, owner: &Owner, id: ContextId) -> Result<(), Error> {
        let found = self.store_health.note(self.store.find(vec![id]).await)?;
        let version = found.first().map_or(1, |context| context.version);
        // The context goes last, so that a deletion that was interrupted can be repeated as a whole.
        let ids: Vec<ContextId> = history::earlier_ids(id, version).chain([id]).collect();
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
        let _held = self.locks.hold([Key::Session(&session)]).await;
        match self.unless_journaling(self.clear_now(&session, &wanted)).await? {
            Some(deleted) => Ok(Cleared { deleted, journaled: false }),
            None => self.journal_clearing(session, wanted).await,
        }
    }

    async fn clear_now(&self, session: &SessionId, wanted: &Wanted) -> Result<usize, Error> {
        self.sessions.forget(Some(session)).await;
        let alive = wanted.selection(wanted.levels.clone(), now());
        let deleted = self.delete_all(&alive).await?;
        self.delete_all(&alive.with_all_that_was()).await?;
        self.immediate.remove_matching(&Wanted { validity: Validity::Any, ..wanted.clone() });
        self.sessions.forget(Some(session)).await;
        Ok(deleted)
    }

    /// Deletes the contexts that match. The expired ones go too, but nobody could see them, so they are not counted.
    pub(super) async fn remove_matching(&self, reach: &Reach, message: ContextDelete) -> Result<Cleared, Error> {
        let now = now();
        let levels = filter::levels(message.levels.clone(), reach)?;
        let wanted = filter::of_deletion(message.clone(), Wanted { levels, ..Wanted::within(reach) }, now)?;
        if message.dry_run {
            let selection = wanted.selection(wanted.levels.clone(), now);
            let deleted = self.store_health.note(self.store.count(selection).await)?;
            return Ok(Cleared { deleted, journaled: false });
        }
        match self.unless_journaling(self.delete_wanted(&wanted)).await? {
            Some(deleted) => Ok(Cleared { deleted, journaled: false }),
            None => self.journal_deletion(message, wanted, now).await,
        }
    }

    pub(super) async fn delete_wanted(&self, wanted: &Wanted) -> Result<usize, Error> {
        let alive = wanted.selection(wanted.levels.clone(), now());
        let deleted = self.delete_all(&alive).await?;
        self.delete_all(&alive.with_all_that_was()).await?;
        self.immediate.remove_matching(wanted);
        self.sessions.forget_all();
        Ok(deleted)
    }

    pub(super) async fn delete_all(&self, selection: &Selection) -> Result<usize, Error> {
        let mut deleted = 0;
        loop {
            let batch = self.store_health.note(self.store.delete_selected(selection.clone(), BATCH).await)?;
            deleted += batch;
            if batch < BATCH {
                return Ok(deleted);
            }
        }
    }

    pub(super) async fn collect(&self, limit: usize) -> Result<usize, Error> {
        let now = now();
        self.immediate.drop_expired(now);
        Ok(self.store_health.note(self.store.delete_expired(now, limit).await)?)
    }
}
