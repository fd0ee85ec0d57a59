//! An embeddings API that is slow, refuses, or answers nonsense while agents write and search: every write is acknowledged and found by
//! its words at once, no request waits past its deadline, and when the API is back the vectors are added.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use context_manager_protocol::message::ContextResponse;
use context_manager_tests::{
    client::Client,
    embeddings::{Behaviour, Embeddings},
    sidecar::Sidecar,
    tally::Writers,
};
use serde_json::json;

const MODEL: &str = "builtin-64";
/// Longest time of an embedding.
const DEADLINE: Duration = Duration::from_millis(600);
/// What a busy machine may add to it.
const GENEROUS: Duration = Duration::from_secs(8);
const PATIENCE: Duration = Duration::from_mins(1);

fn config(embeddings: &Embeddings) -> String {
    let timeout = DEADLINE.as_millis();
    format!(
        "[circuit_breaker]\nfailure_threshold = 3\nsuccess_threshold = 1\nopen_for = \"300ms\"\n{}timeout = \"{timeout}ms\"\n\
         [embedding.retry]\nmax_attempts = 2\ninitial_delay = \"20ms\"\n",
        embeddings.config(MODEL)
    )
}

async fn search(client: &Client, query: &str) -> Result<(ContextResponse, Duration)> {
    let since = Instant::now();
    let answer = client.post("/v1/contexts/search", &json!({"query": query, "limit": 3, "explain": true})).await?;
    ensure!(answer.status == 200, "status {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
    Ok((answer.message()?, since.elapsed()))
}

/// Whether the first context was found by its meaning too, with all taking part.
fn is_whole(found: &ContextResponse) -> bool {
    let dense = |name: &str| {
        let first = found.contexts.first().and_then(|first| first.explanation.as_ref());
        first.and_then(|parts| parts.get(name)).is_some_and(|part| *part > 0.0)
    };
    found.degraded.is_empty() && dense("dense")
}

/// Breaks the API while two agents write, and mends it.
async fn survive(fault: &str, behaviour: Behaviour) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let embeddings = Embeddings::start().await?;
    let sidecar = Sidecar::start(folder.path(), &config(&embeddings)).await?;
    let client = sidecar.client()?;
    for text in ["the kettle sings before the storm", "the ferry leaves at noon"] {
        client.post("/v1/contexts", &json!({"text": text, "level": "long_term"})).await?;
    }
    ensure!(is_whole(&search(&client, "kettle sings").await?.0), "it works before: {}", sidecar.log()?);

    embeddings.set(behaviour);
    let writers = Writers::start(fault, 2, &client);
    let mut slowest = Duration::ZERO;
    let broken = "the lighthouse keeper paints during the storm";
    let since = Instant::now();
    let stored = client.post("/v1/contexts", &json!({"text": broken, "level": "long_term"})).await?;
    slowest = slowest.max(since.elapsed());
    ensure!(stored.status == 201, "{}", String::from_utf8_lossy(&stored.body));
    for round in 0..5 {
        let (found, took) = search(&client, &format!("who paints the lighthouse, {round}")).await?;
        slowest = slowest.max(took);
        ensure!(found.degraded == ["embedding"], "{fault}: {:?}", found.degraded);
        ensure!(found.contexts.iter().any(|hit| hit.context.text == broken), "{fault}: not found by its words");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Not a word of this is in memory, and what it means cannot be asked: better the newest than none.
    let (found, _) = search(&client, "wer malt den Leuchtturm").await?;
    ensure!(found.degraded == ["embedding", "query"] && !found.contexts.is_empty(), "{fault}: {found:?}");
    let opened = sidecar.metric("context_manager_breaker_opened_total{neighbour=\"embedding\"}").await?;
    let tally = writers.stop().await?;
    embeddings.set(Behaviour::Well);

    let started = Instant::now();
    loop {
        let query = format!("{broken} {}", started.elapsed().as_nanos());
        let (found, _) = search(&client, &query).await?;
        let closed = sidecar.metric("context_manager_breaker_state{neighbour=\"embedding\"}").await? == 0.0;
        if closed && is_whole(&found) && found.contexts[0].context.text == broken {
            break;
        }
        ensure!(started.elapsed() < PATIENCE, "{fault}: no vectors after {PATIENCE:?}: {found:?}\n{}", sidecar.log()?);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let verdict = tally.verify(&client).await?;
    println!("{fault}: {verdict}; slowest answer {slowest:?}, breaker opened {opened} times");
    ensure!(verdict.lost.is_empty() && verdict.doubled.is_empty() && verdict.failed == 0, "{fault}: {verdict:?}");
    ensure!(verdict.acknowledged >= 2, "{fault}: too few writes to prove anything: {verdict}");
    ensure!(slowest < GENEROUS, "{fault}: an answer took {slowest:?}");
    ensure!(opened >= 1.0, "{fault}: the breaker did not open");
    Ok(())
}

macro_rules! faults {
    ($($name:ident: $behaviour:expr;)+) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() -> Result<()> {
            survive(stringify!($name), $behaviour).await
        }
    )+};
}

faults! {
    slower_than_the_deadline: Behaviour::Slow(Duration::from_secs(3));
    never_answers: Behaviour::Hangs;
    too_many_requests: Behaviour::Throttles(2);
    internal_error: Behaviour::Fails(500);
    not_available: Behaviour::Fails(503);
    vectors_of_another_length: Behaviour::ShortVectors;
    a_vector_is_missing: Behaviour::TooFew;
    a_vector_too_many: Behaviour::TooMany;
    a_position_twice: Behaviour::Doubled;
    positions_that_nobody_asked_for: Behaviour::Displaced;
    no_json: Behaviour::Garbage;
    a_page_for_people: Behaviour::Page;
    half_an_answer: Behaviour::CutOff;
    connection_closed: Behaviour::HangsUp;
    nobody_listens: Behaviour::Refuses;
}

/// `Retry-After` is kept: the next attempt comes no earlier, whichever call makes it, and is not made when it would come after the
/// deadline.
#[tokio::test(flavor = "multi_thread")]
async fn no_attempt_comes_earlier_than_the_api_asked() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let embeddings = Embeddings::start().await?;
    let more = format!(
        "[circuit_breaker]\nfailure_threshold = 100\n{}timeout = \"5s\"\n[embedding.retry]\nmax_attempts = 3\ninitial_delay = \"10ms\"\n",
        embeddings.config(MODEL)
    );
    let sidecar = Sidecar::start(folder.path(), &more).await?;
    let client = sidecar.client()?;
    client.post("/v1/contexts", &json!({"text": "a query of long ago", "level": "long_term"})).await?;
    embeddings.set(Behaviour::Throttles(1));
    drop(embeddings.arrivals());
    search(&client, "one query").await?;
    let arrivals = embeddings.arrivals();
    ensure!(arrivals.len() >= 2, "{} attempts", arrivals.len());
    let gaps: Vec<Duration> = arrivals.windows(2).map(|pair| pair[1] - pair[0]).collect();
    ensure!(gaps.iter().all(|gap| *gap >= Duration::from_millis(990)), "earlier than asked: {gaps:?}");
    println!("Retry-After 1 s: {} attempts, {gaps:?} apart", arrivals.len());

    embeddings.set(Behaviour::Throttles(60));
    // As long as the last answer asked for.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    for round in 0..3 {
        let (found, _) = search(&client, &format!("another query {round}")).await?;
        ensure!(found.degraded == ["embedding"], "{:?}", found.degraded);
    }
    let stored = client.post("/v1/contexts", &json!({"text": "a context meanwhile", "level": "long_term"})).await?;
    ensure!(stored.status == 201, "{}", String::from_utf8_lossy(&stored.body));
    let arrivals = embeddings.arrivals().len();
    ensure!(arrivals == 1, "{arrivals} attempts, although the API asked for more patience than there is");
    Ok(())
}
