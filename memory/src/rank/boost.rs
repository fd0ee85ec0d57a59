//! Structure boosts: what the neighbours, the session, a named date and a named actor add to a score.

use std::collections::{HashMap, HashSet};

use super::{Boosts, Candidate, Parts, QueryFacts};
use crate::{Context, Holder, SessionId, date, lexical};

/// A session of one memory; those of others may have the same name.
type Session<'a> = (&'a Holder, &'a SessionId);

/// How many of a session's best contexts speak for it.
const SESSION_BEST: usize = 3;

pub(super) fn structure(candidates: &[Candidate], parts: &mut [Parts], query: &QueryFacts, boosts: &Boosts) {
    let fused: Vec<f64> = parts.iter().map(Parts::fused).collect();
    let places = places(candidates);
    let sessions = session_means(candidates, &fused);
    let actor = only_named_actor(candidates, query);
    for (place, candidate) in candidates.iter().enumerate() {
        let context = &candidate.context;
        let parts = &mut parts[place];
        if let Some(session) = session_of(context) {
            let neighbour = |step: i64| {
                let sequence = context.sequence.checked_add(step)?;
                places.get(&(session, sequence)).map(|&place| fused[place])
            };
            parts.neighbours =
                boosts.next * neighbour(1).unwrap_or(0.0) + boosts.previous * neighbour(-1).unwrap_or(0.0);
            parts.session = boosts.session * sessions.get(&session).copied().unwrap_or(0.0);
        }
        parts.date = boosts.date * date::closeness(context.event_time(), &query.dates);
        if actor.is_some()
            && actor.as_deref() == context.actor.as_ref().map(|actor| actor.as_str().to_lowercase()).as_deref()
        {
            parts.actor = boosts.actor;
        }
    }
}

fn session_of(context: &Context) -> Option<Session<'_>> {
    context.session.as_ref().map(|session| (&context.holder, session))
}

fn places(candidates: &[Candidate]) -> HashMap<(Session<'_>, i64), usize> {
    let placed = candidates.iter().enumerate().filter_map(|(place, candidate)| {
        let context = &candidate.context;
        session_of(context).map(|session| ((session, context.sequence), place))
    });
    placed.collect()
}

/// The mean of each session's best scores; a session with fewer counts the missing ones as nothing.
fn session_means<'a>(candidates: &'a [Candidate], fused: &[f64]) -> HashMap<Session<'a>, f64> {
    let mut scores: HashMap<Session<'a>, Vec<f64>> = HashMap::new();
    for (candidate, score) in candidates.iter().zip(fused) {
        if let Some(session) = session_of(&candidate.context) {
            scores.entry(session).or_default().push(*score);
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "the constant is small")]
    let mean = |mut scores: Vec<f64>| {
        scores.sort_by(|a, b| b.total_cmp(a));
        scores.iter().take(SESSION_BEST).sum::<f64>() / SESSION_BEST as f64
    };
    scores.into_iter().map(|(session, scores)| (session, mean(scores))).collect()
}

/// The actor whose whole name stands in the query, if there is exactly one.
fn only_named_actor(candidates: &[Candidate], query: &QueryFacts) -> Option<String> {
    let actors: HashSet<String> = candidates
        .iter()
        .filter_map(|candidate| candidate.context.actor.as_ref())
        .map(|actor| actor.as_str().to_lowercase())
        .collect();
    let mut named = actors.into_iter().filter(|actor| {
        let mut words = lexical::words(actor).peekable();
        words.peek().is_some() && words.all(|word| query.words.contains(&word))
    });
    named.next().filter(|_| named.next().is_none())
}
