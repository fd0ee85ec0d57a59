//! Access rules: in whose memory an agent may do what. Owns the one evaluation of them, [`Access::permit`] and
//! [`Access::permit_tenant`], and its proofs, [`Granted`] and [`GrantedTenant`].
//!
//! An agent may do everything in its own memory. Outside of it, in another agent's memory, in a shared space or in the tenant as a
//! whole, it may do what a rule permits and nothing else. There is no rule that takes something away, so their order means nothing. The
//! tenant and the agent are the sidecar's identity; no request can name others.

use std::sync::Arc;

use context_manager_memory::{AgentId, Context, Holder, Level, SessionId, SpaceId};
use context_manager_protocol::config::{AccessRule, AccessTarget};

pub use context_manager_protocol::config::Operation;

use crate::{
    identity::{Identity, Verified},
    ports::vector_store::Owner,
};

mod decision;
mod grant;
mod place;
mod tenant;
#[cfg(test)]
mod tests;

pub use decision::{Decision, Decisions, Denied, Whose};
pub use grant::{Granted, Reach};
pub use place::{InvalidScope, Place};
pub use tenant::{GrantedTenant, Movement};

/// A kind of permission, as a type: a proof of one is none of another.
pub trait Permission: Send + Sync + 'static {
    /// What is permitted.
    const OPERATION: Operation;
}

macro_rules! permissions {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug)]
        pub enum $name {}

        impl Permission for $name {
            const OPERATION: Operation = Operation::$name;
        }
    )+};
}

permissions! {
    /// Search, read, list and count.
    Read,
    /// Store new contexts.
    Store,
    /// Change contexts.
    Update,
    /// Delete contexts.
    Delete,
    /// Take all of it away.
    Export,
    /// Bring contexts with their ids, times and authors.
    Import,
}

/// What this sidecar's agent may do.
#[derive(Debug)]
pub struct Access {
    own: Owner,
    agent: AgentId,
    rules: Vec<Rule>,
    others_write: bool,
}

/// A rule about this sidecar's agent.
#[derive(Debug)]
struct Rule {
    operations: Vec<Operation>,
    levels: Vec<Level>,
    target: AccessTarget,
}

impl Access {
    /// The rules that concern this sidecar's agent.
    #[must_use]
    pub fn new(identity: &Identity, rules: &[AccessRule]) -> Self {
        let Identity { tenant, agent, pod: _ } = identity;
        let others_write = rules.iter().any(|rule| lets_others_write(rule, agent.as_str()));
        let concerns = |rule: &&AccessRule| rule.agents.iter().any(|who| matches(who, agent.as_str()));
        let rules = rules.iter().filter(concerns).map(|AccessRule { agents: _, operations, levels, target }| Rule {
            operations: operations.clone(),
            levels: if levels.is_empty() {
                Level::ALL.to_vec()
            } else {
                levels.iter().copied().map(crate::engine::domain_level).collect()
            },
            target: target.clone(),
        });
        Self {
            own: Owner::new(tenant.clone(), agent.clone()),
            agent: agent.clone(),
            rules: rules.collect(),
            others_write,
        }
    }

    /// The agent's own memory.
    #[must_use]
    pub const fn own(&self) -> &Owner {
        &self.own
    }

    /// Whether another agent may write to the agent's own memory, so that what this sidecar remembers of it may be outdated.
    #[must_use]
    pub const fn others_write(&self) -> bool {
        self.others_write
    }

    /// The proof that the caller may do something at a place. Beside [`permit_tenant`](Self::permit_tenant) this is the only function that
    /// makes one, and each decision is noted for the audit log.
    ///
    /// # Errors
    /// When no rule permits it on any level.
    pub fn permit<O: Permission>(self: &Arc<Self>, caller: &Verified, place: Place) -> Result<Granted<O>, Denied> {
        let Place { holder, session } = place;
        let levels = self.levels(O::OPERATION, &holder, session.as_ref());
        let reach = Reach::new(Arc::clone(self), caller, O::OPERATION, holder, session, levels);
        if reach.levels().is_empty() {
            return Err(reach.deny(None));
        }
        reach.allow();
        Ok(Granted::new(reach))
    }

    /// The proof that the caller may move the tenant. A rule for each memory in it is not enough, nor does a rule for the tenant permit
    /// anything in one of its memories.
    ///
    /// # Errors
    /// When no rule permits it on any level.
    pub fn permit_tenant<O: Movement>(self: &Arc<Self>, caller: &Verified) -> Result<GrantedTenant<O>, Denied> {
        let permitted = |level: &Level| self.rules.iter().any(|rule| rule.permits_in_tenant(O::OPERATION, *level));
        let levels = Level::ALL.into_iter().filter(permitted).collect();
        GrantedTenant::decide(Arc::clone(self), caller, levels)
    }

    /// The shared spaces that rules name.
    pub fn spaces(&self) -> impl Iterator<Item = Owner> {
        let named = self.rules.iter().filter_map(|rule| SpaceId::new(rule.target.space.as_deref()?).ok());
        named.map(|space| Owner::new(self.own.tenant.clone(), space))
    }

    /// Whether this sidecar deletes what expires there: in its own agent's memory, and in the shared spaces that its agent may write to.
    #[must_use]
    pub fn collects(&self, owner: &Owner) -> bool {
        let Holder::Space(space) = &owner.holder else { return *owner == self.own };
        let named = |rule: &Rule| rule.target.space.as_ref().is_some_and(|named| matches(named, space.as_str()));
        owner.tenant == self.own.tenant
            && self.rules.iter().any(|rule| named(rule) && rule.operations.iter().any(|operation| writes(*operation)))
    }

    /// Whether the agent may move a context from short-term to long-term memory: that changes it on both levels.
    #[must_use]
    pub fn may_promote(&self, context: &Context) -> bool {
        let permitted = self.levels(Operation::Update, &context.holder, context.session.as_ref());
        context.tenant == self.own.tenant
            && [Level::ShortTerm, Level::LongTerm].iter().all(|level| permitted.contains(level))
    }

    /// The levels on which an operation is permitted.
    fn levels(&self, operation: Operation, holder: &Holder, session: Option<&SessionId>) -> Vec<Level> {
        if *holder == self.own.holder {
            return Level::ALL.to_vec();
        }
        let permitted = |level: &Level| self.rules.iter().any(|rule| rule.permits(operation, holder, session, *level));
        Level::ALL.into_iter().filter(permitted).collect()
    }
}

impl Rule {
    fn permits(&self, operation: Operation, holder: &Holder, session: Option<&SessionId>, level: Level) -> bool {
        let AccessTarget { agent, space, session: only, tenant: _ } = &self.target;
        let is_there = match holder {
            Holder::Agent(holder) => agent.as_ref().is_some_and(|agent| matches(agent, holder.as_str())),
            Holder::Space(holder) => space.as_ref().is_some_and(|space| matches(space, holder.as_str())),
        };
        is_there
            && only.as_ref().is_none_or(|only| session.is_some_and(|session| session.as_str() == only))
            && self.operations.contains(&operation)
            && self.levels.contains(&level)
    }

    fn permits_in_tenant(&self, operation: Operation, level: Level) -> bool {
        self.target.tenant && self.operations.contains(&operation) && self.levels.contains(&level)
    }
}

fn lets_others_write(AccessRule { agents, operations, levels: _, target }: &AccessRule, own: &str) -> bool {
    (target.tenant || target.agent.as_ref().is_some_and(|agent| matches(agent, own)))
        && agents.iter().any(|agent| agent != own)
        && operations.iter().any(|operation| writes(*operation))
}

const fn writes(operation: Operation) -> bool {
    !matches!(operation, Operation::Read | Operation::Export)
}

fn matches(pattern: &str, id: &str) -> bool {
    pattern == AccessRule::ANY || pattern == id
}
