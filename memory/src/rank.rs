//! Ranking: from the exact scores of each leg to one order.
//!
//! The four legs are normalised over the candidates, weighted and added; small structure boosts follow (neighbouring contexts,
//! the session, a date or an actor that the query names); then bounded multiplicative nudges, which are off by default. Each
//! part of each score is kept, so that every answer can be explained. Additive recency terms are deliberately absent: they
//! drown relevance.

mod boost;
mod fold;
mod legs;

use std::{cmp::Ordering, collections::HashSet, sync::Arc, time::Duration};

use crate::{Context, ContextId, LegScores, Level, Timestamp, date, lexical};

/// A context with the exact scores of its legs.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The context. Shared, because there are many and most are dropped after they were ranked.
    pub context: Arc<Context>,
    /// Its scores.
    pub scores: LegScores,
}

/// Weights of the legs; only their proportions count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    /// Dense, own text.
    pub dense_self: f64,
    /// Dense, with the previous context.
    pub dense_ctx: f64,
    /// Lexical, own text.
    pub sparse_self: f64,
    /// Lexical, with the previous context.
    pub sparse_ctx: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { dense_self: 0.2, dense_ctx: 0.2, sparse_self: 0.3, sparse_ctx: 0.3 }
    }
}

/// Strengths of the structure boosts, relative to the best fused score, which is 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Boosts {
    /// Share of the next context's score in the same session: the text with the previous one also lights up what follows.
    pub next: f64,
    /// Share of the previous context's score.
    pub previous: f64,
    /// Share of the mean of the session's three best scores.
    pub session: f64,
    /// For the day or month that the query names.
    pub date: f64,
    /// For the one actor that the query names.
    pub actor: f64,
}

impl Default for Boosts {
    fn default() -> Self {
        Self { next: 0.2, previous: 0.2, session: 0.3, date: 0.2, actor: 0.1 }
    }
}

/// Strengths of the nudges, each from 0 (off) to 0.1: the score is multiplied by `1 + strength × (signal − ½)`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Nudges {
    /// For young contexts.
    pub recency: f64,
    /// For contexts that were often returned.
    pub frequency: f64,
    /// For fresher levels.
    pub level: f64,
}

/// How to rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Weights of the legs.
    pub weights: Weights,
    /// Structure boosts.
    pub boosts: Boosts,
    /// Nudges.
    pub nudges: Nudges,
    /// Age at which the recency signal is one half.
    pub recency_half_life: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            weights: Weights::default(),
            boosts: Boosts::default(),
            nudges: Nudges::default(),
            recency_half_life: Duration::from_hours(24),
        }
    }
}

/// What a query says beside its words.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueryFacts {
    dates: Vec<date::NamedDate>,
    words: HashSet<String>,
}

impl QueryFacts {
    /// Reads a query.
    #[must_use]
    pub fn of(query: &str) -> Self {
        Self { dates: date::named(query), words: lexical::words(query).collect() }
    }
}

/// The parts of a score. The first eight add up; the nudges multiply the sum.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Parts {
    /// Dense, own text.
    pub dense_self: f64,
    /// Dense, with the previous context.
    pub dense_ctx: f64,
    /// Lexical, own text.
    pub sparse_self: f64,
    /// Lexical, with the previous context.
    pub sparse_ctx: f64,
    /// From the neighbours of the same session.
    pub neighbours: f64,
    /// From the session.
    pub session: f64,
    /// From a named date.
    pub date: f64,
    /// From a named actor.
    pub actor: f64,
    /// Factor of recency.
    pub recency: f64,
    /// Factor of frequency.
    pub frequency: f64,
    /// Factor of the level.
    pub level: f64,
}

impl Parts {
    /// Names and values, in the order in which they apply.
    #[must_use]
    pub const fn named(&self) -> [(&'static str, f64); 11] {
        let Self {
            dense_self,
            dense_ctx,
            sparse_self,
            sparse_ctx,
            neighbours,
            session,
            date,
            actor,
            recency,
            frequency,
            level,
        } = *self;
        [
            ("dense", dense_self),
            ("dense_with_previous", dense_ctx),
            ("sparse", sparse_self),
            ("sparse_with_previous", sparse_ctx),
            ("neighbours", neighbours),
            ("session", session),
            ("date", date),
            ("actor", actor),
            ("recency_factor", recency),
            ("frequency_factor", frequency),
            ("level_factor", level),
        ]
    }

    fn fused(&self) -> f64 {
        self.dense_self + self.dense_ctx + self.sparse_self + self.sparse_ctx
    }

    /// The score that the parts make.
    #[must_use]
    pub fn score(&self) -> f64 {
        (self.fused() + self.neighbours + self.session + self.date + self.actor)
            * self.recency
            * self.frequency
            * self.level
    }
}

/// A context in its place of the order.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// The context.
    pub context: Arc<Context>,
    /// Its score; comparable within one ranking only.
    pub score: f64,
    /// The parts of the score.
    pub parts: Parts,
    /// Contexts that say the same and were left out for it, best first.
    pub folded: Vec<ContextId>,
}

/// Orders candidates, best first. Expired ones are left out, and of those that say the same only the best stays. Equal scores
/// are ordered by id, so the order of the candidates does not matter.
///
/// ```
/// # use context_manager_memory::{AgentId, Context, ContextId, LegScores, Level, TenantId, Timestamp};
/// use context_manager_memory::rank::{Candidate, QueryFacts, Settings, rank};
///
/// # let now = Timestamp::from_millis(0);
/// # let new = |number: u128, text: &str| Context::new(ContextId::new(uuid::Uuid::from_u128(number)), TenantId::new("t").unwrap(), AgentId::new("a").unwrap(), Level::LongTerm, text, now);
/// let candidates = [(1, "coffee", 0.1), (2, "tea", 2.0)].map(|(number, text, bm25)| Candidate {
///     context: new(number, text).into(),
///     scores: LegScores { sparse_self: Some(bm25), ..LegScores::default() },
/// });
/// let ranked = rank(candidates.into(), &QueryFacts::of("tea"), &Settings::default(), now);
/// assert_eq!(ranked[0].context.text, "tea");
/// ```
#[must_use]
pub fn rank(mut candidates: Vec<Candidate>, query: &QueryFacts, settings: &Settings, now: Timestamp) -> Vec<Ranked> {
    candidates.retain(|candidate| !candidate.context.is_expired(now));
    // Sums of floating point numbers depend on their order; a fixed one makes the result independent of the store's.
    candidates.sort_by_key(|candidate| candidate.context.id);
    candidates.dedup_by_key(|candidate| candidate.context.id);
    let mut parts = legs::fuse(&candidates, &settings.weights);
    boost::structure(&candidates, &mut parts, query, &settings.boosts);
    for (candidate, parts) in candidates.iter().zip(&mut parts) {
        nudge(&candidate.context, parts, settings, now);
    }
    let mut ranked: Vec<Ranked> = candidates
        .into_iter()
        .zip(parts)
        .map(|(Candidate { context, .. }, parts)| Ranked { context, score: parts.score(), parts, folded: Vec::new() })
        .collect();
    ranked
        .sort_by(|a, b| b.score.partial_cmp(&a.score).unwrap_or(Ordering::Equal).then(a.context.id.cmp(&b.context.id)));
    fold::fold(ranked)
}

fn nudge(context: &Context, parts: &mut Parts, settings: &Settings, now: Timestamp) {
    let factor = |strength: f64, signal: f64| 1.0 + strength.clamp(0.0, 0.1) * (signal - 0.5);
    let age = now.since(context.event_time()).as_secs_f64();
    let half_life = settings.recency_half_life.as_secs_f64().max(f64::MIN_POSITIVE);
    parts.recency = factor(settings.nudges.recency, (-age / half_life * std::f64::consts::LN_2).exp());
    #[expect(clippy::cast_precision_loss, reason = "an access count is far below 2^52")]
    let accesses = context.access_count.max(0) as f64;
    parts.frequency = factor(settings.nudges.frequency, accesses / (accesses + 3.0));
    let fresh = match context.level {
        Level::Immediate => 1.0,
        Level::ShortTerm => 0.5,
        Level::LongTerm => 0.0,
    };
    parts.level = factor(settings.nudges.level, fresh);
}

#[cfg(test)]
mod tests;
