//! The ring of L1: which immediate contexts of a session have to make room.

use crate::{Context, ContextId, Timestamp};

/// The contexts that leave the ring: the expired ones first, then the oldest until `capacity` are left.
///
/// ```
/// # use context_manager_memory::{AgentId, Context, ContextId, Level, TenantId, Timestamp};
/// use context_manager_memory::immediate::evicted;
///
/// # let now = Timestamp::from_millis(0);
/// # let contexts: Vec<Context> = (0..3).map(|number| {
/// #     let id = ContextId::new(uuid::Uuid::from_u128(number as u128));
/// #     let mut context = Context::new(id, TenantId::new("t").unwrap(), AgentId::new("a").unwrap(), Level::Immediate, "x", now);
/// #     context.sequence = number;
/// #     context
/// # }).collect();
/// assert_eq!(evicted(contexts.iter(), 2, now), [contexts[0].id]);
/// ```
#[must_use]
pub fn evicted<'a>(session: impl Iterator<Item = &'a Context>, capacity: usize, now: Timestamp) -> Vec<ContextId> {
    let (expired, mut alive): (Vec<_>, Vec<_>) = session.partition(|context| context.is_expired(now));
    alive.sort_by_key(|context| (context.sequence, context.created_at, context.id));
    let surplus = alive.len().saturating_sub(capacity);
    expired.into_iter().chain(alive.into_iter().take(surplus)).map(|context| context.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Level, context::tests::sample};

    fn ring(expired: &[i64], count: i64) -> Vec<Context> {
        (0..count)
            .map(|sequence| {
                let mut context = sample(u128::from(sequence.unsigned_abs()), Level::Immediate, "x");
                context.sequence = sequence;
                context.expires_at = expired.contains(&sequence).then(|| Timestamp::from_millis(5));
                context
            })
            .collect()
    }

    #[test]
    fn expired_contexts_leave_before_older_ones() {
        let contexts = ring(&[3], 4);
        let now = Timestamp::from_millis(10);
        assert_eq!(evicted(contexts.iter(), 3, now), [contexts[3].id]);
        assert_eq!(evicted(contexts.iter().rev(), 2, now), [contexts[3].id, contexts[0].id]);
    }

    #[test]
    fn a_ring_with_room_loses_nothing() {
        assert!(evicted(ring(&[], 3).iter(), 3, Timestamp::from_millis(10)).is_empty());
    }
}
