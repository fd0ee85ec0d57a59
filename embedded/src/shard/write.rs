//! Writes. Each call is one unit: after the end of the process either all of it is there, or nothing.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::atomic::Ordering,
};

use context_manager_memory::{
    Context, ContextId, SparseVector, Timestamp, Vectors,
    store::{Access, Clauses, InvalidCall, Owner, Point, Selection, Updated, by_time, schema},
};
use qdrant_edge::{
    Filter, Payload, PayloadOps, PointInsertOperations, PointOperations, PointStructPersisted, ScrollRequest,
    SetPayloadOp, UpdateOperation, VectorPersisted, VectorStructPersisted, WithPayloadInterface,
};
use serde_json::{Map, Value, json};

use super::{Shard, lock, read};
use crate::{Error, filter, manifest::Newest};

/// Deletions after which compacting is worth its time. The engine itself looks at segments with more than 1,000 deleted points that
/// are a fifth of all; below that it does nothing.
pub(super) const WORTH_COMPACTING: usize = 1_000;

impl Shard {
    /// Stores new contexts. One whose id is taken stays as it is unless it is the same owner's and expired at `now`. Of several with the
    /// same id the last one counts.
    ///
    /// # Errors
    /// When a vector has the wrong length or a value that is no number (nothing is stored then), or when the engine fails.
    pub fn insert(&self, points: &[Point], now: Timestamp) -> Result<(), Error> {
        self.put(points, |ids| {
            let mut there = There::default();
            for found in self.find(ids)? {
                let new = points.iter().rfind(|point| point.context.id == found.id);
                if found.is_expired(now) && new.is_some_and(|new| Owner::of(&new.context).owns(&found)) {
                    there.making_way.push(found.id);
                } else {
                    there.taken.insert(found.id);
                }
            }
            Ok(there)
        })
    }

    /// Stores contexts; one that is there already is replaced, vectors included, so that repeating the call changes nothing. Of
    /// several with the same id the last one counts.
    ///
    /// # Errors
    /// When a vector has the wrong length or a value that is no number (nothing is stored then), or when the engine fails.
    pub fn upsert(&self, points: &[Point]) -> Result<(), Error> {
        self.put(points, |_| Ok(There::default()))
    }

    /// Stores what is not taken, which is asked when no other write can come in between.
    fn put(&self, points: &[Point], there: impl Fn(&[ContextId]) -> Result<There, Error>) -> Result<(), Error> {
        let unique: BTreeMap<ContextId, &Point> = points.iter().map(|point| (point.context.id, point)).collect();
        let mut ids: Vec<ContextId> = unique.keys().copied().collect();
        let mut rows = unique.into_values().map(|point| self.row(point)).collect::<Result<Vec<_>, _>>()?;
        let mut manifest = None;
        let write = loop {
            let mut writes = lock(&self.writes);
            let There { taken, making_way } = there(&ids)?;
            if !making_way.is_empty() && manifest.is_none() {
                // The lock of the manifest comes first. Only here is it waited for: no other new context needs it.
                drop(writes);
                manifest = Some(lock(&self.manifest));
                continue;
            }
            let Some(last) = points.iter().rfind(|point| !taken.contains(&point.context.id)) else { return Ok(()) };
            if let Some(manifest) = &mut manifest {
                self.expect_others(manifest, &making_way)?;
                writes.replaced += making_way.len();
            }
            let mut places = ids.iter().map(|id| !taken.contains(id));
            rows.retain(|_| places.next().unwrap_or(true));
            ids.retain(|id| !taken.contains(id));
            let insert = PointOperations::UpsertPoints(PointInsertOperations::PointsList(rows));
            let write = self.apply(&ids, UpdateOperation::PointOperation(insert), "store contexts")?;
            writes.newest = Some(Newest { id: last.context.id, version: last.context.version });
            break write;
        };
        drop(manifest);
        self.commit(write)
    }

    /// Replaces a context if it still has the version `expected`; with `None` as vectors those it has stay, and so do the counts
    /// of its accesses.
    ///
    /// # Errors
    /// When a vector cannot be stored, or when the engine fails.
    pub fn update(&self, context: &Context, vectors: Option<&Vectors>, expected: i64) -> Result<Updated, Error> {
        let owner = Owner::of(context);
        let point = |vectors: &Vectors| Point { context: context.clone(), vectors: vectors.clone() };
        let row = vectors.map(|vectors| self.row(&point(vectors))).transpose()?;
        let write = {
            // The directory has one process and its writes follow one another, so nothing comes between look and change.
            let mut writes = lock(&self.writes);
            let current = match self.read_any(context.id)?.filter(|current| owner.owns(current)) {
                None => return Ok(Updated::Missing),
                Some(current) if current.version != expected => {
                    return Ok(Updated::Conflict { current: Box::new(current) });
                }
                Some(current) => current,
            };
            let payload = payload(&context.clone().with_accesses_of(&current))?;
            let operation = replacement(context.id, payload, row);
            let write = self.apply(&[context.id], operation, "update a context")?;
            writes.newest = Some(Newest { id: context.id, version: context.version });
            write
        };
        self.commit(write)?;
        Ok(Updated::Applied)
    }

    /// Adds to the access counts of an owner's contexts; the versions stay. What is not there any more is left out.
    ///
    /// # Errors
    /// When the engine fails; some of the counts may be written then.
    pub fn count_accesses(&self, owner: &Owner, accesses: &[Access]) -> Result<(), Error> {
        let ids: Vec<ContextId> = accesses.iter().map(|access| access.id).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let mut last = None;
        {
            let _writes = lock(&self.writes);
            let current = self.read(&filter::of(&Clauses::owned(owner, &ids))?, ids.len())?;
            let mut current: HashMap<ContextId, (i64, Option<Timestamp>)> =
                current.into_iter().map(|context| (context.id, (context.access_count, context.accessed_at))).collect();
            for access in accesses {
                if let Some((count, at)) = current.get_mut(&access.id) {
                    *count = count.saturating_add(access.times.max(0));
                    *at = (*at).max(Some(access.at));
                }
            }
            // One operation for all contexts that end up with the same values.
            let mut groups: BTreeMap<(i64, Option<Timestamp>), Vec<ContextId>> = BTreeMap::new();
            for (id, values) in current {
                groups.entry(values).or_default().push(id);
            }
            for ((count, at), ids) in groups {
                let operation = set_payload(&json!({schema::ACCESS_COUNT: count, schema::ACCESSED_AT: at}), &ids);
                last = Some(self.apply_unindexed(&ids, operation, "count accesses")?);
            }
        }
        last.map_or(Ok(()), |write| self.commit(write))
    }

    /// Lets an owner's contexts expire at these times; everything else about them stays. What is not there any more is left out.
    ///
    /// # Errors
    /// When the engine fails; some of them may have got theirs then.
    pub fn set_expiries(&self, owner: &Owner, expiries: &[(ContextId, Timestamp)]) -> Result<(), Error> {
        let mut last = None;
        {
            let _writes = lock(&self.writes);
            for (at, ids) in by_time(expiries) {
                let there = self.read(&filter::of(&Clauses::owned(owner, &ids))?, ids.len())?;
                let ids: Vec<ContextId> = there.into_iter().map(|context| context.id).collect();
                if !ids.is_empty() {
                    let operation = set_payload(&json!({schema::EXPIRES_AT: at}), &ids);
                    last = Some(self.apply(&ids, operation, "set when contexts expire")?);
                }
            }
        }
        last.map_or(Ok(()), |write| self.commit(write))
    }

    /// Deletes an owner's contexts, and says how many there were.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn delete(&self, owner: &Owner, ids: &[ContextId]) -> Result<usize, Error> {
        if ids.is_empty() {
            return Ok(0);
        }
        self.delete_some(filter::of(&Clauses::owned(owner, ids))?, ids.len())
    }

    /// Deletes at most `limit` of the selected contexts, and says how many; fewer than `limit` were all of them.
    ///
    /// # Errors
    /// When the selection cannot be expressed, or when the engine fails.
    pub fn delete_selected(&self, selection: &Selection, limit: usize) -> Result<usize, Error> {
        self.delete_some(filter::of(&Clauses::of(selection)?)?, limit)
    }

    /// Deletes at most `limit` contexts of these owners, or of all when none are named, that are expired at `now` and not `spared`, and says
    /// how many.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn delete_expired(
        &self,
        owners: Option<&[Owner]>,
        spared: &[ContextId],
        now: Timestamp,
        limit: usize,
    ) -> Result<usize, Error> {
        self.delete_some(filter::of(&Clauses::expired_of(owners, now).but_for(spared))?, limit)
    }

    /// Gives back the space of deleted contexts, if enough were deleted since the last time, or since the store was opened, to be
    /// worth it. Reads and writes go on, but the call takes seconds of processor time on a large store. Says whether it did
    /// anything.
    ///
    /// # Errors
    /// When the engine fails; the next call tries again.
    pub fn compact(&self) -> Result<bool, Error> {
        if !self.is_worth_compacting() {
            return Ok(false);
        }
        let deleted = self.uncompacted.load(Ordering::Acquire);
        let compacted = self.engine.optimize().map_err(Error::engine("compact its files"))?;
        self.uncompacted.fetch_sub(deleted, Ordering::AcqRel);
        Ok(compacted)
    }

    /// Whether [`Self::compact`] would do anything; this costs nothing.
    #[must_use]
    pub fn is_worth_compacting(&self) -> bool {
        self.uncompacted.load(Ordering::Acquire) >= WORTH_COMPACTING
    }

    /// The engine does not tell how much a filter deleted, so the ids are looked up first.
    fn delete_some(&self, filter: Filter, limit: usize) -> Result<usize, Error> {
        let mut manifest = lock(&self.manifest);
        let write = {
            let mut writes = lock(&self.writes);
            let request = ScrollRequest {
                filter: Some(filter),
                limit: Some(limit),
                with_payload: Some(WithPayloadInterface::Bool(false)),
                ..ScrollRequest::new()
            };
            let (records, _) = self.engine.scroll(request).map_err(Error::engine("look for contexts"))?;
            let ids: Vec<ContextId> = records.iter().take(limit).filter_map(|record| read::id(record.id)).collect();
            if ids.is_empty() {
                return Ok(0);
            }
            self.expect_fewer(&mut manifest, &ids)?;
            let delete = PointOperations::DeletePoints { ids: ids.iter().copied().map(filter::point_id).collect() };
            let write = self.apply(&ids, UpdateOperation::PointOperation(delete), "delete contexts")?;
            writes.deleted += ids.len();
            self.uncompacted.fetch_add(ids.len(), Ordering::AcqRel);
            writes.newest = writes.newest.filter(|newest| !ids.contains(&newest.id));
            (write, ids.len())
        };
        drop(manifest);
        self.commit(write.0)?;
        Ok(write.1)
    }

    /// Makes a write that concerns no other contexts than these; the caller holds the lock of the writes.
    fn apply(&self, ids: &[ContextId], operation: UpdateOperation, action: &'static str) -> Result<u64, Error> {
        let written = self.counted(ids, || self.apply_unindexed(ids, operation, action));
        // Also after a failure, which may have changed some of them.
        self.changes.fetch_add(1, Ordering::AcqRel);
        written
    }

    /// The same for a write that neither adds nor removes contexts, and changes no words and no validity.
    pub(super) fn apply_unindexed(
        &self,
        ids: &[ContextId],
        operation: UpdateOperation,
        action: &'static str,
    ) -> Result<u64, Error> {
        let updated = self.engine.update(operation).map_err(Error::engine(action));
        // Also after a failure, which may have changed some of them.
        lock(&self.recent).forget(ids);
        updated?;
        Ok(self.note_write())
    }

    fn row(&self, point: &Point) -> Result<PointStructPersisted, Error> {
        let Point { context, vectors } = point;
        let Vectors { dense_self, dense_ctx, sparse_self, sparse_ctx } = vectors;
        let mut named = HashMap::new();
        for (name, vector) in [(schema::DENSE_SELF, dense_self), (schema::DENSE_CTX, dense_ctx)] {
            if let Some(vector) = vector {
                self.check_dense(Some(context.id), vector)?;
                named.insert(name.to_owned(), VectorPersisted::Dense(vector.clone()));
            }
        }
        for (name, vector) in [(schema::SPARSE_SELF, sparse_self), (schema::SPARSE_CTX, sparse_ctx)] {
            if !vector.is_empty() {
                named.insert(name.to_owned(), VectorPersisted::Sparse(sparse(Some(context.id), vector)?));
            }
        }
        Ok(PointStructPersisted {
            id: filter::point_id(context.id),
            vector: VectorStructPersisted::Named(named),
            payload: Some(payload(context)?),
        })
    }

    pub(super) fn check_dense(&self, id: Option<ContextId>, vector: &[f32]) -> Result<(), Error> {
        Ok(InvalidCall::check_dense(id, vector, self.options.model.dimensions, "store")?)
    }
}

/// What has the ids of new contexts already.
#[derive(Default)]
struct There {
    /// These stay.
    taken: HashSet<ContextId>,
    /// These have expired; the new ones take their place, perhaps with earlier versions.
    making_way: Vec<ContextId>,
}

/// A point with a new payload, and new vectors if there are any.
fn replacement(id: ContextId, payload: Payload, row: Option<PointStructPersisted>) -> UpdateOperation {
    match row {
        Some(row) => {
            let row = PointStructPersisted { payload: Some(payload), ..row };
            UpdateOperation::PointOperation(PointOperations::UpsertPoints(PointInsertOperations::PointsList(vec![row])))
        }
        None => UpdateOperation::PayloadOperation(PayloadOps::OverwritePayload(SetPayloadOp {
            payload,
            points: Some(vec![filter::point_id(id)]),
            filter: None,
            key: None,
        })),
    }
}

/// Sets some fields of points.
fn set_payload(fields: &Value, ids: &[ContextId]) -> UpdateOperation {
    UpdateOperation::PayloadOperation(PayloadOps::SetPayload(SetPayloadOp {
        payload: Payload(fields.as_object().cloned().unwrap_or_else(Map::<String, Value>::new)),
        points: Some(ids.iter().copied().map(filter::point_id).collect()),
        filter: None,
        key: None,
    }))
}

fn payload(context: &Context) -> Result<Payload, Error> {
    Ok(Payload(schema::payload(context)?))
}

pub(super) fn sparse(id: Option<ContextId>, vector: &SparseVector) -> Result<qdrant_edge::SparseVector, Error> {
    InvalidCall::check_sparse(id, vector)?;
    Ok(qdrant_edge::SparseVector { indices: vector.indices().to_vec(), values: vector.values().to_vec() })
}
