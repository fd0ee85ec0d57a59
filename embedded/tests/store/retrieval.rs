//! Search: exact scores on every leg, the same as those computed in memory.

use std::collections::BTreeMap;

use context_manager_embedded::Error;
use context_manager_memory::store::{InvalidCall, Search, Selection};
use context_manager_memory::{
    Context, LegScores, Level, QueryVectors, Timestamp, lexical, local,
    rank::{Candidate, QueryFacts, Settings, rank},
};

use crate::fixture::{DIMENSIONS, NOW, context, context_of, id, lexical_point, me, owner, point, put, query, store};

const TEXTS: [&str; 8] = [
    "She began violin lessons in March",
    "The violin needs new strings, and the teacher recommends gut strings",
    "Green tea, never coffee",
    "We painted the garden fence green",
    "The bus to the harbour leaves at nine",
    "Violin, violin, violin!",
    "He repaired the harbour crane",
    "Nothing of interest",
];

fn search(text: &str) -> Search {
    Search { query: query(text), selection: Selection::alive(me(), NOW), per_leg: Search::PER_LEG, frequencies: None }
}

fn by_id(candidates: &[Candidate]) -> BTreeMap<u128, LegScores> {
    candidates.iter().map(|candidate| (candidate.context.id.as_uuid().as_u128(), candidate.scores)).collect()
}

fn assert_close(a: &BTreeMap<u128, LegScores>, b: &BTreeMap<u128, LegScores>) {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (id, a) in a {
        let b = &b[id];
        for (leg, a, b) in [
            ("dense_self", a.dense_self, b.dense_self),
            ("dense_ctx", a.dense_ctx, b.dense_ctx),
            ("sparse_self", a.sparse_self, b.sparse_self),
            ("sparse_ctx", a.sparse_ctx, b.sparse_ctx),
        ] {
            let close = match (a, b) {
                (Some(a), Some(b)) => (a - b).abs() < 1e-4,
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            assert!(close, "{leg} of {id}: {a:?} and {b:?}");
        }
    }
}

#[test]
fn scores_are_those_computed_in_memory() {
    let (_directory, shard) = store();
    let mut points: Vec<_> = (0..).zip(TEXTS).map(|(number, text)| point(context(number, text))).collect();
    points.push(lexical_point(context(50, "A violin without an embedding")));
    shard.upsert(&points).expect("stored");
    // Everybody else's memory must not move a document frequency.
    put(&shard, (100..160).map(|number| context_of(&owner("team-b", "support"), number, "violin strings harbour")));
    let here: Vec<_> = points.into_iter().map(|point| (point.context, point.vectors)).collect();
    for text in ["violin strings", "green harbour", "coffee at the harbour", "unheard-of words"] {
        let stored = shard.search(&search(text)).expect("search");
        // What has neither a dense vector nor a term of the query is no candidate.
        let mut computed = by_id(&local::score(&query(text), &here));
        computed.retain(|_, scores| scores.dense_self.is_some() || scores.sparse_self > Some(0.0));
        assert!(computed.len() >= TEXTS.len());
        assert_close(&by_id(&stored), &computed);
    }
}

#[test]
fn union_of_the_legs_is_scored_on_every_leg() {
    let (_directory, shard) = store();
    put(&shard, (0..).zip(TEXTS).map(|(number, text)| context(number, text)));
    let all = by_id(&shard.search(&search("violin strings")).expect("search"));
    let few = by_id(&shard.search(&Search { per_leg: 2, ..search("violin strings") }).expect("search"));
    assert!((2..=8).contains(&few.len()) && few.len() < all.len(), "{}", few.len());
    assert_close(&few, &all.into_iter().filter(|(id, _)| few.contains_key(id)).collect());
    assert!(few.values().all(|scores| scores.dense_self.is_some() && scores.sparse_self.is_some()));
}

#[test]
fn lexical_search_answers_without_an_embedding_and_dense_search_without_terms() {
    let (_directory, shard) = store();
    put(&shard, (0..).zip(TEXTS).map(|(number, text)| context(number, text)));
    let lexical = QueryVectors { dense: None, ..query("violin") };
    let found = shard.search(&Search { query: lexical, ..search("") }).expect("search");
    assert_eq!(by_id(&found).into_keys().collect::<Vec<_>>(), [0, 1, 5]);
    assert!(found.iter().all(|candidate| candidate.scores.dense_self.is_none()));
    let dense = QueryVectors { sparse: Some(lexical::query("the of")), ..query("violin") };
    let found = shard.search(&Search { query: dense, ..search("") }).expect("search");
    assert_eq!(found.len(), TEXTS.len());
    assert!(found.iter().all(|candidate| candidate.scores.sparse_self.is_none()));
    let nothing = Search { query: QueryVectors::default(), ..search("") };
    assert_eq!(shard.search(&nothing).expect("search"), []);
}

#[test]
fn search_keeps_to_its_selection() {
    let (_directory, shard) = store();
    put(
        &shard,
        [
            context(1, "violin"),
            Context { level: Level::Immediate, ..context(2, "violin") },
            Context { expires_at: Some(NOW), ..context(3, "violin") },
            Context { expires_at: Some(Timestamp::from_millis(NOW.as_millis() + 1)), ..context(4, "violin") },
            context_of(&owner("team-b", "support"), 5, "violin"),
            context_of(&owner("team-a", "billing"), 6, "violin"),
        ],
    );
    for per_leg in [1, 2, 100] {
        let selection = Selection { levels: Some(vec![Level::LongTerm]), ..Selection::alive(me(), NOW) };
        let found =
            shard.search(&Search { per_leg, selection, query: query("violin"), frequencies: None }).expect("search");
        assert!(!found.is_empty() && by_id(&found).keys().all(|id| [1, 4].contains(id)), "{found:?}");
    }
    let stranger = Selection::alive(owner("team-c", "support"), NOW);
    assert_eq!(shard.search(&Search { selection: stranger, ..search("violin") }).expect("search"), []);
}

#[test]
fn query_of_another_length_is_refused() {
    let (_directory, shard) = store();
    put(&shard, [context(1, "violin")]);
    let wrong = QueryVectors { dense: Some(vec![1.0; DIMENSIONS + 1]), sparse: None };
    let refused = shard.search(&Search { query: wrong, ..search("") }).expect_err("one dimension too many");
    assert!(matches!(refused, Error::Invalid(InvalidCall::Dimensions { id: None, .. })), "{refused}");
    assert!(refused.is_callers(), "{refused}");
}

#[test]
fn changed_text_is_found_under_its_new_words_only() {
    let (_directory, shard) = store();
    put(&shard, [context(1, "violin"), context(2, "harbour")]);
    put(&shard, [Context { version: 2, ..context(1, "trumpet") }]);
    let lexical = |text: &str| Search { query: QueryVectors { dense: None, ..query(text) }, ..search("") };
    assert_eq!(shard.search(&lexical("violin")).expect("search"), []);
    assert_eq!(by_id(&shard.search(&lexical("trumpet")).expect("search")).into_keys().collect::<Vec<_>>(), [1]);
    shard.delete(&me(), &[id(1)]).expect("deleted");
    assert_eq!(shard.search(&lexical("trumpet")).expect("search"), []);
}

#[test]
fn candidates_rank_as_expected_end_to_end() {
    let (_directory, shard) = store();
    put(&shard, (0..).zip(TEXTS).map(|(number, text)| context(number, text)));
    let asked = "Which strings does the violin teacher recommend?";
    let candidates = shard.search(&search(asked)).expect("search");
    let ranked = rank(candidates, &QueryFacts::of(asked), &Settings::default(), NOW);
    assert_eq!(ranked.first().map(|ranked| ranked.context.id), Some(id(1)));
}
