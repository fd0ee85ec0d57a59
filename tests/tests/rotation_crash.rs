//! The controller as a program that is killed after every step of a rotation: the next one goes on where it stopped.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use context_manager_crds::ContextManager;
use context_manager_protocol::{keyring::KeyRing, names};
use context_manager_tests::{
    cluster::{self, Namespace, eventually},
    operator::make_home,
    program::Operator,
    rotation::FakePod,
};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use serde_json::json;

/// A killed controller keeps its lease for six seconds.
const PATIENCE: Duration = Duration::from_mins(1);
/// More than this happens in no rotation.
const MOST_STEPS: usize = 12;

fn start(number: usize, folder: &Path) -> Result<Operator> {
    Operator::mortal(&format!("crash-{number}"), &["--rotation-settle", "1s"], folder)
}

/// Where the rotation is: ids of active, next and previous keys, and the annotations.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    ids: String,
    annotations: BTreeMap<String, String>,
}

async fn place(namespace: &Namespace) -> Result<Place> {
    let secret = namespace.api::<Secret>().get("memory-context-keys").await?;
    let ring = secret.data.unwrap_or_default().remove(names::KEYS_FILE).context("a ring")?.0;
    let ring = KeyRing::from_json(&ring)?;
    let previous: Vec<_> = ring.previous().iter().map(|key| key.id().to_owned()).collect();
    let ids = format!("{} {:?} {previous:?}", ring.active().id(), ring.next().map(|key| key.id().to_owned()));
    Ok(Place { ids, annotations: secret.metadata.annotations.unwrap_or_default() })
}

async fn changed(namespace: &Namespace, from: &Place) -> Result<Place> {
    eventually("the next step", PATIENCE, || async {
        let place = place(namespace).await?;
        ensure!(place != *from, "it is still {place:?}");
        Ok(place)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_that_is_killed_after_every_step_leaves_a_rotation_that_goes_on() -> Result<()> {
    let client = cluster::client().await?;
    cluster::install_definition(&client).await?;
    make_home(&client).await?;
    let folder = tempfile::tempdir()?;
    let namespace = Namespace::create(&client, "crash", &[]).await?;
    namespace.make_resource("memory", json!({"auth": {"rotation": {"overlap": "2s"}}})).await?;
    let mut controller = start(0, folder.path())?;
    let mut at = eventually("the key ring", PATIENCE, || place(&namespace)).await?;
    let first = at.ids.clone();
    let pod = FakePod::start(&namespace, "memory", "a", folder.path()).await?;
    let ask = json!({"metadata": {"annotations": {names::ROTATE: "now"}}});
    namespace.api::<ContextManager>().patch("memory", &PatchParams::default(), &Patch::Merge(ask)).await?;
    let mut steps = Vec::new();
    loop {
        at = changed(&namespace, &at).await.with_context(|| format!("after {steps:?}"))?;
        // The old one is killed at once, so whatever it would have done next is left to a new one.
        drop(controller);
        steps.push(at.ids.clone());
        let over = at.ids.ends_with("None []") && at.ids != first;
        if over {
            break;
        }
        ensure!(steps.len() < MOST_STEPS, "no end of {steps:?}");
        controller = start(steps.len(), folder.path())?;
    }
    ensure!(steps.len() >= 4, "published, active, overlapping and retired are four steps: {steps:?}");
    // The annotation is still there, and the last controller knows that it was answered.
    let _last = start(steps.len(), folder.path())?;
    tokio::time::sleep(Duration::from_secs(15)).await;
    ensure!(place(&namespace).await?.ids == at.ids, "it rotated again");
    let count = pod.stop()?;
    println!("{} steps, each with a kill; {} requests, {} failed", steps.len(), count.sent, count.failed);
    ensure!(count.failed == 0 && count.keys.len() == 2, "{count:?}");
    Ok(())
}
