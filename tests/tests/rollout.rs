//! Nodes of a managed Qdrant are restarted one at a time, and only while every replica is whole; they come and go with their
//! replicas. API server, evictions, disruption budget and the controller of `StatefulSet`s are real; the nodes' REST interface is scripted ([`context_manager_tests::nodes`]).

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use context_manager_crds::ContextManager;
use context_manager_tests::{
    cluster::{self, Namespace, eventually},
    nodes::{Nodes, peer},
    operator::{Operator, PATIENCE, RESYNC, condition, wait_within},
    policy::{MIRROR, Policy},
};
use k8s_openapi::{
    api::{
        core::v1::{PersistentVolumeClaim, Pod},
        events::v1::Event,
    },
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

const NODES: u8 = 3;

/// Three nodes with a collection of two shards.
async fn formed(operator: &Operator, what: &str) -> Result<(Namespace, Nodes)> {
    let (namespace, nodes) = started(operator, what, NODES).await?;
    nodes.put(&[("contexts", 0, 0), ("contexts", 0, 1), ("contexts", 1, 1), ("contexts", 1, 2)]);
    says(&namespace, "StoreCurrent", "Current").await?;
    Ok((namespace, nodes))
}

/// Nodes that no machine takes, called ready.
async fn started(operator: &Operator, what: &str, count: u8) -> Result<(Namespace, Nodes)> {
    let namespace = operator.namespace(&cluster::client().await?, what, &[]).await?;
    let nodes = Nodes::start(&namespace, "memory", count).await?;
    Ok((namespace, nodes))
}

async fn pods_are(namespace: &Namespace, count: u8) -> Result<()> {
    eventually("the pods", 2 * PATIENCE, || async {
        let found = pods(namespace).await?;
        ensure!(found.len() == usize::from(count), "{} pods", found.len());
        Ok(())
    })
    .await
}

async fn pods(namespace: &Namespace) -> Result<Vec<Pod>> {
    let mut found = namespace.api::<Pod>().list(&ListParams::default()).await?.items;
    found.sort_by_key(ResourceExt::name_any);
    Ok(found)
}

/// The pods' uids, in order of the nodes.
async fn identities(namespace: &Namespace) -> Result<Vec<Option<String>>> {
    Ok(pods(namespace).await?.iter().map(ResourceExt::uid).collect())
}

/// What a condition says once its reason is this one.
async fn says(namespace: &Namespace, kind: &str, reason: &str) -> Result<String> {
    let found = wait_within(3 * PATIENCE, namespace, "memory", kind, |said| said.reason == reason).await?;
    Ok(condition(&found, kind).context("a condition")?.message)
}

async fn change(namespace: &Namespace, managed: Value) -> Result<()> {
    let patch = Patch::Merge(json!({"spec": {"vectorStore": {"managed": managed}}}));
    namespace.api::<ContextManager>().patch("memory", &PatchParams::default(), &patch).await?;
    Ok(())
}

/// Waits until this node, and no other one, has another pod than `before`, with this image.
async fn replaced(namespace: &Namespace, node: u8, before: &[Option<String>], image: &str) -> Result<()> {
    eventually(&format!("another pod of node {node}"), 2 * PATIENCE, || async {
        let found = pods(namespace).await?;
        ensure!(found.len() == before.len(), "{} pods", found.len());
        for (index, (pod, before)) in found.iter().zip(before).enumerate() {
            let is_it = index == usize::from(node);
            ensure!((pod.uid() != *before) == is_it, "node {index} has another pod: {}", !is_it);
        }
        let now = &found[usize::from(node)];
        let containers = &now.spec.as_ref().context("a spec")?.containers;
        ensure!(containers[0].image.as_deref() == Some(image), "{containers:?}");
        Ok(())
    })
    .await
}

/// No pod is another one after some looks of the controller.
async fn all_stay(namespace: &Namespace, before: &[Option<String>]) -> Result<()> {
    tokio::time::sleep(6 * RESYNC).await;
    let now = identities(namespace).await?;
    ensure!(now == before, "{before:?} became {now:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_node_is_restarted_when_all_are_ready_and_every_replica_is_whole() -> Result<()> {
    const IMAGE: &str = "localhost/qdrant:next";
    let operator = Operator::shared().await?;
    let (namespace, nodes) = formed(&operator, "rollout").await?;
    let before = identities(&namespace).await?;
    nodes.truth().replicas[3].state = "Partial".to_owned();
    change(&namespace, json!({"image": IMAGE})).await?;
    let said = says(&namespace, "StoreCurrent", "WaitingForReplicas").await?;
    let expected = format!("0 sees shard 1 of contexts as Partial on peer {}", peer(2));
    ensure!(said.starts_with("0 of 3 nodes") && said.ends_with(&expected), "{said}");
    all_stay(&namespace, &before).await?;
    nodes.truth().replicas[3].state = "Active".to_owned();

    let mut before = before;
    for node in (0..NODES).rev() {
        replaced(&namespace, node, &before, IMAGE).await?;
        before = identities(&namespace).await?;
        // It is not ready yet, so the others stay. At first the condition may still speak of the node before.
        let waits_for = format!("memory-context-qdrant-{node} is not ready");
        let waits = |said: &Condition| said.reason == "NodeNotReady" && said.message.contains(&waits_for);
        wait_within(3 * PATIENCE, &namespace, "memory", "StoreCurrent", waits).await?;
        if node == NODES - 1 {
            all_stay(&namespace, &before).await?;
            // It is ready, and a shard is on its way to it.
            let transfer = json!({"shard_id": 1, "from": peer(1), "to": peer(2), "sync": true});
            nodes.truth().transfers = vec![transfer];
            nodes.ready(&namespace, node).await?;
            let said = says(&namespace, "StoreCurrent", "WaitingForReplicas").await?;
            ensure!(said.contains("sees shards of contexts on their way"), "{said}");
            all_stay(&namespace, &before).await?;
            nodes.truth().transfers.clear();
        } else {
            nodes.ready(&namespace, node).await?;
        }
    }
    says(&namespace, "StoreCurrent", "Current").await?;
    let events = namespace.api::<Event>().list(&ListParams::default()).await?;
    ensure!(events.iter().any(|event| event.reason.as_deref() == Some("NodeRestarted")), "nobody is told");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_come_back_stops_all_until_the_resource_is_put_right() -> Result<()> {
    let operator = Operator::shared().await?;
    let (namespace, nodes) = formed(&operator, "rollout-stops").await?;
    let before = identities(&namespace).await?;
    change(&namespace, json!({"image": "localhost/qdrant:wrong"})).await?;
    replaced(&namespace, 2, &before, "localhost/qdrant:wrong").await?;
    let stopped = identities(&namespace).await?;
    let said = says(&namespace, "StoreCurrent", "NodeNotReady").await?;
    ensure!(
        said.starts_with("1 of 3 nodes") && said.contains("kubectl describe pod memory-context-qdrant-2"),
        "{said}"
    );
    all_stay(&namespace, &stopped).await?;

    // The one that never ran is replaced at once, and the others wait for it.
    change(&namespace, json!({"image": "localhost/qdrant:right"})).await?;
    replaced(&namespace, 2, &stopped, "localhost/qdrant:right").await?;
    let put_right = identities(&namespace).await?;
    all_stay(&namespace, &put_right).await?;
    nodes.ready(&namespace, 2).await?;
    replaced(&namespace, 1, &put_right, "localhost/qdrant:right").await
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_restarted_as_a_policy_of_the_cluster_wants_them() -> Result<()> {
    let operator = Operator::shared().await?;
    let (namespace, _nodes) = formed(&operator, "rollout-mirror").await?;
    let before = identities(&namespace).await?;
    let _policy = Policy::mirror(&namespace).await?;
    // From now on the set is never what the resource asks for.
    change(&namespace, json!({"image": "localhost/qdrant:next"})).await?;
    replaced(&namespace, NODES - 1, &before, &format!("{MIRROR}localhost/qdrant:next")).await
}

/// On how many peers each shard is, and how many replicas each peer has.
fn spread(nodes: &Nodes) -> (BTreeMap<u64, usize>, BTreeMap<u64, usize>) {
    let (mut shards, mut peers) = (BTreeMap::new(), BTreeMap::new());
    for replica in &nodes.truth().replicas {
        *shards.entry(replica.shard).or_default() += 1;
        *peers.entry(replica.peer).or_default() += 1;
    }
    (shards, peers)
}

#[tokio::test(flavor = "multi_thread")]
async fn new_nodes_get_their_share_and_one_that_goes_gives_its_replicas_away_first() -> Result<()> {
    let operator = Operator::shared().await?;
    let (namespace, mut nodes) = started(&operator, "scale", 1).await?;
    nodes.truth().factor = 1;
    nodes.put(&[("contexts", 0, 0), ("contexts", 1, 0), ("contexts", 2, 0)]);
    says(&namespace, "StoreCurrent", "Current").await?;
    change(&namespace, json!({"replicas": 3})).await?;
    pods_are(&namespace, 3).await?;
    for ordinal in 1..3 {
        nodes.serve(ordinal).await?;
        nodes.ready(&namespace, ordinal).await?;
    }
    let shared = json!({"params": {"replication_factor": 2}});
    says(&namespace, "StoreBalanced", "Moving").await?;
    says(&namespace, "StoreBalanced", "Balanced").await?;
    let (shards, peers) = spread(&nodes);
    ensure!(shards.values().all(|replicas| *replicas == 2) && shards.len() == 3, "{shards:?}");
    ensure!(peers.len() == 3 && peers.values().all(|replicas| *replicas == 2), "{peers:?}");
    let changes = std::mem::take(&mut nodes.truth().changes);
    ensure!(changes[0] == ("PATCH /collections/contexts".to_owned(), shared), "{changes:?}");
    ensure!(changes.len() == 5, "each once, one after the other: {changes:?}");

    // The last one is asked to go: it loses its replicas, then its place in the cluster, then its pod.
    let stay = identities(&namespace).await?;
    change(&namespace, json!({"replicas": 2})).await?;
    pods_are(&namespace, 2).await?;
    ensure!(identities(&namespace).await? == stay[..2], "another one went");
    says(&namespace, "StoreBalanced", "Balanced").await?;
    let (shards, peers) = spread(&nodes);
    ensure!(shards.values().all(|replicas| *replicas == 2) && !peers.contains_key(&peer(2)), "{shards:?} {peers:?}");
    let changes = std::mem::take(&mut nodes.truth().changes);
    let last = changes.last().map(|change| change.0.clone());
    ensure!(last == Some(format!("DELETE /cluster/peer/{}", peer(2))) && changes.len() == 3, "{changes:?}");
    ensure!(!nodes.truth().peers.contains_key(&peer(2)), "the cluster knows it");

    // Its claim is there, and would be the next one's.
    change(&namespace, json!({"replicas": 3})).await?;
    let said = says(&namespace, "StoreBalanced", "ClaimLeft").await?;
    ensure!(said.contains("kubectl delete pvc data-memory-context-qdrant-2"), "{said}");
    namespace.api::<PersistentVolumeClaim>().delete("data-memory-context-qdrant-2", &DeleteParams::default()).await?;
    pods_are(&namespace, 3).await
}
