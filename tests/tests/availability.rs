//! What happens to the controller when something dies: a replica, its connection, the API server. Programs as the chart starts them, on the
//! real API server, each behind a proxy that counts what it asks.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use context_manager_crds::ContextManager;
use context_manager_protocol::names;
use context_manager_tests::{
    cluster::{self, Namespace, eventually},
    front::Front,
    operator::{self, PATIENCE, provision, wait_for},
    proxy::{Network, Proxy},
    replica::{Leads, Replica},
    webhook::Webhook,
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    sync::{Mutex, MutexGuard},
    task::JoinHandle,
};

/// The lease's duration in the chart.
const LEASE: Duration = Duration::from_secs(15);
/// The shortest one.
const SHORT: Duration = Duration::from_secs(6);
/// Nothing here is noticed by a resync.
const RESYNC: Duration = Duration::from_mins(10);

/// What the tests share. One at a time: there is one lease.
struct Stage {
    webhook: Arc<Webhook>,
    namespace: Namespace,
    folder: TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Stage {
    async fn set(what: &str) -> Result<Self> {
        static ALONE: Mutex<()> = Mutex::const_new(());
        let alone = ALONE.lock().await;
        let client = cluster::client().await?;
        operator::make_home(&client).await?;
        let webhook = Webhook::shared().await?;
        let namespace = webhook.namespace(&client, what, &[]).await?;
        Ok(Self { webhook, namespace, folder: tempfile::tempdir()?, _alone: alone })
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A replica, and the proxy that counts what it asks.
    async fn replica(&self, name: &str, lease: Duration) -> Result<(Replica, Front)> {
        let front = Front::start().await?;
        let replica = Replica::start(self.folder(), name, front.address, &self.webhook, lease, RESYNC)?;
        Ok((replica, front))
    }

    fn resources(&self) -> Api<ContextManager> {
        self.namespace.api()
    }

    async fn change(&self, name: &str, spec: Value) -> Result<()> {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.resources().patch(name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Changes a resource again and again, so that a leader always has something to write.
    fn unrest(&self, name: &'static str) -> Unrest {
        let resources = self.resources();
        Unrest(tokio::spawn(async move {
            for number in 0_u32.. {
                let patch = Patch::Merge(json!({"spec": {"gc": {"interval": format!("{}s", 10 + number % 40)}}}));
                if let Err(error) = resources.patch(name, &PatchParams::default(), &patch).await {
                    eprintln!("the resource was not changed: {error}");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }))
    }
}

/// Ends with its test.
struct Unrest(JoinHandle<()>);

impl Drop for Unrest {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn ended(replica: &mut Replica) -> Result<bool> {
    for _ in 0..300 {
        if let Some(status) = replica.ended()? {
            return Ok(status.success());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("it does not end: {}", replica.log()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_replicas_writes_and_hands_over_when_it_is_told_to_end() -> Result<()> {
    let stage = Stage::set("handover").await?;
    let (mut first, first_asked) = stage.replica("first", LEASE).await?;
    first.wait_until(Leads::Yes).await?;
    let (second, second_asked) = stage.replica("second", LEASE).await?;
    eventually("the second replica", PATIENCE, || second.get("/readyz")).await?;
    provision(&stage.namespace, "memory", json!({})).await?;
    ensure!(first_asked.writes() > 0, "the leader wrote nothing");
    ensure!(second_asked.writes() == 0 && !second.leads().await?, "a replica without the lease wrote");
    let asked = Instant::now();
    first.signal(Signal::SIGTERM)?;
    second.wait_until(Leads::Yes).await?;
    let took = asked.elapsed();
    println!("SIGTERM: the other replica led after {took:?}");
    ensure!(took < LEASE / 2, "it took {took:?}, as if the lease had not been released");
    ensure!(ended(&mut first).await?, "it did not end well: {}", first.log()?);
    let written = first_asked.writes();
    provision(&stage.namespace, "later", json!({})).await?;
    ensure!(first_asked.writes() == written && second_asked.writes() > 0, "the wrong one wrote");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lease_of_a_killed_replica_is_taken_when_it_is_over() -> Result<()> {
    let stage = Stage::set("killed").await?;
    let (first, _first_asked) = stage.replica("first", SHORT).await?;
    first.wait_until(Leads::Yes).await?;
    provision(&stage.namespace, "memory", json!({})).await?;
    let (second, second_asked) = stage.replica("second", SHORT).await?;
    eventually("the second replica", PATIENCE, || second.get("/readyz")).await?;
    let asked = Instant::now();
    first.signal(Signal::SIGKILL)?;
    let (configs, config) = (stage.namespace.api::<ConfigMap>(), names::config_map("memory"));
    configs.delete(&config, &DeleteParams::default()).await?;
    second.wait_until(Leads::Yes).await?;
    let took = asked.elapsed();
    println!("kill -9 with a lease of {SHORT:?}: the other replica led after {took:?}");
    // It was renewed a fifth of it before, and seen to be so up to a look before.
    ensure!(took > SHORT / 3, "it was taken after {took:?}, while it might have been held");
    ensure!(took < 4 * SHORT, "it was taken after {took:?}");
    eventually("what was deleted meanwhile", PATIENCE, || configs.get(&config)).await?;
    ensure!(second_asked.writes() > 0, "somebody else wrote it");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_stopped_for_longer_than_its_lease_writes_no_more() -> Result<()> {
    let stage = Stage::set("stopped").await?;
    let (mut first, first_asked) = stage.replica("first", SHORT).await?;
    first.wait_until(Leads::Yes).await?;
    provision(&stage.namespace, "memory", json!({})).await?;
    let (second, second_asked) = stage.replica("second", SHORT).await?;
    let unrest = stage.unrest("memory");
    let before = first_asked.writes();
    eventually("the leader at work", PATIENCE, || async {
        ensure!(first_asked.writes() > before + 5, "it writes little");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    first.signal(Signal::SIGSTOP)?;
    let stopped = Instant::now();
    second.wait_until(Leads::Yes).await?;
    println!("SIGSTOP with a lease of {SHORT:?}: the other replica led after {:?}", stopped.elapsed());
    let (theirs, others) = (first_asked.writes(), second_asked.writes());
    first.signal(Signal::SIGCONT)?;
    let resumed = Instant::now();
    first.wait_until(Leads::No).await?;
    println!("SIGCONT: it had stepped down after {:?}", resumed.elapsed());
    eventually("the other one at work", PATIENCE, || async {
        ensure!(second_asked.writes() > others + 20, "it writes little");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    let (late, now) = (first_asked.writes() - theirs, second_asked.writes() - others);
    println!("since then it wrote {late} times, the other one {now} times");
    ensure!(late == 0, "it wrote {late} times although another one led: {:?}", first_asked.seen());
    drop(unrest);
    // It is no worse for it.
    second.signal(Signal::SIGTERM)?;
    first.wait_until(Leads::Yes).await?;
    ensure!(first.ended()?.is_none(), "it ended");
    provision(&stage.namespace, "later", json!({})).await?;
    ensure!(first_asked.writes() > theirs, "somebody else wrote");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_while_the_api_server_was_away_is_reconciled_without_a_restart() -> Result<()> {
    let stage = Stage::set("away").await?;
    let front = Front::start().await?;
    let network = Proxy::start(front.address).await?;
    let mut replica = Replica::start(stage.folder(), "only", network.address(), &stage.webhook, LEASE, RESYNC)?;
    replica.wait_until(Leads::Yes).await?;
    provision(&stage.namespace, "memory", json!({})).await?;
    provision(&stage.namespace, "other", json!({})).await?;
    let (configs, config) = (stage.namespace.api::<ConfigMap>(), names::config_map("other"));
    for (turn, expected) in [("short", Leads::Yes), ("long", Leads::No)] {
        network.set(Network::Cut);
        let cut = Instant::now();
        stage.change("memory", json!({"gc": {"interval": if expected == Leads::Yes { "7s" } else { "8s" }}})).await?;
        configs.delete(&config, &DeleteParams::default()).await?;
        stage.namespace.make_resource(turn, json!({})).await?;
        match expected {
            Leads::Yes => tokio::time::sleep(LEASE / 4).await,
            Leads::No => replica.wait_until(Leads::No).await?,
        }
        for probe in ["/healthz", "/readyz"] {
            replica.get(probe).await.with_context(|| format!("{probe} while the API server is away"))?;
        }
        println!("{turn}: the API server was away for {:?}", cut.elapsed());
        network.set(Network::Fine);
        let back = Instant::now();
        replica.wait_until(Leads::Yes).await?;
        for name in ["memory", "other", turn] {
            wait_for(&stage.namespace, name, "Ready", "True", None)
                .await
                .with_context(|| replica.log().unwrap_or_default())?;
        }
        eventually("what was deleted meanwhile", PATIENCE, || configs.get(&config)).await?;
        println!("{turn}: all was as it should be {:?} after it was back", back.elapsed());
        ensure!(replica.ended()?.is_none(), "it ended: {}", replica.log()?);
        let terms = replica.said("Leading")?;
        ensure!(terms == if expected == Leads::Yes { 1 } else { 2 }, "it led {terms} times");
    }
    Ok(())
}
