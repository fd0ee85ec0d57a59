//! Where a request wants to work, made of the scope it names.

use context_manager_memory::{AgentId, Holder, SessionId, SpaceId, name::InvalidName};
use context_manager_protocol::message::Scope;

/// A memory of the tenant, the whole of it or one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub(super) holder: Holder,
    pub(super) session: Option<SessionId>,
}

/// A scope that names no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidScope {
    /// The field that is wrong.
    pub field: &'static str,
    /// What is wrong with it.
    pub message: String,
}

impl InvalidScope {
    fn new(field: &'static str, message: impl Into<String>) -> Self {
        Self { field, message: message.into() }
    }

    fn name(field: &'static str) -> impl FnOnce(InvalidName) -> Self {
        move |error| Self::new(field, error.to_string())
    }
}

impl Place {
    /// The place that a request of `agent` names by its scope, and by the session that it is about.
    ///
    /// # Errors
    /// When the scope names two memories or two sessions, or a name is not valid.
    pub fn new(agent: &AgentId, scope: Option<&Scope>, session: Option<&str>) -> Result<Self, InvalidScope> {
        let Scope { agent: of, space, session: within } = scope.cloned().unwrap_or_default();
        let holder = match (of, space) {
            (None, None) => agent.clone().into(),
            (Some(of), None) => AgentId::new(of).map_err(InvalidScope::name("scope.agent"))?.into(),
            (None, Some(space)) => SpaceId::new(space).map_err(InvalidScope::name("scope.space"))?.into(),
            (Some(_), Some(_)) => {
                return Err(InvalidScope::new("scope", "a scope is of an agent or a space; leave one of them out"));
            }
        };
        let session = match (within.as_deref(), session) {
            (Some(within), Some(session)) if within != session => {
                let message = "the scope and the request name different sessions; leave one of them out";
                return Err(InvalidScope::new("session", message));
            }
            (within, session) => session.or(within),
        };
        let session = session.map(SessionId::new).transpose().map_err(InvalidScope::name("session"))?;
        Ok(Self { holder, session })
    }
}
