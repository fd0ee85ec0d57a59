//! When a snapshot is due and which are not wanted any more: pure.

use std::{cmp::Reverse, collections::BTreeSet, time::Duration};

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

use super::{catalogue::Record, cluster::LONGEST};
use crate::controller::plan::SnapshotPlan;

/// Pause before what failed is tried again.
const RETRY: Duration = Duration::from_mins(5);
/// How far the clocks of nodes and controller may be from each other.
const CLOCKS: Duration = Duration::from_mins(1);
/// What is so much later than now comes from a clock that ran ahead. It is more than `CLOCKS`, so that a clock that is a little late does
/// not take the newest snapshot for the oldest.
const AHEAD: Duration = Duration::from_mins(5);

/// An attempt that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// When it ended.
    pub(super) at: Timestamp,
    /// The value of the annotation then.
    pub(super) request: Option<String>,
    /// What was the matter.
    pub(super) message: String,
}

/// When the next one is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// It is.
    Now,
    /// At this time.
    At(Timestamp),
    /// When it is asked for.
    Never,
}

/// Whether a time comes from a clock that ran ahead: nobody knows when that was.
pub(super) fn is_ahead(at: Timestamp, now: Timestamp) -> bool {
    at > after(now, AHEAD)
}

/// Orders snapshots by when they were begun, the newest first. What a clock that ran ahead says of one would make it the newest for as long
/// as that clock was wrong, so such a one is the oldest.
pub(super) fn newest_first(record: &Record, now: Timestamp) -> Reverse<(bool, Timestamp)> {
    Reverse((!is_ahead(record.began, now), record.began))
}

/// Those that are whole and at this place, the newest first.
pub(super) fn whole(records: &[Record], place: &str, now: Timestamp) -> Vec<Record> {
    let mut whole: Vec<_> =
        records.iter().filter(|record| record.ended.is_some() && record.place == place).cloned().collect();
    whole.sort_by_key(|record| newest_first(record, now));
    whole
}

/// When the next one is due, after those that are `whole`, the newest first.
pub(super) fn due(plan: &SnapshotPlan, whole: &[Record], failure: Option<&Failure>, now: Timestamp) -> Due {
    let last = whole.first();
    let is_asked = plan.request.is_some() && last.is_none_or(|last| last.request != plan.request);
    let regular = match (plan.every, last) {
        (None, _) => Due::Never,
        (Some(_), None) => Due::Now,
        (Some(every), Some(last)) => not_before(last.began, every, now),
    };
    let due = if is_asked { Due::Now } else { regular };
    match failure {
        // Another request is worth another attempt at once.
        Some(failure) if due == Due::Now && failure.request == plan.request => not_before(failure.at, RETRY, now),
        Some(_) | None => due,
    }
}

/// So long after a time. One that comes from a clock that ran ahead is not waited for.
fn not_before(since: Timestamp, long: Duration, now: Timestamp) -> Due {
    let at = after(since, long);
    if at <= now || is_ahead(since, now) { Due::Now } else { Due::At(at) }
}

/// So long after a time.
pub(super) fn after(at: Timestamp, long: Duration) -> Timestamp {
    at.checked_add(long).unwrap_or(Timestamp::MAX)
}

/// What becomes of a snapshot that is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Superfluous {
    /// Its files are deleted, and then it is forgotten.
    Delete(Record),
    /// It was left unfinished: its files are deleted, and so is what was begun for it and never written down.
    Abandon(Abandoned),
    /// It is forgotten: its files are somewhere else.
    Forget(Record),
}

/// A snapshot that was left unfinished, as by a controller that ended meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Abandoned {
    /// The snapshot, with the files that were written down.
    pub(super) record: Record,
    /// Nothing was begun for this one later: the next one was begun then, or the longest time of the shards that it came to was over.
    pub(super) until: Timestamp,
    /// Whether a file of it can still appear: Qdrant goes on with one that nobody waits for.
    pub(super) is_open: bool,
}

/// All that are not kept once a new one is whole: what is beyond `keep`, what was left unfinished, and what lies at another place.
pub(super) fn superfluous(records: &[Record], place: &str, keep: usize, now: Timestamp) -> Vec<Superfluous> {
    let (here, elsewhere): (Vec<_>, Vec<_>) = records.iter().cloned().partition(|record| record.place == place);
    let unfinished = here.iter().filter(|record| record.ended.is_none()).map(|record| {
        let later = here.iter().map(|other| other.began).filter(|began| *began > record.began);
        let until = later.min().unwrap_or(now).min(longest_end(record));
        Superfluous::Abandon(Abandoned { record: record.clone(), until, is_open: now < after(until, LONGEST) })
    });
    let old = whole(&here, place, now).into_iter().skip(keep).map(Superfluous::Delete);
    unfinished.chain(old).chain(elsewhere.into_iter().map(Superfluous::Forget)).collect()
}

/// Until when something can have been begun for one that was left unfinished: the catalogue may have been brought back first, and then each
/// shard had its time.
fn longest_end(record: &Record) -> Timestamp {
    let shards = u32::try_from(record.files.len()).unwrap_or(u32::MAX);
    after(record.began, LONGEST.saturating_mul(shards.saturating_add(1)))
}

impl Abandoned {
    /// Whether a file of a shard was made for it and not written down: it is called as Qdrant calls what it makes, was begun while this
    /// one was being taken, and nobody knows it. Anything else is somebody's.
    pub(super) fn has_lost(&self, shard: u32, file: &str, known: &BTreeSet<String>) -> bool {
        let Self { record, until, is_open: _ } = self;
        if known.contains(file) || record.files.iter().any(|file| file.shard == shard) {
            return false;
        }
        begun(&record.collection, shard, file)
            .is_some_and(|begun| after(begun, CLOCKS) >= record.began && begun <= after(*until, CLOCKS))
    }
}

/// When a file of a shard was begun, if it is called as Qdrant calls what it makes.
fn begun(collection: &str, shard: u32, file: &str) -> Option<Timestamp> {
    let time = file.strip_prefix(&format!("{collection}-shard-{shard}-"))?.strip_suffix(".snapshot")?;
    let time = DateTime::strptime("%Y-%m-%d-%H-%M-%S", time).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::{super::catalogue::File, *};
    use crate::controller::plan::SnapshotPlace;

    const HOUR: Duration = Duration::from_hours(1);

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(60 * minute).unwrap()
    }

    fn plan(every: Option<Duration>, request: Option<&str>) -> SnapshotPlan {
        let place = SnapshotPlace::GivenClaim("mine".to_owned());
        SnapshotPlan { every, keep: 2, request: request.map(str::to_owned), place }
    }

    fn record(minute: i64, request: Option<&str>) -> Record {
        let ended = Some(at(minute + 1));
        Record { ended, ..Record::begin(at(minute), "here".to_owned(), request.map(str::to_owned), "contexts") }
    }

    #[test]
    fn the_first_is_due_at_once_and_the_next_after_its_time() {
        let hourly = plan(Some(HOUR), None);
        assert_eq!(due(&hourly, &[], None, at(0)), Due::Now);
        let whole = [record(100, None), record(40, None)];
        assert_eq!(due(&hourly, &whole, None, at(159)), Due::At(at(160)));
        assert_eq!(due(&hourly, &whole, None, at(160)), Due::Now);
        assert_eq!(due(&plan(None, None), &[], None, at(0)), Due::Never);
    }

    #[test]
    fn what_a_clock_that_ran_ahead_has_taken_is_the_oldest_and_holds_up_none() {
        let (hourly, by_hand) = (plan(Some(HOUR), None), plan(None, Some("again")));
        let ahead = record(10_000, Some("again"));
        let now = at(110);
        assert_eq!(due(&hourly, std::slice::from_ref(&ahead), None, now), Due::Now);
        let failure = Failure { at: at(10_000), request: None, message: String::new() };
        assert_eq!(due(&hourly, &[], Some(&failure), now), Due::Now);

        let records = [record(40, None), ahead.clone(), record(100, None)];
        let whole = whole(&records, "here", now);
        assert_eq!(whole, [record(100, None), record(40, None), ahead.clone()]);
        assert_eq!(due(&hourly, &whole, None, now), Due::At(at(160)));
        assert_eq!(due(&by_hand, &whole, None, now), Due::Now, "that one may be older than the wish");
        assert_eq!(superfluous(&records, "here", 2, now), [Superfluous::Delete(ahead)], "it is the first to go");

        let late = [record(113, None)];
        assert_eq!(due(&hourly, &late, None, now), Due::At(at(173)), "clocks are never quite the same");
    }

    #[test]
    fn each_new_value_of_the_annotation_asks_for_one() {
        let whole = [record(100, Some("now"))];
        for every in [None, Some(HOUR)] {
            assert_eq!(due(&plan(every, Some("now")), &[], None, at(0)), Due::Now);
            assert_ne!(due(&plan(every, Some("now")), &whole, None, at(101)), Due::Now, "it was taken");
            assert_eq!(due(&plan(every, Some("again")), &whole, None, at(101)), Due::Now);
        }
    }

    #[test]
    fn what_failed_rests_unless_it_is_asked_for_anew() {
        let failure = Failure { at: at(10), request: Some("a".to_owned()), message: String::new() };
        for every in [None, Some(HOUR)] {
            assert_eq!(due(&plan(every, Some("a")), &[], Some(&failure), at(11)), Due::At(at(15)));
            assert_eq!(due(&plan(every, Some("a")), &[], Some(&failure), at(15)), Due::Now);
            assert_eq!(due(&plan(every, Some("b")), &[], Some(&failure), at(11)), Due::Now);
        }
        assert_eq!(due(&plan(None, None), &[], Some(&failure), at(60)), Due::Never);
    }

    #[test]
    fn only_what_the_catalogue_names_at_this_place_is_deleted_and_never_the_newest() {
        let unfinished = Record { ended: None, ..record(50, None) };
        let elsewhere = Record { place: "there".to_owned(), ..record(70, None) };
        let records = [record(10, None), elsewhere.clone(), record(30, None), unfinished.clone(), record(20, None)];
        assert_eq!(
            whole(&records, "here", at(75)).iter().map(|record| record.began).collect::<Vec<_>>(),
            [at(30), at(20), at(10)]
        );
        let left = |is_open| Abandoned { record: unfinished.clone(), until: at(55), is_open };
        let expected = |is_open| {
            let delete = Superfluous::Delete(record(10, None));
            [Superfluous::Abandon(left(is_open)), delete, Superfluous::Forget(elsewhere.clone())]
        };
        assert_eq!(superfluous(&records, "here", 2, at(55)), expected(true));
        assert_eq!(superfluous(&records[..1], "here", 1, at(55)), []);
        // What came next, and the longest time of a shard later.
        let records: Vec<_> = records.into_iter().chain([record(55, None)]).collect();
        let found = |now| superfluous(&records, "here", 4, now).into_iter().next();
        assert_eq!(found(at(174)), Some(Superfluous::Abandon(left(true))));
        assert_eq!(found(at(175)), Some(Superfluous::Abandon(left(false))));
    }

    #[test]
    fn nothing_was_begun_for_what_was_abandoned_after_the_longest_time_of_its_shards() {
        let with = |files: u32| {
            let files = (0..files).map(|shard| File { shard, name: format!("of shard {shard}"), bytes: 1 }).collect();
            Record { ended: None, files, ..record(0, None) }
        };
        let hours = |hours: i64| at(60 * hours);
        for (files, until) in [(0, hours(2)), (2, hours(6)), (20, hours(24))] {
            let records = [with(files), record(24 * 60, None)];
            let found = superfluous(&records, "here", 4, hours(25));
            let [Superfluous::Abandon(left)] = found.as_slice() else { unreachable!("{found:?}") };
            assert_eq!(left.until, until, "{files} files were written down");
            let by_hand = format!("contexts-shard-30-{}.snapshot", hours(23).strftime("%Y-%m-%d-%H-%M-%S"));
            assert_eq!(left.has_lost(30, &by_hand, &BTreeSet::new()), files == 20, "{files} files were written down");
        }
    }

    #[test]
    fn a_file_that_nobody_wrote_down_is_lost_if_it_was_begun_for_what_was_abandoned() {
        let files = vec![File { shard: 0, name: "of shard 0".to_owned(), bytes: 1 }];
        let record = Record { ended: None, files, ..record(50, None) };
        let left = Abandoned { record, until: at(55), is_open: true };
        let file = |shard: u32, minute: i64| {
            let time = at(minute).strftime("%Y-%m-%d-%H-%M-%S");
            format!("contexts-shard-{shard}-{time}.snapshot")
        };
        let known = BTreeSet::from([file(1, 52)]);
        assert!(left.has_lost(1, &file(1, 51), &known) && left.has_lost(2, &file(2, 49), &known));
        for (shard, name, why) in [
            (1, file(1, 52), "another snapshot has it"),
            (0, file(0, 51), "the file of shard 0 was written down"),
            (1, file(1, 48), "it was there before"),
            (1, file(1, 57), "it came later"),
            (1, file(2, 51), "it is another shard's"),
            (1, file(1, 51).replace("contexts", "others"), "it is another collection's"),
            (1, "by-hand.snapshot".to_owned(), "Qdrant does not call files so"),
            (1, format!("{}.part", file(1, 51)), "it is no snapshot"),
        ] {
            assert!(!left.has_lost(shard, &name, &known), "{why}");
        }
    }
}
