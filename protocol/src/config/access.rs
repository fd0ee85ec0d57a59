//! Access rules: what an agent may do outside its own memory. There are only permissions; what none permits is refused.

use serde::{Deserialize, Serialize};

use crate::level::Level;

/// One permission.
///
/// ```
/// use context_manager_protocol::config::{AccessRule, Operation};
///
/// let rule: AccessRule = toml::from_str(r#"
///     agents = ["planner", "reviewer"]
///     operations = ["read", "store"]
///     target = { space = "team" }
/// "#)?;
/// assert_eq!(rule.operations, [Operation::Read, Operation::Store]);
/// assert!(rule.levels.is_empty(), "all levels");
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessRule {
    /// Ids of the agents that may; `*` is every agent of the tenant.
    pub agents: Vec<String>,
    /// What they may do.
    pub operations: Vec<Operation>,
    /// On which levels; all when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub levels: Vec<Level>,
    /// Where.
    pub target: AccessTarget,
}

impl AccessRule {
    /// What stands for every agent or space.
    pub const ANY: &str = "*";
}

/// Where a rule permits something: in an agent's memory or in a shared space, the whole of it or one session; or in all of the tenant
/// at once, to move it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessTarget {
    /// The memory of this agent; `*` is every agent of the tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// This shared space; `*` is every one of the tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub space: Option<String>,
    /// Only this session of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The whole tenant: every agent's memory and every space, to export and import all of it. It stands alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tenant: bool,
}

/// What can be permitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 6] = [Self::Read, Self::Store, Self::Update, Self::Delete, Self::Export, Self::Import];

    /// How it is written, in the file, in logs and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Store => "store",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Export => "export",
            Self::Import => "import",
        }
    }
}
