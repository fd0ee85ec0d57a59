//! Asking for permission: what a request names becomes proofs, one for each memory that it is about.

use context_manager_protocol::message::{ContextRequest, ContextStore, Scope};

use super::{Engine, Error};
use crate::{
    access::{Granted, GrantedTenant, Movement, Permission, Place, Read, Store},
    identity::Verified,
};

/// Most memories of one search.
pub const MOST_SCOPES: usize = 16;

impl Engine {
    /// The proof that a caller may do something in the memory that a scope and a session name; in the agent's own when they name none.
    ///
    /// # Errors
    /// When the scope is not valid, or no access rule permits it.
    pub fn permit<O: Permission>(
        &self,
        caller: &Verified,
        scope: Option<&Scope>,
        session: Option<&str>,
    ) -> Result<Granted<O>, Error> {
        let place = Place::new(&self.inner.identity.agent, scope, session)?;
        Ok(self.inner.access.load_full().permit(caller, place)?)
    }

    /// The proof that a caller may move the tenant.
    ///
    /// # Errors
    /// When no access rule permits it.
    pub fn permit_tenant<O: Movement>(&self, caller: &Verified) -> Result<GrantedTenant<O>, Error> {
        Ok(self.inner.access.load_full().permit_tenant(caller)?)
    }

    /// The proofs that a caller may store contexts, each where it says.
    ///
    /// # Errors
    /// When that is not permitted for one of them; the error names its place. All are decided on, so that the audit log has all
    /// that was refused.
    pub fn permit_all(
        &self,
        caller: &Verified,
        contexts: Vec<ContextStore>,
    ) -> Result<Vec<(Granted<Store>, ContextStore)>, Error> {
        let decide = |(index, message): (usize, ContextStore)| {
            let granted = self.permit(caller, message.scope.as_ref(), message.session.as_deref());
            granted.map(|granted| (granted, message)).map_err(|error| error.within(&format!("contexts[{index}].")))
        };
        let decided: Vec<_> = contexts.into_iter().enumerate().map(decide).collect();
        decided.into_iter().collect()
    }

    /// The proofs that a caller may search the memories that a request names.
    ///
    /// # Errors
    /// When that is not permitted for one of them, or they are not named rightly.
    pub fn permit_search(&self, caller: &Verified, request: &ContextRequest) -> Result<Vec<Granted<Read>>, Error> {
        let scopes: Vec<Option<&Scope>> = match (&request.scope, request.scopes.as_slice()) {
            (Some(_), [_, ..]) => {
                return Err(Error::field("scopes", "scope and scopes are both given; leave one of them out"));
            }
            (_, scopes) if scopes.len() > MOST_SCOPES => {
                return Err(Error::too_many("scopes", scopes.len(), "entries", MOST_SCOPES));
            }
            (scope, []) => vec![scope.as_ref()],
            (None, scopes) => scopes.iter().map(Some).collect(),
        };
        let session = request.session.as_deref();
        let decided: Vec<_> = scopes.into_iter().map(|scope| self.permit(caller, scope, session)).collect();
        decided.into_iter().collect()
    }
}
