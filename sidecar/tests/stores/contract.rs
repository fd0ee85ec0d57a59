//! What every store must do.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use context_manager_memory::{
    Context, ContextId, Level, QueryVectors, SparseVector, Timestamp, Vectors,
    alike::alike,
    frequencies::{Counts, DocumentFrequencies},
    history, lexical,
    store::{
        Access, Condition, Dense, Expiry, Ids, Operator, Owner, Point, Scalar, Search, Selection, Sessions, Tenant,
        Updated, Validity,
    },
};
use context_manager_sidecar::ports::vector_store::{Error, SessionEnd, VectorStore};
use futures::{future::join_all, join};
use uuid::Uuid;

use super::fixture::{DIMENSIONS, Kind, LATER, MODEL, NOW, Place, agent, id, in_space, owner, point, session};

on_both! {
    a_context_comes_back_as_it_was_stored,
    numbers_in_metadata_come_back_as_they_were_written,
    storing_it_again_replaces_all_of_it,
    what_is_stored_late_as_new_takes_nothing_back,
    what_is_stored_is_there_after_closing_and_opening,
    what_was_made_for_another_model_is_refused_and_stays,
    vectors_that_do_not_fit_are_refused_and_nothing_of_the_call_is_stored,
    nobody_reaches_what_belongs_to_another,
    a_space_and_an_agent_of_the_same_name_are_two_holders,
    metadata_is_filtered_by_value_type_and_presence,
    only_the_version_that_was_read_is_replaced,
    of_updates_at_the_same_time_one_wins,
    writes_at_the_same_time_are_all_there,
    sessions_have_an_end_and_an_order,
    nothing_is_returned_from_the_moment_it_expires,
    garbage_is_collected_of_those_that_are_named_alone,
    an_id_is_made_way_for_its_owner_alone,
    what_is_past_is_found_by_its_time_only,
    what_is_to_expire_at_another_time_is_otherwise_as_it_was,
    accesses_are_added_up,
    accesses_that_are_counted_at_the_same_time_are_all_counted,
    accesses_that_are_counted_while_a_context_changes_are_all_counted_and_so_is_each_change,
    an_update_takes_no_access_back,
    pages_show_each_context_once,
    the_latest_are_those_that_were_stored_last_whatever_their_ids,
    a_tenant_is_listed_whole_and_nothing_else_is,
    deleting_says_how_many_and_stops_at_the_limit,
    a_search_finds_by_words_alone_by_vector_alone_and_by_both,
    a_term_counts_by_its_rarity_among_the_owners_contexts,
    the_rarity_of_a_term_is_told_and_can_be_given,
    several_searches_are_answered_together,
    a_search_that_finds_more_than_there_is_room_for_has_the_best_of_it,
    a_closed_store_says_so,
}

async fn a_context_comes_back_as_it_was_stored(place: Place) {
    let store = place.open().await;
    let mut stored = point("t", 3, "tea");
    stored.context.expires_at = Some(LATER);
    stored.context.metadata = serde_json::from_str(
        r#"{"n": 1, "x": 1.5, "big": 9007199254740993, "deep": {"a": [1, null, "b"]}, "ok": true}"#,
    )
    .expect("JSON");
    store.upsert(vec![stored.clone()]).await.expect("stored");
    let read = store.get(&owner("t"), vec![id(3), id(4)], NOW).await.expect("read");
    let [Point { context, vectors }] = read.as_slice() else { unreachable!("{read:?}") };
    assert_eq!(*context, stored.context);
    assert_eq!(vectors.sparse_self, stored.vectors.sparse_self);
    let dense = vectors.dense_self.as_deref().expect("a dense vector");
    for (found, expected) in dense.iter().zip([1.0, 3.0, 0.0, 0.0]) {
        assert!((found - expected / 10.0_f32.sqrt()).abs() < 1e-6, "scaled to unit length: {dense:?}");
    }
}

async fn numbers_in_metadata_come_back_as_they_were_written(place: Place) {
    let store = place.open().await;
    let mut first = point("t", 1, "tea");
    first.context.metadata = serde_json::from_str(
        r#"{
            "whole": 1, "float": 1.0, "zero": 0, "negative_zero": -0.0, "largest": 9223372036854775807,
            "smallest": -9223372036854775808, "tenth": 0.1, "huge": 1.7976931348623157e308, "tiny": 5e-324,
            "beyond": 1e19, "deep": {"list": [1.0, 1, -0.0, 9007199254740993, {"inner": 2.0}, [3.0, 3]]}
        }"#,
    )
    .expect("JSON");
    let mut second = first.clone();
    second.context.version = 2;
    // As text, because 0.0 and -0.0 are equal.
    let written = |point: &Point| {
        let metadata = point.context.metadata.iter();
        metadata.map(|(key, value)| (key.clone(), value.to_string())).collect::<BTreeMap<_, _>>()
    };
    store.upsert(vec![first.clone()]).await.expect("stored");
    let read = store.get(&owner("t"), vec![id(1)], NOW).await.expect("read").pop().expect("there");
    assert_eq!(written(&read), written(&first));
    assert_eq!(store.update(second.context.clone(), None, 1).await.expect("answered"), Updated::Applied);
    store.close().await.expect("closed");
    let store = place.open().await;
    let read = store.get(&owner("t"), vec![id(1)], NOW).await.expect("read").pop().expect("there");
    assert_eq!(written(&read), written(&second));
}

async fn storing_it_again_replaces_all_of_it(place: Place) {
    let store = place.open().await;
    store.upsert(vec![point("t", 1, "tea")]).await.expect("stored");
    let mut second = point("t", 1, "coffee");
    second.vectors.dense_ctx = None;
    store.upsert(vec![point("t", 1, "milk"), second.clone()]).await.expect("stored; the last one counts");
    let read = store.get(&owner("t"), vec![id(1)], NOW).await.expect("read").pop().expect("there");
    assert_eq!((read.context, read.vectors.dense_ctx), (second.context, None));
    assert_eq!(store.stats().await.expect("stats").points, 1);
}

async fn what_is_stored_late_as_new_takes_nothing_back(place: Place) {
    let store = place.open().await;
    let late = vec![point("t", 1, "tea"), point("t", 2, "tea")];
    // The first call got no answer, and came to a stand somewhere; its caller went on by another way.
    store.insert(vec![late[0].clone()], Ids::Fresh, NOW).await.expect("stored");
    let mut changed = point("t", 1, "coffee");
    changed.context.version = 2;
    let update = store.update(changed.context.clone(), Some(changed.vectors.clone()), 1).await;
    assert_eq!(update.expect("answered"), Updated::Applied);
    let mut dying = point("t", 3, "milk");
    dying.context.expires_at = Some(LATER);
    store.insert(vec![dying.clone()], Ids::Claimed, NOW).await.expect("stored");

    for ids in [Ids::Fresh, Ids::Claimed] {
        store.insert(late.clone(), ids, NOW).await.expect("it takes effect now");
    }
    let owner = owner("t");
    let read = |number| store.get(&owner, vec![id(number)], NOW);
    let [there] = &read(1).await.expect("read")[..] else { unreachable!("it is there") };
    assert_eq!((&there.context, &there.vectors.sparse_self), (&changed.context, &changed.vectors.sparse_self));
    assert_eq!(read(2).await.expect("read").len(), 1, "what was not there is stored");
    let anew = point("t", 3, "water");
    store.insert(vec![anew.clone()], Ids::Claimed, NOW).await.expect("answered");
    assert_eq!(store.find(vec![id(3)]).await.expect("read"), [dying.context]);
    store.insert(vec![anew.clone()], Ids::Claimed, LATER).await.expect("stored");
    assert_eq!(store.find(vec![id(3)]).await.expect("read"), [anew.context], "what is expired makes way");
    for ids in [Ids::Fresh, Ids::Claimed] {
        store.insert(Vec::new(), ids, NOW).await.expect("nothing");
        store.insert(vec![point("t", 1, "tea")], ids, NOW).await.expect("nothing of it is new");
    }
    store.close().await.expect("closed");
    let store = place.open().await;
    assert_eq!(store.find(vec![id(1)]).await.expect("read"), [changed.context]);
}

async fn what_is_stored_is_there_after_closing_and_opening(place: Place) {
    let store = place.open().await;
    store.upsert(vec![point("t", 1, "tea"), point("t", 2, "coffee")]).await.expect("stored");
    store.delete(&owner("t"), vec![id(2)]).await.expect("deleted");
    store.close().await.expect("closed");
    let store = place.open().await;
    assert_eq!(store.find(vec![id(1), id(2)]).await.expect("read"), [point("t", 1, "tea").context]);
}

async fn what_was_made_for_another_model_is_refused_and_stays(place: Place) {
    let store = place.open().await;
    store.upsert(vec![point("t", 1, "tea")]).await.expect("stored");
    store.close().await.expect("closed");
    for (dimensions, model) in [(DIMENSIONS * 2, MODEL), (DIMENSIONS, "another")] {
        let Err(refused) = place.open_as(dimensions, model).await else { unreachable!("{dimensions} {model}") };
        let refused = format!("{:?}", anyhow::Error::from(refused));
        assert!(refused.contains("model") || refused.contains("dimensions"), "{refused}");
    }
    assert_eq!(place.open().await.stats().await.expect("stats").points, 1);
}

async fn vectors_that_do_not_fit_are_refused_and_nothing_of_the_call_is_stored(place: Place) {
    let store = place.open().await;
    for dense in [vec![1.0; DIMENSIONS + 1], vec![f32::NAN; DIMENSIONS]] {
        let mut wrong = point("t", 2, "tea");
        wrong.vectors.dense_self = Some(dense.clone());
        let refused = store.upsert(vec![point("t", 1, "tea"), wrong.clone()]).await;
        assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
        let refused = store.update(wrong.context, Some(wrong.vectors), 1).await;
        assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
        let query = QueryVectors { dense: Some(dense), sparse: None };
        let search =
            Search { query, selection: Selection::alive(owner("t"), NOW), per_leg: Search::PER_LEG, frequencies: None };
        assert!(matches!(store.candidates(vec![search]).await, Err(Error::Refused(_))));
    }
    assert_eq!(store.stats().await.expect("stats").points, 0);
}

async fn a_space_and_an_agent_of_the_same_name_are_two_holders(place: Place) {
    let store = place.open().await;
    let holders = [owner("t"), in_space("t", "agent"), in_space("t", "team"), in_space("u", "team")];
    let points: Vec<Point> = (0..)
        .zip(&holders)
        .map(|(number, holder)| {
            let Point { context, vectors } = point("t", number, "green tea");
            let Owner { tenant, holder } = holder.clone();
            Point { context: Context { tenant, holder, ..context }.by(&agent("writer")), vectors }
        })
        .collect();
    store.upsert(points.clone()).await.expect("it works");
    let ids: Vec<ContextId> = points.iter().map(|point| point.context.id).collect();
    let all = store.find(ids.clone()).await.expect("it works");
    assert!(all.iter().all(|context| context.written_by == Some(agent("writer"))), "{all:?}");
    for (holder, own) in holders.iter().zip(&points) {
        let found = |contexts: Vec<Context>| contexts.iter().map(|context| context.id).collect::<Vec<_>>();
        let alive = || Selection::alive(holder.clone(), NOW);
        let mine = vec![own.context.id];
        let got = store.get(holder, ids.clone(), NOW).await.expect("it works");
        assert_eq!(found(got.into_iter().map(|point| point.context).collect()), mine);
        assert_eq!(found(store.list(alive(), None, 9).await.expect("it works").contexts), mine);
        assert_eq!(store.count(alive()).await.expect("it works"), 1);
        assert_eq!(store.counts_by_level(holder, NOW).await.expect("it works")[Level::LongTerm], 1);
        let end = store.session_end(holder, &session("s"), NOW).await.expect("it works");
        assert_eq!(end.last.map(|last| last.id), Some(own.context.id));
        let query = QueryVectors { dense: Some(vec![1.0, 0.0, 0.0, 0.0]), sparse: Some(lexical::query("tea")) };
        let search = Search { query, selection: alive(), per_leg: 10, frequencies: None };
        let candidates = store.candidates(vec![search]).await.expect("it works");
        assert_eq!(
            found(candidates.into_iter().map(|candidate| Arc::unwrap_or_clone(candidate.context)).collect()),
            mine
        );
        // A change of what is another's, whatever id it names, finds nothing.
        let others = points.iter().filter(|point| point.context.id != own.context.id);
        for other in others {
            let Owner { tenant, holder } = holder.clone();
            let taken = Context { tenant, holder, version: 2, ..other.context.clone() };
            assert_eq!(store.update(taken, None, 1).await.expect("it works"), Updated::Missing);
        }
        let accesses = ids.iter().map(|id| Access { id: *id, times: 1, at: NOW }).collect();
        store.count_accesses(holder, accesses).await.expect("it works");
    }
    let counted = store.find(ids.clone()).await.expect("it works");
    assert!(counted.iter().all(|context| context.access_count == 1), "each holder counts its own");
    for (left, holder) in (0..holders.len()).rev().zip(&holders) {
        assert_eq!(store.delete(holder, ids.clone()).await.expect("it works"), 1);
        assert_eq!(store.delete_selected(Selection::alive(holder.clone(), NOW), 9).await.expect("it works"), 0);
        assert_eq!(store.find(ids.clone()).await.expect("it works").len(), left);
    }
}

async fn nobody_reaches_what_belongs_to_another(place: Place) {
    let store = place.open().await;
    store.upsert(vec![point("a", 1, "green tea"), point("b", 2, "black tea")]).await.expect("stored");
    let (a, all) = (owner("a"), vec![id(1), id(2)]);
    let texts = |contexts: Vec<Context>| contexts.into_iter().map(|context| context.text).collect::<Vec<_>>();
    let mine = Selection::alive(a.clone(), NOW);
    assert_eq!(texts(store.list(mine.clone(), None, 10).await.expect("listed").contexts), ["green tea"]);
    let found = store.candidates(vec![search("tea", mine.clone())]).await.expect("found");
    assert_eq!(
        texts(found.into_iter().map(|candidate| Arc::unwrap_or_clone(candidate.context)).collect()),
        ["green tea"]
    );
    let read = store.get(&a, all.clone(), NOW).await.expect("read");
    assert_eq!(texts(read.into_iter().map(|point| point.context).collect()), ["green tea"]);
    assert_eq!(store.count(mine.clone()).await.expect("counted"), 1);
    assert_eq!(store.session_end(&a, &session("s"), NOW).await.expect("read").sequence, Some(1));
    assert_eq!(store.before(&a, &session("s"), 9, NOW).await.expect("read").map(|context| context.id), Some(id(1)));
    let mut stolen = point("a", 2, "stolen");
    stolen.context.version = 2;
    assert_eq!(store.update(stolen.context, None, 1).await.expect("answered"), Updated::Missing);
    store.count_accesses(&a, vec![Access { id: id(2), times: 1, at: NOW }]).await.expect("counted");
    assert_eq!(store.delete(&a, all.clone()).await.expect("deleted"), 1);
    assert_eq!(store.delete_selected(Selection { expiry: Expiry::Any, ..mine }, 10).await.expect("deleted"), 0);
    assert_eq!(store.find(all).await.expect("read"), [point("b", 2, "black tea").context], "untouched");
}

async fn metadata_is_filtered_by_value_type_and_presence(place: Place) {
    let store = place.open().await;
    let mut stored = point("t", 1, "tea");
    stored.context.metadata = serde_json::from_str(
        r#"{"n": 1, "x": 1.5, "text": "1", "deep": {"a": [1, null, "b"], "c.d": "e"}, "ok": true, "none": null, "list": []}"#,
    )
    .expect("JSON");
    store.upsert(vec![stored, point("t", 2, "bare")]).await.expect("stored");
    let text = |text: &str| Scalar::Text(text.to_owned());
    for (path, operator, count) in [
        (&["n"][..], Operator::Equals(Scalar::Number(1.0)), 1),
        (&["n"], Operator::Equals(text("1")), 0),
        (&["text"], Operator::Equals(text("1")), 1),
        (&["text"], Operator::Equals(Scalar::Number(1.0)), 0),
        (&["n"], Operator::AnyOf(vec![Scalar::Number(7.0), Scalar::Number(1.0)]), 1),
        (&["n"], Operator::AnyOf(Vec::new()), 0),
        (&["text"], Operator::AnyOf(vec![text("2"), text("1")]), 1),
        (&["text"], Operator::AnyOf(vec![text("2"), text("3")]), 0),
        (&["text"], Operator::NoneOf(vec![text("2"), text("1")]), 1),
        (&["deep", "a"], Operator::AnyOf(vec![Scalar::Flag(true), text("b"), Scalar::Number(1.0)]), 1),
        (&["n"], Operator::AnyOf(vec![text("1"), Scalar::Number(1.0)]), 1),
        (&["n"], Operator::NoneOf(vec![text("1"), Scalar::Flag(true)]), 2),
        (&["n"], Operator::NoneOf(vec![Scalar::Number(1.0)]), 1),
        (&["n"], Operator::NoneOf(Vec::new()), 2),
        (&["ok"], Operator::Equals(Scalar::Flag(false)), 0),
        (&["ok"], Operator::Equals(Scalar::Flag(true)), 1),
        (&["deep", "a"], Operator::Equals(text("b")), 1),
        (&["deep", "c.d"], Operator::Equals(text("e")), 1),
        (&["deep", "c", "d"], Operator::Exists, 0),
        (&["x"], Operator::Range { from: Some(1.5), below: Some(1.6) }, 1),
        (&["x"], Operator::Range { from: Some(1.5), below: Some(1.5) }, 0),
        (&["x"], Operator::Range { from: None, below: None }, 1),
        (&["gone"], Operator::Absent, 2),
        (&["none"], Operator::Exists, 0),
        (&["list"], Operator::Absent, 2),
        (&["ok"], Operator::Exists, 1),
    ] {
        let path: Vec<String> = path.iter().map(|&part| part.to_owned()).collect();
        let condition = Condition { path, operator };
        let selection = Selection { metadata: vec![condition.clone()], ..Selection::alive(owner("t"), NOW) };
        assert_eq!(store.count(selection).await.expect("counted"), count, "{condition:?}");
    }
    let unusable = Condition { path: vec!["a\"b".to_owned()], operator: Operator::Exists };
    let selection = Selection { metadata: vec![unusable], ..Selection::alive(owner("t"), NOW) };
    assert!(matches!(store.count(selection).await, Err(Error::Refused(_))));
}

async fn only_the_version_that_was_read_is_replaced(place: Place) {
    let store = place.open().await;
    let first = point("t", 1, "tea");
    store.upsert(vec![first.clone()]).await.expect("stored");
    let at = |version: i64| {
        let mut next = first.clone();
        next.context.version = version;
        next.context.text = format!("version {version}");
        next
    };
    let update = |point: Point, with_vectors: bool, expected| {
        let vectors = with_vectors.then(|| point.vectors.clone());
        let store = &store;
        async move { store.update(point.context, vectors, expected).await.expect("answered") }
    };
    assert_eq!(update(at(2), true, 1).await, Updated::Applied);
    for with_vectors in [true, false] {
        let late = update(at(2), with_vectors, 1).await;
        assert!(matches!(&late, Updated::Conflict { current } if current.version == 2), "{late:?}");
    }
    assert_eq!(update(point("t", 9, "new"), true, 1).await, Updated::Missing);
    assert_eq!(store.find(vec![id(9)]).await.expect("read"), [], "an update makes nothing");
    let mut moved = at(3);
    moved.context.session = None;
    assert_eq!(update(moved.clone(), false, 2).await, Updated::Applied);
    let read = store.get(&owner("t"), vec![id(1)], NOW).await.expect("read").pop().expect("there");
    assert_eq!(read.context, moved.context, "fields that the new version lacks are gone");
    assert!(read.vectors.dense_self.is_some(), "the vectors stay when none are given");

    // A server's parser gives these back as neighbours of what they were.
    let metadata = serde_json::json!({"score": 0.916_216_166_506_201_5, "list": [{"rate": 9.452_706_955_539_223e-7}]});
    let metadata = metadata.as_object().cloned().expect("an object");
    for (version, with_vectors) in [(4, true), (5, false), (6, true)] {
        let mut measured = at(version);
        measured.context.metadata.clone_from(&metadata);
        assert_eq!(update(measured, with_vectors, version - 1).await, Updated::Applied, "version {version}");
    }
    let read = store.get(&owner("t"), vec![id(1)], NOW).await.expect("read").pop().expect("there").context;
    assert_eq!((read.version, alike(&read.metadata, &metadata)), (6, true), "{read:?}");
}

async fn of_updates_at_the_same_time_one_wins(place: Place) {
    let store = place.open().await;
    store.upsert(vec![point("t", 1, "tea")]).await.expect("stored");
    for version in 1..=5 {
        let updates = (0..8).map(|writer| {
            let mut next = point("t", 1, &format!("writer {writer}"));
            next.context.version = version + 1;
            let vectors = (writer % 2 == 0).then_some(next.vectors);
            let store = &store;
            async move { store.update(next.context, vectors, version).await.expect("answered") }
        });
        let applied = join_all(updates).await.into_iter().filter(|updated| *updated == Updated::Applied).count();
        assert_eq!(applied, 1, "version {version}");
    }
}

async fn writes_at_the_same_time_are_all_there(place: Place) {
    let store = place.open().await;
    let writes = (0..64).map(|number| store.upsert(vec![point("t", number, "tea")]));
    for written in join_all(writes).await {
        written.expect("stored");
    }
    assert_eq!(store.stats().await.expect("stats").points, 64);
    let ids: Vec<ContextId> = (0..64).map(id).collect();
    assert_eq!(store.find(ids).await.expect("read").len(), 64);
}

async fn sessions_have_an_end_and_an_order(place: Place) {
    let store = place.open().await;
    let (me, s) = (owner("t"), session("s"));
    assert_eq!(store.session_end(&me, &s, NOW).await.expect("read"), SessionEnd::default());
    let mut points: Vec<Point> = (1..=5).map(|number| point("t", number, &format!("memory {number}"))).collect();
    points[4].context.expires_at = Some(LATER);
    points[0].context.session = Some(session("other"));
    points[1].context.session = None;
    store.upsert(points).await.expect("stored");
    for (now, last) in [(NOW, 5), (LATER, 4)] {
        let end = store.session_end(&me, &s, now).await.expect("read");
        assert_eq!((end.sequence, end.last.map(|last| last.sequence)), (Some(5), Some(last)));
    }
    for (of, sequence, before) in
        [(&s, 5, Some(4)), (&s, 3, None), (&s, i64::MIN, None), (&session("other"), 9, Some(1))]
    {
        let found = store.before(&me, of, sequence, LATER).await.expect("read");
        assert_eq!(found.map(|context| context.sequence), before, "{of} before {sequence}");
    }
    for (of, sequence, now, after) in [
        (&s, i64::MIN, NOW, Some(3)),
        (&s, 3, NOW, Some(4)),
        (&s, 4, NOW, Some(5)),
        (&s, 4, LATER, None),
        (&s, i64::MAX, NOW, None),
        (&session("other"), 1, NOW, None),
    ] {
        let found = store.after(&me, of, sequence, now).await.expect("read");
        assert_eq!(found.map(|context| context.sequence), after, "{of} after {sequence}");
    }
    let of = |sessions| Selection { sessions, ..Selection::alive(me.clone(), NOW) };
    for (sessions, count) in [(Sessions::All, 5), (Sessions::Only(s.clone()), 3), (Sessions::Without, 1)] {
        assert_eq!(store.count(of(sessions.clone())).await.expect("counted"), count, "{sessions:?}");
    }
}

async fn nothing_is_returned_from_the_moment_it_expires(place: Place) {
    let store = place.open().await;
    let mut dying = point("t", 1, "tea");
    dying.context.expires_at = Some(LATER);
    store.upsert(vec![dying, point("t", 2, "tea")]).await.expect("stored");
    let before = Timestamp::from_millis(LATER.as_millis() - 1);
    for (now, alive) in [(before, 2), (LATER, 1)] {
        let selection = Selection::alive(owner("t"), now);
        assert_eq!(store.count(selection.clone()).await.expect("counted"), alive);
        assert_eq!(store.list(selection.clone(), None, 10).await.expect("listed").contexts.len(), alive);
        assert_eq!(store.candidates(vec![search("tea", selection)]).await.expect("found").len(), alive);
        assert_eq!(store.get(&owner("t"), vec![id(1), id(2)], now).await.expect("read").len(), alive);
        assert_eq!(store.counts_by_level(&owner("t"), now).await.expect("counted").long_term, alive);
    }
    for (now, expired) in [(before, 0), (LATER, 1)] {
        assert_eq!(store.count_expired(Some(&[owner("t")]), now).await.expect("counted"), expired);
        assert_eq!(store.delete_expired(Some(&[owner("t")]), &[], now, 10).await.expect("collected"), expired);
    }
    assert_eq!(store.count_expired(Some(&[owner("t")]), LATER).await.expect("counted"), 0);
    assert_eq!(store.find(vec![id(1), id(2)]).await.expect("read").len(), 1);
}

async fn garbage_is_collected_of_those_that_are_named_alone(place: Place) {
    let store = place.open().await;
    let other = Owner { holder: agent("other").into(), ..owner("t") };
    let owners = [owner("t"), other, in_space("t", "team"), in_space("t", "agent"), owner("u"), in_space("u", "team")];
    let points = |numbers: std::ops::Range<u16>, expires_at| {
        let of = |(number, Owner { tenant, holder }): (u16, &Owner)| {
            let Point { context, vectors } = point("t", number, "tea");
            Point {
                context: Context { tenant: tenant.clone(), holder: holder.clone(), expires_at, ..context },
                vectors,
            }
        };
        numbers.zip(owners.iter().cycle()).map(|(number, owner)| of((number, owner))).collect::<Vec<_>>()
    };
    store
        .upsert([points(0..6, Some(NOW)), points(6..12, Some(LATER)), points(12..18, None)].concat())
        .await
        .expect("stored");
    let left = || async {
        let found = store.find((0..18).map(id).collect()).await.expect("read");
        found.into_iter().map(|context| context.id).collect::<BTreeSet<_>>()
    };
    let mut expected: BTreeSet<ContextId> = (0..18).map(id).collect();
    let collect = async |owners: Option<&[Owner]>, now, limit| {
        let counted = store.count_expired(owners, now).await.expect("counted");
        (counted, store.delete_expired(owners, &[], now, limit).await.expect("collected"))
    };
    assert_eq!(collect(Some(&[]), LATER, 9).await, (0, 0), "nobody's");
    assert_eq!(left().await, expected);
    assert_eq!(collect(Some(&owners[..1]), NOW, 9).await, (1, 1));
    expected.remove(&id(0));
    assert_eq!(left().await, expected, "neither another agent's, nor a space's, nor another tenant's");
    assert_eq!(collect(Some(&[owners[0].clone(), owners[2].clone()]), LATER, 9).await, (3, 3));
    expected.retain(|left| ![id(2), id(6), id(8)].contains(left));
    assert_eq!(left().await, expected);
    assert_eq!(collect(Some(&owners), LATER, 5).await, (8, 5));
    assert_eq!(collect(None, LATER, 9).await, (3, 3), "everybody's");
}

async fn an_id_is_made_way_for_its_owner_alone(place: Place) {
    let store = place.open().await;
    let expired = |mut point: Point| {
        point.context.expires_at = Some(NOW);
        point
    };
    let there = [point("t", 1, "black tea"), point("u", 2, "black tea"), point("v", 3, "black tea")].map(expired);
    store.upsert(there.to_vec()).await.expect("stored");
    // The ids of two owners are claimed in one call, each of which has something expired under the other's id.
    let new =
        vec![point("t", 1, "green tea"), point("t", 2, "green tea"), point("u", 3, "green tea"), point("u", 4, "tea")];
    store.insert(new.clone(), Ids::Claimed, LATER).await.expect("answered");
    let found = store.find((1..=4).map(id).collect()).await.expect("read");
    let found: BTreeMap<ContextId, Context> = found.into_iter().map(|context| (context.id, context)).collect();
    let expected = [&new[0], &there[1], &there[2], &new[3]].map(|point| (point.context.id, point.context.clone()));
    assert_eq!(found, expected.into());
}

async fn what_is_past_is_found_by_its_time_only(place: Place) {
    let store = place.open().await;
    let time = Timestamp::from_millis;
    let mut now = point("t", 1, "green tea");
    now.context.version = 2;
    now.context.updated_at = time(2_000);
    let mut before = point("t", 1, "black tea");
    before.context.updated_at = time(1_000);
    before.context = history::earlier(&before.context, time(2_000), time(i64::MAX));
    store.upsert(vec![now, before]).await.expect("stored");
    for (validity, texts) in [
        (Validity::Current, &["green tea"][..]),
        (Validity::At(time(999)), &[]),
        (Validity::At(time(1_000)), &["black tea"]),
        (Validity::At(time(1_999)), &["black tea"]),
        (Validity::At(time(2_000)), &["green tea"]),
        (Validity::Any, &["black tea", "green tea"]),
    ] {
        let selection = Selection { validity, ..Selection::alive(owner("t"), NOW) };
        assert_eq!(store.count(selection.clone()).await.expect("counted"), texts.len(), "{validity:?}");
        let listed = store.list(selection.clone(), None, 10).await.expect("listed").contexts;
        let found = store.candidates(vec![search("tea", selection)]).await.expect("found");
        for contexts in [listed, found.into_iter().map(|candidate| Arc::unwrap_or_clone(candidate.context)).collect()] {
            let mut found: Vec<String> = contexts.into_iter().map(|context| context.text).collect();
            found.sort();
            assert_eq!(found, texts, "{validity:?}");
        }
    }
    let current = Selection::alive(owner("t"), NOW);
    assert_eq!(store.delete_selected(current.clone(), 10).await.expect("deleted"), 1);
    assert_eq!(store.session_end(&owner("t"), &session("s"), NOW).await.expect("read").sequence, Some(1));
    assert_eq!(store.delete_selected(current.with_all_that_was(), 10).await.expect("deleted"), 1);
}

async fn what_is_to_expire_at_another_time_is_otherwise_as_it_was(place: Place) {
    let store = place.open().await;
    let there = vec![point("t", 1, "black tea"), point("t", 2, "green tea"), point("u", 3, "white tea")];
    store.upsert(there.clone()).await.expect("stored");
    store.count_accesses(&owner("t"), vec![Access { id: id(1), times: 2, at: NOW }]).await.expect("counted");
    assert_eq!(store.counts_by_level(&owner("t"), LATER).await.expect("counted").long_term, 2);
    let soon = Timestamp::from_millis(NOW.as_millis() + 5);
    let expiries = vec![(id(1), NOW), (id(1), soon), (id(2), LATER), (id(3), soon), (id(8), soon)];
    store.set_expiries(&owner("t"), expiries).await.expect("set");
    store.set_expiries(&owner("t"), Vec::new()).await.expect("nothing to set");
    let mut expected: Vec<Context> = there.into_iter().map(|point| point.context).collect();
    (expected[0].expires_at, expected[1].expires_at) = (Some(soon), Some(LATER));
    (expected[0].access_count, expected[0].accessed_at) = (2, Some(NOW));
    let mut read = store.find(vec![id(1), id(2), id(3), id(8)]).await.expect("read");
    read.sort_by_key(|context| context.id);
    assert_eq!(read, expected);
    let alive = async |now| {
        let found = store.candidates(vec![search("tea", Selection::alive(owner("t"), now))]).await.expect("found");
        let listed = store.list(Selection::alive(owner("t"), now), None, 10).await.expect("listed").contexts;
        let counted = store.counts_by_level(&owner("t"), now).await.expect("counted").long_term;
        (found.len(), listed.len(), counted)
    };
    assert_eq!(alive(NOW).await, (2, 2, 2), "they are found by their vectors still");
    assert_eq!(alive(soon).await, (1, 1, 1));
    assert_eq!(alive(LATER).await, (0, 0, 0));
    let named = [owner("t")];
    assert_eq!(store.delete_expired(Some(&named), &[], LATER, 10).await.expect("deleted"), 2);
}

async fn accesses_are_added_up(place: Place) {
    let store = place.open().await;
    store.upsert(vec![point("t", 1, "tea"), point("t", 2, "tea")]).await.expect("stored");
    let access = |number, times, at| Access { id: id(number), times, at };
    let accesses = vec![access(1, 2, LATER), access(2, 1, NOW), access(8, 1, NOW), access(1, 1, NOW)];
    store.count_accesses(&owner("t"), accesses).await.expect("counted");
    store.count_accesses(&owner("t"), vec![access(2, 1, LATER)]).await.expect("counted");
    let mut read = store.find(vec![id(1), id(2), id(8)]).await.expect("read");
    read.sort_by_key(|context| context.id);
    let counted: Vec<_> =
        read.iter().map(|context| (context.access_count, context.accessed_at, context.version)).collect();
    assert_eq!(counted, [(3, Some(LATER), 1), (2, Some(LATER), 1)]);
    let often = Selection { min_accesses: Some(3), ..Selection::alive(owner("t"), NOW) };
    assert_eq!(store.count(often).await.expect("counted"), 1);
}

async fn accesses_that_are_counted_at_the_same_time_are_all_counted(place: Place) {
    // Those of one directory share its store, those of one collection have a client each.
    let store = place.open().await;
    let stores = match place.kind() {
        Kind::Embedded => vec![Arc::clone(&store); 4],
        Kind::Qdrant => join_all((0..4).map(|_| place.open())).await,
    };
    store.upsert((0..10).map(|number| point("t", number, "tea")).collect()).await.expect("stored");
    let owner = owner("t");
    let count = async |writer: usize, store: &Arc<dyn VectorStore>| {
        for round in 0..5 {
            let at = Timestamp::from_millis(NOW.as_millis() + round);
            let times = i64::try_from(writer).expect("a few") + 1;
            let accesses = (0..10).map(|number| Access { id: id(number), times, at }).collect();
            store.count_accesses(&owner, accesses).await.expect("counted");
        }
    };
    let changed = async {
        for version in 1..=5 {
            let Point { context, vectors } = point("t", 0, &format!("version {version}"));
            let vectors = (version % 2 == 0).then_some(vectors);
            let changed = Context { version: version + 1, ..context };
            assert_eq!(store.update(changed, vectors, version).await.expect("answered"), Updated::Applied);
        }
    };
    join!(join_all(stores.iter().enumerate().map(|(writer, store)| count(writer, store))), changed);
    let mut counted = store.find((0..10).map(id).collect()).await.expect("read");
    counted.sort_by_key(|context| context.id);
    let last = Timestamp::from_millis(NOW.as_millis() + 4);
    for context in &counted {
        assert_eq!((context.access_count, context.accessed_at), (5 * (1 + 2 + 3 + 4), Some(last)), "{context:?}");
    }
    let changed = &counted[0];
    assert_eq!((changed.version, changed.text.as_str()), (6, "version 5"));
}

async fn accesses_that_are_counted_while_a_context_changes_are_all_counted_and_so_is_each_change(place: Place) {
    const ROUNDS: i64 = 40;
    let store = place.open().await;
    let stores = match place.kind() {
        Kind::Embedded => vec![Arc::clone(&store); 2],
        Kind::Qdrant => join_all((0..2).map(|_| place.open())).await,
    };
    store.upsert(vec![point("t", 1, "version 1")]).await.expect("stored");
    let count = async |store: Arc<dyn VectorStore>| {
        for _ in 0..ROUNDS {
            let access = Access { id: id(1), times: 1, at: NOW };
            store.count_accesses(&owner("t"), vec![access]).await.expect("counted");
        }
    };
    let changed = async {
        for version in 1..=ROUNDS {
            let Point { context, vectors } = point("t", 1, &format!("version {}", version + 1));
            let changed = Context { version: version + 1, ..context };
            let updated = store.update(changed.clone(), (version % 2 == 0).then_some(vectors), version).await;
            assert_eq!(updated.expect("answered"), Updated::Applied);
            // Its vectors are made anew, as when another context before it has changed; the version stays.
            let mut anew = vec![0.0; DIMENSIONS];
            anew[usize::try_from(version).expect("a few") % DIMENSIONS] = 1.0;
            let vectors = Vectors { dense_self: Some(anew.clone()), ..Vectors::default() };
            let updated = store.update(changed, Some(vectors), version + 1).await;
            assert_eq!(updated.expect("answered"), Updated::Applied);
            let read = store.get(&owner("t"), vec![id(1)], NOW).await.expect("read").pop().expect("there");
            assert_eq!(read.vectors.dense_self, Some(anew), "the vectors of version {}", version + 1);
        }
    };
    join!(join_all(stores.into_iter().map(count)), changed);
    let context = store.find(vec![id(1)]).await.expect("read").pop().expect("there");
    assert_eq!((context.access_count, context.version), (2 * ROUNDS, ROUNDS + 1));
    assert_eq!(context.text, format!("version {}", ROUNDS + 1));
}

async fn an_update_takes_no_access_back(place: Place) {
    let store = place.open().await;
    let read = point("t", 1, "tea");
    store.upsert(vec![read.clone()]).await.expect("stored");
    store.count_accesses(&owner("t"), vec![Access { id: id(1), times: 3, at: LATER }]).await.expect("counted");
    for (version, vectors) in [(2, None), (3, Some(read.vectors.clone()))] {
        // What the writer read is from before the accesses were counted.
        let changed = Context { version, ..read.context.clone() };
        assert_eq!(store.update(changed, vectors, version - 1).await.expect("answered"), Updated::Applied);
        let context = store.find(vec![id(1)]).await.expect("read").pop().expect("there");
        assert_eq!((context.version, context.access_count, context.accessed_at), (version, 3, Some(LATER)));
    }
}

async fn pages_show_each_context_once(place: Place) {
    let store = place.open().await;
    store.upsert((0..25).map(|number| point("t", number, "tea")).collect()).await.expect("stored");
    let (mut seen, mut from) = (Vec::new(), None);
    loop {
        let page = store.list(Selection::alive(owner("t"), NOW), from, 10).await.expect("a page");
        assert!(page.contexts.len() <= 10);
        seen.extend(page.contexts.into_iter().map(|context| context.id));
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!(seen, (0..25).map(id).collect::<Vec<_>>(), "in the order of their ids");
}

async fn the_latest_are_those_that_were_stored_last_whatever_their_ids(place: Place) {
    let store = place.open().await;
    let at = |number: u16| Timestamp::from_millis(NOW.as_millis() - 1_000 + i64::from(number));
    // Of ids made of a name, the order says nothing of the time.
    let named = |number: u16| ContextId::new(Uuid::new_v5(&Uuid::NAMESPACE_OID, &number.to_be_bytes()));
    let mut points: Vec<Point> = (0..150).map(|number| point("t", number, "tea")).collect();
    for (number, Point { context, .. }) in (0..).zip(&mut points) {
        (context.id, context.created_at) = (named(number), at(number));
    }
    points[149].context.expires_at = Some(NOW);
    points[148].context.holder = agent("other").into();
    points[147].context.valid_until = Some(NOW);
    points[146].context.level = Level::ShortTerm;
    let foreign = point("u", 200, "tea");
    store.upsert(points.into_iter().chain([foreign]).collect()).await.expect("stored");
    let all = Selection::alive(owner("t"), NOW);
    let long = Selection { levels: Some(vec![Level::LongTerm]), ..all.clone() };
    let latest = async |selection: &Selection, limit| {
        let found = store.latest(selection.clone(), limit).await.expect("read");
        found.into_iter().map(|context| context.id).collect::<Vec<_>>()
    };
    assert_eq!(latest(&all, 3).await, [146, 145, 144].map(named), "the newest first");
    assert_eq!(latest(&long, 100).await, (46..146).rev().map(named).collect::<Vec<_>>());
    assert_eq!(latest(&long, 500).await, (0..146).rev().map(named).collect::<Vec<_>>());
    assert_eq!(latest(&all, 0).await, []);
    assert_eq!(latest(&Selection::alive(owner("v"), NOW), 9).await, []);
}

async fn a_tenant_is_listed_whole_and_nothing_else_is(place: Place) {
    let store = place.open().await;
    let holders = [owner("t"), in_space("t", "team"), Owner { holder: agent("other").into(), ..owner("t") }];
    let mut wanted = Vec::new();
    for number in 0..30 {
        let Point { mut context, vectors } = point("t", number, "tea");
        context.holder = holders[usize::from(number) % holders.len()].holder.clone();
        context.level = Level::ALL[usize::from(number / 10)];
        context.session = (number % 4 > 0).then(|| session("s"));
        context.expires_at = (number % 7 == 0).then_some(LATER);
        // What was so before is part of it.
        context.valid_until = (number % 5 == 0).then_some(NOW);
        wanted.push(Point { context, vectors });
    }
    let mut over = point("t", 40, "tea");
    over.context.expires_at = Some(NOW);
    let foreign = [point("u", 41, "tea"), point("t2", 42, "tea"), over];
    store.upsert(wanted.iter().chain(&foreign).cloned().collect()).await.expect("stored");
    let tenant = Tenant { tenant: owner("t").tenant, alive_at: NOW };
    let (mut seen, mut from, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = store.list_tenant(&tenant, from, 8).await.expect("a page");
        assert!(page.contexts.len() <= 8);
        (seen, from, pages) = ([seen, page.contexts].concat(), page.next, pages + 1);
        if from.is_none() {
            break;
        }
    }
    assert_eq!(seen, wanted.into_iter().map(|point| point.context).collect::<Vec<_>>(), "in the order of their ids");
    assert_eq!(pages, 4);
    let rest = store.list_tenant(&tenant, Some(id(28)), 8).await.expect("a page");
    assert_eq!(rest.contexts.iter().map(|context| context.id).collect::<Vec<_>>(), [id(28), id(29)]);
    let later = Tenant { alive_at: LATER, ..tenant };
    let alive = store.list_tenant(&later, None, 100).await.expect("a page").contexts;
    assert_eq!(alive.len(), 25, "nothing that has expired by then");
    let nobody = Tenant { tenant: owner("v").tenant, alive_at: NOW };
    assert_eq!(store.list_tenant(&nobody, None, 8).await.expect("a page").contexts, []);
}

async fn deleting_says_how_many_and_stops_at_the_limit(place: Place) {
    let store = place.open().await;
    let mut points: Vec<Point> = (0..10).map(|number| point("t", number, "tea")).collect();
    for point in &mut points[..4] {
        point.context.level = Level::ShortTerm;
        point.context.expires_at = Some(LATER);
    }
    store.upsert(points).await.expect("stored");
    assert_eq!(store.delete(&owner("t"), vec![id(9), id(9), id(77)]).await.expect("deleted"), 1);
    assert_eq!(store.delete(&owner("t"), Vec::new()).await.expect("nothing to do"), 0);
    assert_eq!(store.delete_expired(Some(&[owner("t")]), &[id(2), id(0)], LATER, 3).await.expect("collected"), 2);
    assert_eq!(store.find(vec![id(0), id(1), id(2)]).await.expect("read").len(), 2, "these are spared");
    assert_eq!(store.delete_expired(Some(&[owner("t")]), &[id(0)], LATER, 1).await.expect("collected"), 1);
    assert_eq!(store.delete_expired(Some(&[owner("t")]), &[], LATER, 3).await.expect("collected"), 1);
    let rest = Selection { levels: Some(vec![Level::LongTerm]), ..Selection::alive(owner("t"), NOW) };
    assert_eq!(store.delete_selected(rest.clone(), 2).await.expect("deleted"), 2);
    assert_eq!(store.delete_selected(rest.clone(), 0).await.expect("nothing to do"), 0);
    assert_eq!(store.delete_selected(rest, 10).await.expect("deleted"), 3);
    assert_eq!(store.stats().await.expect("stats").points, 0);
}

async fn a_search_finds_by_words_alone_by_vector_alone_and_by_both(place: Place) {
    let store = place.open().await;
    let mut wordless = point("t", 2, "of the");
    wordless.vectors.sparse_self = lexical::Bm25::default().document("of the");
    let mut vectorless = point("t", 3, "black tea");
    vectorless.vectors.dense_self = None;
    vectorless.vectors.dense_ctx = None;
    store.upsert(vec![point("t", 1, "green tea"), wordless, vectorless]).await.expect("stored");
    let selection = Selection::alive(owner("t"), NOW);
    let words = Some(lexical::query("tea"));
    let direction = Some(vec![1.0, 1.0, 0.0, 0.0]);
    for (dense, sparse, expected) in [
        (None, words.clone(), &[id(1), id(3)][..]),
        (direction.clone(), None, &[id(1), id(2)]),
        (direction, words, &[id(1), id(2), id(3)]),
        (None, None, &[]),
    ] {
        let query = QueryVectors { dense, sparse };
        let search =
            Search { query: query.clone(), selection: selection.clone(), per_leg: Search::PER_LEG, frequencies: None };
        let mut found = store.candidates(vec![search]).await.expect("found");
        found.sort_by_key(|candidate| candidate.context.id);
        let ids: Vec<ContextId> = found.iter().map(|candidate| candidate.context.id).collect();
        assert_eq!(ids, expected, "{query:?}");
        for candidate in found {
            let scores = candidate.scores;
            let has_vector = candidate.context.id != id(3);
            assert_eq!(scores.dense_self.is_some(), query.dense.is_some() && has_vector, "{scores:?}");
            assert_eq!(scores.sparse_self.is_some(), query.sparse.is_some(), "no common term is a score of 0");
        }
    }
    let without = Selection { dense: Dense::Missing, ..selection };
    let listed = store.list(without, None, 10).await.expect("listed").contexts;
    assert_eq!(listed.into_iter().map(|context| context.id).collect::<Vec<_>>(), [id(3)]);
}

async fn a_term_counts_by_its_rarity_among_the_owners_contexts(place: Place) {
    let store = place.open().await;
    let mut points = vec![point("t", 0, "tea"), point("t", 1, "coffee"), point("t", 2, "coffee")];
    // Another tenant's many contexts about tea must not make the word common for this one.
    points.extend((10..40).map(|number| point("other", number, "tea")));
    store.upsert(points).await.expect("stored");
    let found = store.candidates(vec![search("tea coffee", Selection::alive(owner("t"), NOW))]).await.expect("found");
    let words_score = |number| {
        let candidate = found.iter().find(|candidate| candidate.context.id == id(number)).expect("found");
        candidate.scores.sparse_self.expect("a score")
    };
    assert!(words_score(0) > words_score(1) + 0.1, "tea {} coffee {}", words_score(0), words_score(1));
}

async fn the_rarity_of_a_term_is_told_and_can_be_given(place: Place) {
    let store = place.open().await;
    let text = |number: u16| {
        let words = [(2, "tea"), (3, "coffee"), (7, "violin"), (211, "heron")];
        let words = words.iter().filter(|(every, _)| number.is_multiple_of(*every)).map(|(_, word)| *word);
        words.chain(["again", "again"]).collect::<Vec<_>>().join(" ")
    };
    let mut points: Vec<Point> = (0..300).map(|number| point("t", number, &text(number))).collect();
    // Not all have words with what stands before them.
    points.iter_mut().step_by(5).for_each(|point| point.vectors.sparse_ctx = SparseVector::default());
    // Neither what is no more nor what is another's counts.
    let past = points.split_off(290);
    store.upsert(points.clone()).await.expect("stored");
    let closed = |point: Point| Point { context: Context { valid_until: Some(NOW), ..point.context }, ..point };
    store.upsert(past.into_iter().map(closed).collect()).await.expect("stored");
    store.upsert((1_000..1_040).map(|number| point("other", number, "tea")).collect()).await.expect("stored");
    let asked = lexical::query("tea coffee violin heron unheard again");
    let told = || async { store.document_frequencies(&owner("t"), asked.clone()).await.expect("told") };
    let counted = |points: &[Point]| DocumentFrequencies::of(&asked, points.iter().map(|point| &point.vectors));
    assert_eq!(told().await, counted(&points));
    assert_eq!(told().await.own.with(lexical::index("violin")), 42);
    store
        .delete(&owner("t"), points.split_off(100).iter().map(|point| point.context.id).collect())
        .await
        .expect("it works");
    assert_eq!(told().await, counted(&points));
    let nobody = store.document_frequencies(&owner("nobody"), asked.clone()).await.expect("told");
    assert_eq!((nobody.own.all(), nobody.with_previous.all()), (0, 0));

    // A search by what was told finds what a search without finds; by other counts it scores otherwise.
    let scores = |frequencies: Option<DocumentFrequencies>| async {
        let search = Search { per_leg: 300, frequencies, ..search("tea heron", Selection::alive(owner("t"), NOW)) };
        let found = store.candidates(vec![search]).await.expect("found").into_iter();
        found.map(|candidate| (candidate.context.id, candidate.scores)).collect::<BTreeMap<_, _>>()
    };
    let (plain, given) = (scores(None).await, scores(Some(told().await)).await);
    assert_eq!(plain.keys().collect::<Vec<_>>(), given.keys().collect::<Vec<_>>());
    for (id, one) in &plain {
        let other = given[id];
        for (one, other) in [(one.sparse_self, other.sparse_self), (one.sparse_ctx, other.sparse_ctx)] {
            assert!(one.zip(other).is_some_and(|(one, other)| (one - other).abs() < 1e-4), "{id}: {one:?} {other:?}");
        }
    }
    let mut common = told().await;
    common.own = Counts::new(1_000, [(lexical::index("tea"), 999), (lexical::index("heron"), 1)]);
    let weighed = scores(Some(common)).await;
    assert!(weighed[&id(0)].sparse_self > plain[&id(0)].sparse_self, "heron says more");
    assert!(weighed[&id(2)].sparse_self < plain[&id(2)].sparse_self, "tea says nothing");
}

async fn several_searches_are_answered_together(place: Place) {
    let store = place.open().await;
    let mut points = vec![point("t", 1, "green tea"), point("t", 2, "black tea")];
    points[0].context.level = Level::ShortTerm;
    store.upsert(points).await.expect("stored");
    let on = |level| Selection { levels: Some(vec![level]), ..Selection::alive(owner("t"), NOW) };
    let searches = vec![
        search("tea", on(Level::ShortTerm)),
        search("nothing of this", on(Level::Immediate)),
        search("tea", on(Level::LongTerm)),
    ];
    let found = store.candidates(searches).await.expect("found");
    let levels: BTreeSet<_> = found.iter().map(|candidate| candidate.context.level.as_str()).collect();
    assert_eq!((found.len(), levels.len()), (2, 2), "{found:?}");
}

async fn a_search_that_finds_more_than_there_is_room_for_has_the_best_of_it(place: Place) {
    const LONG: usize = 64 << 10;
    let store = place.open().await;
    let mut points: Vec<Point> =
        (1..=150).map(|number| point("t", number, if number % 50 == 0 { "green tea" } else { "tea" })).collect();
    for Point { context, .. } in &mut points {
        context.text = "x".repeat(LONG);
        context.level = if context.sequence % 2 == 0 { Level::ShortTerm } else { Level::LongTerm };
    }
    for some in points.chunks(50) {
        store.upsert(some.to_vec()).await.expect("stored");
    }
    let on = |level| Selection { levels: Some(vec![level]), ..Selection::alive(owner("t"), NOW) };
    let searches = [Level::ShortTerm, Level::LongTerm].map(|level| search("green tea", on(level))).to_vec();
    let mut found = store.candidates(searches).await.expect("found");
    let bytes: usize = found.iter().map(|candidate| candidate.context.text.len()).sum();
    assert!(found.len() >= 64, "{} were found", found.len());
    assert!(bytes <= 8 << 20, "{bytes} bytes");
    found.sort_by(|one, other| other.scores.sparse_self.partial_cmp(&one.scores.sparse_self).expect("numbers"));
    let mut best: Vec<ContextId> = found.iter().take(3).map(|candidate| candidate.context.id).collect();
    best.sort_unstable();
    assert_eq!(best, [id(50), id(100), id(150)]);
}

async fn a_closed_store_says_so(place: Place) {
    let store = place.open().await;
    store.close().await.expect("closed");
    assert!(matches!(store.stats().await, Err(Error::Closed)));
    assert!(matches!(store.upsert(vec![point("t", 1, "tea")]).await, Err(Error::Closed)));
    assert!(matches!(store.flush().await, Err(Error::Closed)));
    store.close().await.expect("closing it again changes nothing");
}

fn search(text: &str, selection: Selection) -> Search {
    let query = QueryVectors { dense: None, sparse: Some(lexical::query(text)) };
    Search { query, selection, per_leg: Search::PER_LEG, frequencies: None }
}
