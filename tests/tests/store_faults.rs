//! Agents that store, change, prolong, supersede, delete and import on every level, alone and in batches, and by two sidecars, while the
//! Qdrant server is killed, stopped, cut off, slow, or its answers are lost: afterwards the memory is exactly what was acknowledged.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use context_manager_tests::{
    files,
    gate::{Authority, Gate, Strangers},
    ledger::Work,
    proxy::{Network, Proxy},
    qdrant::{Qdrant, nodes::Nodes},
    sidecar::Sidecar,
};

const AGENTS: u64 = 8;
const PATIENCE: Duration = Duration::from_mins(3);

/// A sidecar's configuration before the server at `url`: it notices an outage soon, and no level becomes full.
fn config(url: impl std::fmt::Display) -> String {
    format!(
        "[store.qdrant]\nurl = \"http://{url}\"\ncollection = \"memory\"\ntimeout = \"500ms\"\n[journal]\npath = \"journal\"\n\
         [circuit_breaker]\nfailure_threshold = 2\nsuccess_threshold = 1\nopen_for = \"200ms\"\n\
         [levels.short_term]\ncapacity = 1000000\n[gc]\ninterval = \"700ms\"\n"
    )
}

/// That of the sidecar beside it, which has the way to the server to itself. It collects nothing: it does not know what waits in the other's
/// journal.
fn config_elsewhere(url: impl std::fmt::Display) -> String {
    config(url).replace("700ms", "1h")
}

async fn pause(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

struct Setup {
    _folder: tempfile::TempDir,
    server: Qdrant,
    proxy: Proxy,
    sidecar: Sidecar,
    /// Another one of the same agent.
    elsewhere: Sidecar,
}

impl Setup {
    async fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let server = Qdrant::start(&folder.path().join("qdrant")).await?;
        let proxy = Proxy::start(server.address()).await?;
        let sidecar = Sidecar::start(folder.path(), &config(proxy.address())).await?;
        let place = folder.path().join("elsewhere");
        std::fs::create_dir(&place)?;
        let elsewhere = Sidecar::start(&place, &config_elsewhere(server.address())).await?;
        Ok(Self { _folder: folder, server, proxy, sidecar, elsewhere })
    }

    fn begin(&self, fault: &str) -> Result<Work> {
        Ok(Work::begin(fault, AGENTS, &self.sidecar.client()?, Some(&self.elsewhere.client()?)))
    }

    async fn judge(&self, fault: &str, work: Work) -> Result<()> {
        judge(fault, work, &self.sidecar).await
    }
}

/// Stops the agents, and compares what the sidecar shows with their ledgers.
async fn judge(fault: &str, work: Work, sidecar: &Sidecar) -> Result<()> {
    let verdict = work.end(&sidecar.client()?, PATIENCE).await;
    let log = || sidecar.log().unwrap_or_default();
    let verdict = verdict.with_context(log)?;
    verdict.check(fault).with_context(log)?;
    ensure!(verdict.count.acknowledged >= 100, "too few operations to prove anything: {}", verdict.count);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed() -> Result<()> {
    let mut setup = Setup::new().await?;
    let work = setup.begin("kill")?;
    for _ in 0..3 {
        pause(700).await;
        setup.server.kill()?;
        pause(500).await;
        setup.server.restart().await?;
    }
    pause(700).await;
    setup.judge("server killed three times", work).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_stopped() -> Result<()> {
    let setup = Setup::new().await?;
    let work = setup.begin("stop")?;
    for _ in 0..3 {
        pause(700).await;
        setup.server.pause()?;
        pause(1_500).await;
        setup.server.resume()?;
    }
    pause(700).await;
    setup.judge("server stopped three times", work).await
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_lost_and_connections_that_are_cut() -> Result<()> {
    let setup = Setup::new().await?;
    let work = setup.begin("answers")?;
    for network in [Network::LosesAnswers, Network::Cut, Network::LosesAnswers, Network::Cut, Network::LosesAnswers] {
        pause(600).await;
        setup.proxy.set(network);
        pause(400).await;
        setup.proxy.set(Network::Fine);
    }
    pause(600).await;
    setup.judge("answers lost and connections cut", work).await
}

/// Slower than the deadline is like away, and what was given up may still arrive.
#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_is_slow() -> Result<()> {
    let setup = Setup::new().await?;
    let work = setup.begin("slow")?;
    for delay in [20, 700, 20, 700] {
        setup.proxy.set(Network::Slow(Duration::from_millis(delay)));
        pause(1_200).await;
    }
    setup.proxy.set(Network::Fine);
    pause(700).await;
    setup.judge("slow network", work).await
}

/// Trust overlaps, as the operator's does: who is to be trusted next is known before anybody shows a certificate of it.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_are_rotated_on_both_sides() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Qdrant::start(&folder.path().join("qdrant")).await?;
    let mut gate = Gate::start(server.address()).await?;
    let mount = |name: &str, content: &str| files::replace(&folder.path().join(name), content);
    let show = |authority: &Authority| -> Result<()> {
        let given = authority.given()?;
        ["tls.crt", "tls.key"].iter().try_for_each(|name| mount(name, given[*name].as_str().unwrap_or_default()))
    };
    let mut agents = Authority::new("Agents 0")?;
    gate.ask_for(&agents.pem, Strangers::Refused)?;
    show(&agents)?;
    mount("ca.crt", gate.ca())?;
    let files = "[store.qdrant]\nca_file = \"ca.crt\"\ncert_file = \"tls.crt\"\nkey_file = \"tls.key\"\n";
    let config = config("server").replace("http://server", &gate.url()).replace("[store.qdrant]\n", files);
    let sidecar = Sidecar::start(folder.path(), &config).await?;
    drop(gate.passed());

    let work = Work::begin("certificates", AGENTS, &sidecar.client()?, None);
    for round in 1..=3 {
        pause(500).await;
        let (next, servers) =
            (Authority::new(&format!("Agents {round}"))?, Authority::new(&format!("Servers {round}"))?);
        let both = format!("{}{}", agents.pem, next.pem);
        gate.ask_for(&both, Strangers::Refused)?;
        mount("ca.crt", &format!("{}{}", gate.ca(), servers.pem))?;
        pause(300).await;
        show(&next)?;
        gate.rotate(servers, &both)?;
        pause(300).await;
        gate.ask_for(&next.pem, Strangers::Refused)?;
        mount("ca.crt", gate.ca())?;
        agents = next;
    }
    pause(500).await;
    let shown: BTreeSet<_> = gate.passed().into_iter().collect();
    ensure!(shown.len() > 3 && !shown.contains(&None), "{shown:?} for three renewals");
    judge("certificates rotated three times on both sides", work, &sidecar).await?;
    ensure!(gate.refused() == 0, "{} connections were turned away", gate.refused());
    Ok(())
}

/// One node after the other is killed and stopped, with two replicas of each shard; the next one goes when all replicas are whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_a_cluster_that_goes() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut nodes = Nodes::start(folder.path(), 3).await?;
    let proxy = Proxy::balanced(nodes.addresses()).await?;
    let spread = "[store.qdrant]\nshards = 3\nreplication_factor = 2\nwrite_consistency = 1\n";
    let config = config(proxy.address()).replace("[store.qdrant]\n", spread);
    let sidecar = Sidecar::start(folder.path(), &config).await?;
    let work = Work::begin("nodes", AGENTS, &sidecar.client()?, None);
    for node in 0..3 {
        pause(500).await;
        nodes.kill(node)?;
        pause(2_000).await;
        nodes.restart(node).await?;
        nodes.whole("memory", PATIENCE).await.with_context(|| format!("after node {node} was killed"))?;
        pause(500).await;
        nodes.pause(node)?;
        pause(2_000).await;
        nodes.resume(node)?;
        nodes.whole("memory", PATIENCE).await.with_context(|| format!("after node {node} was stopped"))?;
    }
    judge("each of three nodes killed and stopped", work, &sidecar).await
}
