//! Retrieving and storing: the sidecar as an agent sees it, signing included, beside what it is made of.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use context_manager_tests::client::Client;
use futures::FutureExt as _;
use qdrant_edge::Record;
use serde_json::{Value, json};

use crate::{
    corpus::Corpus,
    figure::{Figures, Latencies},
    process::cpu_time,
    query::Query,
    stage::Subjects,
    turns::{self, Call},
};

/// What an answer may contain.
const TOKEN_BUDGET: usize = 2_000;
/// By how many percent the sidecar's median may exceed the bare one's, at the largest size.
const OVER_SERVER: f64 = 15.0;
const OVER_ENGINE: f64 = 25.0;
/// How many resumed sessions are measured.
const RESUMED: usize = 60;
/// The size at which these hold.
pub const LARGEST: usize = 100_000;

/// How much is measured at a size.
#[derive(Clone, Copy)]
pub struct Extent {
    pub contexts: usize,
    pub clients: usize,
    pub rounds: usize,
}

impl Extent {
    fn name(&self, what: &str) -> String {
        let clients = if self.clients == 1 { "1 client".to_owned() } else { format!("{} clients", self.clients) };
        format!("{what}, {} contexts, {clients}", self.contexts)
    }

    /// What 95 of 100 retrievals of a single client may take, in milliseconds.
    const fn most(&self) -> Option<f64> {
        match (self.contexts, self.clients) {
            (1_000, 1) => Some(10.0),
            (LARGEST, 1) => Some(50.0),
            _ => None,
        }
    }

    fn at_largest(&self, target: f64) -> Option<f64> {
        (self.contexts == LARGEST).then_some(target)
    }
}

/// Measures retrieving on all four subjects.
pub async fn retrieve(
    figures: &mut Figures,
    subjects: &Subjects<'_>,
    corpus: &mut Corpus,
    extent: Extent,
) -> Result<()> {
    let numbers = turns::numbers(extent.clients, extent.rounds);
    let queries: Arc<Vec<Query>> = Arc::new((0..numbers).map(|_| Query::new(corpus.query())).collect());
    let (asked, engine) = (Arc::clone(&queries), subjects.engine.clone());
    let bare_engine: Call = Arc::new(move |number| {
        let (asked, engine) = (Arc::clone(&asked), engine.clone());
        async move { some(tokio::task::block_in_place(|| engine.search(&asked[number]))?) }.boxed()
    });
    let (asked, server) = (Arc::clone(&queries), subjects.server.clone());
    let bare_server: Call = Arc::new(move |number| {
        let (asked, server) = (Arc::clone(&asked), server.clone());
        async move { some(server.search(&asked[number]).await?) }.boxed()
    });
    let messages: Arc<Vec<Value>> = Arc::new(queries.iter().map(|query| request(&query.text)).collect());
    let calls = [
        post(subjects.embedded.client()?, "/v1/contexts/search", 200, Arc::clone(&messages)),
        bare_engine,
        post(subjects.beside.client()?, "/v1/contexts/search", 200, messages),
        bare_server,
    ];
    let before = cpu_time(subjects.embedded.id())?;
    let measured = turns::measure(&calls, extent.clients, extent.rounds).await?;
    let used = cpu_time(subjects.embedded.id())?.saturating_sub(before);
    let [embedded, engine, beside, server] = <[_; 4]>::try_from(measured).ok().context("four subjects")?;
    figures.percentiles(&extent.name("retrieve, embedded"), &embedded, extent.most());
    figures.percentiles(&extent.name("retrieve, bare engine"), &engine, None);
    let over = extent.at_largest(OVER_ENGINE);
    figures.at_most(extent.name("retrieve, embedded over bare engine, p50"), embedded.overhead(&engine), "%", over);
    figures.percentiles(&extent.name("retrieve, server"), &beside, extent.most());
    figures.percentiles(&extent.name("retrieve, bare client"), &server, None);
    let over = extent.at_largest(OVER_SERVER);
    figures.at_most(extent.name("retrieve, server over bare client, p50"), beside.overhead(&server), "%", over);
    per_core(figures, &extent.name("retrieve, embedded, per core"), embedded.calls(), used);
    Ok(())
}

/// Measures storing one context at a time, with `wait` at the server, in sessions that are under way, and in some that are resumed.
pub async fn store(figures: &mut Figures, subjects: &Subjects<'_>, corpus: &mut Corpus, extent: Extent) -> Result<()> {
    let begun = Arc::new(corpus.under_way());
    for sidecar in [&subjects.embedded, subjects.beside] {
        let first = post(sidecar.client()?, "/v1/contexts", 201, Arc::clone(&begun));
        for number in 0..begun.len() {
            first(number).await?;
        }
    }
    let messages = (0..turns::numbers(extent.clients, extent.rounds)).map(|_| corpus.context()).collect();
    let before = cpu_time(subjects.embedded.id())?;
    let measured = stored(subjects, messages, extent.clients, extent.rounds).await?;
    let used = cpu_time(subjects.embedded.id())?.saturating_sub(before);
    let [embedded, engine, beside, server] = &measured;
    figures.percentiles(&extent.name("store, embedded"), embedded, None);
    figures.percentiles(&extent.name("store, bare engine"), engine, None);
    figures.percentiles(&extent.name("store, server"), beside, None);
    figures.percentiles(&extent.name("store, bare client"), server, None);
    let over = extent.at_largest(OVER_SERVER);
    figures.at_most(extent.name("store, server over bare client, p50"), beside.overhead(server), "%", over);
    per_core(figures, &extent.name("store, embedded, per core"), embedded.calls(), used);

    let resumed: Vec<Value> = std::iter::from_fn(|| corpus.resumed()).take(turns::numbers(1, RESUMED)).collect();
    if extent.clients == 1 && resumed.len() == turns::numbers(1, RESUMED) {
        let [embedded, _, beside, server] = stored(subjects, resumed, 1, RESUMED).await?;
        figures.percentiles(&extent.name("store in a resumed session, embedded"), &embedded, None);
        figures.percentiles(&extent.name("store in a resumed session, server"), &beside, None);
        let over = beside.overhead(&server);
        figures.add(extent.name("store in a resumed session, server over bare client, p50"), over, "%");
    }
    Ok(())
}

/// How long storing takes on all four subjects.
async fn stored(
    subjects: &Subjects<'_>,
    messages: Vec<Value>,
    clients: usize,
    rounds: usize,
) -> Result<[Latencies; 4]> {
    let (like, _) = subjects.engine.page(None, 1)?;
    let like: Arc<Record> = Arc::new(like.into_iter().next().context("the engine is empty")?);
    let (record, engine) = (Arc::clone(&like), subjects.engine.clone());
    let bare_engine: Call = Arc::new(move |_| {
        let (record, engine) = (Arc::clone(&record), engine.clone());
        async move { tokio::task::block_in_place(|| engine.upsert(&record, uuid::Uuid::now_v7())) }.boxed()
    });
    let server = subjects.server.clone();
    let bare_server: Call = Arc::new(move |_| {
        let (record, server) = (Arc::clone(&like), server.clone());
        async move { server.upsert_like(&record, uuid::Uuid::now_v7()).await }.boxed()
    });
    let messages = Arc::new(messages);
    let calls = [
        post(subjects.embedded.client()?, "/v1/contexts", 201, Arc::clone(&messages)),
        bare_engine,
        post(subjects.beside.client()?, "/v1/contexts", 201, messages),
        bare_server,
    ];
    let measured = turns::measure(&calls, clients, rounds).await?;
    <[_; 4]>::try_from(measured).ok().context("four subjects")
}

fn request(query: &str) -> Value {
    json!({"query": query, "token_budget": TOKEN_BUDGET})
}

/// A signed request for each message; the answer must have this status.
pub fn post(client: Client, path: &'static str, expected: u16, messages: Arc<Vec<Value>>) -> Call {
    Arc::new(move |number| {
        let (client, messages) = (client.clone(), Arc::clone(&messages));
        async move {
            let answer = client.post(path, &messages[number]).await?;
            let status = answer.status;
            ensure!(status == expected, "status {status}: {}", String::from_utf8_lossy(&answer.body));
            Ok(())
        }
        .boxed()
    })
}

fn some(found: usize) -> Result<()> {
    ensure!(found > 0, "nothing was found");
    Ok(())
}

fn per_core(figures: &mut Figures, name: &str, calls: usize, used: Duration) {
    if !used.is_zero() {
        #[expect(clippy::cast_precision_loss, reason = "a number of calls")]
        figures.add(name, calls as f64 / used.as_secs_f64(), "1/s");
    }
}
