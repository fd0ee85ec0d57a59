//! Agents that store, change, supersede and delete on every level, alone and in batches, while the Qdrant server is killed, stopped, cut
//! off, slow, or its answers are lost: afterwards the memory is exactly what was acknowledged.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use context_manager_tests::{
    client::Client,
    ledger::{Agent, Count},
    proxy::{Network, Proxy},
    qdrant::Qdrant,
    sidecar::Sidecar,
    tally::drained,
};
use tokio::task::JoinSet;

const AGENTS: u64 = 4;
const PATIENCE: Duration = Duration::from_mins(1);

/// A sidecar's configuration before the server at `url`: it notices an outage soon, and no level becomes full.
fn config(url: impl std::fmt::Display) -> String {
    format!(
        "[store.qdrant]\nurl = \"http://{url}\"\ncollection = \"memory\"\ntimeout = \"500ms\"\n[journal]\npath = \"journal\"\n\
         [circuit_breaker]\nfailure_threshold = 2\nsuccess_threshold = 1\nopen_for = \"200ms\"\n\
         [levels.short_term]\ncapacity = 1000000\n"
    )
}

async fn pause(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

struct Setup {
    _folder: tempfile::TempDir,
    server: Qdrant,
    proxy: Proxy,
    sidecar: Sidecar,
    agents: Vec<Agent>,
}

/// Agents at work.
struct Work {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<Result<Agent>>,
}

impl Setup {
    async fn new(fault: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let server = Qdrant::start(&folder.path().join("qdrant")).await?;
        let proxy = Proxy::start(server.address()).await?;
        let sidecar = Sidecar::start(folder.path(), &config(proxy.address())).await?;
        let agents = (1..=AGENTS).map(|seed| Agent::new(&format!("{fault}-{seed}"), seed)).collect();
        Ok(Self { _folder: folder, server, proxy, sidecar, agents })
    }

    fn client(&self) -> Result<Client> {
        self.sidecar.client()
    }

    fn begin(&mut self) -> Result<Work> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for mut agent in self.agents.drain(..) {
            let (client, stop) = (self.sidecar.client()?, Arc::clone(&stop));
            tasks.spawn(async move { agent.work_until(&client, &stop).await.map(|()| agent) });
        }
        Ok(Work { stop, tasks })
    }

    /// Stops the agents, lets each finish what is open, waits for the journal to drain, and compares.
    async fn judge(&mut self, fault: &str, mut work: Work) -> Result<()> {
        work.stop.store(true, Ordering::Release);
        while let Some(agent) = work.tasks.join_next().await {
            self.agents.push(agent?.with_context(|| self.sidecar.log().unwrap_or_default())?);
        }
        let client = self.client()?;
        let since = Instant::now();
        for agent in &mut self.agents {
            while !agent.repeat(&client).await? {
                ensure!(since.elapsed() < PATIENCE, "an operation is not done: {}", self.sidecar.log()?);
                pause(50).await;
            }
        }
        drained(&client, PATIENCE).await?;
        let (mut count, mut lost, mut doubled, mut living) = (Count::default(), Vec::new(), Vec::new(), 0);
        for agent in &self.agents {
            let differences = agent.compare(&client).await?;
            lost.extend(differences.lost);
            doubled.extend(differences.doubled);
            count.add(agent.count);
            living += agent.living();
        }
        println!("{fault}: {count}; {living} contexts compared, {} lost, {} doubled", lost.len(), doubled.len());
        ensure!(lost.is_empty() && doubled.is_empty(), "lost {lost:?}, doubled {doubled:?}\n{}", self.sidecar.log()?);
        ensure!(count.acknowledged >= 100, "too few operations to prove anything: {count}");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed() -> Result<()> {
    let mut setup = Setup::new("kill").await?;
    let work = setup.begin()?;
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
    let mut setup = Setup::new("stop").await?;
    let work = setup.begin()?;
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
    let mut setup = Setup::new("answers").await?;
    let work = setup.begin()?;
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
    let mut setup = Setup::new("slow").await?;
    let work = setup.begin()?;
    for delay in [20, 700, 20, 700] {
        setup.proxy.set(Network::Slow(Duration::from_millis(delay)));
        pause(1_200).await;
    }
    setup.proxy.set(Network::Fine);
    pause(700).await;
    setup.judge("slow network", work).await
}
