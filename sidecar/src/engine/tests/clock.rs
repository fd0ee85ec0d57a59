//! The wall clock jumps by hours, either way, while contexts are stored, read, changed, given vectors and deleted.

use super::*;
use crate::{clock::jump_to, engine::locks::Key};

const HOURS: i64 = 3 * 3_600;

fn sorted(mut texts: Vec<String>) -> Vec<String> {
    texts.sort();
    texts
}

async fn listed(fixture: &Fixture) -> Vec<String> {
    sorted(fixture.all().await.into_iter().map(|context| context.text).collect())
}

async fn found(fixture: &Fixture) -> Vec<String> {
    sorted(fixture.texts(json!({"query": "tea"})).await)
}

#[tokio::test]
async fn what_expired_is_never_returned_and_comes_back_with_the_clock_only_if_it_was_not_collected() {
    let fixture = Fixture::new().await;
    for (text, level) in [("fresh tea", "immediate"), ("recent tea", "short_term")] {
        fixture.stored(json!({"text": text, "level": level, "ttl": "1h", "session": "s"})).await;
    }
    fixture.stored(json!({"text": "kept tea", "level": "long_term", "session": "s"})).await;
    let all = ["fresh tea", "kept tea", "recent tea"];
    assert_eq!(
        (found(&fixture).await, listed(&fixture).await),
        (all.map(str::to_owned).into(), all.map(str::to_owned).into())
    );

    jump_to(HOURS);
    assert_eq!(
        (found(&fixture).await, listed(&fixture).await),
        (vec!["kept tea".to_owned()], vec!["kept tea".to_owned()])
    );
    jump_to(0);
    assert_eq!(listed(&fixture).await, all, "nothing was deleted yet");

    jump_to(HOURS);
    assert_eq!(fixture.engine.collect_garbage(100).await.expect("collected"), 2);
    jump_to(0);
    assert_eq!(
        (found(&fixture).await, listed(&fixture).await),
        (vec!["kept tea".to_owned()], vec!["kept tea".to_owned()])
    );
}

/// Contexts that seem to be of the future are read, changed, superseded and deleted like any other, and a session keeps its order.
#[tokio::test]
async fn a_clock_set_back_hides_nothing_and_stops_nothing() {
    let fixture = Fixture::new().await;
    let first = fixture.stored(json!({"text": "first tea", "session": "s", "level": "long_term"})).await;
    let second = fixture.stored(json!({"text": "second tea", "session": "s", "level": "long_term"})).await;

    jump_to(-HOURS);
    assert_eq!(listed(&fixture).await, ["first tea", "second tea"]);
    assert_eq!(found(&fixture).await, ["first tea", "second tea"]);
    fixture.stored(json!({"text": "third tea", "session": "s", "level": "long_term", "ttl": "1h"})).await;
    let selection = Selection::alive(fixture.engine.inner.owner.clone(), now());
    let mut session = fixture.engine.inner.store.list(selection, None, 100).await.expect("a page").contexts;
    session.sort_by_key(|context| context.sequence);
    let order: Vec<&str> = session.iter().map(|context| context.text.as_str()).collect();
    assert_eq!(order, ["first tea", "second tea", "third tea"], "the order of a session is not the clock's");

    let change = message(json!({"text": "changed tea", "if_version": 1}));
    let changed = fixture.engine.update(&mine(&fixture.engine), first, change).await.expect("changed");
    assert_eq!(changed.version, 2);
    fixture.stored(json!({"text": "instead of the second tea", "level": "long_term", "supersedes": [second]})).await;
    assert_eq!(found(&fixture).await, ["changed tea", "instead of the second tea", "third tea"]);
    fixture.tick().await;

    // Its hour is counted from when it was stored, so that it is over when the clock is right again.
    jump_to(0);
    assert_eq!(found(&fixture).await, ["changed tea", "instead of the second tea"]);
    jump_to(-HOURS);
    clear(&fixture.engine, "s").await.expect("cleared");
    assert_eq!(listed(&fixture).await, ["instead of the second tea"]);
    jump_to(0);
    assert_eq!(listed(&fixture).await, ["instead of the second tea"], "what was deleted stays so");
}

#[tokio::test]
async fn a_time_to_live_that_was_asked_for_does_not_begin_again_on_another_level() {
    let fixture = Fixture::with(|config| config.levels.immediate.capacity = Some(1)).await;
    let turn = |text: &str| json!({"text": text, "level": "immediate", "session": "s", "ttl": "1h"});
    let first = fixture.store(turn("first tea")).await.expect("stored");
    jump_to(1_800);
    fixture.stored(turn("second tea")).await;
    let moved = fixture.engine.get(&mine(&fixture.engine), first.id, None).await.expect("there");
    assert_eq!((moved.level, moved.expires_at), (Level::ShortTerm, first.expires_at));
    jump_to(3_660);
    assert!(matches!(fixture.engine.get(&mine(&fixture.engine), first.id, None).await, Err(Error::NotFound(_))));
    assert_eq!(listed(&fixture).await, ["second tea"]);
}

/// What is written goes by the time of its request, and what makes room for it by the time at which it does.
#[tokio::test]
async fn what_expires_while_a_write_waits_does_not_live_on_on_another_level() {
    let fixture = Fixture::with(|config| config.levels.immediate.capacity = Some(1)).await;
    let turn = |text: &str| json!({"text": text, "level": "immediate", "session": "s"});
    let first = fixture.stored(turn("first tea")).await;
    let session = convert::session("s").expect("a name");
    let held = fixture.engine.inner.locks.hold([Key::Session(&session)]).await;
    jump_to(3_590);
    let (engine, second) = (fixture.engine.clone(), turn("second tea"));
    let stored = tokio::spawn(async move { store(&engine, second).await });
    // As soon as it is a writer, it waits for its session.
    while fixture.engine.inner.writes.try_write().is_ok() {
        tokio::task::yield_now().await;
    }
    jump_to(3_660);
    drop(held);
    stored.await.expect("a task").expect("stored");
    assert!(matches!(fixture.engine.get(&mine(&fixture.engine), first, None).await, Err(Error::NotFound(_))));
    assert_eq!(listed(&fixture).await, ["second tea"]);
}

/// The re-embedding goes by the monotonic clock, and finds contexts whatever the wall clock says of their age.
#[tokio::test]
async fn a_jump_in_the_middle_of_a_re_embedding_leaves_no_context_without_vectors() {
    let fixture = Fixture::new().await;
    for number in 0..40 {
        fixture.stored(json!({"text": format!("tea {number}"), "level": "long_term"})).await;
    }
    for (dimensions, jump) in [(64, -HOURS), (128, HOURS)] {
        let mut config = fixture.config.clone();
        config.embedding.dimensions = dimensions;
        config.embedding.re_embedding.contexts_per_second = 10_000.0;
        jump_to(0);
        fixture.engine.reconfigure(&config).await.expect("taken over");
        assert!(fixture.engine.embed_missing().await.expect("a batch").is_some());
        jump_to(jump);
        fixture.embed_missing().await;
        let answer = fixture.search(json!({"query": "tea 7", "limit": 40, "token_budget": 10_000})).await;
        assert_eq!((answer.contexts.len(), answer.degraded), (40, Vec::<String>::new()), "{dimensions}");
        jump_to(0);
        let selection = Selection::alive(fixture.engine.inner.owner.clone(), now());
        let missing = fixture.engine.inner.store.count(Selection { dense: Dense::Missing, ..selection });
        assert_eq!(missing.await.expect("a count"), 0, "{dimensions}");
        // Former vectors are kept for as long as the configuration says, and a jump is no such time.
        assert!(fixture.engine.inner.metrics.re_embedding.dropped.get() == 0);
    }
}
