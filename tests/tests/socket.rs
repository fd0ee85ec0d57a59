//! The Unix socket of the real program.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use context_manager_protocol::{
    message::{Acknowledgment, ContextResponse},
    stream::{AnswerKind, RequestFrame, RequestKind},
};
use context_manager_tests::{
    client::{Client, Draft},
    listening,
    sidecar::{Sidecar, program},
    stream::{Stream, nonce, signed},
};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::net::UnixStream;

const SOCKET: &str = "socket = \"s.sock\"\n";

async fn stored(client: &Client, text: &str) -> Result<Acknowledgment> {
    let answer = client.post("/v1/contexts", &json!({ "text": text })).await?;
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
    answer.message()
}

#[tokio::test]
async fn the_socket_is_the_same_memory_as_the_port() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut sidecar = Sidecar::start(folder.path(), SOCKET).await?;
    let path = folder.path().join("s.sock");
    assert_eq!(fs::symlink_metadata(&path)?.permissions().mode() & 0o777, 0o660);
    let (local, port) = (Client::over(&path, Sidecar::key()?)?, sidecar.client()?);
    let id = stored(&local, "the blue door").await?.id;
    let found: ContextResponse = port.post("/v1/contexts/search", &json!({"query": "blue"})).await?.message()?;
    assert_eq!(found.contexts.first().map(|found| found.context.id), Some(id));
    let unsigned =
        local.send(Draft { signed_body: Some(b"other".to_vec()), ..Draft::new("POST", "/v1/contexts", "{}") });
    assert_eq!(unsigned.await?.problem()?.code.as_str(), "digest-mismatch");

    let connection = UnixStream::connect(&path).await?;
    let stream = Stream::over(connection, signed(&Sidecar::key()?, &nonce())).await?;
    let mut stream = stream.map_err(|problem| anyhow::anyhow!("{problem:?}"))?;
    let stats = stream.ask(&RequestFrame::<()>::new(1, RequestKind::GetStats, None)).await?;
    assert_eq!(stats.kind, AnswerKind::Stats);
    let metrics = sidecar.admin_page("/metrics").await?;
    assert!(metrics.contains("context_manager_active_connections{listener=\"socket\"} 1\n"), "{metrics}");
    stream.close().await?;

    sidecar.signal(Signal::SIGTERM)?;
    assert_eq!(sidecar.wait(Duration::from_secs(5)).await?, Some(0));
    assert!(!path.exists(), "the socket goes with its process");
    Ok(())
}

/// What `ask` prints, and whether it found the answer good.
fn ask(arguments: &[&str]) -> Result<(bool, String)> {
    let output = Command::new(program("context-manager-sidecar")?).arg("ask").args(arguments).env_clear().output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

#[tokio::test]
async fn without_ports_all_is_served_by_sockets_and_no_port_is_bound() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (path, admin) = (folder.path().join("s.sock"), folder.path().join("a.sock"));
    let mut sidecar = Sidecar::spawn_without_ports(folder.path(), SOCKET, &admin)?;
    let place = ["--admin-socket", admin.to_str().context("a path")?];
    let (good, said) = ask(&[&place[..], &["--wait", "30s"]].concat())?;
    assert!(good && said.contains("\"ready\""), "{said}; {}", sidecar.log()?);
    let process = i32::try_from(sidecar.id())?;
    assert_eq!(listening::ports(process)?, [].into());
    let local = Client::over(&path, Sidecar::key()?)?;
    stored(&local, "the blue door").await?;
    let (good, metrics) = ask(&[&place[..], &["/metrics"]].concat())?;
    assert!(good && metrics.contains("context_manager_ready 1"), "{metrics}");
    let (good, said) = ask(&[&place[..], &["/nowhere"]].concat())?;
    assert!(!good && said.contains("404"), "{said}");
    // The ports that its configuration names are free.
    for port in [sidecar.port, sidecar.admin] {
        std::net::TcpListener::bind(("127.0.0.1", port))?;
    }
    sidecar.signal(Signal::SIGTERM)?;
    assert_eq!(sidecar.wait(Duration::from_secs(5)).await?, Some(0));
    assert!(!path.exists() && !admin.exists(), "the sockets go with their process");
    let (good, said) = ask(&place)?;
    assert!(!good && said.contains("does the sidecar run?"), "{said}");

    let with_ports = Sidecar::start(folder.path(), "").await?;
    let process = i32::try_from(with_ports.id())?;
    assert_eq!(
        listening::ports(process)?,
        [with_ports.port, with_ports.admin].into(),
        "what is looked at is what is bound"
    );
    Ok(())
}

#[tokio::test]
async fn a_sidecar_that_nobody_could_reach_does_not_start() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut sidecar = Sidecar::spawn_without_ports(folder.path(), "", &folder.path().join("a.sock"))?;
    assert_eq!(sidecar.wait(Duration::from_secs(10)).await?, Some(2));
    assert!(sidecar.log()?.contains("there is no socket"), "{}", sidecar.log()?);
    Ok(())
}

#[tokio::test]
async fn what_kill_9_left_is_replaced_and_a_living_one_is_not() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("s.sock");
    let mut killed = Sidecar::start(folder.path(), SOCKET).await?;
    let before = stored(&Client::over(&path, Sidecar::key()?)?, "before").await?;
    killed.signal(Signal::SIGKILL)?;
    killed.wait(Duration::from_secs(5)).await?;
    assert!(path.exists(), "nobody removed it");

    let sidecar = Sidecar::start(folder.path(), SOCKET).await?;
    let client = Client::over(&path, Sidecar::key()?)?;
    assert_eq!(client.get(&format!("/v1/contexts/{}", before.id)).await?.status, 200);

    let elsewhere = tempfile::tempdir()?;
    let mut second = Sidecar::spawn(elsewhere.path(), &format!("socket = \"{}\"\n", path.display()))?;
    assert_eq!(second.wait(Duration::from_secs(10)).await?, Some(1));
    let log = second.log()?;
    assert!(log.contains("another process listens on") && log.contains("s.sock"), "{log}");
    assert_eq!(client.get("/v1/contexts/stats").await?.status, 200, "the first one still has it");
    drop(sidecar);
    Ok(())
}

#[tokio::test]
async fn a_file_of_somebody_else_and_a_long_path_are_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("s.sock");
    fs::write(&path, "a letter")?;
    let mut sidecar = Sidecar::spawn(folder.path(), SOCKET)?;
    assert_eq!(sidecar.wait(Duration::from_secs(10)).await?, Some(1));
    assert!(sidecar.log()?.contains("is not a socket"), "{}", sidecar.log()?);
    assert_eq!(fs::read(&path)?, b"a letter");

    let long = format!("socket = \"{}\"\n", "x".repeat(101));
    let mut sidecar = Sidecar::spawn(folder.path(), &long)?;
    assert_eq!(sidecar.wait(Duration::from_secs(10)).await?, Some(2));
    assert!(sidecar.log()?.contains("protocol.socket is"), "{}", sidecar.log()?);
    let config = folder.path().join("config.toml");
    fs::write(&config, format!("[store.embedded]\npath = \"data\"\n[protocol]\n{long}"))?;
    let complaint = check(&config)?;
    assert!(complaint.contains("protocol.socket is") && complaint.contains("at most 100"), "{complaint}");
    Ok(())
}

/// What `check` says against a configuration.
fn check(config: &Path) -> Result<String> {
    let output = Command::new(program("context-manager-sidecar")?).arg("check").arg("--config").arg(config).output()?;
    assert_eq!(output.status.code(), Some(2));
    String::from_utf8(output.stderr).context("UTF-8")
}
