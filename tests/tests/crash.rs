//! `kill -9` in a loop under load: after each start the memory is exactly what was acknowledged, and old signatures stay refused.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use context_manager_protocol::{
    keyring::{Key, KeyRing},
    message::Acknowledgment,
};
use context_manager_tests::{
    client::{self, Client, Draft},
    files,
    ledger::{Agent, Verdict, settle},
    qdrant::Qdrant,
    sidecar::Sidecar,
    tally::{Writers, drained},
};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::task::JoinSet;
use uuid::Uuid;

const AGENTS: u64 = 4;
const PATIENCE: Duration = Duration::from_mins(1);
/// The ledger does not know what a full level forgets.
const LEVELS: &str = "[levels.short_term]\ncapacity = 1000000\n[gc]\ninterval = \"700ms\"\n";

/// Lets the agents work while `end` happens.
async fn work_until(agents: Vec<Agent>, client: &Client, end: impl Future<Output = Result<()>>) -> Result<Vec<Agent>> {
    let mut tasks = JoinSet::new();
    for mut agent in agents {
        let client = client.clone();
        tasks.spawn(async move { agent.work(&client).await.map(|()| agent) });
    }
    end.await?;
    let mut agents = Vec::new();
    while let Some(agent) = tasks.join_next().await {
        agents.push(agent??);
    }
    Ok(agents)
}

async fn old_signature_is_refused(sidecar: &Sidecar) -> Result<()> {
    let draft = Draft { clock_skew: -5, ..Draft::new("GET", "/v1/contexts/stats", Vec::new()) };
    let problem = sidecar.client()?.send(draft).await?.problem()?;
    ensure!(problem.code.as_str() == "timestamp-before-start", "{problem:?}");
    Ok(())
}

/// A request that was let in, to be sent once more as it was.
struct Accepted {
    created: i64,
    nonce: String,
}

impl Accepted {
    async fn by(client: &Client) -> Result<Self> {
        let accepted = Self { created: client::now(), nonce: Uuid::new_v4().to_string() };
        let status = client.send(accepted.draft()).await?.status;
        ensure!(status != 401, "it was not let in");
        Ok(accepted)
    }

    fn draft(&self) -> Draft<'static> {
        let (created, nonce) = (Some(self.created), Some(self.nonce.clone()));
        Draft { created, nonce, ..Draft::new("GET", "/v1/contexts/stats", Vec::new()) }
    }

    async fn is_refused_by(&self, sidecar: &Sidecar) -> Result<()> {
        let problem = sidecar.client()?.send(self.draft()).await?.problem()?;
        ensure!(problem.code.as_str() == "timestamp-before-start", "{problem:?}");
        Ok(())
    }
}

async fn kill_in_a_loop(name: &str, rounds: u64, config: &str, mut server: Option<Qdrant>) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut agents: Vec<Agent> =
        (0..AGENTS).map(|number| Agent::new(&format!("{name}-{number}"), number + 1)).collect();
    let (mut slowest_start, mut verdict) = (Duration::ZERO, Verdict::default());
    let mut sidecar = Sidecar::start(folder.path(), config).await?;
    for round in 0..rounds {
        let client = sidecar.client()?;
        let mut accepted = None;
        let end = async {
            tokio::time::sleep(Duration::from_millis(150 + 37 * (round % 7))).await;
            if let Some(server) = server.as_mut().filter(|_| round % 3 == 2) {
                server.kill()?;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            accepted = Some(Accepted::by(&client).await?);
            sidecar.signal(Signal::SIGKILL)
        };
        agents = work_until(agents, &client, end).await.with_context(|| format!("round {round}"))?;
        sidecar.wait(Duration::from_secs(10)).await?;
        let since = Instant::now();
        sidecar = Sidecar::start(folder.path(), config).await?;
        slowest_start = slowest_start.max(since.elapsed());
        old_signature_is_refused(&sidecar).await?;
        accepted.context("a request that was let in")?.is_refused_by(&sidecar).await?;
        if let Some(server) = server.as_mut().filter(|_| round % 3 == 2) {
            server.restart().await?;
        }
        let settled = settle(&mut agents, &sidecar.client()?, PATIENCE).await;
        verdict = settled.with_context(|| format!("round {round}: {}", sidecar.log().unwrap_or_default()))?;
        let differences = &verdict.differences;
        ensure!(
            differences.lost.is_empty() && differences.doubled.is_empty(),
            "round {round}: {differences:?}\n{}",
            sidecar.log()?
        );
    }
    verdict.check(&format!("{name}, killed {rounds} times"))?;
    println!("slowest start {slowest_start:?}");
    let count = verdict.count;
    ensure!(count.acknowledged >= 100, "too few operations to prove anything: {count}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_store_is_exactly_what_was_acknowledged_after_twenty_kills() -> Result<()> {
    kill_in_a_loop("embedded", 20, LEVELS, None).await
}

/// With the server killed as well in every third round.
#[tokio::test(flavor = "multi_thread")]
async fn qdrant_store_is_exactly_what_was_acknowledged_after_nine_kills() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Qdrant::start(&folder.path().join("qdrant")).await?;
    let config = format!(
        "[store.qdrant]\nurl = \"http://{}\"\ncollection = \"memory\"\ntimeout = \"2s\"\n[journal]\npath = \"journal\"\n\
         [circuit_breaker]\nfailure_threshold = 2\nsuccess_threshold = 1\nopen_for = \"200ms\"\n{LEVELS}",
        server.address()
    );
    kill_in_a_loop("qdrant", 9, &config, Some(server)).await
}

/// What an end may take: the two seconds of the promise, and one for a machine that does something else.
const LONGEST_END: Duration = Duration::from_secs(3);

/// SIGTERM while agents write: what was acknowledged is there, the code is 0, and nothing takes longer than the drain may.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_loses_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut slowest = Duration::ZERO;
    let mut tally = context_manager_tests::tally::Tally::default();
    for round in 0..3 {
        let mut sidecar = Sidecar::start(folder.path(), "").await?;
        let writers = Writers::start(&format!("round {round}"), 4, &sidecar.client()?);
        tokio::time::sleep(Duration::from_millis(400)).await;
        let since = Instant::now();
        sidecar.signal(Signal::SIGTERM)?;
        let code = sidecar.wait(LONGEST_END).await?;
        slowest = slowest.max(since.elapsed());
        ensure!(code == Some(0), "exit code {code:?}: {}", sidecar.log()?);
        tally.add(writers.stop().await?);
    }
    let sidecar = Sidecar::start(folder.path(), "").await?;
    let verdict = tally.verify(&sidecar.client()?).await?;
    println!("SIGTERM three times under load: {verdict}; slowest end {slowest:?}");
    ensure!(verdict.lost.is_empty() && verdict.doubled.is_empty(), "{verdict:?}");
    ensure!(verdict.acknowledged >= 20, "too few writes to prove anything: {verdict}");
    Ok(())
}

/// SIGTERM while a store does not answer, with writes on their way to it: they are in the journal, and the end waits for nobody.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_before_a_silent_store_loses_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Qdrant::start(&folder.path().join("qdrant")).await?;
    let config = format!(
        "[store.qdrant]\nurl = \"http://{}\"\ncollection = \"memory\"\ntimeout = \"10s\"\n[journal]\npath = \"journal\"\n",
        server.address()
    );
    let mut tally = context_manager_tests::tally::Tally::default();
    let mut slowest = Duration::ZERO;
    for round in 0..3 {
        let mut sidecar = Sidecar::start(folder.path(), &config).await?;
        let writers = Writers::start(&format!("round {round}"), 4, &sidecar.client()?);
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.pause()?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let since = Instant::now();
        sidecar.signal(Signal::SIGTERM)?;
        let code = sidecar.wait(LONGEST_END).await.with_context(|| sidecar.log().unwrap_or_default())?;
        slowest = slowest.max(since.elapsed());
        ensure!(code == Some(0), "exit code {code:?}: {}", sidecar.log()?);
        server.resume()?;
        tally.add(writers.stop().await?);
    }
    let sidecar = Sidecar::start(folder.path(), &config).await?;
    let client = sidecar.client()?;
    drained(&client, PATIENCE).await?;
    let verdict = tally.verify(&client).await?;
    println!("SIGTERM three times before a silent store: {verdict}; slowest end {slowest:?}");
    ensure!(verdict.lost.is_empty() && verdict.doubled.is_empty(), "{verdict:?}");
    ensure!(verdict.acknowledged >= 20, "too few writes to prove anything: {verdict}");
    Ok(())
}

/// A configuration or key ring that is not valid changes nothing but the health page and a metric, until a good one comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_configuration_keeps_the_last_good_one_and_says_so() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let sidecar = Sidecar::start(folder.path(), "").await?;
    let client = sidecar.client()?;
    let path = std::fs::read_dir(folder.path())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .context("the configuration")?;
    let good = std::fs::read_to_string(&path)?;
    let metric = "context_manager_config_last_reload_successful";
    for bad in ["this is no TOML", "[gc]\nbatch_size = 0\n"] {
        std::fs::write(&path, if bad.starts_with('[') { format!("{good}{bad}") } else { bad.to_owned() })?;
        eventually(&sidecar, "/health", |page| page.contains("\"configuration\",\"status\":\"degraded\"")).await?;
        let page = sidecar.admin_page("/metrics").await?;
        let is_told = page.lines().any(|line| line.starts_with(metric) && line.ends_with(" 0"));
        ensure!(is_told, "{metric} does not say it");
        let stored = client.post("/v1/contexts", &json!({"text": "stored under the last good one"})).await?;
        ensure!(stored.status == 201 && stored.message::<Acknowledgment>()?.version == 1);
        std::fs::write(&path, &good)?;
        eventually(&sidecar, "/health", |page| page.contains("\"configuration\",\"status\":\"healthy\"")).await?;
    }
    Ok(())
}

/// Three rotations under load, each in the operator's order: publish, activate, retire. No request fails, and no process is started anew.
#[tokio::test(flavor = "multi_thread")]
async fn keys_rotated_under_load_fail_no_request() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let key = |number: u8| Key::new(format!("k{number}"), vec![number; 32]);
    let publish = |ring: &KeyRing| files::replace(&folder.path().join("keys.json"), ring.to_json());
    publish(&KeyRing::new(key(1)?))?;
    let sidecar = Sidecar::start(folder.path(), "[keys]\nfile = \"keys.json\"\n").await?;
    let client = |number| Client::new(format!("http://127.0.0.1:{}", sidecar.port), key(number)?);
    let mut tally = context_manager_tests::tally::Tally::default();
    for number in 1..=3 {
        let (old, new) = (key(number)?, key(number + 1)?);
        let writers = Writers::start(&format!("key {number}"), 2, &client(number)?);
        publish(&KeyRing::with(old.clone(), Some(new.clone()), Vec::new())?)?;
        loaded(&sidecar, new.id(), "next").await?;
        publish(&KeyRing::with(new.clone(), None, vec![old])?)?;
        loaded(&sidecar, new.id(), "active").await?;
        // Agents that have the new key, and agents that have not seen it yet.
        let more = Writers::start(&format!("key {number}, the new one"), 2, &client(number + 1)?);
        tokio::time::sleep(Duration::from_millis(300)).await;
        tally.add(writers.stop().await?);
        publish(&KeyRing::new(new))?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        tally.add(more.stop().await?);
    }
    let metric = format!("context_manager_key_loaded{{key_id=\"{}\"", key(1)?.id());
    eventually(&sidecar, "/metrics", |page| !page.contains(&metric)).await?;
    let refused = client(1)?.get("/v1/contexts/stats").await?.problem()?;
    ensure!(refused.status == 401, "a retired key is refused: {refused:?}");
    let verdict = tally.verify(&client(4)?).await?;
    println!("keys rotated three times under load: {verdict}");
    ensure!(verdict.lost.is_empty() && verdict.doubled.is_empty() && verdict.failed == 0, "{verdict:?}");
    ensure!(verdict.acknowledged >= 60, "too few writes to prove anything: {verdict}");
    Ok(())
}

async fn loaded(sidecar: &Sidecar, id: &str, role: &str) -> Result<()> {
    let metric = format!("context_manager_key_loaded{{key_id=\"{id}\",role=\"{role}\"}} 1");
    eventually(sidecar, "/metrics", |page| page.contains(&metric)).await
}

async fn eventually(sidecar: &Sidecar, path: &str, holds: impl Fn(&str) -> bool) -> Result<()> {
    let started = Instant::now();
    loop {
        let page = sidecar.admin_page(path).await?;
        if holds(&page) {
            return Ok(());
        }
        ensure!(started.elapsed() < PATIENCE, "not so after {PATIENCE:?}: {page}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
