//! The proof of a permission, and how far it reaches.

use std::{fmt, marker::PhantomData, sync::Arc};

use context_manager_memory::{AgentId, Context, Holder, Level, SessionId};

use super::{Access, Decision, Decisions, Denied, Operation, Permission, Whose};
use crate::{identity::Verified, ports::vector_store::Owner};

/// Proof that an operation is permitted at a place. The field is private and only [`Access::permit`] fills it, so who needs a
/// `&Granted<Delete>` cannot be called without the rules having been asked for that.
pub struct Granted<O> {
    reach: Reach,
    permission: PhantomData<fn() -> O>,
}

impl<O> Granted<O> {
    pub(super) const fn new(reach: Reach) -> Self {
        Self { reach, permission: PhantomData }
    }

    /// How far it reaches.
    #[must_use]
    pub const fn reach(&self) -> &Reach {
        &self.reach
    }
}

impl<O> Clone for Granted<O> {
    fn clone(&self) -> Self {
        Self::new(self.reach.clone())
    }
}

impl<O: Permission> fmt::Debug for Granted<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Granted({} in {})", O::OPERATION.as_str(), self.reach.owner.holder)
    }
}

/// How far a permission reaches: whose memory, which session, which levels.
#[derive(Clone, Debug)]
pub struct Reach {
    access: Arc<Access>,
    decisions: Decisions,
    operation: Operation,
    owner: Owner,
    session: Option<SessionId>,
    levels: Vec<Level>,
    /// Whether it is a part of the tenant, which is moved as a whole.
    moves_tenant: bool,
}

impl Reach {
    pub(super) fn new(
        access: Arc<Access>,
        caller: &Verified,
        operation: Operation,
        holder: Holder,
        session: Option<SessionId>,
        levels: Vec<Level>,
    ) -> Self {
        let owner = Owner { tenant: access.own.tenant.clone(), holder };
        let decisions = caller.decisions().clone();
        Self { access, decisions, operation, owner, session, levels, moves_tenant: false }
    }

    /// A part of what is permitted in a whole tenant.
    pub(super) fn of_tenant(
        access: Arc<Access>,
        caller: &Verified,
        operation: Operation,
        owner: Owner,
        levels: Vec<Level>,
    ) -> Self {
        let decisions = caller.decisions().clone();
        Self { access, decisions, operation, owner, session: None, levels, moves_tenant: true }
    }

    /// Whose memory.
    #[must_use]
    pub const fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Who acts.
    #[must_use]
    pub fn agent(&self) -> &AgentId {
        &self.access.agent
    }

    /// Who wrote what an import brings without saying who: who imports it, and in a moved tenant the agent that has it.
    #[must_use]
    pub fn author(&self) -> &AgentId {
        match &self.owner.holder {
            Holder::Agent(holder) if self.moves_tenant => holder,
            Holder::Agent(_) | Holder::Space(_) => self.agent(),
        }
    }

    /// The session it is about; `None` is all.
    #[must_use]
    pub const fn session(&self) -> Option<&SessionId> {
        self.session.as_ref()
    }

    /// Whether it is the agent's own memory.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.owner == self.access.own
    }

    /// The levels to work on. Immediate memory is held by the sidecar of its own agent, so nobody else writes it; but who moves a tenant
    /// brings it along.
    #[must_use]
    pub fn levels(&self) -> Vec<Level> {
        self.levels.iter().copied().filter(|level| !self.is_out_of_hand(*level)).collect()
    }

    /// Whether a level can only be written by the sidecar of the memory's own agent.
    #[must_use]
    pub fn is_out_of_hand(&self, level: Level) -> bool {
        let writes = !matches!(self.operation, Operation::Read | Operation::Export);
        let is_moved = self.moves_tenant && matches!(self.owner.holder, Holder::Agent(_));
        level == Level::Immediate && writes && !self.is_own() && !is_moved
    }

    /// Whether it may be done on a level.
    ///
    /// # Errors
    /// When no rule permits it.
    pub fn on_level(&self, level: Level) -> Result<(), Denied> {
        if self.levels.contains(&level) { Ok(()) } else { Err(self.deny(Some(level))) }
    }

    /// Whether it reaches every level that the memory has.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let has = |level: &Level| *level != Level::Immediate || matches!(self.owner.holder, Holder::Agent(_));
        Level::ALL.iter().filter(|level| has(level)).all(|level| self.levels.contains(level))
    }

    /// Whether it reaches a context.
    #[must_use]
    pub fn admits(&self, context: &Context) -> bool {
        self.owner.owns(context)
            && self.levels.contains(&context.level)
            && self.session.as_ref().is_none_or(|session| context.session.as_ref() == Some(session))
    }

    /// Whether a new context may take the place of this one: that changes it, and immediate memory is changed by its own agent alone.
    #[must_use]
    pub fn may_supersede(&self, context: &Context) -> bool {
        let levels = || self.access.levels(Operation::Update, &self.owner.holder, context.session.as_ref());
        self.owner.owns(context) && !self.is_out_of_hand(context.level) && levels().contains(&context.level)
    }

    /// The refusal of another operation in the same memory.
    #[must_use]
    pub fn deny_also(&self, operation: Operation) -> Denied {
        Self { operation, ..self.clone() }.deny(None)
    }

    /// The refusal of something that is not there, or not where it is permitted: both are the same to the caller.
    #[must_use]
    pub fn deny_unseen(&self) -> Denied {
        Denied { only_on: self.levels(), ..self.deny(None) }
    }

    pub(super) fn allow(&self) {
        self.note(true);
    }

    pub(super) fn deny(&self, level: Option<Level>) -> Denied {
        self.note(false);
        Denied {
            agent: self.access.agent.clone(),
            operation: self.operation,
            whose: Whose::Other(self.owner.holder.clone()),
            in_session: self.session.is_some(),
            level,
            only_on: Vec::new(),
        }
    }

    fn note(&self, permitted: bool) {
        self.decisions.note(Decision {
            operation: self.operation,
            whose: if self.is_own() { Whose::Own } else { Whose::Other(self.owner.holder.clone()) },
            in_session: self.session.is_some(),
            permitted,
        });
    }
}
