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
/// Earlier versions of one read.
const VERSIONS_AT_ONCE: usize = 100;

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
        // If it takes effect without an answer and is journaled then, its time tells that it was made.
        let at = now();
        match self.unless_journaling(self.change_now(reach, id, change.clone(), at)).await? {
            Some(changed) => Ok(self.acknowledgment(&changed, AckStatus::Updated)),
            None => self.journal_change(reach, id, change, at).await,
        }
    }

    async fn change_now(&self, reach: &Reach, id: ContextId, change: Change, at: Timestamp) -> Result<Context, Error> {
        let mut current = self.point(reach, id).await?;
        for _ in 0..ATTEMPTS {
            if !current.context.is_current() {
                return Err(Error::Past { id, superseded_by: current.context.superseded_by });
            }
            let changed = update::apply(&current.context, change.clone(), at)?.by(reach.agent());
            self.limits.metadata(&changed.metadata)?;
            let vectors =
                if changed.text == current.context.text { None } else { Some(self.vectors_of(&changed).await?) };
            self.keep_version(&current, &changed).await?;
            if vectors.is_some() {
                self.follow_change(&changed).await?;
            }
            match self.update_with_versions(&current.context, &changed, vectors.clone()).await? {
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

    /// Keeps what a context is before it is changed, as long as what it becomes. If the change then fails, the version is there and not
    /// past: readers of the past look at the current one first.
    pub(super) async fn keep_version(&self, current: &Point, changed: &Context) -> Result<(), Error> {
        let at = changed.updated_at;
        let Some(until) = self.policy.load().history_until(at) else { return Ok(()) };
        let ended = Context { expires_at: changed.expires_at, ..current.context.clone() };
        let context = history::earlier(&ended, at, until);
        let kept = Point { context, vectors: current.vectors.clone() };
        let context = kept.context.clone();
        let written = self.store_health.note(self.store.upsert(vec![kept]).await).map_err(Error::from);
        if let Err(error) = &written {
            self.doubt(error, std::iter::once(&context));
        }
        written
    }

    /// Replaces a context, whose earlier versions then expire with it. They never outlive it, also if this fails in between: they get less
    /// time before it does, and more when it has it.
    pub(super) async fn update_with_versions(
        &self,
        was: &Context,
        is: &Context,
        vectors: Option<Vectors>,
    ) -> Result<Updated, Error> {
        let end = |context: &Context| context.expires_at.map_or(i64::MAX, Timestamp::as_millis);
        if end(is) < end(was) {
            self.expire_versions(was, is).await?;
        }
        let lacks_dense = vectors.as_ref().is_some_and(|vectors| vectors.dense_self.is_none());
        let written = self.store_health.note(self.store.update(is.clone(), vectors, was.version).await)?;
        if lacks_dense && written == Updated::Applied {
            self.note_lacking([is]);
        }
        match &written {
            Updated::Applied if end(is) > end(was) => self.expire_versions(was, is).await?,
            // It was not given less time after all.
            Updated::Conflict { current } if end(is) < end(was) => self.expire_versions(was, current).await?,
            Updated::Applied | Updated::Conflict { .. } | Updated::Missing => {}
        }
        Ok(written)
    }

    /// Lets the earlier versions of what a context was expire with what it is.
    async fn expire_versions(&self, was: &Context, is: &Context) -> Result<(), Error> {
        let owner = Owner::of(is);
        let ids: Vec<ContextId> = history::earlier_ids(was.id, was.version).collect();
        for ids in ids.chunks(VERSIONS_AT_ONCE) {
            let found = self.store_health.note(self.store.find(ids.to_vec()).await)?;
            let (policy, now) = (self.policy.load_full(), now());
            let kept = found
                .iter()
                .filter(|version| owner.owns(version) && version.version_of == Some(is.id) && !version.is_expired(now));
            let moved = kept.filter_map(|version| {
                let keep_until = version.valid_until.and_then(|until| policy.history_until(until));
                let at = history::expires_with(version, is, keep_until)?;
                (version.expires_at != Some(at)).then_some((version.id, at))
            });
            let moved: Vec<(ContextId, Timestamp)> = moved.collect();
            if !moved.is_empty() {
                self.store_health.note(self.store.set_expiries(&owner, moved).await)?;
            }
        }
        Ok(())
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
