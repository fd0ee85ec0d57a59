//! Who holds a memory: an agent, or a space that agents share and nobody owns.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{AgentId, SpaceId};

/// The holder of a memory within its tenant. In a payload it is the field `agent` or the field `space`, so what an agent
/// stored before there were spaces is its own.
///
/// ```
/// use context_manager_memory::{AgentId, Holder, SpaceId};
///
/// let planner = Holder::from(AgentId::new("planner")?);
/// assert_eq!(planner.to_string(), "agent planner");
/// assert_ne!(planner, SpaceId::new("planner")?.into());
/// # Ok::<(), context_manager_memory::name::InvalidName>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    /// An agent holds its own memory.
    Agent(AgentId),
    /// A shared space.
    Space(SpaceId),
}

impl Holder {
    /// Whether it is this agent.
    #[must_use]
    pub fn is_agent(&self, agent: &AgentId) -> bool {
        match self {
            Self::Agent(holder) => holder == agent,
            Self::Space(_) => false,
        }
    }
}

impl From<AgentId> for Holder {
    fn from(agent: AgentId) -> Self {
        Self::Agent(agent)
    }
}

impl From<SpaceId> for Holder {
    fn from(space: SpaceId) -> Self {
        Self::Space(space)
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(agent) => write!(f, "agent {agent}"),
            Self::Space(space) => write!(f, "space {space}"),
        }
    }
}
