//! Agents and sidecars as processes of this machine, behind pods that exist in the API server alone: so that a rotation on the real API
//! server does not have to wait for a kubelet. What a kubelet does for them, writing the key ring to both, each at its own time, is done here.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use context_manager_protocol::names;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rand::RngExt as _;
use serde::Deserialize;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::{
    cluster::Namespace,
    files, objects,
    sidecar::{Sidecar, program},
};

/// Time between two looks at the Secret.
const LOOK: Duration = Duration::from_millis(20);
/// Longest time until sidecar or agent sees a new ring.
const LAG: Duration = Duration::from_millis(400);
/// A pause between requests.
const EVERY_MS: &str = "1";

/// A pod of an agent and its sidecar.
pub struct FakePod {
    /// The sidecar.
    pub sidecar: Sidecar,
    agent: Child,
    log: PathBuf,
    kubelet: JoinHandle<()>,
    folder: PathBuf,
}

/// What became of an agent's requests.
#[derive(Clone, Debug, Deserialize)]
pub struct Count {
    /// Requests.
    pub sent: u64,
    /// Those that were refused, or not answered.
    pub failed: u64,
    /// Those that were not, by the id of the key that signed them.
    pub keys: BTreeMap<String, u64>,
    /// What the last one that failed said.
    pub error: Option<String>,
    /// Duration of it all.
    pub seconds: f64,
    /// Whether this is the last word.
    pub done: bool,
}

impl Count {
    /// What the last line of an agent's log says.
    ///
    /// # Errors
    /// When there is none.
    pub fn last(log: &str) -> Result<Self> {
        let mut lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
        lines.next_back().with_context(|| format!("no count in {log:?}"))
    }
}

impl FakePod {
    /// Starts sidecar and agent of a resource called `resource`, and makes their pod. One of another namespace is called as pods call it,
    /// `namespace/name`.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn start(namespace: &Namespace, resource: &str, name: &str, folder: &Path) -> Result<Self> {
        let folder = folder.join(name);
        let secrets = namespace.api::<Secret>();
        for part in ["sidecar", "agent"] {
            fs::create_dir_all(folder.join(part))?;
            publish(&folder.join(part), &ring(&secrets, resource).await?)?;
        }
        let keys = folder.join("sidecar").join(names::KEYS_FILE);
        // Nonces of five minutes of a request a millisecond are more than a sidecar remembers.
        let config = format!("timestamp_window = \"30s\"\n[keys]\nfile = \"{}\"\n", keys.display());
        let sidecar = Sidecar::start(&folder, &config).await?;
        let log = folder.join("agent.log");
        let agent = Command::new(program("context-manager-example-agent")?)
            .env_clear()
            .args(["--url", &format!("http://127.0.0.1:{}", sidecar.port), "--keys"])
            .arg(folder.join("agent").join(names::KEYS_FILE))
            .args(["load", "--every-ms", EVERY_MS])
            .stdin(Stdio::null())
            .stdout(fs::File::create(&log)?)
            .spawn()
            .context("failed to start the agent")?;
        let kubelet = tokio::spawn(kubelet(secrets, resource.to_owned(), folder.clone()));
        make(namespace, resource, name, sidecar.admin).await?;
        Ok(Self { sidecar, agent, log, kubelet, folder })
    }

    /// What the agent counted so far.
    ///
    /// # Errors
    /// When it has not said anything yet.
    pub fn count(&self) -> Result<Count> {
        Count::last(&fs::read_to_string(&self.log)?)
    }

    /// From now on nothing new is written for sidecar and agent.
    pub fn detach(&self) {
        self.kubelet.abort();
    }

    /// Writes the ring that is in the Secret, to both.
    ///
    /// # Errors
    /// When there is none.
    pub async fn sync(&self, namespace: &Namespace, resource: &str) -> Result<()> {
        let ring = ring(&namespace.api(), resource).await?;
        ["sidecar", "agent"].iter().try_for_each(|part| publish(&self.folder.join(part), &ring))
    }

    /// Ends the agent; what it counted.
    ///
    /// # Errors
    /// When it does not end in order.
    pub fn stop(mut self) -> Result<Count> {
        kill(Pid::from_raw(i32::try_from(self.agent.id())?), Signal::SIGTERM)?;
        let status = self.agent.wait()?;
        let count = self.count()?;
        ensure!(status.success() && count.done, "the agent ended with {status}: {count:?}");
        Ok(count)
    }
}

impl Drop for FakePod {
    fn drop(&mut self) {
        self.kubelet.abort();
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

/// Makes the pod of a sidecar with this admin port.
///
/// # Errors
/// When the API server refuses it.
pub async fn make(namespace: &Namespace, resource: &str, name: &str, admin: u16) -> Result<()> {
    let mut pod = match resource.split_once('/') {
        None => objects::labelled(objects::pod(name), names::INJECTED, resource),
        Some((from, resource)) => {
            let pod = objects::labelled(objects::pod(name), names::INJECTED, resource);
            objects::labelled(pod, names::INJECTED_FROM, from)
        }
    };
    pod["spec"]["initContainers"] = json!([{
        "name": names::CONTAINER, "image": "localhost/sidecar:1", "restartPolicy": "Always",
        "ports": [{"name": names::ADMIN_PORT_NAME, "containerPort": admin}],
    }]);
    namespace.make::<Pod>(&pod).await?;
    let status = json!({"status": {"phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}});
    namespace.api::<Pod>().patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await?;
    Ok(())
}

/// Writes each new ring to sidecar and agent, each after a time of its own.
async fn kubelet(secrets: Api<Secret>, resource: String, folder: PathBuf) {
    let mut seen = Vec::new();
    loop {
        tokio::time::sleep(LOOK).await;
        let Ok(ring) = ring(&secrets, &resource).await else { continue };
        if ring == seen {
            continue;
        }
        let mut parts = ["sidecar", "agent"];
        parts.rotate_left(usize::from(rand::rng().random::<bool>()));
        for part in parts {
            let lag = rand::rng().random_range(Duration::ZERO..LAG);
            tokio::time::sleep(lag).await;
            if let Err(error) = publish(&folder.join(part), &ring) {
                eprintln!("failed to write the key ring: {error:#}");
            }
        }
        seen = ring;
    }
}

async fn ring(secrets: &Api<Secret>, resource: &str) -> Result<Vec<u8>> {
    let of_another = resource.split_once('/').map(|(from, name)| names::granted(from, name));
    let secret = secrets.get(&of_another.unwrap_or_else(|| names::keys_secret(resource))).await?;
    Ok(secret.data.unwrap_or_default().remove(names::KEYS_FILE).context("the Secret has no ring")?.0)
}

fn publish(folder: &Path, ring: &[u8]) -> Result<()> {
    files::replace(&folder.join(names::KEYS_FILE), ring)
}
