//! What the nodes say of the cluster: who belongs to it, and where the replicas of each shard are and in which state.

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt as _, stream};
use serde::{Deserialize, de::IgnoredAny};
use tokio::time::{Instant, timeout_at};

use super::{
    client::{Client, Silence, words},
    nodes::Node,
};

/// Most nodes that are asked at once.
const AT_ONCE: usize = 8;
/// Longest time of all that nodes are asked for one look at them.
const LOOK: Duration = Duration::from_secs(10);
/// Most bytes of all that one of them answers: a collection of a thousand shards with 32 replicas each, the most there can be, is within.
const LARGEST: usize = 5 << 19;

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

/// What one node says of what is done with nodes, which is what is kept of each while the others are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Opinion {
    /// What keeps a node from being taken away now.
    pub(super) obstacle: Option<String>,
    /// Whether shards are on their way.
    pub(super) is_moving: bool,
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
    shard_transfers: Vec<IgnoredAny>,
    resharding_operations: Option<Vec<IgnoredAny>>,
}

#[derive(Deserialize)]
struct Shard {
    #[serde(rename = "shard_id")]
    id: u32,
    /// Missing in what a node has itself.
    peer_id: Option<u64>,
    state: String,
}

#[derive(Deserialize)]
struct Collections {
    collections: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct Described {
    config: Configured,
}

#[derive(Deserialize)]
struct Configured {
    params: Params,
}

#[derive(Deserialize)]
struct Params {
    replication_factor: Option<u32>,
}

/// What each of so many nodes says; one without an address says nothing.
pub(super) async fn ask_all(client: &Client, nodes: &[Node], wanted: usize) -> Vec<Result<Opinion, Silence>> {
    let until = Instant::now() + LOOK;
    let asked: Vec<_> = nodes.iter().map(|node| opinion(client, node, wanted, until)).collect();
    stream::iter(asked).buffered(AT_ONCE).collect().await
}

async fn opinion(client: &Client, node: &Node, wanted: usize, until: Instant) -> Result<Opinion, Silence> {
    let view = ask_until(client, node, until).await?;
    Ok(Opinion { obstacle: view.obstacle(wanted), is_moving: view.is_moving() })
}

/// What a node says.
pub(super) async fn ask(client: &Client, node: &Node) -> Result<View, Silence> {
    ask_until(client, node, Instant::now() + LOOK).await
}

async fn ask_until(client: &Client, node: &Node, until: Instant) -> Result<View, Silence> {
    // Whoever answers for a node may name as many collections as they like.
    let mut left = LARGEST;
    let asking = async {
        let mut view = cluster(client.look(node, "/cluster", &mut left).await?);
        let Collections { collections } = client.look(node, "/collections", &mut left).await?;
        for Named { name } in collections {
            let found = client.look(node, &format!("/collections/{name}/cluster"), &mut left).await?;
            view.collections.push(collection(name, found));
        }
        Ok::<_, Silence>(view)
    };
    let answered = timeout_at(until, asking).await;
    answered.unwrap_or_else(|_| Err(Silence::Away("does not answer in time".to_owned())))
}

/// Asks a node how many replicas each collection is to have.
pub(super) async fn factors(client: &Client, node: &Node, view: &mut View) -> Result<(), Silence> {
    let mut left = LARGEST;
    for collection in &mut view.collections {
        let path = format!("/collections/{}", collection.name);
        let Described { config } = client.look(node, &path, &mut left).await?;
        collection.factor = config.params.replication_factor;
    }
    Ok(())
}

fn cluster(answer: Cluster) -> View {
    let Cluster { peers, consensus_thread_status, raft_info } = answer;
    let peers = peers.into_iter().filter_map(|(id, Peer { uri })| Some((id.parse().ok()?, uri))).collect();
    let agrees = consensus_thread_status.consensus_thread_status == "working" && raft_info.leader.is_some();
    View { peers, agrees, collections: Vec::new() }
}

fn collection(name: String, answer: Shards) -> Collection {
    let Shards { peer_id: own, local, remote, shard_transfers, resharding_operations } = answer;
    let all = local.into_iter().chain(remote);
    let replicas = all.map(|Shard { id, peer_id, state }| {
        let peer = peer_id.unwrap_or(own);
        Replica { shard: id, peer, state }
    });
    let is_moving = !shard_transfers.is_empty() || resharding_operations.is_some_and(|going| !going.is_empty());
    Collection { name, replicas: replicas.collect(), is_moving, factor: None }
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
            let name = words(name);
            match (bad, is_moving) {
                (Some(Replica { shard, peer, state }), _) => {
                    Some(format!("sees shard {shard} of {name} as {} on peer {peer}", words(state)))
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
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use serde_json::{from_value, json};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::controller::{fence::Fence, store::Credentials};

    /// As a node of three answered.
    fn view() -> View {
        let answer = json!({
            "status": "enabled", "peer_id": 11,
            "peers": {
                "11": {"uri": "https://m-context-qdrant-0.m-context-qdrant-peers.team.svc:6335/"},
                "12": {"uri": "https://m-context-qdrant-1.m-context-qdrant-peers.team.svc:6335/"},
                "13": {"uri": "https://m-context-qdrant-2.m-context-qdrant-peers.team.svc:6335/"},
            },
            "raft_info": {"term": 1, "commit": 14, "pending_operations": 0, "leader": 11, "role": "Leader", "is_voter": true},
            "consensus_thread_status": {"consensus_thread_status": "working", "last_update": "2026-11-26T10:00:00Z"},
            "message_send_failures": {},
        });
        let mut view = cluster(from_value(answer).unwrap());
        let answer = json!({
            "peer_id": 11, "shard_count": 2,
            "local_shards": [{"shard_id": 0, "points_count": 5, "state": "Active"}],
            "remote_shards": [
                {"shard_id": 0, "peer_id": 12, "state": "Active"},
                {"shard_id": 1, "peer_id": 12, "state": "Active"},
                {"shard_id": 1, "peer_id": 13, "state": "Active"},
            ],
            "shard_transfers": [],
        });
        view.collections.push(collection("contexts".to_owned(), from_value(answer).unwrap()));
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

    #[tokio::test]
    async fn a_node_that_names_collections_without_end_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let node = Node { address: listener.local_addr().ok(), host: "node".to_owned(), ..Node::default() };
        let asked = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&asked);
        tokio::spawn(async move {
            let cluster = json!({
                "peers": {}, "raft_info": {"leader": 1}, "consensus_thread_status": {"consensus_thread_status": "working"},
            });
            let collections = json!({"collections": vec![json!({"name": "c"}); 1_000]});
            let shards = vec![json!({"shard_id": 0, "state": "Active"}); 1_000];
            let shards = json!({"peer_id": 1, "local_shards": shards, "remote_shards": [], "shard_transfers": []});
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let mut request = [0; 4096];
                let read = stream.read(&mut request).await.unwrap_or_default();
                let result = match String::from_utf8_lossy(&request[..read]).split(' ').nth(1) {
                    Some("/cluster") => &cluster,
                    Some("/collections") => &collections,
                    Some(_) | None => &shards,
                };
                let answer = json!({"result": result}).to_string();
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let credentials = Credentials { key: Some("key".into()), ..Credentials::default() };
        let client = Client::new(&credentials, Fence::until(Instant::now() + Duration::from_mins(1))).unwrap();
        let silence = ask(&client, &node).await.unwrap_err();
        assert_eq!(silence.to_string(), "answers with more than is read");
        assert!(asked.load(Ordering::Relaxed) < 100, "a thousand are named");
        let all = ask_all(&client, &[node, Node::default()], 2).await;
        assert_eq!(all, [Err(silence), Err(Silence::Away("has no address yet".to_owned()))]);
    }

    #[test]
    fn a_node_may_not_go_while_another_does_not_take_part() {
        let alone = View { agrees: false, ..view() };
        assert_eq!(alone.obstacle(3).as_deref(), Some("takes no part in what the cluster agrees on"));
        assert_eq!(view().obstacle(4).as_deref(), Some("knows 3 of 4 nodes"));
        assert!(from_value::<Cluster>(json!({"status": "disabled"})).is_err());
        let mut wordy = view();
        wordy.collections[0].replicas[0].state = "x".repeat(LARGEST);
        wordy.collections[0].name = "x".repeat(LARGEST);
        assert!(wordy.obstacle(3).unwrap().len() < 2_000, "it is told to a person");
    }
}
