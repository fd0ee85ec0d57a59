//! A Qdrant server that is killed, stopped, cut off or slow while agents write: nothing acknowledged is lost, nothing doubled.

use std::{
    borrow::Cow,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use context_manager_journal::{Journal, Options};
use context_manager_protocol::{
    message::{AckStatus, Acknowledgment, ContextList, ContextResponse, Imported},
    problem::Code,
};
use context_manager_tests::{
    client::{Answer, Draft},
    embeddings::{Behaviour, Embeddings},
    proxy::{Network, Proxy},
    qdrant::Qdrant,
    sidecar::{Sidecar, program},
    tally::{Tally, Verdict, Writers, drained},
};
use nix::sys::signal::Signal;
use qdrant_client::qdrant::{StrictModeConfig, StrictModeSparse, StrictModeSparseConfig, UpdateCollection};
use serde_json::json;

const WRITERS: usize = 4;
const PATIENCE: Duration = Duration::from_mins(1);

/// A sidecar's configuration before the server at `url`; it notices an outage soon.
fn config(url: impl std::fmt::Display) -> String {
    format!(
        "[store.qdrant]\nurl = \"http://{url}\"\ncollection = \"memory\"\ntimeout = \"500ms\"\n[journal]\npath = \"journal\"\n\
         [circuit_breaker]\nfailure_threshold = 2\nsuccess_threshold = 1\nopen_for = \"200ms\"\n"
    )
}

async fn pause(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

/// Stops the writers, waits for the journal to drain, and compares.
async fn judge(fault: &str, sidecar: &Sidecar, tally: &Tally) -> Result<Verdict> {
    let client = sidecar.client()?;
    drained(&client, PATIENCE).await?;
    let verdict = tally.verify(&client).await.with_context(|| sidecar.log().unwrap_or_default())?;
    println!("{fault}: {verdict}");
    ensure!(verdict.lost.is_empty() && verdict.doubled.is_empty(), "{verdict:?}\n{}", sidecar.log()?);
    ensure!(verdict.acknowledged >= 20, "too few writes to prove anything: {verdict}\n{}", sidecar.log()?);
    Ok(verdict)
}

struct Setup {
    folder: tempfile::TempDir,
    server: Qdrant,
    proxy: Proxy,
    sidecar: Sidecar,
}

impl Setup {
    async fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let server = Qdrant::start(&folder.path().join("qdrant")).await?;
        let proxy = Proxy::start(server.address()).await?;
        let sidecar = Sidecar::start(folder.path(), &config(proxy.address())).await?;
        Ok(Self { folder, server, proxy, sidecar })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn writers(&self, name: &str) -> Result<Writers> {
        Ok(Writers::start(name, WRITERS, &self.sidecar.client()?))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_costs_nothing() -> Result<()> {
    let mut setup = Setup::new().await?;
    let writers = setup.writers("kill")?;
    for _ in 0..3 {
        pause(400).await;
        setup.server.kill()?;
        pause(400).await;
        setup.server.restart().await?;
    }
    pause(400).await;
    let tally = writers.stop().await?;
    let verdict = judge("server killed three times", &setup.sidecar, &tally).await?;
    ensure!(verdict.journaled > 0, "no write met the outage: {verdict}");
    Ok(())
}

/// Recovery does not wait for a pause of the writers: soon each write goes to the server itself again.
#[tokio::test(flavor = "multi_thread")]
async fn writes_go_to_the_server_again_while_writers_go_on() -> Result<()> {
    const IN_A_ROW: usize = 20;
    let mut setup = Setup::new().await?;
    setup.server.kill()?;
    let writers = Writers::start("recovery", 4 * WRITERS, &setup.sidecar.client()?);
    pause(1_500).await;
    setup.server.restart().await?;
    let client = setup.sidecar.client()?;
    let since = Instant::now();
    let mut stored = 0;
    for number in 0.. {
        let text = json!({"text": format!("beside the writers, number {number}"), "level": "long_term"});
        stored = if client.post("/v1/contexts", &text).await?.status == 201 { stored + 1 } else { 0 };
        if stored == IN_A_ROW {
            break;
        }
        ensure!(since.elapsed() < PATIENCE, "the journal never ends while writers go on\n{}", setup.sidecar.log()?);
    }
    let tally = writers.stop().await?;
    let verdict = judge("recovery while writers go on", &setup.sidecar, &tally).await?;
    ensure!(verdict.journaled > 0, "no write met the outage: {verdict}");
    Ok(())
}

/// The last journaled writes make all others wait, but not for an embedding API that is slow: the vectors can come later.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_embedding_api_keeps_no_writer_from_a_server_that_is_back() -> Result<()> {
    const CHANGES: usize = 20;
    const SLOW: Duration = Duration::from_secs(3);
    /// What a write takes by itself, a stretch of waiting, and what a busy machine adds.
    const GENEROUS: Duration = Duration::from_secs(12);
    let folder = tempfile::tempdir()?;
    let mut server = Qdrant::start(&folder.path().join("qdrant")).await?;
    let embeddings = Embeddings::start().await?;
    let embedding = embeddings.config("builtin-64") + "timeout = \"10s\"\ncache = { capacity = \"0\" }\n";
    let sidecar = Sidecar::start(folder.path(), &format!("{}{embedding}", config(server.address()))).await?;
    let client = sidecar.client()?;
    let mut ids = Vec::new();
    for number in 0..CHANGES {
        // What is in memory can be changed while the server is away.
        let session = format!("s{}", number / 5);
        let message = json!({"text": format!("before, number {number}"), "level": "immediate", "session": session});
        ids.push(client.post("/v1/contexts", &message).await?.message::<Acknowledgment>()?.id);
    }
    server.kill()?;
    for (number, id) in ids.iter().enumerate() {
        let text = json!({"text": format!("after, number {number}")}).to_string();
        let changed = client.send(Draft::new("PATCH", &format!("/v1/contexts/{id}"), text)).await?;
        ensure!(changed.status == 202, "{}", said(&changed));
    }
    embeddings.set(Behaviour::Slow(SLOW));
    server.restart().await?;
    let (since, mut slowest) = (Instant::now(), Duration::ZERO);
    loop {
        let begun = Instant::now();
        let stored = client.post("/v1/contexts", &json!({"text": format!("meanwhile, {:?}", since.elapsed())})).await?;
        slowest = slowest.max(begun.elapsed());
        ensure!(slowest < GENEROUS, "a write took {slowest:?}\n{}", sidecar.log()?);
        if stored.status == 201 {
            break;
        }
        ensure!(stored.status == 202, "{}", said(&stored));
        ensure!(since.elapsed() < PATIENCE, "the journal is never empty\n{}", sidecar.log()?);
    }
    println!("the server took writes again after {:?}, the slowest of them {slowest:?}", since.elapsed());
    embeddings.set(Behaviour::Well);
    drained(&client, PATIENCE).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_server_costs_nothing() -> Result<()> {
    let setup = Setup::new().await?;
    let writers = setup.writers("stop")?;
    for _ in 0..2 {
        pause(300).await;
        setup.server.pause()?;
        pause(1_500).await;
        setup.server.resume()?;
    }
    pause(300).await;
    let tally = writers.stop().await?;
    let verdict = judge("server stopped twice", &setup.sidecar, &tally).await?;
    ensure!(verdict.journaled > 0, "no write met the outage: {verdict}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_double_nothing() -> Result<()> {
    let setup = Setup::new().await?;
    let writers = setup.writers("answers")?;
    for network in [Network::LosesAnswers, Network::Fine, Network::Cut, Network::Fine, Network::LosesAnswers] {
        setup.proxy.set(network);
        pause(400).await;
    }
    setup.proxy.set(Network::Fine);
    pause(400).await;
    let tally = writers.stop().await?;
    let verdict = judge("answers lost and connections cut", &setup.sidecar, &tally).await?;
    ensure!(verdict.journaled > 0, "no write met the outage: {verdict}");
    Ok(())
}

/// Slower than the deadline is like away, slower than usual is only slow.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_network_costs_nothing() -> Result<()> {
    let setup = Setup::new().await?;
    let writers = setup.writers("slow")?;
    for delay in [20, 700] {
        setup.proxy.set(Network::Slow(Duration::from_millis(delay)));
        pause(1_500).await;
    }
    setup.proxy.set(Network::Fine);
    pause(300).await;
    let tally = writers.stop().await?;
    judge("slow network", &setup.sidecar, &tally).await?;
    Ok(())
}

/// What is left answers, says that it is not all, and does not let anybody wait for what is away.
#[tokio::test(flavor = "multi_thread")]
async fn reads_answer_from_what_is_left_whatever_happens_to_the_server() -> Result<()> {
    let setup = Setup::new().await?;
    let client = setup.sidecar.client()?;
    for (text, level) in [("the kettle is red", "immediate"), ("the kettle was blue", "long_term")] {
        let stored = client.post("/v1/contexts", &json!({"text": text, "level": level})).await?;
        ensure!(stored.status == 201, "{}", String::from_utf8_lossy(&stored.body));
    }
    for fault in ["stopped", "slower than the deadline", "cut off"] {
        match fault {
            "stopped" => setup.server.pause()?,
            "cut off" => setup.proxy.set(Network::Cut),
            _ => setup.proxy.set(Network::Slow(Duration::from_millis(700))),
        }
        let mut slowest = Duration::ZERO;
        for round in 0..12 {
            let since = Instant::now();
            let search = json!({"query": format!("which colour has the kettle, {round}")});
            let found: ContextResponse = client.post("/v1/contexts/search", &search).await?.message()?;
            slowest = slowest.max(since.elapsed());
            ensure!(found.degraded.contains(&"store".to_owned()), "{fault}: {:?}", found.degraded);
            ensure!(found.contexts.iter().any(|hit| hit.context.text == "the kettle is red"), "{fault}: {found:?}");
        }
        setup.server.resume()?;
        setup.proxy.set(Network::Fine);
        println!("server {fault}: 12 searches answered from what is left, the slowest after {slowest:?}");
        ensure!(slowest < Duration::from_secs(4), "{fault}: an answer took {slowest:?}");
        let since = Instant::now();
        loop {
            let search = json!({"query": format!("which colour has the kettle, {:?}", since.elapsed())});
            let found: ContextResponse = client.post("/v1/contexts/search", &search).await?.message()?;
            if found.degraded.is_empty() && found.contexts.len() == 2 {
                break;
            }
            ensure!(since.elapsed() < PATIENCE, "{fault}: not whole again: {found:?}\n{}", setup.sidecar.log()?);
            pause(50).await;
        }
    }
    Ok(())
}

/// The first level is filled again from the store after a kill, and then answers without it.
#[tokio::test(flavor = "multi_thread")]
async fn the_immediate_level_is_rebuilt_after_a_kill_and_answers_alone() -> Result<()> {
    let mut setup = Setup::new().await?;
    let texts: Vec<String> = (0..5).map(|number| format!("kettle number {number}")).collect();
    for text in &texts {
        let message = json!({"text": text, "level": "immediate", "session": "s"});
        ensure!(setup.sidecar.client()?.post("/v1/contexts", &message).await?.status == 201);
    }
    setup.sidecar.signal(Signal::SIGKILL)?;
    setup.sidecar.wait(Duration::from_secs(5)).await?;
    setup.sidecar = Sidecar::start(setup.path(), &config(setup.proxy.address())).await?;
    let client = setup.sidecar.client()?;
    let search = json!({"query": "kettle", "levels": ["immediate"]});
    let since = Instant::now();
    loop {
        // The store takes part in this one; the next does without.
        let found: ContextResponse = client.post("/v1/contexts/search", &search).await?.message()?;
        if found.contexts.len() == texts.len() {
            break;
        }
        ensure!(since.elapsed() < PATIENCE, "{found:?}");
        pause(50).await;
    }
    setup.server.kill()?;
    let found: ContextResponse = client.post("/v1/contexts/search", &search).await?.message()?;
    let mut there: Vec<&str> = found.contexts.iter().map(|hit| hit.context.text.as_str()).collect();
    there.sort_unstable();
    ensure!(there == texts, "{there:?} {:?}", found.degraded);
    Ok(())
}

/// The journal is all that remembers the writes when the sidecar is killed as well.
#[tokio::test(flavor = "multi_thread")]
async fn killing_the_sidecar_while_the_server_is_away_costs_nothing() -> Result<()> {
    let mut setup = Setup::new().await?;
    let mut tally = Tally::default();
    for round in 0..3 {
        let writers = setup.writers(&format!("round {round}"))?;
        pause(200).await;
        setup.server.kill()?;
        pause(500).await;
        setup.sidecar.signal(Signal::SIGKILL)?;
        setup.sidecar.wait(Duration::from_secs(5)).await?;
        tally.add(writers.stop().await?);
        if round % 2 == 0 {
            setup.server.restart().await?;
        }
        setup.sidecar = Sidecar::start(setup.path(), &config(setup.proxy.address())).await?;
        if round % 2 == 1 {
            setup.server.restart().await?;
        }
    }
    let verdict = judge("sidecar killed with the server away", &setup.sidecar, &tally).await?;
    ensure!(verdict.journaled > 0, "no write met the outage: {verdict}");
    Ok(())
}

/// A sidecar that starts while the server is away is ready, takes writes, finds them, and says that its answers are not whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_starts_and_works_without_its_server() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut server = Qdrant::start(&folder.path().join("qdrant")).await?;
    server.kill()?;
    let sidecar = Sidecar::start(folder.path(), &config(server.address())).await?;
    let client = sidecar.client()?;
    let message = json!({"text": "the kettle is blue", "level": "long_term"});
    let stored = client.post("/v1/contexts", &message).await?;
    assert_eq!(stored.status, 202, "{}", String::from_utf8_lossy(&stored.body));
    let search = json!({"query": "which colour has the kettle"});
    let found: ContextResponse = client.post("/v1/contexts/search", &search).await?.message()?;
    assert_eq!(found.contexts.iter().map(|hit| hit.context.text.as_str()).collect::<Vec<_>>(), ["the kettle is blue"]);
    assert!(!found.degraded.is_empty(), "the store's part is missing, and the answer says so");

    server.restart().await?;
    drained(&client, PATIENCE).await?;
    let list: ContextList =
        client.get("/v1/contexts").await?.message().with_context(|| sidecar.log().unwrap_or_default())?;
    assert_eq!(list.contexts.len(), 1);
    // Another sidecar of the tenant sees it, so it is in the store.
    let elsewhere = tempfile::tempdir()?;
    let other = Sidecar::start(elsewhere.path(), &config(server.address())).await?;
    let list = other.client()?.get("/v1/contexts").await?;
    let list: ContextList = list.message().with_context(|| other.log().unwrap_or_default())?;
    assert_eq!(list.contexts.len(), 1);
    Ok(())
}

/// The first call for a context lies somewhere on its way, as in a node that stands still, and arrives after the context was stored by another
/// call and deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_arrives_late_brings_back_nothing() -> Result<()> {
    let setup = Setup::new().await?;
    let client = setup.sidecar.client()?;
    let message = |text: &str| json!({"text": text, "level": "long_term"});
    ensure!(client.post("/v1/contexts", &message("before it")).await?.status == 201, "the connection is there");
    setup.proxy.set(Network::KeepsBack);
    let late = client.post("/v1/contexts", &message("it is late")).await?;
    ensure!(late.status == 202, "{}", said(&late));
    setup.proxy.set(Network::Fine);
    drained(&client, PATIENCE).await.with_context(|| setup.sidecar.log().unwrap_or_default())?;
    let path = format!("/v1/contexts/{}", late.message::<Acknowledgment>()?.id);
    ensure!(client.get(&path).await?.status == 200, "a second call has stored it");
    let deleted = client.send(Draft::new("DELETE", &path, "")).await?;
    ensure!(deleted.status == 200 && deleted.message::<Acknowledgment>()?.status == AckStatus::Deleted);

    setup.proxy.let_go();
    let since = Instant::now();
    while setup.sidecar.metric("context_manager_vector_store_late_writes_total").await? < 1.0 {
        ensure!(client.get(&path).await?.status == 404, "it is deleted, whatever the server says");
        ensure!(since.elapsed() < PATIENCE, "the call never arrived\n{}", setup.sidecar.log()?);
        pause(100).await;
    }
    // Another sidecar of the agent sees what the server has.
    let elsewhere = tempfile::tempdir()?;
    let other = Sidecar::start(elsewhere.path(), &config(setup.server.address())).await?;
    let listed: ContextList = other.client()?.get("/v1/contexts").await?.message()?;
    let texts: Vec<&str> = listed.contexts.iter().map(|context| context.text.as_str()).collect();
    ensure!(texts == ["before it"], "{texts:?}");
    Ok(())
}

/// A collection that somebody deletes under a running sidecar is made anew after a while, as a start would make it, and takes what was journaled.
#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_is_deleted_is_made_anew_and_loses_nothing_that_waits() -> Result<()> {
    const MISSING: &str = "context_manager_vector_store_collection_missing";
    let folder = tempfile::tempdir()?;
    let server = Qdrant::start(&folder.path().join("qdrant")).await?;
    // Twice this is how long it may be gone.
    let config = config(server.address()).replace("open_for = \"200ms\"", "open_for = \"1500ms\"");
    let sidecar = Sidecar::start(folder.path(), &config).await?;
    let client = sidecar.client()?;
    let message = |text: &str| json!({"text": text, "level": "long_term"});
    let immediate = |text: &str| json!({"text": text, "level": "immediate", "session": "s"});
    ensure!(client.post("/v1/contexts", &message("before it")).await?.status == 201);
    ensure!(client.post("/v1/contexts", &immediate("just before it")).await?.status == 201);
    let owner = qdrant_client::Qdrant::from_url(&format!("http://{}", server.address())).build()?;
    owner.delete_collection("memory").await?;
    let since = Instant::now();
    let journaled = client.post("/v1/contexts", &message("while it is gone")).await?;
    ensure!(journaled.status == 202, "{}", said(&journaled));
    ensure!((sidecar.metric(MISSING).await? - 1.0).abs() < f64::EPSILON);
    let health = sidecar.admin_page("/health").await?;
    ensure!(health.contains("has no collection"), "{health}");
    pause(1_000).await;
    ensure!(!owner.collection_exists("memory").await?, "there is time to bring it back");

    drained(&client, PATIENCE).await.with_context(|| sidecar.log().unwrap_or_default())?;
    ensure!(since.elapsed() >= Duration::from_secs(3), "{:?}", since.elapsed());
    let listed: ContextList = client.get("/v1/contexts").await?.message()?;
    let texts: Vec<&str> = listed.contexts.iter().map(|context| context.text.as_str()).collect();
    ensure!(texts == ["while it is gone"], "{texts:?}");
    let query = json!({"query": "it", "levels": ["immediate"]});
    let found: ContextResponse = client.post("/v1/contexts/search", &query).await?.message()?;
    ensure!(found.contexts.is_empty(), "{:?}", found.contexts);
    ensure!(client.post("/v1/contexts", &message("after it")).await?.status == 201);
    ensure!(sidecar.metric(MISSING).await?.abs() < f64::EPSILON);
    let anew = sidecar.metric("context_manager_vector_store_collections_made_anew_total").await?;
    ensure!((anew - 1.0).abs() < f64::EPSILON, "{anew}");
    let log = sidecar.log()?;
    ensure!(log.contains("has no such collection any more") && log.contains("was made anew, empty"), "{log}");
    Ok(())
}

fn said(answer: &Answer) -> Cow<'_, str> {
    String::from_utf8_lossy(&answer.body)
}

/// Limits how many different words a text may have, as the collection's owner would.
async fn limit(server: &Qdrant, words: u64) -> Result<()> {
    let named = [("sparse_self".to_owned(), StrictModeSparse { max_length: Some(words) })].into();
    let sparse_config = Some(StrictModeSparseConfig { sparse_config: named });
    let client = qdrant_client::Qdrant::from_url(&format!("http://{}", server.address())).build()?;
    let limits = StrictModeConfig { enabled: Some(true), sparse_config, ..StrictModeConfig::default() };
    client
        .update_collection(UpdateCollection {
            collection_name: "memory".to_owned(),
            strict_mode_config: Some(limits),
            ..UpdateCollection::default()
        })
        .await?;
    Ok(())
}

/// A write that goes beyond a limit of the server is refused, and one that waits does not keep the others from it.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_the_server_refuses_stops_no_other() -> Result<()> {
    let mut setup = Setup::new().await?;
    let client = setup.sidecar.client()?;
    limit(&setup.server, 20).await?;
    let long = (0..40).fold("a long text:".to_owned(), |text, number| format!("{text} word{number}"));
    let message = |text: &str| json!({"text": text, "level": "long_term"});
    for _ in 0..5 {
        let refused = client.post("/v1/contexts", &message(&long)).await?;
        ensure!(refused.status == 422 && refused.problem()?.code == Code::StoreRefused, "{}", said(&refused));
        ensure!(client.post("/v1/contexts", &message("a short text")).await?.status == 201, "the breaker stays closed");
    }

    setup.server.kill()?;
    for text in ["the first", &long, "the second"] {
        let journaled = client.post("/v1/contexts", &message(text)).await?;
        ensure!(journaled.status == 202, "{}", said(&journaled));
    }
    setup.server.restart().await?;
    drained(&client, PATIENCE).await.with_context(|| setup.sidecar.log().unwrap_or_default())?;
    let listed: ContextList = client.get("/v1/contexts?limit=100").await?.message()?;
    let mut texts: Vec<&str> = listed.contexts.iter().map(|context| context.text.as_str()).collect();
    texts.retain(|text| *text != "a short text");
    ensure!(texts == ["the first", "the second"], "{texts:?}");
    let aside = set_aside(&setup.sidecar, &["refused"])?;
    ensure!(aside.lines().count() == 1 && aside.contains(&long), "{aside}");

    // When the limit is another, the lines are imported, and are not needed any more.
    limit(&setup.server, 1_000).await?;
    let import =
        Draft { content_type: "application/jsonl", ..Draft::new("POST", "/v1/contexts/import", aside.as_str()) };
    let imported: Imported = client.send(import).await?.message()?;
    ensure!(imported.imported == 1, "{imported:?}");
    let listed: ContextList = client.get("/v1/contexts?limit=100").await?.message()?;
    ensure!(listed.contexts.iter().any(|context| context.text == long), "it is there");
    ensure!(set_aside(&setup.sidecar, &["refused", "--remove"])? == aside, "it is told once more");
    ensure!(set_aside(&setup.sidecar, &["refused"])?.is_empty(), "and gone then");
    ensure!(set_aside(&setup.sidecar, &["conflicts"])?.is_empty(), "there were none");
    Ok(())
}

/// A record that the program cannot read neither stops its start nor is lost, and the writes around it reach the server.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_the_journal_that_cannot_be_read_stops_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut server = Qdrant::start(&folder.path().join("qdrant")).await?;
    let mut sidecar = Sidecar::start(folder.path(), &config(server.address())).await?;
    server.kill()?;
    let message = |text: &str| json!({"text": text, "level": "long_term"});
    ensure!(sidecar.client()?.post("/v1/contexts", &message("before it")).await?.status == 202);
    sidecar.signal(Signal::SIGKILL)?;
    sidecar.wait(PATIENCE).await?;
    let record = r#"{"merge":{"id":"0191e7f0-0000-7000-8000-000000000001","text":"of a later version"}}"#;
    {
        let (journal, _) = Journal::open(Options::new(folder.path().join("journal")))?;
        journal.append(record.as_bytes())?;
        journal.append(b"\xff no text at all")?;
    }

    let sidecar = Sidecar::start(folder.path(), &config(server.address())).await?;
    let client = sidecar.client()?;
    ensure!(client.post("/v1/contexts", &message("behind it")).await?.status == 202, "{}", sidecar.log()?);
    server.restart().await?;
    drained(&client, PATIENCE).await.with_context(|| sidecar.log().unwrap_or_default())?;
    let listed: ContextList = client.get("/v1/contexts").await?.message()?;
    let texts: Vec<&str> = listed.contexts.iter().map(|context| context.text.as_str()).collect();
    ensure!(texts == ["before it", "behind it"], "{texts:?}");
    let aside = set_aside(&sidecar, &["unreadable"])?;
    let lines: Vec<serde_json::Value> = aside.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(lines.len() == 2 && lines[0]["record"] == record && lines[1]["record_base64"].is_string(), "{aside}");
    let dropped = sidecar.metric("context_manager_journal_dropped_total{reason=\"unreadable\"}").await?;
    ensure!((dropped - 2.0).abs() < f64::EPSILON, "{dropped}");
    let log = sidecar.log()?;
    ensure!(log.contains("cannot be read by this version") && !log.contains("of a later version\"}"), "{log}");
    Ok(())
}

/// What the program tells of what was set aside, beside the sidecar that runs.
fn set_aside(sidecar: &Sidecar, arguments: &[&str]) -> Result<String> {
    let mut told = std::process::Command::new(program("context-manager-sidecar")?);
    told.arg("--config").arg(sidecar.config()).arg("set-aside").args(arguments).env_clear();
    let output = told.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// A server that takes nothing, because of its own limits, costs nothing once they are others.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_everything_costs_nothing() -> Result<()> {
    let setup = Setup::new().await?;
    let writers = setup.writers("limits")?;
    pause(300).await;
    setup.proxy.set(Network::Cut);
    pause(500).await;
    let tally = writers.stop().await?;
    limit(&setup.server, 1).await?;
    setup.proxy.set(Network::Fine);
    pause(3_000).await;
    ensure!(!setup.path().join("journal/refused.jsonl").exists(), "{}", setup.sidecar.log()?);
    let more = setup.sidecar.client()?.post("/v1/contexts", &json!({"text": "one more"})).await?;
    ensure!(more.status == 202, "what waits, waits: {}", said(&more));
    limit(&setup.server, 1_000).await?;
    judge("a server that refuses everything", &setup.sidecar, &tally).await?;
    Ok(())
}
