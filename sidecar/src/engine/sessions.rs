//! Remembers the ends of sessions, so that storing the next context does not read a store that is this sidecar's alone, and that a journaled
//! context is numbered while the store is away.
//!
//! Whoever changes or deletes a context of a session forgets the session here; the store is asked again then. What other sidecars do is not
//! noticed, so contexts that go to a store which they use as well are numbered by what the store says.

use context_manager_memory::{Context, SessionId};
use moka::future::Cache;

use crate::ports::vector_store::SessionEnd;

/// Most bytes of what was written in the remembered contexts, and of their bookkeeping.
const CAPACITY_BYTES: u64 = 2 << 20;
/// What an entry costs beside what was written.
const ENTRY_BYTES: usize = 1_024;

/// The remembered ends.
pub(super) struct Sessions(Cache<SessionId, SessionEnd>);

impl Default for Sessions {
    fn default() -> Self {
        let weigh = |_: &SessionId, end: &SessionEnd| {
            let written = end.last.as_ref().map_or(0, Context::written_bytes);
            u32::try_from(ENTRY_BYTES + written).unwrap_or(u32::MAX)
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

#[cfg(test)]
mod tests {
    use context_manager_memory::{AgentId, ContextId, Level, TenantId, Timestamp};
    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn ends_with_large_metadata_take_no_more_room_than_those_with_long_texts() {
        let sessions = Sessions::default();
        let (tenant, agent) = (TenantId::new("team-a").expect("a name"), AgentId::new("agent").expect("a name"));
        let (id, at) = (ContextId::new(Uuid::from_u128(1)), Timestamp::from_millis(0));
        let mut last = Context::new(id, tenant, agent, Level::LongTerm, "tea", at);
        last.metadata.insert("page".to_owned(), "x".repeat(15 << 10).into());
        for number in 0..300 {
            let session = SessionId::new(format!("s{number}")).expect("a name");
            let end = SessionEnd { sequence: Some(number), last: Some(last.clone()) };
            sessions.remember(session, end).await;
        }
        sessions.0.run_pending_tasks().await;
        let remembered = sessions.0.entry_count();
        assert!((60..=CAPACITY_BYTES / (15 << 10)).contains(&remembered), "{remembered} ends");
    }
}
