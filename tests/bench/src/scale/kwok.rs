//! Nodes that are not there and whose pods are ready at once, by kwok: what a controller has to know of many pods, without the pods.

use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use context_manager_tests::cluster::{self, eventually};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use serde_json::json;

use super::PATIENCE;

/// Environment variable with kwok's path; `cargo xtask bench` sets it.
const PROGRAM: &str = "CONTEXT_MANAGER_BENCH_KWOK";
const STAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kwok.yaml");
/// The annotation of the nodes that are kwok's.
const FAKE: &str = "kwok.x-k8s.io/node";
const NODES: usize = 10;

/// kwok and its nodes; they are gone when dropped.
pub struct Nodes {
    kwok: Child,
    names: Vec<String>,
}

impl Nodes {
    /// Makes the nodes and waits until they are ready.
    pub async fn start(client: &Client) -> Result<Self> {
        let program =
            std::env::var_os(PROGRAM).with_context(|| format!("{PROGRAM} is not set; run `cargo xtask bench`"))?;
        let kwok = Command::new(program)
            .arg("--kubeconfig")
            .arg(cluster::kubeconfig()?)
            .args(["--config", STAGES, "--node-lease-duration-seconds", "40"])
            .args(["--manage-nodes-with-annotation-selector", &format!("{FAKE}=fake")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("failed to start kwok")?;
        let mut nodes = Self { kwok, names: Vec::with_capacity(NODES) };
        let api = Api::<Node>::all(client.clone());
        for number in 0..NODES {
            let name = format!("bench-{number}");
            let node = json!({
                "metadata": {"name": name, "annotations": {FAKE: "fake"}, "labels": {"kubernetes.io/hostname": name}},
                "spec": {"taints": [{"key": FAKE, "value": "fake", "effect": "NoSchedule"}]},
            });
            api.create(&PostParams::default(), &serde_json::from_value(node)?).await?;
            nodes.names.push(name);
        }
        for name in &nodes.names {
            eventually(&format!("node {name}"), PATIENCE, || async {
                let status = api.get(name).await?.status.unwrap_or_default();
                let ready = status
                    .conditions
                    .unwrap_or_default()
                    .iter()
                    .any(|said| said.type_ == "Ready" && said.status == "True");
                ensure!(ready, "it is not ready");
                Ok::<_, anyhow::Error>(())
            })
            .await?;
        }
        Ok(nodes)
    }

    /// The node of the pod with this number.
    pub fn of(&self, number: usize) -> &str {
        &self.names[number % self.names.len()]
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        let names = std::mem::take(&mut self.names);
        cluster::clean_up("the nodes of the benchmark", async move |client| {
            let api = Api::<Node>::all(client);
            for name in names {
                api.delete(&name, &DeleteParams::default()).await?;
            }
            Ok(())
        });
        let _ = self.kwok.kill();
        let _ = self.kwok.wait();
    }
}
