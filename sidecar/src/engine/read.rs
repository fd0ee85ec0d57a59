//! Reading by id, by page, and in figures.

use context_manager_memory::{ContextId, Level};
use context_manager_protocol::message::{Context, ContextList, Stats};

use super::{Error, Inner, ListQuery, convert, filter::Wanted, now};
use crate::ports::vector_store::Point;

/// Contexts of a page that names no limit.
const PAGE: i64 = 100;

impl Inner {
    pub(super) async fn context(&self, id: ContextId) -> Result<Context, Error> {
        Ok(convert::message(self.point(id).await?.context))
    }

    /// A living context with its vectors.
    pub(super) async fn point(&self, id: ContextId) -> Result<Point, Error> {
        let found = self.store_health.note(self.store.get(&self.owner, vec![id], now()).await)?;
        found.into_iter().next().ok_or(Error::NotFound(id))
    }

    pub(super) async fn page(&self, query: ListQuery) -> Result<ContextList, Error> {
        let ListQuery { session, level, limit, cursor } = query;
        let limit = self.limits.results(limit.unwrap_or(PAGE))?;
        let from = cursor
            .map(|cursor| cursor.parse::<ContextId>())
            .transpose()
            .map_err(|_| Error::field("cursor", "cursor is not the value of next of an earlier page; leave it out"))?;
        let levels = level.map_or_else(|| Level::ALL.to_vec(), |level| vec![convert::level(level)]);
        let wanted = Wanted {
            session: session.as_deref().map(convert::session).transpose()?,
            levels: levels.clone(),
            metadata: Vec::new(),
        };
        let selection = wanted.selection(self.owner.clone(), levels, now());
        let page = self.store_health.note(self.store.list(selection, from, limit).await)?;
        Ok(ContextList {
            contexts: page.contexts.into_iter().map(convert::message).collect(),
            next: page.next.map(|next| next.to_string()),
        })
    }

    pub(super) async fn figures(&self) -> Result<Stats, Error> {
        let counts = self.store_health.note(self.store.counts_by_level(&self.owner, now()).await)?;
        let stats = self.store_health.note(self.store.stats().await)?;
        let embedding = self.embedding.load();
        Ok(Stats {
            contexts: counts.iter().map(|(level, count)| (convert::level_message(level), *count)).collect(),
            disk_bytes: stats.disk_bytes,
            embedding_model: embedding.model().to_owned(),
            dimensions: embedding.dimensions(),
            uptime_seconds: self.metrics.uptime().as_secs(),
        })
    }
}
