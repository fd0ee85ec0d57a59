//! Snapshots of a managed Qdrant: when the next one is due, what came of the last one, and what is said of them.
//!
//! A snapshot is one file for each shard, made by Qdrant itself, on a volume that no node owns; what belongs together is in a
//! [`catalogue`], which is a collection of the same Qdrant and lies beside the files. They are taken in the background ([`take`]), one of a
//! resource at a time. Nothing is remembered here that is not in the catalogue, but the last failure.

mod catalogue;
mod cluster;
mod restore;
mod restores;
mod runs;
mod schedule;
mod storage;
mod take;
mod tenants;

use std::{sync::Arc, time::Duration};

use context_manager_crds::{ContextManagerStatus, context_manager::status};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use self::{
    catalogue::Record,
    runs::{Known, Outcome},
    schedule::Due,
    take::Job,
};
use super::{
    client::{Client, Silence},
    nodes,
};
use crate::controller::{
    context::Context,
    error::Error,
    plan::{ManagedPlan, Plan, SnapshotPlan},
    status::{Finding, Good, Trouble, seconds},
};
pub(super) use restore::{Job as Restoring, Restored};
pub(in crate::controller) use restores::Restores;
pub(super) use restores::Seen;
pub(in crate::controller) use runs::Runs;
pub(super) use storage::ensure as storage;

/// Pause before a snapshot that is being taken is looked at again.
const PAUSE: Duration = Duration::from_secs(2);
/// Pause before a catalogue that could not be read is read again.
const AGAIN: Duration = Duration::from_secs(15);

/// What is said of snapshots.
pub(super) struct Said {
    pub(super) finding: Finding,
    pub(super) next: Option<Duration>,
    pub(super) status: Option<status::Snapshots>,
}

/// Takes a snapshot if one is due. `held` says why none can be begun now, if that is so.
pub(super) async fn ensure(
    context: &Context,
    plan: &Plan,
    wanted: &ManagedPlan,
    client: &Arc<Client>,
    held: Option<&Trouble>,
    current: Option<&ContextManagerStatus>,
) -> Result<Option<Said>, Error> {
    let uid = &plan.owner.uid;
    let Some(snapshots) = &wanted.snapshots else {
        context.snapshots.forget(uid);
        context.metrics.snapshots.forget(&plan.namespace, &plan.name);
        return Ok(None);
    };
    let before = current.and_then(|current| current.snapshots.clone());
    announce(context, plan, context.snapshots.collect(uid)).await;
    let place = take::place(plan, snapshots);
    let mut known = context.snapshots.known(uid);
    if known.records.is_none() && !known.running {
        match recall(context, plan, client).await? {
            Ok(records) => {
                context.snapshots.recall(uid, records.clone());
                known.records = Some(records);
            }
            Err(why) => {
                let message = format!("it is not known yet which snapshots there are: {why}");
                let finding = Err(Trouble::passing("SnapshotsUnknown", message));
                expect(context, plan, wanted, current);
                return Ok(Some(Said { finding, next: Some(AGAIN), status: before }));
            }
        }
    }
    let now = Timestamp::now();
    let whole = schedule::whole(known.records.as_deref().unwrap_or_default(), &place, now);
    let due = schedule::due(snapshots, &whole, known.failure.as_ref(), now);
    note(context, plan, snapshots, whole.first().map(|last| (last.began, last.bytes())), known.since);
    let waits = match (&due, known.running) {
        (_, true) => Some(Trouble::passing("Taking", "the first snapshot is being taken")),
        (Due::Now, false) => match begin(context, plan, wanted, snapshots, client, held).await? {
            Ok(()) => Some(Trouble::passing("Taking", "the first snapshot is being taken")),
            Err(trouble) => Some(trouble),
        },
        (Due::At(_) | Due::Never, false) => None,
    };
    let next = match (&due, &waits) {
        (_, Some(_)) => Some(PAUSE),
        (Due::At(at), None) => Some(until(*at)),
        (Due::Never | Due::Now, None) => None,
    };
    let status = report(snapshots, &whole, known.failure.as_ref(), before.as_ref(), now);
    let finding = judge(snapshots, &whole, &known, waits);
    Ok(Some(Said { finding, next, status: Some(status) }))
}

/// Brings the metrics to what the status says while no node can be asked, so that what is overdue then is seen as well.
pub(super) fn expect(context: &Context, plan: &Plan, wanted: &ManagedPlan, current: Option<&ContextManagerStatus>) {
    let Some(snapshots) = &wanted.snapshots else { return };
    let last = current.and_then(|current| current.snapshots.as_ref()?.last.as_ref());
    let since = context.snapshots.known(&plan.owner.uid).since;
    let last = last.map(|last| (last.taken_at.0, last.bytes.try_into().unwrap_or_default()));
    note(context, plan, snapshots, last, since);
}

/// Reads which snapshots there are.
async fn recall(context: &Context, plan: &Plan, client: &Client) -> Result<Result<Vec<Record>, String>, Error> {
    let nodes = nodes::fetch(context, plan).await?;
    let Some(node) = nodes.iter().find(|node| node.is_ready) else { return Ok(Err("no node is ready".to_owned())) };
    let read = catalogue::read(client, node).await.map(|found| found.records);
    Ok(read.map_err(|silence| format!("{} {silence}", node.name)))
}

/// Begins a snapshot, or says why not.
async fn begin(
    context: &Context,
    plan: &Plan,
    wanted: &ManagedPlan,
    snapshots: &SnapshotPlan,
    client: &Arc<Client>,
    held: Option<&Trouble>,
) -> Result<Result<(), Trouble>, Error> {
    if plan.suspended {
        let message = "a snapshot is due; none is taken while spec.suspend is true";
        return Ok(Err(Trouble::passing("Suspended", message)));
    }
    if let Some(Trouble { message, .. }) = held {
        return Ok(Err(Trouble::passing("Waiting", format!("a snapshot is due, and taken later: {message}"))));
    }
    let waiting = |message: String| Ok(Err(Trouble::passing("Waiting", format!("a snapshot is due, and {message}"))));
    let nodes = nodes::fetch(context, plan).await?;
    let Some(node) = nodes.iter().find(|node| node.is_ready) else { return waiting("no node is ready".to_owned()) };
    let collection = &wanted.qdrant.store.collection;
    match client.get(node, &format!("/collections/{collection}")).await {
        Ok(_) => {}
        Err(Silence::Missing(_)) => return waiting(format!("the collection {collection} is not made yet")),
        Err(silence) => return waiting(format!("{} {silence}", node.name)),
    }
    let job = Job::new(plan, wanted, snapshots, Arc::clone(client), nodes);
    context.snapshots.begin(&plan.owner.uid, job);
    Ok(Ok(()))
}

/// Says what came of a snapshot that ended.
async fn announce(context: &Context, plan: &Plan, outcome: Option<Outcome>) {
    match outcome {
        Some(Ok(record)) => {
            context.tell(plan, "SnapshotTaken", &format!("Took the snapshot {}", in_words(&record))).await;
        }
        Some(Err(message)) => {
            context.metrics.snapshots.failed(plan);
            context.warn(plan, "SnapshotFailed", &format!("No snapshot was taken: {message}")).await;
        }
        None => {}
    }
}

/// Brings the metrics to what is known of the last one: when it was begun, and its bytes.
fn note(context: &Context, plan: &Plan, snapshots: &SnapshotPlan, last: Option<(Timestamp, u64)>, since: Timestamp) {
    let last_known = last.filter(|(began, _)| !schedule::is_ahead(*began, Timestamp::now()));
    let due = snapshots.every.map(|every| match last_known {
        Some((began, _)) => schedule::after(began, every),
        // The first one is due as soon as there can be one, and so is another one after what a clock that ran ahead has taken.
        None => since,
    });
    context.metrics.snapshots.set(plan, last, due);
}

fn judge(snapshots: &SnapshotPlan, whole: &[Record], known: &Known, waits: Option<Trouble>) -> Finding {
    if let (Some(failure), false) = (&known.failure, known.running) {
        let last =
            whole.first().map_or_else(|| "there is none".to_owned(), |last| format!("the last is {}", last.name));
        let message = format!("{}; {last}, and it is tried again", failure.message);
        return Err(Trouble::passing("SnapshotFailed", message));
    }
    match (whole.first(), waits) {
        // One that is due soon or being taken does not make the last one worse.
        (Some(last), None) => Ok(Good("Taken", in_words(last))),
        (Some(last), Some(trouble)) if trouble.reason == "Taking" => Ok(Good("Taken", in_words(last))),
        (_, Some(trouble)) => Err(trouble),
        (None, None) if snapshots.every.is_none() => {
            let message = "none has been taken; the annotation contextmanager.dev/snapshot asks for one";
            Err(Trouble::passing("NotAskedFor", message))
        }
        (None, None) => Err(Trouble::passing("Waiting", "the first snapshot is due soon")),
    }
}

fn in_words(record: &Record) -> String {
    let Record { name, files, .. } = record;
    format!("{name}: {} files of {} bytes, {} contexts", files.len(), record.bytes(), record.definition.points)
}

fn report(
    snapshots: &SnapshotPlan,
    whole: &[Record],
    failure: Option<&schedule::Failure>,
    before: Option<&status::Snapshots>,
    now: Timestamp,
) -> status::Snapshots {
    let time = |at: Timestamp| Time(seconds(at));
    let last = whole.first();
    let last_known = last.filter(|last| !schedule::is_ahead(last.began, now));
    let failed = failure.map(|failure| {
        let schedule::Failure { at, request: _, message } = failure;
        status::SnapshotFailure { at: time(*at), message: message.clone() }
    });
    // What the last controller saw counts until one went well.
    let is_newer = |said: &status::SnapshotFailure| last_known.is_none_or(|last| last.began < said.at.0);
    let remembered = before.and_then(|before| before.last_failure.clone()).filter(is_newer);
    status::Snapshots {
        last: last.map(|record| status::Snapshot {
            name: record.name.clone(),
            taken_at: time(record.began),
            bytes: record.bytes().try_into().unwrap_or(i64::MAX),
        }),
        kept: whole.iter().map(|record| record.name.clone()).collect(),
        next: snapshots.every.zip(last_known).map(|(every, last)| time(schedule::after(last.began, every))),
        last_failure: failed.or(remembered),
    }
}

fn until(at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::controller::{
        context::tests::context,
        plan::{StoragePlan, tests::resource},
    };

    #[tokio::test]
    async fn what_a_clock_that_ran_ahead_has_taken_puts_nothing_off() {
        let snapshots = json!({"every": "1h", "storage": {"volume": {"claimName": "mine"}}});
        let plan = Plan::of(&resource(&json!({"vectorStore": {"managed": {"snapshots": snapshots}}}))).unwrap();
        let StoragePlan::Managed(wanted) = &plan.storage else { unreachable!("the spec has it") };
        let snapshots = wanted.snapshots.as_ref().unwrap();
        let context = context();
        let (at, now) = (|second: i64| Timestamp::from_second(second).unwrap(), Timestamp::now());
        for (began, seconds) in [(at(5_000), "8600"), (schedule::after(now, Duration::from_hours(9)), "1000")] {
            note(&context, &plan, snapshots, Some((began, 5)), at(1_000));
            let page = context.metrics.render().unwrap();
            let due = page.lines().find(|line| line.starts_with("context_manager_snapshot_due_timestamp_seconds{"));
            assert_eq!(due.and_then(|line| line.rsplit(' ').next()), Some(seconds));
            let record = Record { ended: Some(began), ..Record::begin(began, String::new(), None, "contexts") };
            let status = report(snapshots, &[record], None, None, now);
            assert_eq!(status.next.is_some(), seconds == "8600", "{status:?}");
        }
    }
}
