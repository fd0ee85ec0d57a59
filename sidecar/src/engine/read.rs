//! Reading by id, by page, and in figures.

use std::{collections::HashSet, sync::Arc};

use context_manager_memory::{Context, ContextId, Timestamp, history};
use context_manager_protocol::message::{self, ContextList, Stats};
use tracing::debug;

use super::{
    Error, Inner, ListQuery, convert,
    filling::Filling,
    filter::{self, Wanted},
    now,
    pending::View,
};
use crate::{
    access::Reach,
    metrics::{Degradation, Label as _},
    ports::vector_store::{Model, Owner, Page, Point, Validity},
    refusal::chain,
};

/// Contexts of a page that names no limit.
const PAGE: i64 = 100;
/// Earlier versions of one read.
const VERSIONS_AT_ONCE: usize = 100;

impl Inner {
    pub(super) async fn context(&self, reach: &Reach, id: ContextId) -> Result<message::Context, Error> {
        Ok(self.message(self.point(reach, id).await?.context))
    }

    /// A context as it was, as far as that was kept.
    pub(super) async fn context_at(
        &self,
        reach: &Reach,
        id: ContextId,
        at: Timestamp,
    ) -> Result<message::Context, Error> {
        let view = self.pending.view();
        let current = self.point(reach, id).await?.context;
        let policy = self.policy.load_full();
        let keep = |until| policy.history_until(until);
        if at >= current.updated_at {
            // What was superseded by then is not found.
            let valid = Some(current).filter(|current| current.is_valid_at(at));
            let seen = match &view {
                Some(view) => valid.and_then(|current| view.before_its_successor(current, at, &keep)),
                None => valid,
            };
            return seen.map(|context| self.message(context)).ok_or(Error::NotFound(id));
        }
        let mut ids: Vec<ContextId> = history::earlier_ids(id, current.version).collect();
        if let Some(view) = &view {
            if let Some((context, _)) = view.earlier_at(id, at, &keep).filter(|(context, _)| reach.admits(context)) {
                return Ok(self.message(Arc::unwrap_or_clone(context)));
            }
            // What a waiting change makes an earlier version, the store still has under the id itself.
            ids.insert(0, id);
        }
        for ids in ids.chunks(VERSIONS_AT_ONCE) {
            let found = self.store_health.note(self.store.get(reach.owner(), ids.to_vec(), now()).await)?;
            let valid = found.into_iter().map(|point| point.context).filter(|context| context.is_valid_at(at));
            let mut seen = valid.filter_map(|context| match &view {
                Some(view) => view.stored_at(context, at, &keep),
                None => Some(context),
            });
            if let Some(context) = seen.find(|context| reach.admits(context)) {
                return Ok(self.message(context));
            }
        }
        Err(Error::NotFound(id))
    }

    /// Looks up what waiting changes from before the start are of.
    pub(super) async fn resolve(&self) -> Result<(), Error> {
        let Some(view) = self.pending.unresolved() else { return Ok(()) };
        for (owner, ids) in view.unresolved() {
            for ids in ids.chunks(VERSIONS_AT_ONCE) {
                // Some have expired by now, and a change may have given them a longer life.
                let whenever = Timestamp::from_millis(i64::MIN);
                let found = self.store_health.note(self.store.get(owner, ids.to_vec(), whenever).await)?;
                self.pending.resolve(&view, ids, found);
            }
        }
        Ok(())
    }

    /// What is done before contexts are read.
    pub(super) async fn catch_up(&self) {
        self.resolve_if_possible().await;
        self.forget_what_is_lost();
    }

    /// The same if it can be done. If the store is away, it has nothing to be seen.
    pub(super) async fn resolve_if_possible(&self) {
        if let Err(error) = self.resolve().await {
            debug!(error = chain(&error), "What waiting changes are of is not known yet");
        }
    }

    /// A living context with its vectors, as far as the permission reaches.
    pub(super) async fn point(&self, reach: &Reach, id: ContextId) -> Result<Point, Error> {
        seen(reach, self.point_of(reach.owner(), id).await, id)
    }

    /// A living context of an owner with its vectors.
    pub(super) async fn point_of(&self, owner: &Owner, id: ContextId) -> Result<Point, Error> {
        let now = now();
        let view = self.pending.view();
        if let Some(view) = &view {
            if let Some(point) = view.get(id) {
                let visible = owner.owns(&point.context) && !point.context.is_expired(now);
                return if visible { Ok(point.point()) } else { Err(Error::NotFound(id)) };
            }
            if view.is_deleted(owner, id) {
                return Err(Error::NotFound(id));
            }
        }
        let found = match self.store_health.note(self.store.get(owner, vec![id], now).await) {
            Ok(found) => found.into_iter().next(),
            Err(error) => {
                let held = self.immediate.get(id, now).filter(|point| owner.owns(&point.context));
                Some(held.ok_or(error)?)
            }
        };
        let outdated = |point: &Point| view.as_ref().is_some_and(|view| view.replaces(&point.context));
        found.filter(|point| !outdated(point)).ok_or(Error::NotFound(id))
    }

    pub(super) async fn page(&self, reach: &Reach, query: ListQuery) -> Result<ContextList, Error> {
        let ListQuery { level, limit, cursor, as_of } = query;
        let limit = self.limits.results(limit.unwrap_or(PAGE))?;
        let from = cursor
            .map(|cursor| cursor.parse::<ContextId>())
            .transpose()
            .map_err(|_| Error::field("cursor", "cursor is not the value of next of an earlier page; leave it out"))?;
        let levels = match level {
            Some(level) => vec![filter::on_level(reach, "level", convert::level(level))?],
            None => reach.levels(),
        };
        let wanted = Wanted { levels, validity: filter::validity(as_of), ..Wanted::within(reach) };
        let (mut filling, mut is_degraded) = (Filling::new(from, limit), false);
        while let Some((from, limit)) = filling.wants() {
            if is_degraded {
                // The store is not asked again for each part: the call that failed may have waited for all of its time.
                filling.add(self.page_in_memory(&wanted, from, limit));
                continue;
            }
            filling.add(match self.whole_page(&wanted, from, limit).await {
                Err(error) if self.pending.is_enabled() && error.is_outage() && as_of.is_none() => {
                    is_degraded = true;
                    self.page_in_memory(&wanted, from, limit)
                }
                page => page?,
            });
        }
        let page = filling.page();
        let mut degraded = Vec::new();
        if is_degraded {
            self.metrics.contexts.degraded.add(Degradation::Store, 1);
            degraded.push(Degradation::Store.as_str().to_owned());
        }
        Ok(ContextList {
            contexts: page.contexts.into_iter().map(|context| self.message(context)).collect(),
            next: page.next.map(|next| next.to_string()),
            degraded,
        })
    }

    /// A page of what the sidecar has without the store.
    fn page_in_memory(&self, wanted: &Wanted, from: Option<ContextId>, limit: usize) -> Page {
        let (now, view) = (now(), self.pending.view());
        let mut held: Vec<Arc<Context>> =
            self.immediate.matching(wanted, now).into_iter().map(|(context, _)| context).collect();
        held.retain(|context| view.as_ref().is_none_or(|view| !view.hides(context)));
        let contexts = first(held, from, None, limit).into_iter().map(Arc::unwrap_or_clone).collect();
        let page = Page { contexts, next: None };
        laid_over(page, view.as_deref(), |context| wanted.matches(context), from, limit, now)
    }

    /// A page of what the store has and of what waits for it.
    async fn whole_page(&self, wanted: &Wanted, from: Option<ContextId>, limit: usize) -> Result<Page, Error> {
        let now = now();
        let view = self.pending.view();
        let selection = wanted.selection(wanted.levels.clone(), now);
        let mut page = self.store_health.note(self.store.list(selection, from, limit).await)?;
        let Validity::At(at) = wanted.validity else {
            return Ok(laid_over(page, view.as_deref(), |context| wanted.matches(context), from, limit, now));
        };
        self.drop_doubles(&mut page.contexts, wanted, now).await?;
        if let Some(view) = view {
            let policy = self.policy.load();
            let keep = |until| policy.history_until(until);
            let stored = page.contexts.into_iter().filter_map(|context| view.stored_at(context, at, &keep));
            let waiting = view.waiting_at(at, &keep).into_iter().map(|(context, _)| Arc::unwrap_or_clone(context));
            let waiting = waiting.filter(|context| !context.is_expired(now) && wanted.matches(context));
            page.contexts = stored.chain(waiting).collect();
        }
        Ok(cut(page, from, limit))
    }

    /// A version that was kept by a change that then did not happen is there twice. The other one may be on another page.
    async fn drop_doubles(&self, contexts: &mut Vec<Context>, wanted: &Wanted, now: Timestamp) -> Result<(), Error> {
        let originals: Vec<ContextId> = contexts.iter().filter_map(|context| context.version_of).collect();
        if originals.is_empty() {
            return Ok(());
        }
        let mut found = self.store_health.note(self.store.find(originals).await)?;
        found.retain(|context| !context.is_expired(now) && wanted.matches(context));
        let there: HashSet<ContextId> = found.iter().map(|context| context.id).collect();
        contexts.retain(|context| context.version_of.is_none_or(|original| !there.contains(&original)));
        Ok(())
    }

    pub(super) async fn figures(&self, reach: &Reach) -> Result<Stats, Error> {
        let counts = self.counts(reach).await?;
        let stats = self.store_health.note(self.store.stats().await)?;
        let Model { name, dimensions } = self.embedding.load().model();
        Ok(Stats {
            contexts: counts.into_iter().map(|(level, count)| (convert::level_message(level), count)).collect(),
            disk_bytes: stats.disk_bytes,
            journaled_writes: self.pending.len(),
            embedding_model: name,
            dimensions,
            re_embedding: self.re_embedding.figures(),
            uptime_seconds: self.metrics.uptime().as_secs(),
        })
    }
}

/// What may be seen of what was found. Where a permission does not reach everything, it must not tell what is not there from what it
/// does not reach.
pub(super) fn seen(reach: &Reach, found: Result<Point, Error>, id: ContextId) -> Result<Point, Error> {
    match found {
        Ok(point) if reach.admits(&point.context) => {
            if reach.is_out_of_hand(point.context.level) {
                let message = "it is immediate memory, which its own agent alone can change";
                return Err(Error::field("id", message));
            }
            Ok(point)
        }
        Ok(_) | Err(Error::NotFound(_)) if !reach.is_whole() => Err(reach.deny_unseen().into()),
        Ok(_) => Err(Error::NotFound(id)),
        Err(error) => Err(error),
    }
}

/// The first contexts from the id `from` on and before `end`: one more than `limit`, which shows that there are more.
fn first(
    mut contexts: Vec<Arc<Context>>,
    from: Option<ContextId>,
    end: Option<ContextId>,
    limit: usize,
) -> Vec<Arc<Context>> {
    contexts.retain(|context| from.is_none_or(|from| context.id >= from) && end.is_none_or(|end| context.id < end));
    contexts.sort_by_key(|context| context.id);
    contexts.truncate(limit + 1);
    contexts
}

/// A page of contexts with what waits in the journal laid over it.
fn laid_over(
    mut page: Page,
    view: Option<&View>,
    is_wanted: impl Fn(&Context) -> bool,
    from: Option<ContextId>,
    limit: usize,
    now: Timestamp,
) -> Page {
    if let Some(view) = view {
        page.contexts.retain(|context| !view.hides(context));
        let waiting = view.points().map(|point| &point.context);
        let waiting = waiting.filter(|context| !context.is_expired(now) && is_wanted(context)).cloned().collect();
        page.contexts.extend(first(waiting, from, page.next, limit).into_iter().map(Arc::unwrap_or_clone));
    }
    cut(page, from, limit)
}

/// What is of a page, in its order.
fn cut(mut page: Page, from: Option<ContextId>, limit: usize) -> Page {
    page.contexts.retain(|context| from.is_none_or(|from| context.id >= from));
    page.contexts.sort_by_key(|context| context.id);
    // A waiting context beyond the store's page belongs to a later one.
    if let Some(next) = page.next {
        page.contexts.retain(|context| context.id < next);
    }
    if page.contexts.len() > limit {
        page.next = Some(page.contexts[limit].id);
        page.contexts.truncate(limit);
    }
    page
}
