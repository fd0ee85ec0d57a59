//! The controller as a program that is killed after every step of a rotation: the next one goes on where it stopped.

use std::{
    collections::BTreeMap,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use context_manager_crds::ContextManager;
use context_manager_protocol::{keyring::KeyRing, names};
use context_manager_tests::{
    cluster::{self, Namespace, eventually},
    rotation::FakePod,
    sidecar::program,
    webhook::dead_address,
};
use k8s_openapi::api::core::v1::{Namespace as NamespaceObject, Secret};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

const HOME: &str = "context-manager-system";
/// A killed controller keeps its lease for six seconds.
const PATIENCE: Duration = Duration::from_mins(1);
/// More than this happens in no rotation.
const MOST_STEPS: usize = 12;

/// A controller; it is killed when dropped, and has no time to say good-bye.
struct Controller(Child);

impl Controller {
    fn start(number: usize) -> Result<Self> {
        let arguments = [
            ["--namespace", HOME],
            ["--instance", &format!("crash-{number}")],
            ["--admin-address", &dead_address()?.to_string()],
            ["--lease-duration", "6s"],
            ["--resync", "1s"],
            ["--rotation-settle", "1s"],
            ["--sweep", "off"],
        ];
        let child = Command::new(program("context-manager-operator")?)
            .arg("controller")
            .args(arguments.as_flattened())
            .env("KUBECONFIG", cluster::kubeconfig()?)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("failed to start the controller")?;
        Ok(Self(child))
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn home(client: &Client) -> Result<()> {
    let object = serde_json::from_value(json!({"metadata": {"name": HOME}}))?;
    match Api::<NamespaceObject>::all(client.clone()).create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        made => made.map(drop).context("failed to make the operator's namespace"),
    }
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
    home(&client).await?;
    let namespace = Namespace::create(&client, "crash", &[]).await?;
    namespace.make_resource("memory", json!({"auth": {"rotation": {"overlap": "2s"}}})).await?;
    let mut controller = Controller::start(0)?;
    let mut at = eventually("the key ring", PATIENCE, || place(&namespace)).await?;
    let first = at.ids.clone();
    let folder = tempfile::tempdir()?;
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
        controller = Controller::start(steps.len())?;
    }
    ensure!(steps.len() >= 4, "published, active, overlapping and retired are four steps: {steps:?}");
    // The annotation is still there, and the last controller knows that it was answered.
    let _last = Controller::start(steps.len())?;
    tokio::time::sleep(Duration::from_secs(15)).await;
    ensure!(place(&namespace).await?.ids == at.ids, "it rotated again");
    let count = pod.stop()?;
    println!("{} steps, each with a kill; {} requests, {} failed", steps.len(), count.sent, count.failed);
    ensure!(count.failed == 0 && count.keys.len() == 2, "{count:?}");
    Ok(())
}
