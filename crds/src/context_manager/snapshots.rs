//! `spec.vectorStore.managed.snapshots`: copies of the contexts of a managed Qdrant, and where they lie.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{embedding::SecretKeyRef, qdrant::ConfigMapKeyRef};
use crate::{duration::Duration, quantity::Quantity, rules};

/// Copies of the contexts, from which a cluster that is lost is made anew. They outlive the resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Snapshots {
    /// Time from the beginning of one snapshot to that of the next. Default: none is taken but when the annotation contextmanager.dev/snapshot asks for one.
    #[x_kube(validation = rules::SNAPSHOT_EVERY)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Duration>,
    /// How many are kept; older ones are deleted when the next one is whole. Default: 7.
    #[schemars(range(min = 1, max = 100))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<i32>,
    /// Where they lie.
    pub storage: SnapshotStorage,
}

/// Where snapshots lie: exactly one place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::ONE_SNAPSHOT_STORAGE)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotStorage {
    /// A volume that all nodes mount: of several nodes it must be ReadWriteMany.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<SnapshotVolume>,
    /// A bucket of S3, or of another store that speaks its protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<SnapshotBucket>,
}

/// A bucket. What is in it is deleted only as keep says, and never with the resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::ONE_SNAPSHOT_CA, validation = rules::SNAPSHOT_CA_NEEDS_HTTPS)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotBucket {
    /// Its name.
    #[x_kube(validation = rules::SNAPSHOT_BUCKET)]
    #[schemars(length(max = 63))]
    pub bucket: String,
    /// Its region. Default: us-east-1.
    #[x_kube(validation = rules::SNAPSHOT_REGION)]
    #[schemars(length(max = 63))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Where it is reached, unless it is AWS' own. Buckets are part of the path. Its certificate must be vouched for by the roots of the image, unless a CA is given.
    #[x_kube(validation = rules::SNAPSHOT_ENDPOINT)]
    #[schemars(length(max = 2048))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_url: Option<String>,
    /// The CA certificates in PEM, in a Secret of this namespace. Then only they vouch for the endpoint. Nodes restart when they change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,
    /// The same, in a ConfigMap of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_config_map_ref: Option<ConfigMapKeyRef>,
    /// What follows `context-manager/` in the names of all files, such as the cluster's name: two clusters that share a bucket must not have the same.
    #[x_kube(validation = rules::SNAPSHOT_PREFIX)]
    #[schemars(length(max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The key's id. Nodes restart when it changes.
    pub access_key_id_secret_ref: SecretKeyRef,
    /// The key. It must permit to list the bucket, and to read, write and delete what begins with `context-manager/`.
    pub secret_access_key_secret_ref: SecretKeyRef,
}

/// A volume that all nodes mount. Its claim is never deleted by the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::SNAPSHOT_VOLUME, validation = rules::SNAPSHOT_CLASS)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotVolume {
    /// How large it is: the operator makes the claim `<name>-context-qdrant-snapshots`. It can only grow.
    #[x_kube(validation = rules::SNAPSHOT_SIZE)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Quantity>,
    /// Its StorageClass. Default: the cluster's default class. The empty text means none: only existing volumes.
    #[schemars(length(max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
    /// A claim that you made, instead of one that the operator makes.
    #[schemars(length(min = 1, max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim_name: Option<String>,
}

/// The snapshot that a cluster is made from: one of this resource before it was lost, or of another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreFrom {
    /// Its name, such as 2026-11-27T03-26-40Z, or latest.
    #[x_kube(validation = rules::RESTORE_SNAPSHOT)]
    #[schemars(length(max = 63))]
    pub snapshot: String,
    /// The resource that took it. Default: this one's name.
    #[x_kube(validation = rules::RESTORE_NAME)]
    #[schemars(length(max = 36))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The namespace of that resource, also one that is gone. Its own contexts become contexts of this resource's namespace; those of other namespaces stay theirs. Default: this one's.
    #[x_kube(validation = rules::RESTORE_NAMESPACE)]
    #[schemars(length(max = 63))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}
