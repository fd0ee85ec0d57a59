//! A cluster of real Qdrant servers, each a process on this machine, so that one of them can go while the others stay.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use qdrant_client::qdrant::{LocalShardInfo, RemoteShardInfo, ReplicaState};

use super::{Peer, Qdrant};
use crate::nodes::real;

/// Between two looks at the replicas.
const LOOK: Duration = Duration::from_millis(200);

/// The nodes; they are killed when dropped.
pub struct Nodes(Vec<Qdrant>);

impl Nodes {
    /// Starts so many nodes with their data in `folder`.
    ///
    /// # Errors
    /// When no real server is named, or one does not listen.
    pub async fn start(folder: &Path, count: usize) -> Result<Self> {
        real::required()?;
        let free = || anyhow::Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port());
        let first = free()?;
        let mut nodes = Vec::with_capacity(count);
        for number in 0..count {
            let port = if number == 0 { first } else { free()? };
            let mut node = Qdrant {
                folder: folder.join(format!("node-{number}")),
                address: SocketAddr::from((Ipv4Addr::LOCALHOST, free()?)),
                cluster: Some(Peer { port, first }),
                child: None,
            };
            node.restart().await?;
            nodes.push(node);
        }
        Ok(Self(nodes))
    }

    /// Where they listen.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(Qdrant::address).collect()
    }

    /// Kills one as a crash would.
    ///
    /// # Errors
    /// When there is none of that number, or it cannot be waited for.
    pub fn kill(&mut self, number: usize) -> Result<()> {
        self.0.get_mut(number).context("a node")?.kill()
    }

    /// Starts one again.
    ///
    /// # Errors
    /// When there is none of that number, or it does not listen.
    pub async fn restart(&mut self, number: usize) -> Result<()> {
        self.0.get_mut(number).context("a node")?.restart().await
    }

    /// Stops one where it is.
    ///
    /// # Errors
    /// When there is none of that number, or it does not run.
    pub fn pause(&self, number: usize) -> Result<()> {
        self.0.get(number).context("a node")?.pause()
    }

    /// Lets one go on.
    ///
    /// # Errors
    /// When there is none of that number, or it does not run.
    pub fn resume(&self, number: usize) -> Result<()> {
        self.0.get(number).context("a node")?.resume()
    }

    /// Waits until every node sees every replica of the collection as active.
    ///
    /// # Errors
    /// When that takes longer than `patience`.
    pub async fn whole(&self, collection: &str, patience: Duration) -> Result<()> {
        let started = Instant::now();
        for node in &self.0 {
            loop {
                let states = states(node.address, collection).await;
                if states.as_ref().is_ok_and(|states| states.iter().all(|state| *state == ReplicaState::Active)) {
                    break;
                }
                ensure!(started.elapsed() < patience, "replicas after {patience:?}: {states:?}");
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(())
    }
}

/// The states of all replicas, as one node sees them.
async fn states(node: SocketAddr, collection: &str) -> Result<Vec<ReplicaState>> {
    let client = qdrant_client::Qdrant::from_url(&format!("http://{node}")).skip_compatibility_check().build()?;
    let info = client.collection_cluster_info(collection).await?;
    let (here, there) = (info.local_shards, info.remote_shards);
    ensure!(!here.is_empty() || !there.is_empty(), "it sees no shard");
    Ok(here.iter().map(LocalShardInfo::state).chain(there.iter().map(RemoteShardInfo::state)).collect())
}
