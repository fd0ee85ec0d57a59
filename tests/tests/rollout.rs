//! Nodes of a managed Qdrant are restarted one at a time, and only while every replica is whole. API server, StatefulSet controller and
//! disruption budget are real; the nodes' REST interface is scripted ([`context_manager_tests::nodes`]).

use anyhow::{Context as _, Result, ensure};
use context_manager_crds::ContextManager;
use context_manager_tests::{
    cluster::{self, Namespace, eventually},
    nodes::{Nodes, peer},
    operator::{Operator, PATIENCE, RESYNC, condition, wait_within},
};
use k8s_openapi::api::{core::v1::Pod, events::v1::Event};
use kube::{
    ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

const NODES: u8 = 3;

/// Three nodes that no machine takes, called ready, with a collection of two shards.
async fn formed(operator: &Operator, what: &str) -> Result<(Namespace, Nodes)> {
    let namespace = operator.namespace(&cluster::client().await?, what, &[]).await?;
    let managed = json!({
        "replicas": NODES, "scheduling": {"nodeSelector": {"nowhere": "true"}},
        "storage": {"storageClassName": "", "size": "1Gi"},
    });
    namespace.make_resource("memory", json!({"vectorStore": {"managed": managed}})).await?;
    eventually("the pods", PATIENCE, || async {
        let found = pods(&namespace).await?;
        ensure!(found.len() == usize::from(NODES), "{} pods", found.len());
        Ok(())
    })
    .await?;
    let mut nodes = Nodes::of(&namespace, "memory").await?;
    for ordinal in 0..NODES {
        nodes.serve(ordinal).await?;
        nodes.ready(&namespace, ordinal).await?;
    }
    nodes.put(&[("contexts", 0, 0), ("contexts", 0, 1), ("contexts", 1, 1), ("contexts", 1, 2)]);
    says(&namespace, "Current").await?;
    Ok((namespace, nodes))
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

/// What the condition says once its reason is this one.
async fn says(namespace: &Namespace, reason: &str) -> Result<String> {
    let found = wait_within(2 * PATIENCE, namespace, "memory", "StoreCurrent", |said| said.reason == reason).await?;
    Ok(condition(&found, "StoreCurrent").context("a condition")?.message)
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
    let said = says(&namespace, "WaitingForReplicas").await?;
    let expected = format!("0 sees shard 1 of contexts as Partial on peer {}", peer(2));
    ensure!(said.starts_with("0 of 3 nodes") && said.ends_with(&expected), "{said}");
    all_stay(&namespace, &before).await?;
    nodes.truth().replicas[3].state = "Active".to_owned();

    let mut before = before;
    for node in (0..NODES).rev() {
        replaced(&namespace, node, &before, IMAGE).await?;
        before = identities(&namespace).await?;
        // It is not ready yet, so the others stay.
        let said = says(&namespace, "NodeNotReady").await?;
        ensure!(said.contains(&format!("memory-context-qdrant-{node} is not ready")), "{said}");
        if node == NODES - 1 {
            all_stay(&namespace, &before).await?;
            // It is ready, and a shard is on its way to it.
            let transfer = json!({"shard_id": 1, "from": peer(1), "to": peer(2), "sync": true});
            nodes.truth().transfers = vec![transfer];
            nodes.ready(&namespace, node).await?;
            let said = says(&namespace, "WaitingForReplicas").await?;
            ensure!(said.contains("sees shards of contexts on their way"), "{said}");
            all_stay(&namespace, &before).await?;
            nodes.truth().transfers.clear();
        } else {
            nodes.ready(&namespace, node).await?;
        }
    }
    says(&namespace, "Current").await?;
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
    let said = says(&namespace, "NodeNotReady").await?;
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
