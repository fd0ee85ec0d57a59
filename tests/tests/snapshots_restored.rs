//! The contexts of a managed Qdrant of real nodes survive the loss of all nodes and of their volumes: they come back from a snapshot, all
//! of them and each once, into a cluster with another number of nodes.
//!
//! It needs the image that `cargo xtask images --load` and `cargo xtask test` make of the program that
//! `CONTEXT_MANAGER_TEST_QDRANT_PROGRAM` names. Without it these fail, and `cargo xtask test` leaves them out; what the operator asks of nodes
//! is then proved by the suite `snapshots` alone. For a bucket it needs the program of an S3 server, too ([`bucket`]).

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use context_manager_crds::{ContextManager, context_manager::qdrant::Qdrant};
use context_manager_protocol::names;
use context_manager_tests::{
    bucket::{self, Bucket},
    cluster::{self, Namespace, eventually},
    gate::Authority,
    nodes::real,
    operator::{Operator, wait_within},
    volumes::Volumes,
    webhook::image,
};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use reqwest::Method;
use serde_json::{Value, json};

/// How long nodes may take for a whole step.
const STEP: Duration = Duration::from_mins(5);
const POINTS: u64 = 500;
const RESTRICTED: [(&str, &str); 1] = [("pod-security.kubernetes.io/enforce", "restricted")];

/// A resource whose nodes are real.
#[derive(Clone, Copy)]
struct Store<'a> {
    namespace: &'a Namespace,
    name: &'a str,
}

impl Store<'_> {
    fn collection(self) -> String {
        Qdrant::default().collection(&self.namespace.name, self.name)
    }

    async fn ask(self, node: u8, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
        real::ask(self.namespace, (self.name, node), method, &path.replace("COLLECTION", &self.collection()), body)
            .await
    }

    async fn says(self, kind: &str, reason: &str) -> Result<()> {
        wait_within(STEP, self.namespace, self.name, kind, |said| said.reason == reason).await.map(drop)
    }

    /// A collection like the operator's own, which it cannot make here: the Service does not lead out of the cluster.
    async fn fill(self) -> Result<()> {
        let made = json!({
            "vectors": {"dense": {"size": 4, "distance": "Cosine"}}, "sparse_vectors": {"text": {"modifier": "idf"}},
            "shard_number": 3, "replication_factor": 2, "metadata": {"schema": 1},
        });
        self.ask(0, Method::PUT, "/collections/COLLECTION", Some(made)).await?;
        let tenant = json!({"field_name": "tenant", "field_schema": {"type": "keyword", "is_tenant": true}});
        self.ask(0, Method::PUT, "/collections/COLLECTION/index?wait=true", Some(tenant)).await?;
        self.write(0..POINTS).await
    }

    /// Contexts of five namespaces, the last of which is the resource's own.
    async fn write(self, ids: std::ops::Range<u64>) -> Result<()> {
        let point = |id: u64| {
            let vectors = json!({"dense": [1, id, 2, 3], "text": {"indices": [id], "values": [1.0]}});
            let tenant = if id % 5 == 4 { self.namespace.name.clone() } else { format!("t{}", id % 5) };
            json!({"id": id, "vector": vectors, "payload": {"tenant": tenant, "text": format!("context {id}")}})
        };
        let points: Vec<_> = ids.map(point).collect();
        let path = "/collections/COLLECTION/points?wait=true";
        self.ask(0, Method::PUT, path, Some(json!({"points": points}))).await.map(drop)
    }

    /// All contexts of the snapshot are there, each once and with what belongs to it, in the eyes of each node; and none that came later.
    async fn all_there(self, nodes: u8) -> Result<()> {
        for node in 0..nodes {
            let exact = Some(json!({"exact": true}));
            let found = self.ask(node, Method::POST, "/collections/COLLECTION/points/count", exact).await?;
            ensure!(found["count"] == POINTS, "node {node} finds {found}");
            for tenant in ["t3", &self.namespace.name] {
                let filter = json!({"must": [{"key": "tenant", "match": {"value": tenant}}]});
                let body = json!({"exact": true, "filter": filter});
                let found = self.ask(node, Method::POST, "/collections/COLLECTION/points/count", Some(body)).await?;
                ensure!(found["count"] == POINTS / 5, "node {node} finds {found} of {tenant}");
            }
            let asked = json!({"limit": 2 * POINTS, "with_payload": true, "with_vector": true});
            let found = self.ask(node, Method::POST, "/collections/COLLECTION/points/scroll", Some(asked)).await?;
            let points = found["points"].as_array().context("points")?;
            let mut ids: Vec<_> = points.iter().filter_map(|point| point["id"].as_u64()).collect();
            ids.sort_unstable();
            ensure!(ids == (0..POINTS).collect::<Vec<_>>(), "{} points, not all, or one twice", ids.len());
            for point in points {
                let id = point["id"].as_u64().unwrap_or_default();
                let is_whole = point["payload"]["text"] == format!("context {id}")
                    && point["vector"]["dense"].as_array().map(Vec::len) == Some(4)
                    && point["vector"]["text"]["indices"] == json!([id]);
                ensure!(is_whole, "{point}");
            }
        }
        let found = self.ask(0, Method::GET, "/collections/COLLECTION", None).await?;
        ensure!(found["payload_schema"]["tenant"]["params"]["is_tenant"] == true, "the index is gone: {found}");
        ensure!(found["config"]["metadata"]["schema"] == 1, "{found}");
        Ok(())
    }

    async fn token(self) -> Result<bool> {
        let secret = self.namespace.api::<Secret>().get_opt(&names::store_secret(self.name)).await?;
        Ok(secret.and_then(|secret| secret.data).is_some_and(|data| data.contains_key(names::QDRANT_API_KEY_FILE)))
    }

    /// Waits until sidecars get a token, which they do when all is restored.
    async fn access(self) -> Result<()> {
        eventually("access", STEP, || async {
            let resource = self.namespace.api::<ContextManager>().get(self.name).await?;
            ensure!(self.token().await?, "{:?}", resource.status.map(|status| status.conditions));
            Ok(())
        })
        .await
    }

    async fn snapshot(self, value: &str) -> Result<Vec<String>> {
        let api = self.namespace.api::<ContextManager>();
        let kept = async || -> Result<Vec<String>> {
            let status = api.get(self.name).await?.status.context("a status")?;
            Ok(status.snapshots.unwrap_or_default().kept)
        };
        let before = kept().await?;
        let patch = Patch::Merge(json!({"metadata": {"annotations": {names::SNAPSHOT: value}}}));
        api.patch(self.name, &PatchParams::default(), &patch).await?;
        eventually("a snapshot", STEP, || async {
            let now = kept().await?;
            // The one before it is deleted a moment later.
            ensure!(now.len() == 1 && now != before, "{:?}", api.get(self.name).await?.status);
            Ok(now)
        })
        .await
    }

    /// Files of its snapshots of contexts.
    fn files(self, place: &Place) -> Result<Vec<String>> {
        let mut files = Vec::new();
        for shard in 0..3 {
            let folder = format!("{}/{}/{}/shards/{shard}", self.namespace.name, self.name, self.collection());
            let folder = place.files.join(folder);
            let found = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
            let names = found.filter_map(|file| file.ok()?.file_name().into_string().ok());
            files.extend(names.filter(|file| file.ends_with(".snapshot")));
        }
        files.sort_unstable();
        Ok(files)
    }
}

/// Deletes the resource and what its nodes had.
async fn lose(namespace: &Namespace) -> Result<()> {
    namespace.api::<ContextManager>().delete("memory", &DeleteParams::default()).await?;
    eventually("the end of the nodes", STEP, || async {
        ensure!(
            namespace.api::<StatefulSet>().list(&ListParams::default()).await?.items.is_empty(),
            "the set is there"
        );
        ensure!(namespace.api::<Pod>().list(&ListParams::default()).await?.items.is_empty(), "pods are there");
        Ok(())
    })
    .await?;
    let claims = namespace.api::<PersistentVolumeClaim>();
    for claim in claims.list(&ListParams::default()).await?.items {
        if claim.name_any().starts_with("data-") {
            claims.delete(&claim.name_any(), &DeleteParams::default()).await?;
        }
    }
    Ok(())
}

/// Where snapshots lie: what the spec says, and the folder of the namespaces' folders.
struct Place {
    storage: Value,
    files: PathBuf,
}

fn spec(volumes: &Volumes, place: &Place, replicas: u8, more: &Value) -> Value {
    let mut managed = json!({
        "replicas": replicas, "image": image("context-manager-test-managed-qdrant"),
        "storage": {"storageClassName": volumes.class(), "size": "1Gi"},
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
        "snapshots": {"keep": 1, "storage": place.storage},
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        managed[field] = value.clone();
    }
    json!({"vectorStore": {"managed": managed}})
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_with_all_nodes_and_volumes_comes_back_from_a_volume_of_snapshots() -> Result<()> {
    real::required()?;
    let operator = Operator::shared().await?;
    let namespace = operator.namespace(&cluster::client().await?, "restored-volume", &RESTRICTED).await?;
    let modes = ["ReadWriteOnce", "ReadWriteOnce", "ReadWriteOnce", "ReadWriteMany"];
    let volumes = Volumes::make(&namespace.name, &modes).await?;
    let storage = json!({"volume": {"size": "1Gi", "storageClassName": volumes.class()}});
    let files = volumes.folder(3);
    lost_and_restored(&namespace, &volumes, &Place { storage, files }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_with_all_nodes_and_volumes_comes_back_from_a_bucket() -> Result<()> {
    let bucket = real_nodes_and_a_bucket().await?;
    let operator = Operator::shared().await?;
    let namespace = operator.namespace(&cluster::client().await?, "restored-bucket", &RESTRICTED).await?;
    let volumes = Volumes::make(&namespace.name, &["ReadWriteOnce"; 3]).await?;
    let place = in_bucket(&namespace, &bucket, ("caSecretRef", "s3", "ca")).await?;
    lost_and_restored(&namespace, &volumes, &place).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_trusted_by_the_ca_of_the_resource_alone() -> Result<()> {
    let bucket = real_nodes_and_a_bucket().await?;
    let operator = Operator::shared().await?;
    let namespace = operator.namespace(&cluster::client().await?, "trusted-bucket", &RESTRICTED).await?;
    let volumes = Volumes::make(&namespace.name, &["ReadWriteOnce"]).await?;
    let place = in_bucket(&namespace, &bucket, ("caConfigMapRef", "authority", "ca.pem")).await?;
    let write = async |content: &str| {
        let patch = Patch::Merge(json!({"data": {"ca.pem": content}}));
        namespace.api::<ConfigMap>().patch("authority", &PatchParams::default(), &patch).await.map(drop)
    };
    let map = json!({"metadata": {"name": "authority"}, "data": {"ca.pem": "no certificate"}});
    namespace.make::<ConfigMap>(&map).await?;
    namespace.make_resource("memory", spec(&volumes, &place, 1, &json!({}))).await?;
    let invalid = |said: &Condition| {
        let field = "snapshots.storage.s3.caConfigMapRef: the key \"ca.pem\" of the ConfigMap \"authority\"";
        said.reason == "ConfigMapInvalid" && said.message.contains(field)
    };
    wait_within(STEP, &namespace, "memory", "StoreReady", invalid).await?;
    ensure!(namespace.api::<StatefulSet>().list(&ListParams::default()).await?.items.is_empty(), "nodes without a CA");

    write(&Authority::new("Somebody")?.pem).await?;
    let store = Store { namespace: &namespace, name: "memory" };
    eventually("a node", STEP, || store.ask(0, Method::GET, "/collections", None)).await?;
    store.fill().await?;
    let patch = Patch::Merge(json!({"metadata": {"annotations": {names::SNAPSHOT: "1"}}}));
    namespace.api::<ContextManager>().patch("memory", &PatchParams::default(), &patch).await?;
    let failed = |said: &Condition| said.reason == "SnapshotFailed" && said.message.contains("error sending request");
    wait_within(STEP, &namespace, "memory", "StoreSnapshotted", failed).await?;
    ensure!(fs::read_dir(bucket.folder())?.next().is_none(), "something was written without trust");

    // The node is started anew with the CA that signed it, and keeps what it has.
    write(bucket.ca()).await?;
    let kept = store.snapshot("2").await?;
    ensure!(kept.len() == 1 && store.files(&place)?.len() == 3, "{kept:?}");
    store.all_there(1).await
}

/// A bucket as storage, whose CA is in this field, and in this object and key.
async fn in_bucket(namespace: &Namespace, bucket: &Bucket, (field, name, key): (&str, &str, &str)) -> Result<Place> {
    let (id, secret) = bucket::KEY;
    let secret = json!({"metadata": {"name": "s3"}, "stringData": {"id": id, "key": secret, "ca": bucket.ca()}});
    namespace.make::<Secret>(&secret).await?;
    let storage = json!({"s3": {
        "bucket": bucket::NAME, "endpointUrl": bucket.url(), "prefix": "blue/1", field: {"name": name, "key": key},
        "accessKeyIdSecretRef": {"name": "s3", "key": "id"}, "secretAccessKeySecretRef": {"name": "s3", "key": "key"},
    }});
    let files = bucket.folder().join("context-manager/blue/1");
    Ok(Place { storage, files })
}

/// A bucket for real nodes.
async fn real_nodes_and_a_bucket() -> Result<Bucket> {
    real::required()?;
    Bucket::start().await
}

async fn lost_and_restored(namespace: &Namespace, volumes: &Volumes, place: &Place) -> Result<()> {
    let store = Store { namespace, name: "memory" };
    namespace.make_resource("memory", spec(volumes, place, 2, &json!({}))).await?;
    store.says("StoreBalanced", "Balanced").await?;
    store.fill().await?;
    let first = store.snapshot("1").await?;
    let second = store.snapshot("2").await?;
    ensure!(first.len() == 1 && second.len() == 1 && first != second, "{first:?}, {second:?}");
    // What comes after the snapshot is lost with the nodes.
    store.write(POINTS..POINTS + 50).await?;
    let left = store.files(place)?;
    ensure!(left.len() == 3, "one for each shard, and none of the first snapshot: {left:?}");
    lose(namespace).await?;
    ensure!(!store.token().await?, "the token is there");

    // One node instead of two, and the shards are those of the snapshot.
    let from = json!({"restoreFrom": {"snapshot": "latest"}, "shards": 1});
    namespace.make_resource("memory", spec(volumes, place, 1, &from)).await?;
    store.access().await?;
    store.all_there(1).await?;
    // Its snapshots go on where the old ones are.
    let third = store.snapshot("3").await?;
    ensure!(third.len() == 1 && third != second, "{third:?}");
    let now = store.files(place)?;
    ensure!(now.len() == 3 && now.iter().all(|file| !left.contains(file)), "{left:?} became {now:?}");
    store.all_there(1).await
}

/// Makes a resource with contexts and a snapshot of them, to which more contexts were added.
async fn with_a_snapshot(store: Store<'_>, spec: Value) -> Result<String> {
    store.namespace.make_resource(store.name, spec).await?;
    store.says("StoreCurrent", "Current").await?;
    store.fill().await?;
    let kept = store.snapshot("1").await?;
    store.write(POINTS..POINTS + 50).await?;
    kept.into_iter().next().context("a snapshot")
}

/// What was restored is there, and its snapshots are its own: those of the other resource stay as they were, also when newer ones of this
/// resource, which keeps one, replace each other.
async fn is_its_own(store: Store<'_>, nodes: u8, other: Store<'_>, place: &Place) -> Result<()> {
    let before = other.files(place)?;
    store.access().await?;
    eventually("all contexts", STEP, || store.all_there(nodes)).await?;
    // Nodes are started anew, and do not reach what belongs to the other any more.
    eventually("nodes that read their own snapshots", STEP, || async {
        let pods = store.namespace.api::<Pod>().list(&ListParams::default()).await?;
        let own: Vec<_> = pods.iter().filter(|pod| pod.name_any().starts_with(&names::qdrant(store.name))).collect();
        let env = serde_json::to_string(&own)?;
        ensure!(!env.contains("SNAPSHOTS_PATH") && !env.contains("URL_RECOVERY"), "they read the other's");
        ensure!(own.len() == usize::from(nodes), "{} nodes", own.len());
        Ok(())
    })
    .await?;
    store.says("StoreCurrent", "Current").await?;
    store.all_there(nodes).await?;
    let found = store.ask(0, Method::GET, "/collections", None).await?;
    ensure!(found["collections"] == json!([{"name": store.collection()}]), "{found}");
    let first = store.snapshot("1").await?;
    let second = store.snapshot("2").await?;
    ensure!(first.len() == 1 && second.len() == 1 && first != second, "{first:?}, {second:?}");
    ensure!(store.files(place)?.len() == 3 && other.files(place)? == before, "{before:?}, {:?}", other.files(place)?);
    store.all_there(nodes).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_restored_beside_the_resource_that_took_it() -> Result<()> {
    real::required()?;
    let operator = Operator::shared().await?;
    let namespace = operator.namespace(&cluster::client().await?, "restored-beside", &RESTRICTED).await?;
    let volumes =
        Volumes::make(&namespace.name, &["ReadWriteOnce", "ReadWriteOnce", "ReadWriteOnce", "ReadWriteMany"]).await?;
    let [memory, copy] = ["memory", "copy"].map(|name| Store { namespace: &namespace, name });
    let claim = json!({
        "metadata": {"name": "shared"},
        "spec": {
            "accessModes": ["ReadWriteMany"], "storageClassName": volumes.class(),
            "resources": {"requests": {"storage": "1Gi"}},
        },
    });
    namespace.make::<PersistentVolumeClaim>(&claim).await?;
    let place = Place { storage: json!({"volume": {"claimName": "shared"}}), files: volumes.folder(3) };
    with_a_snapshot(memory, spec(&volumes, &place, 1, &json!({}))).await?;

    let from = json!({"restoreFrom": {"snapshot": "latest", "name": "memory"}});
    namespace.make_resource("copy", spec(&volumes, &place, 2, &from)).await?;
    is_its_own(copy, 2, memory, &place).await?;
    // The one beside has gone on with what came later.
    let exact = Some(json!({"exact": true}));
    let found = memory.ask(0, Method::POST, "/collections/COLLECTION/points/count", exact).await?;
    ensure!(found["count"] == POINTS + 50, "{found}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn contexts_of_a_namespace_become_those_of_the_one_that_they_are_restored_into() -> Result<()> {
    let bucket = real_nodes_and_a_bucket().await?;
    let operator = Operator::shared().await?;
    let client = cluster::client().await?;
    let old = operator.namespace(&client, "restored-old", &RESTRICTED).await?;
    let new = operator.namespace(&client, "restored-new", &RESTRICTED).await?;
    let volumes = Volumes::make(&old.name, &["ReadWriteOnce"; 2]).await?;
    let old_place = in_bucket(&old, &bucket, ("caSecretRef", "s3", "ca")).await?;
    let place = in_bucket(&new, &bucket, ("caSecretRef", "s3", "ca")).await?;
    let [before, after] = [&old, &new].map(|namespace| Store { namespace, name: "memory" });
    let taken = with_a_snapshot(before, spec(&volumes, &old_place, 1, &json!({}))).await?;

    let from = json!({"restoreFrom": {"snapshot": taken, "namespace": old.name}});
    new.make_resource("memory", spec(&volumes, &place, 1, &from)).await?;
    is_its_own(after, 1, before, &place).await
}
