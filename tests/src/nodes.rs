//! The nodes of a managed Qdrant where no image of one is at hand: pods that no machine takes are called ready by their status, and the
//! REST interface of Qdrant's cluster mode answers for them, on addresses of this machine's loopback, with the shapes of a real cluster's
//! answers and with certificate and key of the Secret that the operator made.

pub mod real;
pub mod snapshots;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result};
use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse as _, Response},
    serve::Listener,
};
use context_manager_protocol::names;
use k8s_openapi::{
    ByteString,
    api::core::v1::{Pod, Secret},
};
use kube::api::{Patch, PatchParams};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    cluster::{Namespace, eventually},
    operator::PATIENCE,
};

/// The port of Qdrant's REST interface.
const PORT: u16 = 6333;
/// The first node's peer id; the others follow.
const FIRST_PEER: u64 = 100;

/// A replica of a shard: of which collection, which shard, on which peer, in which state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// The collection.
    pub collection: String,
    /// The shard.
    pub shard: u64,
    /// The peer.
    pub peer: u64,
    /// The state, in Qdrant's word.
    pub state: String,
}

/// What is true of the cluster.
#[derive(Debug, Default)]
pub struct Truth {
    /// Peers and where they are.
    pub peers: BTreeMap<u64, String>,
    /// All replicas.
    pub replicas: Vec<Replica>,
    /// Shards on their way.
    pub transfers: Vec<Value>,
    /// What was asked for that changes something: method, path and body.
    pub changes: Vec<(String, Value)>,
    /// How many replicas each shard is to have.
    pub factor: u64,
    /// Snapshots of shards.
    pub snapshots: snapshots::Snapshots,
    on_the_way: Option<OnTheWay>,
    key: String,
}

/// A replica that is being made.
#[derive(Debug)]
struct OnTheWay {
    collection: String,
    shard: u64,
    to: u64,
    /// The peer that gives it up.
    from: Option<u64>,
    /// Looks until it is whole.
    looks: u8,
}

/// The nodes; they end when dropped.
pub struct Nodes {
    truth: Arc<Mutex<Truth>>,
    network: [u8; 2],
    certificate: TlsAcceptor,
    name: String,
    tasks: JoinSet<()>,
}

#[derive(Clone)]
struct Served {
    truth: Arc<Mutex<Truth>>,
    peer: u64,
}

/// The peer id of a node.
#[must_use]
pub fn peer(ordinal: u8) -> u64 {
    FIRST_PEER + u64::from(ordinal)
}

impl Nodes {
    /// Makes a resource with so many nodes that no machine takes, and calls them ready.
    ///
    /// # Errors
    /// When their pods are not made.
    pub async fn start(namespace: &Namespace, resource: &str, count: u8) -> Result<Self> {
        Self::start_with(namespace, resource, count, json!({})).await
    }

    /// The same with more in `spec.vectorStore.managed`.
    ///
    /// # Errors
    /// When their pods are not made.
    pub async fn start_with(namespace: &Namespace, resource: &str, count: u8, managed: Value) -> Result<Self> {
        let mut nodes = Self::prepare(namespace, resource, count, managed).await?;
        nodes.join(namespace, count).await?;
        Ok(nodes)
    }

    /// Makes the resource and waits for its pods; nodes do not answer before they [join](Self::join).
    ///
    /// # Errors
    /// When their pods are not made.
    pub async fn prepare(namespace: &Namespace, resource: &str, count: u8, mut managed: Value) -> Result<Self> {
        managed["replicas"] = json!(count);
        managed["scheduling"] = json!({"nodeSelector": {"nowhere": "true"}});
        managed["storage"] = json!({"storageClassName": "", "size": "1Gi"});
        namespace.make_resource(resource, json!({"vectorStore": {"managed": managed}})).await?;
        let last = format!("{}-{}", names::qdrant(resource), count - 1);
        let pods = namespace.api::<Pod>();
        eventually("the pods", PATIENCE, || pods.get(&last)).await?;
        Self::of(namespace, resource).await
    }

    /// Lets so many nodes answer, and calls them ready.
    ///
    /// # Errors
    /// When a pod is not there.
    pub async fn join(&mut self, namespace: &Namespace, count: u8) -> Result<()> {
        for ordinal in 0..count {
            self.serve(ordinal).await?;
            eventually("a pod", PATIENCE, || self.ready(namespace, ordinal)).await?;
        }
        Ok(())
    }

    /// The nodes of a resource whose Secret is made.
    ///
    /// # Errors
    /// When there is no such Secret.
    pub async fn of(namespace: &Namespace, resource: &str) -> Result<Self> {
        let name = names::qdrant(resource);
        let data = namespace.api::<Secret>().get(&name).await?.data.context("the Secret is empty")?;
        let file = |file: &str| data.get(file).map(|ByteString(bytes)| bytes.clone()).context(file.to_owned());
        crate::cluster::install_tls();
        let chain = CertificateDer::pem_slice_iter(&file(names::CERTIFICATE_FILE)?).collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&file(names::PRIVATE_KEY_FILE)?)?;
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
        let truth = Truth { key: String::from_utf8(file("api-key")?)?, factor: 2, ..Truth::default() };
        let network = [rand::random_range(1..=254), rand::random_range(1..=254)];
        let certificate = TlsAcceptor::from(Arc::new(config));
        Ok(Self { truth: Arc::new(Mutex::new(truth)), network, certificate, name, tasks: JoinSet::new() })
    }

    /// What is true of the cluster, to be looked at and changed.
    pub fn truth(&self) -> MutexGuard<'_, Truth> {
        self.truth.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes replicas that are whole: of which collection, which shard, on which node.
    pub fn put(&self, replicas: &[(&str, u64, u8)]) {
        let replicas = replicas.iter().map(|&(collection, shard, ordinal)| Replica {
            collection: collection.to_owned(),
            shard,
            peer: peer(ordinal),
            state: "Active".to_owned(),
        });
        self.truth().replicas.extend(replicas);
    }

    /// Lets a node answer and join the cluster.
    ///
    /// # Errors
    /// When its address is taken.
    pub async fn serve(&mut self, ordinal: u8) -> Result<()> {
        let listener = TcpListener::bind(SocketAddr::new(self.address(ordinal), PORT)).await?;
        let uri = format!("https://{}-{ordinal}.peers.svc:6335/", self.name);
        self.truth().peers.insert(peer(ordinal), uri);
        let served = Served { truth: Arc::clone(&self.truth), peer: peer(ordinal) };
        let router = Router::new().fallback(answer).with_state(served);
        let listener = Encrypted { listener, certificate: self.certificate.clone() };
        self.tasks.spawn(async move { axum::serve(listener, router).await.unwrap_or_default() });
        Ok(())
    }

    fn address(&self, ordinal: u8) -> IpAddr {
        let [a, b] = self.network;
        Ipv4Addr::new(127, a, b, 10 + ordinal).into()
    }

    /// Says of a node's pod that it runs and is ready, as a kubelet would.
    ///
    /// # Errors
    /// When there is no such pod.
    pub async fn ready(&self, namespace: &Namespace, ordinal: u8) -> Result<()> {
        let address = self.address(ordinal).to_string();
        let now = jiff::Timestamp::now().to_string();
        let status = json!({"status": {
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}],
        }});
        let pods = namespace.api::<Pod>();
        let name = format!("{}-{ordinal}", self.name);
        // Others write the status, too: of lists of conditions each entry is merged by its type.
        pods.patch_status(&name, &PatchParams::default(), &Patch::Strategic(status)).await?;
        Ok(())
    }
}

struct Encrypted {
    listener: TcpListener,
    certificate: TlsAcceptor,
}

impl Listener for Encrypted {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, address)) = self.listener.accept().await else { continue };
            if let Ok(stream) = self.certificate.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

async fn answer(State(served): State<Served>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let (answer, is_silent) = answer_of(&served, &method, &uri, &headers, &body);
    if is_silent && method == Method::POST && uri.path().ends_with("/snapshots") {
        std::future::pending::<()>().await;
    }
    answer
}

/// The answer, and whether nothing is said of snapshots.
fn answer_of(
    Served { truth, peer }: &Served,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &Bytes,
) -> (Response, bool) {
    let mut truth = truth.lock().unwrap_or_else(PoisonError::into_inner);
    (answer_truly(&mut truth, *peer, method, uri, headers, body), truth.snapshots.silent)
}

fn answer_truly(
    truth: &mut Truth,
    peer: u64,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &Bytes,
) -> Response {
    if headers.get("api-key").is_none_or(|key| key.as_bytes() != truth.key.as_bytes()) {
        return (StatusCode::UNAUTHORIZED, "Must provide an API key or an Authorization bearer token").into_response();
    }
    let path: Vec<_> = uri.path().trim_matches('/').split('/').collect();
    let asked: Value = serde_json::from_slice(body).unwrap_or_default();
    if let Some(answer) = truth.snapshots(peer, method, &path, &asked) {
        return match answer {
            Ok(result) => Json(json!({"result": result, "status": "ok", "time": 0.001})).into_response(),
            Err((status, why)) => (status, Json(json!({"status": {"error": why}, "time": 0.001}))).into_response(),
        };
    }
    let result = match (method, path.as_slice()) {
        (&Method::GET, ["cluster"]) => truth.cluster(peer),
        (&Method::GET, ["collections"]) => truth.collections(),
        (&Method::GET, ["collections", name, "cluster"]) => truth.look(name, peer),
        (_, path) => {
            truth.changes.push((format!("{method} {}", uri.path()), asked.clone()));
            if let Err(refused) = truth.change(path, &asked) {
                let answer = json!({"status": {"error": refused}, "time": 0.001});
                return (StatusCode::BAD_REQUEST, Json(answer)).into_response();
            }
            json!(true)
        }
    };
    Json(json!({"result": result, "status": "ok", "time": 0.001})).into_response()
}

impl Truth {
    fn cluster(&self, peer: u64) -> Value {
        let peers: BTreeMap<_, _> = self.peers.iter().map(|(id, uri)| (id.to_string(), json!({"uri": uri}))).collect();
        json!({
            "status": "enabled", "peer_id": peer, "peers": peers,
            "raft_info": {"term": 1, "commit": 10, "pending_operations": 0, "leader": FIRST_PEER, "role": "Follower", "is_voter": true},
            "consensus_thread_status": {"consensus_thread_status": "working", "last_update": "2026-11-26T10:00:00Z"},
            "message_send_failures": {},
        })
    }

    fn collections(&self) -> Value {
        let mut names: Vec<_> = self.replicas.iter().map(|replica| &replica.collection).collect();
        names.sort_unstable();
        names.dedup();
        json!({"collections": names.into_iter().map(|name| json!({"name": name})).collect::<Vec<_>>()})
    }

    /// What Qdrant makes of what it is asked for.
    fn change(&mut self, path: &[&str], asked: &Value) -> Result<(), &'static str> {
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        if let ["cluster", "peer", peer] = path {
            let peer = peer.parse().unwrap_or_default();
            if self.replicas.iter().any(|replica| replica.peer == peer) {
                return Err("Bad request: Cannot remove peer as there are shards on it");
            }
            self.peers.remove(&peer);
            return Ok(());
        }
        let ["collections", collection, ..] = path else { return Err("Not found") };
        if let Some(factor) = asked["params"]["replication_factor"].as_u64() {
            self.factor = factor;
        }
        if let Some(dropped) = asked.get("drop_replica") {
            let (shard, peer) = (number(&dropped["shard_id"]), number(&dropped["peer_id"]));
            self.replicas.retain(|replica| (replica.shard, replica.peer) != (shard, peer));
        }
        for (operation, is_move) in [("replicate_shard", false), ("move_shard", true)] {
            let Some(asked) = asked.get(operation) else { continue };
            if self.on_the_way.is_some() {
                return Err("Bad request: Shard is already involved in transfer");
            }
            let (shard, from, to) =
                (number(&asked["shard_id"]), number(&asked["from_peer_id"]), number(&asked["to_peer_id"]));
            let collection = (*collection).to_owned();
            self.replicas.push(Replica {
                collection: collection.clone(),
                shard,
                peer: to,
                state: "Partial".to_owned(),
            });
            self.transfers.push(json!({"shard_id": shard, "from": from, "to": to, "sync": !is_move}));
            self.on_the_way = Some(OnTheWay { collection, shard, to, from: is_move.then_some(from), looks: 4 });
        }
        Ok(())
    }

    /// What a node sees; each look brings what is on its way nearer.
    fn look(&mut self, name: &str, peer: u64) -> Value {
        let seen = self.collection(name, peer);
        let Some(OnTheWay { collection, shard, to, from, looks }) = self.on_the_way.take() else { return seen };
        if looks > 0 {
            self.on_the_way = Some(OnTheWay { collection, shard, to, from, looks: looks - 1 });
            return seen;
        }
        self.transfers.clear();
        let is_it = |replica: &Replica| replica.collection == collection && replica.shard == shard;
        self.replicas.retain(|replica| !(is_it(replica) && Some(replica.peer) == from));
        for replica in self.replicas.iter_mut().filter(|replica| is_it(replica) && replica.peer == to) {
            "Active".clone_into(&mut replica.state);
        }
        seen
    }

    fn collection(&self, name: &str, peer: u64) -> Value {
        let ours = || self.replicas.iter().filter(|replica| replica.collection == name);
        let local = ours().filter(|replica| replica.peer == peer);
        let remote = ours().filter(|replica| replica.peer != peer);
        json!({
            "peer_id": peer, "shard_count": 1,
            "local_shards": local
                .map(|replica| json!({"shard_id": replica.shard, "points_count": 0, "state": replica.state}))
                .collect::<Vec<_>>(),
            "remote_shards": remote
                .map(|replica| json!({"shard_id": replica.shard, "peer_id": replica.peer, "state": replica.state}))
                .collect::<Vec<_>>(),
            "shard_transfers": self.transfers,
        })
    }
}
