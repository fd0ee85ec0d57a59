//! Reads by id, by selection and by order.

use std::cmp::Reverse;

use context_manager_memory::{
    Context, ContextId, Level, PerLevel, SessionId, Timestamp,
    store::{Clauses, Expiry, Owner, Page, Point, Selection, Sessions, Stats, Tenant, schema},
};
use qdrant_client::qdrant::{
    CountPoints, Direction, Filter, GetPoints, OrderBy, RetrievedPoint, ScrollPoints, StartFrom, start_from,
};

use crate::{Collection, Error, convert, filter};

impl Collection {
    /// The contexts with these ids, whoever owns them and expired or not: only for telling whether an id is taken.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn find(&self, ids: &[ContextId]) -> Result<Vec<Context>, Error> {
        let records = self.retrieve(ids, false).await?;
        Ok(records.into_iter().filter_map(|record| convert::context(record.id, record.payload)).collect())
    }

    /// An owner's contexts with these ids that are alive at `now`, with their vectors. Dense ones have unit length.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn get_points(&self, owner: &Owner, ids: &[ContextId], now: Timestamp) -> Result<Vec<Point>, Error> {
        let records = self.retrieve(ids, true).await?;
        let points = records.into_iter().filter_map(|record| {
            let context = convert::context(record.id, record.payload)?;
            Some(Point { context, vectors: convert::vectors(record.vectors, self.dense()) })
        });
        Ok(points.filter(|point| owner.owns(&point.context) && !point.context.is_expired(now)).collect())
    }

    /// A page of the selected contexts in the order of their ids, from the id `from` on, at most `limit` of them.
    ///
    /// # Errors
    /// When the selection cannot be expressed, or when the server fails.
    pub async fn list(&self, selection: &Selection, from: Option<ContextId>, limit: usize) -> Result<Page, Error> {
        self.page(self.selected(selection)?, |context| selection.admits(context), from, limit).await
    }

    /// The selected contexts that were stored last, newest first, at most `limit` of them.
    ///
    /// # Errors
    /// When the selection cannot be expressed, or when the server fails.
    pub async fn latest(&self, selection: &Selection, limit: usize) -> Result<Vec<Context>, Error> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let direction = Some(Direction::Desc.into());
        let order = OrderBy { key: schema::CREATED_AT.to_owned(), direction, start_from: None };
        let mut contexts = self.ordered(selection, order, limit, "read the newest contexts").await?;
        contexts.sort_by_key(|context| Reverse((context.created_at, context.id)));
        Ok(contexts)
    }

    /// A page of a tenant's contexts in the order of their ids, from the id `from` on, at most `limit` of them.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn list_tenant(&self, tenant: &Tenant, from: Option<ContextId>, limit: usize) -> Result<Page, Error> {
        self.page(filter::of(&Clauses::of_tenant(tenant)), |context| tenant.admits(context), from, limit).await
    }

    async fn page(
        &self,
        filter: Filter,
        admits: impl Fn(&Context) -> bool,
        from: Option<ContextId>,
        limit: usize,
    ) -> Result<Page, Error> {
        let request = ScrollPoints {
            filter: Some(filter),
            offset: from.map(filter::point_id),
            limit: Some(limit_of(limit)),
            with_payload: Some(true.into()),
            ..self.scroll_request()
        };
        let answer = self.call("list contexts", self.points.clone().scroll(request)).await?;
        let contexts = answer.result.into_iter().filter_map(|record| convert::context(record.id, record.payload));
        Ok(Page { contexts: contexts.filter(admits).collect(), next: convert::id(answer.next_page_offset) })
    }

    /// How many contexts are selected.
    ///
    /// # Errors
    /// When the selection cannot be expressed, or when the server fails.
    pub async fn count(&self, selection: &Selection) -> Result<usize, Error> {
        self.count_by(self.selected(selection)?).await
    }

    /// How many contexts of these owners, or of all when none are named, are expired at `now` and still there.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn count_expired(&self, owners: Option<&[Owner]>, now: Timestamp) -> Result<usize, Error> {
        self.count_by(filter::of(&Clauses::expired_of(owners, now))).await
    }

    /// How many of an owner's contexts are alive at `now` on each level.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn counts_by_level(&self, owner: &Owner, now: Timestamp) -> Result<PerLevel<usize>, Error> {
        let count = async |level: Level| {
            self.count(&Selection { levels: Some(vec![level]), ..Selection::alive(owner.clone(), now) }).await
        };
        let (immediate, short_term, long_term) =
            tokio::try_join!(count(Level::Immediate), count(Level::ShortTerm), count(Level::LongTerm))?;
        Ok(PerLevel { immediate, short_term, long_term })
    }

    /// The context of a session with the highest number, whether it is alive or not: a number is never given twice.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn newest(&self, owner: &Owner, session: &SessionId) -> Result<Option<Context>, Error> {
        self.of_session(owner, session, Expiry::Any, Direction::Desc, None).await
    }

    /// The last context of a session that is alive at `now`.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn last(&self, owner: &Owner, session: &SessionId, now: Timestamp) -> Result<Option<Context>, Error> {
        self.of_session(owner, session, Expiry::AliveAt(now), Direction::Desc, None).await
    }

    /// The last context of a session before the one with the number `sequence`, of those that are alive at `now`.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn before(
        &self,
        owner: &Owner,
        session: &SessionId,
        sequence: i64,
        now: Timestamp,
    ) -> Result<Option<Context>, Error> {
        let Some(from) = sequence.checked_sub(1) else { return Ok(None) };
        self.of_session(owner, session, Expiry::AliveAt(now), Direction::Desc, Some(from)).await
    }

    /// The first context of a session after the one with the number `sequence`, of those that are alive at `now`.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn after(
        &self,
        owner: &Owner,
        session: &SessionId,
        sequence: i64,
        now: Timestamp,
    ) -> Result<Option<Context>, Error> {
        let Some(from) = sequence.checked_add(1) else { return Ok(None) };
        self.of_session(owner, session, Expiry::AliveAt(now), Direction::Asc, Some(from)).await
    }

    /// What the collection holds, of all owners.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn stats(&self) -> Result<Stats, Error> {
        let points = self.count_by(Filter::default()).await?;
        Ok(Stats { points, disk_bytes: None, unflushed_writes: 0, unreadable: 0 })
    }

    /// The filter of a selection.
    pub(crate) fn selected(&self, selection: &Selection) -> Result<Filter, Error> {
        Ok(filter::of(&self.clauses(selection)?))
    }

    /// The clauses of a selection. What it says about dense vectors is said about those of the current model.
    pub(crate) fn clauses(&self, selection: &Selection) -> Result<Clauses, Error> {
        Ok(Clauses::of(selection)?.with_dense_named(&self.dense().own))
    }

    pub(crate) async fn count_by(&self, filter: Filter) -> Result<usize, Error> {
        let request = CountPoints {
            collection_name: self.options.collection.clone(),
            filter: Some(filter),
            exact: Some(true),
            ..CountPoints::default()
        };
        let answer = self.call("count contexts", self.points.clone().count(request)).await?;
        Ok(usize::try_from(answer.result.unwrap_or_default().count).unwrap_or(usize::MAX))
    }

    /// The ids of what a filter finds, at most `limit`; nothing else of it is read.
    pub(crate) async fn ids(&self, filter: Filter, limit: usize) -> Result<Vec<ContextId>, Error> {
        let request = ScrollPoints {
            filter: Some(filter),
            limit: Some(limit_of(limit)),
            with_payload: Some(false.into()),
            ..self.scroll_request()
        };
        let answer = self.call("find contexts", self.points.clone().scroll(request)).await?;
        Ok(answer.result.into_iter().filter_map(|record| convert::id(record.id)).collect())
    }

    pub(crate) fn scroll_request(&self) -> ScrollPoints {
        ScrollPoints { collection_name: self.options.collection.clone(), ..ScrollPoints::default() }
    }

    pub(crate) async fn retrieve(&self, ids: &[ContextId], with_vectors: bool) -> Result<Vec<RetrievedPoint>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let request = GetPoints {
            collection_name: self.options.collection.clone(),
            ids: ids.iter().copied().map(filter::point_id).collect(),
            with_payload: Some(true.into()),
            with_vectors: Some(with_vectors.into()),
            ..GetPoints::default()
        };
        Ok(self.call("read contexts", self.points.clone().get(request)).await?.result)
    }

    /// The first context of a session from one end, or from the number `from` on.
    async fn of_session(
        &self,
        owner: &Owner,
        session: &SessionId,
        expiry: Expiry,
        direction: Direction,
        from: Option<i64>,
    ) -> Result<Option<Context>, Error> {
        let selection = Selection::of_sessions(owner.clone(), Sessions::Only(session.clone()), expiry);
        let order = OrderBy {
            key: schema::SEQUENCE.to_owned(),
            direction: Some(direction.into()),
            start_from: from.map(|from| StartFrom { value: Some(start_from::Value::Integer(from)) }),
        };
        Ok(self.ordered(&selection, order, 1, "read the end of a session").await?.pop())
    }

    /// At most `limit` of the selected contexts, in an order of a payload field.
    async fn ordered(
        &self,
        selection: &Selection,
        order: OrderBy,
        limit: usize,
        action: &'static str,
    ) -> Result<Vec<Context>, Error> {
        let request = ScrollPoints {
            filter: Some(self.selected(selection)?),
            limit: Some(limit_of(limit)),
            with_payload: Some(true.into()),
            order_by: Some(order),
            ..self.scroll_request()
        };
        let answer = self.call(action, self.points.clone().scroll(request)).await?;
        let contexts = answer.result.into_iter().filter_map(|record| convert::context(record.id, record.payload));
        Ok(contexts.filter(|context| selection.admits(context)).collect())
    }
}

pub(crate) fn limit_of(limit: usize) -> u32 {
    u32::try_from(limit.max(1)).unwrap_or(u32::MAX)
}
