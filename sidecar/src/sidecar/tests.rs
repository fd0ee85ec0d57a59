//! A whole sidecar in this process, over its real sockets.

use std::{fs, path::Path, time::Instant};

use clap::Parser as _;
use context_manager_protocol::config::EnvironmentSecrets;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::*;
use crate::{
    args::Args,
    testing::{Call, key},
};

struct Running {
    protocol: SocketAddr,
    admin: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

async fn start(directory: &Path) -> Result<Option<Running>, Error> {
    let file = directory.join("config.toml");
    let text = format!(
        "[protocol]\nport = 0\n[admin]\naddress = \"127.0.0.1\"\nport = 0\n[keys]\nfile = \"keys.json\"\n[store.embedded]\npath = {:?}\n",
        directory.join("data")
    );
    fs::write(&file, text).expect("a file");
    fs::write(directory.join("keys.json"), KeyRing::new(key("k1")).to_json()).expect("a file");
    let args = Args::parse_from(["context-manager-sidecar", "--config", file.to_str().expect("UTF-8")]);
    let settings = Settings::new(args, EnvironmentSecrets::default()).expect("valid flags");
    let loaded = settings.load().expect("valid files");
    let stop = CancellationToken::new();
    let sidecar = Sidecar::start(settings, loaded, (Filter::none(), Telemetry::default()), stop.clone()).await?;
    Ok(sidecar.map(|sidecar| {
        let (protocol, admin) = (sidecar.protocol().expect("a port"), sidecar.admin().expect("a port"));
        Running { protocol, admin, stop, task: tokio::spawn(sidecar.run()) }
    }))
}

async fn running(directory: &Path) -> Running {
    start(directory).await.expect("a start").expect("nobody stopped it")
}

/// Starts on the directory of one that has ended. A flush that took longer than an end may take goes on in this process, where a real
/// end would have stopped it, and keeps the directory meanwhile.
async fn running_again(directory: &Path) -> Running {
    let since = Instant::now();
    loop {
        match start(directory).await {
            Ok(sidecar) => return sidecar.expect("nobody stopped it"),
            Err(error) => assert!(since.elapsed() < Duration::from_mins(1), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn exchange(address: SocketAddr, head: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a listener");
    stream.write_all(head.as_bytes()).await.expect("a connection");
    stream.write_all(body).await.expect("a connection");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    answer
}

async fn get(address: SocketAddr, path: &str) -> String {
    exchange(address, &format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"), b"").await
}

async fn call(address: SocketAddr, call: Call) -> String {
    let request = call.sign();
    let mut head = format!("{} {} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n", call.method, call.uri);
    for (name, value) in request.headers() {
        let value = value.to_str().expect("a printable header");
        head.extend([name.as_str(), ": ", value, "\r\n"]);
    }
    exchange(address, &format!("{head}\r\n"), &call.body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_served_probes_are_answered_and_memory_outlives_a_restart() {
    let directory = TempDir::new().expect("a directory");
    let first = running(directory.path()).await;
    let stored =
        call(first.protocol, Call::json("POST", "/v1/contexts", r#"{"text": "the blue door", "level": "long_term"}"#))
            .await;
    assert!(stored.starts_with("HTTP/1.1 201"), "{stored}");

    for path in ["/health", "/health/liveness", "/health/readiness"] {
        let answer = get(first.admin, path).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        assert!(!answer.contains("blue"), "{answer}");
    }
    let metrics = get(first.admin, "/metrics").await;
    assert!(metrics.contains("context_manager_requests_total{outcome=\"ok\",route=\"store\"} 1\n"), "{metrics}");
    assert!(metrics.contains("context_manager_ready 1\n"), "{metrics}");
    assert!(get(first.admin, "/v1/contexts").await.starts_with("HTTP/1.1 404"), "the admin port has no data");

    // How long an end takes is for the program's own suite, and whether its port is free cannot be asked: another test may have it.
    let mut idle = TcpStream::connect(first.protocol).await.expect("a listener");
    first.stop.cancel();
    first.task.await.expect("no panic").expect("an orderly end");
    assert!(idle.read(&mut [0; 1]).await.is_ok_and(|read| read == 0), "its connections are closed");

    let second = running_again(directory.path()).await;
    let found = call(second.protocol, Call::json("POST", "/v1/contexts/search", r#"{"query": "door"}"#)).await;
    assert!(found.contains("the blue door"), "{found}");
    second.stop.cancel();
    second.task.await.expect("no panic").expect("an orderly end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_from_before_the_start_is_refused_after_a_restart() {
    let directory = TempDir::new().expect("a directory");
    let first = running(directory.path()).await;
    let created = unix_time();
    let replayed = || Call { created, nonce: "bm9uY2Utbm9uY2Ux".to_owned(), ..Call::new("GET", "/v1/contexts") };
    assert!(call(first.protocol, replayed()).await.starts_with("HTTP/1.1 200"));
    assert!(call(first.protocol, replayed()).await.contains("nonce-replayed"));
    first.stop.cancel();
    first.task.await.expect("no panic").expect("an orderly end");
    let second = running_again(directory.path()).await;
    let answer = call(second.protocol, replayed()).await;
    assert!(answer.contains("timestamp-before-start"), "{answer}");
    second.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_to_the_admin_port_keep_no_probe_out() {
    let directory = TempDir::new().expect("a directory");
    let first = running(directory.path()).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(first.admin).await.expect("a listener"));
    }
    assert!(get(first.admin, "/health/readiness").await.starts_with("HTTP/1.1 200"));
    let end = timeout(Duration::from_secs(4), silent[0].read(&mut [0; 1])).await.expect("the oldest made way");
    assert_eq!(end.expect("an orderly end"), 0);
    first.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sidecar_on_the_same_directory_is_refused() {
    let directory = TempDir::new().expect("a directory");
    let first = running(directory.path()).await;
    let second = start(directory.path()).await;
    let error = second.err().expect("the directory is in use");
    assert!(matches!(error, Error::Engine(_)), "{error}");
    assert!(get(first.admin, "/health/readiness").await.starts_with("HTTP/1.1 200"));
    first.stop.cancel();
}
