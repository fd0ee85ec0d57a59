//! What becomes of calls that nobody waits for any more, on a real engine.

use std::{sync::mpsc, time::Duration};

use context_manager_memory::{AgentId, Level, QueryVectors, TenantId, lexical::Bm25};
use tempfile::TempDir;
use tokio::{runtime::Builder, sync::oneshot, time::timeout};
use uuid::Uuid;

use super::*;

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

async fn open(directory: &TempDir, metrics: &Arc<Metrics>) -> Arc<Embedded> {
    let config = config::EmbeddedStore { path: directory.path().join("data"), durability: config::Durability::Process };
    let model = Model { name: "model".to_owned(), dimensions: 4 };
    let opening = Embedded::open(&config, model, OnModelChange::Refuse, Arc::clone(metrics));
    Arc::new(Box::pin(opening).await.expect("a store"))
}

fn owner() -> Owner {
    Owner::new(TenantId::new("team").expect("a name"), AgentId::new("agent").expect("a name"))
}

fn point(number: u16) -> Point {
    let Owner { tenant, holder } = owner();
    let id = ContextId::new(Uuid::from_u128(u128::from(number) + 1));
    let context = Context::new(id, tenant, holder, Level::LongTerm, format!("tea number {number}"), NOW);
    let terms = Bm25::default().document(&context.text);
    let dense = Some(vec![1.0, f32::from(number), 0.0, 0.0]);
    let vectors =
        Vectors { dense_self: dense.clone(), dense_ctx: dense, sparse_self: terms.clone(), sparse_ctx: terms };
    Point { context, vectors }
}

fn searches(count: usize) -> Vec<Search> {
    let query = QueryVectors { dense: Some(vec![1.0, 2.0, 0.0, 0.0]), sparse: Some(Bm25::default().document("tea")) };
    let search =
        Search { query, selection: Selection::alive(owner(), NOW), per_leg: Search::PER_LEG, frequencies: None };
    vec![search; count]
}

/// How many searches one call must have to take so long.
async fn enough_for(store: &Embedded, time: Duration) -> usize {
    let mut count = 64;
    loop {
        let since = Instant::now();
        store.candidates(searches(count)).await.expect("found");
        if since.elapsed() >= time {
            return count;
        }
        count *= 2;
    }
}

/// How many calls the engine has answered.
fn answered(metrics: &Metrics, operation: &str) -> usize {
    let name = "context_manager_vector_store_duration_seconds_count";
    let text = metrics.render().expect("text");
    let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(operation));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_that_nobody_waits_for_keeps_its_place_until_it_ends() {
    let (directory, metrics) = (TempDir::new().expect("a directory"), Arc::new(Metrics::new()));
    let store = open(&directory, &metrics).await;
    store.upsert((0..200).map(point).collect()).await.expect("stored");
    let slow = enough_for(&store, Duration::from_millis(700)).await;
    let before = answered(&metrics, "\"candidates\"");

    let places = store.searching.available_permits();
    // On a busy machine some are given up before they begin.
    for _ in 0..100 {
        if store.searching.available_permits() == 0 {
            break;
        }
        let given_up = timeout(Duration::from_millis(50), store.candidates(searches(slow))).await;
        assert!(given_up.is_err(), "it takes longer");
    }
    assert_eq!(store.searching.available_permits(), 0, "the engine still computes what was given up");
    for _ in 0..5 {
        let waited = timeout(Duration::from_millis(5), store.candidates(searches(slow))).await;
        assert!(waited.is_err(), "there is no place");
    }
    let found = store.candidates(searches(1)).await.expect("found as soon as one of them has ended");
    assert!(!found.is_empty());
    let _all = store.permits.acquire_many(PARALLEL).await.expect("not closed");
    assert_eq!(answered(&metrics, "\"candidates\"") - before, places + 1, "none of those that waited has begun");
}

#[test]
fn a_call_that_is_given_up_before_a_thread_is_free_never_begins() {
    let runtime = Builder::new_multi_thread().worker_threads(2).max_blocking_threads(1).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let (directory, metrics) = (TempDir::new().expect("a directory"), Arc::new(Metrics::new()));
        let store = open(&directory, &metrics).await;
        let (start, begun) = oneshot::channel();
        let (finish, ended) = mpsc::channel::<()>();
        let busy = tokio::spawn({
            let store = Arc::clone(&store);
            async move {
                let work = move |_: &Shard| {
                    start.send(()).expect("somebody waits for it");
                    ended.recv().ok();
                    Ok(())
                };
                store.call(StoreOperation::Stats, work).await
            }
        });
        begun.await.expect("the only thread is busy");
        let given_up = timeout(Duration::from_millis(50), store.upsert(vec![point(1)])).await;
        assert!(given_up.is_err(), "no thread is free");
        finish.send(()).expect("the work waits for it");
        busy.await.expect("a task").expect("done");
        assert_eq!(store.count(Selection::alive(owner(), NOW)).await.expect("counted"), 0);
        assert_eq!(store.permits.available_permits(), PARALLEL as usize, "its place was given back");
    });
}
