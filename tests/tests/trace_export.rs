//! Traces of the real program: from its caller through embedding and store to a collector, and what a bad collector costs.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use context_manager_protocol::stream::{RequestFrame, RequestKind};
use context_manager_test_qdrant::{Control, Server};
use context_manager_tests::{
    client::{Client, Draft},
    collector::{Behaviour, Collector, Span},
    embeddings::{self, Embeddings},
    sidecar::Sidecar,
    stream::Stream,
};
use http::HeaderMap;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const STATE: &str = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE";
const MODEL: &str = "model-64";
const STORE: &str = "/v1/contexts";
const SEARCH: &str = "/v1/contexts/search";
/// Nothing beside the requests, so that a suite knows what comes.
const QUIET: &str = "background_sampling = 0.0\n";

fn parent(sampled: bool) -> String {
    format!("00-{TRACE}-{CALLER}-0{}", u8::from(sampled))
}

/// A store request with these further headers.
async fn store(client: &Client, text: &str, more: &[(&str, &str)]) -> Result<u16> {
    let body = serde_json::to_vec(&json!({"text": text, "session": "s", "level": "long_term"}))?;
    Ok(client.send(Draft { more: more.to_vec(), ..Draft::new("POST", STORE, body) }).await?.status)
}

async fn search(client: &Client, query: &str, more: &[(&str, &str)]) -> Result<u16> {
    let body = serde_json::to_vec(&json!({"query": query}))?;
    Ok(client.send(Draft { more: more.to_vec(), ..Draft::new("POST", SEARCH, body) }).await?.status)
}

/// A Qdrant server in this process; it ends when the set is dropped.
async fn qdrant(folder: &Path) -> Result<(String, Control, JoinSet<()>)> {
    let server = Server::open(folder.join("qdrant"))?;
    let control = server.control();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let config = format!("[store.qdrant]\nurl = \"http://{}\"\ncollection = \"memory\"\n", listener.local_addr()?);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { server.serve(listener, std::future::pending()).await.unwrap_or_default() });
    Ok((config, control, tasks))
}

fn named<'a>(spans: &'a [Span], name: &str) -> Result<&'a Span> {
    let found = spans.iter().find(|span| span.name == name);
    found.with_context(|| format!("no span {name:?} among {:?}", names(spans)))
}

fn names(spans: &[Span]) -> BTreeSet<&str> {
    spans.iter().map(|span| span.name.as_str()).collect()
}

fn said<'a>(span: &'a Span, names: &[&str]) -> Vec<&'a str> {
    names.iter().map(|name| span.attributes.get(*name).map_or("", String::as_str)).collect()
}

/// The trace and the span that a header names.
fn ids(header: &str) -> (String, String) {
    let fields: Vec<&str> = header.split('-').collect();
    (fields.get(1).copied().unwrap_or_default().to_owned(), fields.get(2).copied().unwrap_or_default().to_owned())
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

async fn until<F: Future<Output = Result<bool>>>(what: &str, holds: impl Fn() -> F) -> Result<()> {
    let since = Instant::now();
    while !holds().await? {
        ensure!(since.elapsed() < Duration::from_secs(20), "{what} is not so after 20 s");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_callers_trace_goes_on_through_embedding_and_store() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (collector, api) = (Collector::start().await?, Embeddings::start().await?);
    let (store_config, control, _server) = qdrant(folder.path()).await?;
    let config =
        format!("{store_config}{}{}{QUIET}[log]\nlevel = \"debug\"\n", api.config_once(MODEL), collector.config());
    let sidecar = Sidecar::start_agent("team-a", "support", folder.path(), &config).await?;
    let client = sidecar.client()?;
    let _ = control.take_traces();
    let parent = parent(true);
    let ours = [("traceparent", parent.as_str()), ("tracestate", STATE), ("x-request-id", "request-of-the-suite")];

    assert_eq!(store(&client, "the lighthouse is white", &ours).await?, 201);
    let spans = collector.trace(TRACE, CALLER).await?;
    let request = named(&spans, "POST /v1/contexts")?;
    assert_eq!((request.parent.as_str(), request.kind, request.failed), (CALLER, 2, false));
    let conventions = ["http.request.method", "http.route", "http.response.status_code", "url.scheme"];
    assert_eq!(said(request, &conventions), ["POST", STORE, "201", "http"]);
    assert_eq!(said(request, &["request.id", "operation"]), ["request-of-the-suite", "store"]);
    assert_eq!(request.flags & 0x3ff, 0x301, "sampled, and the parent is another process's");
    let who = ["service.name", "context_manager.tenant", "context_manager.agent"];
    let who: Vec<&str> = who.iter().map(|name| request.resource[*name].as_str()).collect();
    assert_eq!(who, ["context-manager-sidecar", "team-a", "support"]);

    let of_request = |name: &str| {
        let span = named(&spans, name)?;
        ensure!(span.parent == request.id, "{name} belongs to {}", span.parent);
        ensure!(span.state == STATE && span.duration <= request.duration, "{span:?}");
        Ok(span)
    };
    of_request("authenticate")?;
    let embeddings = of_request("embeddings")?;
    let texts = ["gen_ai.request.model", "context_manager.embedding.texts", "context_manager.embedding.kind"];
    assert_eq!(said(embeddings, &texts), [MODEL, "2", "documents"]);
    let call = named(&spans, "POST")?;
    assert_eq!((&call.parent, call.kind), (&embeddings.id, 3));
    assert_eq!(said(call, &["http.response.status_code", "server.address"]), ["200", "127.0.0.1"]);
    let upsert = of_request("store upsert")?;
    let database = ["db.system.name", "db.operation.name", "db.collection.name", "server.address"];
    assert_eq!((upsert.kind, said(upsert, &database)), (3, vec!["qdrant", "upsert", "memory", "127.0.0.1"]));

    // What the neighbours were told is the trace, and the span of the call to them.
    let calls = api.take_calls();
    assert_eq!(calls.len(), 1);
    let told = ids(&header(&calls[0], "traceparent").context("the API is told")?);
    assert_eq!(told, (TRACE.to_owned(), call.id.clone()));
    assert_eq!(header(&calls[0], "tracestate").as_deref(), Some(STATE));
    let traces: Vec<_> = control.take_traces().iter().map(|header| ids(header)).collect();
    assert!(traces.contains(&(TRACE.to_owned(), upsert.id.clone())), "{traces:?}");
    let store_spans: BTreeSet<&String> =
        spans.iter().filter(|span| span.name.starts_with("store ")).map(|span| &span.id).collect();
    let of_request = traces.iter().filter(|(trace, _)| trace == TRACE);
    assert!(of_request.clone().all(|(_, span)| store_spans.contains(span)), "{traces:?}");

    let log = sidecar.log()?;
    let answered = log.lines().filter(|line| line.contains("request-of-the-suite")).collect::<Vec<_>>();
    assert!(answered.len() >= 2, "the audit line and the answer: {log}");
    for line in answered {
        let line: Value = serde_json::from_str(line)?;
        assert_eq!((line["span"]["trace_id"].as_str(), line["span"]["name"].as_str()), (Some(TRACE), Some("request")));
        assert_eq!(line["span"]["span_id"].as_str(), Some(request.id.as_str()), "{line}");
    }

    collector.forget();
    assert_eq!(search(&client, "lighthouse", &ours).await?, 200);
    let spans = collector.trace(TRACE, CALLER).await?;
    let request = named(&spans, "POST /v1/contexts/search")?;
    for name in ["authenticate", "embeddings", "store candidates", "rank and pack"] {
        assert_eq!(named(&spans, name)?.parent, request.id, "{name}");
    }
    assert_eq!(said(named(&spans, "rank and pack")?, &["context_manager.candidates"]), ["1"]);
    Ok(())
}

#[tokio::test]
async fn a_failure_is_seen_where_it_is() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (collector, api) = (Collector::start().await?, Embeddings::start().await?);
    let config = format!("{}{}{QUIET}", api.config_once(MODEL), collector.config());
    let sidecar = Sidecar::start(folder.path(), &config).await?;
    let client = sidecar.client()?;
    api.set(embeddings::Behaviour::Fails(503));
    assert_eq!(
        store(&client, "words alone", &[("traceparent", &parent(true))]).await?,
        201,
        "it is stored all the same"
    );
    let spans = collector.trace(TRACE, CALLER).await?;
    let (request, call) = (named(&spans, "POST /v1/contexts")?, named(&spans, "POST")?);
    assert!(!request.failed && named(&spans, "embeddings")?.failed && call.failed, "{spans:#?}");
    assert_eq!(said(call, &["http.response.status_code", "error.type"]), ["503", "failed"]);
    collector.forget();
    let unsigned = Draft { signed_body: Some(b"other".to_vec()), ..Draft::new("POST", STORE, "{}") };
    let refused = client.send(Draft { more: vec![("traceparent", &parent(true))], ..unsigned }).await?;
    assert_eq!(refused.status, 401);
    let spans = collector.trace(TRACE, CALLER).await?;
    let request = named(&spans, "POST /v1/contexts")?;
    assert_eq!((said(request, &["http.response.status_code"]), request.failed), (vec!["401"], false));
    let code = refused.problem()?.code.as_str();
    assert_eq!(said(request, &["error.type"]), [code]);
    assert_eq!(said(named(&spans, "authenticate")?, &["error.type"]), [code]);
    assert!(refused.problem()?.request_id.is_some(), "a refusal keeps its request's id");
    Ok(())
}

#[tokio::test]
async fn the_caller_decides_what_is_sampled_and_else_the_share() -> Result<()> {
    for sampling in ["0.0", "1.0"] {
        let folder = tempfile::tempdir()?;
        let (collector, api) = (Collector::start().await?, Embeddings::start().await?);
        let more = format!("sampling = {sampling}\n{QUIET}");
        let config = format!("{}{}{more}", api.config_once(MODEL), collector.config());
        let sidecar = Sidecar::start(folder.path(), &config).await?;
        let client = sidecar.client()?;
        let other = TRACE.replace('4', "5");
        let malformed = format!("00-{TRACE}-{CALLER}");
        for (text, parent) in [
            ("none", None),
            ("unsampled", Some(parent(false))),
            ("malformed", Some(malformed)),
            ("sampled", Some(format!("00-{other}-{CALLER}-01"))),
        ] {
            let headers: Vec<_> = parent.iter().map(|parent| ("traceparent", parent.as_str())).collect();
            assert_eq!(store(&client, text, &headers).await?, 201, "{text}");
        }
        // Exported in the order in which they ended, so the others are here when the last one is.
        let spans = collector.trace(&other, CALLER).await.map(|_| collector.spans())?;
        let requests: Vec<_> = spans.iter().filter(|span| span.kind == 2).collect();
        assert!(!spans.iter().any(|span| span.trace == TRACE), "not sampled, or as none: {spans:#?}");
        let roots = requests.iter().filter(|span| span.parent.is_empty()).count();
        assert_eq!((requests.len() - roots, roots), (1, if sampling == "1.0" { 2 } else { 0 }), "{spans:#?}");

        let told: Vec<_> = api.take_calls().iter().filter_map(|call| header(call, "traceparent")).collect();
        assert_eq!(told.len(), 4, "the context is handed on, sampled or not");
        let flags: Vec<&str> = told.iter().filter_map(|header| header.rsplit('-').next()).collect();
        let drawn = if sampling == "1.0" { "01" } else { "00" };
        assert_eq!(flags, [drawn, "00", drawn, "01"], "{told:?}");
        assert_eq!(ids(&told[1]).0, TRACE);
    }
    Ok(())
}

#[tokio::test]
async fn without_a_collector_a_callers_trace_is_handed_on_as_it_is() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let api = Embeddings::start().await?;
    let (store_config, control, _server) = qdrant(folder.path()).await?;
    let sidecar = Sidecar::start(folder.path(), &format!("{store_config}{}", api.config_once(MODEL))).await?;
    let client = sidecar.client()?;
    let _ = control.take_traces();
    let parent = parent(true);
    assert_eq!(store(&client, "a", &[("traceparent", &parent), ("tracestate", STATE)]).await?, 201);
    assert_eq!(store(&client, "b", &[]).await?, 201);
    let told: Vec<_> =
        api.take_calls().iter().map(|call| (header(call, "traceparent"), header(call, "tracestate"))).collect();
    assert_eq!(told, [(Some(parent.clone()), Some(STATE.to_owned())), (None, None)]);
    let traces = control.take_traces();
    assert!(!traces.is_empty() && traces.iter().all(|trace| *trace == parent), "{traces:?}");
    let log = sidecar.log()?;
    let line = log.lines().find(|line| line.contains("Decided on a request")).context("the audit log")?;
    let line: Value = serde_json::from_str(line)?;
    assert_eq!((line["span"]["trace_id"].as_str(), line["span"].get("span_id")), (Some(TRACE), None), "{line}");
    Ok(())
}

#[tokio::test]
async fn a_collector_that_hangs_refuses_or_is_away_costs_spans_and_no_request() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let collector = Collector::start().await?;
    collector.behave(Behaviour::Hangs);
    let config = format!("{}timeout = \"200ms\"\nqueue = 16\n{QUIET}", collector.config());
    let sidecar = Sidecar::start(folder.path(), &config).await?;
    let client = sidecar.client()?;
    let dropped = async |reason: &str| {
        sidecar.metric(&format!("context_manager_trace_spans_dropped_total{{reason=\"{reason}\"}}")).await
    };
    let requests = async |count: usize| {
        let mut slowest = Duration::ZERO;
        for _ in 0..count {
            let since = Instant::now();
            let status = search(&client, "anything", &[]).await?;
            ensure!(status == 200, "{status}");
            slowest = slowest.max(since.elapsed());
        }
        // Far above what a loaded machine takes, and below what one export takes with its attempts.
        ensure!(slowest < Duration::from_secs(1), "a request took {slowest:?}");
        Ok(())
    };
    until("spans are dropped because too many wait", async || {
        requests(20).await?;
        Ok(dropped("queue_full").await? > 0.0)
    })
    .await?;
    until("an export is given up", async || Ok(dropped("export_failed").await? > 0.0)).await?;
    ensure!(collector.spans().is_empty());

    // Refused for good: not tried again.
    collector.behave(Behaviour::Refuses(400));
    let failed = dropped("export_failed").await?;
    requests(5).await?;
    until("an export is refused", async || Ok(dropped("export_failed").await? > failed)).await?;

    collector.behave(Behaviour::Rejects(1));
    requests(1).await?;
    until("a span is rejected", async || Ok(dropped("rejected").await? > 0.0)).await?;
    collector.behave(Behaviour::Takes);
    collector.forget();
    requests(1).await?;
    collector.until("spans again", |spans| named(spans, "POST /v1/contexts/search").is_ok()).await?;
    until("they are counted", async || Ok(sidecar.metric("context_manager_trace_spans_exported_total").await? > 0.0))
        .await?;
    let log = sidecar.log()?;
    let lines = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!(lines("The trace collector takes no spans"), 1, "one line for one outage: {log}");
    assert_eq!(lines("The trace collector takes spans again"), 1, "{log}");

    // Nobody listens there.
    drop(collector);
    let away = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    sidecar.reconfigure(&format!("[tracing]\notlp_endpoint = \"http://{away}\"\n{QUIET}"))?;
    until("it is taken over", async || Ok(sidecar.log()?.matches("Traces are exported").count() == 2)).await?;
    let failed = dropped("export_failed").await?;
    requests(5).await?;
    until("an export fails", async || Ok(dropped("export_failed").await? > failed)).await?;
    ensure!(sidecar.log()?.contains("failed to reach the collector at"), "{}", sidecar.log()?);
    Ok(())
}

#[tokio::test]
async fn nothing_of_a_memory_is_in_an_export() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (collector, api) = (Collector::start().await?, Embeddings::start().await?);
    let (store_config, _control, _server) = qdrant(folder.path()).await?;
    let config = format!(
        "{store_config}{}{}background_sampling = 1.0\n[gc]\ninterval = \"200ms\"\n",
        api.config_once(MODEL),
        collector.config()
    );
    let sidecar = Sidecar::start(folder.path(), &config).await?;
    let client = sidecar.client()?;
    let body = json!({
        "text": "secretword one", "session": "secretword-session", "actor": "secretword-actor",
        "metadata": {"secretword-key": "secretword value"},
    });
    let stored: Value = client.post(STORE, &body).await?.message()?;
    let id = stored["id"].as_str().context("an id")?.to_owned();
    let one = format!("{STORE}/{id}");
    client.get(&one).await?;
    client.get(&format!("{STORE}?session=secretword-session")).await?;
    client.get("/secretword/nowhere?secretword=secretword").await?;
    client.post(SEARCH, &json!({"query": "secretword", "session": "secretword-session"})).await?;
    client.post(SEARCH, &json!({"query": "secretword", "token_budget": -1})).await?;
    client.send(Draft::new("PATCH", &one, br#"{"text": "secretword two"}"#.to_vec())).await?;
    client.send(Draft::new("PATCH", &one, br#"{"secretword": "#.to_vec())).await?;
    client.send(Draft { signed_body: Some(b"secretword".to_vec()), ..Draft::new("POST", STORE, "{}") }).await?;
    client
        .send(Draft { nonce: Some("secretword-nonce-secretword".to_owned()), ..Draft::new("GET", STORE, "") })
        .await?;
    api.set(embeddings::Behaviour::Fails(400));
    client.post(SEARCH, &json!({"query": "another secretword"})).await?;
    let exported = client.get("/v1/contexts/export").await?;
    client
        .send(Draft {
            content_type: "application/x-ndjson",
            ..Draft::new("POST", "/v1/contexts/import", exported.body)
        })
        .await?;
    let mut stream = Stream::open(sidecar.port, &Sidecar::key()?).await?;
    stream.ask(&RequestFrame::new(1, RequestKind::ContextStore, Some(json!({"text": "secretword three"})))).await?;
    stream.send_value(&json!({"type": "secretword", "id": "secretword"})).await?;
    stream.answer().await?;
    client.send(Draft::new("DELETE", &one, Vec::new())).await?;
    client.send(Draft::new("DELETE", &format!("{STORE}?session=secretword-session"), Vec::new())).await?;

    let all = ["DELETE /v1/contexts", "GET /v1/contexts/export", "collect garbage", "POST", "authenticate"];
    collector.until("spans of all kinds", |spans| all.iter().all(|name| named(spans, name).is_ok())).await?;
    let bodies = collector.bodies();
    for needle in ["secretword", id.as_str(), Sidecar::SECRET] {
        let is_in = |body: &[u8]| body.windows(needle.len()).any(|window| window == needle.as_bytes());
        assert!(!bodies.iter().any(|body| is_in(body)), "{needle} is exported");
        assert!(bodies.iter().any(|body| is_in_reverse(body)), "the bodies are looked at");
    }
    let known = BTreeMap::from([("span kinds", names(&collector.spans()).len())]);
    assert!(known["span kinds"] > 12, "{:?}", names(&collector.spans()));
    Ok(())
}

/// Something that is in every export.
fn is_in_reverse(body: &[u8]) -> bool {
    body.windows(12).any(|window| window == b"service.name")
}

#[tokio::test]
async fn a_frame_is_traced_like_the_request_it_stands_for() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (collector, api) = (Collector::start().await?, Embeddings::start().await?);
    let config = format!("{}{}{QUIET}", api.config_once(MODEL), collector.config());
    let sidecar = Sidecar::start(folder.path(), &config).await?;
    let mut stream = Stream::open(sidecar.port, &Sidecar::key()?).await?;
    let opened = collector.until("the opening", |spans| named(spans, "GET /v1/stream").is_ok()).await?;
    assert_eq!(said(named(&opened, "GET /v1/stream")?, &["http.response.status_code"]), ["101"]);
    collector.forget();

    let frame = |id: u64, parent: &str| RequestFrame {
        traceparent: Some(parent.to_owned()),
        tracestate: Some(STATE.to_owned()),
        ..RequestFrame::new(id, RequestKind::ContextStore, Some(json!({"text": format!("frame {id}")})))
    };
    assert_eq!(stream.ask(&frame(1, &parent(true))).await?.status, Some(201));
    let spans = collector.trace(TRACE, CALLER).await?;
    let request = named(&spans, "POST /v1/contexts")?;
    assert_eq!((request.kind, request.state.as_str()), (2, STATE));
    let wanted = ["network.protocol.name", "http.response.status_code", "operation"];
    assert_eq!(said(request, &wanted), ["websocket", "201", "store"]);
    for name in ["authenticate", "embeddings", "store upsert"] {
        assert_eq!(named(&spans, name)?.parent, request.id, "{name}");
    }
    let calls = api.take_calls();
    let told = ids(&header(&calls[0], "traceparent").context("the API is told")?);
    assert_eq!(told, (TRACE.to_owned(), named(&spans, "POST")?.id.clone()));

    // What is not valid is as none, and no mistake; each frame is a trace of its own then, not a part of the stream's.
    collector.forget();
    for (id, bad) in [(2, "00-0-0-00"), (3, "not\na header"), (4, "")] {
        assert_eq!(stream.ask(&frame(id, bad)).await?.status, Some(201), "{bad:?}");
    }
    let requests = |spans: &[Span]| spans.iter().filter(|span| span.kind == 2).count();
    let spans = collector.until("three requests", |spans| requests(spans) == 3).await?;
    let traces: BTreeSet<_> = spans.iter().filter(|span| span.kind == 2).map(|span| &span.trace).collect();
    let opening = &named(&opened, "GET /v1/stream")?.trace;
    assert!(traces.len() == 3 && !traces.contains(opening) && !traces.contains(&TRACE.to_owned()), "{traces:?}");
    assert!(spans.iter().filter(|span| span.kind == 2).all(|span| span.parent.is_empty()), "{spans:#?}");
    Ok(())
}

#[tokio::test]
async fn the_last_spans_are_sent_at_the_end_and_a_hanging_collector_does_not_delay_it() -> Result<()> {
    for behaviour in [Behaviour::Takes, Behaviour::Hangs] {
        let folder = tempfile::tempdir()?;
        let collector = Collector::start().await?;
        collector.behave(behaviour);
        let mut sidecar = Sidecar::start(folder.path(), &format!("{}{QUIET}", collector.config())).await?;
        assert_eq!(store(&sidecar.client()?, "the last", &[("traceparent", &parent(true))]).await?, 201);
        let since = Instant::now();
        sidecar.signal(Signal::SIGTERM)?;
        assert_eq!(sidecar.wait(Duration::from_secs(10)).await?, Some(0));
        match behaviour {
            Behaviour::Takes => {
                let spans = collector.spans();
                assert_eq!(named(&spans, "POST /v1/contexts")?.parent, CALLER, "sent before the process ended");
            }
            Behaviour::Rejects(_) | Behaviour::Refuses(_) | Behaviour::Hangs => {
                assert!(since.elapsed() < Duration::from_secs(3), "it took {:?}", since.elapsed());
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_change_takes_effect_while_it_runs_and_headers_are_read_for_each_export() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (first, second) = (Collector::start().await?, Collector::start().await?);
    let sidecar = Sidecar::start(folder.path(), "").await?;
    let client = sidecar.client()?;
    std::fs::write(folder.path().join("headers"), "Authorization: Bearer one\nx-tenant: seven\n")?;
    let config = |collector: &Collector| format!("{}headers_file = \"headers\"\n{QUIET}", collector.config());
    sidecar.reconfigure(&config(&first))?;
    let arrives = async |collector: &Collector| {
        until("a span arrives", async || {
            ensure!(search(&client, "anything", &[]).await? == 200);
            Ok(!collector.spans().is_empty())
        })
        .await
    };
    arrives(&first).await?;
    let sent = |collector: &Collector| collector.headers().last().and_then(|headers| header(headers, "authorization"));
    assert_eq!(sent(&first).as_deref(), Some("Bearer one"));
    std::fs::write(folder.path().join("headers"), "Authorization: Bearer two\n")?;
    first.forget();
    arrives(&first).await?;
    assert_eq!(sent(&first).as_deref(), Some("Bearer two"), "rotated without a restart");
    sidecar.reconfigure(&config(&second))?;
    arrives(&second).await?;
    // A file that cannot be used fails the export, names itself and shows nothing of its content.
    std::fs::write(folder.path().join("headers"), "a token that stands alone\n")?;
    search(&client, "anything", &[]).await?;
    until("the log says it", async || Ok(sidecar.log()?.contains("line 1 of tracing.headers_file"))).await?;
    let log = sidecar.log()?;
    assert!(!log.contains("Bearer two") && !log.contains("stands alone"), "{log}");
    sidecar.reconfigure("")?;
    until("it is off", async || Ok(sidecar.log()?.contains("Traces are not exported any more"))).await?;
    Ok(())
}

#[tokio::test]
async fn background_work_is_traced_by_its_own_share() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let collector = Collector::start().await?;
    let config =
        format!("{}sampling = 0.0\nbackground_sampling = 1.0\n[gc]\ninterval = \"100ms\"\n", collector.config());
    let sidecar = Sidecar::start(folder.path(), &config).await?;
    assert_eq!(store(&sidecar.client()?, "anything", &[]).await?, 201);
    let work = ["collect garbage", "upkeep"];
    let spans = collector.until("roots", |spans| work.iter().all(|name| named(spans, name).is_ok())).await?;
    let root = |span: &Span| work.contains(&span.name.as_str());
    assert!(spans.iter().filter(|span| root(span)).all(|span| span.parent.is_empty() && span.kind == 1));
    assert!(!spans.iter().any(|span| span.kind == 2), "no request is drawn: {spans:#?}");
    let garbage = named(&spans, "collect garbage")?;
    let calls: Vec<_> = spans.iter().filter(|span| span.parent == garbage.id).collect();
    assert!(calls.iter().any(|call| call.name == "store delete_expired"), "{calls:?}");
    assert!(calls.iter().all(|call| call.trace == garbage.trace), "{calls:?}");
    Ok(())
}
