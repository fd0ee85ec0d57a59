//! Contexts that are stored at the same time: one call carries them, and each caller is told about its own.

use std::{collections::BTreeMap, time::Duration};

use context_manager_memory::{
    Level,
    store::{Ids, Point, Selection},
};
use context_manager_qdrant::{Collection, Error, Options, Trust};
use context_manager_test_qdrant::Mode;
use futures::future::join_all;
use qdrant_client::qdrant::{
    StrictModeConfig, StrictModeSparse, StrictModeSparseConfig, UpdateCollection, collections_client::CollectionsClient,
};

use super::fixture::{NOW, Running, connect, options, owner, point};

async fn insert(collection: &Collection, points: &[Point]) -> Result<(), Error> {
    collection.insert(points, Ids::Fresh, NOW).await
}

/// Inserts all at once, each by a caller of its own.
async fn insert_each(collection: &Collection, points: &[Point]) -> Vec<Result<(), Error>> {
    join_all(points.chunks(1).map(|point| insert(collection, point))).await
}

fn points(numbers: std::ops::Range<u16>) -> Vec<Point> {
    numbers.map(|number| point(number, Level::LongTerm, "green tea")).collect()
}

#[tokio::test]
async fn who_comes_while_a_call_is_under_way_shares_the_next_one() {
    let server = Running::start(|server| server).await;
    let collection = connect(server.plain(), Trust::WebRoots);
    collection.open().await.expect("made");
    let _ = server.control.take_calls();
    let outcomes = insert_each(&collection, &points(0..16)).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(
        server.control.take_calls(),
        BTreeMap::from([("upsert", 2)]),
        "the first, and one for the other fifteen"
    );
    let long: Vec<Point> =
        (20..30).map(|number| point(number, Level::LongTerm, &"green tea ".repeat(10_000))).collect();
    let outcomes = insert_each(&collection, &long).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(
        server.control.take_calls(),
        BTreeMap::from([("upsert", 3)]),
        "the first, and of 100 KB each five and four"
    );
    // More than one call carries.
    let outcomes = insert_each(&collection, &points(100..300)).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(server.control.take_calls(), BTreeMap::from([("upsert", 5)]), "the first, and 64, 64, 64 and 7");
    let all = Selection::alive(owner(), NOW);
    assert_eq!(collection.count(&all).await.expect("counted"), 226, "each is there, and once");
}

#[tokio::test]
async fn what_the_server_refuses_of_one_caller_is_not_refused_to_the_others() {
    let server = Running::start(|server| server).await;
    let collection = connect(server.plain(), Trust::WebRoots);
    collection.open().await.expect("made");
    let named = [("sparse_self".to_owned(), StrictModeSparse { max_length: Some(3) })].into();
    let sparse_config = Some(StrictModeSparseConfig { sparse_config: named });
    let limits = StrictModeConfig { enabled: Some(true), sparse_config, ..StrictModeConfig::default() };
    let mut collections = CollectionsClient::connect(server.plain()).await.expect("reached");
    let change = UpdateCollection {
        collection_name: "memory".to_owned(),
        strict_mode_config: Some(limits),
        ..UpdateCollection::default()
    };
    collections.update(change).await.expect("limited");
    let mut brought = points(0..8);
    brought[5] = point(5, Level::LongTerm, "black white green yellow oolong tea");
    let outcomes = insert_each(&collection, &brought).await;
    for (number, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome.as_ref().is_err_and(Error::is_refusal), number == 5, "{number}: {outcome:?}");
    }
    let all = Selection::alive(owner(), NOW);
    assert_eq!(collection.count(&all).await.expect("counted"), 7);
}

#[tokio::test]
async fn nobody_waits_for_two_deadlines_of_a_server_that_hangs() {
    let server = Running::start(|server| server).await;
    let deadline = Duration::from_secs(2);
    let collection =
        Collection::connect(Options { timeout: deadline, ..options(server.plain()) }).expect("usable options");
    collection.open().await.expect("made");
    server.control.set(Mode::Hangs);
    let _ = server.control.take_calls();
    let outcomes = insert_each(&collection, &points(0..8)).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(Error::Deadline { .. }))), "{outcomes:?}");
    assert_eq!(server.control.take_calls(), BTreeMap::from([("upsert", 1)]), "no second call was waited for");
}

#[tokio::test]
async fn a_caller_that_goes_away_takes_no_other_one_with_it() {
    let server = Running::start(|server| server).await;
    let collection = connect(server.plain(), Trust::WebRoots);
    collection.open().await.expect("made");
    let brought = points(0..5);
    let call = |number: usize| {
        let (collection, brought) = (collection.clone(), brought.clone());
        tokio::spawn(async move { insert(&collection, &brought[number..=number]).await })
    };
    let settle = || tokio::time::sleep(Duration::from_millis(200));
    server.control.set(Mode::Hangs);
    let (first, second) = (call(0), call(1));
    settle().await;
    let (third, fourth, fifth) = (call(2), call(3), call(4));
    settle().await;
    // Who waits, then who makes a call that hangs; the second makes the next one for the two that are left, and goes away in it.
    third.abort();
    first.abort();
    settle().await;
    server.control.set(Mode::Serves);
    second.abort();
    for waiting in [fourth, fifth] {
        waiting.await.expect("it went on").expect("written by one of the two");
    }
    let there = collection.list(&Selection::alive(owner(), NOW), None, 10).await.expect("listed").contexts;
    let ids: Vec<_> = there.iter().map(|context| context.id).collect();
    assert_eq!(ids, [brought[3].context.id, brought[4].context.id], "what nobody waited for any more was not written");
}
