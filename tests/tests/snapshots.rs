//! Snapshots of a managed Qdrant: taken when they are due or asked for, of each shard by a node that has it, listed in a catalogue
//! beside them, and pruned by it. API server, claims and events are real; the nodes' REST interface is scripted
//! ([`context_manager_tests::nodes`]), so what is in the files is not shown here: that takes real nodes (the suite `snapshots_restored`).

use anyhow::{Context as _, Result, ensure};
use context_manager_crds::{
    ContextManager,
    context_manager::{qdrant::Qdrant, status::Snapshots},
};
use context_manager_protocol::names;
use context_manager_tests::{
    cluster::{self, Namespace, eventually},
    nodes::{Nodes, peer, snapshots::BYTES},
    operator::{Operator, PATIENCE, RESYNC, condition, wait_within},
};
use k8s_openapi::{
    ByteString,
    api::{
        apps::v1::StatefulSet,
        core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret},
        events::v1::Event,
    },
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

const CLAIM: &str = "memory-context-qdrant-snapshots";
/// The collection that lists the others' snapshots.
const CATALOGUE: &str = "context-manager-snapshots";

async fn says(namespace: &Namespace, reason: &str) -> Result<ContextManager> {
    wait_within(3 * PATIENCE, namespace, "memory", "StoreSnapshotted", |said| said.reason == reason).await
}

/// Waits until replicas are said to be so.
async fn balance(namespace: &Namespace, reason: &str) -> Result<()> {
    wait_within(3 * PATIENCE, namespace, "memory", "StoreBalanced", |said| said.reason == reason).await.map(drop)
}

async fn ask(namespace: &Namespace, value: &str) -> Result<()> {
    let patch = Patch::Merge(json!({"metadata": {"annotations": {names::SNAPSHOT: value}}}));
    namespace.api::<ContextManager>().patch("memory", &PatchParams::default(), &patch).await?;
    Ok(())
}

async fn status(namespace: &Namespace) -> Result<Snapshots> {
    let found = namespace.api::<ContextManager>().get("memory").await?;
    found.status.and_then(|status| status.snapshots).context("nothing is said of snapshots")
}

async fn events(namespace: &Namespace, reason: &str) -> Result<usize> {
    let events = namespace.api::<Event>().list(&ListParams::default()).await?;
    Ok(events.iter().filter(|event| event.reason.as_deref() == Some(reason)).count())
}

/// The collection of the resource.
fn collection(namespace: &Namespace) -> String {
    Qdrant::default().collection(&namespace.name, "memory")
}

fn files(nodes: &Nodes, collection: &str, shard: u64) -> Vec<String> {
    nodes.truth().snapshots.files.get(&(collection.to_owned(), shard)).cloned().unwrap_or_default()
}

/// Two nodes with a shard each, and one that is on both.
async fn started(operator: &Operator, what: &str, snapshots: Value) -> Result<(Namespace, Nodes)> {
    let namespace = operator.namespace(&cluster::client().await?, what, &[]).await?;
    let nodes = Nodes::start_with(&namespace, "memory", 2, json!({"snapshots": snapshots})).await?;
    let name = collection(&namespace);
    let name = name.as_str();
    nodes.put(&[(name, 0, 0), (name, 1, 1), (name, 2, 0), (name, 2, 1)]);
    Ok((namespace, nodes))
}

/// Waits for another newest snapshot than this one.
async fn another(namespace: &Namespace, than: Option<&str>) -> Result<Snapshots> {
    let mut found = Snapshots::default();
    eventually("another snapshot", 3 * PATIENCE, || async {
        let seen = status(namespace).await?;
        let last = seen.last.as_ref().map(|last| last.name.as_str());
        ensure!(last.is_some() && last != than, "{seen:?}");
        Ok(())
    })
    .await?;
    found.clone_from(&status(namespace).await?);
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_shard_is_taken_where_it_is_and_only_what_is_listed_is_deleted() -> Result<()> {
    let operator = Operator::shared().await?;
    let wanted = json!({"every": "24h", "keep": 1, "storage": {"volume": {"size": "1Gi", "storageClassName": ""}}});
    let (namespace, nodes) = started(&operator, "snapshots", wanted).await?;
    let resource = says(&namespace, "Taken").await?;
    let said = condition(&resource, "StoreSnapshotted").context("a condition")?.message;
    ensure!(said.contains("3 files of 3000 bytes"), "{said}");
    let first = another(&namespace, None).await?;
    let last = first.last.clone().context("a snapshot")?;
    ensure!(last.bytes == 3 * i64::try_from(BYTES)? && first.kept == [last.name.clone()], "{first:?}");
    let rest = first.next.context("the next one")?.0.duration_since(last.taken_at.0);
    ensure!(rest.as_hours() == 24 && first.last_failure.is_none(), "{rest:?}");
    ensure!(events(&namespace, "SnapshotTaken").await? == 1);
    let taken: Vec<_> = (0..3).map(|shard| files(&nodes, &collection(&namespace), shard)).collect();
    ensure!(taken.iter().all(|files| files.len() == 1), "{taken:?}");
    ensure!(files(&nodes, CATALOGUE, 0).len() == 1, "the catalogue itself is not beside them");
    let records = nodes.truth().snapshots.points[CATALOGUE].clone();
    let record = records.values().next().context("a record")?;
    ensure!(records.len() == 1 && record["definition"]["config"].is_object(), "{record}");

    // Not before its time, and nothing is written meanwhile.
    let before = namespace.api::<ContextManager>().get("memory").await?.resource_version();
    tokio::time::sleep(4 * RESYNC).await;
    ensure!(files(&nodes, &collection(&namespace), 0).len() == 1);
    ensure!(namespace.api::<ContextManager>().get("memory").await?.resource_version() == before, "it was written");

    // What a person took by hand is no one's but theirs.
    let by_hand = "by-hand.snapshot";
    nodes.truth().snapshots.files.get_mut(&(collection(&namespace), 0)).context("a shard")?.push(by_hand.to_owned());
    ask(&namespace, "now").await?;
    let second = another(&namespace, Some(&last.name)).await?;
    ensure!(second.kept.len() == 1 && second.kept != first.kept, "{second:?}");
    let left = files(&nodes, &collection(&namespace), 0);
    ensure!(left.len() == 2 && left.contains(&by_hand.to_owned()) && !left.contains(&taken[0][0]), "{left:?}");
    ensure!(files(&nodes, &collection(&namespace), 1).len() == 1);
    // The same value again asks for nothing.
    ask(&namespace, "now").await?;
    tokio::time::sleep(4 * RESYNC).await;
    ensure!(status(&namespace).await?.last == second.last, "the same value asked again");

    // The claim is nobody's, so that it outlives the resource.
    let claims = namespace.api::<PersistentVolumeClaim>();
    let claim = claims.get(CLAIM).await?;
    ensure!(claim.owner_references().is_empty(), "{:?}", claim.metadata);
    let modes = claim.spec.and_then(|spec| spec.access_modes).unwrap_or_default();
    ensure!(modes == ["ReadWriteMany"], "{modes:?}");
    delete(&namespace).await?;
    ensure!(claims.get(CLAIM).await?.metadata.deletion_timestamp.is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_said_and_what_it_left_is_deleted_by_the_next_one() -> Result<()> {
    let operator = Operator::shared().await?;
    let wanted = json!({"storage": {"volume": {"size": "1Gi", "storageClassName": ""}}});
    let (namespace, nodes) = started(&operator, "snapshots-fail", wanted).await?;
    says(&namespace, "NotAskedFor").await?;
    ensure!(files(&nodes, &collection(&namespace), 0).is_empty(), "nobody asked for one");

    // Shard 1 is nowhere whole: the file of shard 0 is there already.
    balance(&namespace, "Balanced").await?;
    let mark = |state: &str| {
        for replica in nodes.truth().replicas.iter_mut().filter(|replica| replica.shard == 1) {
            state.clone_into(&mut replica.state);
        }
    };
    mark("Dead");
    ask(&namespace, "1").await?;
    let failed = says(&namespace, "SnapshotFailed").await?;
    let said = condition(&failed, "StoreSnapshotted").context("a condition")?.message;
    let expected = format!("no node that is ready has a whole replica of shard 1 of {}", collection(&namespace));
    ensure!(said.contains(&expected), "{said}");
    let failure = status(&namespace).await?.last_failure.context("a failure")?;
    ensure!(said.starts_with(&failure.message), "{failure:?}");
    ensure!(events(&namespace, "SnapshotFailed").await? == 1);
    let ready = condition(&failed, "StoreSnapshotted").context("a condition")?.status;
    ensure!(ready == "False");
    let left = files(&nodes, &collection(&namespace), 0);
    ensure!(left.len() == 1, "{left:?}");

    mark("Active");
    nodes.truth().snapshots.refusal = Some("Service internal error: No space left on device".to_owned());
    ask(&namespace, "2").await?;
    eventually("the disk's words", 2 * PATIENCE, || async {
        let failure = status(&namespace).await?.last_failure.context("a failure")?;
        ensure!(failure.message.contains("No space left on device"), "{failure:?}");
        Ok(())
    })
    .await?;

    nodes.truth().snapshots.refusal = None;
    ask(&namespace, "3").await?;
    let taken = another(&namespace, None).await?;
    ensure!(taken.last_failure.is_none() && taken.kept.len() == 1, "{taken:?}");
    let now = files(&nodes, &collection(&namespace), 0);
    ensure!(now.len() == 1 && now != left, "{left:?} became {now:?}");
    says(&namespace, "Taken").await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_not_all_nodes_can_mount_is_refused_before_a_pod_is_made() -> Result<()> {
    let operator = Operator::shared().await?;
    let namespace = operator.namespace(&cluster::client().await?, "snapshots-claim", &[]).await?;
    let managed = json!({
        "replicas": 2, "scheduling": {"nodeSelector": {"nowhere": "true"}},
        "storage": {"storageClassName": "", "size": "1Gi"}, "snapshots": {"storage": {"volume": {"claimName": "mine"}}},
    });
    namespace.make_resource("memory", json!({"vectorStore": {"managed": managed}})).await?;
    let refused = async |reason: &str| {
        let right = |said: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| said.reason == reason;
        let found = wait_within(PATIENCE, &namespace, "memory", "StoreReady", right).await?;
        Ok::<_, anyhow::Error>(condition(&found, "StoreReady").context("a condition")?.message)
    };
    let said = refused("ClaimNotFound").await?;
    ensure!(said.contains("claimName") && said.contains("\"mine\""), "{said}");
    let claim = |mode: &str| {
        json!({"metadata": {"name": "mine"}, "spec": {
            "accessModes": [mode], "storageClassName": "", "resources": {"requests": {"storage": "1Gi"}},
        }})
    };
    namespace.make::<PersistentVolumeClaim>(&claim("ReadWriteOnce")).await?;
    let said = refused("ClaimNotShared").await?;
    ensure!(said.contains("ReadWriteMany"), "{said}");
    ensure!(namespace.api::<StatefulSet>().get_opt("memory-context-qdrant").await?.is_none(), "nodes were made");
    namespace.api::<PersistentVolumeClaim>().delete("mine", &DeleteParams::default()).await?;
    eventually("the end of the claim", PATIENCE, || async {
        ensure!(namespace.api::<PersistentVolumeClaim>().get_opt("mine").await?.is_none());
        Ok(())
    })
    .await?;
    namespace.make::<PersistentVolumeClaim>(&claim("ReadWriteMany")).await?;
    let sets = namespace.api::<StatefulSet>();
    eventually("the nodes", 2 * PATIENCE, || sets.get("memory-context-qdrant")).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_keep_access_while_the_volume_of_the_snapshots_cannot_be_used() -> Result<()> {
    let operator = Operator::shared().await?;
    let namespace = operator.namespace(&cluster::client().await?, "snapshots-refused", &[]).await?;
    let snapshots = |size: &str| json!({"storage": {"volume": {"size": size, "storageClassName": ""}}});
    let _nodes = Nodes::start_with(&namespace, "memory", 1, json!({"snapshots": snapshots("1Gi")})).await?;
    says(&namespace, "NotAskedFor").await?;
    // No machine has taken a node, so the claim is not bound, and the API server lets none grow that is not.
    for (managed, reason) in [
        (json!({"snapshots": snapshots("2Gi")}), "ClaimRefused"),
        (json!({"snapshots": snapshots("1Gi"), "replicas": 2}), "ClaimNotShared"),
    ] {
        let patch = Patch::Merge(json!({"spec": {"vectorStore": {"managed": managed}}}));
        namespace.api::<ContextManager>().patch("memory", &PatchParams::default(), &patch).await?;
        let found = says(&namespace, reason).await?;
        let said = condition(&found, "StoreSnapshotted").context("a condition")?.message;
        ensure!(said.contains("snapshots.storage.volume") && said.contains(CLAIM), "{said}");
        ensure!(condition(&found, "StoreCurrent").is_some_and(|said| said.reason == reason), "nodes are changed");
        let store = condition(&found, "StoreReady").context("a condition")?;
        ensure!(store.reason != reason, "the store is none of its business: {store:?}");
        ensure!(condition(&found, "SecretsReady").is_some_and(|said| said.status == "True"), "no key ring");

        // A token that is of no use is made anew.
        let secrets = namespace.api::<Secret>();
        let name = names::store_secret("memory");
        let patch = Patch::Merge(json!({"stringData": {names::QDRANT_API_KEY_FILE: "theirs"}}));
        secrets.patch(&name, &PatchParams::default(), &patch).await?;
        eventually("a token again", PATIENCE, || async {
            let data = secrets.get(&name).await?.data.unwrap_or_default();
            let ByteString(now) = data.get(names::QDRANT_API_KEY_FILE).context("a token")?;
            ensure!(now != b"theirs", "it is no token");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_and_replicas_on_their_way_wait_for_each_other() -> Result<()> {
    let operator = Operator::shared().await?;
    let namespace = operator.namespace(&cluster::client().await?, "snapshots-moves", &[]).await?;
    let wanted = json!({"every": "24h", "storage": {"volume": {"size": "1Gi", "storageClassName": ""}}});
    let mut nodes = Nodes::prepare(&namespace, "memory", 2, json!({"snapshots": wanted})).await?;
    let name = collection(&namespace);
    nodes.put(&[(name.as_str(), 0, 0), (name.as_str(), 0, 1)]);
    nodes.truth().transfers = vec![json!({"shard_id": 0, "from": peer(0), "to": peer(1), "sync": true})];
    // No snapshot that is begun ends.
    nodes.truth().snapshots.silent = true;
    nodes.join(&namespace, 2).await?;
    let waits = |said: &Condition| said.reason == "Waiting" && said.message.contains("on their way");
    wait_within(3 * PATIENCE, &namespace, "memory", "StoreSnapshotted", waits).await?;
    ensure!(files(&nodes, &name, 0).is_empty(), "a snapshot was begun");

    nodes.truth().transfers.clear();
    eventually("the file of a snapshot", 3 * PATIENCE, || async {
        ensure!(!files(&nodes, &name, 0).is_empty(), "none is taken");
        Ok(())
    })
    .await?;
    // Shards are to have another number of replicas now.
    nodes.truth().factor = 1;
    let waits = |said: &Condition| said.reason == "Waiting" && said.message.contains("is being taken");
    wait_within(PATIENCE, &namespace, "memory", "StoreBalanced", waits).await?;
    let truth = nodes.truth();
    ensure!(truth.changes.iter().all(|(_, asked)| asked["params"].is_null()), "{:?}", truth.changes);
    Ok(())
}

/// What sidecars prove themselves by, if they can.
async fn token(namespace: &Namespace) -> Result<bool> {
    let secret = namespace.api::<Secret>().get_opt(&names::store_secret("memory")).await?;
    Ok(secret.and_then(|secret| secret.data).is_some_and(|data| data.contains_key(names::QDRANT_API_KEY_FILE)))
}

async fn delete(namespace: &Namespace) -> Result<()> {
    namespace.api::<ContextManager>().delete("memory", &DeleteParams::default()).await?;
    eventually("the end of the nodes", 3 * PATIENCE, || async {
        ensure!(namespace.api::<StatefulSet>().get_opt("memory-context-qdrant").await?.is_none(), "the set is there");
        ensure!(namespace.api::<Pod>().list(&ListParams::default()).await?.items.is_empty(), "pods are there");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_cluster_is_made_from_the_snapshots_and_nobody_gets_access_before() -> Result<()> {
    let operator = Operator::shared().await?;
    let wanted = json!({"every": "24h", "storage": {"volume": {"size": "1Gi", "storageClassName": ""}}});
    let (namespace, nodes) = started(&operator, "restored", wanted.clone()).await?;
    let taken = another(&namespace, None).await?.last.context("a snapshot")?.name;
    let left = nodes.truth().snapshots.outlive();
    drop(nodes);
    delete(&namespace).await?;
    ensure!(!token(&namespace).await?, "the token is there");

    // The new one has as many nodes and shards as it likes: what was is made anew.
    let managed = json!({"snapshots": wanted, "restoreFrom": {"snapshot": "latest"}, "shards": 7});
    let mut nodes = Nodes::prepare(&namespace, "memory", 2, managed).await?;
    nodes.truth().snapshots = left;
    // A file is missing at first.
    let hidden = nodes.truth().snapshots.files.remove(&(collection(&namespace), 1)).context("files of shard 1")?;
    nodes.join(&namespace, 2).await?;
    let right = |reason: &'static str| {
        move |said: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| said.reason == reason
    };
    let found = wait_within(3 * PATIENCE, &namespace, "memory", "StoreReady", right("RestoreFailed")).await?;
    let said = condition(&found, "StoreReady").context("a condition")?.message;
    let expected = format!("bring shard 1 of {} back", collection(&namespace));
    ensure!(said.contains(&expected), "{said}");
    ensure!(!token(&namespace).await?, "somebody could write to what is half there");
    let mark = nodes.truth().snapshots.made[&collection(&namespace)]["metadata"]["contextmanager.dev/restore"].clone();
    ensure!(mark == json!({"snapshot": taken, "done": false}), "{mark}");
    // Nothing else is done with the shards before all of it is there.
    nodes.truth().factor = 1;
    balance(&namespace, "Waiting").await?;
    let changes = nodes.truth().changes.clone();
    ensure!(changes.iter().all(|(_, asked)| asked["params"].is_null()), "{changes:?}");
    nodes.truth().snapshots.files.insert((collection(&namespace), 1), hidden);
    eventually("access", 4 * PATIENCE, || async {
        ensure!(token(&namespace).await?, "no token yet");
        Ok(())
    })
    .await?;
    ensure!(events(&namespace, "StoreRestored").await? >= 1);
    {
        let truth = nodes.truth();
        let Value::Object(made) = &truth.snapshots.made[&collection(&namespace)] else {
            anyhow::bail!("it was not made")
        };
        ensure!(made["shard_number"] == 3 && made["replication_factor"] == 2, "{made:?}");
        let mark = &made["metadata"]["contextmanager.dev/restore"];
        ensure!(*mark == json!({"snapshot": taken, "done": true}), "{mark}");
        ensure!(truth.snapshots.indexed == ["tenant"], "{:?}", truth.snapshots.indexed);
        // Each replica of each shard from its file; those before the failure are brought back again, which changes nothing.
        for shard in 0..3 {
            let file = &truth.snapshots.files[&(collection(&namespace), shard)][0];
            let peers: std::collections::BTreeSet<_> =
                truth.snapshots.recovered.iter().filter(|(_, name)| name == file).map(|(peer, _)| peer).collect();
            ensure!(peers.len() == 2, "shard {shard}: {:?}", truth.snapshots.recovered);
        }
    }
    // Its snapshots are its own, and go on.
    eventually("the snapshots", 2 * PATIENCE, || async {
        let seen = status(&namespace).await?;
        ensure!(seen.kept.first() == Some(&taken), "{seen:?}");
        Ok(())
    })
    .await?;
    let map = namespace.api::<ConfigMap>().get("memory-context-qdrant").await?.data.unwrap_or_default();
    ensure!(map.get("restored") == Some(&taken), "{map:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_not_written_over() -> Result<()> {
    let operator = Operator::shared().await?;
    let namespace = operator.namespace(&cluster::client().await?, "restore-refused", &[]).await?;
    let snapshots = json!({"storage": {"volume": {"size": "1Gi", "storageClassName": ""}}});
    let managed = json!({"snapshots": snapshots, "restoreFrom": {"snapshot": "latest"}});
    let mut nodes = Nodes::prepare(&namespace, "memory", 1, managed).await?;
    nodes.put(&[(collection(&namespace).as_str(), 0, 0)]);
    nodes.join(&namespace, 1).await?;
    let right = |said: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| said.reason == "RestoreRefused";
    let found = wait_within(3 * PATIENCE, &namespace, "memory", "StoreReady", right).await?;
    let said = condition(&found, "StoreReady").context("a condition")?.message;
    ensure!(said.contains("remove restoreFrom") && said.contains("kubectl get pvc"), "{said}");
    ensure!(condition(&found, "Stalled").is_some_and(|said| said.status == "True"));
    ensure!(!token(&namespace).await? && nodes.truth().snapshots.recovered.is_empty());
    // A person decides, and the store is used as it is.
    let patch = Patch::Merge(json!({"spec": {"vectorStore": {"managed": {"restoreFrom": null}}}}));
    namespace.api::<ContextManager>().patch("memory", &PatchParams::default(), &patch).await?;
    eventually("access", 4 * PATIENCE, || async {
        ensure!(token(&namespace).await?, "no token yet");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_not_restored_does_not_lose_the_snapshots_of_the_one_before() -> Result<()> {
    let operator = Operator::shared().await?;
    let wanted = json!({"storage": {"volume": {"size": "1Gi", "storageClassName": ""}}});
    let (namespace, nodes) = started(&operator, "inherited", wanted.clone()).await?;
    ask(&namespace, "1").await?;
    let old = another(&namespace, None).await?.last.context("a snapshot")?.name;
    let left = nodes.truth().snapshots.outlive();
    drop(nodes);
    delete(&namespace).await?;

    let mut nodes = Nodes::prepare(&namespace, "memory", 1, json!({"snapshots": wanted})).await?;
    nodes.truth().snapshots = left;
    let name = collection(&namespace);
    nodes.put(&[(name.as_str(), 0, 0)]);
    nodes.join(&namespace, 1).await?;
    ask(&namespace, "2").await?;
    let new = another(&namespace, None).await?;
    ensure!(new.kept.len() == 2 && new.kept[1] == old && new.kept[0] != old, "{new:?}");
    ensure!(files(&nodes, &name, 1).len() == 1, "a file of the cluster before is gone");
    Ok(())
}
