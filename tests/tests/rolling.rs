//! The chart's two webhooks and two controllers on the real kubelet, while pods are admitted all the time: an upgrade, a rollback, a drained
//! node and a crash refuse none of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use context_manager_protocol::names;
use context_manager_tests::{
    cluster::{self, Namespace, eventually},
    helm::Release,
    objects::asking,
    operator::provision,
};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, EvictParams, ListParams, PostParams},
};
use serde_json::json;
use tokio::task::JoinSet;

const RELEASE: &str = "suite-rolling";
/// How helm waits.
const WAIT: &[&str] = &["--wait", "--timeout", "4m", "--hide-notes"];
/// How long a part may take to be there again.
const AGAIN: Duration = Duration::from_mins(2);
const CLIENTS: usize = 4;
/// Between two admissions of a client.
const PAUSE: Duration = Duration::from_millis(20);

fn chart() -> String {
    format!("{}/../charts/context-manager", env!("CARGO_MANIFEST_DIR"))
}

/// Clients that create pods in dry runs, until they are told to stop.
struct Admissions {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<Tally>,
}

/// What became of the pods.
#[derive(Debug, Default)]
struct Tally {
    injected: usize,
    /// What was said of those that were refused, or came back without a sidecar.
    wrong: Vec<String>,
}

impl Admissions {
    fn begin(namespace: &Namespace) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for number in 0..CLIENTS {
            tasks.spawn(admit(namespace.api(), format!("pod-{number}"), Arc::clone(&stop)));
        }
        Self { stop, tasks }
    }

    async fn end(mut self) -> Result<Tally> {
        self.stop.store(true, Ordering::Release);
        let mut all = Tally::default();
        while let Some(tally) = self.tasks.join_next().await {
            let Tally { injected, wrong } = tally?;
            all.injected += injected;
            all.wrong.extend(wrong);
        }
        Ok(all)
    }
}

async fn admit(pods: Api<Pod>, name: String, stop: Arc<AtomicBool>) -> Tally {
    let (mut tally, dry) = (Tally::default(), PostParams { dry_run: true, ..PostParams::default() });
    let pod = match serde_json::from_value(asking(&name)) {
        Ok(pod) => pod,
        Err(error) => return Tally { injected: 0, wrong: vec![error.to_string()] },
    };
    while !stop.load(Ordering::Acquire) {
        match pods.create(&dry, &pod).await {
            Ok(admitted) if admitted.annotations().contains_key(names::INJECTED_HASH) => tally.injected += 1,
            Ok(_) => tally.wrong.push("admitted without a sidecar".to_owned()),
            Err(error) => tally.wrong.push(error.to_string()),
        }
        tokio::time::sleep(PAUSE).await;
    }
    tally
}

/// The pods of a part that are ready and stay.
async fn ready(home: &Namespace, component: &str) -> Result<Vec<Pod>> {
    let selector = format!("app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component={component}");
    let pods = home.api::<Pod>().list(&ListParams::default().labels(&selector)).await?;
    let is_ready = |pod: &Pod| {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        pod.metadata.deletion_timestamp.is_none()
            && conditions.clone().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    Ok(pods.items.into_iter().filter(is_ready).collect())
}

async fn both(home: &Namespace, component: &str) -> Result<Vec<Pod>> {
    eventually(&format!("two pods of the {component}"), AGAIN, || async {
        let pods = ready(home, component).await?;
        ensure!(pods.len() == 2, "{} are ready", pods.len());
        Ok::<_, anyhow::Error>(pods)
    })
    .await
}

/// Evicts every pod of a part as `kubectl drain` does: again and again until its disruption budget lets it go.
async fn drain(home: &Namespace, component: &str) -> Result<()> {
    let pods = home.api::<Pod>();
    for pod in both(home, component).await? {
        let name = pod.name_any();
        let started = std::time::Instant::now();
        loop {
            match pods.evict(&name, &EvictParams::default()).await {
                Ok(_) => break,
                Err(kube::Error::Api(status)) if status.code == 429 => {}
                Err(error) => bail!("{name} cannot be evicted: {error}"),
            }
            ensure!(started.elapsed() < AGAIN, "{name} is never let go");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    both(home, component).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_pod_is_refused_while_the_operator_is_upgraded_rolled_back_drained_and_killed() -> Result<()> {
    let client = cluster::client().await?;
    cluster::install_definition(&client).await?;
    let enforce = [("pod-security.kubernetes.io/enforce", "restricted")];
    let home = Namespace::create(&client, "rolling", &enforce).await?;
    let agents = Namespace::create(&client, "rolling-agents", &enforce).await?;
    let release = Release::new(RELEASE, &home.name)?;
    let chart = chart();
    release.helm(&["install"], &[&[chart.as_str(), "--set", "crds.install=false"], WAIT].concat()).await?;
    provision(&agents, "memory", json!({})).await?;
    let webhook = format!("{RELEASE}-context-manager-webhook");
    let generation = async || {
        let deployment = home.api::<Deployment>().get(&webhook).await?;
        deployment.metadata.generation.context("a generation")
    };
    let first = generation().await?;

    let mut admitted = 0;
    let mut judge = |what: &str, tally: Tally| {
        println!("{what}: {} pods admitted with a sidecar, {} not", tally.injected, tally.wrong.len());
        admitted += tally.injected;
        ensure!(tally.wrong.is_empty(), "{what}: {:?}", tally.wrong);
        ensure!(tally.injected >= 50, "{what}: too few admissions to prove anything");
        Ok(())
    };

    let admissions = Admissions::begin(&agents);
    let upgrade = [chart.as_str(), "--set", "crds.install=false", "--set", "logLevel=debug"];
    release.helm(&["upgrade"], &[&upgrade, WAIT].concat()).await?;
    judge("upgrade", admissions.end().await?)?;
    ensure!(generation().await? > first, "the upgrade changed nothing of the webhook");

    let admissions = Admissions::begin(&agents);
    release.helm(&["rollback"], &["1", "--wait", "--timeout", "4m"]).await?;
    judge("rollback", admissions.end().await?)?;

    let admissions = Admissions::begin(&agents);
    drain(&home, "webhook").await?;
    drain(&home, "controller").await?;
    judge("every pod evicted", admissions.end().await?)?;

    let admissions = Admissions::begin(&agents);
    for pod in both(&home, "webhook").await? {
        home.api::<Pod>().delete(&pod.name_any(), &DeleteParams::default()).await?;
        both(&home, "webhook").await?;
    }
    judge("one webhook deleted after the other", admissions.end().await?)?;
    println!("{admitted} admissions in all, none refused");
    Ok(())
}
