//! The audit log, as the program writes it.

use std::time::Duration;

use anyhow::Result;
use context_manager_protocol::message::Acknowledgment;
use context_manager_tests::{client::Draft, sidecar::Sidecar};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

#[tokio::test]
async fn each_write_and_each_refusal_is_one_line_without_the_text() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut sidecar = Sidecar::start_as("team-a", folder.path(), "").await?;
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
    let lines = log.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let lines: Vec<&Value> = lines.iter().filter(|line| line["target"] == "context_manager::audit").collect();
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
