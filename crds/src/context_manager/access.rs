//! `spec.auth.access`: what agents may do outside their own memory.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rules;

/// One permission. There are only permissions: what none permits is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::SPACE_LEVELS, validation = rules::TENANT_OPERATIONS)]
#[serde(rename_all = "camelCase")]
pub struct AccessRule {
    /// Ids of the agents that may; "*" is every agent of the namespace.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 253), regex(pattern = AGENT_PATTERN)))]
    pub agents: Vec<String>,
    /// What they may do.
    #[schemars(length(min = 1, max = 6))]
    pub operations: Vec<Operation>,
    /// On which levels. Default: all.
    #[schemars(length(min = 1, max = 3))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub levels: Option<Vec<Level>>,
    /// Where.
    pub target: Target,
}

/// The pattern of an agent's or a space's id, as sidecars take it, or "*".
pub const AGENT_PATTERN: &str = r"^(\*|[A-Za-z0-9]([-A-Za-z0-9_.:/@]*[A-Za-z0-9])?)$";
/// The pattern of a session's name: one line without white space at its ends.
pub const SESSION_PATTERN: &str = r"^[^\s\x00-\x1f\x7f]([^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f])?$";

/// Where a rule permits something: in an agent's memory or in a shared space, the whole of it or one session; or in all of the namespace
/// at once, to move it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::ONE_TARGET, validation = rules::TENANT_IS_WHOLE)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// The memory of this agent; "*" is every agent of the namespace.
    #[schemars(length(min = 1, max = 253), regex(pattern = AGENT_PATTERN))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// This shared space, a memory that no agent owns; "*" is every one of the namespace.
    #[schemars(length(min = 1, max = 253), regex(pattern = AGENT_PATTERN))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub space: Option<String>,
    /// Only this session of it.
    #[schemars(length(min = 1, max = 256), regex(pattern = SESSION_PATTERN))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The whole namespace: every agent's memory and every shared space, to export and import all of it. It stands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<bool>,
}

/// What can be permitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub enum Operation {
    /// Search, read, list and count.
    Read,
    /// Store new contexts.
    Store,
    /// Change contexts, and supersede them.
    Update,
    /// Delete contexts.
    Delete,
    /// Take all of it away.
    Export,
    /// Bring contexts with their ids, times and authors.
    Import,
}

/// A level of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub enum Level {
    /// The last few contexts of a session.
    Immediate,
    /// Hours.
    ShortTerm,
    /// Kept.
    LongTerm,
}
