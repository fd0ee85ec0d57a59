//! The embedding model changes while the engine runs: the built-in one with other dimensions is another one.

use std::sync::atomic::AtomicUsize;

use context_manager_memory::{ContextId, Vectors};

use super::*;
use crate::ports::vector_store::{Point, Updated, Validity};

async fn missing(fixture: &Fixture) -> usize {
    let inner = &fixture.engine.inner;
    let all = Selection { validity: Validity::Any, ..Selection::alive(inner.owner.clone(), now()) };
    inner.store.count(Selection { dense: Dense::Missing, ..all }).await.expect("a count")
}

fn with_dimensions(fixture: &Fixture, dimensions: usize) -> SidecarConfig {
    let mut config = fixture.config.clone();
    config.embedding.dimensions = dimensions;
    config.embedding.re_embedding.contexts_per_second = 10_000.0;
    config.embedding.re_embedding.keep_former_for = HumanDuration::from_secs(0);
    config
}

fn part(fixture: &Fixture) -> Option<Part> {
    fixture.engine.readiness().into_iter().find(|part| part.name == "re_embedding")
}

#[tokio::test]
async fn contexts_of_all_levels_and_earlier_versions_get_new_vectors_and_the_former_ones_go() {
    let fixture = Fixture::new().await;
    for (text, level) in [("fresh tea", "immediate"), ("recent tea", "short_term"), ("old tea", "long_term")] {
        fixture.stored(json!({"text": text, "level": level, "session": "s"})).await;
    }
    let changed = fixture.stored(json!({"text": "wrong tea", "level": "long_term"})).await;
    let change = message(json!({"text": "right tea"}));
    fixture.engine.update(&mine(&fixture.engine), changed, change).await.expect("changed");
    let before = fixture.all().await;
    assert_eq!(part(&fixture).map(|part| part.detail), None, "nothing to do, nothing to say");

    fixture.engine.reconfigure(&with_dimensions(&fixture, 64)).await.expect("taken over");
    assert_eq!(missing(&fixture).await, 5);
    let said = part(&fixture).expect("said on the health page");
    assert!(said.ready && said.degraded && said.detail.contains("0 of 5"), "{said:?}");
    let figures = fixture.engine.stats(&mine(&fixture.engine)).await.expect("figures");
    let progress = figures.re_embedding.expect("said in the figures");
    assert_eq!((progress.contexts, progress.done), (5, 0));
    let ask = |levels: &[&str]| json!({"query": "tea", "levels": levels, "explain": true});
    let by_meaning = |answer: &ContextResponse| {
        let parts = answer.contexts.iter().filter_map(|found| found.explanation.as_ref());
        parts.filter(|parts| parts.iter().any(|(name, part)| name.starts_with("dense") && *part > 0.0)).count()
    };
    for levels in [&["immediate"][..], &["immediate", "short_term", "long_term"]] {
        let answer = fixture.search(ask(levels)).await;
        assert_eq!((by_meaning(&answer), answer.degraded), (0, vec!["re_embedding".to_owned()]), "{levels:?}");
        assert!(!answer.contexts.is_empty(), "{levels:?}");
    }
    fixture.stored(json!({"text": "new tea", "level": "long_term"})).await;
    assert_eq!(missing(&fixture).await, 5, "what is new has its vectors at once");

    fixture.embed_missing().await;
    assert_eq!((missing(&fixture).await, part(&fixture).map(|part| part.detail)), (0, None));
    let answer = fixture.search(ask(&["immediate", "short_term", "long_term"])).await;
    assert!(answer.degraded.is_empty() && by_meaning(&answer) > 1, "{answer:?}");
    let after = fixture.all().await;
    for context in &before {
        let now = after.iter().find(|other| other.id == context.id).expect("it is still there");
        assert_eq!((&now.text, now.version, now.updated_at), (&context.text, context.version, context.updated_at));
    }
    let as_of = fixture.engine.inner.metrics.render().expect("metrics");
    assert!(as_of.contains("context_manager_re_embedded_total 5\n"), "{as_of}");
    assert!(as_of.contains("context_manager_re_embedding_state 0\n"), "{as_of}");

    fixture.engine.reconfigure(&with_dimensions(&fixture, 384)).await.expect("back");
    assert_eq!(missing(&fixture).await, 6, "the former vectors were dropped");
}

#[tokio::test]
async fn going_back_before_the_end_needs_no_new_vectors() {
    let fixture = Fixture::new().await;
    for number in 0..3 {
        fixture.stored(json!({"text": format!("tea {number}"), "level": "long_term"})).await;
    }
    fixture.engine.reconfigure(&with_dimensions(&fixture, 64)).await.expect("taken over");
    fixture.stored(json!({"text": "tea meanwhile", "level": "long_term"})).await;
    fixture.engine.reconfigure(&with_dimensions(&fixture, 384)).await.expect("back");
    assert_eq!(missing(&fixture).await, 1);
    let fixture = fixture.reopened("agent").await;
    assert_eq!(missing(&fixture).await, 1);
    fixture.embed_missing().await;
    assert_eq!(missing(&fixture).await, 0);
}

#[tokio::test]
async fn what_is_written_without_vectors_is_looked_for_when_it_is_there() {
    let fixture = Fixture::new().await;
    let id = ContextId::new(fixture.stored(json!({"text": "old tea", "level": "long_term"})).await);
    fixture.embed_missing().await;
    let inner = &fixture.engine.inner;
    let is_incomplete = || inner.re_embedding.is_incomplete();
    assert!(!is_incomplete());
    let found = inner.store.get(&inner.owner, vec![id], now()).await.expect("points");
    let Point { context: was, vectors } = found.into_iter().next().expect("it is there");
    let vectors = Vectors { dense_self: None, dense_ctx: None, ..vectors };

    let is = Stored { version: was.version + 1, text: "new tea".to_owned(), ..was.clone() };
    let updated = inner.update_with_versions(&was, &is, Some(vectors.clone())).await.expect("an answer");
    assert!(updated == Updated::Applied && is_incomplete());
    fixture.embed_missing().await;
    assert!(missing(&fixture).await == 0 && !is_incomplete());

    let context = Stored { id: ContextId::new(Uuid::from_u128(1)), ..was };
    let taken = inner.insert(&[Point { context, vectors }], &[], now()).await.expect("inserted");
    assert!(taken.is_empty() && is_incomplete());
    fixture.embed_missing().await;
    assert!(missing(&fixture).await == 0 && !is_incomplete());
}

#[tokio::test]
async fn texts_that_are_tried_one_by_one_are_left_to_a_model_that_waits() {
    let calls = Arc::new(AtomicUsize::new(0));
    let called = Arc::clone(&calls);
    let route = axum::routing::post(move |_: axum::body::Bytes| async move {
        called.fetch_add(1, Ordering::Relaxed);
        axum::http::StatusCode::BAD_REQUEST
    });
    let url = api(route).await;
    let fixture = Fixture::with(|config| config.embedding = embedded_by(url, "window")).await;
    for number in 0..3 {
        let text = format!("{number} {}", "the lighthouse keeper paints ".repeat(20));
        fixture.stored(json!({"text": text, "level": "long_term"})).await;
    }
    let inner = &fixture.engine.inner;
    let refused = async || {
        let figures = fixture.engine.stats(&mine(&fixture.engine)).await.expect("figures");
        figures.re_embedding.expect("vectors are missing").refused
    };
    calls.store(0, Ordering::Relaxed);
    {
        let _step = inner.models.read().await;
        let mut change = std::pin::pin!(inner.models.write());
        assert!(futures::poll!(change.as_mut()).is_pending());
        assert!(inner.embed_missing().await.expect("broken off").is_some());
    }
    assert_eq!(calls.swap(0, Ordering::Relaxed), 1, "all of them at once, and none by itself");
    assert_eq!(refused().await, 0, "not all was tried");
    fixture.embed_missing().await;
    assert!(calls.load(Ordering::Relaxed) > 3, "each by itself, and its beginnings");
    assert_eq!(refused().await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_and_searches_beside_a_change_all_succeed_and_never_mix_vectors() {
    let fixture = Fixture::new().await;
    let write = |round: usize| {
        let fixture = &fixture;
        async move {
            for number in 0..12 {
                let text = format!("tea {round} {number}");
                fixture.stored(json!({"text": text, "level": "immediate", "session": format!("s{round}")})).await;
                assert!(!fixture.search(json!({"query": "tea"})).await.contexts.is_empty());
            }
        }
    };
    let change = async {
        for dimensions in [64, 128, 384, 64] {
            fixture.engine.reconfigure(&with_dimensions(&fixture, dimensions)).await.expect("taken over");
            let _ = fixture.engine.embed_missing().await.expect("a batch");
        }
    };
    futures::future::join(futures::future::join_all((0..4).map(write)), change).await;
    fixture.embed_missing().await;
    let inner = &fixture.engine.inner;
    let page = inner.store.list(Selection::alive(inner.owner.clone(), now()), None, 100).await.expect("a page");
    let ids = page.contexts.iter().map(|context| context.id).collect::<Vec<_>>();
    assert_eq!(ids.len(), 48);
    for point in inner.store.get(&inner.owner, ids, now()).await.expect("points") {
        assert_eq!(point.vectors.dense_self.map(|vector| vector.len()), Some(64), "{}", point.context.id);
    }
}

#[tokio::test]
async fn a_server_that_nobody_checks_is_told_of_for_as_long_as_it_is_used() {
    let directory = TempDir::new().expect("a directory");
    for (verify, said) in [(true, 0), (false, 1)] {
        let toml = format!(
            "[store.qdrant]\nurl = \"https://127.0.0.1:1\"\ncollection = \"memory\"\nverify = {verify}\ntimeout = \"500ms\"\n"
        );
        let mut config = SidecarConfig::from_toml(&toml).expect("a configuration");
        config.journal.path = Some(directory.path().join("journal"));
        let engine = open(&config, "agent").await.expect("it starts while the server is away");
        let parts: Vec<_> = engine.readiness().into_iter().filter(|part| part.name == "store_tls").collect();
        assert_eq!(parts.len(), said);
        assert!(parts.iter().all(|part| part.degraded && part.detail.contains("store.qdrant.verify")), "{parts:?}");
        let metrics = engine.inner.metrics.render().expect("metrics");
        assert!(metrics.contains(&format!("context_manager_vector_store_tls_unverified {said}\n")), "{metrics}");
    }
}
