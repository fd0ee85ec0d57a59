//! Which short-term contexts have proved worth keeping.

use crate::{Context, Level, Timestamp, expiry};

/// Whether a context moves from short-term to long-term: it was returned often enough, it is not expired yet, the caller did not ask for a
/// time to live of its own, and it is what it says now. What is past has the time that history gives it, however often it is looked at.
///
/// ```
/// # use context_manager_memory::{AgentId, Context, ContextId, Level, TenantId, Timestamp};
/// use context_manager_memory::promotion::is_due;
///
/// # let now = Timestamp::from_millis(0);
/// # let id = ContextId::new(uuid::Uuid::from_u128(1));
/// # let mut context = Context::new(id, TenantId::new("t").unwrap(), AgentId::new("a").unwrap(), Level::ShortTerm, "x", now);
/// context.access_count = 3;
/// assert!(is_due(&context, Some(3), now));
/// assert!(!is_due(&context, None, now));
/// ```
#[must_use]
pub fn is_due(context: &Context, min_accesses: Option<i64>, now: Timestamp) -> bool {
    context.level == Level::ShortTerm
        && context.ttl.is_none()
        && context.is_current()
        && !context.is_expired(now)
        && min_accesses.is_some_and(|least| context.access_count >= least)
}

/// The context on another level: a new version, with that level's time to live counted from now. A time to live that the caller asked for
/// has begun when the caller asked, and ends when it was said to.
#[must_use]
pub fn moved(context: &Context, level: Level, now: Timestamp, ttls: &expiry::LevelTtls) -> Context {
    let expires_at = match context.ttl {
        Some(_) => context.expires_at,
        None => expiry::expires_at(now, level, None, ttls),
    };
    Context { level, version: context.version + 1, expires_at, ..context.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Ttl, context::tests::sample, expiry::LevelTtls};

    #[test]
    fn only_used_living_short_term_contexts_are_promoted() {
        let now = Timestamp::from_millis(10);
        let mut context = sample(1, Level::ShortTerm, "x");
        context.access_count = 5;
        assert!(is_due(&context, Some(5), now));
        assert!(!is_due(&context, Some(6), now));
        assert!(!is_due(&Context { level: Level::Immediate, ..context.clone() }, Some(5), now));
        assert!(!is_due(&Context { expires_at: Some(now), ..context.clone() }, Some(5), now));
        assert!(!is_due(&Context { valid_until: Some(now), ..context.clone() }, Some(5), now));
        assert!(!is_due(&Context { ttl: Ttl::try_from(9).ok(), ..context }, Some(5), now));
    }

    #[test]
    fn a_promoted_context_keeps_its_identity_and_loses_its_expiry() {
        let now = Timestamp::from_millis(10);
        let context = Context { expires_at: Some(Timestamp::from_millis(11)), ..sample(1, Level::ShortTerm, "x") };
        let kept = moved(&context, Level::LongTerm, now, &LevelTtls::default());
        assert_eq!((kept.id, kept.version, kept.expires_at, kept.level), (context.id, 2, None, Level::LongTerm));
    }

    #[test]
    fn a_moved_context_gets_the_time_of_its_level_but_not_twice_the_time_that_its_caller_asked_for() {
        let time = Timestamp::from_millis;
        let ttls = LevelTtls { short_term: Ttl::try_from(100).ok(), ..LevelTtls::default() };
        let context = Context { expires_at: Some(time(20)), ..sample(1, Level::Immediate, "x") };
        let own = Context { ttl: Ttl::try_from(20).ok(), ..context.clone() };
        assert_eq!(moved(&context, Level::ShortTerm, time(15), &ttls).expires_at, Some(time(115)));
        assert_eq!(moved(&own, Level::ShortTerm, time(15), &ttls).expires_at, Some(time(20)));
    }
}
