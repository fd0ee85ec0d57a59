//! Reading by id, by page, and in figures.

use context_manager_memory::{ContextId, Level, Timestamp, history};
use context_manager_protocol::message::{Context, ContextList, Stats};

use super::{
    Error, Inner, ListQuery, convert,
    filter::{self, Wanted},
    immediate, now,
    pending::View,
};
use crate::{
    metrics::{Degradation, Label as _},
    ports::vector_store::{Page, Point},
};

/// Contexts of a page that names no limit.
const PAGE: i64 = 100;
/// Earlier versions of one read.
const VERSIONS_AT_ONCE: usize = 100;

impl Inner {
    pub(super) async fn context(&self, id: ContextId) -> Result<Context, Error> {
        Ok(convert::message(self.point(id).await?.context))
    }

    /// A context as it was, as far as that was kept.
    pub(super) async fn context_at(&self, id: ContextId, at: Timestamp) -> Result<Context, Error> {
        let current = self.point(id).await?.context;
        if current.is_valid_at(at) {
            return Ok(convert::message(current));
        }
        if at >= current.updated_at {
            // It was superseded by then.
            return Err(Error::NotFound(id));
        }
        let ids: Vec<ContextId> = history::earlier_ids(id, current.version).collect();
        for ids in ids.chunks(VERSIONS_AT_ONCE) {
            let found = self.store_health.note(self.store.get(&self.owner, ids.to_vec(), now()).await)?;
            if let Some(point) = found.into_iter().find(|point| point.context.is_valid_at(at)) {
                return Ok(convert::message(point.context));
            }
        }
        Err(Error::NotFound(id))
    }

    /// A living context with its vectors.
    pub(super) async fn point(&self, id: ContextId) -> Result<Point, Error> {
        let now = now();
        let view = self.pending.view();
        if let Some(view) = &view {
            if let Some(point) = view.get(id) {
                return if point.context.is_expired(now) { Err(Error::NotFound(id)) } else { Ok(point.clone()) };
            }
            if view.is_deleted(id) {
                return Err(Error::NotFound(id));
            }
        }
        let found = match self.store_health.note(self.store.get(&self.owner, vec![id], now).await) {
            Ok(found) => found.into_iter().next(),
            Err(error) => Some(self.immediate.get(id, now).ok_or(error)?),
        };
        let outdated = |point: &Point| view.as_ref().is_some_and(|view| view.replaces(&point.context));
        found.filter(|point| !outdated(point)).ok_or(Error::NotFound(id))
    }

    pub(super) async fn page(&self, query: ListQuery) -> Result<ContextList, Error> {
        let ListQuery { session, level, limit, cursor, as_of } = query;
        let limit = self.limits.results(limit.unwrap_or(PAGE))?;
        let from = cursor
            .map(|cursor| cursor.parse::<ContextId>())
            .transpose()
            .map_err(|_| Error::field("cursor", "cursor is not the value of next of an earlier page; leave it out"))?;
        let levels = level.map_or_else(|| Level::ALL.to_vec(), |level| vec![convert::level(level)]);
        let wanted = Wanted {
            session: session.as_deref().map(convert::session).transpose()?,
            levels,
            validity: filter::validity(as_of),
            ..Wanted::all()
        };
        let (page, degraded) = match self.whole_page(&wanted, from, limit).await {
            Ok(page) => (page, Vec::new()),
            Err(error) if self.pending.is_enabled() && error.is_outage() && as_of.is_none() => {
                let now = now();
                let held = self.immediate.matching(&wanted, now).into_iter().map(|(context, _)| context);
                self.metrics.contexts.degraded.add(Degradation::Store, 1);
                let page = Page { contexts: held.collect(), next: None };
                let page = laid_over(page, self.pending.view().as_deref(), &wanted, from, limit, now);
                (page, vec![Degradation::Store.as_str().to_owned()])
            }
            Err(error) => return Err(error),
        };
        Ok(ContextList {
            contexts: page.contexts.into_iter().map(convert::message).collect(),
            next: page.next.map(|next| next.to_string()),
            degraded,
        })
    }

    /// A page of what the store has and of what waits for it.
    pub(super) async fn whole_page(
        &self,
        wanted: &Wanted,
        from: Option<ContextId>,
        limit: usize,
    ) -> Result<Page, Error> {
        let now = now();
        let view = self.pending.view();
        let selection = wanted.selection(self.owner.clone(), wanted.levels.clone(), now);
        let page = self.store_health.note(self.store.list(selection, from, limit).await)?;
        Ok(laid_over(page, view.as_deref(), wanted, from, limit, now))
    }

    pub(super) async fn figures(&self) -> Result<Stats, Error> {
        let counts = self.store_health.note(self.store.counts_by_level(&self.owner, now()).await)?;
        let stats = self.store_health.note(self.store.stats().await)?;
        let embedding = self.embedding.load();
        Ok(Stats {
            contexts: counts.iter().map(|(level, count)| (convert::level_message(level), *count)).collect(),
            disk_bytes: stats.disk_bytes,
            journaled_writes: self.pending.len(),
            embedding_model: embedding.model().to_owned(),
            dimensions: embedding.dimensions(),
            uptime_seconds: self.metrics.uptime().as_secs(),
        })
    }
}

/// A page of contexts with what waits in the journal laid over it.
fn laid_over(
    mut page: Page,
    view: Option<&View>,
    wanted: &Wanted,
    from: Option<ContextId>,
    limit: usize,
    now: Timestamp,
) -> Page {
    if let Some(view) = view {
        page.contexts.retain(|context| !view.hides(context));
        page.contexts.extend(immediate::waiting(view, wanted, now).into_iter().map(|(context, _)| context));
    }
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
