//! Writes. Each waits until the server has applied it, and may be repeated without harm.

use std::collections::{BTreeMap, HashMap};

use context_manager_memory::{
    Context, ContextId, Timestamp, Vectors,
    alike::alike,
    store::{Clause, Clauses, Ids, Owner, Point, Selection, Updated, by_time, schema},
};
use qdrant_client::qdrant::{
    DeletePoints, Filter, PointStruct, PointsSelector, PointsUpdateOperation, SetPayloadPoints, UpdateBatchPoints,
    UpdateMode, UpsertPoints, Value, WriteOrdering, WriteOrderingType,
    points_selector::PointsSelectorOneOf,
    points_update_operation::{Operation, SetPayload},
    value::Kind,
};

use crate::{Collection, Error, convert, filter};

/// Attempts of one update; each time accesses of its context were counted between the look and the write.
const ATTEMPTS: usize = 64;

/// A context as it lies there.
struct Stored {
    context: Context,
    /// Of those who counted its accesses last.
    marks: Option<Value>,
}

impl Collection {
    /// Stores new contexts. One whose id is taken stays as it is, unless it is the same owner's, expired at `now`, and the ids are claimed.
    /// Of several with the same id the last one counts.
    ///
    /// The server judges that when it applies the call. A call may wait long for that, in a connection or in a node that stood still,
    /// after its caller gave up; what was written meanwhile by another way is not taken back then.
    ///
    /// Claimed ids cost more: the server asks the indexes for what is expired, and one replica decides who was first. Of fresh ones it only
    /// looks whether they are there. Either way Qdrant 1.19 lets the call wait until all writes to the shard before it are applied, so
    /// contexts with fresh ids that are stored at the same time share a call.
    ///
    /// # Errors
    /// When a vector has the wrong length or a value that is no number (nothing is stored then), or when the server fails.
    pub async fn insert(&self, points: &[Point], ids: Ids, now: Timestamp) -> Result<(), Error> {
        let rows = self.rows(points)?;
        match ids {
            Ids::Fresh => {
                let insert = |points| {
                    let mode = Some(UpdateMode::InsertOnly.into());
                    self.store(UpsertPoints { update_mode: mode, ..self.upsertion(points) })
                };
                self.together.write(rows, insert).await
            }
            Ids::Claimed => {
                let request = UpsertPoints {
                    update_filter: Some(filter::of(&Clauses::making_way(
                        points.iter().map(|point| &point.context),
                        now,
                    ))),
                    update_mode: Some(UpdateMode::Upsert.into()),
                    ordering: Some(medium()),
                    ..self.upsertion(rows)
                };
                self.store(request).await
            }
        }
    }

    /// Stores contexts; one that is there already is replaced, vectors included. Of several with the same id the last one counts.
    ///
    /// # Errors
    /// When a vector has the wrong length or a value that is no number (nothing is stored then), or when the server fails.
    pub async fn upsert(&self, points: &[Point]) -> Result<(), Error> {
        self.store(self.upsertion(self.rows(points)?)).await
    }

    fn rows(&self, points: &[Point]) -> Result<Vec<PointStruct>, Error> {
        let unique: BTreeMap<ContextId, &Point> = points.iter().map(|point| (point.context.id, point)).collect();
        unique.into_values().map(|point| self.row(point)).collect()
    }

    fn upsertion(&self, points: Vec<PointStruct>) -> UpsertPoints {
        let collection_name = self.options.collection.clone();
        UpsertPoints { collection_name, wait: Some(true), points, ..UpsertPoints::default() }
    }

    async fn store(&self, request: UpsertPoints) -> Result<(), Error> {
        if !request.points.is_empty() {
            self.call("store contexts", self.points.clone().upsert(request)).await?;
        }
        Ok(())
    }

    /// Replaces a context if it still has the version `expected`; with `None` as vectors those it has stay, and so do the counts
    /// of its accesses.
    ///
    /// The server compares and writes in one step, but does not tell whether it wrote; so the context is read before and after. All of it is
    /// written, so if accesses were counted since it was read, it is read and written once more.
    ///
    /// # Errors
    /// When a vector cannot be stored, or when the server fails.
    pub async fn update(&self, context: &Context, vectors: Option<&Vectors>, expected: i64) -> Result<Updated, Error> {
        let owner = Owner::of(context);
        let point = |vectors: &Vectors| Point { context: context.clone(), vectors: vectors.clone() };
        let row = vectors.map(|vectors| self.row(&point(vectors))).transpose()?;
        let Some(mut before) = self.stored(&owner, context.id).await? else { return Ok(Updated::Missing) };
        for _ in 0..ATTEMPTS {
            if before.context.version != expected {
                break;
            }
            let context = context.clone().with_accesses_of(&before.context);
            self.replace(&context, row.as_ref(), &before).await?;
            let Some(after) = self.stored(&owner, context.id).await? else { return Ok(Updated::Missing) };
            let is_there = is_written(&context, &after.context);
            let was_counted = after.context.access_count != before.context.access_count;
            before = after;
            // Accesses that were counted between the two looks, were so before the write or after it. A new version tells; what keeps its
            // version is written once more.
            if is_there && (!was_counted || context.version != expected) {
                return Ok(Updated::Applied);
            }
            if !was_counted {
                break;
            }
        }
        Ok(Updated::Conflict { current: Box::new(before.context) })
    }

    /// Writes a context in the place of what it was, if it still is that.
    async fn replace(&self, context: &Context, row: Option<&PointStruct>, before: &Stored) -> Result<(), Error> {
        let Stored { context: Context { version, access_count, .. }, marks } = before;
        let mut payload: HashMap<String, Value> = convert::payload(context)?;
        payload.extend(marks.clone().map(|marks| (schema::ACCESS_MARKS.to_owned(), marks)));
        let unchanged = filter::of(&Clauses::unchanged(&Owner::of(context), context.id, *version, *access_count));
        if let Some(row) = row {
            let request = UpsertPoints {
                collection_name: self.options.collection.clone(),
                wait: Some(true),
                points: vec![PointStruct { payload, ..row.clone() }],
                ordering: Some(medium()),
                update_filter: Some(unchanged),
                update_mode: Some(UpdateMode::UpdateOnly.into()),
                ..UpsertPoints::default()
            };
            self.call("update a context", self.points.clone().upsert(request)).await?;
        } else {
            let request = SetPayloadPoints {
                collection_name: self.options.collection.clone(),
                wait: Some(true),
                payload,
                points_selector: Some(selector(unchanged)),
                ordering: Some(medium()),
                ..SetPayloadPoints::default()
            };
            self.call("update a context", self.points.clone().overwrite_payload(request)).await?;
        }
        Ok(())
    }

    /// Lets an owner's contexts expire at these times; everything else about them stays. What is not there any more is left out.
    ///
    /// # Errors
    /// When the server fails; some of them may have got theirs then.
    pub async fn set_expiries(&self, owner: &Owner, expiries: &[(ContextId, Timestamp)]) -> Result<(), Error> {
        let set = |(at, ids): (Timestamp, Vec<ContextId>)| {
            let at = Value { kind: Some(Kind::IntegerValue(at.as_millis())) };
            let set = SetPayload {
                payload: [(schema::EXPIRES_AT.to_owned(), at)].into(),
                points_selector: Some(selector(filter::of(&Clauses::owned(owner, &ids)))),
                ..SetPayload::default()
            };
            PointsUpdateOperation { operation: Some(Operation::SetPayload(set)) }
        };
        let operations: Vec<PointsUpdateOperation> = by_time(expiries).into_iter().map(set).collect();
        if operations.is_empty() {
            return Ok(());
        }
        self.update_batch("set when contexts expire", operations).await
    }

    /// Makes several writes by one call, one after the other.
    pub(crate) async fn update_batch(
        &self,
        action: &'static str,
        operations: Vec<PointsUpdateOperation>,
    ) -> Result<(), Error> {
        let request = UpdateBatchPoints {
            collection_name: self.options.collection.clone(),
            wait: Some(true),
            operations,
            ordering: Some(medium()),
            ..UpdateBatchPoints::default()
        };
        self.call(action, self.points.clone().update_batch(request)).await?;
        Ok(())
    }

    /// Deletes an owner's contexts, and says how many there were.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn delete(&self, owner: &Owner, ids: &[ContextId]) -> Result<usize, Error> {
        self.delete_some(Clauses::owned(owner, ids), ids.len()).await
    }

    /// Deletes at most `limit` of the selected contexts, and says how many; fewer than `limit` were all of them.
    ///
    /// # Errors
    /// When the selection cannot be expressed, or when the server fails.
    pub async fn delete_selected(&self, selection: &Selection, limit: usize) -> Result<usize, Error> {
        self.delete_some(self.clauses(selection)?, limit).await
    }

    /// Deletes at most `limit` contexts of these owners, or of all when none are named, that are expired at `now` and not `spared`, and says
    /// how many.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn delete_expired(
        &self,
        owners: Option<&[Owner]>,
        spared: &[ContextId],
        now: Timestamp,
        limit: usize,
    ) -> Result<usize, Error> {
        self.delete_some(Clauses::expired_of(owners, now).but_for(spared), limit).await
    }

    /// Picks at most `limit` points, then deletes those of them that the clauses still find.
    pub(crate) async fn delete_some(&self, clauses: Clauses, limit: usize) -> Result<usize, Error> {
        if limit == 0 {
            return Ok(0);
        }
        let found = self.ids(filter::of(&clauses), limit).await?;
        let count = found.len();
        if count == 0 {
            return Ok(0);
        }
        let mut picked = clauses;
        picked.must.push(Clause::HasId(found));
        let request = DeletePoints {
            collection_name: self.options.collection.clone(),
            wait: Some(true),
            points: Some(selector(filter::of(&picked))),
            ..DeletePoints::default()
        };
        self.call("delete contexts", self.points.clone().delete(request)).await?;
        Ok(count)
    }

    pub(crate) fn row(&self, point: &Point) -> Result<PointStruct, Error> {
        convert::row(point, self.dense(), self.options.model.dimensions)
    }

    /// The owner's context with this id, as it is.
    async fn stored(&self, owner: &Owner, id: ContextId) -> Result<Option<Stored>, Error> {
        let Some(record) = self.retrieve(&[id], false).await?.pop() else { return Ok(None) };
        let marks = record.payload.get(schema::ACCESS_MARKS).cloned();
        let context = convert::context(record.id, record.payload).filter(|context| owner.owns(context));
        Ok(context.map(|context| Stored { context, marks }))
    }
}

/// Whether a context lies there as it was written. Its accesses are counted beside that, and the server gives some numbers back as neighbours
/// of what they were.
fn is_written(context: &Context, stored: &Context) -> bool {
    let written = Context { metadata: stored.metadata.clone(), ..context.clone() };
    alike(&context.metadata, &stored.metadata) && written.with_accesses_of(stored) == *stored
}

pub(crate) fn selector(filter: Filter) -> PointsSelector {
    PointsSelector { points_selector_one_of: Some(PointsSelectorOneOf::Filter(filter)) }
}

/// Comparing and writing needs one replica to decide the order.
pub(crate) fn medium() -> WriteOrdering {
    WriteOrdering { r#type: WriteOrderingType::Medium.into() }
}
