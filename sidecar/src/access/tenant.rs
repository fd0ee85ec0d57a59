//! The proof that a tenant may be moved: all memories in it at once.

use std::{fmt, marker::PhantomData, sync::Arc};

use context_manager_memory::{AgentId, Context, Holder, Level, TenantId};

use super::{Access, Decision, Denied, Export, Import, Permission, Reach, Whose};
use crate::{identity::Verified, ports::vector_store::Owner};

/// What can be permitted in the whole tenant: to move it, and nothing else.
pub trait Movement: Permission {}

impl Movement for Export {}
impl Movement for Import {}

/// Proof that an operation is permitted in the whole tenant. The fields are private and only [`Access::permit_tenant`] fills them.
pub struct GrantedTenant<O> {
    access: Arc<Access>,
    caller: Verified,
    levels: Vec<Level>,
    permission: PhantomData<fn() -> O>,
}

impl<O: Movement> GrantedTenant<O> {
    pub(super) fn decide(access: Arc<Access>, caller: &Verified, levels: Vec<Level>) -> Result<Self, Denied> {
        let permitted = !levels.is_empty();
        caller.decisions().note(Decision {
            operation: O::OPERATION,
            whose: Whose::Tenant,
            in_session: false,
            permitted,
        });
        if !permitted {
            let (agent, whose) = (access.agent.clone(), Whose::Tenant);
            let operation = O::OPERATION;
            return Err(Denied { agent, operation, whose, in_session: false, level: None, only_on: Vec::new() });
        }
        Ok(Self { access, caller: caller.clone(), levels, permission: PhantomData })
    }

    /// Which tenant: the sidecar's.
    #[must_use]
    pub fn tenant(&self) -> &TenantId {
        &self.access.own.tenant
    }

    /// Who acts.
    #[must_use]
    pub fn agent(&self) -> &AgentId {
        &self.access.agent
    }

    /// Whether it reaches a context.
    #[must_use]
    pub fn admits(&self, context: &Context) -> bool {
        context.tenant == *self.tenant() && self.levels.contains(&context.level)
    }

    /// The part of it in one memory.
    #[must_use]
    pub fn within(&self, holder: Holder) -> Reach {
        let owner = Owner { tenant: self.tenant().clone(), holder };
        Reach::of_tenant(Arc::clone(&self.access), &self.caller, O::OPERATION, owner, self.levels.clone())
    }
}

impl<O> Clone for GrantedTenant<O> {
    fn clone(&self) -> Self {
        let Self { access, caller, levels, permission } = self;
        Self { access: Arc::clone(access), caller: caller.clone(), levels: levels.clone(), permission: *permission }
    }
}

impl<O: Permission> fmt::Debug for GrantedTenant<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GrantedTenant({})", O::OPERATION.as_str())
    }
}
