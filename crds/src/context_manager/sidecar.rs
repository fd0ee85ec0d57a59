//! `spec.sidecar`: the injected container.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{duration::Duration, quantity::Quantity, rules};

/// The injected container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::PORTS_DIFFER, validation = rules::BYTES_IN_FLIGHT)]
#[serde(rename_all = "camelCase")]
pub struct Sidecar {
    /// Its image. Default: the operator's choice.
    #[schemars(length(min = 1, max = 512))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// How it is injected. Default: Native.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// CPU and memory. Default: requests of 10m and 32Mi, and a memory limit of 256Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Port of the protocol listener, on loopback. Default: 7419.
    #[schemars(range(min = 1024, max = 65535))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol_port: Option<i32>,
    /// Port of probes and metrics, on the pod's address. Default: 7420.
    #[schemars(range(min = 1024, max = 65535))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_port: Option<i32>,
    /// Whether agents get a Unix socket beside the port, for programs that may not use a network. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<bool>,
    /// Largest request body. Default: 10Mi.
    #[x_kube(validation = rules::MESSAGE_SIZE)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_message_size: Option<Quantity>,
    /// Most bytes of request bodies at once; more are refused. Default: 64Mi, or maxMessageSize if that is larger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes_in_flight: Option<Quantity>,
    /// What its log shows: error, warn, info, debug, trace, or a filter such as `info,context_manager=debug`. Default: info.
    #[schemars(regex(pattern = "^[A-Za-z0-9_:=,-]+$"), length(min = 1, max = 256))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
    /// How pods that run already get another version of the sidecar. Default: when they are made again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<Upgrade>,
}

/// How pods that run already get another version of the sidecar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Upgrade {
    /// What is done with a pod that is outdated; a RollingRestart ends memory that lies on an emptyDir of the pod. Default: OnRecreate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<UpgradeStrategy>,
    /// Share of the pods that is upgraded at a time, in percent and at least one pod; the first are the canaries. Default: 10.
    #[schemars(range(min = 1, max = 100))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_percent: Option<i32>,
    /// How long an upgraded sidecar must be ready, without a restart, before the next pods follow. Default: 30s.
    #[x_kube(validation = rules::UPGRADE_OBSERVE)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observe: Option<Duration>,
}

/// What is done with a pod that is outdated. Default: OnRecreate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum UpgradeStrategy {
    /// Nothing: it is counted in `status.pods.outdated`, and a pod that takes its place is up to date.
    #[default]
    OnRecreate,
    /// The sidecar's image is replaced in the running pod; the kubelet restarts the sidecar alone. What else has changed waits for a
    /// new pod.
    InPlace,
    /// It is evicted, within its PodDisruptionBudget, if a controller makes another one. Memory that lies on an `emptyDir` ends with the pod.
    RollingRestart,
}

/// How the sidecar is injected. Default: Native.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Mode {
    /// As an init container that is restarted: it starts before the agent, stops after it, and lets Jobs complete.
    #[default]
    Native,
    /// As the first ordinary container, for nodes without native sidecars: the agent starts when it is ready, and both end at the same
    /// time. Pods of Jobs are refused, because they would never complete.
    Classic,
}

/// CPU and memory of the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::CPU_FITS, validation = rules::MEMORY_FITS)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What is reserved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<ResourceList>,
    /// What it may use at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<ResourceList>,
}

/// Amounts of CPU and memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceList {
    /// CPU, as 100m or 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Quantity>,
    /// Memory, as 64Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
}
