//! What is deleted, changed or superseded leaves no trace: not in what it was before, not in what follows it, not in memory.

use context_manager_memory::{Timestamp, Vectors, history};
use futures::future::join_all;

use super::*;
use crate::{
    engine::locks::{self, Key},
    ports::vector_store::Point,
};

impl Fixture {
    /// How much a text is found by the words that were said before it.
    async fn by_previous(&self, query: &str, text: &str) -> f64 {
        let answer = self.search(json!({"query": query, "explain": true})).await;
        let found = answer.contexts.iter().find(|found| found.context.text == text);
        found.and_then(|found| found.explanation.as_ref()).map_or(0.0, |parts| parts["sparse_with_previous"])
    }

    async fn points(&self) -> usize {
        self.engine.inner.store.stats().await.expect("figures").points
    }

    async fn delete_where(&self, conditions: Value) -> usize {
        delete_matching(&self.engine, conditions).await.expect("deleted").deleted
    }
}

#[tokio::test]
async fn what_follows_is_found_by_what_now_stands_before_it() {
    for level in ["immediate", "long_term"] {
        let fixture = Fixture::new().await;
        let turn = |text: &str| json!({"text": text, "session": "s", "level": level, "metadata": {"text": text}});
        fixture.stored(turn("Which instruments are there?")).await;
        let question = fixture.stored(turn("Do you own a violin?")).await;
        let answer = fixture.stored(turn("Yes, since Tuesday!")).await;
        assert!(fixture.by_previous("violin", "Yes, since Tuesday!").await > 0.0);

        let change = message(json!({"text": "Do you own a bicycle?"}));
        fixture.engine.update(&mine(&fixture.engine), question, change).await.expect("changed");
        assert!(fixture.by_previous("violin", "Yes, since Tuesday!").await <= 0.0, "{level}");
        assert!(fixture.by_previous("bicycle", "Yes, since Tuesday!").await > 0.0, "{level}");
        assert_eq!(
            fixture.engine.get(&mine(&fixture.engine), answer, None).await.expect("there").version,
            1,
            "nothing has changed"
        );

        let new = json!({"text": "Do you own a boat?", "session": "s", "level": level, "supersedes": [question]});
        let new = fixture.stored(new).await;
        assert!(fixture.by_previous("bicycle", "Yes, since Tuesday!").await <= 0.0, "{level}");
        assert!(fixture.by_previous("instruments", "Yes, since Tuesday!").await > 0.0, "{level}: the one before it");

        let last = fixture.stored(turn("It is blue.")).await;
        fixture.engine.delete(&mine(&fixture.engine), new).await.expect("deleted");
        assert!(fixture.by_previous("boat", "It is blue.").await <= 0.0, "{level}");
        assert!(fixture.by_previous("Tuesday", "It is blue.").await > 0.0, "{level}");
        let deleted = fixture.delete_where(json!({"filter": {"text": {"eq": "Yes, since Tuesday!"}}})).await;
        assert_eq!(deleted, 1);
        assert!(fixture.by_previous("Tuesday", "It is blue.").await <= 0.0, "{level}");
        assert!(fixture.by_previous("instruments", "It is blue.").await > 0.0, "{level}");
        assert!(
            fixture
                .engine
                .inner
                .point_of(fixture.engine.owner(), last.into())
                .await
                .expect("there")
                .vectors
                .dense_ctx
                .is_some()
        );
    }
}

#[tokio::test]
async fn a_deletion_by_conditions_takes_what_its_contexts_were_before() {
    let fixture = Fixture::new().await;
    let id = fixture.stored(json!({"text": "Ann drinks tea", "metadata": {"topic": "drinks"}})).await;
    fixture.stored(json!({"text": "It rains", "metadata": {"topic": "weather"}})).await;
    let change = message(json!({"text": "Ann has moved", "metadata": {"topic": "moves"}}));
    fixture.engine.update(&mine(&fixture.engine), id, change).await.expect("changed");
    assert_eq!(fixture.points().await, 3);
    assert_eq!(fixture.delete_where(json!({"filter": {"topic": {"eq": "moves"}}})).await, 1);
    assert_eq!(fixture.points().await, 1, "the version with another topic went with it");
}

#[tokio::test]
async fn a_deletion_takes_every_earlier_version_however_many_there_were() {
    let fixture = Fixture::new().await;
    let id = fixture.stored(json!({"text": "version 2000"})).await;
    let Point { context, vectors } =
        fixture.engine.inner.point_of(fixture.engine.owner(), id.into()).await.expect("there");
    let mut versions: Vec<Point> = [3, 700, 1_999]
        .into_iter()
        .map(|version| {
            let context =
                history::earlier(&Stored { version, ..context.clone() }, now(), Timestamp::from_millis(i64::MAX));
            Point { context, vectors: Vectors::default() }
        })
        .collect();
    versions.push(Point { context: Stored { version: 2_000, ..context }, vectors });
    fixture.engine.inner.store.upsert(versions).await.expect("stored");
    assert_eq!(fixture.points().await, 4);
    fixture.engine.delete(&mine(&fixture.engine), id).await.expect("deleted");
    assert_eq!(fixture.points().await, 0);
}

#[tokio::test]
async fn what_makes_room_takes_what_it_was_before() {
    let fixture = Fixture::with(|config| config.levels.short_term.capacity = Some(1)).await;
    let id = fixture.stored(json!({"text": "one", "session": "s"})).await;
    fixture.engine.update(&mine(&fixture.engine), id, message(json!({"text": "one more"}))).await.expect("changed");
    fixture.stored(json!({"text": "two", "session": "s"})).await;
    fixture.tick().await;
    assert_eq!(fixture.points().await, 1);
}

#[tokio::test]
async fn a_deletion_reaches_what_was_stored_before_the_clock_was_set_back() {
    let fixture = Fixture::new().await;
    let id = fixture.stored(json!({"text": "tea", "metadata": {"topic": "tea"}})).await;
    let mut point = fixture.engine.inner.point_of(fixture.engine.owner(), id.into()).await.expect("there");
    point.context.created_at = now() + Duration::from_hours(1);
    fixture.engine.inner.store.upsert(vec![point]).await.expect("stored");
    assert_eq!(fixture.delete_where(json!({"filter": {"topic": {"eq": "tea"}}})).await, 1);
    assert_eq!(fixture.points().await, 0);
}

/// A context's lock can be the one of its session: there are fewer locks than names.
#[tokio::test]
async fn a_promotion_in_a_full_session_waits_for_no_lock_that_is_held_for_it() {
    let fixture = Fixture::with(|config| {
        config.levels.short_term.capacity = Some(1);
        config.levels.promotion.min_accesses = Some(1);
    })
    .await;
    let session = convert::session("s").expect("a name");
    let shares = |id: &Uuid| locks::is_shared(&Key::Context((*id).into()), &Key::Session(&session));
    let id = (1..100_000).map(Uuid::from_u128).find(shares).expect("one of a few hundred");
    fixture.stored(json!({"id": id, "text": "the harbour", "session": "s"})).await;
    fixture.stored(json!({"text": "the mill", "session": "s"})).await;
    // As if the accesses had been written by an earlier turn that could not promote any more.
    let access = crate::ports::vector_store::Access { id: id.into(), times: 1, at: now() };
    fixture.engine.inner.store.count_accesses(fixture.engine.owner(), vec![access]).await.expect("counted");
    let turn = tokio::time::timeout(Duration::from_secs(10), fixture.engine.tick()).await;
    turn.expect("the turn ends").expect("regular work");
    assert_eq!(fixture.levels().await["the harbour"], Level::LongTerm);
}

#[tokio::test]
async fn accesses_of_an_immediate_context_count_when_it_has_become_short_term() {
    let fixture = Fixture::with(|config| {
        config.levels.immediate.capacity = Some(1);
        config.levels.promotion.min_accesses = Some(3);
    })
    .await;
    let turn = |text: &str| json!({"text": text, "session": "s", "level": "immediate"});
    let id = fixture.stored(turn("the harbour")).await;
    for _ in 0..2 {
        assert_eq!(fixture.texts(json!({"query": "harbour"})).await, ["the harbour"]);
    }
    fixture.tick().await;
    fixture.stored(turn("something else")).await;
    let moved = fixture.engine.inner.point_of(fixture.engine.owner(), id.into()).await.expect("there").context;
    assert_eq!((convert::level_message(moved.level), moved.access_count), (Level::ShortTerm, 2));
    fixture.texts(json!({"query": "harbour"})).await;
    fixture.tick().await;
    assert_eq!(fixture.levels().await["the harbour"], Level::LongTerm);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_memory_answers_is_in_the_store_whatever_runs_beside() {
    let fixture = Fixture::new().await;
    for round in 0..12 {
        let turn = |number: usize| json!({"text": format!("apple {round} {number}"), "session": "s", "level": "immediate", "metadata": {"n": number}});
        let ids = join_all((0..8).map(|number| fixture.stored(turn(number)))).await;
        let engine = &fixture.engine;
        let updates = ids.iter().map(|id| async {
            let _ = engine.update(&mine(engine), *id, message(json!({"text": format!("apple {round} again")}))).await;
        });
        let deletions = fixture.delete_where(json!({"filter": {"n": {"range": {"lt": 6}}}}));
        let ((), _, _) = tokio::join!(async { drop(join_all(updates).await) }, deletions, async {
            if round % 3 == 0 { clear(engine, "s").await.map(drop) } else { engine.tick().await }
        });
        let there: BTreeSet<String> = fixture.all().await.into_iter().map(|context| context.text).collect();
        let held: BTreeSet<String> =
            fixture.texts(json!({"query": "apple", "levels": ["immediate"]})).await.into_iter().collect();
        assert!(held.is_subset(&there), "round {round}: {held:?} is not in {there:?}");
    }
}

#[tokio::test]
async fn what_expires_while_the_embedding_takes_its_time_is_not_returned() {
    let route = axum::routing::post(|axum::Json(body): axum::Json<Value>| async move {
        let texts = body["input"].as_array().cloned().unwrap_or_default();
        if texts.len() == 1 {
            // A query; a context comes with two texts.
            tokio::time::sleep(Duration::from_millis(600)).await;
        }
        let data = (0..texts.len()).map(|index| json!({"index": index, "embedding": [1, index]}));
        axum::Json(json!({"data": data.collect::<Vec<_>>()}))
    });
    let url = api(route).await;
    let fixture = Fixture::with(|config| config.embedding = embedded_by(url, "slow")).await;
    fixture.stored(json!({"text": "tea for a moment", "ttl": "400ms"})).await;
    fixture.stored(json!({"text": "tea that stays"})).await;
    assert_eq!(fixture.texts(json!({"query": "tea"})).await, ["tea that stays"]);
}
