//! What happens to the controller when something dies: a replica, its connection, the API server. Programs as the chart starts them, on the
//! real API server, each behind a proxy that counts what it asks.

#[path = "availability/compaction.rs"]
mod compaction;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use axum::{
    http::{Method, Uri},
    response::IntoResponse as _,
};
use context_manager_crds::ContextManager;
use context_manager_protocol::names;
use context_manager_qdrant::{Collection, Error, Found, Options};
use context_manager_tests::{
    cluster::{self, Namespace, eventually},
    front::{self, Front, is_watch, refusal},
    operator::{self, PATIENCE, provision, wait_for},
    proxy::{Network, Proxy},
    qdrant::Qdrant,
    replica::{Leads, Replica},
    unreadable::Unreadable,
    webhook::Webhook,
};
use jiff::Timestamp;
use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::ConfigMap},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
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
/// After this nothing passes a cut any more.
const SETTLED: Duration = Duration::from_millis(300);
/// How long one call of the API server is tried.
const RETRIED: Duration = Duration::from_secs(10);
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

    /// The only replica, when it leads and has made what the resources `memory` and `other` need, and the network before `front`.
    async fn leader_behind(&self, front: &Front, lease: Duration) -> Result<(Replica, Proxy)> {
        let network = Proxy::start(front.address).await?;
        let replica = Replica::start(self.folder(), "only", network.address(), &self.webhook, lease, RESYNC)?;
        replica.wait_until(Leads::Yes).await?;
        for name in ["memory", "other"] {
            provision(&self.namespace, name, json!({})).await?;
        }
        Ok((replica, network))
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

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_replicas_writes_and_hands_over_when_it_is_told_to_end() -> Result<()> {
    let stage = Stage::set("handover").await?;
    let (mut first, first_asked) = stage.replica("first", LEASE).await?;
    first.wait_until(Leads::Yes).await?;
    let (second, second_asked) = stage.replica("second", LEASE).await?;
    eventually("the second replica", PATIENCE, || second.process.page("/readyz")).await?;
    provision(&stage.namespace, "memory", json!({})).await?;
    ensure!(first_asked.writes() > 0, "the leader wrote nothing");
    ensure!(second_asked.writes() == 0 && !second.leads().await?, "a replica without the lease wrote");
    let asked = Instant::now();
    first.process.terminate().with_context(|| first.process.logged())?;
    second.wait_until(Leads::Yes).await?;
    let took = asked.elapsed();
    println!("SIGTERM: the other replica led after {took:?}");
    ensure!(took < LEASE / 2, "it took {took:?}, as if the lease had not been released");
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
    eventually("the second replica", PATIENCE, || second.process.page("/readyz")).await?;
    let asked = Instant::now();
    first.process.signal(Signal::SIGKILL)?;
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
    first.process.signal(Signal::SIGSTOP)?;
    let stopped = Instant::now();
    second.wait_until(Leads::Yes).await?;
    println!("SIGSTOP with a lease of {SHORT:?}: the other replica led after {:?}", stopped.elapsed());
    let (theirs, others) = (first_asked.writes(), second_asked.writes());
    first.process.signal(Signal::SIGCONT)?;
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
    second.process.signal(Signal::SIGTERM)?;
    first.wait_until(Leads::Yes).await?;
    ensure!(!first.process.ended()?, "it ended");
    provision(&stage.namespace, "later", json!({})).await?;
    ensure!(first_asked.writes() > theirs, "somebody else wrote");
    Ok(())
}

/// The lease in the hands of somebody who does nothing, until this is dropped.
struct Taken;

impl Taken {
    async fn take() -> Result<Self> {
        let taken = Self;
        write_lease(&cluster::client().await?, Some("suite")).await?;
        Ok(taken)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        cluster::clean_up("the lease's holder", async move |client| write_lease(&client, None).await);
    }
}

async fn write_lease(client: &Client, holder: Option<&str>) -> Result<()> {
    let now = holder.map(|_| MicroTime(Timestamp::now()));
    let spec = json!({"holderIdentity": holder, "acquireTime": now, "renewTime": now, "leaseDurationSeconds": 60});
    let leases = Api::<Lease>::namespaced(client.clone(), operator::HOME);
    leases.patch("context-manager-controller", &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stood_still_changes_nothing_at_a_qdrant_server_when_it_goes_on() -> Result<()> {
    let stage = Stage::set("qdrant").await?;
    let server = Qdrant::start(&stage.folder().join("qdrant")).await?;
    println!("the server is {}", Qdrant::name());
    let url = format!("http://{}", server.address());
    let collection = Collection::connect(Options::new(&url, "fenced", 384, "x"))?;
    let (replica, asked) = stage.replica("only", SHORT).await?;
    replica.wait_until(Leads::Yes).await?;
    // The server stands still as well, so the leader is in the middle of its look.
    server.pause()?;
    let qdrant = json!({"url": url, "collection": "fenced", "timeout": "1m"});
    stage.namespace.make_resource("memory", json!({"vectorStore": {"qdrant": qdrant}})).await?;
    wait_for(&stage.namespace, "memory", "StoreReady", "False", Some("StoreUnchecked")).await?;
    replica.process.signal(Signal::SIGSTOP)?;
    tokio::time::sleep(SHORT).await;
    let taken = Taken::take().await?;
    server.resume()?;
    eventually("the server", PATIENCE, || collection.inspect()).await?;
    let written = asked.writes();
    replica.process.signal(Signal::SIGCONT)?;
    replica.wait_until(Leads::No).await?;
    // It has had its answer for a while, and has not been told to look again.
    tokio::time::sleep(2 * SETTLED).await;
    let found = collection.inspect().await;
    drop(taken);
    ensure!(matches!(found, Ok(Found::Nothing)), "it made a collection although it did not lead: {found:?}");
    ensure!(asked.writes() == written, "it wrote to the API server");
    // It was about to, and does when it leads again.
    replica.wait_until(Leads::Yes).await?;
    wait_for(&stage.namespace, "memory", "StoreReady", "True", None).await?;
    let made = collection.inspect().await;
    ensure!(matches!(made, Err(Error::Incompatible { .. })), "it is there, and for its own model: {made:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_while_the_api_server_was_away_is_reconciled_without_a_restart() -> Result<()> {
    let stage = Stage::set("away").await?;
    let front = Front::start().await?;
    let (mut replica, network) = stage.leader_behind(&front, LEASE).await?;
    let (configs, config) = (stage.namespace.api::<ConfigMap>(), names::config_map("other"));
    for (turn, expected) in [("short", Leads::Yes), ("long", Leads::No)] {
        network.set(Network::Cut);
        let cut = Instant::now();
        tokio::time::sleep(SETTLED).await;
        stage.change("memory", json!({"gc": {"interval": if expected == Leads::Yes { "7s" } else { "8s" }}})).await?;
        configs.delete(&config, &DeleteParams::default()).await?;
        stage.namespace.make_resource(turn, json!({})).await?;
        match expected {
            Leads::Yes => tokio::time::sleep(LEASE / 4).await,
            Leads::No => replica.wait_until(Leads::No).await?,
        }
        for probe in ["/healthz", "/readyz"] {
            replica.process.page(probe).await.with_context(|| format!("{probe} while the API server is away"))?;
        }
        println!("{turn}: the API server was away for {:?}", cut.elapsed());
        network.set(Network::Fine);
        let back = Instant::now();
        replica.wait_until(Leads::Yes).await?;
        for name in ["memory", "other", turn] {
            wait_for(&stage.namespace, name, "Ready", "True", None).await.with_context(|| replica.process.logged())?;
        }
        eventually("what was deleted meanwhile", PATIENCE, || configs.get(&config)).await?;
        println!("{turn}: all was as it should be {:?} after it was back", back.elapsed());
        ensure!(!replica.process.ended()?, "it ended: {}", replica.process.logged());
        let terms = replica.said("Leading");
        ensure!(terms == if expected == Leads::Yes { 1 } else { 2 }, "it led {terms} times");
    }
    Ok(())
}

/// Cuts the connections, does something, and lets them through again.
async fn unseen<T>(network: &Proxy, what: impl Future<Output = Result<T>>) -> Result<T> {
    network.set(Network::Cut);
    // What had come before the cut is passed on.
    tokio::time::sleep(SETTLED).await;
    let done = what.await;
    network.set(Network::Fine);
    done
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_too_old_is_begun_anew_and_nothing_is_missed() -> Result<()> {
    let stage = Stage::set("gone").await?;
    let front = Front::start().await?;
    let (replica, network) = stage.leader_behind(&front, LEASE).await?;
    let (configs, config) = (stage.namespace.api::<ConfigMap>(), names::config_map("other"));
    // As an event in the stream, and as an answer.
    let mut answers = vec![
        refusal(410, "Expired", None),
        axum::Json(json!({"type": "ERROR", "object": front::status(410, "Expired")})).into_response(),
    ];
    front.script(move |method, uri| if is_watch(method, uri, "contextmanagers") { answers.pop() } else { None });
    let lists = front.count(|seen| seen.is_list("contextmanagers"));
    unseen(&network, async {
        stage.change("memory", json!({"gc": {"interval": "7s"}})).await?;
        stage.namespace.make_resource("later", json!({})).await
    })
    .await?;
    for name in ["memory", "later"] {
        let found = wait_for(&stage.namespace, name, "Ready", "True", None).await;
        found.with_context(|| replica.process.logged())?;
    }
    // Nor after the second one, in a watch that had just been begun.
    stage.namespace.make_resource("last", json!({})).await?;
    wait_for(&stage.namespace, "last", "Ready", "True", None).await?;
    let (lists, watches) = (
        front.count(|seen| seen.is_list("contextmanagers")) - lists,
        front.count(|seen| seen.is_watch("contextmanagers") && seen.scripted),
    );
    println!("{watches} watches of resources were answered by 410, and {lists} lists followed");
    // The network that was away costs some as well; a watch that is begun in a hurry would cost dozens.
    ensure!(watches == 2 && (2..=9).contains(&lists), "{watches} watches and {lists} lists");

    // A deletion is in no list. The resources themselves are watched without a gap this time.
    let mut once = Some(refusal(410, "Expired", None));
    front.script(move |method, uri| if is_watch(method, uri, "configmaps") { once.take() } else { None });
    let lists = front.count(|seen| seen.is_list("configmaps"));
    unseen(&network, async { Ok(configs.delete(&config, &DeleteParams::default()).await?) }).await?;
    let repaired = eventually("what was deleted meanwhile", PATIENCE, || configs.get(&config)).await;
    repaired.with_context(|| replica.process.logged())?;
    // Another event may have had it repaired before the watch was begun again.
    let anew = || front.count(|seen| seen.is_list("configmaps")) - lists;
    eventually("a list", PATIENCE, || async { (anew() > 0).then_some(()).context("none") }).await?;
    let lists = anew();
    println!("the watch of ConfigMaps was answered by 410, and {lists} lists followed");
    ensure!((1..=9).contains(&lists), "{lists} lists");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_refuses_is_asked_again_but_not_hammered() -> Result<()> {
    const WELCOME: Duration = Duration::from_secs(3);
    let stage = Stage::set("refused").await?;
    let (replica, front) = stage.replica("only", LEASE).await?;
    replica.wait_until(Leads::Yes).await?;
    let place = format!("/namespaces/{}/", stage.namespace.name);
    // What a resource needs, in the order of coming; events may be lost.
    let concerns = {
        let place = place.clone();
        move |method: &Method, uri: &Uri| {
            *method != Method::GET && uri.path().contains(&place) && !uri.path().ends_with("/events")
        }
    };
    let mut answers = vec![
        refusal(503, "ServiceUnavailable", None),
        refusal(500, "InternalError", None),
        refusal(429, "TooManyRequests", Some(WELCOME.as_secs())),
        refusal(409, "Conflict", None),
    ];
    let such = concerns.clone();
    front.script(move |method, uri| if such(method, uri) { answers.pop() } else { None });
    stage.namespace.make_resource("memory", json!({})).await?;
    wait_for(&stage.namespace, "memory", "Ready", "True", None).await.with_context(|| replica.process.logged())?;
    let writes: Vec<_> = front.seen().into_iter().filter(|seen| concerns(&seen.method, &seen.uri)).collect();
    let limited = &writes[1];
    let again = writes.iter().find(|seen| seen.at > limited.at).context("the write after 429")?;
    let pause = again.at - limited.at;
    println!("409, 429, 500 and 503: ready after {} writes; the pause after 429 was {pause:?}", writes.len());
    ensure!(writes.iter().filter(|seen| seen.scripted).count() == 4, "{writes:?}");
    ensure!(pause >= WELCOME, "it came back after {pause:?}, when asked to wait {WELCOME:?}");
    ensure!(writes.len() < 30, "{} writes", writes.len());

    // Longer than a call may take.
    let (from, welcome) = (Instant::now(), 2 * RETRIED);
    let path = format!("{place}configmaps/");
    let such = path.clone();
    front.script(move |_, uri| {
        let early = from.elapsed() < welcome && uri.path().contains(&such);
        early.then(|| refusal(503, "ServiceUnavailable", None))
    });
    stage.change("memory", json!({"gc": {"interval": "7s"}})).await?;
    tokio::time::sleep(welcome).await;
    let asked = front.count(|seen| seen.scripted && seen.uri.path().contains(&path));
    println!("503 for {welcome:?}: asked {asked} times");
    ensure!((2..60).contains(&asked), "it asked {asked} times");
    let patience = 3 * welcome;
    operator::wait_within(patience, &stage.namespace, "memory", "Ready", |said| said.status == "True").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_cannot_be_read_is_named_and_holds_nobody_up() -> Result<()> {
    let stage = Stage::set("unreadable").await?;
    let (replica, front) = stage.replica("only", LEASE).await?;
    replica.wait_until(Leads::Yes).await?;
    provision(&stage.namespace, "before", json!({})).await?;
    let _odd = Unreadable::make(&stage.namespace, "odd", json!({})).await?;
    provision(&stage.namespace, "after", json!({})).await?;
    stage.change("before", json!({"suspend": false})).await?;
    wait_for(&stage.namespace, "before", "Ready", "True", None).await?;
    let line = format!(
        "context_manager_invalid_resources{{resource=\"odd\",resource_namespace=\"{}\"}} 1",
        stage.namespace.name
    );
    eventually("the metric", PATIENCE, || async {
        let metrics = replica.process.page("/metrics").await?;
        ensure!(metrics.lines().any(|found| found == line), "{metrics}");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    let log = replica.process.logged();
    let told = log.lines().find(|entry| entry.contains("\"odd\"") && entry.contains("cannot be read"));
    println!("{}", told.with_context(|| format!("the log does not name it: {log}"))?);
    let said = stage.namespace.resources().get("odd").await?;
    ensure!(said.data["status"]["conditions"].to_string().contains("InvalidSpec"), "{said:?}");
    // It is said once, and not again and again.
    let of_it = |seen: &front::Seen| seen.is_write() && seen.uri.path().contains("/contextmanagers/odd");
    tokio::time::sleep(RETRIED / 2).await;
    let writes = front.count(of_it);
    println!("its status was written {writes} times");
    ensure!(writes <= 2, "its status was written {writes} times");
    Ok(())
}
