//! A real Qdrant server in a container, for machines with Docker: `CONTEXT_MANAGER_TEST_QDRANT=docker`.
//!
//! It drives the command `docker`, because the crate `testcontainers` switches on features of crates that the vector engine also
//! uses, and the engine would be compiled a second time for it.

use std::{
    env,
    io::Write as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use qdrant_client::qdrant::{CollectionExistsRequest, collections_client::CollectionsClient};
use tokio::{sync::OnceCell, time::sleep};

/// The version that the adapter is made for.
const IMAGE: &str = "qdrant/qdrant:v1.19.0";
/// Pulling the image is part of it.
const START: Duration = Duration::from_mins(5);

/// The URL of the container that all tests of this process share.
pub async fn url() -> String {
    static URL: OnceCell<String> = OnceCell::const_new();
    URL.get_or_init(|| async { start().await.expect("a Qdrant server in a container") }).await.clone()
}

async fn start() -> Result<String, String> {
    let image = env::var("CONTEXT_MANAGER_TEST_QDRANT_IMAGE").unwrap_or_else(|_| IMAGE.to_owned());
    let run = ["run", "--detach", "--rm", "--publish", "127.0.0.1::6334", "--env", "QDRANT__TELEMETRY_DISABLED=true"];
    let id = docker(&[&run[..], &[&image]].concat())?;
    remove_at_the_end(&id)?;
    let published = docker(&["port", &id, "6334/tcp"])?;
    let address = published.lines().next().ok_or("the container publishes no port")?;
    let url = format!("http://{address}");
    let started = Instant::now();
    while !answers(&url).await {
        if started.elapsed() > START {
            return Err(format!("{image} does not answer: {}", docker(&["logs", "--tail", "50", &id])?));
        }
        sleep(Duration::from_millis(200)).await;
    }
    Ok(url)
}

async fn answers(url: &str) -> bool {
    let Ok(mut client) = CollectionsClient::connect(url.to_owned()).await else { return false };
    client.collection_exists(CollectionExistsRequest { collection_name: "none".to_owned() }).await.is_ok()
}

fn docker(arguments: &[&str]) -> Result<String, String> {
    let ran = Command::new("docker").args(arguments).stdin(Stdio::null()).output();
    let ran = ran.map_err(|error| format!("docker cannot be run: {error}; install it, or leave the variable out"))?;
    if ran.status.success() {
        return Ok(String::from_utf8_lossy(&ran.stdout).trim().to_owned());
    }
    Err(format!("docker {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&ran.stderr).trim()))
}

/// Removes the container when this process has ended, in whatever way: the shell waits for the end of its input.
fn remove_at_the_end(id: &str) -> Result<(), String> {
    let mut shell = Command::new("sh")
        .args(["-c", "read -r _; docker rm --force \"$0\"", id])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("sh cannot be run: {error}"))?;
    // Kept open until the process ends.
    std::mem::forget(shell.stdin.take());
    Ok(())
}

/// Says where the suite ran, past the capture of output: a suite that ran on a stand-in must not look like one on the real thing.
#[test]
fn the_suite_says_which_server_it_runs_on() {
    let said = match (env::var("CONTEXT_MANAGER_TEST_QDRANT_URL"), env::var("CONTEXT_MANAGER_TEST_QDRANT")) {
        (Ok(url), _) => format!("the Qdrant server at {url}"),
        (Err(_), Ok(how)) => {
            assert_eq!(how, "docker", "CONTEXT_MANAGER_TEST_QDRANT is {how:?}; the only value is docker");
            let image = env::var("CONTEXT_MANAGER_TEST_QDRANT_IMAGE").unwrap_or_else(|_| IMAGE.to_owned());
            format!("a container of {image}")
        }
        (Err(_), Err(_)) => "tests/qdrant, and not on a real Qdrant server: set CONTEXT_MANAGER_TEST_QDRANT=docker or \
             CONTEXT_MANAGER_TEST_QDRANT_URL for one"
            .to_owned(),
    };
    writeln!(std::io::stderr(), "\nThe stores suite runs on {said}.").expect("written");
}
