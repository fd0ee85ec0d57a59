//! What was decided, for the audit log and for the caller.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use context_manager_memory::{AgentId, Holder, Level};

use super::Operation;

/// One decision. It has no session's name and nothing of what the request carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What was asked for.
    pub operation: Operation,
    /// In whose memory.
    pub whose: Whose,
    /// Whether it was about one session.
    pub in_session: bool,
    /// How it was decided.
    pub permitted: bool,
}

/// Whose memory a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The agent's own.
    Own,
    /// Another agent's, or a shared space.
    Other(Holder),
    /// All of the tenant's.
    Tenant,
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("its own"),
            Self::Other(holder) => holder.fmt(f),
            Self::Tenant => f.write_str("the whole tenant"),
        }
    }
}

/// The decisions about one request; a clone is the same list.
#[derive(Clone, Debug, Default)]
pub struct Decisions(Arc<Mutex<Vec<Decision>>>);

/// Most decisions that are noted of one request.
const MOST: usize = 1_024;

impl Decisions {
    /// All of them so far.
    #[must_use]
    pub fn all(&self) -> Vec<Decision> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes one, once.
    pub(super) fn note(&self, decision: Decision) {
        let mut decisions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if decisions.len() < MOST && !decisions.contains(&decision) {
            decisions.push(decision);
        }
    }
}

/// What no rule permits. It says nothing about what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    pub(super) agent: AgentId,
    pub(super) operation: Operation,
    pub(super) whose: Whose,
    pub(super) in_session: bool,
    pub(super) level: Option<Level>,
    /// The levels on which it is permitted, where nothing was found.
    pub(super) only_on: Vec<Level>,
}

impl Denied {
    /// Whether it is about the whole tenant, which no field of a request names.
    #[must_use]
    pub fn is_about_tenant(&self) -> bool {
        self.whose == Whose::Tenant
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { agent, operation, whose, in_session, level, only_on } = self;
        let operation = operation.as_str();
        let place = match whose {
            Whose::Own => "its own memory".to_owned(),
            Whose::Other(holder) => format!("the memory of {holder}"),
            Whose::Tenant => "the whole tenant".to_owned(),
        };
        let session = if *in_session { " in that session" } else { "" };
        if only_on.is_empty() {
            let level = level.map(|level| format!(" on the level {}", level.as_str())).unwrap_or_default();
            write!(f, "no access rule permits agent {agent} the operation {operation} in {place}{session}{level}")?;
        } else {
            let levels: Vec<&str> = only_on.iter().map(|level| level.as_str()).collect();
            write!(
                f,
                "the access rules permit agent {agent} the operation {operation} in {place}{session} on {} only, and \
                 there is no such context there",
                levels.join(" and ")
            )?;
        }
        f.write_str(
            "; permit it in spec.auth.access of the ContextManager, or in [[access]] of the sidecar's configuration",
        )
    }
}

impl std::error::Error for Denied {}
