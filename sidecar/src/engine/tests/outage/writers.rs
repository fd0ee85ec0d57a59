//! Writers while the last journaled writes are brought to the store, and somebody else writes for long.

use super::*;

/// Lets a write wait in the journal, and a deletion behind it, while the store works: the next step brings the first one.
async fn let_two_wait(outage: &Outage, gone: Uuid) {
    outage.switch.holds_back.store(true, Ordering::Release);
    assert_eq!(outage.store(json!({"text": "the first that waits"})).await.status, AckStatus::Journaled);
    let deleted = outage.engine.delete(&mine(&outage.engine), gone).await.expect("journaled");
    assert_eq!(deleted.status, AckStatus::Journaled);
    assert!(outage.engine.drain().await.expect("drained"), "the store takes writes, and one more waits");
}

fn drain_beside(outage: &Arc<Outage>) -> tokio::task::JoinHandle<()> {
    let outage = Arc::clone(outage);
    tokio::spawn(async move { while outage.engine.drain().await.expect("drained") {} })
}

const TRIP: usize = 3_000;

/// Stores many contexts and begins to delete them, a page of 100 in 400 ms. Returns when the first page is gone.
async fn begin_large_deletion(outage: &Arc<Outage>) -> tokio::task::JoinHandle<Cleared> {
    for start in (0..TRIP).step_by(100) {
        let note = |number| json!({"text": format!("note {number}"), "level": "long_term", "metadata": {"of": "trip"}});
        let notes = (start..start + 100).map(|number| (mine(&outage.engine), message(note(number)))).collect();
        outage.engine.store_batch(notes, None).await.expect("stored");
    }
    let all = contexts(outage).await;
    outage.switch.deletion_takes.store(400, Ordering::Release);
    let deleting = Arc::clone(outage);
    let deletion = tokio::spawn(async move {
        delete_matching(&deleting.engine, json!({"filter": {"of": {"eq": "trip"}}})).await.expect("deleted")
    });
    while contexts(outage).await == all {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    deletion
}

async fn contexts(outage: &Outage) -> usize {
    outage.switch.store.stats().await.expect("figures").points
}

async fn texts(outage: &Outage) -> Vec<String> {
    let mut texts: Vec<String> = outage.listed().await.into_iter().map(|(text, _)| text).collect();
    texts.sort_unstable();
    texts
}

/// A drain wants to be the only writer. It did not get there before the end of the deletion, and no other writer before the drain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_the_end_of_a_large_deletion_when_a_drain_begins_meanwhile() {
    let outage = Arc::new(Outage::new().await);
    let gone = outage.store(json!({"text": "gone"})).await.id;
    let deletion = begin_large_deletion(&outage).await;
    let_two_wait(&outage, gone).await;
    let drained = drain_beside(&outage);
    tokio::time::sleep(Duration::from_millis(200)).await;

    outage.store(json!({"text": "written meanwhile"})).await;
    let left = contexts(&outage).await;
    assert!(left > 200, "the writer waited until {left} contexts were left of {TRIP}");
    outage.switch.deletion_takes.store(0, Ordering::Release);
    deletion.await.expect("a task");
    drained.await.expect("drained");
    outage.back().await;
    assert_eq!(texts(&outage).await, ["the first that waits", "written meanwhile"]);
    assert_eq!(contexts(&outage).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_of_a_large_deletion_waits_behind_what_waits_meanwhile() {
    let outage = Arc::new(Outage::new().await);
    let gone = outage.store(json!({"text": "gone"})).await.id;
    let deletion = begin_large_deletion(&outage).await;
    let_two_wait(&outage, gone).await;
    let Cleared { deleted, journaled } = deletion.await.expect("a task");
    assert!(journaled && (100..TRIP).contains(&deleted), "{deleted}, {journaled}");
    assert!(contexts(&outage).await > 100, "the rest is there until its turn has come");
    assert_eq!(texts(&outage).await, ["the first that waits"], "which nobody sees");
    outage.switch.deletion_takes.store(0, Ordering::Release);
    outage.back().await;
    assert_eq!(texts(&outage).await, ["the first that waits"]);
    assert_eq!(contexts(&outage).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_and_the_writers_behind_it_do_not_wait_for_a_write_that_takes_long() {
    let outage = Arc::new(Outage::new().await);
    let gone = outage.store(json!({"text": "gone"})).await.id;
    let_two_wait(&outage, gone).await;
    let long = outage.engine.inner.writes.read().await;
    let drained = drain_beside(&outage);
    tokio::time::sleep(Duration::from_millis(200)).await;

    let written = tokio::time::timeout(Duration::from_secs(20), outage.store(json!({"text": "written meanwhile"})));
    written.await.expect("the writer does not wait for the other's end");
    tokio::time::timeout(Duration::from_secs(20), drained).await.expect("nor does the drain").expect("drained");
    drop(long);
    outage.back().await;
    assert_eq!(texts(&outage).await, ["the first that waits", "written meanwhile"]);
}

/// Those that share a sync of the journal come back from it in any order.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_seen_of_writes_beside_deletions_by_conditions_is_what_reaches_the_store() {
    const ROUNDS: usize = 150;
    let outage = Outage::new().await;
    outage.cut();
    let note = |text: &str, number: usize| json!({"text": format!("{text} {number}"), "level": "long_term", "metadata": {"of": number}});
    for number in 0..ROUNDS {
        let there = outage.store(note("there", number)).await.id;
        let (engine, context) = (outage.engine.clone(), note("beside", number));
        let stored = tokio::spawn(async move { store(&engine, context).await });
        let (engine, change) = (outage.engine.clone(), message(json!({"text": format!("changed {number}")})));
        let changed = tokio::spawn(async move { engine.update(&mine(&engine), there, change).await });
        let engine = outage.engine.clone();
        let deletion = json!({"filter": {"of": {"eq": number}}});
        let deleted = tokio::spawn(async move { delete_matching(&engine, deletion).await });
        stored.await.expect("a task").expect("journaled");
        // It may be gone already.
        drop(changed.await.expect("a task"));
        deleted.await.expect("a task").expect("journaled");
    }
    let seen = texts(&outage).await;
    outage.back().await;
    assert_eq!(texts(&outage).await, seen);
}

/// Whoever changes the model waits for all that is under way, and every search and write for the change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_the_model_does_not_wait_for_the_end_of_a_large_deletion() {
    let outage = Arc::new(Outage::new().await);
    let deletion = begin_large_deletion(&outage).await;
    let mut config = outage.config.clone();
    config.embedding.dimensions = 64;
    outage.engine.reconfigure(&config).await.expect("another model");
    let left = contexts(&outage).await;
    assert!(left > 200, "the change waited until {left} contexts were left of {TRIP}");
    outage.switch.deletion_takes.store(0, Ordering::Release);
    assert_eq!(deletion.await.expect("a task").deleted, TRIP);
    assert_eq!(contexts(&outage).await, 0);
}
