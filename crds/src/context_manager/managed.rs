//! `spec.vectorStore.managed`: a Qdrant cluster that the operator runs.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    sidecar::ResourceList,
    snapshots::{RestoreFrom, Snapshots},
};
use crate::{duration::Duration, quantity::Quantity, rules};

/// A Qdrant cluster that the operator runs for this resource alone. Every field may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = rules::MANAGED_REPLICATION_FITS,
    validation = rules::MANAGED_CONSISTENCY_FITS,
    validation = rules::MANAGED_STORAGE_IS_FIXED,
    validation = rules::MANAGED_TLS_IS_FIXED,
    validation = rules::RESTORE_NEEDS_SNAPSHOTS,
    validation = rules::RESTORE_AT_CREATION
)]
#[serde(rename_all = "camelCase")]
pub struct Managed {
    /// Nodes, each a pod with a volume of its own. With more or fewer of them shards move. Three outlast the loss of one. Default: 1.
    #[schemars(range(min = 1, max = 32))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// The image, with a Qdrant of 1.19 or later that runs as any user. Default: qdrant/qdrant:v1.19.0-unprivileged.
    #[schemars(length(min = 1, max = 512))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The volume of each node. It cannot be changed. Default: 10Gi of the cluster's default class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<NodeStorage>,
    /// CPU and memory of each node. Default: requests of 250m and 512Mi, and no limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<NodeResources>,
    /// How nodes, sidecars and the operator speak with each other. It cannot be changed. Default: encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<NodeTls>,
    /// Where nodes run. Default: anywhere, on different machines where there are enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduling: Option<Scheduling>,
    /// Shards of the collection when it is made. Default: one for each node.
    #[schemars(range(min = 1, max = 1000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards: Option<i32>,
    /// Replicas of each shard; of a collection that is there, some are made or given up. Default: 2, or 1 with one node.
    #[schemars(range(min = 1, max = 32))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication_factor: Option<i32>,
    /// Replicas that must have a write before it is acknowledged, of the collection when it is made. Default: 1.
    #[schemars(range(min = 1, max = 32))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_consistency: Option<i32>,
    /// Longest time of one call. Default: 5s.
    #[x_kube(validation = rules::MANAGED_TIMEOUT)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Copies of the contexts on a volume of their own. Nodes restart when it is added, removed, or laid elsewhere. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<Snapshots>,
    /// The snapshot that the cluster is made from, if it is empty; of the storage that snapshots names. It can be removed afterwards, and not
    /// be changed. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_from: Option<RestoreFrom>,
}

/// The volume of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::MANAGED_VOLUMES_ARE_FIXED)]
#[serde(rename_all = "camelCase")]
pub struct NodeStorage {
    /// Its StorageClass. Default: the cluster's default class. The empty text means none: only existing volumes.
    #[schemars(length(max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
    /// How large it is. Default: 10Gi.
    #[x_kube(validation = rules::MANAGED_SIZE)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Quantity>,
}

/// CPU and memory of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::MANAGED_CPU_FITS, validation = rules::MANAGED_MEMORY_FITS)]
#[serde(rename_all = "camelCase")]
pub struct NodeResources {
    /// What is reserved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<ResourceList>,
    /// What it may use at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<ResourceList>,
}

/// How nodes, sidecars and the operator speak with each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeTls {
    /// Whether it is encrypted, with certificates of the operator's own CA. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

/// Where nodes run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Scheduling {
    /// Labels that a machine must have.
    #[x_kube(validation = rules::MANAGED_NODE_SELECTOR)]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 63}))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Taints that are put up with.
    #[schemars(length(max = 32))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerations: Option<Vec<Toleration>>,
    /// The PriorityClass of the pods.
    #[schemars(length(min = 1, max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Whether two nodes may share a machine. Default: Preferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<Spread>,
}

/// Whether two nodes may share a machine. Default: Preferred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Spread {
    /// They may if there is no other way.
    #[default]
    Preferred,
    /// They may not; a node without a machine of its own waits.
    Required,
}

/// A taint that is put up with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Toleration {
    /// The taint's key. Default: every key, with the operator Exists.
    #[schemars(length(max = 317))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Whether the taint's value counts. Default: Equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<TolerationOperator>,
    /// The taint's value.
    #[schemars(length(max = 63))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The taint's effect. Default: every effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,
    /// For how long NoExecute is put up with. Default: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

/// Whether a taint's value counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum TolerationOperator {
    /// It must be the same.
    Equal,
    /// It may be any.
    Exists,
}

/// What a taint does to pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum TaintEffect {
    /// New ones do not come.
    NoSchedule,
    /// New ones come if there is no other way.
    PreferNoSchedule,
    /// Running ones go.
    NoExecute,
}

impl Managed {
    /// The number of nodes in force.
    ///
    /// ```
    /// use context_manager_crds::context_manager::managed::Managed;
    ///
    /// let three: Managed = serde_json::from_str(r#"{"replicas": 3}"#)?;
    /// assert_eq!((three.replicas(), three.replication_factor()), (3, 2));
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    #[must_use]
    pub fn replicas(&self) -> i32 {
        self.replicas.unwrap_or(1)
    }

    /// The number of replicas of a shard in force.
    #[must_use]
    pub fn replication_factor(&self) -> i32 {
        self.replication_factor.unwrap_or(2).min(self.replicas())
    }

    /// Whether it is encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.tls.as_ref().and_then(|tls| tls.enabled).unwrap_or(true)
    }
}

impl NodeStorage {
    /// The size in force.
    ///
    /// # Panics
    /// Never: the default is a quantity.
    #[must_use]
    pub fn size(&self) -> Quantity {
        self.size.clone().unwrap_or_else(|| "10Gi".parse().expect("the default is a quantity"))
    }
}
