//! Reads by id, by selection and by order.

use std::{
    cmp::Reverse,
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use context_manager_memory::{
    Context, ContextId, SessionId, SparseVector, Timestamp, Vectors,
    store::{Clauses, Expiry, Owner, Page, Point, Selection, Sessions, Stats, Tenant, schema},
};
use qdrant_edge::{
    CountRequest, Direction, EdgeShard, Filter, OrderBy, OrderByInterface, Payload, PointId, RetrieveRequest,
    ScrollRequest, StartFrom, VectorInternal, VectorStructInternal, WithPayloadInterface, WithVector,
};

use super::{Shard, lock, open};
use crate::{Error, filter};

/// Contexts of one read, where all may be as long as they may be: at most 8 MiB.
const AT_ONCE: usize = 100;

/// Contexts that have room.
pub(super) struct Within {
    pub(super) contexts: Vec<Arc<Context>>,
    /// Whether none had to be left out.
    pub(super) is_all: bool,
}

/// A point as the engine returns it: id, payload, vectors.
pub(super) type Stored = (ContextId, Option<Payload>, Option<VectorStructInternal>);

impl Shard {
    /// An owner's contexts with these ids that are alive at `now`, in the order of the ids; those that are not are left out.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn get(&self, owner: &Owner, ids: &[ContextId], now: Timestamp) -> Result<Vec<Context>, Error> {
        let records = self.retrieve(ids, WithVector::Bool(false))?;
        let contexts = records.into_iter().filter_map(|(id, payload, _)| self.decode(id, payload));
        Ok(contexts.filter(|context| owner.owns(context) && !context.is_expired(now)).collect())
    }

    /// The contexts with these ids, whoever owns them and expired or not: only for telling whether an id is taken.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn find(&self, ids: &[ContextId]) -> Result<Vec<Context>, Error> {
        let records = self.retrieve(ids, WithVector::Bool(false))?;
        Ok(records.into_iter().filter_map(|(id, payload, _)| self.decode(id, payload)).collect())
    }

    /// Like [`get`](Self::get), with the vectors. Dense ones have unit length.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn get_points(&self, owner: &Owner, ids: &[ContextId], now: Timestamp) -> Result<Vec<Point>, Error> {
        let records = self.retrieve(ids, WithVector::Bool(true))?;
        let points = records.into_iter().filter_map(|(id, payload, stored)| {
            self.decode(id, payload).map(|context| Point { context, vectors: stored.map(vectors).unwrap_or_default() })
        });
        Ok(points.filter(|point| owner.owns(&point.context) && !point.context.is_expired(now)).collect())
    }

    /// A page of the selected contexts in the order of their ids, from the id `from` on, at most `limit` of them.
    ///
    /// # Errors
    /// When the selection cannot be expressed, or when the engine fails.
    pub fn list(&self, selection: &Selection, from: Option<ContextId>, limit: usize) -> Result<Page, Error> {
        self.page(&Clauses::of(selection)?, |context| selection.admits(context), from, limit)
    }

    /// The selected contexts that were stored last, newest first, at most `limit` of them.
    ///
    /// # Errors
    /// When the selection cannot be expressed, or when the engine fails.
    pub fn latest(&self, selection: &Selection, limit: usize) -> Result<Vec<Context>, Error> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let order =
            OrderBy { key: open::path(schema::CREATED_AT)?, direction: Some(Direction::Desc), start_from: None };
        let mut contexts = self.ordered(selection, order, limit, "read the newest contexts")?;
        contexts.retain(|context| selection.admits(context));
        contexts.sort_by_key(|context| Reverse((context.created_at, context.id)));
        Ok(contexts)
    }

    /// A page of a tenant's contexts in the order of their ids, from the id `from` on, at most `limit` of them.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn list_tenant(&self, tenant: &Tenant, from: Option<ContextId>, limit: usize) -> Result<Page, Error> {
        self.page(&Clauses::of_tenant(tenant), |context| tenant.admits(context), from, limit)
    }

    fn page(
        &self,
        clauses: &Clauses,
        admits: impl Fn(&Context) -> bool,
        from: Option<ContextId>,
        limit: usize,
    ) -> Result<Page, Error> {
        let request = ScrollRequest {
            offset: from.map(filter::point_id),
            limit: Some(limit.max(1)),
            filter: Some(filter::of(clauses)?),
            with_payload: Some(WithPayloadInterface::Bool(true)),
            ..ScrollRequest::new()
        };
        let (records, next) = self.engine.scroll(request).map_err(Error::engine("list contexts"))?;
        let contexts = records
            .into_iter()
            .filter_map(|record| self.decode(id(record.id)?, record.payload))
            .filter(admits)
            .collect();
        Ok(Page { contexts, next: next.and_then(id) })
    }

    /// How many contexts are selected.
    ///
    /// # Errors
    /// When the selection cannot be expressed, or when the engine fails.
    pub fn count(&self, selection: &Selection) -> Result<usize, Error> {
        let request = CountRequest { filter: Some(filter::of(&Clauses::of(selection)?)?), exact: true };
        self.engine.count(request).map_err(Error::engine("count contexts"))
    }

    /// How many contexts of these owners, or of all when none are named, are expired at `now` and still there.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn count_expired(&self, owners: Option<&[Owner]>, now: Timestamp) -> Result<usize, Error> {
        let request = CountRequest { filter: Some(filter::of(&Clauses::expired_of(owners, now))?), exact: true };
        self.engine.count(request).map_err(Error::engine("count expired contexts"))
    }

    /// The highest sequence number of a session, or of the contexts without one; expired contexts count, so that a number is
    /// never given twice.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn max_sequence(&self, owner: &Owner, session: Option<&SessionId>) -> Result<Option<i64>, Error> {
        let last = self.of_session(owner, session, Expiry::Any, Direction::Desc, None, 1)?;
        Ok(last.first().map(|context| context.sequence))
    }

    /// The last `limit` contexts of a session, or of those without one, that are alive at `now`; oldest first.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn session_tail(
        &self,
        owner: &Owner,
        session: Option<&SessionId>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Context>, Error> {
        let mut tail = self.of_session(owner, session, Expiry::AliveAt(now), Direction::Desc, None, limit)?;
        tail.reverse();
        Ok(tail)
    }

    /// The last context of a session before the one with the number `sequence`, of those that are alive at `now`.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn before(
        &self,
        owner: &Owner,
        session: &SessionId,
        sequence: i64,
        now: Timestamp,
    ) -> Result<Option<Context>, Error> {
        let Some(from) = sequence.checked_sub(1) else { return Ok(None) };
        let alive = Expiry::AliveAt(now);
        Ok(self.of_session(owner, Some(session), alive, Direction::Desc, Some(from), 1)?.pop())
    }

    /// The first context of a session after the one with the number `sequence`, of those that are alive at `now`.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn after(
        &self,
        owner: &Owner,
        session: &SessionId,
        sequence: i64,
        now: Timestamp,
    ) -> Result<Option<Context>, Error> {
        let Some(from) = sequence.checked_add(1) else { return Ok(None) };
        let alive = Expiry::AliveAt(now);
        Ok(self.of_session(owner, Some(session), alive, Direction::Asc, Some(from), 1)?.pop())
    }

    /// What the store holds.
    ///
    /// # Errors
    /// When the engine or the file system fails.
    pub fn stats(&self) -> Result<Stats, Error> {
        let directory = &self.options.path;
        let (written, flushed) = (self.written.load(Ordering::Acquire), self.flushed.load(Ordering::Acquire));
        Ok(Stats {
            points: open::count(&self.engine)?,
            disk_bytes: Some(open::disk_bytes(directory).map_err(Error::file("measure", directory))?),
            unflushed_writes: written.saturating_sub(flushed),
            unreadable: self.unreadable.load(Ordering::Relaxed),
        })
    }

    /// Contexts of a session in the order of their numbers, from one end or from the number `from` on.
    fn of_session(
        &self,
        owner: &Owner,
        session: Option<&SessionId>,
        expiry: Expiry,
        direction: Direction,
        from: Option<i64>,
        limit: usize,
    ) -> Result<Vec<Context>, Error> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let sessions = session.map_or(Sessions::Without, |session| Sessions::Only(session.clone()));
        let selection = Selection::of_sessions(owner.clone(), sessions, expiry);
        let order = OrderBy {
            key: open::path(schema::SEQUENCE)?,
            direction: Some(direction),
            start_from: from.map(StartFrom::Integer),
        };
        let mut contexts = self.ordered(&selection, order, limit, "read the end of a session")?;
        // The engine leaves the order of equal numbers open.
        contexts.sort_by_key(|context| (context.sequence, context.created_at, context.id));
        if direction == Direction::Desc {
            contexts.reverse();
        }
        Ok(contexts)
    }

    /// At most `limit` of the selected contexts, in an order of a payload field.
    fn ordered(
        &self,
        selection: &Selection,
        order: OrderBy,
        limit: usize,
        action: &'static str,
    ) -> Result<Vec<Context>, Error> {
        let request = ScrollRequest {
            limit: Some(limit),
            filter: Some(filter::of(&Clauses::of(selection)?)?),
            with_payload: Some(WithPayloadInterface::Bool(true)),
            order_by: Some(OrderByInterface::Struct(order)),
            ..ScrollRequest::new()
        };
        let (records, _) = self.engine.scroll(request).map_err(Error::engine(action))?;
        Ok(records.into_iter().filter_map(|record| self.decode(id(record.id)?, record.payload)).collect())
    }

    /// The contexts that a filter finds, at most `limit`.
    pub(super) fn read(&self, filter: &Filter, limit: usize) -> Result<Vec<Context>, Error> {
        let request = ScrollRequest {
            filter: Some(filter.clone()),
            limit: Some(limit),
            with_payload: Some(WithPayloadInterface::Bool(true)),
            ..ScrollRequest::new()
        };
        let (records, _) = self.engine.scroll(request).map_err(Error::engine("read contexts"))?;
        Ok(records.into_iter().filter_map(|record| self.decode(id(record.id)?, record.payload)).collect())
    }

    /// The contexts with these ids, whoever owns them and expired or not, until they have `most_bytes` of texts and metadata together; one at
    /// least. Those that were read lately are not decoded again, and of the others no more are read than it takes.
    pub(super) fn contexts_within(&self, ids: &[ContextId], most_bytes: usize) -> Result<Within, Error> {
        let (mut known, mut missing) = (HashMap::with_capacity(ids.len()), Vec::new());
        let writes = {
            let recent = lock(&self.recent);
            for id in ids {
                match recent.get(id) {
                    Some(context) => {
                        known.insert(*id, context);
                    }
                    None => missing.push(*id),
                }
            }
            recent.writes()
        };
        let (mut contexts, mut bytes, mut unread) = (Vec::with_capacity(ids.len()), 0, missing.as_slice());
        for id in ids {
            if unread.first() == Some(id) {
                let (next, rest) = unread.split_at(unread.len().min(AT_ONCE));
                unread = rest;
                known.extend(self.read_anew(next, writes)?.into_iter().map(|context| (context.id, context)));
            }
            let Some(context) = known.remove(id) else { continue };
            bytes += context.written_bytes();
            if bytes > most_bytes && !contexts.is_empty() {
                return Ok(Within { contexts, is_all: false });
            }
            contexts.push(context);
        }
        Ok(Within { contexts, is_all: true })
    }

    /// The contexts with these ids, which were not read lately when there were `writes` writes.
    fn read_anew(&self, ids: &[ContextId], writes: u64) -> Result<Vec<Arc<Context>>, Error> {
        let records = self.retrieve(ids, WithVector::Bool(false))?;
        let decoded = records.into_iter().filter_map(|(id, payload, _)| self.decode(id, payload).map(Arc::new));
        let decoded: Vec<Arc<Context>> = decoded.collect();
        lock(&self.recent).put(&decoded, writes);
        Ok(decoded)
    }

    /// A context, whoever owns it and expired or not.
    pub(super) fn read_any(&self, id: ContextId) -> Result<Option<Context>, Error> {
        let records = self.retrieve(&[id], WithVector::Bool(false))?;
        Ok(records.into_iter().find_map(|(id, payload, _)| self.decode(id, payload)))
    }

    pub(super) fn retrieve(&self, ids: &[ContextId], with_vector: WithVector) -> Result<Vec<Stored>, Error> {
        retrieve(&self.engine, ids, with_vector)
    }

    /// A payload that is no context must not make the others unreadable, so it is logged, counted and left out.
    pub(super) fn decode(&self, id: ContextId, payload: Option<Payload>) -> Option<Context> {
        let payload = payload.map(|Payload(fields)| fields).unwrap_or_default();
        match schema::context(id, payload) {
            Ok(context) => Some(context),
            Err(error) => {
                self.unreadable.fetch_add(1, Ordering::Relaxed);
                let error: &dyn std::error::Error = &error;
                tracing::error!(context.id = %id, error, "A stored payload is not a context");
                None
            }
        }
    }
}

pub(super) fn retrieve(engine: &EdgeShard, ids: &[ContextId], with_vector: WithVector) -> Result<Vec<Stored>, Error> {
    let request = RetrieveRequest {
        point_ids: ids.iter().copied().map(filter::point_id).collect(),
        with_payload: Some(WithPayloadInterface::Bool(true)),
        with_vector: Some(with_vector),
    };
    let records = engine.retrieve(request).map_err(Error::engine("read contexts"))?;
    Ok(records.into_iter().filter_map(|record| Some((id(record.id)?, record.payload, record.vector))).collect())
}

/// Points with numbers as ids are not ours.
pub(super) fn id(point: PointId) -> Option<ContextId> {
    match point {
        PointId::Uuid(id) => Some(ContextId::new(id)),
        PointId::NumId(_) => None,
    }
}

fn vectors(stored: VectorStructInternal) -> Vectors {
    let mut found = Vectors::default();
    let VectorStructInternal::Named(named) = stored else { return found };
    for (name, vector) in named {
        match (name.as_str(), vector) {
            (schema::DENSE_SELF, VectorInternal::Dense(values)) => found.dense_self = Some(values),
            (schema::DENSE_CTX, VectorInternal::Dense(values)) => found.dense_ctx = Some(values),
            (schema::SPARSE_SELF, VectorInternal::Sparse(vector)) => found.sparse_self = sparse(vector),
            (schema::SPARSE_CTX, VectorInternal::Sparse(vector)) => found.sparse_ctx = sparse(vector),
            (_, VectorInternal::Dense(_) | VectorInternal::Sparse(_) | VectorInternal::MultiDense(_)) => {}
        }
    }
    found
}

pub(super) fn sparse(vector: qdrant_edge::SparseVector) -> SparseVector {
    SparseVector::from_pairs(vector.indices.into_iter().zip(vector.values))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
mod tests {
    use context_manager_memory::{AgentId, Level, TenantId};
    use qdrant_edge::{PayloadOps, SetPayloadOp, UpdateOperation};
    use serde_json::json;

    use super::*;
    use crate::OpenOptions;

    #[test]
    fn payload_that_is_no_context_is_left_out_and_counted() {
        let directory = tempfile::tempdir().unwrap();
        let shard = Shard::open(OpenOptions::new(directory.path(), 4, "model")).unwrap();
        let owner = Owner::new(TenantId::new("t").unwrap(), AgentId::new("a").unwrap());
        let now = Timestamp::from_millis(0);
        let points = [1, 2].map(|number| {
            let id = ContextId::new(uuid::Uuid::from_u128(number));
            let context = Context::new(id, owner.tenant.clone(), owner.holder.clone(), Level::LongTerm, "tea", now);
            Point { context, vectors: Vectors::default() }
        });
        shard.upsert(&points).unwrap();
        let poison = SetPayloadOp {
            payload: Payload(json!({"version": "two"}).as_object().unwrap().clone()),
            points: Some(vec![filter::point_id(points[0].context.id)]),
            filter: None,
            key: None,
        };
        shard.engine.update(UpdateOperation::PayloadOperation(PayloadOps::SetPayload(poison))).unwrap();
        let page = shard.list(&Selection::alive(owner, now), None, 9).unwrap();
        assert_eq!(page.contexts, [points[1].context.clone()]);
        assert_eq!(shard.stats().unwrap().unreadable, 1);
    }
}
