//! `spec.levels` and `spec.gc`: how much is remembered, and for how long.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::{duration::Duration, rules};

/// The three levels of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Levels {
    /// The last few contexts of a session. Default: capacity 10, ttl 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub immediate: Option<Level>,
    /// What happened in the last hours. Default: capacity 100, ttl 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub short_term: Option<Level>,
    /// What is kept. Default: no ttl. It has no capacity: what was kept on purpose makes no room for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long_term: Option<LongTerm>,
    /// From short-term to long-term.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promotion: Option<Promotion>,
}

/// One level.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Level {
    /// Most contexts of a session in this level; the oldest make room.
    #[schemars(range(min = 1, max = 1_000_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<i32>,
    /// How long a context lives.
    #[x_kube(validation = rules::TTL)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Duration>,
}

/// The level of what is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LongTerm {
    /// How long a context lives. Default: until it is deleted.
    #[x_kube(validation = rules::TTL)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Duration>,
}

/// From short-term to long-term.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Promotion {
    /// A short-term context that was returned this often is kept as a long-term one. Default: 3.
    #[schemars(range(min = 1, max = 1_000_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_accesses: Option<i64>,
}

/// Garbage collection of expired contexts. An expired context is never returned, collected or not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gc {
    /// Time between two runs, varied by up to a tenth. Default: 1m.
    #[x_kube(validation = rules::GC_INTERVAL)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
    /// Most contexts of one deletion. Default: 500.
    #[schemars(range(min = 1, max = 10_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<i32>,
    /// Only count what a run would delete; the metric `context_manager_gc_backlog` shows it. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<bool>,
}
