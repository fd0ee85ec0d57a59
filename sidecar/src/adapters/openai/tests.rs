//! The adapter and its layers against a real HTTP server that behaves as badly as real ones do.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Json, Router, extract::State, http::HeaderMap, response::IntoResponse as _, routing::post};
use context_manager_protocol::{
    config::{CircuitBreaker, Embedding, Provider},
    duration::HumanDuration,
};
use serde_json::{Value, json};

use super::*;
use crate::{adapters::embedder, metrics::Metrics, testing::eventually};

/// What the server does with the next call.
#[derive(Clone, Copy)]
enum Step {
    /// A vector for each text: its length in bytes, and 1.
    Answer,
    Status(u16),
    Busy(&'static str),
    Hang,
    Garbage,
    Dimensions(usize),
    TooFew,
    Redirect,
}

#[derive(Default)]
struct Server {
    steps: VecDeque<Step>,
    seen: Vec<(Option<String>, Value)>,
}

type Shared = Arc<Mutex<Server>>;

async fn answer(State(server): State<Shared>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    let step = {
        let mut server = server.lock().expect("no test panics while it holds the lock");
        let authorization = headers.get("authorization").and_then(|value| value.to_str().ok()).map(ToOwned::to_owned);
        server.seen.push((authorization, body.clone()));
        server.steps.pop_front().unwrap_or(Step::Answer)
    };
    let texts: Vec<&str> =
        body["input"].as_array().map(|texts| texts.iter().filter_map(Value::as_str).collect()).unwrap_or_default();
    let vectors = |dimensions: usize, count: usize| {
        let item = |(index, text): (usize, &&str)| {
            let mut vector = vec![1.0; dimensions];
            #[expect(clippy::cast_precision_loss, reason = "texts of tests are short")]
            {
                vector[0] = text.len() as f64;
            }
            json!({"index": index, "embedding": vector})
        };
        Json(json!({"data": texts.iter().take(count).enumerate().map(item).collect::<Vec<_>>()})).into_response()
    };
    match step {
        Step::Answer => vectors(2, texts.len()),
        Step::Dimensions(dimensions) => vectors(dimensions, texts.len()),
        Step::TooFew => vectors(2, texts.len() - 1),
        Step::Garbage => "<html>not an API</html>".into_response(),
        Step::Status(status) => StatusCode::from_u16(status).expect("a status").into_response(),
        Step::Busy(after) => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", after)]).into_response(),
        Step::Redirect => (StatusCode::TEMPORARY_REDIRECT, [("location", "/elsewhere")]).into_response(),
        Step::Hang => {
            tokio::time::sleep(Duration::from_mins(1)).await;
            StatusCode::OK.into_response()
        }
    }
}

type Response = axum::response::Response;

struct Fixture {
    embedder: Arc<dyn Embedder>,
    server: Shared,
    metrics: Arc<Metrics>,
}

impl Fixture {
    async fn new(steps: impl IntoIterator<Item = Step>, change: impl FnOnce(&mut Embedding)) -> Self {
        let server = Shared::new(Mutex::new(Server { steps: steps.into_iter().collect(), seen: Vec::new() }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let routes = Router::new().route("/v1/embeddings", post(answer)).with_state(Arc::clone(&server));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let mut config = Embedding {
            provider: Provider::OpenAi,
            url: Some(format!("http://{address}/v1/embeddings")),
            model: Some("model".to_owned()),
            dimensions: 2,
            ..Embedding::default()
        };
        config.retry.initial_delay = HumanDuration::from_millis(10);
        change(&mut config);
        let metrics = Arc::new(Metrics::new());
        let embedder = embedder::build(&config, &CircuitBreaker::default(), Some(&"token".into()), &metrics)
            .expect("a valid configuration");
        Self { embedder, server, metrics }
    }

    async fn embed(&self, texts: &[&str]) -> Result<Vec<Vector>, Error> {
        let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
        self.embedder.embed_documents(&texts, Deadline::after(Duration::from_secs(3))).await
    }

    fn calls(&self) -> Vec<(Option<String>, Value)> {
        self.server.lock().expect("no test panics while it holds the lock").seen.clone()
    }
}

#[tokio::test]
async fn texts_are_sent_in_batches_and_vectors_come_in_their_order() {
    let fixture = Fixture::new([], |config| config.batch_size = 2).await;
    let vectors = fixture.embed(&["a", "bbb", "cc"]).await.expect("vectors");
    assert_eq!(vectors.iter().map(|vector| vector[0]).collect::<Vec<_>>(), [1.0, 3.0, 2.0]);
    let calls = fixture.calls();
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0], (Some("Bearer token".to_owned()), json!({"model": "model", "input": ["a", "bbb"]})));
}

#[tokio::test]
async fn the_same_text_is_asked_for_once() {
    let fixture = Fixture::new([], |_| {}).await;
    let texts = ["tea", "tea", "tea"];
    let (one, other) = tokio::join!(fixture.embed(&texts), fixture.embed(&texts));
    assert_eq!((one.expect("vectors").len(), other.expect("vectors").len()), (3, 3));
    let _ = fixture.embed(&["tea"]).await.expect("a cached vector");
    assert_eq!(fixture.calls().iter().map(|(_, body)| body["input"].clone()).collect::<Vec<_>>(), [json!(["tea"])]);
    assert!(fixture.metrics.embedding.cache_hits.get() >= 1);
}

#[tokio::test]
async fn queries_and_documents_have_their_own_prefixes_and_cache_entries() {
    let fixture = Fixture::new([], |config| {
        config.query_prefix = "q: ".to_owned();
        config.document_prefix = "d: ".to_owned();
    })
    .await;
    fixture.embed(&["tea"]).await.expect("vectors");
    fixture.embedder.embed_query("tea", Deadline::after(Duration::from_secs(3))).await.expect("a vector");
    let inputs: Vec<Value> = fixture.calls().into_iter().map(|(_, body)| body["input"].clone()).collect();
    assert_eq!(inputs, [json!(["d: tea"]), json!(["q: tea"])]);
}

#[tokio::test]
async fn what_may_pass_is_tried_again() {
    for step in [Step::Status(500), Step::Status(503), Step::Busy("0"), Step::Garbage] {
        let fixture = Fixture::new([step], |_| {}).await;
        fixture.embed(&["tea"]).await.expect("the second attempt succeeds");
        assert_eq!(fixture.calls().len(), 2);
        assert_eq!(fixture.metrics.embedding.retries.get(), 1);
    }
}

#[tokio::test]
async fn what_cannot_pass_is_not_tried_again_and_says_what_to_change() {
    for (step, message) in [
        (Step::Status(401), "check the URL, the model and the API key"),
        (Step::Status(400), "status 400"),
        (Step::Redirect, "status 307"),
        (Step::Dimensions(3), "vectors of 3 dimensions, but embedding.dimensions is 2; set it to 3"),
        (Step::TooFew, "1 usable vectors for 2 texts"),
    ] {
        let fixture = Fixture::new([step], |_| {}).await;
        let error = fixture.embed(&["tea", "milk"]).await.expect_err("a refusal").to_string();
        assert!(error.contains(message), "{error}");
        assert_eq!(fixture.calls().len(), 1, "{error}");
    }
}

#[tokio::test]
async fn a_wait_beyond_the_deadline_is_not_begun() {
    let fixture = Fixture::new([Step::Busy("60")], |_| {}).await;
    let since = tokio::time::Instant::now();
    let error = fixture.embed(&["tea"]).await.expect_err("no answer");
    assert!(matches!(error, Error::Throttled { retry_after: Some(after) } if after.as_secs() == 60), "{error}");
    assert!(since.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn an_api_that_asks_for_patience_is_left_alone_by_later_calls_too() {
    let fixture = Fixture::new([Step::Busy("60")], |_| {}).await;
    assert!(fixture.embed(&["tea"]).await.is_err());
    let error = fixture.embed(&["milk"]).await.expect_err("left alone");
    assert!(matches!(&error, Error::LeftAlone(open) if open.retry_after > Duration::from_secs(50)), "{error}");
    assert_eq!(fixture.calls().len(), 1);
}

#[tokio::test]
async fn an_api_that_asks_for_patience_is_left_alone_by_calls_beside_too() {
    let fixture = Fixture::new([Step::Status(500), Step::Busy("3")], |config| {
        config.retry.initial_delay = HumanDuration::from_secs(2);
        config.retry.jitter = 0.0;
    })
    .await;
    let call = |text: &'static str| {
        let embedder = Arc::clone(&fixture.embedder);
        async move { embedder.embed_query(text, Deadline::after(Duration::from_secs(20))).await }
    };
    // The first is about to try again when the second is asked to wait for longer.
    let first = tokio::spawn(call("tea"));
    eventually("an attempt that failed", || fixture.metrics.embedding.retries.get() == 1).await;
    let since = tokio::time::Instant::now();
    let second = tokio::spawn(call("milk"));
    eventually("an attempt that is to wait", || fixture.metrics.embedding.retries.get() == 2).await;
    let third = call("coffee").await.expect_err("left alone at once");
    assert!(matches!(third, Error::LeftAlone(_)), "{third}");
    first.await.expect("no panic").expect("a vector");
    assert!(since.elapsed() >= Duration::from_secs(3), "tried again after {:?}", since.elapsed());
    second.await.expect("no panic").expect("a vector");
    assert_eq!(fixture.calls().len(), 4);
}

#[tokio::test]
async fn no_call_outlives_its_deadline() {
    let fixture = Fixture::new([Step::Hang, Step::Hang], |_| {}).await;
    let deadline = Deadline::after(Duration::from_millis(200));
    let call = fixture.embedder.embed_query("tea", deadline);
    let ended = tokio::time::timeout(Duration::from_secs(5), call).await.expect("an end");
    assert!(matches!(ended, Err(Error::DeadlineExceeded { .. })), "{ended:?}");
}

#[tokio::test]
async fn a_failure_is_not_remembered() {
    let fixture = Fixture::new([Step::Status(401)], |_| {}).await;
    assert!(fixture.embed(&["tea"]).await.is_err());
    assert!(fixture.embed(&["tea"]).await.is_ok());
}

#[tokio::test]
async fn a_changed_key_file_is_used_by_the_next_call() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("key");
    std::fs::write(&file, "first\n").expect("a written file");
    let fixture = Fixture::new([], |config| config.api_key_file = Some(file.clone())).await;
    fixture.embed(&["a"]).await.expect("vectors");
    std::fs::write(&file, "second").expect("a written file");
    fixture.embed(&["b"]).await.expect("vectors");
    let keys: Vec<_> = fixture.calls().into_iter().filter_map(|(key, _)| key).collect();
    assert_eq!(keys, ["Bearer first", "Bearer second"]);
    std::fs::write(&file, " ").expect("a written file");
    assert!(fixture.embed(&["c"]).await.expect_err("no key").to_string().contains("API key"));
}

#[tokio::test]
async fn neither_text_nor_answer_gets_into_an_error() {
    let fixture = Fixture::new([Step::Garbage, Step::Garbage, Step::Garbage], |_| {}).await;
    let error = crate::refusal::chain(&fixture.embed(&["my secret"]).await.expect_err("garbage"));
    assert!(!error.contains("secret") && !error.contains("html"), "{error}");
}
