//! A controller that is killed while a node takes a snapshot: the file that the node goes on with is nobody's, and the next snapshot deletes
//! it, but nothing else. The controller is a process; the nodes' REST interface is scripted ([`context_manager_tests::nodes`]).

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use context_manager_crds::{
    ContextManager,
    context_manager::{qdrant::Qdrant, status::Snapshots},
};
use context_manager_protocol::names;
use context_manager_tests::{
    cluster::{self, Namespace, eventually},
    nodes::Nodes,
    operator::make_home,
    program::Operator,
};
use kube::api::{Patch, PatchParams};
use serde_json::json;

/// A killed controller keeps its lease for six seconds.
const PATIENCE: Duration = Duration::from_mins(1);
/// The collection that lists the others' snapshots.
const CATALOGUE: &str = "context-manager-snapshots";

/// What is said of snapshots once there is another newest one than `before`.
async fn another(namespace: &Namespace, before: &[String], controller: &Operator) -> Result<Snapshots> {
    let seen = eventually("a snapshot", PATIENCE, || async {
        let status = namespace.api::<ContextManager>().get("memory").await?.status.context("a status")?;
        let said = status.conditions.into_iter().find(|said| said.type_ == "StoreSnapshotted");
        let seen = status.snapshots.with_context(|| format!("{said:?}"))?;
        ensure!(seen.last.is_some() && seen.kept != before, "{seen:?}: {said:?}");
        Ok(seen)
    });
    seen.await.with_context(|| controller.logged())
}

fn start(name: &str, folder: &Path) -> Result<Operator> {
    Operator::mortal(name, &[], folder)
}

async fn ask(namespace: &Namespace, value: &str) -> Result<()> {
    let patch = Patch::Merge(json!({"metadata": {"annotations": {names::SNAPSHOT: value}}}));
    namespace.api::<ContextManager>().patch("memory", &PatchParams::default(), &patch).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_a_killed_controller_did_not_write_down_is_deleted_by_the_next_snapshot() -> Result<()> {
    let client = cluster::client().await?;
    cluster::install_definition(&client).await?;
    make_home(&client).await?;
    let folder = tempfile::tempdir()?;
    let namespace = Namespace::create(&client, "snapshots-crash", &[]).await?;
    let controller = start("snapshots-1", folder.path())?;
    let snapshots = json!({"keep": 1, "storage": {"volume": {"size": "1Gi", "storageClassName": ""}}});
    let nodes = Nodes::start_with(&namespace, "memory", 1, json!({"snapshots": snapshots})).await?;
    let collection = Qdrant::default().collection(&namespace.name, "memory");
    nodes.put(&[(collection.as_str(), 0, 0), (collection.as_str(), 1, 0)]);
    let files = |shard| nodes.truth().snapshots.files.get(&(collection.clone(), shard)).cloned().unwrap_or_default();

    // The node has written its file and says nothing, which is when the controller is killed.
    nodes.truth().snapshots.silent = true;
    ask(&namespace, "1").await?;
    let lost = eventually("a file", PATIENCE, || async { files(0).first().cloned().context("none yet") }).await?;
    drop(controller);
    nodes.truth().snapshots.silent = false;
    let records = nodes.truth().snapshots.points[CATALOGUE].clone();
    ensure!(records.values().all(|record| record["files"] == json!([])), "it was written down: {records:?}");
    // What is like it and was not made for it: of another day, and of somebody with a name of their own.
    let others = [format!("{collection}-shard-0-2026-01-01-00-00-00.snapshot"), "by-hand.snapshot".to_owned()];
    nodes.truth().snapshots.files.entry((collection.clone(), 0)).or_default().extend(others.clone());

    let next = start("snapshots-2", folder.path())?;
    let taken = another(&namespace, &[], &next).await?;
    ensure!(taken.kept.len() == 1, "{taken:?}");
    let left = files(0);
    ensure!(!left.contains(&lost), "it is still there: {left:?}");
    ensure!(left.len() == 3 && others.iter().all(|other| left.contains(other)), "{left:?}");
    ensure!(files(1).len() == 1, "{:?}", files(1));

    // A node that went on until now is found out as well: its file is called by the time at which it was begun.
    nodes.truth().snapshots.files.entry((collection.clone(), 0)).or_default().push(lost.clone());
    // Snapshots are told from each other by the second.
    tokio::time::sleep(Duration::from_secs(1)).await;
    ask(&namespace, "2").await?;
    another(&namespace, &taken.kept, &next).await?;
    let left = files(0);
    ensure!(left.len() == 3 && !left.contains(&lost), "{left:?}");
    Ok(())
}
