//! The WebSocket of the real program: the same messages as the routes, and the life of a stream.

use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use axum::{Json, Router, routing::post};
use context_manager_protocol::{
    codec::Format,
    keyring::{Key, KeyRing},
    message::{Context, ContextResponse},
    stream::{AnswerKind, CorrelationId, RequestFrame, RequestKind},
};
use context_manager_tests::{
    client::Client,
    sidecar::Sidecar,
    stream::{Answer, Event, Stream, nonce, signed},
};
use http::HeaderMap;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpListener, time::sleep};
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

const PROMPT: Duration = Duration::from_secs(2);

fn frame(id: u64, kind: RequestKind, message: Value) -> RequestFrame<Value> {
    RequestFrame::new(id, kind, (!message.is_null()).then_some(message))
}

fn of_context(id: u64, kind: RequestKind, context: Uuid, message: Value) -> RequestFrame<Value> {
    RequestFrame { context: Some(context), ..frame(id, kind, message) }
}

fn with_parameters(id: u64, kind: RequestKind, parameters: &Value) -> RequestFrame<Value> {
    RequestFrame { parameters: parameters.as_object().cloned().unwrap_or_default(), ..frame(id, kind, Value::Null) }
}

/// A good answer of a kind; its message.
fn message(answer: Answer, id: u64, kind: AnswerKind, status: u16) -> Result<Value> {
    assert_eq!((&answer.id, answer.kind), (&Some(CorrelationId::Number(id)), kind), "{answer:?}");
    assert_eq!(answer.status, Some(status), "{answer:?}");
    assert!(answer.request_id.is_some(), "{answer:?}");
    answer.message.context("an answer has a message")
}

/// The code and the field of a refusal.
fn refusal(answer: &Answer) -> (String, Option<String>) {
    assert_eq!(answer.kind, AnswerKind::Error, "{answer:?}");
    let problem = answer.message.clone().unwrap_or_default();
    assert_eq!(problem["status"].as_u64(), answer.status.map(u64::from), "{answer:?}");
    assert_eq!(problem["request_id"].as_str(), answer.request_id.as_deref(), "{answer:?}");
    let text = |name: &str| problem[name].as_str().map(ToOwned::to_owned);
    (text("code").unwrap_or_default(), text("field"))
}

/// A sidecar whose embeddings API takes its time for texts with the word "slow".
async fn with_slow_embeddings(folder: &Path, more: &str) -> Result<Sidecar> {
    let embed = async |Json(request): Json<Value>| {
        if request["input"].to_string().contains("slow") {
            sleep(Duration::from_millis(600)).await;
        }
        let inputs = request["input"].as_array().map_or(1, Vec::len);
        let data: Vec<Value> = (0..inputs).map(|index| json!({"index": index, "embedding": [0.6, 0.8, 0.0]})).collect();
        Json(json!({ "data": data }))
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/v1/embeddings", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/v1/embeddings", post(embed))).await });
    let embedding = format!("[embedding]\nprovider = \"open_ai\"\nurl = \"{url}\"\nmodel = \"m\"\ndimensions = 3\n");
    Sidecar::start(folder, &format!("{more}{embedding}")).await
}

#[tokio::test]
async fn every_operation_is_there_in_both_formats() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let sidecar = Sidecar::start(folder.path(), "").await?;
    let client = sidecar.client()?;
    for format in [Format::Json, Format::MessagePack] {
        let session = format!("{format:?}");
        let mut stream = Stream::open(sidecar.port, &Sidecar::key()?).await?;
        stream.format = format;
        let store = json!({"text": "the blue door is the exit", "session": session, "metadata": {"n": 1.5}});
        let stored = stream.ask(&frame(1, RequestKind::ContextStore, store)).await?;
        let id: Uuid = serde_json::from_value(message(stored, 1, AnswerKind::Acknowledgment, 201)?["id"].clone())?;

        let search = json!({"query": "blue door", "session": session});
        let found = stream.ask(&frame(2, RequestKind::ContextRequest, search)).await?;
        let found: ContextResponse = serde_json::from_value(message(found, 2, AnswerKind::ContextResponse, 200)?)?;
        assert_eq!(found.contexts.first().map(|found| found.context.id), Some(id));

        let update = json!({"text": "the red door is the exit", "metadata": {"seen": true}});
        let updated = stream.ask(&of_context(3, RequestKind::ContextUpdate, id, update)).await?;
        assert_eq!(message(updated, 3, AnswerKind::Acknowledgment, 200)?["version"], 2);

        let read = stream.ask(&of_context(4, RequestKind::GetContext, id, Value::Null)).await?;
        let read: Context = serde_json::from_value(message(read, 4, AnswerKind::Context, 200)?)?;
        let by_route: Context = client.get(&format!("/v1/contexts/{id}")).await?.message()?;
        assert_eq!(read, by_route, "a frame and a route say the same");
        assert_eq!(read.metadata.get("n"), Some(&json!(1.5)));

        let batch = json!({"contexts": [{"text": "a", "session": session}, {"text": "b", "session": session}]});
        let batch = stream.ask(&frame(5, RequestKind::ContextStoreBatch, batch)).await?;
        let batch = message(batch, 5, AnswerKind::AcknowledgmentBatch, 201)?;
        assert_eq!(batch["acknowledgments"].as_array().map(Vec::len), Some(2));
        let page = json!({"session": session, "limit": 2});
        let page = stream.ask(&with_parameters(6, RequestKind::ListContexts, &page)).await?;
        let page = message(page, 6, AnswerKind::ContextList, 200)?;
        assert_eq!(page["contexts"].as_array().map(Vec::len), Some(2));
        assert!(page["next"].is_string(), "{page}");

        let deleted = stream.ask(&of_context(7, RequestKind::ContextDelete, id, Value::Null)).await?;
        assert_eq!(message(deleted, 7, AnswerKind::Acknowledgment, 200)?["status"], "deleted");
        let gone = stream.ask(&of_context(8, RequestKind::GetContext, id, Value::Null)).await?;
        assert_eq!((gone.status, refusal(&gone).0.as_str()), (Some(404), "context-not-found"));
        let dry = json!({"session": session, "dry_run": true});
        let dry = stream.ask(&frame(9, RequestKind::ContextDelete, dry)).await?;
        assert_eq!(message(dry, 9, AnswerKind::Cleared, 200)?["deleted"], 2);
        let cleared = with_parameters(10, RequestKind::ClearSession, &json!({"session": session}));
        let cleared = stream.ask(&cleared).await?;
        assert_eq!(message(cleared, 10, AnswerKind::Cleared, 200)?["deleted"], 2);
        let stats = stream.ask(&frame(11, RequestKind::GetStats, Value::Null)).await?;
        assert!(message(stats, 11, AnswerKind::Stats, 200)?["dimensions"].is_number());
        let life = stream.ask(&frame(12, RequestKind::Heartbeat, Value::Null)).await?;
        assert_eq!((life.id, life.kind), (Some(CorrelationId::Number(12)), AnswerKind::Heartbeat));
        stream.close().await?;
    }
    Ok(())
}

#[tokio::test]
async fn requests_run_at_once_and_a_quick_one_overtakes_a_slow_one() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let sidecar = with_slow_embeddings(folder.path(), "").await?;
    let mut stream = Stream::open(sidecar.port, &Sidecar::key()?).await?;
    stream.send(&frame(1, RequestKind::ContextStore, json!({"text": "a slow text"}))).await?;
    stream.send(&frame(2, RequestKind::GetStats, Value::Null)).await?;
    assert_eq!(stream.answer().await?.id, Some(CorrelationId::Number(2)));
    assert_eq!(stream.answer().await?.id, Some(CorrelationId::Number(1)));

    // Many more than run at once: they wait their turn, none is refused, each is answered once.
    for id in 0..300 {
        stream.send(&frame(id, RequestKind::ContextStore, json!({"text": format!("text {id}")}))).await?;
    }
    let mut answered = BTreeSet::new();
    for _ in 0..300 {
        let answer = stream.answer().await?;
        assert_eq!(answer.status, Some(201), "{answer:?}");
        let Some(CorrelationId::Number(id)) = answer.id else { anyhow::bail!("another id: {answer:?}") };
        assert!(answered.insert(id), "{id} was answered twice");
    }
    Ok(())
}

#[tokio::test]
async fn a_frame_passes_the_layers_of_a_request() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut sidecar = Sidecar::start(folder.path(), "").await?;
    let mut stream = Stream::open(sidecar.port, &Sidecar::key()?).await?;
    let named = |id, text: &str| RequestFrame {
        request_id: Some(format!("run-{id}")),
        idempotency_key: Some("once".to_owned()),
        ..frame(id, RequestKind::ContextStore, json!({"text": text}))
    };
    let first = stream.ask(&named(1, "xyzzy")).await?;
    assert_eq!(first.request_id.as_deref(), Some("run-1"));
    let again = message(stream.ask(&named(2, "xyzzy")).await?, 2, AnswerKind::Acknowledgment, 201)?;
    assert_eq!(again["id"], first.message.unwrap_or_default()["id"], "the key makes the id");
    let other = stream.ask(&named(3, "plugh")).await?;
    assert_eq!(refusal(&other).0, "idempotency-key-reused");
    assert_eq!(other.request_id.as_deref(), Some("run-3"));
    let conflict = json!({"metadata": {}, "if_version": 7});
    let id = serde_json::from_value(again["id"].clone())?;
    let conflict = stream.ask(&of_context(4, RequestKind::ContextUpdate, id, conflict)).await?;
    assert_eq!(refusal(&conflict).0, "version-conflict");

    // No rule gives it a shared space, in whatever way it asks.
    let store = json!({"text": "a", "scope": {"space": "team"}});
    let shared = stream.ask(&frame(5, RequestKind::ContextStore, store)).await?;
    assert_eq!((refusal(&shared).0.as_str(), shared.status), ("access-denied", Some(403)));
    let listed = with_parameters(6, RequestKind::ListContexts, &json!({"space": "team"}));
    assert_eq!(refusal(&stream.ask(&listed).await?).0, "access-denied");

    let metrics = sidecar.admin_page("/metrics").await?;
    for line in [
        "context_manager_streams 1",
        "context_manager_requests_total{outcome=\"ok\",route=\"stream\"} 1",
        "context_manager_requests_total{outcome=\"ok\",route=\"store\"} 2",
        "context_manager_requests_total{outcome=\"refused\",route=\"store\"} 2",
        "context_manager_stream_frames_total{outcome=\"ok\",type=\"ContextStore\"} 2",
        "context_manager_stream_frames_total{outcome=\"refused\",type=\"ContextStore\"} 2",
        "context_manager_problems_total{code=\"version-conflict\"} 1",
    ] {
        assert!(metrics.contains(&format!("{line}\n")), "{line} is not in {metrics}");
    }
    stream.close().await?;
    sidecar.signal(Signal::SIGTERM)?;
    sidecar.wait(Duration::from_secs(5)).await?;
    let log = sidecar.log()?;
    assert!(!log.contains("xyzzy") && !log.contains("plugh"), "{log}");
    let lines = log.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let audit: Vec<(&str, u64)> = lines
        .iter()
        .filter(|line| line["target"] == "context_manager::audit")
        .map(|line| (line["operation"].as_str().unwrap_or_default(), line["http.status"].as_u64().unwrap_or_default()))
        .collect();
    let expected = [
        ("stream", 101),
        ("store", 201),
        ("store", 201),
        ("store", 422),
        ("update", 409),
        ("store", 403),
        ("list", 403),
    ];
    assert_eq!(audit, expected, "{log}");
    let second = lines.iter().filter(|line| line["target"] == "context_manager::audit").nth(1);
    assert!(second.is_some_and(|line| line.to_string().contains("run-1")), "{log}");
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_with_a_frame_is_named_and_the_stream_goes_on() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let sidecar = Sidecar::start(folder.path(), "max_message_size = \"2Ki\"\n").await?;
    let mut stream = Stream::open(sidecar.port, &Sidecar::key()?).await?;
    let context = Uuid::from_u128(7);
    let table = [
        (json!({"id": 1}), "field-invalid", None),
        (json!({"id": 1, "type": "Store"}), "field-invalid", Some("type")),
        (json!({"id": 1, "type": "GetStats", "tpye": 1}), "field-invalid", Some("tpye")),
        (json!({"type": "GetStats"}), "field-invalid", Some("id")),
        (json!({"id": [], "type": "GetStats"}), "field-invalid", Some("id")),
        (json!({"id": 1, "type": "ContextStore"}), "field-invalid", Some("message")),
        (json!({"id": 1, "type": "GetStats", "message": {}}), "field-invalid", Some("message")),
        (json!({"id": 1, "type": "GetContext"}), "field-invalid", Some("context")),
        (json!({"id": 1, "type": "GetStats", "context": context}), "field-invalid", Some("context")),
        (json!({"id": 1, "type": "GetStats", "request_id": "a\nb"}), "field-invalid", Some("request_id")),
        (
            json!({"id": 1, "type": "ListContexts", "parameters": {"session": []}}),
            "field-invalid",
            Some("parameters.session"),
        ),
        (json!({"id": 1, "type": "Heartbeat", "context": context}), "field-invalid", Some("context")),
        // These are the routes' own refusals.
        (json!({"id": 1, "type": "ListContexts", "parameters": {"sesion": "s"}}), "parameter-invalid", None),
        (json!({"id": 1, "type": "ClearSession"}), "parameter-invalid", Some("session")),
        (json!({"id": 1, "type": "ContextStore", "message": {"text": ""}}), "field-invalid", Some("text")),
        (
            json!({"id": 1, "type": "ContextStore", "message": {"text": "a", "level": "l4"}}),
            "field-invalid",
            Some("level"),
        ),
        (json!({"id": 1, "type": "ContextStore", "message": {"text": "a".repeat(3_000)}}), "body-too-large", None),
        (
            json!({"id": 1, "type": "ContextStore", "message": {"text": "a"}, "idempotency_key": ""}),
            "parameter-invalid",
            Some("Idempotency-Key"),
        ),
        (
            json!({"id": 1, "type": "ContextUpdate", "context": context, "message": {"text": "x"}, "idempotency_key": "k"}),
            "parameter-invalid",
            Some("Idempotency-Key"),
        ),
    ];
    for format in [Format::Json, Format::MessagePack] {
        stream.format = format;
        for (sent, code, field) in &table {
            stream.send_value(sent).await?;
            let answer = stream.answer().await?;
            assert_eq!(refusal(&answer), ((*code).to_owned(), field.map(ToOwned::to_owned)), "{sent}: {answer:?}");
            assert_eq!(serde_json::to_value(&answer.id)?, if sent["id"].is_number() { json!(1) } else { Value::Null });
        }
    }
    for garbage in [Message::text("{\"id\": 1, \"type\": "), Message::text("hello"), Message::binary(vec![0xc1, 0, 0])]
    {
        stream.send_message(garbage).await?;
        let answer = stream.answer().await?;
        assert_eq!((refusal(&answer).0.as_str(), answer.id), ("body-malformed", None));
    }
    stream.format = Format::Json;
    let stats = stream.ask(&frame(2, RequestKind::GetStats, Value::Null)).await?;
    message(stats, 2, AnswerKind::Stats, 200)?;
    let metrics = sidecar.admin_page("/metrics").await?;
    assert!(
        metrics.contains("context_manager_stream_frames_total{outcome=\"refused\",type=\"unknown\"} 11\n"),
        "{metrics}"
    );
    Ok(())
}

#[tokio::test]
async fn what_is_no_frame_closes_the_stream_with_its_reason() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let sidecar = Sidecar::start(folder.path(), "max_message_size = \"2Ki\"\n").await?;
    let key = Sidecar::key()?;
    let mut stream = Stream::open(sidecar.port, &key).await?;
    // The sidecar closes while this is being sent, so the sending may fail.
    let _ = stream.send_message(Message::text("x".repeat(1 << 20))).await;
    let (code, reason) = stream.end().await?.context("a close frame")?;
    assert!(code == 1009 && reason.contains("max_message_size"), "{code} {reason}");

    let mut stream = Stream::open(sidecar.port, &key).await?;
    stream.connection().write_all(b"\x81\x81\0\0\0\0\xff").await?;
    let (code, reason) = stream.end().await?.context("a close frame")?;
    assert!(code == 1007 && reason.contains("UTF-8"), "{code} {reason}");

    let mut stream = Stream::open(sidecar.port, &key).await?;
    stream.connection().write_all(b"GET / HTTP/1.1\r\n\r\n").await?;
    let (code, _) = stream.end().await?.context("a close frame")?;
    assert_eq!(code, 1002);
    let metrics = sidecar.admin_page("/metrics").await?;
    for line in ["{reason=\"too_large\"} 1", "{reason=\"protocol\"} 2"] {
        assert!(metrics.contains(&format!("context_manager_streams_ended_total{line}\n")), "{metrics}");
    }
    Ok(())
}

#[tokio::test]
async fn pongs_take_no_room_of_messages_however_many_come() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let more = "max_message_size = \"2Ki\"\nmax_bytes_in_flight = \"2Ki\"\n";
    let sidecar = Sidecar::start(folder.path(), more).await?;
    let mut stream = Stream::open(sidecar.port, &Sidecar::key()?).await?;
    for _ in 0..1_000 {
        stream.send_message(Message::Pong(vec![7; 125].into())).await?;
    }
    let stats = stream.ask(&frame(1, RequestKind::GetStats, Value::Null)).await?;
    message(stats, 1, AnswerKind::Stats, 200)?;
    Ok(())
}

#[tokio::test]
async fn only_a_signed_request_opens_a_stream_and_only_once() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let sidecar = Sidecar::start(folder.path(), "max_streams = 1\n").await?;
    let key = Sidecar::key()?;
    let refused = async |headers: HeaderMap| -> Result<(u16, String)> {
        let (status, problem) = Stream::attempt(sidecar.port, headers).await?.err().context("it was opened")?;
        Ok((status, problem["code"].as_str().unwrap_or_default().to_owned()))
    };
    assert_eq!(refused(HeaderMap::new()).await?, (401, "signature-missing".to_owned()));
    let stranger = Key::new("default", vec![9; 32])?;
    assert_eq!(refused(signed(&stranger, &nonce())).await?, (401, "signature-invalid".to_owned()));

    let headers = signed(&key, &nonce());
    let stream =
        Stream::attempt(sidecar.port, headers.clone()).await?.map_err(|problem| anyhow::anyhow!("{problem:?}"))?;
    assert_eq!(refused(headers).await?, (401, "nonce-replayed".to_owned()));
    assert_eq!(refused(signed(&key, &nonce())).await?, (503, "overloaded".to_owned()), "one is the limit");
    stream.close().await?;
    sleep(Duration::from_millis(100)).await;
    Stream::open(sidecar.port, &key).await?.close().await?;

    let plain = sidecar.client()?.get("/v1/stream").await?;
    assert_eq!((plain.status, plain.problem()?.code.as_str()), (426, "upgrade-required"));
    Ok(())
}

#[tokio::test]
async fn heartbeats_come_by_themselves_and_a_silent_agent_is_given_up() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let sidecar = Sidecar::start(folder.path(), "heartbeat_interval = \"100ms\"\n").await?;
    let mut stream = Stream::open(sidecar.port, &Sidecar::key()?).await?;
    // The pongs of the client's library keep it open for longer than a silent one's patience.
    for expected in 1..=6 {
        let Event::Answer(answer) = stream.next().await? else { anyhow::bail!("closed after {expected} heartbeats") };
        assert_eq!((&answer.id, answer.kind, answer.status), (&None, AnswerKind::Heartbeat, None));
        assert_eq!(answer.message.unwrap_or_default()["sequence"], expected);
    }
    // An answer to a heartbeat is not answered; what comes next is the sidecar's own.
    stream.send_value(&json!({"type": "Heartbeat", "message": {"sequence": 1}})).await?;
    let Event::Answer(next) = stream.next().await? else { anyhow::bail!("closed") };
    assert_eq!((next.id, next.kind), (None, AnswerKind::Heartbeat));

    // Nothing is read, so no ping is answered.
    sleep(Duration::from_millis(800)).await;
    let (code, reason) = stream.end().await?.context("a close frame")?;
    assert_eq!(code, 4002, "{reason}");
    let metrics = sidecar.admin_page("/metrics").await?;
    assert!(metrics.contains("context_manager_streams_ended_total{reason=\"silent\"} 1\n"), "{metrics}");
    Ok(())
}

#[tokio::test]
async fn a_retired_key_closes_its_streams_after_their_last_answers() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("keys.json");
    let (old, new) = (Key::new("old", vec![1; 32])?, Key::new("new", vec![2; 32])?);
    std::fs::write(&file, KeyRing::with(new.clone(), None, vec![old.clone()])?.to_json())?;
    let sidecar = with_slow_embeddings(folder.path(), "[keys]\nfile = \"keys.json\"\n").await?;
    let mut before = Stream::open(sidecar.port, &old).await?;
    let mut after = Stream::open(sidecar.port, &new).await?;
    // The overlap of a rotation: both work.
    for stream in [&mut before, &mut after] {
        let stats = stream.ask(&frame(1, RequestKind::GetStats, Value::Null)).await?;
        message(stats, 1, AnswerKind::Stats, 200)?;
    }
    before.send(&frame(2, RequestKind::ContextStore, json!({"text": "a slow text"}))).await?;
    std::fs::write(&file, KeyRing::new(new.clone()).to_json())?;
    message(before.answer().await?, 2, AnswerKind::Acknowledgment, 201)?;
    let (code, reason) = before.end().await?.context("a close frame")?;
    assert!(code == 4001 && reason.contains("key old was retired"), "{code} {reason}");
    let stats = after.ask(&frame(3, RequestKind::GetStats, Value::Null)).await?;
    message(stats, 3, AnswerKind::Stats, 200)?;
    let again = Stream::attempt(sidecar.port, signed(&old, &nonce())).await?.err().context("a retired key")?;
    assert_eq!((again.0, again.1["code"].as_str()), (401, Some("key-unknown")));
    assert!(sidecar.log()?.contains("Closed a stream"), "{}", sidecar.log()?);
    let url = format!("http://127.0.0.1:{}", sidecar.port);
    assert_eq!(Client::new(url, new)?.get("/v1/contexts/stats").await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn sigterm_answers_what_is_in_flight_and_says_goodbye() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut sidecar = with_slow_embeddings(folder.path(), "").await?;
    let mut busy = Stream::open(sidecar.port, &Sidecar::key()?).await?;
    let mut idle = Stream::open(sidecar.port, &Sidecar::key()?).await?;
    busy.send(&frame(1, RequestKind::ContextStore, json!({"text": "a slow text"}))).await?;
    sleep(Duration::from_millis(200)).await;
    let since = std::time::Instant::now();
    sidecar.signal(Signal::SIGTERM)?;
    assert_eq!(idle.end().await?.map(|(code, _)| code), Some(1001));
    message(busy.answer().await?, 1, AnswerKind::Acknowledgment, 201)?;
    assert_eq!(busy.end().await?, Some((1001, "the sidecar is shutting down".to_owned())));
    drop((busy, idle));
    assert_eq!(sidecar.wait(PROMPT).await?, Some(0));
    assert!(since.elapsed() < PROMPT, "{:?}", since.elapsed());
    Ok(())
}

/// Of answers that are not read, as many are kept as there is room for, whichever stream they are of.
#[tokio::test]
async fn large_answers_that_are_not_read_are_bounded_together() -> Result<()> {
    const LIMIT: f64 = (10 << 20) as f64;
    // Answers have room for as much, whatever the limit is.
    const ROOM: f64 = (32 << 20) as f64;
    const EACH: u64 = 4;
    let folder = tempfile::tempdir()?;
    // An agent that does not read is not given up before this test is over.
    let sidecar =
        Sidecar::start(folder.path(), "max_bytes_in_flight = \"10Mi\"\nheartbeat_interval = \"5m\"\n").await?;
    let text = "-".repeat(60 << 10);
    let contexts: Vec<Value> =
        (0..70).map(|number| json!({"text": format!("{number}{text}"), "level": "long_term"})).collect();
    let mut reader = Stream::open(sidecar.port, &Sidecar::key()?).await?;
    let stored = reader.ask(&frame(1, RequestKind::ContextStoreBatch, json!({"contexts": contexts}))).await?;
    message(stored, 1, AnswerKind::AcknowledgmentBatch, 201)?;
    let list = |id| with_parameters(id, RequestKind::ListContexts, &json!({"limit": 1_000}));
    let held = async || sidecar.metric("context_manager_request_bytes_in_flight").await;
    let mut silent = Vec::new();
    let filled = async {
        loop {
            let mut stream = Stream::open(sidecar.port, &Sidecar::key()?).await?;
            for id in 0..EACH {
                stream.send(&list(id)).await?;
            }
            silent.push(stream);
            sleep(Duration::from_millis(300)).await;
            let held = held().await?;
            assert!(held <= ROOM, "{held}");
            if held > LIMIT {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(Duration::from_mins(1), filled).await.context("answers that are not read hold no room")??;

    let refused = reader.ask(&list(2)).await?;
    assert_eq!(refusal(&refused).0, "overloaded");
    let mut pages = 0;
    for stream in &mut silent {
        for _ in 0..EACH {
            let answer = stream.answer().await?;
            if answer.status == Some(200) {
                pages += 1;
            } else {
                assert_eq!(refusal(&answer).0, "overloaded");
            }
        }
    }
    assert!(pages >= 3, "{pages} of {} were answered", EACH * silent.len() as u64);
    let given_back = async {
        while held().await? > 0.0 {
            sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_mins(1), given_back).await.context("room that is never given back")??;
    message(reader.ask(&list(3)).await?, 3, AnswerKind::ContextList, 200)?;
    Ok(())
}

#[tokio::test]
async fn an_agent_that_does_not_read_does_not_hold_up_the_end() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut sidecar = Sidecar::start(folder.path(), "").await?;
    let mut stream = Stream::open(sidecar.port, &Sidecar::key()?).await?;
    let text = "word ".repeat(1_000);
    let contexts: Vec<Value> = (0..40).map(|number| json!({"text": format!("{number} {text}")})).collect();
    let stored = stream.ask(&frame(1, RequestKind::ContextStoreBatch, json!({"contexts": contexts}))).await?;
    message(stored, 1, AnswerKind::AcknowledgmentBatch, 201)?;
    // Each answer has 200 KB, each request is padded to 64 KB, and no answer is read: the sidecar stops reading, so that the sending
    // stops as well.
    let list = Format::Json.encode(&with_parameters(2, RequestKind::ListContexts, &json!({"limit": 40})));
    let list = format!("{}{}", String::from_utf8(list)?, " ".repeat(64_000));
    let flood = async {
        for _ in 0..4_000 {
            stream.send_message(Message::text(list.as_str())).await?;
        }
        anyhow::Ok(())
    };
    let flooded = tokio::time::timeout(Duration::from_secs(4), flood).await;
    sidecar.signal(Signal::SIGTERM)?;
    assert_eq!(sidecar.wait(PROMPT + Duration::from_millis(500)).await?, Some(0));
    assert!(flooded.is_err(), "the sidecar read on although its answers are not taken");
    Ok(())
}
