//! What the nodes say of the cluster: who belongs to it, and where the replicas of each shard are and in which state.

use std::collections::BTreeMap;

use futures::future::join_all;
use serde::Deserialize;
use serde_json::Value;

use super::{
    client::{Client, Silence},
    nodes::Node,
};

/// What one node says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    /// The peers that it knows: their addresses by their ids.
    pub(super) peers: BTreeMap<u64, String>,
    /// Whether it takes part in what the cluster agrees on.
    pub(super) agrees: bool,
    /// Its collections.
    pub(super) collections: Vec<Collection>,
}

/// How a collection lies on the nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Collection {
    /// Its name.
    pub(super) name: String,
    /// Each replica of each shard.
    pub(super) replicas: Vec<Replica>,
    /// Whether shards are on their way.
    pub(super) is_moving: bool,
    /// How many replicas it is to have of each shard, where that was asked.
    pub(super) factor: Option<u32>,
}

/// A replica of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Replica {
    /// The shard.
    pub(super) shard: u32,
    /// The peer that has it.
    pub(super) peer: u64,
    /// What that peer can be used for, in Qdrant's word.
    pub(super) state: String,
}

/// State of a replica that has everything and answers.
pub(super) const ACTIVE: &str = "Active";

#[derive(Deserialize)]
struct Cluster {
    peers: BTreeMap<String, Peer>,
    consensus_thread_status: Thread,
    raft_info: Raft,
}

#[derive(Deserialize)]
struct Peer {
    uri: String,
}

#[derive(Deserialize)]
struct Thread {
    consensus_thread_status: String,
}

#[derive(Deserialize)]
struct Raft {
    leader: Option<u64>,
}

#[derive(Deserialize)]
struct Shards {
    peer_id: u64,
    #[serde(rename = "local_shards")]
    local: Vec<Shard>,
    #[serde(rename = "remote_shards")]
    remote: Vec<Shard>,
    shard_transfers: Vec<Value>,
    resharding_operations: Option<Vec<Value>>,
}

#[derive(Deserialize)]
struct Shard {
    #[serde(rename = "shard_id")]
    id: u32,
    /// Missing in what a node has itself.
    peer_id: Option<u64>,
    state: String,
}

/// What each of the nodes says; one without an address says nothing.
pub(super) async fn ask_all(client: &Client, nodes: &[Node]) -> Vec<Result<View, Silence>> {
    join_all(nodes.iter().map(|node| ask(client, node))).await
}

/// What a node says.
pub(super) async fn ask(client: &Client, node: &Node) -> Result<View, Silence> {
    let mut view = cluster(client.get(node, "/cluster").await?)?;
    for name in collections(&client.get(node, "/collections").await?) {
        let found = client.get(node, &format!("/collections/{name}/cluster")).await?;
        view.collections.push(collection(name, found)?);
    }
    Ok(view)
}

/// Asks a node how many replicas each collection is to have.
pub(super) async fn factors(client: &Client, node: &Node, view: &mut View) -> Result<(), Silence> {
    for collection in &mut view.collections {
        let found = client.get(node, &format!("/collections/{}", collection.name)).await?;
        let factor = found["config"]["params"]["replication_factor"].as_u64();
        collection.factor = factor.and_then(|factor| factor.try_into().ok());
    }
    Ok(())
}

fn cluster(answer: Value) -> Result<View, Silence> {
    let Cluster { peers, consensus_thread_status, raft_info } = understood(answer)?;
    let peers = peers.into_iter().filter_map(|(id, Peer { uri })| Some((id.parse().ok()?, uri))).collect();
    let agrees = consensus_thread_status.consensus_thread_status == "working" && raft_info.leader.is_some();
    Ok(View { peers, agrees, collections: Vec::new() })
}

fn collections(answer: &Value) -> Vec<String> {
    let names = answer["collections"].as_array().into_iter().flatten();
    names.filter_map(|collection| collection["name"].as_str().map(str::to_owned)).collect()
}

fn collection(name: String, answer: Value) -> Result<Collection, Silence> {
    let Shards { peer_id: own, local, remote, shard_transfers, resharding_operations } = understood(answer)?;
    let all = local.into_iter().chain(remote);
    let replicas = all.map(|Shard { id, peer_id, state }| {
        let peer = peer_id.unwrap_or(own);
        Replica { shard: id, peer, state }
    });
    let is_moving = !shard_transfers.is_empty() || resharding_operations.is_some_and(|going| !going.is_empty());
    Ok(Collection { name, replicas: replicas.collect(), is_moving, factor: None })
}

fn understood<T: for<'de> Deserialize<'de>>(answer: Value) -> Result<T, Silence> {
    serde_json::from_value(answer).map_err(|error| Silence::Away(format!("says what is not understood: {error}")))
}

impl View {
    /// Whether shards of any collection are on their way.
    pub(super) fn is_moving(&self) -> bool {
        self.collections.iter().any(|collection| collection.is_moving)
    }

    /// What keeps a node from being taken away now, if anything.
    pub(super) fn obstacle(&self, nodes: usize) -> Option<String> {
        if !self.agrees {
            return Some("takes no part in what the cluster agrees on".to_owned());
        }
        if self.peers.len() < nodes {
            return Some(format!("knows {} of {nodes} nodes", self.peers.len()));
        }
        self.collections.iter().find_map(|collection| {
            let Collection { name, replicas, is_moving, factor: _ } = collection;
            let bad = replicas.iter().find(|replica| replica.state != ACTIVE);
            match (bad, is_moving) {
                (Some(Replica { shard, peer, state }), _) => {
                    Some(format!("sees shard {shard} of {name} as {state} on peer {peer}"))
                }
                (None, true) => Some(format!("sees shards of {name} on their way")),
                (None, false) => None,
            }
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    /// As a node of three answered.
    fn view() -> View {
        let mut view = cluster(json!({
            "status": "enabled", "peer_id": 11,
            "peers": {
                "11": {"uri": "https://m-context-qdrant-0.m-context-qdrant-peers.team.svc:6335/"},
                "12": {"uri": "https://m-context-qdrant-1.m-context-qdrant-peers.team.svc:6335/"},
                "13": {"uri": "https://m-context-qdrant-2.m-context-qdrant-peers.team.svc:6335/"},
            },
            "raft_info": {"term": 1, "commit": 14, "pending_operations": 0, "leader": 11, "role": "Leader", "is_voter": true},
            "consensus_thread_status": {"consensus_thread_status": "working", "last_update": "2026-11-26T10:00:00Z"},
            "message_send_failures": {},
        }))
        .unwrap();
        let shards = collection(
            "contexts".to_owned(),
            json!({
                "peer_id": 11, "shard_count": 2,
                "local_shards": [{"shard_id": 0, "points_count": 5, "state": "Active"}],
                "remote_shards": [
                    {"shard_id": 0, "peer_id": 12, "state": "Active"},
                    {"shard_id": 1, "peer_id": 12, "state": "Active"},
                    {"shard_id": 1, "peer_id": 13, "state": "Active"},
                ],
                "shard_transfers": [],
            }),
        );
        view.collections.push(shards.unwrap());
        view
    }

    #[test]
    fn a_node_may_go_when_all_replicas_are_whole_and_none_is_on_its_way() {
        assert_eq!(view().obstacle(3), None);
        assert_eq!(view().peers.len(), 3);
        assert_eq!(view().collections[0].replicas[0], Replica { shard: 0, peer: 11, state: ACTIVE.to_owned() });
        for state in ["Dead", "Partial", "Recovery", "Initializing", "PartialSnapshot"] {
            let mut seen = view();
            seen.collections[0].replicas[2].state = state.to_owned();
            assert_eq!(seen.obstacle(3), Some(format!("sees shard 1 of contexts as {state} on peer 12")));
        }
        let mut moving = view();
        moving.collections[0].is_moving = true;
        assert_eq!(moving.obstacle(3).as_deref(), Some("sees shards of contexts on their way"));
        assert!(moving.is_moving() && !view().is_moving());
    }

    #[test]
    fn a_node_may_not_go_while_another_does_not_take_part() {
        let alone = View { agrees: false, ..view() };
        assert_eq!(alone.obstacle(3).as_deref(), Some("takes no part in what the cluster agrees on"));
        assert_eq!(view().obstacle(4).as_deref(), Some("knows 3 of 4 nodes"));
        assert!(cluster(json!({"status": "disabled"})).is_err());
    }
}
