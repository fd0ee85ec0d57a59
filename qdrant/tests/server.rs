//! The collection on a real Qdrant server: the one that `CONTEXT_MANAGER_TEST_QDRANT_URL` names. Without it each test says so and
//! checks only that an unreachable server is reported.

use std::{env, time::Duration};

use context_manager_memory::{
    AgentId, Context, ContextId, Level, QueryVectors, SessionId, TenantId, Timestamp, Vectors, lexical,
    store::{Access, Condition, Operator, Owner, Point, Scalar, Search, Selection, Updated},
};
use context_manager_qdrant::{Collection, Error, Options};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const LATER: Timestamp = Timestamp::from_millis(1_700_000_000_010);
const DIMENSIONS: usize = 4;

fn owner(tenant: &str) -> Owner {
    Owner { tenant: TenantId::new(tenant).expect("a name"), agent: AgentId::new("agent").expect("a name") }
}

fn id(number: u128) -> ContextId {
    ContextId::new(uuid::Uuid::from_u128(number + 1))
}

fn point(tenant: &str, number: u128, text: &str) -> Point {
    let Owner { tenant, agent } = owner(tenant);
    let mut context = Context::new(id(number), tenant, agent, Level::LongTerm, text, NOW);
    context.session = SessionId::new("s").ok();
    context.sequence = i64::try_from(number).expect("small");
    let terms = lexical::Bm25::default().document(text);
    let dense = Some(vec![1.0, f32::from(u8::try_from(number).expect("small")), 0.0, 0.0]);
    let vectors =
        Vectors { dense_self: dense.clone(), dense_ctx: dense, sparse_self: terms.clone(), sparse_ctx: terms };
    Point { context, vectors }
}

/// A collection of this test's own, or `None` without a server.
async fn collection(name: &str) -> Option<Collection> {
    let Ok(url) = env::var("CONTEXT_MANAGER_TEST_QDRANT_URL") else {
        eprintln!("CONTEXT_MANAGER_TEST_QDRANT_URL is not set: {name} did not run on a real server");
        let unreachable =
            Collection::connect(Options::new("http://127.0.0.1:9", name, DIMENSIONS, "m")).expect("a URL");
        assert!(matches!(unreachable.open().await, Err(Error::Server { .. } | Error::Deadline { .. })));
        return None;
    };
    let options = Options::new(url, format!("{name}-{}", uuid::Uuid::new_v4().simple()), DIMENSIONS, "model");
    let collection = Collection::connect(Options { timeout: Duration::from_secs(30), ..options }).expect("a URL");
    collection.open().await.expect("a new collection");
    Some(collection)
}

#[tokio::test]
async fn what_was_made_for_something_else_is_refused_and_stays() {
    let Some(made) = collection("identity").await else { return };
    made.upsert(&[point("t", 1, "tea")]).await.expect("stored");
    made.open().await.expect("opening it again changes nothing");
    for (dimensions, model, setting) in [(8, "model", "dimensions"), (DIMENSIONS, "other", "embedding model")] {
        let options = Options { dimensions, model: model.to_owned(), ..made.options().clone() };
        let refused = Collection::connect(options).expect("a URL").open().await.expect_err(setting).to_string();
        assert!(refused.contains(setting), "{refused}");
    }
    assert_eq!(made.stats().await.expect("stats").points, 1);
}

#[tokio::test]
async fn nobody_finds_what_belongs_to_another_tenant() {
    let Some(store) = collection("tenants").await else { return };
    store.upsert(&[point("a", 1, "green tea"), point("b", 2, "black tea")]).await.expect("stored");
    let search = Search {
        query: QueryVectors { dense: Some(vec![1.0, 1.0, 0.0, 0.0]), sparse: Some(lexical::query("tea")) },
        selection: Selection::alive(owner("a"), NOW),
        per_leg: Search::PER_LEG,
    };
    let found = store.search(&[search]).await.expect("found");
    assert_eq!(found.iter().map(|candidate| candidate.context.text.as_str()).collect::<Vec<_>>(), ["green tea"]);
    let scores = found[0].scores;
    assert!(scores.dense_self.is_some() && scores.sparse_self.is_some_and(|score| score > 0.0), "{scores:?}");
    assert!(store.get_points(&owner("a"), &[id(2)], NOW).await.expect("read").is_empty());
    assert_eq!(store.delete(&owner("a"), &[id(2)]).await.expect("delete"), 0);
    assert_eq!(store.find(&[id(2)]).await.expect("find").len(), 1);
}

#[tokio::test]
async fn a_context_comes_back_as_it_was_stored() {
    let Some(store) = collection("fidelity").await else { return };
    let mut stored = point("t", 3, "tea");
    stored.context.metadata =
        serde_json::from_str(r#"{"n": 1, "x": 1.5, "deep": {"a": [1, null, "b"]}, "ok": true}"#).expect("JSON");
    store.upsert(std::slice::from_ref(&stored)).await.expect("stored");
    let read = store.get_points(&owner("t"), &[id(3)], NOW).await.expect("read").pop().expect("there");
    assert_eq!(read.context, stored.context);
    assert_eq!(read.vectors.sparse_self, stored.vectors.sparse_self);
    let with = |path: &[&str], operator| {
        let path = path.iter().map(|&part| part.to_owned()).collect();
        Selection { metadata: vec![Condition { path, operator }], ..Selection::alive(owner("t"), NOW) }
    };
    for (selection, count) in [
        (with(&["n"], Operator::Equals(Scalar::Number(1.0))), 1),
        (with(&["n"], Operator::AnyOf(Vec::new())), 0),
        (with(&["ok"], Operator::Equals(Scalar::Flag(false))), 0),
        (with(&["deep", "a"], Operator::Equals(Scalar::Text("b".to_owned()))), 1),
        (with(&["gone"], Operator::Absent), 1),
        (with(&["x"], Operator::Range { from: Some(1.5), below: Some(1.5) }), 0),
    ] {
        assert_eq!(store.count(&selection).await.expect("counted"), count, "{selection:?}");
    }
}

#[tokio::test]
async fn only_the_version_that_was_read_is_replaced() {
    let Some(store) = collection("versions").await else { return };
    let first = point("t", 1, "tea");
    store.upsert(std::slice::from_ref(&first)).await.expect("stored");
    let mut second = first.clone();
    second.context.version += 1;
    second.context.text = "coffee".to_owned();
    let update = |point: Point, vectors: bool| {
        let store = store.clone();
        async move { store.update(&point.context, vectors.then_some(&point.vectors), 1).await.expect("updated") }
    };
    assert_eq!(update(second.clone(), true).await, Updated::Applied);
    assert!(matches!(update(first.clone(), true).await, Updated::Conflict { current } if current.version == 2));
    assert!(matches!(update(first.clone(), false).await, Updated::Conflict { .. }));
    assert_eq!(update(point("t", 9, "new"), true).await, Updated::Missing);
    assert_eq!(store.find(&[id(9)]).await.expect("find"), [], "an update makes nothing");
    let mut third = second.clone();
    third.context.version += 1;
    assert_eq!(store.update(&third.context, None, 2).await.expect("updated"), Updated::Applied);
    let read = store.get_points(&owner("t"), &[id(1)], NOW).await.expect("read").pop().expect("there");
    assert!(read.vectors.dense_self.is_some(), "vectors stay when none are given");
}

#[tokio::test]
async fn sessions_expiry_accesses_and_deletion_work() {
    let Some(store) = collection("life").await else { return };
    let mut points: Vec<Point> = (1..=5).map(|number| point("t", number, &format!("memory {number}"))).collect();
    points[4].context.expires_at = Some(LATER);
    store.upsert(&points).await.expect("stored");
    let (me, session) = (owner("t"), SessionId::new("s").expect("a name"));
    assert_eq!(store.max_sequence(&me, &session).await.expect("read"), Some(5));
    let last = |now| {
        let (store, me, session) = (store.clone(), me.clone(), session.clone());
        async move { store.last(&me, &session, now).await.expect("read").map(|context| context.sequence) }
    };
    assert_eq!((last(NOW).await, last(LATER).await), (Some(5), Some(4)));
    let before = store.before(&me, &session, 3, NOW).await.expect("read");
    assert_eq!(before.map(|context| context.sequence), Some(2));
    store
        .count_accesses(&me, &[Access { id: id(1), times: 2, at: LATER }, Access { id: id(8), times: 1, at: NOW }])
        .await
        .expect("counted");
    let read = store.find(&[id(1), id(8)]).await.expect("read");
    assert_eq!(
        read.iter().map(|context| (context.access_count, context.accessed_at)).collect::<Vec<_>>(),
        [(2, Some(LATER))]
    );
    let page = store.list(&Selection::alive(me.clone(), NOW), None, 3).await.expect("a page");
    let rest = store.list(&Selection::alive(me.clone(), NOW), page.next, 3).await.expect("a page");
    assert_eq!((page.contexts.len(), rest.contexts.len(), rest.next), (3, 2, None));
    assert_eq!(store.delete_expired(LATER, 10).await.expect("collected"), 1);
    assert_eq!(store.delete_selected(&Selection::alive(me.clone(), LATER), 3).await.expect("deleted"), 3);
    assert_eq!(Box::pin(store.counts_by_level(&me, LATER)).await.expect("counted").long_term, 1);
}
