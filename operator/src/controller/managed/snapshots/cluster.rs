//! The nodes as far as snapshots go: which of them has a shard, and what is asked of it.

use std::{fmt, sync::Arc, time::Duration};

use http::Method;
use serde_json::{Value, json};
use tracing::debug;

use super::catalogue::File;
use crate::controller::{
    managed::{
        client::{Client, Silence, words},
        config::REST,
        nodes::Node,
        scale::peer_of,
        view::{self, ACTIVE, Replica, View},
    },
    plan::Plan,
};

/// Longest time that Qdrant may take for a shard.
pub(super) const LONGEST: Duration = Duration::from_hours(2);
/// Longest time of what changes the cluster, or deletes a file.
const CHANGE: Duration = Duration::from_mins(1);
/// How often replicas are looked at until all of them are whole, and the pause between.
const LOOKS: u32 = 60;
const PAUSE: Duration = Duration::from_secs(1);

/// The nodes of a resource.
pub(super) struct Cluster {
    pub(super) plan: Plan,
    pub(super) client: Arc<Client>,
    pub(super) nodes: Vec<Node>,
}

/// Where the file is that a shard is brought back from.
pub(super) enum Location {
    /// With the collection's own: its name.
    Own(String),
    /// With those of another collection, from which a node hands it over.
    Elsewhere {
        /// Where it is asked for.
        url: String,
    },
}

impl fmt::Display for Location {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Own(text) | Self::Elsewhere { url: text }) = self;
        out.write_str(text)
    }
}

/// Puts a node's name, and what it was asked, before what it said.
pub(super) fn said(node: &Node, what: &str) -> impl FnOnce(Silence) -> String {
    let (name, what) = (node.name.clone(), what.to_owned());
    move |silence| format!("{name} was asked to {what}, and {silence}")
}

/// The replicas of a collection.
pub(super) fn replicas<'v>(view: &'v View, collection: &str) -> impl Iterator<Item = &'v Replica> {
    let found = view.collections.iter().find(|found| found.name == collection);
    found.into_iter().flat_map(|found| &found.replicas)
}

/// The shards of a collection, in order.
pub(super) fn shards(view: &View, collection: &str) -> Vec<u32> {
    let mut shards: Vec<_> = replicas(view, collection).map(|replica| replica.shard).collect();
    shards.sort_unstable();
    shards.dedup();
    shards
}

fn snapshots(collection: &str, shard: u32) -> String {
    format!("/collections/{collection}/shards/{shard}/snapshots")
}

impl Cluster {
    /// A node that answers.
    pub(super) fn first(&self) -> Result<&Node, String> {
        self.nodes.iter().find(|node| node.is_ready).ok_or_else(|| "no node is ready".to_owned())
    }

    /// What a node says of the cluster.
    pub(super) async fn view(&self, node: &Node) -> Result<View, String> {
        view::ask(&self.client, node).await.map_err(said(node, "say where the shards are"))
    }

    /// The same once a collection is there and every replica of it is whole, whatever there is beside it.
    pub(super) async fn settled(&self, node: &Node, collection: &str) -> Result<View, String> {
        let mut obstacle = String::new();
        for _ in 0..LOOKS {
            let view = self.view(node).await?;
            let own: Vec<_> = view.collections.iter().filter(|found| found.name == collection).cloned().collect();
            let is_there = !own.is_empty();
            obstacle = match (View { collections: own, ..view.clone() }).obstacle(self.nodes.len()) {
                None if is_there => return Ok(view),
                None => format!("does not see the collection {collection}"),
                Some(obstacle) => obstacle,
            };
            tokio::time::sleep(PAUSE).await;
        }
        Err(format!("{} {obstacle}", node.name))
    }

    /// Asks a node for a change, with `what` it is in words.
    pub(super) async fn change(
        &self,
        node: &Node,
        (method, path, body): (Method, &str, Option<&Value>),
        what: &str,
    ) -> Result<Value, String> {
        self.client.call_within(CHANGE, node, method, path, body).await.map_err(said(node, what))
    }

    /// Nodes that are ready and have a whole replica of a shard.
    pub(super) fn holders(&self, view: &View, collection: &str, shard: u32) -> Vec<&Node> {
        let is_whole = |replica: &&Replica| replica.shard == shard && replica.state == ACTIVE;
        let peers: Vec<_> = replicas(view, collection).filter(is_whole).map(|replica| replica.peer).collect();
        let has = |node: &&Node| peer_of(&self.plan, view, node.ordinal).is_some_and(|peer| peers.contains(&peer));
        self.nodes.iter().filter(|node| node.is_ready).filter(has).collect()
    }

    /// One of them.
    pub(super) fn holder(&self, view: &View, collection: &str, shard: u32) -> Result<&Node, String> {
        let none = || format!("no node that is ready has a whole replica of shard {shard} of {collection}");
        self.holders(view, collection, shard).first().copied().ok_or_else(none)
    }

    /// Takes a snapshot of a shard.
    pub(super) async fn take(&self, view: &View, collection: &str, shard: u32) -> Result<File, String> {
        let node = self.holder(view, collection, shard)?;
        let path = format!("{}?wait=true", snapshots(collection, shard));
        let taken = self.client.call_within(LONGEST, node, Method::POST, &path, None).await;
        let taken = taken.map_err(said(node, &format!("take a snapshot of shard {shard} of {collection}")))?;
        let (Some(name), Some(bytes)) = (taken["name"].as_str(), taken["size"].as_u64()) else {
            return Err(format!("{} took a snapshot and does not name it: {}", node.name, words(&taken.to_string())));
        };
        Ok(File { shard, name: name.to_owned(), bytes })
    }

    /// The names of a shard's snapshots.
    pub(super) async fn list(&self, view: &View, collection: &str, shard: u32) -> Result<Vec<String>, String> {
        let node = self.holder(view, collection, shard)?;
        let listed = self.client.call_within(CHANGE, node, Method::GET, &snapshots(collection, shard), None).await;
        let listed = listed.map_err(said(node, &format!("list the snapshots of shard {shard} of {collection}")))?;
        let files = listed.as_array().into_iter().flatten();
        Ok(files.filter_map(|file| file["name"].as_str().map(str::to_owned)).collect())
    }

    /// Brings a shard back, each replica from the file, so that none is empty for a moment.
    pub(super) async fn recover(
        &self,
        view: &View,
        collection: &str,
        shard: u32,
        location: &Location,
    ) -> Result<(), String> {
        let holders = self.holders(view, collection, shard);
        let all = replicas(view, collection).filter(|replica| replica.shard == shard).count();
        if holders.is_empty() || holders.len() != all {
            return Err(format!("{} of {all} replicas of shard {shard} of {collection} are ready", holders.len()));
        }
        // Nobody is asked for a checksum: Qdrant knows one of files on its own disk alone.
        let body = json!({"location": location.to_string(), "priority": "no_sync"});
        let body = match location {
            Location::Own(_) => body,
            Location::Elsewhere { .. } => self.client.with_key(body),
        };
        for node in holders {
            let path = format!("{}/recover?wait=true", snapshots(collection, shard));
            let brought = self.client.call_within(LONGEST, node, Method::PUT, &path, Some(&body)).await;
            brought.map_err(said(node, &format!("bring shard {shard} of {collection} back from {location}")))?;
        }
        Ok(())
    }

    /// Where a file of another collection is: at a node that has the shard of its number there.
    pub(super) fn elsewhere(&self, view: &View, collection: &str, file: &File) -> Result<Location, String> {
        let File { shard, name, bytes: _ } = file;
        let scheme = if self.client.is_encrypted() { "https" } else { "http" };
        let host = &self.holder(view, collection, *shard)?.host;
        let path = format!("{}/{name}", snapshots(collection, *shard));
        Ok(Location::Elsewhere { url: format!("{scheme}://{host}:{REST}{path}") })
    }

    /// Deletes a file; one that is gone already is gone.
    pub(super) async fn delete(&self, view: &View, collection: &str, shard: u32, file: &str) -> Result<(), String> {
        let node = self.holder(view, collection, shard)?;
        let path = format!("{}/{file}?wait=true", snapshots(collection, shard));
        match self.client.call_within(CHANGE, node, Method::DELETE, &path, None).await {
            Ok(_) => Ok(()),
            Err(Silence::Missing(_)) => {
                debug!(file, "A snapshot that was to be deleted is gone");
                Ok(())
            }
            Err(silence) => Err(said(node, &format!("delete the snapshot {file}"))(silence)),
        }
    }
}
