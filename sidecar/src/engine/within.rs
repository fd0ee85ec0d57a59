//! Where a waiting write works, as it stands in the journal.

use context_manager_memory::{Holder, Level, SessionId, Timestamp};
use serde::{Deserialize, Serialize};

use super::filter::Wanted;
use crate::ports::vector_store::Owner;

/// What the permission of a deletion reached. It was decided when the deletion was acknowledged, and is not asked again when the
/// deletion gets to the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Within {
    /// Whose memory.
    #[serde(flatten)]
    holder: Holder,
    /// Which session; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session: Option<SessionId>,
    /// On which levels.
    levels: Vec<Level>,
    /// Only what was stored before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created_before: Option<Timestamp>,
}

impl Within {
    pub(super) fn of(wanted: &Wanted) -> Self {
        let Wanted { owner, session, levels, metadata: _, created_before, validity: _ } = wanted;
        let (holder, session) = (owner.holder.clone(), session.clone());
        Self { holder, session, levels: levels.clone(), created_before: *created_before }
    }

    /// The same for the engine; the tenant is the sidecar's.
    pub(super) fn wanted(self, own: &Owner) -> Wanted {
        let Self { holder, session, levels, created_before } = self;
        Wanted { session, levels, created_before, ..Wanted::all(Owner { tenant: own.tenant.clone(), holder }) }
    }
}
