//! The `OpenAPI` document and the real program, compared by schemathesis: it sends what the document allows and what it does
//! not, and looks whether the answers are the documented ones.

use std::{fs, path::Path, process::Stdio};

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use context_manager_tests::sidecar::Sidecar;
use serde_json::{Value, json};

/// Its program in a virtual environment with `tests/openapi/requirements.txt`.
const PROGRAM: &str = "CONTEXT_MANAGER_TEST_SCHEMATHESIS";

#[tokio::test]
async fn the_served_document_is_the_generated_one() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let sidecar = Sidecar::start(folder.path(), "").await?;
    let served: Value = sidecar.client()?.get("/v1/openapi.json").await?.message()?;
    let generated = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json"))?;
    assert_eq!(served, serde_json::from_str::<Value>(&generated)?, "run `cargo xtask generate`");
    Ok(())
}

#[tokio::test]
async fn schemathesis_finds_no_difference_between_the_document_and_the_program() -> Result<()> {
    let program = std::env::var_os(PROGRAM).with_context(|| {
        format!("{PROGRAM} names no program; `cargo xtask test` installs schemathesis and names it")
    })?;
    let folder = tempfile::tempdir()?;
    let sidecar = Sidecar::start(folder.path(), "[log]\nlevel = \"error\"\n").await?;
    let keys = folder.path().join("keys.json");
    let key = STANDARD.encode(Sidecar::SECRET);
    fs::write(&keys, json!({"active": {"id": "default", "key": key}}).to_string())?;

    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let url = format!("http://127.0.0.1:{}", sidecar.port);
    let output = tokio::process::Command::new(program)
        .arg("--config-file")
        .arg(here.join("openapi/schemathesis.toml"))
        // The opening of a WebSocket is no request that schemathesis can make.
        .args(["run", "--url", &url, "--exclude-path", "/v1/stream"])
        .arg(here.join("../docs/openapi.json"))
        .current_dir(folder.path())
        .env("SCHEMATHESIS_HOOKS", here.join("openapi/hooks.py"))
        .env("CONTEXT_MANAGER_KEYS", &keys)
        .stdin(Stdio::null())
        .output()
        .await
        .context("failed to start schemathesis")?;
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    ensure!(
        output.status.success(),
        "schemathesis found differences:\n{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(said.contains("generated"), "schemathesis tried nothing:\n{said}");
    let log = sidecar.log()?;
    // The audit log is written at every level.
    let errors: Vec<_> = log.lines().filter(|line| !line.contains("\"target\":\"context_manager::audit\"")).collect();
    ensure!(errors.is_empty(), "the sidecar had errors: {}", errors.join("\n"));
    Ok(())
}
