//! Storing, reading, changing, counting and deleting.

use context_manager_embedded::Error;
use context_manager_memory::store::{Access, Expiry, InvalidCall, Owner, Point, Selection, Updated};
use context_manager_memory::{Context, Level, SessionId, Timestamp, Ttl, Vectors};
use serde_json::json;

use crate::fixture::{NOW, context, context_of, id, in_session, lexical_point, me, numbers, owner, point, put, store};

#[test]
fn stored_context_is_read_back_with_every_field() {
    let (_directory, shard) = store();
    let mut full = in_session(1, "thread 1", 7);
    full.actor = "Ann Lee".parse().ok();
    full.level = Level::ShortTerm;
    full.occurred_at = Some(Timestamp::from_millis(-5));
    full.expires_at = Some(Timestamp::from_millis(i64::MAX));
    full.ttl = Ttl::try_from(60_000).ok();
    full.access_count = 3;
    full.accessed_at = Some(NOW);
    full.metadata = json!({"level": "shadow", "text": 1, "a.b": {"c": [1.5, null, "ü"]}, "big": i64::MAX})
        .as_object()
        .cloned()
        .unwrap_or_default();
    put(&shard, [full.clone()]);
    assert_eq!(shard.get(&me(), &[full.id], NOW).expect("read"), [full]);
}

#[test]
fn vectors_are_read_back_and_dense_ones_have_unit_length() {
    let (_directory, shard) = store();
    let mut stored = point(context(1, "green tea"));
    stored.vectors.dense_self = stored.vectors.dense_self.map(|vector| vector.iter().map(|v| v * 3.0).collect());
    shard.upsert(&[stored.clone(), lexical_point(context(2, "black tea"))]).expect("stored");
    let read = shard.get_points(&me(), &[id(1), id(2)], NOW).expect("read");
    assert_eq!(read[0].vectors.sparse_self, stored.vectors.sparse_self);
    let length: f32 = read[0].vectors.dense_self.iter().flatten().map(|v| v * v).sum();
    assert!((length - 1.0).abs() < 1e-4, "{length}");
    assert_eq!((&read[1].vectors.dense_self, &read[1].vectors.dense_ctx), (&None, &None));
    assert!(!read[1].vectors.sparse_ctx.is_empty());
}

#[test]
fn storing_the_same_context_again_changes_nothing() {
    let (_directory, shard) = store();
    let points: Vec<Point> = (0..20).map(|number| point(context(number, &format!("text {number}")))).collect();
    shard.upsert(&points).expect("stored");
    let before = shard.get_points(&me(), &[id(3)], NOW).expect("read");
    shard.upsert(&points).expect("stored again");
    assert_eq!(shard.get_points(&me(), &[id(3)], NOW).expect("read"), before);
    assert_eq!(shard.count(&Selection::alive(me(), NOW)).expect("count"), 20);
}

#[test]
fn storing_replaces_text_and_vectors_and_of_a_batch_the_last_one_counts() {
    let (_directory, shard) = store();
    put(&shard, [context(1, "old")]);
    let newer = lexical_point(Context { version: 2, ..context(1, "newer") });
    let newest = lexical_point(Context { version: 3, ..context(1, "newest") });
    shard.upsert(&[newer, newest.clone()]).expect("stored");
    assert_eq!(shard.get_points(&me(), &[id(1)], NOW).expect("read"), [newest]);
}

#[test]
fn context_without_any_term_or_vector_can_be_stored() {
    let (_directory, shard) = store();
    shard.upsert(&[Point { context: context(1, "?!"), vectors: Vectors::default() }]).expect("stored");
    assert_eq!(shard.get(&me(), &[id(1)], NOW).expect("read").len(), 1);
}

#[test]
fn unusable_vector_is_refused_and_nothing_of_its_batch_is_stored() {
    let (_directory, shard) = store();
    let mut short = point(context(2, "tea"));
    short.vectors.dense_ctx = Some(vec![1.0; 3]);
    let refused = shard.upsert(&[point(context(1, "tea")), short]).expect_err("three dimensions");
    let expected = format!("a vector of context {} has 3 dimensions, but the store has 64", id(2));
    assert!(refused.is_callers() && refused.to_string() == expected, "{refused}");
    let mut broken = point(context(3, "tea"));
    broken.vectors.dense_self = Some(vec![f32::NAN; 64]);
    assert!(matches!(shard.upsert(&[broken]), Err(Error::Invalid(InvalidCall::NotFinite { .. }))));
    assert_eq!(shard.stats().expect("stats").points, 0);
}

#[test]
fn expired_context_is_never_returned() {
    let (_directory, shard) = store();
    let expiring = |number, at: i64| Context {
        expires_at: Some(Timestamp::from_millis(NOW.as_millis() + at)),
        ..in_session(number, "s", i64::try_from(number).unwrap_or(0))
    };
    put(&shard, [expiring(1, -1), expiring(2, 0), expiring(3, 1), in_session(4, "s", 4)]);
    let selection = Selection::alive(me(), NOW);
    let ids: Vec<_> = (1..=4).map(id).collect();
    assert_eq!(numbers(&shard.get(&me(), &ids, NOW).expect("get")), [3, 4]);
    assert_eq!(numbers(&shard.list(&selection, None, 10).expect("list").contexts), [3, 4]);
    assert_eq!(shard.count(&selection).expect("count"), 2);
    let session = SessionId::new("s").ok();
    assert_eq!(numbers(&shard.session_tail(&me(), session.as_ref(), 9, NOW).expect("tail")), [3, 4]);
    assert_eq!(shard.counts_by_level(&me(), NOW).expect("counts").long_term, 2);
    let expired = Selection { expiry: Expiry::ExpiredAt(NOW), ..selection };
    assert_eq!(numbers(&shard.list(&expired, None, 10).expect("list").contexts), [1, 2]);
}

#[test]
fn other_owners_contexts_cannot_be_read_changed_or_deleted() {
    let (_directory, shard) = store();
    let strangers = [owner("team-b", "support"), owner("team-a", "billing")];
    put(&shard, [context(1, "ours")]);
    for stranger in &strangers {
        assert_eq!(shard.get(stranger, &[id(1)], NOW).expect("get"), []);
        assert_eq!(shard.get_points(stranger, &[id(1)], NOW).expect("get"), []);
        assert_eq!(shard.list(&Selection::alive(stranger.clone(), NOW), None, 9).expect("list").contexts, []);
        assert_eq!(shard.delete(stranger, &[id(1)]).expect("delete"), 0);
        let any = Selection { expiry: Expiry::Any, ..Selection::alive(stranger.clone(), NOW) };
        assert_eq!(shard.delete_selected(&any, 9).expect("delete"), 0);
        let theirs = context_of(stranger, 1, "taken over");
        assert_eq!(shard.update(&theirs, None, 1).expect("update"), Updated::Missing);
        shard.count_accesses(stranger, &[Access { id: id(1), times: 5, at: NOW }]).expect("count");
    }
    assert_eq!(shard.get(&me(), &[id(1)], NOW).expect("get"), [context(1, "ours")]);
}

#[test]
fn update_needs_the_expected_version_and_says_what_there_is() {
    let (_directory, shard) = store();
    put(&shard, [context(1, "first")]);
    let second = Context {
        version: 2,
        metadata: json!({"a": 1}).as_object().cloned().unwrap_or_default(),
        ..context(1, "first")
    };
    assert_eq!(shard.update(&second, None, 1).expect("update"), Updated::Applied);
    let late = Context { version: 2, ..context(1, "late") };
    let conflict = shard.update(&late, Some(&point(late.clone()).vectors), 1).expect("update");
    assert_eq!(conflict, Updated::Conflict { current: Box::new(second.clone()) });
    assert_eq!(shard.update(&context(9, "absent"), None, 1).expect("update"), Updated::Missing);
    let read = shard.get_points(&me(), &[id(1)], NOW).expect("read");
    assert_eq!(read[0].context, second);
    assert!(read[0].vectors.dense_self.is_some(), "an update without vectors keeps those that are there");
    let third = lexical_point(Context { version: 3, ..context(1, "third") });
    assert_eq!(shard.update(&third.context, Some(&third.vectors), 2).expect("update"), Updated::Applied);
    assert_eq!(shard.get_points(&me(), &[id(1)], NOW).expect("read"), [third]);
}

#[test]
fn update_that_drops_a_value_leaves_no_trace_of_it() {
    let (_directory, shard) = store();
    let before = Context { expires_at: Some(Timestamp::from_millis(NOW.as_millis() + 9)), ..in_session(1, "s", 1) };
    put(&shard, [before.clone()]);
    let kept = Context { expires_at: None, version: 2, ..before };
    assert_eq!(shard.update(&kept, None, 1).expect("update"), Updated::Applied);
    let later = Timestamp::from_millis(NOW.as_millis() + 10);
    assert_eq!(shard.get(&me(), &[id(1)], later).expect("read"), [kept]);
}

#[test]
fn accesses_add_up_and_leave_the_version_alone() {
    let (_directory, shard) = store();
    put(&shard, [context(1, "a"), context(2, "b")]);
    let later = Timestamp::from_millis(NOW.as_millis() + 50);
    let access = |number, times, at| Access { id: id(number), times, at };
    shard.count_accesses(&me(), &[access(1, 2, later), access(1, 1, NOW), access(7, 1, NOW)]).expect("counted");
    shard.count_accesses(&me(), &[access(1, 4, NOW)]).expect("counted");
    let read = shard.get(&me(), &[id(1), id(2)], NOW).expect("read");
    assert_eq!((read[0].access_count, read[0].accessed_at, read[0].version), (7, Some(later), 1));
    assert_eq!(read[1], context(2, "b"));
    assert_eq!(shard.stats().expect("stats").points, 2, "counting makes no context");
    let used = Selection { min_accesses: Some(5), ..Selection::alive(me(), NOW) };
    assert_eq!(numbers(&shard.list(&used, None, 9).expect("list").contexts), [1]);
}

#[test]
fn deleting_says_how_many_there_were() {
    let (_directory, shard) = store();
    put(&shard, (0..10).map(|number| context(number, "x")));
    assert_eq!(shard.delete(&me(), &[id(1), id(2), id(99)]).expect("delete"), 2);
    assert_eq!(shard.delete(&me(), &[id(1)]).expect("delete"), 0);
    assert_eq!(shard.delete(&me(), &[]).expect("delete"), 0);
    assert_eq!(shard.stats().expect("stats").points, 8);
}

#[test]
fn garbage_is_collected_in_bounded_batches_and_nothing_else_goes() {
    let (_directory, shard) = store();
    let expired_of = |owner: &Owner, number| Context { expires_at: Some(NOW), ..context_of(owner, number, "x") };
    put(&shard, (0..25).map(|number| expired_of(&me(), number)));
    put(&shard, [context(100, "kept"), expired_of(&owner("any", "one"), 101)]);
    let batches: Vec<usize> =
        (0..4).map(|_| shard.delete_expired(Some(&[me()]), &[], NOW, 10).expect("collected")).collect();
    assert_eq!(batches, [10, 10, 5, 0]);
    assert_eq!(shard.stats().expect("stats").points, 2);
    assert_eq!(shard.count_expired(None, NOW).expect("counted"), 1, "another's");
    assert_eq!(shard.delete_expired(None, &[], NOW, 10).expect("collected"), 1);
    assert_eq!(shard.stats().expect("stats").points, 1);
}

#[test]
fn compacting_after_many_deletions_loses_nothing() {
    let (_directory, shard) = store();
    put(&shard, (0..2_500).map(|number| context(number, &format!("memory number {number}"))));
    shard.flush().expect("flush");
    let disk_bytes = || shard.stats().expect("stats").disk_bytes;
    let full = disk_bytes();
    let gone: Vec<_> = (0..2_000).map(id).collect();
    assert_eq!(shard.delete(&me(), &gone).expect("delete"), 2_000);
    assert!(shard.compact().expect("compact"), "2,000 of 2,500 are worth it");
    assert!(!shard.compact().expect("compact"), "nothing was deleted since");
    shard.flush().expect("flush");
    assert!(disk_bytes() < full, "{:?} of {full:?} bytes are left", disk_bytes());
    assert_eq!(shard.count(&Selection::alive(me(), NOW)).expect("count"), 500);
    put(&shard, [context(9_999, "after")]);
    assert_eq!(shard.get(&me(), &[id(2_400), id(9_999)], NOW).expect("read").len(), 2);
}
