//! Which snapshots there are, which files each is made of, and what the collection was like: kept as points without vectors in a
//! collection of the same Qdrant. A snapshot of that collection lies beside the others, so that what is needed to make use of them is where
//! they are, and not in a cluster that may be lost.

use std::time::Duration;

use http::Method;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::cluster::{Cluster, Location, said};
use crate::controller::managed::{
    client::{Client, Silence},
    nodes::Node,
};

/// The collection.
pub(super) const COLLECTION: &str = "context-manager-snapshots";
/// Its only shard.
pub(super) const SHARD: u32 = 0;
/// Snapshots of it that are kept: the newest, and the one before.
const KEPT: usize = 2;
/// Most snapshots that are read: those that may be kept, and some that were left unfinished.
const MOST: usize = 1_000;
/// Longest time of making the collection.
const MAKING: Duration = Duration::from_secs(30);

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// By which it is asked for: when it was begun.
    pub(super) name: String,
    /// Where its files are.
    pub(super) place: String,
    /// When it was begun.
    pub(super) began: Timestamp,
    /// When its last file was there; nothing before.
    pub(super) ended: Option<Timestamp>,
    /// The value of the annotation then.
    pub(super) request: Option<String>,
    /// The collection.
    pub(super) collection: String,
    /// What the collection was like.
    pub(super) definition: Definition,
    /// Its files.
    pub(super) files: Vec<File>,
}

/// All that is in the catalogue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Catalogue {
    /// What is understood.
    pub(super) records: Vec<Record>,
    /// Whether there is more, such as what a later version wrote: its files are not known.
    pub(super) has_more: bool,
}

/// What a collection is like, in Qdrant's own words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Definition {
    /// Vectors, shards and the rest.
    pub(super) config: Value,
    /// Which fields are indexed, and how.
    pub(super) payload_schema: Value,
    /// How many points there were, about.
    pub(super) points: u64,
}

/// The snapshot of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct File {
    /// The shard.
    pub(super) shard: u32,
    /// The file's name.
    pub(super) name: String,
    /// Its size.
    pub(super) bytes: u64,
}

impl Record {
    /// One that is just begun.
    pub(super) fn begin(began: Timestamp, place: String, request: Option<String>, collection: &str) -> Self {
        Self {
            name: began.strftime("%Y-%m-%dT%H-%M-%SZ").to_string(),
            place,
            began,
            ended: None,
            request,
            collection: collection.to_owned(),
            definition: Definition::default(),
            files: Vec::new(),
        }
    }

    /// Bytes of its files.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Its point.
    fn id(&self) -> i64 {
        self.began.as_second()
    }
}

impl Definition {
    /// What a node says of a collection.
    pub(super) fn of(mut answer: Value) -> Self {
        let mut take = |part: &str| answer.get_mut(part).map(Value::take).unwrap_or_default();
        Self {
            config: take("config"),
            payload_schema: take("payload_schema"),
            points: answer["points_count"].as_u64().unwrap_or_default(),
        }
    }
}

/// Makes the collection if there is none, and says whether it did.
pub(super) async fn open(Cluster { client, .. }: &Cluster, node: &Node, factor: u32) -> Result<bool, String> {
    let path = format!("/collections/{COLLECTION}");
    let opened = match client.get(node, &path).await {
        Err(Silence::Missing(_)) => {
            let made = json!({"vectors": {}, "shard_number": 1, "replication_factor": factor});
            client.call_within(MAKING, node, Method::PUT, &path, Some(&made)).await.map(|_| true)
        }
        found => found.map(|_| false),
    };
    opened.map_err(said(node, &format!("make the collection {COLLECTION}")))
}

/// Sees to it that there is a catalogue. A new one begins with what the newest snapshot of one says: whoever had this place before has
/// left snapshots, and without their catalogue they would be of no use.
pub(super) async fn inherit(cluster: &Cluster, node: &Node, factor: u32) -> Result<(), String> {
    if open(cluster, node, factor).await? {
        recover(cluster, node).await?;
    }
    Ok(())
}

/// Brings the newest snapshot of the catalogue back, and says whether there was one.
pub(super) async fn recover(cluster: &Cluster, node: &Node) -> Result<bool, String> {
    let view = cluster.settled(node, COLLECTION).await?;
    let Some(newest) = newest(cluster.list(&view, COLLECTION, SHARD).await?) else { return Ok(false) };
    cluster.recover(&view, COLLECTION, SHARD, &Location::Own(newest)).await?;
    Ok(true)
}

/// All that are in it; none if there is no collection.
pub(super) async fn read(client: &Client, node: &Node) -> Result<Catalogue, Silence> {
    let asked = json!({"limit": MOST, "with_payload": true, "with_vector": false});
    let path = format!("/collections/{COLLECTION}/points/scroll");
    let found = match client.call(node, Method::POST, &path, Some(&asked)).await {
        Err(Silence::Missing(_)) => return Ok(Catalogue::default()),
        found => found?,
    };
    Ok(Catalogue::of(&found))
}

impl Catalogue {
    /// What is not understood is nobody's to delete.
    fn of(answer: &Value) -> Self {
        let points = answer["points"].as_array().map_or(&[][..], Vec::as_slice);
        let records: Vec<_> = points.iter().filter_map(|point| Record::deserialize(&point["payload"]).ok()).collect();
        Self { has_more: records.len() < points.len(), records }
    }
}

/// Writes one down.
pub(super) async fn write(client: &Client, node: &Node, record: &Record) -> Result<(), Silence> {
    let points = json!({"points": [{"id": record.id(), "vector": {}, "payload": record}]});
    let path = format!("/collections/{COLLECTION}/points?wait=true");
    client.call(node, Method::PUT, &path, Some(&points)).await.map(drop)
}

/// Forgets one.
pub(super) async fn forget(client: &Client, node: &Node, record: &Record) -> Result<(), Silence> {
    let points = json!({"points": [record.id()]});
    let path = format!("/collections/{COLLECTION}/points/delete?wait=true");
    client.call(node, Method::POST, &path, Some(&points)).await.map(drop)
}

/// The newest of this collection's own snapshots.
fn newest(names: Vec<String>) -> Option<String> {
    // The names end with the time.
    names.into_iter().max()
}

/// Of this collection's own snapshots, those that are not kept. They go by the clock of the node that took them alone: by another one, the
/// one that was just taken could seem to come from a clock that ran ahead, and be the one to go.
pub(super) fn outdated(mut names: Vec<String>) -> Vec<String> {
    names.sort_unstable_by(|one, other| other.cmp(one));
    names.split_off(names.len().min(KEPT))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let began = Timestamp::from_second(1_795_750_000).unwrap();
        let mut record = Record::begin(began, "claim:/here".to_owned(), Some("now".to_owned()), "contexts");
        assert_eq!(record.name, "2026-11-27T03-26-40Z");
        record.files =
            vec![File { shard: 1, name: "a".to_owned(), bytes: 3 }, File { shard: 0, name: "b".to_owned(), bytes: 4 }];
        record.definition = Definition::of(json!({
            "status": "green", "points_count": 7, "config": {"params": {"shard_number": 2}}, "payload_schema": {"tenant": {}},
        }));
        assert_eq!((record.bytes(), record.definition.points), (7, 7));
        let answer =
            json!({"points": [{"id": 1, "payload": record}, {"id": 2, "payload": {"name": "of a later version"}}]});
        assert_eq!(Catalogue::of(&answer), Catalogue { records: vec![record.clone()], has_more: true });
        let answer = json!({"points": [{"id": 1, "payload": record}]});
        assert_eq!(Catalogue::of(&answer), Catalogue { records: vec![record], has_more: false });
    }

    #[test]
    fn a_collection_that_is_described_by_no_map_is_like_nothing() {
        for answer in [json!([{"config": 1}]), json!("config"), json!(1), json!(true), Value::Null] {
            assert_eq!(
                Definition::of(answer),
                Definition { config: Value::Null, payload_schema: Value::Null, points: 0 }
            );
        }
    }

    #[test]
    fn the_newest_two_snapshots_of_the_catalogue_are_kept() {
        let file = |minute: u8| format!("{COLLECTION}-shard-0-2026-11-27-03-{minute:02}-00.snapshot");
        assert!(outdated(vec![file(1), file(2)]).is_empty());
        let all = || vec![file(3), file(1), file(4), file(2)];
        assert_eq!(newest(all()), Some(file(4)));
        assert_eq!(outdated(all()), [file(2), file(1)]);
    }
}
