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
    /// In whose memory; `None` in the agent's own.
    pub holder: Option<Holder>,
    /// Whether it was about one session.
    pub in_session: bool,
    /// How it was decided.
    pub permitted: bool,
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
    pub(super) holder: Holder,
    pub(super) in_session: bool,
    pub(super) level: Option<Level>,
    /// The levels on which it is permitted, where nothing was found.
    pub(super) only_on: Vec<Level>,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { agent, operation, holder, in_session, level, only_on } = self;
        let operation = operation.as_str();
        let session = if *in_session { " in that session" } else { "" };
        if only_on.is_empty() {
            let level = level.map(|level| format!(" on the level {}", level.as_str())).unwrap_or_default();
            write!(
                f,
                "no access rule permits agent {agent} the operation {operation} in the memory of {holder}{session}{level}"
            )?;
        } else {
            let levels: Vec<&str> = only_on.iter().map(|level| level.as_str()).collect();
            write!(
                f,
                "the access rules permit agent {agent} the operation {operation} in the memory of {holder}{session} on {} only, and \
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
