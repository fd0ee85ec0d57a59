//! Selections: sessions, levels, times, metadata, pages and order.

use context_manager_embedded::{Error, Shard};
use context_manager_memory::store::{Condition, Dense, Expiry, InvalidCall, Operator, Scalar, Selection, Sessions};
use context_manager_memory::{Context, Level, SessionId, Timestamp};
use serde_json::{Value, json};

use crate::fixture::{NOW, context, id, in_session, lexical_point, me, numbers, put, store};

fn alive() -> Selection {
    Selection::alive(me(), NOW)
}

fn found(shard: &Shard, selection: &Selection) -> Vec<u128> {
    let page = shard.list(selection, None, 100).expect("list");
    assert_eq!(shard.count(selection).expect("count"), page.contexts.len(), "count and list agree");
    numbers(&page.contexts)
}

fn with_metadata(number: u128, metadata: &Value) -> Context {
    Context { metadata: metadata.as_object().cloned().unwrap_or_default(), ..context(number, "x") }
}

fn text(value: &str) -> Scalar {
    Scalar::Text(value.to_owned())
}

#[test]
fn sessions_levels_and_times_select() {
    let (_directory, shard) = store();
    let at = |number, millis| Context { created_at: Timestamp::from_millis(millis), ..in_session(number, "b", 1) };
    put(
        &shard,
        [
            in_session(1, "a", 1),
            Context { level: Level::Immediate, ..in_session(2, "a", 2) },
            Context { level: Level::ShortTerm, ..context(3, "without a session") },
            at(4, 1_000),
            at(5, 2_000),
        ],
    );
    let session = |name| Sessions::Only(SessionId::new(name).expect("a session"));
    let time = |millis| Some(Timestamp::from_millis(millis));
    let table = [
        (alive(), vec![1, 2, 3, 4, 5]),
        (Selection { sessions: session("a"), ..alive() }, vec![1, 2]),
        (Selection { sessions: session("A"), ..alive() }, vec![]),
        (Selection { sessions: Sessions::Without, ..alive() }, vec![3]),
        (Selection { levels: Some(vec![Level::Immediate, Level::ShortTerm]), ..alive() }, vec![2, 3]),
        (Selection { levels: Some(vec![]), ..alive() }, vec![]),
        (Selection { created_since: time(1_000), created_before: time(2_000), ..alive() }, vec![4]),
        (Selection { created_before: time(2_001), ..alive() }, vec![4, 5]),
    ];
    for (selection, expected) in table {
        assert_eq!(found(&shard, &selection), expected, "{selection:?}");
    }
    let counts = shard.counts_by_level(&me(), NOW).expect("counts");
    assert_eq!((counts.immediate, counts.short_term, counts.long_term), (1, 1, 3));
}

#[test]
fn metadata_conditions_select_by_value_type_and_path() {
    let (_directory, shard) = store();
    put(
        &shard,
        [
            with_metadata(1, &json!({"topic": "tea", "stars": 5, "open": true, "user.name": "ann"})),
            with_metadata(2, &json!({"topic": "bus", "stars": 3.5, "open": false, "deep": {"a b": "x"}})),
            with_metadata(3, &json!({"topic": ["tea", "bus"], "stars": "5", "tenant": "team-b"})),
            with_metadata(4, &json!({"topic": null, "list": []})),
            context(5, "nothing attached"),
        ],
    );
    let range = |from, below| Operator::Range { from, below };
    let table = [
        (vec!["topic"], Operator::Equals(text("tea")), vec![1, 3]),
        (vec!["topic"], Operator::AnyOf(vec![text("bus"), text("car")]), vec![2, 3]),
        (vec!["topic"], Operator::AnyOf(vec![]), vec![]),
        (vec!["topic"], Operator::NoneOf(vec![text("tea")]), vec![2, 4, 5]),
        (vec!["topic"], Operator::NoneOf(vec![]), vec![1, 2, 3, 4, 5]),
        (vec!["topic"], Operator::Exists, vec![1, 2, 3]),
        (vec!["topic"], Operator::Absent, vec![4, 5]),
        (vec!["stars"], Operator::Equals(Scalar::Number(5.0)), vec![1]),
        (vec!["stars"], Operator::Equals(Scalar::Number(3.5)), vec![2]),
        (vec!["stars"], Operator::Equals(text("5")), vec![3]),
        (vec!["stars"], range(Some(3.5), Some(5.0)), vec![2]),
        (vec!["stars"], range(None, None), vec![1, 2]),
        (vec!["open"], Operator::Equals(Scalar::Flag(true)), vec![1]),
        (vec!["user.name"], Operator::Equals(text("ann")), vec![1]),
        (vec!["user", "name"], Operator::Equals(text("ann")), vec![]),
        (vec!["deep", "a b"], Operator::Equals(text("x")), vec![2]),
        (vec!["tenant"], Operator::Equals(text("team-b")), vec![3]),
    ];
    for (path, operator, expected) in table {
        let path = path.into_iter().map(str::to_owned).collect();
        let selection = Selection { metadata: vec![Condition { path, operator }], ..alive() };
        assert_eq!(found(&shard, &selection), expected, "{:?}", selection.metadata);
    }
    let path = vec!["a\"b".to_owned()];
    let unusable = Selection { metadata: vec![Condition { path, operator: Operator::Exists }], ..alive() };
    assert!(matches!(shard.list(&unusable, None, 9), Err(Error::Invalid(InvalidCall::MetadataKey(_)))));
}

#[test]
fn contexts_without_a_dense_vector_can_be_found() {
    let (_directory, shard) = store();
    put(&shard, [context(1, "tea")]);
    shard.upsert(&[lexical_point(context(2, "bus"))]).expect("stored");
    assert_eq!(found(&shard, &Selection { dense: Dense::Missing, ..alive() }), [2]);
}

#[test]
fn pages_follow_each_other_without_gap_or_repetition() {
    let (_directory, shard) = store();
    put(&shard, (0..23).map(|number| context(number * 7 % 23, "x")));
    let (mut from, mut all, mut pages) = (None, Vec::new(), 0);
    loop {
        let page = shard.list(&alive(), from, 5).expect("list");
        all.extend(numbers(&page.contexts));
        pages += 1;
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!(all, (0..23).collect::<Vec<_>>());
    assert_eq!(pages, 5);
}

#[test]
fn end_of_a_session_is_in_order_and_its_numbers_are_never_given_twice() {
    let (_directory, shard) = store();
    let expired = Context { expires_at: Some(NOW), ..in_session(50, "s", 50) };
    put(&shard, (0..20).map(|number| in_session(number, "s", i64::try_from(number).unwrap_or(0))));
    put(&shard, [expired, in_session(60, "other", 90), Context { sequence: 4, ..context(70, "no session") }]);
    let session = SessionId::new("s").ok();
    let tail = shard.session_tail(&me(), session.as_ref(), 3, NOW).expect("tail");
    assert_eq!(numbers(&tail), [17, 18, 19]);
    assert_eq!(shard.max_sequence(&me(), session.as_ref()).expect("sequence"), Some(50));
    assert_eq!(shard.max_sequence(&me(), None).expect("sequence"), Some(4));
    let unknown = SessionId::new("unknown").ok();
    assert_eq!(shard.max_sequence(&me(), unknown.as_ref()).expect("sequence"), None);
    assert_eq!(shard.session_tail(&me(), session.as_ref(), 0, NOW).expect("tail"), []);
}

#[test]
fn session_is_cleared_in_bounded_batches_with_its_expired_contexts() {
    let (_directory, shard) = store();
    put(&shard, (0..7).map(|number| Context { expires_at: (number < 3).then_some(NOW), ..in_session(number, "s", 1) }));
    put(&shard, [in_session(9, "t", 1)]);
    let sessions = Sessions::Only(SessionId::new("s").expect("a session"));
    let all = Selection { sessions, expiry: Expiry::Any, ..alive() };
    let batches: Vec<usize> = (0..3).map(|_| shard.delete_selected(&all, 5).expect("deleted")).collect();
    assert_eq!(batches, [5, 2, 0]);
    assert_eq!(shard.get(&me(), &[id(9)], NOW).expect("read").len(), 1);
}
