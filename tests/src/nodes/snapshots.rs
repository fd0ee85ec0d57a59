//! What the scripted nodes answer about snapshots of shards, about the collection that lists them, and about what is restored. Files are
//! names with the payloads that their collection had; what Qdrant makes of them is proved with real nodes only.

use std::collections::BTreeMap;

use axum::http::{Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{Replica, Truth};

/// Bytes that each file is said to have.
pub const BYTES: u64 = 1_000;

/// Payloads by the ids of their points.
type Points = BTreeMap<String, Value>;
type Answer = Result<Value, (StatusCode, String)>;

/// Snapshots and their catalogue.
#[derive(Debug, Default)]
pub struct Snapshots {
    /// Names of files, by collection and shard.
    pub files: BTreeMap<(String, u64), Vec<String>>,
    /// Why no snapshot is taken.
    pub refusal: Option<String>,
    /// Whether nodes say nothing of what they have taken.
    pub silent: bool,
    /// Payloads of the points of collections that were made, by their ids.
    pub points: BTreeMap<String, Points>,
    /// What collections were made with, and their metadata as it is now.
    pub made: BTreeMap<String, Value>,
    /// Fields that were indexed.
    pub indexed: Vec<String>,
    /// What was brought back: peer and file.
    pub recovered: Vec<(u64, String)>,
    saved: BTreeMap<String, Points>,
    taken: Option<Timestamp>,
}

impl Snapshots {
    /// What is left when the nodes and their volumes are gone.
    #[must_use]
    pub fn outlive(&mut self) -> Self {
        let Self { files, saved, taken, .. } = std::mem::take(self);
        Self { files, saved, taken, ..Self::default() }
    }
}

impl Truth {
    /// What the node of `peer` answers, if it is about snapshots.
    pub(super) fn snapshots(&mut self, peer: u64, method: &Method, path: &[&str], asked: &Value) -> Option<Answer> {
        Some(match (method, path) {
            (&Method::PUT, ["collections", name]) => {
                self.make(name, asked);
                Ok(json!(true))
            }
            (&Method::PUT, ["collections", _, "index"]) => {
                self.snapshots.indexed.extend(asked["field_name"].as_str().map(str::to_owned));
                Ok(json!({"status": "completed"}))
            }
            (&Method::GET, ["collections", name]) => self.describe(name),
            (&Method::PATCH, ["collections", name]) if asked["metadata"].is_object() => {
                let made = self.snapshots.made.entry((*name).to_owned()).or_insert_with(|| json!({}));
                for (key, value) in asked["metadata"].as_object().into_iter().flatten() {
                    made["metadata"][key] = value.clone();
                }
                Ok(json!(true))
            }
            (_, ["collections", name, "points", ..]) => match self.snapshots.points.get_mut(*name) {
                Some(points) => Ok(change(points, &path[3..], asked)),
                None => Err(missing(name)),
            },
            (_, ["collections", name, "shards", shard, "snapshots", file @ ..]) => {
                let shard = shard.parse().unwrap_or_default();
                let is_it = |replica: &Replica| (replica.collection.as_str(), replica.shard) == (*name, shard);
                if !self.replicas.iter().any(|replica| is_it(replica) && replica.peer == peer) {
                    return Some(Err((StatusCode::BAD_REQUEST, format!("Shard {shard} is not a local shard"))));
                }
                match (method, file) {
                    (&Method::PUT, ["recover"]) => self.snapshots.recover(peer, name, shard, asked),
                    _ => self.snapshots.files(method, name, shard, file),
                }
            }
            _ => return None,
        })
    }

    /// Makes a collection, its replicas on one peer after the other.
    fn make(&mut self, name: &str, asked: &Value) {
        self.snapshots.points.insert(name.to_owned(), Points::new());
        self.snapshots.made.insert(name.to_owned(), asked.clone());
        let number = |field: &str| asked[field].as_u64().unwrap_or(1);
        let peers: Vec<_> = self.peers.keys().copied().collect();
        for shard in 0..number("shard_number") {
            for peer in peers
                .iter()
                .cycle()
                .skip(usize::try_from(shard).unwrap_or_default())
                .take(usize::try_from(number("replication_factor")).unwrap_or_default().min(peers.len()))
            {
                self.replicas.push(Replica {
                    collection: name.to_owned(),
                    shard,
                    peer: *peer,
                    state: "Active".to_owned(),
                });
            }
        }
    }

    fn describe(&self, name: &str) -> Answer {
        if !self.replicas.iter().any(|found| found.collection == name) {
            return Err(missing(name));
        }
        let shards: std::collections::BTreeSet<_> =
            self.replicas.iter().filter(|found| found.collection == name).map(|found| found.shard).collect();
        let made = self.snapshots.made.get(name).cloned().unwrap_or_default();
        Ok(json!({
            "config": {
                "params": {
                    "replication_factor": self.factor, "shard_number": shards.len(), "write_consistency_factor": 1,
                    "vectors": {"dense": {"size": 4, "distance": "Cosine"}},
                },
                "metadata": made["metadata"],
            },
            "payload_schema": {"tenant": {"data_type": "keyword", "points": 1}},
            "points_count": self.snapshots.points.get(name).map_or(0, BTreeMap::len),
        }))
    }
}

fn missing(name: &str) -> (StatusCode, String) {
    (StatusCode::NOT_FOUND, format!("Not found: Collection `{name}` doesn't exist!"))
}

fn change(points: &mut Points, operation: &[&str], asked: &Value) -> Value {
    let listed = asked["points"].as_array().into_iter().flatten();
    match operation {
        ["scroll"] => {
            let points = points.iter().map(|(id, payload)| json!({"id": id, "payload": payload}));
            json!({"points": points.collect::<Vec<_>>(), "next_page_offset": null})
        }
        ["count"] => json!({"count": points.len()}),
        ["delete"] => {
            for id in listed {
                points.remove(&id.to_string());
            }
            json!({"operation_id": 0, "status": "completed"})
        }
        _ => {
            for point in listed {
                points.insert(point["id"].to_string(), point["payload"].clone());
            }
            json!({"operation_id": 0, "status": "completed"})
        }
    }
}

impl Snapshots {
    fn files(&mut self, method: &Method, collection: &str, shard: u64, file: &[&str]) -> Answer {
        let files = self.files.entry((collection.to_owned(), shard)).or_default();
        let described = |name: &String| json!({"name": name, "size": BYTES, "creation_time": "2026-11-26T10:00:00"});
        match (method, file) {
            (&Method::GET, []) => Ok(files.iter().map(described).collect()),
            (&Method::POST, []) => {
                if let Some(refusal) = &self.refusal {
                    return Err((StatusCode::INTERNAL_SERVER_ERROR, refusal.clone()));
                }
                // Each a second later, because that is all that tells them apart.
                let now = Timestamp::now();
                let time = self.taken.map_or(now, |last| now.max(last + SignedDuration::from_secs(1)));
                self.taken = Some(time);
                let name = format!("{collection}-shard-{shard}-{}.snapshot", time.strftime("%Y-%m-%d-%H-%M-%S"));
                files.push(name.clone());
                self.saved.insert(name.clone(), self.points.get(collection).cloned().unwrap_or_default());
                Ok(described(&name))
            }
            (&Method::DELETE, [name]) if files.iter().any(|file| file == name) => {
                files.retain(|file| file != name);
                Ok(json!(true))
            }
            _ => Err(gone()),
        }
    }

    fn recover(&mut self, peer: u64, collection: &str, shard: u64, asked: &Value) -> Answer {
        let name = asked["location"].as_str().unwrap_or_default();
        let is_there =
            self.files.get(&(collection.to_owned(), shard)).is_some_and(|files| files.iter().any(|file| file == name));
        let points = self.saved.get(name).filter(|_| is_there).ok_or_else(gone)?;
        self.points.entry(collection.to_owned()).or_default().extend(points.clone());
        self.recovered.push((peer, name.to_owned()));
        Ok(json!(true))
    }
}

fn gone() -> (StatusCode, String) {
    (StatusCode::NOT_FOUND, "Not found: Snapshot".to_owned())
}
