//! Takes one snapshot: a file for each shard, from a node that has a whole replica of it, and at last one of the catalogue.
//!
//! Shards are taken one after the other, each as it is at that moment. What is unfinished is written down before its files are, so that
//! the next one can delete them, also the one that was on its way when the controller ended: it is known by its shard and its time.

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;
use tracing::info;

use super::{
    catalogue::{self, Catalogue, Definition, Record},
    cluster::{Cluster, said, shards},
    schedule::{self, Abandoned, Superfluous},
};
use crate::controller::{
    managed::{
        client::{Client, Silence},
        config,
        nodes::Node,
        view::View,
    },
    plan::{ManagedPlan, Plan, SnapshotPlace, SnapshotPlan, Source},
};

/// What is to be taken.
pub(super) struct Job {
    cluster: Cluster,
    snapshots: SnapshotPlan,
    collection: String,
    /// Replicas of each shard.
    factor: u32,
}

/// What was taken.
pub(super) struct Taken {
    /// The snapshot.
    pub(super) record: Record,
    /// All that there are now.
    pub(super) records: Vec<Record>,
}

/// Where a resource's snapshots are, in words that differ for different places.
pub(super) fn place(plan: &Plan, snapshots: &SnapshotPlan) -> String {
    in_words(&snapshots.place, &config::folder(&snapshots.place, plan))
}

/// Where those of another resource are.
pub(super) fn place_of(Source { namespace, name }: &Source, snapshots: &SnapshotPlan) -> String {
    in_words(&snapshots.place, &config::folder_of(&snapshots.place, namespace, name))
}

fn in_words(place: &SnapshotPlace, folder: &str) -> String {
    match place {
        SnapshotPlace::OwnClaim(claim) => format!("claim {}:{folder}", claim.name),
        SnapshotPlace::GivenClaim(name) => format!("claim {name}:{folder}"),
        SnapshotPlace::Bucket(bucket) => {
            format!("bucket {} at {}:{folder}", bucket.bucket, bucket.endpoint_url.as_deref().unwrap_or("AWS"))
        }
    }
}

impl Job {
    /// A snapshot of the resource's collection.
    pub(super) fn new(
        plan: &Plan,
        wanted: &ManagedPlan,
        snapshots: &SnapshotPlan,
        client: Arc<Client>,
        nodes: Vec<Node>,
    ) -> Self {
        Self {
            cluster: Cluster { plan: plan.clone(), client, nodes },
            snapshots: snapshots.clone(),
            collection: wanted.qdrant.store.collection.clone(),
            factor: wanted.replicas,
        }
    }

    /// The value of the annotation when it was begun.
    pub(super) fn request(&self) -> Option<String> {
        self.snapshots.request.clone()
    }

    /// Takes it.
    pub(super) async fn run(&self, now: Timestamp) -> Result<Taken, String> {
        let Self { cluster, snapshots, collection, factor } = self;
        let first = cluster.first()?;
        catalogue::inherit(cluster, first, *factor).await?;
        let view = cluster.view(first).await?;
        let mut record = Record::begin(now, place(&cluster.plan, snapshots), self.request(), collection);
        record.definition = self.definition(first).await?;
        self.write(first, &record).await?;
        for shard in shards(&view, collection) {
            record.files.push(cluster.take(&view, collection, shard).await?);
            self.write(first, &record).await?;
        }
        record.ended = Some(Timestamp::now());
        self.write(first, &record).await?;
        // It is whole now; what is needed to make use of it follows, and only then are older ones given up.
        cluster.take(&view, catalogue::COLLECTION, catalogue::SHARD).await?;
        let records = self.prune(&view, first, &record).await?;
        Ok(Taken { record, records })
    }

    /// What the collection is like.
    async fn definition(&self, node: &Node) -> Result<Definition, String> {
        let collection = &self.collection;
        match self.cluster.client.get(node, &format!("/collections/{collection}")).await {
            Ok(found) => Ok(Definition::of(found)),
            Err(Silence::Missing(_)) => Err(format!("there is no collection {collection}")),
            Err(silence) => Err(said(node, "describe the collection")(silence)),
        }
    }

    async fn write(&self, node: &Node, record: &Record) -> Result<(), String> {
        catalogue::write(&self.cluster.client, node, record).await.map_err(said(node, "note a snapshot"))
    }

    /// Gives up what is not kept beside the new one, and says what is left.
    async fn prune(&self, view: &View, first: &Node, newest: &Record) -> Result<Vec<Record>, String> {
        let client = &self.cluster.client;
        let read = catalogue::read(client, first).await;
        let Catalogue { mut records, has_more } = read.map_err(said(first, "say which snapshots there are"))?;
        let known: BTreeSet<_> =
            records.iter().flat_map(|record| &record.files).map(|file| file.name.clone()).collect();
        let keep = self.snapshots.keep;
        for superfluous in schedule::superfluous(&records, &newest.place, keep, Timestamp::now()) {
            let gone = match superfluous {
                Superfluous::Delete(gone) => {
                    self.delete(view, &gone).await?;
                    gone
                }
                Superfluous::Abandon(left) => {
                    self.delete(view, &left.record).await?;
                    if has_more {
                        // A file that nobody seems to know may belong to what is not understood.
                        continue;
                    }
                    self.delete_lost(view, &left, &known).await?;
                    if left.is_open {
                        continue;
                    }
                    left.record
                }
                Superfluous::Forget(gone) => gone,
            };
            catalogue::forget(client, first, &gone).await.map_err(said(first, "forget a snapshot"))?;
            records.retain(|record| record.name != gone.name);
        }
        let (catalogue, shard) = (catalogue::COLLECTION, catalogue::SHARD);
        for name in catalogue::outdated(self.cluster.list(view, catalogue, shard).await?) {
            self.cluster.delete(view, catalogue, shard, &name).await?;
        }
        Ok(records)
    }

    /// Deletes the files that a snapshot is known to have.
    async fn delete(&self, view: &View, gone: &Record) -> Result<(), String> {
        for file in &gone.files {
            self.cluster.delete(view, &gone.collection, file.shard, &file.name).await?;
        }
        Ok(())
    }

    /// Deletes those that it has without anybody knowing.
    async fn delete_lost(&self, view: &View, left: &Abandoned, known: &BTreeSet<String>) -> Result<(), String> {
        let collection = &left.record.collection;
        for shard in shards(view, collection) {
            for file in self.cluster.list(view, collection, shard).await? {
                if left.has_lost(shard, &file, known) {
                    self.cluster.delete(view, collection, shard, &file).await?;
                    info!(file, "Deleted a file that was left of a snapshot that was broken off");
                }
            }
        }
        Ok(())
    }
}
