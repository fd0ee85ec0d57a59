//! Export and import, and writing once under a key.

use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::*;

const EXPORT: &str = "/v1/contexts/export";
const IMPORT: &str = "/v1/contexts/import";
const DELETE: &str = "/v1/contexts/delete";

async fn store(fixture: &Fixture, body: serde_json::Value) -> Acknowledgment {
    let answer = fixture.send(Call::json("POST", CONTEXTS, body.to_string()).sign()).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    answer.json()
}

async fn export(fixture: &Fixture, after: &str) -> (Vec<ExportedContext>, String) {
    exported(fixture, format!("{EXPORT}{after}")).await
}

async fn import(fixture: &Fixture, body: impl Into<Vec<u8>>) -> Imported {
    imported(fixture, importing(IMPORT, body)).await
}

#[tokio::test]
async fn an_export_makes_the_same_memory_elsewhere_and_again_changes_nothing() {
    let fixture = Fixture::new().await;
    for number in 0..5 {
        let level = ["immediate", "short_term", "long_term"][number % 3];
        let mut body = json!({
            "text": format!("memory {number}"), "level": level, "session": "s", "actor": "ann",
            "metadata": {"n": number}, "occurred_at": 1_700_000_000_000_i64,
        });
        if number == 4 {
            body["ttl"] = json!("1h");
        }
        let stored = store(&fixture, body).await;
        if number == 1 {
            let change = Call::json("PATCH", format!("{CONTEXTS}/{}", stored.id), r#"{"metadata": {"changed": true}}"#);
            assert_eq!(fixture.send(change.sign()).await.status, StatusCode::OK);
        }
    }
    let (exported, text) = export(&fixture, "").await;
    assert_eq!(exported.len(), 6, "what the changed one was is exported as well");

    let other = Fixture::new().await;
    let expected = Imported { lines_taken: 7, imported: 6, ..Imported::default() };
    assert_eq!(import(&other, text.clone()).await, expected);
    assert_eq!(export(&other, "").await.0, exported);
    let again = import(&other, text.clone()).await;
    assert_eq!(again, Imported { lines_taken: 7, unchanged: 6, ..Imported::default() });
    let found: ContextResponse = other.send(Call::json("POST", SEARCH, r#"{"query": "memory 3"}"#).sign()).await.json();
    assert_eq!(found.contexts.first().map(|found| found.context.text.as_str()), Some("memory 3"));
    // The session goes on where it ended.
    store(&other, json!({"text": "memory 5", "session": "s"})).await;
    let (all, _) = export(&other, "").await;
    let mut current: Vec<i64> =
        all.iter().filter(|context| context.version_of.is_none()).map(|context| context.sequence).collect();
    current.sort_unstable();
    assert_eq!(current, [0, 1, 2, 3, 4, 5]);
    // An interrupted export goes on after the last line that came.
    let (rest, _) = export(&fixture, &format!("?after={}", exported[2].id)).await;
    assert_eq!(rest, exported[3..]);
}

#[tokio::test]
async fn lines_that_cannot_be_imported_are_named_and_the_others_are_imported() {
    let fixture = Fixture::new().await;
    let taken = store(&fixture, json!({"text": "mine"})).await.id;
    let line = |id: Uuid, text: &str, more: &str| {
        format!(
            r#"{{"id":"{id}","text":"{text}","level":"long_term","version":1,"created_at":5,"updated_at":5{more}}}"#
        )
    };
    let lines = [
        line(Uuid::from_u128(1), "fine", ""),
        "{".to_owned(),
        line(Uuid::from_u128(2), "", ""),
        line(Uuid::from_u128(3), "x", r#","tenant":"other""#),
        line(taken, "other", ""),
        line(Uuid::from_u128(4), "over", r#","expires_at":6"#),
        line(Uuid::from_u128(1), "twice", ""),
        line(Uuid::from_u128(5), "x", r#","sequence":-1"#),
        String::new(),
    ];
    let answer = import(&fixture, lines.join("\r\n")).await;
    assert_eq!((answer.imported, answer.unchanged, answer.expired), (1, 0, 1));
    let refused: Vec<(usize, &str)> = answer.refused.iter().map(|line| (line.line, line.code.as_str())).collect();
    let expected = [
        (2, "body-malformed"),
        (3, "field-invalid"),
        (4, "field-invalid"),
        (5, "id-conflict"),
        (7, "id-conflict"),
        (8, "field-invalid"),
    ];
    assert_eq!((refused, answer.refused_total), (expected.to_vec(), expected.len()));
    let call = Call::json("POST", IMPORT, lines[0].clone());
    refused_as(&fixture, call, Code::MediaTypeUnsupported).await;
}

#[tokio::test]
async fn of_many_lines_that_cannot_be_imported_the_first_are_named_and_all_are_counted() {
    let fixture = Fixture::new().await;
    let line = |number: u128, level: &str| {
        let id = Uuid::from_u128(number);
        format!(r#"{{"id":"{id}","text":"a","level":"{level}","version":0,"created_at":5,"updated_at":5}}"#)
    };
    // Every second line is refused by the engine, the others cannot be decoded.
    let lines: Vec<String> =
        (1..=1_000).map(|number| line(number, if number % 2 == 0 { "long_term" } else { "l4" })).collect();
    let answer = import(&fixture, lines.join("\n")).await;
    assert_eq!((answer.imported, answer.refused_total), (0, 1_000));
    let named: Vec<usize> = answer.refused.iter().map(|line| line.line).collect();
    assert_eq!(named, (1..=Imported::MOST_NAMED).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_export_has_its_place_among_the_requests_until_it_is_read_or_given_up() {
    let fixture = Fixture::with(|config| config.protocol.max_in_flight = 1, 100).await;
    store(&fixture, json!({"text": "a"})).await;
    let export = || fixture.router.clone().oneshot(Call::new("GET", EXPORT).sign());
    let Ok(begun) = export().await;
    assert_eq!(begun.status(), StatusCode::OK);
    refused_as(&fixture, Call::new("GET", CONTEXTS), Code::Overloaded).await;
    let text = begun.into_body().collect().await.expect("a whole export").to_bytes();
    assert_eq!(text.split(|byte| *byte == b'\n').count(), 3, "a context, the end and nothing");
    let Ok(begun) = export().await;
    refused_as(&fixture, Call::new("GET", CONTEXTS), Code::Overloaded).await;
    drop(begun);
    assert_eq!(fixture.send(Call::new("GET", CONTEXTS).sign()).await.status, StatusCode::OK);
}

async fn refused_as(fixture: &Fixture, call: Call, code: Code) {
    refused(fixture, call.sign(), code).await;
}

#[tokio::test]
async fn a_write_that_is_sent_again_under_its_key_is_the_same_write() {
    let fixture = Fixture::new().await;
    let keyed = |path: &str, body: &str, key: &str| Call::json("POST", path, body).header("idempotency-key", key);
    let body = r#"{"text": "tea", "session": "s"}"#;
    let first: Acknowledgment = fixture.send(keyed(CONTEXTS, body, "k-1").sign()).await.json();
    let again: Acknowledgment = fixture.send(keyed(CONTEXTS, body, "\"k-1\"").sign()).await.json();
    let other: Acknowledgment = fixture.send(keyed(CONTEXTS, body, "k-2").sign()).await.json();
    assert_eq!((first.id, first.version), (again.id, again.version));
    assert_ne!(first.id, other.id);
    refused_as(&fixture, keyed(CONTEXTS, r#"{"text": "coffee"}"#, "k-1"), Code::IdempotencyKeyReused).await;

    let batch = r#"{"contexts": [{"text": "a"}, {"text": "b"}]}"#;
    let path = "/v1/contexts/batch";
    let first: AcknowledgmentBatch = fixture.send(keyed(path, batch, "k-3").sign()).await.json();
    let again: AcknowledgmentBatch = fixture.send(keyed(path, batch, "k-3").sign()).await.json();
    assert_eq!(first, again);
    assert_eq!(export(&fixture, "").await.0.len(), 4);
    let longer = r#"{"contexts": [{"text": "a"}, {"text": "b"}, {"text": "c"}]}"#;
    let longer: AcknowledgmentBatch = fixture.send(keyed(path, longer, "k-3").sign()).await.json();
    assert_eq!(longer.acknowledgments[..2], first.acknowledgments[..], "a context has its id by its place");
    assert_eq!(export(&fixture, "").await.0.len(), 5);

    for key in ["", "two words", "k\"", &"k".repeat(200)] {
        refused_as(&fixture, keyed(CONTEXTS, body, key), Code::ParameterInvalid).await;
    }
    refused_as(&fixture, keyed(CONTEXTS, body, "k-4").header("idempotency-key", "k-5"), Code::ParameterInvalid).await;
}

#[tokio::test]
async fn a_key_is_refused_with_a_change_which_would_be_made_twice() {
    let fixture = Fixture::new().await;
    let one = format!("{CONTEXTS}/{}", store(&fixture, json!({"text": "tea", "session": "s"})).await.id);
    let change = Call::json("PATCH", &one, r#"{"metadata": {"seen": true}}"#).header("idempotency-key", "k");
    let problem = refused(&fixture, change.sign(), Code::ParameterInvalid).await;
    assert_eq!(problem.field.as_deref(), Some("Idempotency-Key"));
    assert!(problem.detail.contains("send if_version"), "{}", problem.detail);
    let context: Context = fixture.send(Call::new("GET", &one).header("idempotency-key", "k").sign()).await.json();
    assert_eq!(context.version, 1, "it was not changed");
    let deleted = fixture.send(Call::new("DELETE", &one).header("idempotency-key", "k").sign()).await;
    assert_eq!(deleted.status, StatusCode::OK, "a deletion comes to the same when it is sent again");
}

#[tokio::test]
async fn contexts_are_deleted_by_conditions_after_a_dry_run() {
    let fixture = Fixture::new().await;
    for (text, topic, level) in [("a", "tea", "long_term"), ("b", "tea", "short_term"), ("c", "coffee", "long_term")] {
        store(&fixture, json!({"text": text, "level": level, "metadata": {"topic": topic}})).await;
    }
    let fixture = &fixture;
    let delete = |body: serde_json::Value| async move {
        let answer = fixture.send(Call::json("POST", DELETE, body.to_string()).sign()).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", String::from_utf8_lossy(&answer.body));
        answer.json::<Cleared>().deleted
    };
    let tea = json!({"topic": {"eq": "tea"}});
    assert_eq!(delete(json!({"filter": tea, "dry_run": true})).await, 2);
    assert_eq!(delete(json!({"filter": tea, "levels": ["long_term"]})).await, 1);
    assert_eq!(delete(json!({"created_before": 1})).await, 0);
    assert_eq!(delete(json!({"levels": ["long_term", "short_term"]})).await, 2);
    for nothing in ["{}", r#"{"dry_run": true}"#, r#"{"levels": []}"#, r#"{"filter": {"n": {"any": []}}}"#] {
        refused_as(fixture, Call::json("POST", DELETE, nothing), Code::FieldInvalid).await;
    }
}
