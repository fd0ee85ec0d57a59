//! The regular work while the store goes away, and while contexts change beside it.

use context_manager_memory::{AgentId, Holder, SpaceId, TenantId, promotion};

use super::*;
use crate::engine::{locks::Key, tests::sharing::rule, upkeep::HELD_AT_ONCE};

#[tokio::test]
async fn accesses_that_were_not_counted_are_counted_later_and_once() {
    const MANY: usize = 600;
    let outage = Outage::new().await;
    for start in (0..MANY).step_by(100) {
        let context = |number| (mine(&outage.engine), message(json!({"text": format!("note {number}")})));
        outage.engine.store_batch((start..start + 100).map(context).collect(), None).await.expect("stored");
    }
    let inner = &outage.engine.inner;
    let all = || async {
        let selection = Selection::alive(outage.engine.owner().clone(), now());
        inner.store.list(selection, None, 2 * MANY).await.expect("a page").contexts
    };
    inner.upkeep.count_accesses(all().await.iter(), now());

    outage.switch.leaves_after_counting.store(true, Ordering::Release);
    assert!(outage.engine.tick().await.is_err(), "the store went away after the first of the batches");
    outage.back().await;
    outage.engine.tick().await.expect("regular work");
    let counts: Vec<i64> = all().await.iter().map(|context| context.access_count).collect();
    assert_eq!((counts.len(), counts.iter().min(), counts.iter().max()), (MANY, Some(&1), Some(&1)));
}

#[tokio::test]
async fn a_promotion_that_the_store_went_away_before_is_made_later() {
    let mut outage = Outage::new().await;
    outage.config.levels.promotion.min_accesses = Some(1);
    outage.engine.reconfigure(&outage.config).await.expect("a valid configuration");
    let id = outage.store(json!({"text": "the blue door"})).await.id;
    assert_eq!(outage.texts("blue door").await, ["the blue door"]);
    outage.switch.leaves_after_counting.store(true, Ordering::Release);
    assert!(outage.engine.tick().await.is_err());
    outage.back().await;
    outage.engine.tick().await.expect("regular work");
    let kept = outage.engine.inner.point_of(outage.engine.owner(), id.into()).await.expect("there").context;
    assert_eq!((kept.level, kept.access_count), (context_manager_memory::Level::LongTerm, 1));
}

#[tokio::test]
async fn what_expires_while_its_promotion_waits_does_not_live_on() {
    let mut outage = Outage::new().await;
    outage.config.levels.promotion.min_accesses = Some(1);
    outage.engine.reconfigure(&outage.config).await.expect("a valid configuration");
    let id = outage.store(json!({"text": "the blue door"})).await.id;
    assert_eq!(outage.texts("blue door").await, ["the blue door"]);
    let inner = &outage.engine.inner;
    let held = inner.locks.hold([Key::Context(id.into())]).await;
    jump_to(3_590);
    let read = || outage.switch.points_read.load(Ordering::Acquire);
    let (before, engine) = (read(), outage.engine.clone());
    let tick = tokio::spawn(async move { engine.tick().await });
    // As soon as it has read the context, it waits for it.
    while read() == before {
        tokio::task::yield_now().await;
    }
    jump_to(3_660);
    drop(held);
    tick.await.expect("a task").expect("regular work");
    assert!(matches!(outage.engine.get(&mine(&outage.engine), id, None).await, Err(Error::NotFound(_))));
    assert_eq!(inner.metrics.contexts.promoted.get(), 0);
}

#[tokio::test]
async fn a_context_that_is_moved_or_deleted_when_it_is_to_make_room_does_not_and_no_other_does_for_it() {
    let mut outage = Outage::new().await;
    outage.config.levels.short_term.capacity = Some(3);
    outage.config.levels.promotion.min_accesses = None;
    outage.engine.reconfigure(&outage.config).await.expect("a valid configuration");
    let mut ids = Vec::new();
    for text in ["zero", "one", "two", "three", "four", "five"] {
        ids.push(ContextId::new(outage.store(json!({"text": text, "session": "s"})).await.id));
    }
    let inner = &outage.engine.inner;
    let held = inner.locks.hold([Key::Context(ids[0])]).await;
    let engine = outage.engine.clone();
    let tick = tokio::spawn(async move { engine.tick().await });
    // It has picked the three oldest by then, and waits for the first of them.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let zero = inner.store.find(vec![ids[0]]).await.expect("found").remove(0);
    let policy = inner.policy.load_full();
    let moved = promotion::moved(&zero, context_manager_memory::Level::LongTerm, now(), &policy.ttls);
    let written = inner.store.update(moved, None, zero.version).await.expect("written");
    assert_eq!(written, Updated::Applied);
    inner.store.delete(outage.engine.owner(), vec![ids[1]]).await.expect("deleted");
    drop(held);
    tick.await.expect("a task").expect("regular work");
    let mut left: Vec<String> = outage.listed().await.into_iter().map(|(text, _)| text).collect();
    left.sort_unstable();
    assert_eq!(left, ["five", "four", "three", "zero"], "one of three was still to go");
}

/// In a store that others use as well.
#[tokio::test]
async fn garbage_is_that_of_the_agent_and_of_the_spaces_it_may_write_to() {
    let rules = [
        rule(&[Operation::Read, Operation::Store], None, Some("team")),
        rule(&[Operation::Read, Operation::Export], None, Some("board")),
        rule(&Operation::ALL, Some("planner"), None),
    ];
    let outage = Outage::new().await;
    let config = SidecarConfig { access: rules.to_vec(), ..outage.config.clone() };
    outage.engine.reconfigure(&config).await.expect("other rules");
    let Owner { tenant, holder } = outage.engine.owner().clone();
    let space = |name: &str| Holder::from(SpaceId::new(name).expect("a name"));
    let planner = AgentId::new("planner").expect("a name").into();
    let elsewhere = TenantId::new("team-b").expect("a name");
    let holders = [
        (&tenant, holder.clone()),
        (&tenant, space("team")),
        (&tenant, space("board")),
        (&tenant, planner),
        (&elsewhere, holder),
        (&elsewhere, space("team")),
    ];
    let expired: Vec<Point> = holders
        .into_iter()
        .map(|(tenant, holder)| {
            let id = Uuid::now_v7().into();
            let level = context_manager_memory::Level::ShortTerm;
            let context = Stored::new(id, tenant.clone(), holder, level, "tea", now());
            Point { context: Stored { expires_at: Some(now()), ..context }, vectors: Vectors::default() }
        })
        .collect();
    let ids: Vec<ContextId> = expired.iter().map(|point| point.context.id).collect();
    // What is written elsewhere is looked after, and yet not collected.
    outage.store(json!({"text": "the kettle", "scope": {"agent": "planner"}})).await;
    let store = &outage.engine.inner.store;
    store.upsert(expired).await.expect("stored");
    assert_eq!(outage.engine.count_garbage().await.expect("counted"), 2);
    assert_eq!(outage.engine.collect_garbage(100).await.expect("collected"), 2);
    let left: BTreeSet<ContextId> = store.find(ids.clone()).await.expect("read").into_iter().map(|c| c.id).collect();
    assert_eq!(left, ids[2..].iter().copied().collect());
    assert_eq!(outage.engine.count_garbage().await.expect("counted"), 0);
}

#[tokio::test]
async fn writes_are_flushed_whatever_comes_of_the_rest_of_a_turn() {
    let outage = Outage::new().await;
    outage.store(json!({"text": "the blue door"})).await;
    assert_eq!(outage.texts("blue door").await, ["the blue door"]);
    outage.switch.leaves_after_counting.store(true, Ordering::Release);
    assert!(outage.engine.tick().await.is_err(), "the store went away before the end of the turn");
    let text = outage.engine.inner.metrics.render().expect("metrics");
    let flushed = "context_manager_vector_store_duration_seconds_count{operation=\"flush\",outcome=\"ok\"} 1\n";
    assert!(text.contains(flushed), "{text}");
}

#[tokio::test]
async fn a_turn_looks_at_some_of_many_sessions_and_the_next_one_at_the_others() {
    let outage = Outage::new().await;
    let inner = &outage.engine.inner;
    for number in 0..10_000 {
        let session = SessionId::new(format!("s{number}")).expect("a name");
        inner.upkeep.touch(outage.engine.owner().clone(), session);
    }
    let noted = inner.upkeep.touched();
    assert!(noted < 10_000, "{noted} are noted");
    outage.engine.tick().await.expect("regular work");
    assert_eq!(inner.upkeep.touched(), noted - HELD_AT_ONCE);
    outage.cut();
    assert!(outage.engine.tick().await.is_err());
    assert_eq!(inner.upkeep.touched(), noted - HELD_AT_ONCE, "none is forgotten for a failure");
}

/// Who changes the model waits for one step.
#[tokio::test]
async fn a_step_of_the_look_for_missing_vectors_is_about_one_of_many_memories() {
    let outage = Outage::new().await;
    let config = SidecarConfig { access: vec![rule(&Operation::ALL, None, Some("*"))], ..outage.config.clone() };
    outage.engine.reconfigure(&config).await.expect("other rules");
    for number in 0..5 {
        outage.store(json!({"text": "tea", "scope": {"space": format!("space-{number}")}})).await;
    }
    assert_eq!(outage.engine.inner.looked_after().len(), 6);
    let (mut steps, calls) = (0, || outage.switch.calls.load(Ordering::Acquire));
    loop {
        let before = calls();
        let pause = outage.engine.embed_missing().await.expect("nothing to do");
        assert!(calls() - before <= 3, "{} calls in one step", calls() - before);
        steps += 1;
        if pause.is_none() {
            break;
        }
    }
    assert_eq!(steps, 6, "one for each memory");
}
