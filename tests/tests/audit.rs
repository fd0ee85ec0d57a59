//! The audit log, as the program writes it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use context_manager_protocol::{
    codec::Format,
    message::Acknowledgment,
    stream::{RequestFrame, RequestKind},
};
use context_manager_tests::{
    client::Draft,
    embeddings::{Behaviour, Embeddings},
    sidecar::Sidecar,
    stream::Stream,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

/// The lines of the audit log.
fn audited(log: &str) -> Result<Vec<Value>> {
    let lines = log.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    Ok(lines.into_iter().filter(|line| line["target"] == "context_manager::audit").collect())
}

#[tokio::test]
async fn each_write_and_each_refusal_is_one_line_without_the_text() -> Result<()> {
    let folder = tempfile::tempdir()?;
    // What is decided is written down whatever the log's filter says.
    let mut sidecar = Sidecar::start_as("team-a", folder.path(), "[log]\nlevel = \"off\"\n").await?;
    let client = sidecar.client()?;
    let secret = json!({"text": "xyzzy", "session": "plugh", "metadata": {"plover": 1}});
    let id = client.post("/v1/contexts", &secret).await?.message::<Acknowledgment>()?.id;
    let one = format!("/v1/contexts/{id}");
    client.send(Draft::new("PATCH", &one, r#"{"text": "xyzzy again"}"#)).await?;
    client.post("/v1/contexts/search", &json!({"query": "xyzzy"})).await?;
    client.get(&one).await?;
    client.get("/v1/contexts/export").await?;
    client.send(Draft::new("DELETE", "/v1/contexts?session=plugh", Vec::new())).await?;
    client.send(Draft::new("DELETE", &one, Vec::new())).await?;
    client.send(Draft { clock_skew: -1_000, ..Draft::new("DELETE", &one, Vec::new()) }).await?;
    sidecar.signal(Signal::SIGTERM)?;
    sidecar.wait(Duration::from_secs(5)).await?;

    let log = sidecar.log()?;
    for secret in ["xyzzy", "plugh", "plover"] {
        assert!(!log.contains(secret), "{secret} is in the log: {log}");
    }
    let lines = audited(&log)?;
    let told: Vec<(&str, &str, Option<u64>, &str)> = lines
        .iter()
        .map(|line| {
            let field = |name: &str| line[name].as_str().unwrap_or_default();
            (field("decision"), field("operation"), line["http.status"].as_u64(), field("contexts"))
        })
        .collect();
    let id = id.to_string();
    let expected = [
        ("allowed", "store", Some(201), id.as_str()),
        ("allowed", "update", Some(200), &id),
        ("allowed", "export", Some(200), ""),
        ("allowed", "clear_session", Some(200), ""),
        ("allowed", "delete", Some(404), ""),
        ("refused", "", None, ""),
    ];
    assert_eq!(told, expected, "{log}");
    for line in &lines {
        assert!(line.to_string().contains("request.id"), "{line}");
    }
    assert_eq!((&lines[0]["tenant"], &lines[0]["key.id"]), (&json!("team-a"), &json!("default")), "{}", lines[0]);
    assert_eq!(lines[5]["reason"], "timestamp-outside-window");
    Ok(())
}

/// Not even at the level of what the libraries say about each frame.
#[tokio::test]
async fn no_text_is_in_the_log_at_any_level() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut sidecar = Sidecar::start(folder.path(), "[log]\nlevel = \"trace,tungstenite=trace\"\n").await?;
    let mut stream = Stream::open(sidecar.port, &Sidecar::key()?).await?;
    for (id, format) in [(1_u64, Format::Json), (2, Format::MessagePack)] {
        stream.format = format;
        let context = json!({"text": "xyzzy", "level": "immediate"});
        let stored = stream.ask(&RequestFrame::new(id, RequestKind::ContextStore, Some(context))).await?;
        ensure!(stored.status == Some(201), "{stored:?}");
        let query = json!({"query": "xyzzy"});
        let found = stream.ask(&RequestFrame::new(id + 10, RequestKind::ContextRequest, Some(query))).await?;
        ensure!(found.message.is_some_and(|message| message.to_string().contains("xyzzy")), "the text comes back");
    }
    stream.close().await?;
    sidecar.client()?.post("/v1/contexts/search", &json!({"query": "xyzzy"})).await?;
    sidecar.signal(Signal::SIGTERM)?;
    sidecar.wait(Duration::from_secs(5)).await?;

    let log = sidecar.log()?;
    ensure!(log.contains("TRACE"), "nothing is said at this level");
    for secret in ["xyzzy", "78797a7a79", "120, 121, 122, 122, 121"] {
        let line = log.lines().find(|line| line.to_lowercase().contains(secret));
        ensure!(line.is_none(), "{secret} is in the log: {line:?}");
    }
    Ok(())
}

/// The write is done whether or not somebody waits for it, so its line is there as well, and says what became of it.
#[tokio::test]
async fn a_write_that_goes_on_without_its_caller_has_its_line_when_it_is_done() -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(20);
    let folder = tempfile::tempdir()?;
    let embeddings = Embeddings::start().await?;
    let more = format!("request_timeout = \"900ms\"\n{}", embeddings.config_once("builtin-64"));
    let sidecar = Sidecar::start(folder.path(), &more).await?;
    let client = sidecar.client()?;
    embeddings.set(Behaviour::Slow(Duration::from_millis(1_500)));
    let [late, hung_up, closed] = [Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7()];
    let message = |id: Uuid| json!({"id": id, "text": "xyzzy"});

    let answer = client.post("/v1/contexts", &message(late)).await?;
    ensure!(answer.status == 504, "{}", String::from_utf8_lossy(&answer.body));
    let unheard = timeout(Duration::from_millis(300), client.post("/v1/contexts", &message(hung_up))).await;
    ensure!(unheard.is_err(), "the caller went away before the answer");
    let mut stream = Stream::open(sidecar.port, &Sidecar::key()?).await?;
    stream.send(&RequestFrame::new(1, RequestKind::ContextStore, Some(message(closed)))).await?;
    sleep(Duration::from_millis(300)).await;
    stream.close().await?;

    let since = Instant::now();
    let lines = loop {
        let lines = audited(&sidecar.log()?)?;
        let lines: Vec<Value> = lines.into_iter().filter(|line| line["operation"] == "store").collect();
        if lines.len() == 3 {
            break lines;
        }
        ensure!(since.elapsed() < PATIENCE, "{lines:?}\n{}", sidecar.log()?);
        sleep(Duration::from_millis(50)).await;
    };
    for id in [late, hung_up, closed] {
        let one = client.get(&format!("/v1/contexts/{id}")).await?;
        ensure!(one.status == 200, "{}", String::from_utf8_lossy(&one.body));
        let id = id.to_string();
        let line = lines.iter().find(|line| line["contexts"] == id.as_str());
        let line = line.ok_or_else(|| anyhow::anyhow!("no line names {id}: {lines:?}"))?;
        let told = (&line["decision"], &line["answered"], &line["outcome"], &line["http.status"]);
        ensure!(told == (&json!("allowed"), &json!(false), &json!("done"), &Value::Null), "{line}");
        ensure!(line.to_string().contains("request.id") && !line.to_string().contains("xyzzy"), "{line}");
    }
    Ok(())
}
