//! What a caller can do wrong, against the real program: each mistake has its status, its stable code and a message that helps.

use anyhow::Result;
use context_manager_protocol::{codec::Format, keyring::Key};
use context_manager_tests::{
    client::{Client, Draft},
    sidecar::{self, Sidecar},
};
use serde_json::json;

const STORE: &str = "/v1/contexts";
const SEARCH: &str = "/v1/contexts/search";

fn store() -> Vec<u8> {
    Format::Json.encode(&json!({"text": "a text"}))
}

#[tokio::test]
async fn every_mistake_has_its_code() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let sidecar = Sidecar::start(folder.path(), "").await?;
    let client = sidecar.client()?;
    let json = |value: serde_json::Value| Format::Json.encode(&value);
    let table: Vec<(&str, Draft<'_>, u16, &str, &str)> = vec![
        (
            "changed body",
            Draft { signed_body: Some(b"{}".to_vec()), ..Draft::new("POST", STORE, store()) },
            401,
            "digest-mismatch",
            "SHA-256",
        ),
        (
            "old timestamp",
            Draft { clock_skew: -301, ..Draft::new("POST", STORE, store()) },
            401,
            "timestamp-outside-window",
            "300 s",
        ),
        (
            "future timestamp",
            Draft { clock_skew: 310, ..Draft::new("POST", STORE, store()) },
            401,
            "timestamp-outside-window",
            "300 s",
        ),
        (
            "short nonce",
            Draft { nonce: Some("x".to_owned()), ..Draft::new("POST", STORE, store()) },
            401,
            "signature-malformed",
            "16 to 64",
        ),
        ("malformed JSON", Draft::new("POST", STORE, "{\"text\": "), 400, "body-malformed", "JSON"),
        ("text as JSON", Draft::new("POST", STORE, "hello"), 400, "body-malformed", "JSON"),
        (
            "malformed MessagePack",
            Draft { content_type: "application/msgpack", ..Draft::new("POST", STORE, b"\x81\xa4text\xa9cut".to_vec()) },
            400,
            "body-malformed",
            "MessagePack",
        ),
        (
            "other media type",
            Draft { content_type: "text/plain", ..Draft::new("POST", STORE, store()) },
            415,
            "media-type-unsupported",
            "application/json",
        ),
        (
            "unknown level",
            Draft::new("POST", STORE, json(json!({"text": "a", "level": "l4"}))),
            422,
            "field-invalid",
            "short_term",
        ),
        (
            "unknown field",
            Draft::new("POST", STORE, json(json!({"text": "a", "tenant": "b"}))),
            422,
            "field-invalid",
            "tenant",
        ),
        ("missing text", Draft::new("POST", STORE, json(json!({}))), 422, "field-invalid", "text"),
        ("empty text", Draft::new("POST", STORE, json(json!({"text": " "}))), 422, "field-invalid", "text"),
        (
            "negative budget",
            Draft::new("POST", SEARCH, json(json!({"query": "a", "token_budget": -1}))),
            422,
            "field-invalid",
            "token_budget",
        ),
        ("empty query", Draft::new("POST", SEARCH, json(json!({"query": ""}))), 422, "field-invalid", "query"),
        ("bad id", Draft::new("GET", "/v1/contexts/nonsense", ""), 400, "parameter-invalid", "id"),
        (
            "unknown id",
            Draft::new("GET", "/v1/contexts/00000000-0000-7000-8000-000000000000", ""),
            404,
            "context-not-found",
            "",
        ),
        ("unknown route", Draft::new("GET", "/v2/contexts", ""), 404, "route-unknown", ""),
        ("wrong method", Draft::new("PUT", STORE, store()), 405, "method-not-allowed", ""),
    ];
    for (name, draft, status, code, hint) in table {
        let problem = client.send(draft).await?.problem()?;
        assert_eq!((problem.status, problem.code.as_str()), (status, code), "{name}: {}", problem.detail);
        let told = format!("{} {}", problem.detail, problem.field.unwrap_or_default());
        assert!(told.contains(hint), "{name}: {told:?} does not say {hint:?}");
        assert!(problem.request_id.is_some(), "{name} has no request id");
    }
    Ok(())
}

#[tokio::test]
async fn a_wrong_key_and_an_unsigned_request_are_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let sidecar = Sidecar::start(folder.path(), "").await?;
    let url = format!("http://127.0.0.1:{}", sidecar.port);
    let forged = Client::new(url.clone(), Key::new("default", vec![9; 32])?)?
        .post(STORE, &json!({"text": "a"}))
        .await?
        .problem()?;
    assert_eq!((forged.status, forged.code.as_str()), (401, "signature-invalid"));
    let unknown = Client::new(url.clone(), Key::new("other", vec![9; 32])?)?
        .post(STORE, &json!({"text": "a"}))
        .await?
        .problem()?;
    assert_eq!((unknown.status, unknown.code.as_str()), (401, "key-unknown"));
    let unsigned: serde_json::Value =
        serde_json::from_slice(&sidecar::http()?.get(format!("{url}{STORE}/stats")).send().await?.bytes().await?)?;
    assert_eq!(unsigned["code"], "signature-missing");
    Ok(())
}

#[tokio::test]
async fn a_replayed_request_is_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let sidecar = Sidecar::start(folder.path(), "").await?;
    let client = sidecar.client()?;
    let draft = || Draft { nonce: Some("a-nonce-used-twice".to_owned()), ..Draft::new("POST", STORE, store()) };
    assert_eq!(client.send(draft()).await?.status, 201);
    let problem = client.send(draft()).await?.problem()?;
    assert_eq!((problem.status, problem.code.as_str()), (401, "nonce-replayed"));
    Ok(())
}

#[tokio::test]
async fn an_oversized_body_is_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let sidecar = Sidecar::start(folder.path(), "").await?;
    let body = Format::Json.encode(&json!({"text": "x".repeat(10 << 20)}));
    let problem = sidecar.client()?.send(Draft::new("POST", STORE, body)).await?.problem()?;
    assert_eq!((problem.status, problem.code.as_str()), (413, "body-too-large"));
    assert!(problem.detail.contains("10"), "{}", problem.detail);
    Ok(())
}
