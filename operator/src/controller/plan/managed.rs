//! A Qdrant cluster that the operator runs.

use std::{collections::BTreeMap, fmt, time::Duration};

use context_manager_crds::{
    ContextManager,
    context_manager::{
        ReclaimPolicy,
        managed::{Managed, NodeResources, NodeStorage, Scheduling},
        sidecar::ResourceList,
        snapshots::{RestoreFrom, SnapshotBucket, SnapshotStorage, SnapshotVolume, Snapshots},
    },
    duration::Duration as DurationText,
    quantity::Quantity,
};
use context_manager_protocol::{config::SidecarConfig, names};
use kube::ResourceExt as _;

use super::{
    ClaimPlan,
    store::{CaSource, QdrantPlan},
};

/// The image unless the resource says otherwise.
const IMAGE: &str = "qdrant/qdrant:v1.19.0-unprivileged";

/// How many snapshots are kept unless the resource says otherwise.
const SNAPSHOTS_KEPT: usize = 7;

/// A Qdrant cluster that the operator runs.
#[derive(Clone, Debug, PartialEq)]
pub struct ManagedPlan {
    /// What the sidecars and the operator itself need to know of it.
    pub qdrant: QdrantPlan,
    /// Number of nodes.
    pub nodes: i32,
    /// Replicas of each shard.
    pub replicas: u32,
    /// The image.
    pub image: String,
    /// The class of the volumes; `None` is the cluster's default.
    pub storage_class: Option<String>,
    /// Their size.
    pub size: Quantity,
    /// What is reserved for a node.
    pub requests: BTreeMap<&'static str, String>,
    /// What it may use at most.
    pub limits: BTreeMap<&'static str, String>,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// Where nodes run.
    pub scheduling: Scheduling,
    /// Whether the volumes outlive the resource.
    pub retain: bool,
    /// Its snapshots, if there are to be some.
    pub snapshots: Option<SnapshotPlan>,
    /// The snapshot that it is made from, if any.
    pub restore: Option<RestorePlan>,
}

/// The snapshot that a cluster is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestorePlan {
    /// Its name, or `latest`.
    pub snapshot: String,
    /// The resource that took it, if that is another one.
    pub source: Option<Source>,
}

/// Another resource, which may be gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl RestorePlan {
    fn of(resource: &ContextManager, RestoreFrom { snapshot, name, namespace }: &RestoreFrom) -> Self {
        let (own_name, own_namespace) = (resource.name_any(), resource.namespace().unwrap_or_default());
        let source = Source {
            namespace: namespace.clone().unwrap_or_else(|| own_namespace.clone()),
            name: name.clone().unwrap_or_else(|| own_name.clone()),
        };
        let is_own = source.name == own_name && source.namespace == own_namespace;
        Self { snapshot: snapshot.clone(), source: (!is_own).then_some(source) }
    }
}

/// Reads what was written by its [`Display`](fmt::Display).
impl From<&str> for RestorePlan {
    fn from(text: &str) -> Self {
        let parts: Vec<_> = text.split('/').map(str::to_owned).collect();
        match <[String; 3]>::try_from(parts) {
            Ok([namespace, name, snapshot]) => Self { snapshot, source: Some(Source { namespace, name }) },
            Err(_) => Self { snapshot: text.to_owned(), source: None },
        }
    }
}

/// `<snapshot>`, or `<namespace>/<name>/<snapshot>` of another resource.
impl fmt::Display for RestorePlan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Source { namespace, name }) = &self.source {
            write!(out, "{namespace}/{name}/")?;
        }
        out.write_str(&self.snapshot)
    }
}

/// When snapshots of a managed Qdrant are taken, how many are kept, and where they lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotPlan {
    /// Time from the beginning of one to that of the next; `None` is until one is asked for.
    pub every: Option<Duration>,
    /// How many are kept.
    pub keep: usize,
    /// The value of the annotation that asks for one.
    pub request: Option<String>,
    /// Where they lie.
    pub place: SnapshotPlace,
}

/// Where snapshots of a managed Qdrant lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotPlace {
    /// On a volume that all nodes mount, by a claim that the operator makes and never deletes.
    OwnClaim(Box<ClaimPlan>),
    /// The same by a claim that the user made.
    GivenClaim(String),
    /// In a bucket.
    Bucket(Box<SnapshotBucket>),
}

impl SnapshotPlace {
    /// The claim, if it is on a volume.
    #[must_use]
    pub fn claim(&self) -> Option<&str> {
        match self {
            Self::OwnClaim(claim) => Some(&claim.name),
            Self::GivenClaim(name) => Some(name),
            Self::Bucket(_) => None,
        }
    }

    /// Who vouches for the endpoint of the bucket, if not the roots of the image.
    #[must_use]
    pub fn ca(&self) -> Option<CaSource> {
        let Self::Bucket(bucket) = self else { return None };
        CaSource::of(bucket.ca_secret_ref.as_ref(), bucket.ca_config_map_ref.as_ref())
    }

    /// What tells clusters from each other that share it.
    #[must_use]
    pub fn prefix(&self) -> Option<&str> {
        match self {
            Self::Bucket(bucket) => bucket.prefix.as_deref(),
            Self::OwnClaim(_) | Self::GivenClaim(_) => None,
        }
    }
}

impl SnapshotPlan {
    fn of(resource: &ContextManager, managed: &Managed) -> Option<Self> {
        let Snapshots { every, keep, storage } = managed.snapshots.as_ref()?;
        let SnapshotStorage { volume, s3 } = storage;
        let place = match (s3, volume.clone().unwrap_or_default()) {
            (Some(bucket), _) => SnapshotPlace::Bucket(Box::new(bucket.clone())),
            (None, SnapshotVolume { claim_name: Some(name), .. }) => SnapshotPlace::GivenClaim(name),
            (None, SnapshotVolume { claim_name: None, size, storage_class_name }) => {
                SnapshotPlace::OwnClaim(Box::new(ClaimPlan {
                    name: names::qdrant_snapshots(&resource.name_any()),
                    storage_class: storage_class_name,
                    // Each node writes the snapshots of its own shards.
                    access_modes: vec![if managed.replicas() > 1 { "ReadWriteMany" } else { "ReadWriteOnce" }],
                    size: size?,
                    volume: None,
                    retain: true,
                }))
            }
        };
        let request = resource.annotations().get(names::SNAPSHOT).filter(|value| !value.is_empty());
        Some(Self {
            every: every.map(DurationText::get),
            keep: keep.and_then(|keep| keep.try_into().ok()).unwrap_or(SNAPSHOTS_KEPT),
            request: request.cloned(),
            place,
        })
    }
}

impl ManagedPlan {
    /// The plan, if the operator runs the resource's store.
    pub(super) fn of(resource: &ContextManager, config: &SidecarConfig) -> Option<Self> {
        let spec = &resource.spec;
        let given = spec.vector_store.as_ref()?.managed.as_ref()?;
        let Managed {
            replicas: _,
            image,
            storage,
            resources,
            tls: _,
            scheduling,
            shards: _,
            replication_factor: _,
            write_consistency: _,
            timeout: _,
            snapshots: _,
            restore_from,
        } = given;
        let storage = storage.clone().unwrap_or_default();
        let size = storage.size();
        let NodeStorage { storage_class_name, size: _ } = storage;
        let NodeResources { requests, limits } = resources.clone().unwrap_or_default();
        let requests = requests.map_or_else(
            || [("cpu", "250m".to_owned()), ("memory", "512Mi".to_owned())].into(),
            |requests| amounts(&requests),
        );
        Some(Self {
            qdrant: QdrantPlan::managed(config)?,
            nodes: given.replicas(),
            replicas: u32::try_from(given.replication_factor()).unwrap_or(1),
            image: image.clone().unwrap_or_else(|| IMAGE.to_owned()),
            storage_class: storage_class_name,
            size,
            requests,
            limits: limits.as_ref().map(amounts).unwrap_or_default(),
            encrypted: given.is_encrypted(),
            scheduling: scheduling.clone().unwrap_or_default(),
            retain: spec.reclaim_policy.unwrap_or_default() == ReclaimPolicy::Retain,
            snapshots: SnapshotPlan::of(resource, given),
            restore: restore_from.as_ref().map(|from| RestorePlan::of(resource, from)),
        })
    }
}

fn amounts(ResourceList { cpu, memory }: &ResourceList) -> BTreeMap<&'static str, String> {
    let amounts = [("cpu", cpu), ("memory", memory)];
    amounts.into_iter().filter_map(|(name, amount)| Some((name, amount.as_ref()?.to_string()))).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::controller::plan::{Plan, RunBy, StoragePlan, tests::resource};

    #[test]
    fn an_empty_block_is_one_encrypted_node_that_keeps_its_volume() {
        let plan = Plan::of(&resource(&json!({"vectorStore": {"managed": {}}, "reclaimPolicy": "Retain"}))).unwrap();
        let StoragePlan::Managed(managed) = plan.storage else { unreachable!("the spec has it") };
        assert_eq!((managed.nodes, managed.encrypted, managed.retain), (1, true, true));
        assert_eq!((managed.image.as_str(), managed.size.to_string().as_str()), (IMAGE, "10Gi"));
        assert_eq!(managed.requests["memory"], "512Mi");
        assert_eq!(managed.qdrant.run_by, RunBy::Operator);
        assert_eq!(managed.snapshots, None);
    }

    #[test]
    fn a_snapshot_is_this_resources_own_unless_another_one_is_named() {
        let restore = |from: serde_json::Value| {
            let spec = json!({"vectorStore": {"managed": {
                "snapshots": {"storage": {"volume": {"claimName": "mine"}}}, "restoreFrom": from,
            }}});
            let StoragePlan::Managed(managed) = Plan::of(&resource(&spec)).unwrap().storage else { unreachable!() };
            managed.restore.unwrap()
        };
        for (from, text) in [
            (json!({"snapshot": "latest"}), "latest"),
            (json!({"snapshot": "latest", "namespace": "team", "name": "memory"}), "latest"),
            (json!({"snapshot": "latest", "name": "old"}), "team/old/latest"),
            (json!({"snapshot": "2026-11-27T03-26-40Z", "namespace": "lost"}), "lost/memory/2026-11-27T03-26-40Z"),
        ] {
            let plan = restore(from);
            assert_eq!(plan.to_string(), text);
            assert_eq!(RestorePlan::from(text), plan);
        }
    }

    #[test]
    fn the_claim_of_snapshots_has_no_owner_and_is_shared_by_several_nodes() {
        let snapshots = |replicas: i32| {
            let spec = json!({"vectorStore": {"managed": {
                "replicas": replicas, "snapshots": {"every": "24h", "storage": {"volume": {"size": "5Gi"}}},
            }}, "reclaimPolicy": "Delete"});
            let StoragePlan::Managed(managed) = Plan::of(&resource(&spec)).unwrap().storage else { unreachable!() };
            managed.snapshots.unwrap()
        };
        for (replicas, mode) in [(1, "ReadWriteOnce"), (3, "ReadWriteMany")] {
            let SnapshotPlan { every, keep, request, place } = snapshots(replicas);
            assert_eq!((every, keep, request), (Some(Duration::from_hours(24)), SNAPSHOTS_KEPT, None));
            let SnapshotPlace::OwnClaim(claim) = place else { unreachable!("{place:?}") };
            assert_eq!((claim.retain, claim.access_modes.as_slice()), (true, [mode].as_slice()));
            assert_eq!(claim.name, "memory-context-qdrant-snapshots");
        }
    }
}
