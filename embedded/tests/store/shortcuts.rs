//! What makes searches fast changes nothing about what they find: counts that are kept, contexts that are remembered, and
//! looking without a filter.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use context_manager_embedded::Shard;
use context_manager_memory::store::{Access, Owner, Point, Search, Selection};
use context_manager_memory::{
    Context, ContextId, LegScores, Level, QueryVectors, SparseVector, Timestamp, Vectors, local,
    rank::{Candidate, QueryFacts, Settings, rank},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::fixture::{
    DIMENSIONS, NOW, context_of, id, lexical_point, me, numbers, options, owner, point, put, query, store,
};

/// Enough that looking without a filter is tried.
const MANY: u128 = 1_200;
const TOLERANCE: f32 = 1e-4;

/// A text of a vocabulary in which some words are much more common than others.
fn text(random: &mut StdRng) -> String {
    let word = |random: &mut StdRng| {
        let (a, b): (u32, u32) = (random.random_range(1..40), random.random_range(1..40));
        format!("word{}", a * b)
    };
    let words: Vec<String> = (0..12).map(|_| word(random)).collect();
    words.join(" ")
}

fn search(text: &str) -> Search {
    let levels = Some(vec![Level::ShortTerm, Level::LongTerm]);
    let selection = Selection { levels, ..Selection::alive(me(), NOW) };
    Search { query: query(text), selection, per_leg: Search::PER_LEG, frequencies: None }
}

/// The same search, expressed so that the engine has to filter.
fn filtered(search: &Search) -> Search {
    let selection = Selection { created_since: Some(Timestamp::from_millis(0)), ..search.selection.clone() };
    Search { selection, ..search.clone() }
}

fn scores(candidates: &[Candidate]) -> BTreeMap<ContextId, LegScores> {
    candidates.iter().map(|candidate| (candidate.context.id, candidate.scores)).collect()
}

fn order(candidates: Vec<Candidate>, text: &str) -> Vec<ContextId> {
    let ranked = rank(candidates, &QueryFacts::of(text), &Settings::default(), NOW);
    ranked.into_iter().map(|ranked| ranked.context.id).collect()
}

fn assert_close(one: &BTreeMap<ContextId, LegScores>, other: &BTreeMap<ContextId, LegScores>) {
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    for (id, scores) in one {
        let legs = |scores: &LegScores| [scores.dense_self, scores.dense_ctx, scores.sparse_self, scores.sparse_ctx];
        for (one, other) in legs(scores).into_iter().zip(legs(&other[id])) {
            let close = one.zip(other).map_or(one == other, |(one, other)| (one - other).abs() < TOLERANCE);
            assert!(close, "{id}: {scores:?}");
        }
    }
}

/// Contexts of the agent and a few of others, some immediate, expired or closed.
fn filled(shard: &Shard, random: &mut StdRng) -> Vec<Context> {
    let contexts: Vec<Context> = (0..MANY)
        .map(|number| {
            let of: Owner = if number % 40 == 0 { owner("team-a", "billing") } else { me() };
            let mut context = context_of(&of, number, &text(random));
            context.level = [Level::ShortTerm, Level::LongTerm][usize::from(number % 2 == 0)];
            match number % 50 {
                1 => context.level = Level::Immediate,
                2 => context.expires_at = Some(NOW),
                3 => context.valid_until = Some(NOW),
                _ => {}
            }
            context
        })
        .collect();
    put(shard, contexts.clone());
    contexts
}

/// Vectors of which no two have the same score, so that what is cut off is certain.
fn random_vectors(random: &mut StdRng) -> Vectors {
    let mut dense = || Some((0..DIMENSIONS).map(|_| random.random_range(-1.0..1.0)).collect());
    let (dense_self, dense_ctx) = (dense(), dense());
    let mut sparse = || {
        SparseVector::from_pairs((0..12).map(|_| (random.random_range(0..300_u32), random.random_range(0.1..2.0_f32))))
    };
    Vectors { dense_self, dense_ctx, sparse_self: sparse(), sparse_ctx: sparse() }
}

#[test]
fn looking_without_a_filter_ranks_as_the_filter_does() {
    let (_directory, shard) = store();
    let mut random = StdRng::seed_from_u64(3);
    let contexts = filled(&shard, &mut random);
    let points = contexts.into_iter().map(|context| Point { context, vectors: random_vectors(&mut random) });
    shard.upsert(&points.collect::<Vec<_>>()).expect("stored");
    for _ in 0..40 {
        let words = text(&mut random);
        let Vectors { dense_self, sparse_self, .. } = random_vectors(&mut random);
        let query = QueryVectors { dense: dense_self, sparse: Some(sparse_self) };
        let all = Search { query, ..search(&words) };
        let selected = filtered(&all);
        let (all, selected) = (shard.search(&all).expect("search"), shard.search(&selected).expect("search"));
        assert!(all.len() >= Search::PER_LEG);
        assert_close(&scores(&all), &scores(&selected));
        assert_eq!(order(all, &words), order(selected, &words));
    }
}

#[test]
fn of_contexts_that_are_too_large_together_the_best_are_found_with_a_filter_and_without() {
    const LARGE: usize = 300;
    const BYTES: usize = 60 << 10;
    let (_directory, shard) = store();
    let mut random = StdRng::seed_from_u64(6);
    put(&shard, (1_000..1_600).map(|number| context_of(&me(), number, &text(&mut random))));
    // Each is a little better than the one before, because it has fewer other words.
    for number in 0..LARGE {
        let text = format!("violin {}{}", "harbour ".repeat(LARGE - number), "-".repeat(BYTES));
        shard.upsert(&[lexical_point(context_of(&me(), number as u128, &text))]).expect("stored");
    }
    let lexical = QueryVectors { dense: None, ..query("violin") };
    let all = Search { query: lexical, per_leg: LARGE, ..search("violin") };
    // The third finds some of them in memory.
    for search in [&filtered(&all), &all, &all] {
        let found = shard.search(search).expect("search");
        let bytes: usize = found.iter().map(|candidate| candidate.context.written_bytes()).sum();
        assert!((Shard::CANDIDATES_BYTES - 2 * BYTES..=Shard::CANDIDATES_BYTES).contains(&bytes), "{bytes} bytes");
        let best: Vec<u128> = (LARGE - found.len()..LARGE).map(|number| number as u128).collect();
        let mut found = numbers(found.iter().map(|candidate| candidate.context.as_ref()));
        found.sort_unstable();
        assert_eq!(found, best);
    }
}

#[test]
fn what_hides_behind_others_contexts_is_found_all_the_same() {
    let (_directory, shard) = store();
    let mut random = StdRng::seed_from_u64(4);
    filled(&shard, &mut random);
    // The best of all are somebody else's, more than are looked at.
    let others = (10_000..10_200).map(|number| context_of(&owner("team-b", "support"), number, "trumpet trumpet"));
    put(&shard, others);
    put(&shard, [context_of(&me(), 20_000, "a trumpet among other instruments")]);
    for _ in 0..3 {
        let found = shard.search(&search("trumpet")).expect("search");
        assert!(found.iter().all(|candidate| me().owns(&candidate.context)));
        assert_eq!(order(found, "trumpet").first(), Some(&id(20_000)));
    }
}

#[test]
fn counts_of_terms_follow_every_write() {
    let (directory, shard) = store();
    let mut random = StdRng::seed_from_u64(5);
    let mut here: BTreeMap<ContextId, Context> =
        filled(&shard, &mut random).into_iter().map(|context| (context.id, context)).collect();
    shard.search(&search("word12")).expect("counted for the first time");
    let mine = |random: &mut StdRng| id(random.random_range(0..MANY));
    for round in 0..120_u128 {
        let id = mine(&mut random);
        match round % 6 {
            0 => {
                let context = context_of(&me(), 50_000 + round, &text(&mut random));
                shard.upsert(&[lexical_point(context.clone())]).expect("stored");
                here.insert(context.id, context);
            }
            1 => {
                let owner = here.get(&id).map_or_else(me, Owner::of);
                shard.delete(&owner, &[id]).expect("deleted");
                here.remove(&id);
            }
            _ => {
                let Some(context) = here.get_mut(&id) else { continue };
                let expected = context.version;
                context.version += 1;
                let vectors = if round % 2 == 0 {
                    context.text = text(&mut random);
                    Some(point(context.clone()).vectors)
                } else {
                    context.valid_until = context.valid_until.is_none().then_some(NOW);
                    None
                };
                shard.update(context, vectors.as_ref(), expected).expect("updated");
            }
        }
    }
    let owners: HashSet<Owner> = here.values().map(Owner::of).collect();
    shard.delete_expired(Some(&Vec::from_iter(owners)), &[], NOW, 1_000).expect("deleted");
    here.retain(|_, context| !context.is_expired(NOW));
    let queries: Vec<String> = (0..20).map(|_| text(&mut random)).collect();
    let lexical = |words: &str| {
        let query = QueryVectors { dense: None, ..query(words) };
        Search { query, per_leg: 2_000, ..search(words) }
    };
    let kept: Vec<_> = queries.iter().map(|words| scores(&shard.search(&lexical(words)).expect("search"))).collect();
    shard.close().expect("closed");
    let counted_anew = Shard::open(options(directory.path())).expect("opened");
    for (words, kept) in queries.iter().zip(&kept) {
        assert_close(kept, &scores(&counted_anew.search(&lexical(words)).expect("search")));
    }
    // And both are what the contexts themselves say.
    let current: Vec<_> = here
        .values()
        .filter(|context| me().owns(context) && context.is_current())
        .map(|context| (context.clone(), lexical_point(context.clone()).vectors))
        .collect();
    for (words, kept) in queries.iter().zip(&kept) {
        let computed = scores(&local::score(&lexical(words).query, &current));
        assert_close(kept, &computed.into_iter().filter(|(id, _)| kept.contains_key(id)).collect());
    }
}

#[test]
fn a_context_that_was_returned_is_returned_as_it_is_after_each_write() {
    let (_directory, shard) = store();
    put(&shard, [context_of(&me(), 1, "violin")]);
    let found = |words: &str| {
        let found = shard.search(&search(words)).expect("search");
        found.into_iter().next().map(|candidate| Arc::unwrap_or_clone(candidate.context))
    };
    let mut context = found("violin").expect("the violin");
    assert_eq!(context.access_count, 0);
    shard.count_accesses(&me(), &[Access { id: id(1), times: 3, at: NOW }]).expect("counted");
    assert_eq!(found("violin").map(|context| context.access_count), Some(3));
    context.version = 2;
    context.metadata.insert("topic".to_owned(), "music".into());
    shard.update(&context, None, 1).expect("updated");
    assert_eq!(found("violin").map(|context| context.metadata), Some(context.metadata));
    shard.delete(&me(), &[id(1)]).expect("deleted");
    assert_eq!(found("violin"), None);
}
