//! The chart's two webhooks and two controllers on the real kubelet, while pods are admitted all the time: an upgrade, a rollback, a drained
//! node and a crash refuse none of them.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use context_manager_tests::{
    admissions::{Admissions, Tally},
    cluster::{self, Namespace},
    helm::Release,
    operator::provision,
};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, EvictParams},
};
use serde_json::json;

const RELEASE: &str = "suite-rolling";
/// How helm waits.
const WAIT: &[&str] = &["--wait", "--timeout", "4m", "--hide-notes"];
/// How long a pod may be kept by its disruption budget.
const AGAIN: Duration = Duration::from_mins(2);

fn chart() -> String {
    format!("{}/../charts/context-manager", env!("CARGO_MANIFEST_DIR"))
}

/// Evicts every pod of a part as `kubectl drain` does: again and again until its disruption budget lets it go.
async fn drain(release: &Release, home: &Namespace, component: &str) -> Result<()> {
    let pods = home.api::<Pod>();
    for pod in release.ready_pods(home, component, 2).await? {
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
    release.ready_pods(home, component, 2).await.map(drop)
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
    drain(&release, &home, "webhook").await?;
    drain(&release, &home, "controller").await?;
    judge("every pod evicted", admissions.end().await?)?;

    let admissions = Admissions::begin(&agents);
    for pod in release.ready_pods(&home, "webhook", 2).await? {
        home.api::<Pod>().delete(&pod.name_any(), &DeleteParams::default()).await?;
        release.ready_pods(&home, "webhook", 2).await?;
    }
    judge("one webhook deleted after the other", admissions.end().await?)?;
    println!("{admitted} admissions in all, none refused");
    Ok(())
}
