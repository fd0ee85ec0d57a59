//! `spec.vectorStore`: where contexts are kept.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{managed::Managed, qdrant::Qdrant};
use crate::{quantity::Quantity, rules};

/// Exactly one store; which of them cannot be changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::ONE_STORE)]
#[serde(rename_all = "camelCase")]
pub struct VectorStore {
    /// The vector engine in the sidecar's own process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedded: Option<Embedded>,
    /// A collection of a Qdrant server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qdrant: Option<Qdrant>,
    /// A Qdrant cluster that the operator runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<Managed>,
}

/// The embedded store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Embedded {
    /// The volume it lies on. Default: an emptyDir without a limit, which ends with the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
    /// What an acknowledged write survives. Default: Process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
}

/// What an acknowledged write survives. Default: Process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Durability {
    /// The end of the sidecar's process, however it comes.
    #[default]
    Process,
    /// Also the end of the node: flushed to the disk before the answer.
    Node,
}

/// Exactly one kind of volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::ONE_STORAGE)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// A volume of each pod that ends with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_dir: Option<EmptyDir>,
    /// One PersistentVolumeClaim, `<name>-context-data`, on which each agent has a directory of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_claim_template: Option<VolumeClaimTemplate>,
}

/// A volume of the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EmptyDir {
    /// Most it may hold; a pod that exceeds it is evicted. Default: no limit.
    #[x_kube(validation = rules::SIZE_LIMIT)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_limit: Option<Quantity>,
}

/// A PersistentVolumeClaim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::CLAIM_ONLY_GROWS, validation = rules::CLAIM_IS_FIXED)]
#[serde(rename_all = "camelCase")]
pub struct VolumeClaimTemplate {
    /// Its StorageClass. Default: the cluster's default class. The empty text means none: only existing volumes.
    #[schemars(length(max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
    /// How it may be mounted. Default: ReadWriteOnce.
    #[schemars(length(min = 1, max = 4))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_modes: Option<Vec<AccessMode>>,
    /// How large it is.
    pub resources: ClaimResources,
    /// An existing PersistentVolume to bind to.
    #[schemars(length(min = 1, max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_name: Option<String>,
}

/// How a claim may be mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum AccessMode {
    /// By the pods of one node.
    ReadWriteOnce,
    /// By one pod.
    ReadWriteOncePod,
    /// By pods of many nodes.
    ReadWriteMany,
}

/// How large a claim is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimResources {
    /// At least.
    pub requests: ClaimRequests,
}

/// How large a claim is at least.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimRequests {
    /// Its size; it can only grow.
    #[x_kube(validation = rules::CLAIM_SIZE)]
    pub storage: Quantity,
}

impl VolumeClaimTemplate {
    /// The access modes in force.
    #[must_use]
    pub fn access_modes(&self) -> &[AccessMode] {
        self.access_modes.as_deref().unwrap_or(&[AccessMode::ReadWriteOnce])
    }
}
