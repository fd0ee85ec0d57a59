//! Remembers the ends of sessions, so that storing the next context does not read a store that is this sidecar's alone, and that a journaled
//! context is numbered while the store is away.
//!
//! Whoever changes or deletes a context of a session forgets the session here; the store is asked again then. What other sidecars do is not
//! noticed, so contexts that go to a store which they use as well are numbered by what the store says.

use context_manager_memory::SessionId;
use moka::future::Cache;

use crate::ports::vector_store::SessionEnd;

/// Most bytes of remembered texts and their bookkeeping.
const CAPACITY_BYTES: u64 = 2 << 20;
/// What an entry costs beside its text.
const ENTRY_BYTES: usize = 1_024;

/// The remembered ends.
pub(super) struct Sessions(Cache<SessionId, SessionEnd>);

impl Default for Sessions {
    fn default() -> Self {
        let weigh = |_: &SessionId, end: &SessionEnd| {
            let text = end.last.as_ref().map_or(0, |context| context.text.len());
            u32::try_from(ENTRY_BYTES + text).unwrap_or(u32::MAX)
        };
        Self(Cache::builder().max_capacity(CAPACITY_BYTES).weigher(weigh).build())
    }
}

impl Sessions {
    pub(super) async fn get(&self, session: &SessionId) -> Option<SessionEnd> {
        self.0.get(session).await
    }

    pub(super) async fn remember(&self, session: SessionId, end: SessionEnd) {
        self.0.insert(session, end).await;
    }

    pub(super) fn forget_all(&self) {
        self.0.invalidate_all();
    }

    pub(super) async fn forget(&self, session: Option<&SessionId>) {
        if let Some(session) = session {
            self.0.invalidate(session).await;
        }
    }
}
