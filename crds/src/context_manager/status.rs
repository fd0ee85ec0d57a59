//! `status`: what the operator found and did. Written by the operator alone.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// What the operator found and did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContextManagerStatus {
    /// The generation of the spec that this status speaks of; -1 until the operator has looked at the resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready` is the summary; the others say what it is made of.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Where contexts are kept, in a word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// Ids of the keys; never their material.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<Keys>,
    /// Certificates in use.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<Certificate>,
    /// Pods that use this resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<Pods>,
    /// Snapshots of a managed Qdrant, where it has some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<Snapshots>,
    /// What is remembered of an upgrade of the sidecars, where one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<Upgrade>,
}

/// Ids of the keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Keys {
    /// The key that signs.
    pub active: String,
    /// Keys that signed before and still verify.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub previous: Vec<String>,
    /// The key that will sign after the next rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Since when the active key signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_at: Option<Time>,
    /// When the next rotation is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_rotation: Option<Time>,
}

/// A certificate in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// What it is for.
    pub name: String,
    /// When it ends.
    pub not_after: Time,
    /// SHA-256 of its DER form, in hexadecimal.
    pub fingerprint: String,
}

/// Pods that use the resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pods {
    /// Pods with a sidecar that have not ended.
    pub injected: i32,
    /// Those among them whose sidecar is ready.
    pub ready: i32,
    /// Those among them that would be injected otherwise today: their sidecar has another image, or other settings that need a new pod.
    #[serde(default)]
    pub outdated: i32,
    /// Pods that ask for a sidecar by their label and have none, because the webhook was away when they were made, or skipped them.
    #[serde(default)]
    pub missing: i32,
}

/// What is remembered of an upgrade of the sidecars, because the pods that showed it may be gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Upgrade {
    /// Fingerprint of what a new pod gets.
    pub template: String,
    /// Since when it gets that.
    pub since: Time,
    /// The image that failed, until another one is wanted or a person asks for it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<FailedImage>,
    /// How often a pod was evicted to see whether the next one is up to date, after others were not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trials: Option<i32>,
    /// When that was done last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tried_at: Option<Time>,
    /// Pods that are evicted, until another one is ready in place of each. Each is written down before it is evicted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evicted: Vec<Eviction>,
}

/// A pod that is evicted, and what is known of the one in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Eviction {
    /// The pod.
    pub pod: String,
    /// Its uid.
    pub uid: String,
    /// What makes another one: its namespace, kind and name. That of a ReplicaSet is without the hash of the template.
    pub workload: String,
    /// When the pod was evicted, or chosen for it.
    pub at: Time,
    /// When the newest pod of the workload was made that was there then. What takes the place was made later.
    pub newest: Time,
    /// When it was found to be gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_at: Option<Time>,
    /// The uid of the pod that was made in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<String>,
    /// Whether that one has been ready, or was not wanted any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub settled: bool,
}

/// An image of the sidecar that failed in some pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailedImage {
    /// The image.
    pub image: String,
    /// The pods.
    pub pods: Vec<String>,
    /// When it was noticed.
    pub at: Time,
}

/// Snapshots of a managed Qdrant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Snapshots {
    /// The newest one that is whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Snapshot>,
    /// Names of all that are whole, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<String>,
    /// When the next one is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Time>,
    /// The newest attempt that failed, if none went well since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<SnapshotFailure>,
}

/// A snapshot that is whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// When it was begun: what was stored before is in it.
    pub taken_at: Time,
    /// Bytes of its files.
    pub bytes: i64,
}

/// An attempt to take a snapshot that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotFailure {
    /// When.
    pub at: Time,
    /// What was the matter.
    pub message: String,
}
