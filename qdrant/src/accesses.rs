//! Access counts, to which several sidecars add at the same time. The server cannot add, so each reads a count and writes the sum on the
//! condition that nobody else has written in between.
//!
//! The server does not tell whether it wrote. So a writer leaves a mark of its own beside the count, with those of the last writers before
//! it: it has written if its mark is there, whoever wrote after it. Who changes a context keeps the count and the marks, and compares both
//! the version and the count when it writes, so that nothing is lost that was counted since it looked.

use std::collections::{BTreeMap, HashMap};

use context_manager_memory::{
    ContextId, Timestamp,
    store::{Access, Clauses, Owner, schema},
};
use qdrant_client::qdrant::{
    ListValue, PointsUpdateOperation, ScrollPoints, Value,
    points_update_operation::{Operation, SetPayload},
    value::Kind,
};
use tracing::debug;

use crate::{Collection, Error, convert, filter, read::limit_of, write::selector};

/// Attempts of one call; each time somebody else was faster, so it takes as many writers at once to use them up.
const ATTEMPTS: usize = 64;
/// Marks of the last writers that are kept with a count. More writers would have to come between a write and the look at it to hide it.
const MARKS: usize = 16;

/// What is to be added to a count.
struct Sum {
    times: i64,
    at: Timestamp,
}

/// A count as it is stored.
struct Counted {
    count: i64,
    at: Option<i64>,
    marks: Vec<i64>,
}

impl Collection {
    /// Adds to access counts; what is not there any more is left out.
    ///
    /// # Errors
    /// When the server fails; some of the counts may be written then.
    pub async fn count_accesses(&self, owner: &Owner, accesses: &[Access]) -> Result<(), Error> {
        let mut sums = sums(accesses);
        let mark = mark();
        for _ in 0..ATTEMPTS {
            if sums.is_empty() {
                return Ok(());
            }
            let counts = self.access_counts(owner, sums.keys().copied().collect()).await?;
            sums.retain(|id, _| counts.get(id).is_some_and(|counted| !counted.marks.contains(&mark)));
            let add = |(id, sum): (&ContextId, &Sum)| counts.get(id).map(|there| sum.add(owner, *id, there, mark));
            let operations: Vec<PointsUpdateOperation> = sums.iter().filter_map(add).collect();
            if operations.is_empty() {
                return Ok(());
            }
            self.update_batch("count accesses", operations).await?;
        }
        // Whether the last attempt has succeeded is not worth another look.
        debug!(contexts = sums.len(), "Others have counted accesses of these contexts all the time");
        Ok(())
    }

    /// The counts of an owner's contexts.
    async fn access_counts(&self, owner: &Owner, ids: Vec<ContextId>) -> Result<HashMap<ContextId, Counted>, Error> {
        let request = ScrollPoints {
            limit: Some(limit_of(ids.len())),
            filter: Some(filter::of(&Clauses::owned(owner, &ids))),
            with_payload: Some(true.into()),
            ..self.scroll_request()
        };
        let answer = self.call("read access counts", self.points.clone().scroll(request)).await?;
        let records = answer.result.into_iter();
        Ok(records.filter_map(|record| Some((convert::id(record.id)?, Counted::of(&record.payload)))).collect())
    }
}

impl Sum {
    /// Writes the sum of it and a count, if that is still what it was.
    fn add(&self, owner: &Owner, id: ContextId, there: &Counted, mark: i64) -> PointsUpdateOperation {
        let count = there.count.saturating_add(self.times);
        let first = (there.marks.len() + 1).saturating_sub(MARKS);
        let marks = there.marks[first..].iter().copied().chain([mark]);
        let payload = [
            (schema::ACCESS_COUNT, number(count)),
            (schema::ACCESSED_AT, number(there.at.map_or(self.at.as_millis(), |at| at.max(self.at.as_millis())))),
            (schema::ACCESS_MARKS, list(marks.map(number).collect())),
        ];
        let unchanged = Clauses::counted(owner, id, there.count);
        let set = SetPayload {
            payload: payload.map(|(key, value)| (key.to_owned(), value)).into(),
            points_selector: Some(selector(filter::of(&unchanged))),
            ..SetPayload::default()
        };
        PointsUpdateOperation { operation: Some(Operation::SetPayload(set)) }
    }
}

impl Counted {
    fn of(payload: &HashMap<String, Value>) -> Self {
        let number = |key: &str| payload.get(key).and_then(integer);
        let marks = match payload.get(schema::ACCESS_MARKS).and_then(|value| value.kind.as_ref()) {
            Some(Kind::ListValue(ListValue { values })) => values.iter().filter_map(integer).collect(),
            _ => Vec::new(),
        };
        Self { count: number(schema::ACCESS_COUNT).unwrap_or_default(), at: number(schema::ACCESSED_AT), marks }
    }
}

/// What is to be added to each context's count; what adds nothing is left out.
fn sums(accesses: &[Access]) -> BTreeMap<ContextId, Sum> {
    let mut sums: BTreeMap<ContextId, Sum> = BTreeMap::new();
    for Access { id, times, at } in accesses.iter().filter(|access| access.times > 0) {
        let sum = sums.entry(*id).or_insert(Sum { times: 0, at: *at });
        sum.times = sum.times.saturating_add(*times);
        sum.at = sum.at.max(*at);
    }
    sums
}

/// A number that no other call has.
fn mark() -> i64 {
    let (_, low) = uuid::Uuid::new_v4().as_u64_pair();
    low.cast_signed()
}

const fn integer(value: &Value) -> Option<i64> {
    if let Some(Kind::IntegerValue(number)) = value.kind { Some(number) } else { None }
}

const fn number(number: i64) -> Value {
    Value { kind: Some(Kind::IntegerValue(number)) }
}

const fn list(values: Vec<Value>) -> Value {
    Value { kind: Some(Kind::ListValue(ListValue { values })) }
}
