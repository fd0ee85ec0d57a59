//! The controller as a program that is killed after each restart of a node: the next one goes on where it stopped. API server,
//! evictions and the controller of `StatefulSet`s are real; the nodes' REST interface is scripted ([`context_manager_tests::nodes`]).

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};
use context_manager_crds::ContextManager;
use context_manager_tests::{
    cluster::{self, Namespace, eventually},
    nodes::Nodes,
    operator::{condition, make_home},
    program::Operator,
};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

/// A killed controller keeps its lease for six seconds.
const PATIENCE: Duration = Duration::from_mins(1);
const NODES: u8 = 3;
const IMAGE: &str = "localhost/qdrant:next";

fn start(number: u8, folder: &Path) -> Result<Operator> {
    Operator::mortal(&format!("rollout-{number}"), &[], folder)
}

/// The nodes that have the new image.
async fn new(namespace: &Namespace) -> Result<Vec<String>> {
    let pods = namespace.api::<Pod>().list(&ListParams::default()).await?;
    let is_new = |pod: &&Pod| {
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        containers.into_iter().any(|container| container.image.as_deref() == Some(IMAGE))
    };
    let mut new: Vec<_> = pods.items.iter().filter(is_new).map(ResourceExt::name_any).collect();
    new.sort_unstable();
    Ok(new)
}

async fn is_current(namespace: &Namespace) -> Result<()> {
    eventually("StoreCurrent", PATIENCE, || async {
        let found = namespace.api::<ContextManager>().get("memory").await?;
        let said = condition(&found, "StoreCurrent");
        ensure!(said.as_ref().is_some_and(|said| said.status == "True"), "{said:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_that_is_killed_between_nodes_leaves_restarts_that_go_on_one_by_one() -> Result<()> {
    let client = cluster::client().await?;
    cluster::install_definition(&client).await?;
    make_home(&client).await?;
    let folder = tempfile::tempdir()?;
    let namespace = Namespace::create(&client, "rollout-crash", &[]).await?;
    let mut controller = start(0, folder.path())?;
    let nodes = Nodes::start(&namespace, "memory", NODES).await?;
    nodes.put(&[("contexts", 0, 0), ("contexts", 0, 1), ("contexts", 1, 1), ("contexts", 1, 2)]);
    is_current(&namespace).await?;
    let patch = Patch::Merge(json!({"spec": {"vectorStore": {"managed": {"image": IMAGE}}}}));
    namespace.api::<ContextManager>().patch("memory", &PatchParams::default(), &patch).await?;
    for done in 1..=NODES {
        let expected: Vec<_> = (NODES - done..NODES).map(|node| format!("memory-context-qdrant-{node}")).collect();
        eventually("the next node", PATIENCE, || async {
            let found = new(&namespace).await?;
            ensure!(found == expected, "{found:?} have the new image");
            Ok(())
        })
        .await?;
        // Whatever the old one would have done next is left to a new one, which finds a node that is not ready.
        drop(controller);
        controller = start(done, folder.path())?;
        eventually("the lease", PATIENCE, || controller.page("/readyz")).await?;
        tokio::time::sleep(Duration::from_secs(10)).await;
        ensure!(new(&namespace).await? == expected, "another node was restarted meanwhile");
        nodes.ready(&namespace, NODES - done).await?;
    }
    is_current(&namespace).await
}
