//! A managed Qdrant of real nodes on a real kubelet: they form a cluster over TLS, are restarted one at a time without losing anything,
//! share their replicas with a node that comes and take over those of one that goes.
//!
//! It needs the image that `cargo xtask images --load` and `cargo xtask test` make of the program that
//! `CONTEXT_MANAGER_TEST_QDRANT_PROGRAM` names. Without it this fails, and `cargo xtask test` leaves it out; the decisions are then proved by the
//! suite `rollout` alone.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use context_manager_crds::ContextManager;
use context_manager_tests::{
    cluster::{self, Namespace, eventually},
    nodes::real,
    operator::{Operator, wait_within},
    volumes::Volumes,
    webhook::image,
};
use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::Pod};
use kube::{
    ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use reqwest::Method;
use serde_json::{Value, json};

const NAME: &str = "memory-context-qdrant";
/// How long nodes may take for a whole step.
const STEP: Duration = Duration::from_mins(5);
const POINTS: u64 = 200;

/// Asks a node.
async fn ask(namespace: &Namespace, node: u8, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
    real::ask(namespace, ("memory", node), method, path, body).await
}

/// Each replica: shard and peer, in the eyes of a node. All are whole.
async fn replicas(namespace: &Namespace, node: u8) -> Result<Vec<(u64, u64)>> {
    let found = ask(namespace, node, Method::GET, "/collections/things/cluster", None).await?;
    let own = found["peer_id"].as_u64().context("a peer")?;
    let shards = |list: &str| found[list].as_array().cloned().unwrap_or_default();
    let mut replicas = Vec::new();
    for shard in shards("local_shards").into_iter().chain(shards("remote_shards")) {
        ensure!(shard["state"] == "Active", "{found}");
        replicas.push((shard["shard_id"].as_u64().context("a shard")?, shard["peer_id"].as_u64().unwrap_or(own)));
    }
    Ok(replicas)
}

/// All points are there, in the eyes of each node.
async fn all_there(namespace: &Namespace, nodes: u8) -> Result<()> {
    for node in 0..nodes {
        let exact = Some(json!({"exact": true}));
        let found = ask(namespace, node, Method::POST, "/collections/things/points/count", exact).await?;
        ensure!(found["count"] == POINTS, "node {node} finds {found}");
    }
    Ok(())
}

async fn fill(namespace: &Namespace) -> Result<()> {
    let made = json!({"vectors": {"size": 4, "distance": "Cosine"}, "shard_number": 4, "replication_factor": 2});
    ask(namespace, 0, Method::PUT, "/collections/things", Some(made)).await?;
    let points: Vec<_> = (0..POINTS).map(|id| json!({"id": id, "vector": [1, id, 2, 3]})).collect();
    let path = "/collections/things/points?wait=true";
    ask(namespace, 0, Method::PUT, path, Some(json!({"points": points}))).await.map(drop)
}

async fn change(namespace: &Namespace, managed: Value) -> Result<()> {
    let patch = Patch::Merge(json!({"spec": {"vectorStore": {"managed": managed}}}));
    namespace.api::<ContextManager>().patch("memory", &PatchParams::default(), &patch).await?;
    Ok(())
}

async fn says(namespace: &Namespace, kind: &str, reason: &str) -> Result<()> {
    wait_within(STEP, namespace, "memory", kind, |said| said.reason == reason).await.map(drop)
}

async fn pods(namespace: &Namespace) -> Result<Vec<Pod>> {
    Ok(namespace.api::<Pod>().list(&ListParams::default()).await?.items)
}

#[tokio::test(flavor = "multi_thread")]
async fn real_nodes_are_restarted_and_come_and_go_without_losing_anything() -> Result<()> {
    real::required()?;
    let operator = Operator::shared().await?;
    let enforce = [("pod-security.kubernetes.io/enforce", "restricted")];
    let namespace = operator.namespace(&cluster::client().await?, "nodes", &enforce).await?;
    let volumes = Volumes::make(&namespace.name, &["ReadWriteOnce"; 3]).await?;
    let managed = json!({
        "replicas": 2, "image": image("context-manager-test-managed-qdrant"),
        "storage": {"storageClassName": volumes.class(), "size": "1Gi"},
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
    });
    namespace.make_resource("memory", json!({"vectorStore": {"managed": managed}})).await?;
    says(&namespace, "StoreBalanced", "Balanced").await?;
    fill(&namespace).await?;
    all_there(&namespace, 2).await?;

    // Restarted one at a time.
    let before: Vec<_> = pods(&namespace).await?.iter().map(ResourceExt::uid).collect();
    change(&namespace, json!({"resources": {"requests": {"cpu": "60m"}}})).await?;
    eventually("restarts of both nodes", STEP, || async {
        let now = pods(&namespace).await?;
        ensure!(now.len() == 2 && now.iter().all(|pod| !before.contains(&pod.uid())), "they are the old ones");
        Ok(())
    })
    .await?;
    says(&namespace, "StoreCurrent", "Current").await?;
    all_there(&namespace, 2).await?;

    // A node more: it gets its share, and each shard keeps two replicas.
    change(&namespace, json!({"replicas": 3})).await?;
    eventually("the third node's share", STEP, || async {
        let found = replicas(&namespace, 2).await?;
        let mut per_peer = std::collections::BTreeMap::<u64, usize>::new();
        for (_, peer) in &found {
            *per_peer.entry(*peer).or_default() += 1;
        }
        ensure!(found.len() == 8 && per_peer.len() == 3 && per_peer.values().all(|count| *count >= 2), "{found:?}");
        Ok(())
    })
    .await?;
    says(&namespace, "StoreBalanced", "Balanced").await?;
    all_there(&namespace, 3).await?;

    // A node less: it gives its replicas away first.
    change(&namespace, json!({"replicas": 2})).await?;
    eventually("the end of the third node", STEP, || async {
        let set = namespace.api::<StatefulSet>().get(NAME).await?;
        ensure!(set.spec.replicas == Some(2), "it has {:?} pods", set.spec.replicas);
        ensure!(pods(&namespace).await?.len() == 2, "its pod is there");
        Ok(())
    })
    .await?;
    says(&namespace, "StoreBalanced", "Balanced").await?;
    let found = replicas(&namespace, 0).await?;
    ensure!(found.len() == 8, "{found:?}");
    let cluster = ask(&namespace, 0, Method::GET, "/cluster", None).await?;
    ensure!(cluster["peers"].as_object().is_some_and(|peers| peers.len() == 2), "{cluster}");
    all_there(&namespace, 2).await?;

    // What is on its volume belongs to no node any more.
    change(&namespace, json!({"replicas": 3})).await?;
    says(&namespace, "StoreBalanced", "ClaimLeft").await
}
