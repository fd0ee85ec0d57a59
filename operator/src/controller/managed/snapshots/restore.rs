//! Brings the contexts of a snapshot back into a cluster that is empty.
//!
//! The catalogue comes first, then the collection as it was, then each replica of each shard. That a collection is being restored, and that
//! it is, stands in its own metadata: it is made with the one and gets the other at the end, so a controller that takes over knows what
//! it has before it, and what was there before is never taken for something to write over.
//!
//! Snapshots of another resource are read where they are, and nothing is written there: its catalogue is gone from this cluster, and nodes
//! look where their own snapshots are, before the first one of this resource is taken.

use std::{collections::BTreeMap, sync::Arc};

use http::Method;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    catalogue::{self, Definition, Record},
    cluster::{Cluster, Location, said},
    schedule, take, tenants,
};
use crate::controller::{
    managed::{
        client::{Client, Silence},
        nodes::Node,
        restoration::Restoration,
    },
    plan::{ManagedPlan, Plan, Source},
    status::listed,
};

/// What stands for the newest snapshot.
const LATEST: &str = "latest";
/// Key of the collection's metadata.
const METADATA: &str = "contextmanager.dev/restore";
/// How far a collection is that is restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    /// The snapshot.
    snapshot: String,
    /// Whether all of it is there.
    done: bool,
}

/// What there is of the collection.
enum Found {
    Nothing,
    /// It was made by a restoration.
    Marked(Mark),
    /// It was made in another way.
    Another,
}

/// What is to be restored.
pub(in crate::controller::managed) struct Job {
    cluster: Cluster,
    restoration: Restoration,
    /// Where this resource's own snapshots are.
    own: String,
    /// Where the one that is restored is.
    place: String,
    collection: String,
    /// Replicas of each shard.
    factor: u32,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::controller::managed) enum Restored {
    /// All is there.
    Done {
        /// The snapshot; empty if the resource asks for none any more and none was begun.
        snapshot: String,
        /// Contexts that are there now.
        points: u64,
    },
    /// There is a collection that was not made by a restoration.
    NotEmpty,
}

impl Job {
    /// A restoration of the resource's collection.
    pub(in crate::controller::managed) fn new(
        plan: &Plan,
        wanted: &ManagedPlan,
        restoration: &Restoration,
        client: Arc<Client>,
        nodes: Vec<Node>,
    ) -> Self {
        let snapshots = wanted.snapshots.as_ref();
        let own = snapshots.map(|snapshots| take::place(plan, snapshots)).unwrap_or_default();
        let place = snapshots.zip(restoration.source()).map(|(snapshots, source)| take::place_of(source, snapshots));
        Self {
            cluster: Cluster { plan: plan.clone(), client, nodes },
            restoration: restoration.clone(),
            place: place.unwrap_or_else(|| own.clone()),
            own,
            collection: wanted.qdrant.store.collection.clone(),
            factor: wanted.replicas,
        }
    }

    /// Restores it, or goes on with it.
    pub(super) async fn run(&self) -> Result<Restored, String> {
        let Self { cluster, collection, .. } = self;
        let first = cluster.first()?;
        let begun = match self.mark(first).await? {
            Found::Nothing | Found::Another if !self.restoration.is_asked => {
                return Ok(Restored::Done { snapshot: String::new(), points: 0 });
            }
            Found::Nothing => None,
            Found::Another => return Ok(Restored::NotEmpty),
            Found::Marked(Mark { snapshot, done: true }) => return self.done(first, snapshot).await,
            Found::Marked(Mark { snapshot, done: false }) => Some(snapshot),
        };
        let records = self.catalogue(first).await?;
        let record = choose(&records, &self.restoration.from.snapshot, Timestamp::now())?;
        // What was begun of another one is no use; nobody could write to it.
        if begun.as_ref().is_some_and(|begun| *begun != record.name) {
            drop_collection(cluster, first, collection).await?;
        }
        if begun.as_ref() != Some(&record.name) {
            self.make(first, record).await?;
        }
        self.bring(first, record).await?;
        cluster.settled(first, collection).await?;
        let name = record.name.clone();
        match self.restoration.source() {
            Some(Source { namespace, name: _ }) => {
                tenants::rename(cluster, first, collection, namespace).await?;
                drop_collection(cluster, first, catalogue::COLLECTION).await?;
            }
            None => self.adopt(first, records).await?,
        }
        let mark = json!({"metadata": {METADATA: Mark { snapshot: name.clone(), done: true }}});
        let asked = (Method::PATCH, &*format!("/collections/{collection}"), Some(&mark));
        cluster.change(first, asked, "note that the collection is whole").await?;
        self.done(first, name).await
    }

    async fn done(&self, node: &Node, snapshot: String) -> Result<Restored, String> {
        let path = format!("/collections/{}/points/count", self.collection);
        let asked = (Method::POST, path.as_str(), Some(&json!({"exact": true})));
        let counted = self.cluster.change(node, asked, "count the contexts").await?;
        Ok(Restored::Done { snapshot, points: counted["count"].as_u64().unwrap_or_default() })
    }

    /// How far the collection is.
    async fn mark(&self, node: &Node) -> Result<Found, String> {
        match self.cluster.client.get(node, &format!("/collections/{}", self.collection)).await {
            Ok(found) => {
                let mark = Mark::deserialize(&found["config"]["metadata"][METADATA]);
                Ok(mark.map_or(Found::Another, Found::Marked))
            }
            Err(Silence::Missing(_)) => Ok(Found::Nothing),
            Err(silence) => Err(said(node, "describe the collection")(silence)),
        }
    }

    /// What there is. It is brought back each time, so that it is never one that was broken off.
    async fn catalogue(&self, node: &Node) -> Result<Vec<Record>, String> {
        catalogue::open(&self.cluster, node, self.factor).await?;
        if !catalogue::recover(&self.cluster, node).await? {
            let remedy = self.restoration.source().map_or("", |_| {
                "; spec.vectorStore.managed.snapshots.storage must be where the resource that restoreFrom names has its snapshots: the \
                 same bucket and prefix, or by volume.claimName the same claim"
            });
            return Err(format!("there are no snapshots in the {}{remedy}", self.place));
        }
        let read = catalogue::read(&self.cluster.client, node).await;
        read.map(|found| found.records).map_err(said(node, "say which snapshots there are"))
    }

    /// Makes the collection as it was, with its indexes.
    async fn make(&self, node: &Node, record: &Record) -> Result<(), String> {
        let Self { cluster, collection, .. } = self;
        let mark = Mark { snapshot: record.name.clone(), done: false };
        let made = definition(&record.definition, self.factor, &mark);
        let asked = (Method::PUT, &*format!("/collections/{collection}"), Some(&made));
        cluster.change(node, asked, &format!("make the collection {collection} as it was")).await?;
        for (field, schema) in indexes(&record.definition) {
            let index = json!({"field_name": field, "field_schema": schema});
            let asked = (Method::PUT, &*format!("/collections/{collection}/index?wait=true"), Some(&index));
            cluster.change(node, asked, &format!("index the field {field}")).await?;
        }
        Ok(())
    }

    /// Brings each replica of each shard back. Files of another collection take a collection of its name, which has its shards and nothing
    /// in them, because a node finds files by their collection and shard alone.
    async fn bring(&self, node: &Node, record: &Record) -> Result<(), String> {
        let Self { cluster, collection, .. } = self;
        let view = cluster.settled(node, collection).await?;
        let other = &record.collection;
        if other == collection {
            for file in &record.files {
                cluster.recover(&view, collection, file.shard, &Location::Own(file.name.clone())).await?;
            }
            return Ok(());
        }
        // One that is there already is left of an attempt that was broken off.
        drop_collection(cluster, node, other).await?;
        let shards = &record.definition.config["params"]["shard_number"];
        let made = json!({"vectors": {}, "shard_number": shards, "replication_factor": self.factor});
        let asked = (Method::PUT, &*format!("/collections/{other}"), Some(&made));
        cluster.change(node, asked, &format!("make the collection {other}, to read its snapshots")).await?;
        let lent = cluster.settled(node, other).await?;
        for file in &record.files {
            let location = cluster.elsewhere(&lent, other, file)?;
            cluster.recover(&view, collection, file.shard, &location).await?;
        }
        drop_collection(cluster, node, other).await
    }

    /// What was found here is this cluster's own from now on, also if the claim or the bucket is called otherwise.
    async fn adopt(&self, node: &Node, records: Vec<Record>) -> Result<(), String> {
        for mut record in records {
            record.place.clone_from(&self.own);
            let written = catalogue::write(&self.cluster.client, node, &record).await;
            written.map_err(said(node, "note a snapshot"))?;
        }
        Ok(())
    }
}

/// Drops a collection of this cluster, if there is one. Its snapshots stay.
async fn drop_collection(cluster: &Cluster, node: &Node, collection: &str) -> Result<(), String> {
    let asked = (Method::DELETE, &*format!("/collections/{collection}"), None);
    cluster.change(node, asked, &format!("drop what there is of {collection}")).await.map(drop)
}

/// The one that is wanted. The newest is the newest at each attempt, whatever was begun: of older ones the catalogue may name files that a
/// resource that still takes snapshots has deleted, since its own snapshot is taken before.
fn choose<'r>(records: &'r [Record], wanted: &str, now: Timestamp) -> Result<&'r Record, String> {
    let mut whole: Vec<_> = records.iter().filter(|record| record.ended.is_some()).collect();
    whole.sort_by_key(|record| schedule::newest_first(record, now));
    let found = match wanted {
        LATEST => whole.first(),
        name => whole.iter().find(|record| record.name == name),
    };
    found.copied().ok_or_else(|| {
        let names: Vec<_> = whole.iter().map(|record| record.name.clone()).collect();
        format!("there is no whole snapshot {wanted} in the catalogue, which has {}", listed(&names))
    })
}

/// What a collection is made with, so that it is as it was. How many replicas there are is up to the cluster that it comes to.
fn definition(Definition { config, .. }: &Definition, factor: u32, mark: &Mark) -> Value {
    let params = &config["params"];
    let writes = params["write_consistency_factor"].as_u64().unwrap_or(1).clamp(1, u64::from(factor.max(1)));
    let mut made = json!({
        "vectors": params["vectors"],
        "shard_number": params["shard_number"],
        "replication_factor": factor,
        "write_consistency_factor": writes,
        "metadata": {METADATA: mark},
    });
    for field in ["sparse_vectors", "on_disk_payload", "payload"] {
        made[field] = params[field].clone();
    }
    for (ours, theirs) in [
        ("hnsw_config", "hnsw_config"),
        ("optimizers_config", "optimizer_config"),
        ("quantization_config", "quantization_config"),
        ("strict_mode_config", "strict_mode_config"),
    ] {
        made[ours] = config[theirs].clone();
    }
    if let Some(more) = config["metadata"].as_object() {
        for (key, value) in more.iter().filter(|(key, _)| *key != METADATA) {
            made["metadata"][key] = value.clone();
        }
    }
    if let Some(made) = made.as_object_mut() {
        made.retain(|_, value| !value.is_null());
    }
    made
}

/// The indexes: of which field, and how.
fn indexes(Definition { payload_schema, .. }: &Definition) -> BTreeMap<String, Value> {
    let fields = payload_schema.as_object().into_iter().flatten();
    let schema =
        |schema: &Value| if schema["params"].is_object() { &schema["params"] } else { &schema["data_type"] }.clone();
    fields.map(|(field, found)| (field.clone(), schema(found))).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn record(second: i64, whole: bool) -> Record {
        let at = Timestamp::from_second(second).unwrap();
        Record { ended: whole.then_some(at), ..Record::begin(at, "here".to_owned(), None, "contexts") }
    }

    #[test]
    fn the_newest_whole_one_or_that_of_the_name_is_restored() {
        let records = [record(10, true), record(30, false), record(20, true), record(40_000, true)];
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let chosen_at =
            |second: i64, wanted: &str| choose(&records, wanted, at(second)).map(|record| record.began.as_second());
        let chosen = |wanted: &str| chosen_at(40, wanted);
        assert_eq!(chosen(LATEST), Ok(20), "also if an older one is whole, whose files may be gone");
        assert_eq!(chosen(&records[0].name), Ok(10));
        assert_eq!(chosen(&records[3].name), Ok(40_000), "who names one knows it");
        assert_eq!(chosen_at(40_000, LATEST), Ok(40_000), "no clock ran ahead");
        let unfinished = chosen(&records[1].name).unwrap_err();
        assert!(unfinished.contains("00-00-30Z") && unfinished.contains("00-00-20Z, "), "{unfinished}");
    }

    /// As a node of 1.19 describes a collection of the operator.
    fn described() -> Definition {
        Definition::of(json!({
            "points_count": 5,
            "config": {
                "params": {
                    "vectors": {"dense": {"size": 384, "distance": "Cosine"}}, "sparse_vectors": {"text": {"modifier": "idf"}},
                    "shard_number": 3, "replication_factor": 2, "write_consistency_factor": 2, "on_disk_payload": true,
                },
                "hnsw_config": {"m": 16}, "optimizer_config": {"flush_interval_sec": 5}, "wal_config": {"wal_capacity_mb": 32},
                "quantization_config": null, "metadata": {"schema": 3, METADATA: {"snapshot": "old", "done": true}},
            },
            "payload_schema": {
                "tenant": {"data_type": "keyword", "params": {"type": "keyword", "is_tenant": true}, "points": 5},
                "expires_at": {"data_type": "datetime", "points": 5},
            },
        }))
    }

    #[test]
    fn a_collection_is_made_as_it_was_with_as_many_replicas_as_the_new_cluster_has() {
        let mark = Mark { snapshot: "new".to_owned(), done: false };
        let made = definition(&described(), 1, &mark);
        let expected = json!({
            "vectors": {"dense": {"size": 384, "distance": "Cosine"}}, "sparse_vectors": {"text": {"modifier": "idf"}},
            "shard_number": 3, "replication_factor": 1, "write_consistency_factor": 1, "on_disk_payload": true,
            "hnsw_config": {"m": 16}, "optimizers_config": {"flush_interval_sec": 5},
            "metadata": {"schema": 3, METADATA: {"snapshot": "new", "done": false}},
        });
        assert_eq!(made, expected);
        let keyword = json!({"type": "keyword", "is_tenant": true});
        let expected = [("expires_at".to_owned(), json!("datetime")), ("tenant".to_owned(), keyword)];
        assert_eq!(indexes(&described()), expected.into());
    }
}
