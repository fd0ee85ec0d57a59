//! What a context was before: earlier versions are kept as contexts of their own, and what was superseded is closed.
//!
//! A context says from when on it is what it is (`updated_at`) and, once it is not any more, until when it was
//! (`valid_until`). So a question about an earlier time is a filter on two times, in every store.
//!
//! An earlier version lives as long as its context, and no longer than history is kept: whoever gives a context more time or less does the
//! same to its earlier versions.

use uuid::Uuid;

use crate::{Context, ContextId, Timestamp};

/// Most earlier versions that are looked up or deleted with a context.
pub const MOST_VERSIONS: i64 = 1_000;

/// The id under which a version of a context is kept. It depends on nothing else, so keeping a version twice keeps it once.
#[must_use]
pub fn version_id(id: ContextId, version: i64) -> ContextId {
    ContextId::new(Uuid::new_v5(&id.as_uuid(), &version.to_be_bytes()))
}

/// The ids of all earlier versions that may have been kept, the latest first.
pub fn earlier_ids(id: ContextId, version: i64) -> impl Iterator<Item = ContextId> {
    (version.saturating_sub(MOST_VERSIONS).max(1)..version).rev().map(move |earlier| version_id(id, earlier))
}

/// The version that a change at `at` ends, as it is kept until `keep_until` at most.
///
/// ```
/// # use context_manager_memory::{AgentId, Context, ContextId, Level, TenantId, Timestamp};
/// use context_manager_memory::history;
///
/// # let time = Timestamp::from_millis;
/// # let id = ContextId::new(uuid::Uuid::from_u128(1));
/// # let context = Context::new(id, TenantId::new("t").unwrap(), AgentId::new("a").unwrap(), Level::LongTerm, "tea", time(0));
/// let earlier = history::earlier(&context, time(5), time(100));
/// assert!(earlier.is_valid_at(time(4)) && !earlier.is_valid_at(time(5)));
/// assert_eq!(earlier.version_of, Some(context.id));
/// ```
#[must_use]
pub fn earlier(context: &Context, at: Timestamp, keep_until: Timestamp) -> Context {
    Context {
        id: version_id(context.id, context.version),
        version_of: Some(context.id),
        ..closed(context, at, keep_until)
    }
}

/// The context from the moment on at which another one takes its place.
#[must_use]
pub fn superseded(context: &Context, by: ContextId, at: Timestamp, keep_until: Timestamp) -> Context {
    Context { superseded_by: Some(by), version: context.version + 1, ..closed(context, at, keep_until) }
}

/// When an earlier version expires: with `context`, whose version it is, and at `keep_until` at the latest; without that, because nothing is
/// kept any more, no later than it would have.
///
/// ```
/// # use context_manager_memory::{AgentId, Context, ContextId, Level, TenantId, Timestamp};
/// use context_manager_memory::history;
///
/// # let time = Timestamp::from_millis;
/// # let id = ContextId::new(uuid::Uuid::from_u128(1));
/// # let mut context = Context::new(id, TenantId::new("t").unwrap(), AgentId::new("a").unwrap(), Level::ShortTerm, "tea", time(0));
/// context.expires_at = Some(time(60));
/// let earlier = history::earlier(&context, time(5), time(100));
/// assert_eq!(earlier.expires_at, Some(time(60)));
/// context.expires_at = None;
/// assert_eq!(history::expires_with(&earlier, &context, Some(time(100))), Some(time(100)));
/// ```
#[must_use]
pub fn expires_with(version: &Context, context: &Context, keep_until: Option<Timestamp>) -> Option<Timestamp> {
    context.expires_at.into_iter().chain(keep_until.or(version.expires_at)).min()
}

fn closed(context: &Context, at: Timestamp, keep_until: Timestamp) -> Context {
    let expires_at = context.expires_at.map_or(keep_until, |own| own.min(keep_until));
    Context { valid_until: Some(at), expires_at: Some(expires_at), ..context.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Level, context::tests::sample};

    #[test]
    fn what_is_closed_expires_by_itself_or_with_the_history() {
        let time = Timestamp::from_millis;
        let mut context = sample(1, Level::LongTerm, "x");
        context.updated_at = time(0);
        let by = ContextId::new(Uuid::from_u128(2));
        let closed = superseded(&context, by, time(5), time(100));
        assert_eq!((closed.id, closed.superseded_by, closed.expires_at), (context.id, Some(by), Some(time(100))));
        assert_eq!((closed.version, closed.updated_at), (2, time(0)), "it still tells what it was since then");
        context.expires_at = Some(time(50));
        assert_eq!(earlier(&context, time(5), time(100)).expires_at, Some(time(50)));
    }

    #[test]
    fn a_version_expires_with_its_context_or_with_the_history() {
        let time = Timestamp::from_millis;
        let version = Context { expires_at: Some(time(50)), ..sample(1, Level::ShortTerm, "x") };
        let of = |expires_at: Option<i64>| Context { expires_at: expires_at.map(time), ..version.clone() };
        for (context, keep_until, expected) in [
            (None, Some(100), 100),
            (Some(70), Some(100), 70),
            (Some(200), Some(100), 100),
            (Some(30), Some(100), 30),
            (None, None, 50),
            (Some(30), None, 30),
        ] {
            let expires = expires_with(&version, &of(context), keep_until.map(time));
            assert_eq!(expires, Some(time(expected)), "{context:?}, {keep_until:?}");
        }
    }

    #[test]
    fn every_version_has_an_id_of_its_own_and_the_latest_come_first() {
        let id = ContextId::new(Uuid::from_u128(1));
        let ids: Vec<ContextId> = earlier_ids(id, 4).collect();
        assert_eq!(ids, [3, 2, 1].map(|version| version_id(id, version)));
        assert_eq!(earlier_ids(id, 1).count(), 0);
        assert_eq!(earlier_ids(id, i64::MAX).count(), 1_000);
    }
}
