//! The whole pipeline without sockets: what is served, and the table of what is refused.

mod access;
mod bodies;
mod clock;
mod tenant;
mod transfer;

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Request, StatusCode, header},
    routing::{get, post},
};
use bytes::Bytes;
use context_manager_protocol::{
    codec::Format,
    config::SidecarConfig,
    duration::HumanDuration,
    keyring::Key,
    message::{
        AckStatus, Acknowledgment, AcknowledgmentBatch, Cleared, Context, ContextList, ContextResponse, ExportEnd,
        ExportedContext, Imported,
    },
    problem::{Code, Problem},
    signature,
    size::ByteSize,
};
use futures::{StreamExt as _, stream};
use serde_json::json;
use uuid::Uuid;

use super::signed;
use crate::{
    clock::unix_time,
    layers::admission::Admission,
    metrics::{RequestOutcome, Route},
    testing::{Call, Fixture, RUNNING_FOR, eventually, key, send},
};

const CONTEXTS: &str = "/v1/contexts";
const SEARCH: &str = "/v1/contexts/search";
const TEXT: &str = r#"{"text": "the blue door is the exit"}"#;

#[tokio::test]
async fn a_whole_number_that_a_store_could_change_is_refused_and_others_come_back_as_they_are() {
    let fixture = Fixture::new().await;
    let kept =
        r#"{"deep":{"list":[1.0,1,-0.0]},"float":1.0,"largest":9223372036854775807,"smallest":-9223372036854775808}"#;
    let body = format!(r#"{{"text": "a", "metadata": {kept}}}"#);
    let stored: Acknowledgment = fixture.send(Call::json("POST", CONTEXTS, body).sign()).await.json();
    let one = format!("{CONTEXTS}/{}", stored.id);
    let context: Context = fixture.send(Call::new("GET", &one).sign()).await.json();
    let expected: serde_json::Value = serde_json::from_str(kept).expect("JSON");
    let values = expected.as_object().expect("an object").iter();
    assert_eq!(context.metadata.len(), values.len());
    for (key, value) in values {
        assert_eq!(context.metadata[key].to_string(), value.to_string(), "{key}");
    }

    for value in ["18446744073709551615", "9223372036854775808", r#"{"a": [[9223372036854775808]]}"#] {
        let metadata = format!(r#"{{"n": 1, "h": {value}}}"#);
        for call in [
            Call::json("POST", CONTEXTS, format!(r#"{{"text": "a", "metadata": {metadata}}}"#)),
            Call::json(
                "POST",
                "/v1/contexts/batch",
                format!(r#"{{"contexts": [{{"text": "a", "metadata": {metadata}}}]}}"#),
            ),
            Call::json("PATCH", &one, format!(r#"{{"metadata": {metadata}}}"#)),
        ] {
            let problem = refused(&fixture, call.sign(), Code::FieldInvalid).await;
            assert!(problem.field.as_deref().is_some_and(|field| field.ends_with("metadata.h")), "{problem:?}");
            assert!(problem.detail.contains("9223372036854775807"), "{}", problem.detail);
        }
        let line = format!(
            r#"{{"id": "{}", "text": "a", "level": "long_term", "version": 1, "created_at": 1, "updated_at": 1, "metadata": {metadata}}}"#,
            Uuid::now_v7(),
        );
        let import = Call { body: line.into_bytes(), ..Call::new("POST", "/v1/contexts/import") };
        let answer = fixture.send(import.header("content-type", "application/jsonl").sign()).await;
        let imported: serde_json::Value = answer.json();
        let detail = imported["refused"][0]["detail"].as_str().expect("a reason");
        assert!(detail.starts_with("metadata.h has the whole number"), "{imported}");
    }
    let beyond = Call::json("POST", CONTEXTS, r#"{"text": "a", "metadata": {"h": 1e400}}"#);
    refused(&fixture, beyond.sign(), Code::BodyMalformed).await;
}

/// A filter of so many conditions, each a list of so many values.
fn filter(conditions: usize, values: impl Iterator<Item = serde_json::Value>) -> serde_json::Value {
    let any = values.collect::<Vec<_>>();
    (0..conditions).map(|key| (format!("k{key}"), json!({"any": any}))).collect::<serde_json::Map<_, _>>().into()
}

#[tokio::test]
async fn a_filter_that_is_too_large_is_refused_and_named_wherever_one_is_taken() {
    let fixture = Fixture::new().await;
    let numbers = |count: usize| (0..count).map(|number| json!(number));
    let texts = |count: usize| (0..count).map(|number| json!(format!("t{number}")));
    let long = json!({"k": {"eq": "x".repeat(1_025)}});
    let long_key = json!({"k".repeat(200): {"eq": 1}});
    for (filter, field, detail) in [
        (filter(1, numbers(200_000)), "filter.k0".to_owned(), "at most 256"),
        (filter(1, texts(257)), "filter.k0".to_owned(), "at most 256"),
        (filter(3, numbers(100)), "filter.k2".to_owned(), "at most 256"),
        (filter(65, numbers(1)), "filter".to_owned(), "at most 64"),
        (long, "filter.k".to_owned(), "at most 1024"),
        (long_key, format!("filter.{}", "k".repeat(64)), "128"),
    ] {
        for (path, body) in [
            (SEARCH, json!({"query": "door", "filter": filter})),
            ("/v1/contexts/delete", json!({"filter": filter})),
            ("/v1/contexts/delete", json!({"filter": filter, "dry_run": true})),
        ] {
            let problem =
                refused(&fixture, Call::json("POST", path, body.to_string()).sign(), Code::FieldInvalid).await;
            assert_eq!(problem.field.as_ref(), Some(&field), "{path}: {}", problem.detail);
            assert!(problem.detail.contains(detail), "{path}: {}", problem.detail);
        }
    }
}

#[tokio::test]
async fn the_largest_filter_finds_and_deletes_what_it_names() {
    let fixture = Fixture::new().await;
    for (text, metadata) in [("a blue door", json!({"k0": "t255"})), ("a red door", json!({"k0": "t256"}))] {
        let body = json!({"text": text, "level": "long_term", "metadata": metadata});
        fixture.send(Call::json("POST", CONTEXTS, body.to_string()).sign()).await;
    }
    let largest = filter(1, (0..256).map(|number| json!(format!("t{number}"))));
    let search = json!({"query": "door", "filter": largest}).to_string();
    let found: ContextResponse = fixture.send(Call::json("POST", SEARCH, search).sign()).await.json();
    let texts: Vec<_> = found.contexts.iter().map(|found| found.context.text.as_str()).collect();
    assert_eq!(texts, ["a blue door"]);
    let delete = json!({"filter": largest}).to_string();
    let deleted: Cleared = fixture.send(Call::json("POST", "/v1/contexts/delete", delete).sign()).await.json();
    assert_eq!(deleted.deleted, 1);
}

/// The contexts of an export whose last line is there, and its text.
async fn exported(fixture: &Fixture, path: String) -> (Vec<ExportedContext>, String) {
    let answer = fixture.send(Call::new("GET", path).sign()).await;
    assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, "application/jsonl"));
    let text = String::from_utf8(answer.body.to_vec()).expect("UTF-8");
    let mut lines: Vec<&str> = text.lines().collect();
    let end: ExportEnd = serde_json::from_str(lines.pop().expect("a last line")).expect("the end");
    assert_eq!(end.exported, lines.len());
    (lines.iter().map(|line| serde_json::from_str(line).expect("a context")).collect(), text)
}

fn importing(path: &str, body: impl Into<Vec<u8>>) -> Call {
    Call { body: body.into(), ..Call::new("POST", path) }.header("content-type", "application/jsonl")
}

async fn imported(fixture: &Fixture, call: Call) -> Imported {
    let answer = fixture.send(call.sign()).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", String::from_utf8_lossy(&answer.body));
    answer.json()
}

async fn refused(fixture: &Fixture, request: Request<Body>, code: Code) -> Problem {
    let answer = fixture.send(request).await;
    let problem = answer.problem();
    assert_eq!(problem.code, code, "{}", problem.detail);
    problem
}

#[tokio::test]
async fn what_is_stored_is_found_read_changed_listed_and_deleted() {
    let fixture = Fixture::new().await;
    let stored = fixture
        .send(Call::json("POST", CONTEXTS, r#"{"text": "the blue door is the exit", "session": "s1"}"#).sign())
        .await;
    assert_eq!(stored.status, StatusCode::CREATED);
    let acknowledgment: Acknowledgment = stored.json();
    assert_eq!((acknowledgment.status, acknowledgment.version), (AckStatus::Stored, 1));
    let one = format!("{CONTEXTS}/{}", acknowledgment.id);
    assert_eq!(stored.header("location"), one);

    let found: ContextResponse =
        fixture.send(Call::json("POST", SEARCH, r#"{"query": "blue door"}"#).sign()).await.json();
    assert_eq!(found.contexts.first().map(|found| found.context.id), Some(acknowledgment.id));
    let read: Context = fixture.send(Call::new("GET", &one).sign()).await.json();
    assert_eq!(read.text, "the blue door is the exit");
    let listed: ContextList =
        fixture.send(Call::new("GET", format!("{CONTEXTS}?session=s1&limit=10")).sign()).await.json();
    assert_eq!(listed.contexts.len(), 1);

    let changed = fixture.send(Call::json("PATCH", &one, r#"{"metadata": {"seen": true}}"#).sign()).await;
    assert_eq!(changed.status, StatusCode::OK);
    assert_eq!(changed.json::<Acknowledgment>().version, 2);
    let deleted = fixture.send(Call::new("DELETE", &one).sign()).await;
    assert_eq!((deleted.status, deleted.json::<Acknowledgment>().status), (StatusCode::OK, AckStatus::Deleted));
    assert_eq!(fixture.send(Call::new("GET", &one).sign()).await.problem().code, Code::ContextNotFound);
}

#[tokio::test]
async fn a_batch_is_stored_in_order_and_a_session_is_cleared() {
    let fixture = Fixture::new().await;
    let body =
        json!({"contexts": [{"text": "first", "session": "s"}, {"text": "second", "session": "s"}, {"text": "third"}]});
    let answer = fixture.send(Call::json("POST", "/v1/contexts/batch", body.to_string()).sign()).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    assert_eq!(answer.json::<AcknowledgmentBatch>().acknowledgments.len(), 3);
    let stats: serde_json::Value = fixture.send(Call::new("GET", "/v1/contexts/stats").sign()).await.json();
    assert!(stats["dimensions"].as_u64().is_some_and(|dimensions| dimensions > 0), "{stats}");
    let cleared = fixture.send(Call::new("DELETE", format!("{CONTEXTS}?session=s")).sign()).await;
    assert_eq!(cleared.json::<Cleared>().deleted, 2);
}

#[tokio::test]
async fn messages_and_problems_are_answered_in_message_pack_when_asked() {
    let fixture = Fixture::new().await;
    let packed = |message: &serde_json::Value| {
        let call = Call { body: Format::MessagePack.encode(message), ..Call::new("POST", CONTEXTS) };
        call.header("content-type", "application/msgpack")
    };
    let stored = fixture.send(packed(&json!({"text": "a"})).sign()).await;
    assert_eq!((stored.status, stored.header("content-type")), (StatusCode::CREATED, "application/msgpack"));
    assert_eq!(Format::MessagePack.decode::<Acknowledgment>(&stored.body).expect("an acknowledgment").version, 1);
    let problem = fixture.send(packed(&json!({"text": "a", "level": "l4"})).sign()).await;
    assert_eq!(problem.header("content-type"), "application/msgpack");
    let problem: Problem = Format::MessagePack.decode(&problem.body).expect("a problem document");
    assert_eq!((problem.code, problem.field.as_deref()), (Code::FieldInvalid, Some("level")));
    let json = fixture.send(packed(&json!({"text": "a"})).header("accept", "application/json").sign()).await;
    assert_eq!(json.json::<Acknowledgment>().version, 1);
}

fn set(request: &mut Request<Body>, name: &'static str, value: &'static str) {
    request.headers_mut().insert(name, HeaderValue::from_static(value));
}

#[tokio::test]
async fn a_request_that_is_not_signed_rightly_is_refused_by_its_reason() {
    let fixture = Fixture::new().await;
    let call = || Call::json("POST", CONTEXTS, TEXT);
    let altered = |change: fn(&mut Request<Body>)| {
        let mut request = call().sign();
        change(&mut request);
        request
    };
    let unsigned_part = |name: &'static str| {
        let mut request = call().sign();
        request.headers_mut().remove(name);
        request
    };
    let now = unix_time();
    let table = [
        (call().unsigned(), Code::SignatureMissing),
        (unsigned_part(signature::HEADER), Code::SignatureMissing),
        (unsigned_part(signature::INPUT_HEADER), Code::SignatureMissing),
        (unsigned_part("content-digest"), Code::SignatureMissing),
        (altered(|request| set(request, signature::INPUT_HEADER, "sig1=what")), Code::SignatureMalformed),
        (altered(|request| set(request, signature::HEADER, "sig1=:AAAA:")), Code::SignatureInvalid),
        (altered(|request| *request.method_mut() = axum::http::Method::PUT), Code::SignatureInvalid),
        (
            altered(|request| *request.uri_mut() = "/v1/contexts?session=other".parse().expect("a URI")),
            Code::SignatureInvalid,
        ),
        (altered(|request| *request.uri_mut() = "/v1/contexts/search".parse().expect("a URI")), Code::SignatureInvalid),
        (
            altered(|request| *request.body_mut() = Body::from(r#"{"text": "the blue door is the EXIT"}"#)),
            Code::DigestMismatch,
        ),
        (Call { key: key("k2"), ..call() }.sign(), Code::KeyUnknown),
        (Call { key: Key::new("k1", vec![0; 32]).expect("a key"), ..call() }.sign(), Code::SignatureInvalid),
        (Call { created: now - 301, ..call() }.sign(), Code::TimestampOutsideWindow),
        (Call { created: now + 310, ..call() }.sign(), Code::TimestampOutsideWindow),
        (Call { created: now - RUNNING_FOR - 5, ..call() }.sign(), Code::TimestampBeforeStart),
    ];
    for (request, code) in table {
        let before = fixture.shared.metrics.auth.refusals.get(code);
        let answer = fixture.send(request).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        assert_eq!(answer.problem().code, code);
        assert!(answer.header("www-authenticate").starts_with("Signature "));
        assert_eq!(fixture.shared.metrics.auth.refusals.get(code), before + 1);
    }
    assert!(fixture.shared.nonces.is_empty(), "a refused request must not take a nonce");
    assert_eq!(
        fixture.send(Call { created: now - RUNNING_FOR + 5, ..call() }.sign()).await.status,
        StatusCode::CREATED
    );
}

#[tokio::test]
async fn a_message_is_accepted_once() {
    let fixture = Fixture::new().await;
    let call = Call::json("POST", CONTEXTS, TEXT);
    assert_eq!(fixture.send(call.sign()).await.status, StatusCode::CREATED);
    refused(&fixture, call.sign(), Code::NonceReplayed).await;
    let later = Call { created: call.created + 1, ..call };
    refused(&fixture, later.sign(), Code::NonceReplayed).await;
}

#[tokio::test]
async fn a_full_nonce_store_refuses_and_says_when_to_come_back() {
    let fixture = Fixture::with(|_| {}, 2).await;
    for _ in 0..2 {
        assert_eq!(fixture.send(Call::new("GET", CONTEXTS).sign()).await.status, StatusCode::OK);
    }
    let answer = fixture.send(Call::new("GET", CONTEXTS).sign()).await;
    assert_eq!((answer.status, answer.problem().code), (StatusCode::SERVICE_UNAVAILABLE, Code::NonceStoreFull));
    let seconds: u64 = answer.header("retry-after").parse().expect("seconds");
    assert!((290..=302).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn what_the_caller_got_wrong_is_named() {
    let fixture = Fixture::new().await;
    let long_id = format!("{CONTEXTS}/not-a-uuid");
    let absent = format!("{CONTEXTS}/{}", Uuid::from_u128(7));
    let packed = Call { body: vec![0x81, 0xa4, b't'], ..Call::new("POST", CONTEXTS) };
    let typed = |content_type: &str| {
        Call { body: TEXT.into(), ..Call::new("POST", CONTEXTS) }.header("content-type", content_type)
    };
    let table = [
        (Call::json("POST", CONTEXTS, r#"{"text": "a""#), Code::BodyMalformed, None, "line 1 column"),
        (Call::json("POST", CONTEXTS, ""), Code::BodyMalformed, None, "line 1 column"),
        (Call::json("POST", CONTEXTS, "\u{0}\u{1}"), Code::BodyMalformed, None, "line 1 column"),
        (
            packed.header("content-type", "application/msgpack").header("accept", "application/json"),
            Code::BodyMalformed,
            None,
            "MessagePack",
        ),
        (
            Call::json("POST", CONTEXTS, r#"{"text": "a", "level": "l4"}"#),
            Code::FieldInvalid,
            Some("level"),
            "`short_term`",
        ),
        (
            Call::json("POST", CONTEXTS, r#"{"text": "a", "txet": "b"}"#),
            Code::FieldInvalid,
            Some("txet"),
            "unknown field `txet`",
        ),
        (
            Call::json("POST", CONTEXTS, r#"{"text": "a", "tenant": "other"}"#),
            Code::FieldInvalid,
            Some("tenant"),
            "unknown field `tenant`",
        ),
        (Call::json("POST", CONTEXTS, r#"{"text": ""}"#), Code::FieldInvalid, Some("text"), "text"),
        (Call::json("POST", CONTEXTS, r#"{"text": "a", "ttl": "soon"}"#), Code::FieldInvalid, Some("ttl"), "30s, 5m"),
        (
            Call::json("POST", SEARCH, r#"{"query": "a", "token_budget": -1}"#),
            Code::FieldInvalid,
            Some("token_budget"),
            "-1",
        ),
        (
            Call::json("POST", SEARCH, r#"{"query": "a", "token_budget": "many"}"#),
            Code::FieldInvalid,
            Some("token_budget"),
            "token_budget",
        ),
        (typed("text/plain"), Code::MediaTypeUnsupported, None, "application/msgpack"),
        (
            Call { body: TEXT.into(), ..Call::new("POST", CONTEXTS) },
            Code::MediaTypeUnsupported,
            None,
            "application/json",
        ),
        (Call::new("GET", long_id), Code::ParameterInvalid, Some("id"), "UUID"),
        (Call::new("GET", format!("{CONTEXTS}?sesion=a")), Code::ParameterInvalid, None, "unknown field `sesion`"),
        (Call::new("GET", format!("{CONTEXTS}?level=l4")), Code::ParameterInvalid, None, "`immediate`"),
        (Call::new("DELETE", CONTEXTS), Code::ParameterInvalid, Some("session"), "?session="),
        (Call::new("DELETE", format!("{CONTEXTS}?session=")), Code::ParameterInvalid, Some("session"), "?session="),
        (Call::new("GET", absent), Code::ContextNotFound, None, ""),
        (Call::new("GET", "/v1/context"), Code::RouteUnknown, None, "/v1/contexts"),
        (Call::new("GET", "/health"), Code::RouteUnknown, None, "/v1/contexts"),
        (Call::json("PUT", CONTEXTS, TEXT), Code::MethodNotAllowed, None, "PUT"),
    ];
    for (call, code, field, detail) in table {
        let problem = refused(&fixture, call.sign(), code).await;
        assert_eq!(problem.field.as_deref(), field, "{problem:?}");
        assert!(problem.detail.contains(detail), "{problem:?}");
    }
    let answer = fixture.send(Call::json("PUT", CONTEXTS, TEXT).sign()).await;
    assert_eq!(answer.header("allow"), "POST,GET,HEAD,DELETE");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_it_is_read() {
    let fixture = Fixture::with(|config| config.protocol.max_message_size = ByteSize::new(2_048), 100).await;
    let exactly = Call::json("POST", CONTEXTS, format!("{{\"text\": \"{}\"}}", "a".repeat(2_048 - 12)));
    assert_eq!(exactly.body.len(), 2_048);
    assert_eq!(fixture.send(exactly.sign()).await.status, StatusCode::CREATED);

    let over = Call::json("POST", CONTEXTS, vec![b' '; 2_049]);
    let mut unread = over.sign();
    *unread.body_mut() =
        Body::from_stream(stream::poll_fn(|_| -> std::task::Poll<Option<Result<Bytes, Infallible>>> {
            unreachable!("the body is not asked for")
        }));
    let problem = refused(&fixture, unread, Code::BodyTooLarge).await;
    assert!(problem.detail.contains("2048 bytes"), "{}", problem.detail);

    let mut chunked = over.sign();
    chunked.headers_mut().remove(header::CONTENT_LENGTH);
    *chunked.body_mut() =
        Body::from_stream(stream::iter((0..3).map(|_| Ok::<_, Infallible>(Bytes::from(vec![b' '; 1_024])))));
    refused(&fixture, chunked, Code::BodyTooLarge).await;
    let refusals = &fixture.shared.metrics.auth.refusals;
    assert_eq!(refusals.get(Code::BodyTooLarge), 0, "a large body is no failed authentication");
}

#[tokio::test]
async fn a_stranger_cannot_make_the_sidecar_read_a_body() {
    let fixture = Fixture::new().await;
    for mut request in [
        Call::json("POST", CONTEXTS, TEXT).unsigned(),
        Call { key: key("k9"), ..Call::json("POST", CONTEXTS, TEXT) }.sign(),
        // Whoever knows the id of a key does not know the key.
        Call { key: Key::new("k1", vec![7; 32]).expect("a valid key"), ..Call::json("POST", CONTEXTS, TEXT) }.sign(),
    ] {
        *request.body_mut() =
            Body::from_stream(stream::poll_fn(|_| -> std::task::Poll<Option<Result<Bytes, Infallible>>> {
                unreachable!("the body is not asked for")
            }));
        assert_eq!(fixture.send(request).await.status, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn every_request_is_counted_once_by_route_and_outcome() {
    let fixture = Fixture::new().await;
    fixture.send(Call::json("POST", CONTEXTS, TEXT).sign()).await;
    fixture.send(Call::json("POST", CONTEXTS, "{").sign()).await;
    fixture.send(Call::new("DELETE", format!("{CONTEXTS}?session=a")).sign()).await;
    fixture.send(Call::new("GET", "/nowhere").sign()).await;
    let finished = &fixture.shared.metrics.requests.finished;
    assert_eq!(finished.get(Route::Store, RequestOutcome::Ok), 1);
    assert_eq!(finished.get(Route::Store, RequestOutcome::Refused), 1);
    assert_eq!(finished.get(Route::ClearSession, RequestOutcome::Ok), 1);
    assert_eq!(finished.get(Route::Unknown, RequestOutcome::Refused), 1);
    assert_eq!(fixture.shared.metrics.requests.problems.get(Code::BodyMalformed), 1);
    assert_eq!(fixture.shared.metrics.requests.in_flight.get(), 0);
}

#[tokio::test]
async fn a_callers_request_id_is_kept_and_a_forged_one_replaced() {
    let fixture = Fixture::new().await;
    let fixture = &fixture;
    let id = |call: Call| async move { fixture.send(call.sign()).await.header("x-request-id").to_owned() };
    assert_eq!(id(Call::new("GET", CONTEXTS).header("x-request-id", "run-7.step_3")).await, "run-7.step_3");
    let replaced = id(Call::new("GET", CONTEXTS).header("x-request-id", "a b\"c")).await;
    assert!(Uuid::try_parse(&replaced).is_ok(), "{replaced}");
}

/// Routes that fail in ways that the engine's should not.
fn troubled(fixture: &Fixture) -> Router {
    let routes = Router::new()
        .route("/fast", get(async || "done"))
        .route("/panic", post(async || -> StatusCode { unreachable!("a secret text") }))
        .route("/slow", get(async || tokio::time::sleep(Duration::from_hours(1)).await));
    signed(routes, &fixture.shared, &Admission::new(fixture.shared.clone()))
}

#[tokio::test]
async fn a_panic_is_a_problem_document_without_its_message() {
    let fixture = Fixture::new().await;
    let answer = send(troubled(&fixture), Call::json("POST", "/panic", "{}").sign()).await;
    let problem = answer.problem();
    assert_eq!(problem.code, Code::Internal);
    assert!(!problem.detail.contains("secret"), "{}", problem.detail);
    assert_eq!(fixture.shared.metrics.requests.in_flight.get(), 0);
}

#[tokio::test]
async fn a_request_ends_at_its_deadline_and_gives_its_place_back() {
    let change = |config: &mut SidecarConfig| {
        config.protocol.request_timeout = HumanDuration::from_millis(50);
        config.protocol.max_in_flight = 1;
    };
    let fixture = Fixture::with(change, 100).await;
    let router = troubled(&fixture);
    for _ in 0..2 {
        let answer = send(router.clone(), Call::new("GET", "/slow").sign()).await;
        assert_eq!((answer.status, answer.problem().code), (StatusCode::GATEWAY_TIMEOUT, Code::DeadlineExceeded));
    }
}

#[tokio::test]
async fn requests_over_the_limit_are_shed_at_once_and_the_limit_can_change() {
    let fixture = Fixture::with(|config| config.protocol.max_in_flight = 1, 100).await;
    let router = troubled(&fixture);
    let slow = tokio::spawn(send(router.clone(), Call::new("GET", "/slow").sign()));
    eventually("the slow request", || fixture.shared.metrics.requests.in_flight.get() == 1).await;
    let shed = send(router.clone(), Call::new("GET", "/fast").sign()).await;
    assert_eq!((shed.status, shed.problem().code), (StatusCode::SERVICE_UNAVAILABLE, Code::Overloaded));
    assert_eq!(shed.header("retry-after"), "1");

    let mut config = (*fixture.shared.live.config()).clone();
    config.protocol.max_in_flight = 2;
    fixture.shared.live.set_config(config);
    let served = send(router.clone(), Call::new("GET", "/fast").sign()).await;
    assert_eq!((served.status, &served.body[..]), (StatusCode::OK, &b"done"[..]));

    slow.abort();
    eventually("the end of the cancelled request", || fixture.shared.metrics.requests.in_flight.get() == 0).await;
    assert_eq!(fixture.shared.metrics.requests.finished.get(Route::Unknown, RequestOutcome::Cancelled), 1);
}

#[tokio::test]
async fn a_draining_sidecar_takes_no_new_request() {
    let fixture = Fixture::new().await;
    fixture.shared.readiness.drain();
    refused(&fixture, Call::new("GET", CONTEXTS).sign(), Code::ShuttingDown).await;
}
