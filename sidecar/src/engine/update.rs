//! Changing a context: metadata are merged, a new text gets new vectors, the version grows.

use context_manager_memory::{
    Context, ContextId, Timestamp, Vectors, history,
    index_text::index_texts,
    update::{self, Change},
};
use context_manager_protocol::message::{AckStatus, Acknowledgment, ContextUpdate};

use super::{Error, Inner, convert, embedding::with_lexical, now};
use crate::{
    access::Reach,
    ports::vector_store::{Owner, Point, Updated},
};

/// Attempts against changes that the sidecar itself makes beside, such as a promotion.
const ATTEMPTS: usize = 5;

impl Inner {
    pub(super) async fn change(
        &self,
        reach: &Reach,
        id: ContextId,
        message: ContextUpdate,
    ) -> Result<Acknowledgment, Error> {
        let ContextUpdate { text, metadata, ttl, if_version, scope: _ } = message;
        if text.is_none() && metadata.is_none() && ttl.is_none() {
            return Err(Error::field("text", "nothing is to be changed; give text, metadata or ttl"));
        }
        if let Some(text) = &text {
            self.limits.text(text)?;
        }
        let ttl = ttl.map(convert::ttl).transpose()?;
        let change = Change { text, metadata, ttl, if_version };
        let _write = self.writes.read().await;
        let _held = self.lock_context(reach.owner(), id).await;
        match self.unless_journaling(self.change_now(reach, id, change.clone())).await? {
            Some(changed) => Ok(self.acknowledgment(&changed, AckStatus::Updated)),
            None => self.journal_change(reach, id, change).await,
        }
    }

    async fn change_now(&self, reach: &Reach, id: ContextId, change: Change) -> Result<Context, Error> {
        let mut current = self.point(reach, id).await?;
        for _ in 0..ATTEMPTS {
            if !current.context.is_current() {
                return Err(Error::Past { id, superseded_by: current.context.superseded_by });
            }
            let changed = update::apply(&current.context, change.clone(), now())?.by(reach.agent());
            self.limits.metadata(&changed.metadata)?;
            let vectors =
                if changed.text == current.context.text { None } else { Some(self.vectors_of(&changed).await?) };
            self.keep_version(&current, changed.updated_at).await?;
            if vectors.is_some() {
                self.follow_change(&changed).await?;
            }
            let written = self.store.update(changed.clone(), vectors.clone(), current.context.version).await;
            match self.store_health.note(written)? {
                Updated::Applied => {
                    self.immediate.put(&changed, &vectors.unwrap_or(current.vectors));
                    self.sessions.forget(changed.session.as_ref()).await;
                    return Ok(changed);
                }
                Updated::Conflict { .. } => current = self.point(reach, id).await?,
                Updated::Missing => {
                    // It went meanwhile, and what it was goes with it.
                    self.delete_with_versions(reach.owner(), &[changed]).await?;
                    return Err(Error::NotFound(id));
                }
            }
        }
        Err(update::VersionConflict { expected: current.context.version, actual: current.context.version + 1 }.into())
    }

    /// Keeps what a context is before it is changed at `at`. If the change then fails, the version is there and not past: readers
    /// of the past look at the current one first.
    pub(super) async fn keep_version(&self, current: &Point, at: Timestamp) -> Result<(), Error> {
        let Some(until) = self.policy.load().history_until(at) else { return Ok(()) };
        let context = history::earlier(&current.context, at, until);
        let kept = Point { context, vectors: current.vectors.clone() };
        let context = kept.context.clone();
        let written = self.store_health.note(self.store.upsert(vec![kept]).await).map_err(Error::from);
        if let Err(error) = &written {
            self.doubt(error, std::iter::once(&context));
        }
        written
    }

    /// Closes the contexts whose place a stored one takes. What is gone or closed already stays as it is.
    ///
    /// The store is asked and not the journal: a write that waits behind this one has not changed anything yet.
    pub(super) async fn close_superseded(&self, by: &Context) -> Result<(), Error> {
        let owner = Owner::of(by);
        for id in by.supersedes.iter().copied() {
            for _ in 0..ATTEMPTS {
                let found = self.store_health.note(self.store.get(&owner, vec![id], now()).await)?;
                let Some(current) = found.into_iter().map(|point| point.context).find(Context::is_current) else {
                    break;
                };
                let at = by.created_at;
                let until = self.policy.load().history_until(at).unwrap_or(at);
                let closed = history::superseded(&current, by.id, at, until);
                self.follow_removal(&owner, std::slice::from_ref(&current)).await?;
                let written = self.store.update(closed, None, current.version).await;
                match self.store_health.note(written)? {
                    Updated::Applied | Updated::Missing => {
                        self.immediate.remove(id);
                        self.sessions.forget(current.session.as_ref()).await;
                        break;
                    }
                    Updated::Conflict { .. } => {}
                }
            }
        }
        Ok(())
    }

    /// The vectors of a stored context as it should be; without the dense ones when the embedding fails.
    pub(super) async fn vectors_of(&self, context: &Context) -> Result<Vectors, Error> {
        let texts = [index_texts(context, self.previous(context).await?.as_ref())];
        let dense = self.dense_or_later(&texts, &[Owner::of(context)].into()).await;
        Ok(with_lexical(&texts, dense).pop().unwrap_or_default())
    }

    /// The context before this one in its session.
    pub(super) async fn previous(&self, context: &Context) -> Result<Option<Context>, Error> {
        let Some(session) = &context.session else { return Ok(None) };
        let before = self.store.before(&Owner::of(context), session, context.sequence, now()).await;
        Ok(self.store_health.note(before)?)
    }
}
