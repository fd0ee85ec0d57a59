use proptest::prelude::*;

use super::*;
use crate::{Actor, Holder, SessionId, SpaceId, context::tests::sample};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn candidate(number: u128, text: &str, scores: [Option<f32>; 4]) -> Candidate {
    let [dense_self, dense_ctx, sparse_self, sparse_ctx] = scores;
    let scores = LegScores { dense_self, dense_ctx, sparse_self, sparse_ctx };
    Candidate { context: sample(number, Level::LongTerm, text).into(), scores }
}

fn lexical_only(number: u128, text: &str, bm25: f32) -> Candidate {
    candidate(number, text, [None, None, Some(bm25), Some(bm25)])
}

fn in_session(mut candidate: Candidate, session: &str, sequence: i64) -> Candidate {
    Arc::make_mut(&mut candidate.context).session = SessionId::new(session).ok();
    Arc::make_mut(&mut candidate.context).sequence = sequence;
    candidate
}

fn order(candidates: Vec<Candidate>, query: &str, settings: &Settings) -> Vec<u128> {
    rank(candidates, &QueryFacts::of(query), settings, NOW)
        .iter()
        .map(|ranked| ranked.context.id.as_uuid().as_u128())
        .collect()
}

#[test]
fn missing_dense_legs_leave_the_lexical_order() {
    let candidates = vec![lexical_only(1, "a", 0.5), lexical_only(2, "b", 3.0), lexical_only(3, "c", 0.0)];
    assert_eq!(order(candidates, "x", &Settings::default()), [2, 1, 3]);
}

#[test]
fn the_best_fused_score_is_one() {
    let candidates = vec![lexical_only(1, "a", 0.5), lexical_only(2, "b", 3.0)];
    let ranked = rank(candidates, &QueryFacts::default(), &Settings::default(), NOW);
    assert!((ranked[0].parts.fused() - 1.0).abs() < 1e-9);
}

#[test]
fn what_fits_by_its_meaning_is_the_best_also_if_it_is_alone() {
    for (cosines, expected) in
        [(&[0.4][..], &[1.0][..]), (&[0.4, 0.4], &[1.0, 1.0]), (&[0.2, 0.4], &[1.0, 0.0]), (&[-0.1, -0.1], &[0.0, 0.0])]
    {
        let of = |(number, &cosine): (u128, &f32)| {
            candidate(number, &number.to_string(), [Some(cosine), Some(cosine), Some(0.0), None])
        };
        let candidates = (1..).zip(cosines).map(of).collect();
        let ranked = rank(candidates, &QueryFacts::default(), &Settings::default(), NOW);
        let is_near = |(ranked, expected): (&Ranked, &f64)| (ranked.score - expected).abs() < 1e-9;
        assert!(ranked.len() == expected.len() && ranked.iter().zip(expected).all(is_near), "{cosines:?}: {ranked:?}");
    }
}

#[test]
fn a_context_beside_a_good_one_rises() {
    let good = in_session(lexical_only(1, "question", 3.0), "s", 4);
    let beside = in_session(lexical_only(2, "answer", 0.5), "s", 5);
    let alone = in_session(lexical_only(3, "other", 0.6), "t", 5);
    assert_eq!(order(vec![alone, beside, good], "x", &Settings::default()), [1, 2, 3]);
}

#[test]
fn sessions_of_different_memories_are_different_whatever_their_names() {
    let mine = |number, text, bm25, at| in_session(lexical_only(number, text, bm25), "task-42", at);
    let shared = |candidate: Candidate, session: &str| {
        let mut candidate = in_session(candidate, session, 4);
        Arc::make_mut(&mut candidate.context).holder = Holder::Space(SpaceId::new("team").expect("a name"));
        candidate
    };
    let parts = |session: &str| -> Vec<Parts> {
        let candidates = vec![
            mine(1, "question", 3.0, 4),
            mine(2, "answer", 0.5, 5),
            shared(lexical_only(3, "of the team", 2.0), session),
        ];
        let ranked = rank(candidates, &QueryFacts::of("x"), &Settings::default(), NOW);
        ranked.into_iter().map(|ranked| ranked.parts).collect()
    };
    assert_eq!(parts("task-42"), parts("another"));
}

#[test]
fn a_named_day_and_a_named_actor_raise_their_contexts() {
    let mut on_the_day = lexical_only(1, "a", 1.0);
    Arc::make_mut(&mut on_the_day.context).occurred_at = Some(Timestamp::from_millis(1_683_504_000_000));
    let other = lexical_only(2, "b", 1.0);
    assert_eq!(order(vec![other.clone(), on_the_day.clone()], "what was on 8 May 2023", &Settings::default()), [1, 2]);
    let mut ann = other;
    Arc::make_mut(&mut ann.context).actor = Actor::new("Ann").ok();
    let mut ben = on_the_day;
    Arc::make_mut(&mut ben.context).actor = Actor::new("Ben").ok();
    assert_eq!(order(vec![ben.clone(), ann.clone()], "what does Ann's cat eat", &Settings::default()), [2, 1]);
    let both = rank(vec![ben, ann], &QueryFacts::of("Ann and Ben"), &Settings::default(), NOW);
    assert!(both.iter().all(|ranked| ranked.parts.actor.abs() < f64::EPSILON), "two named actors say nothing");
}

#[test]
fn expired_candidates_are_not_ranked() {
    let mut expired = lexical_only(1, "a", 1.0);
    Arc::make_mut(&mut expired.context).expires_at = Some(NOW);
    assert!(order(vec![expired], "a", &Settings::default()).is_empty());
}

#[test]
fn of_contexts_with_the_same_words_the_best_stays() {
    let candidates =
        vec![lexical_only(1, "Tea, please!", 1.0), lexical_only(2, "tea please", 2.0), lexical_only(3, "coffee", 0.5)];
    assert_eq!(order(candidates, "x", &Settings::default()), [2, 3]);
}

#[test]
fn nudges_are_bounded_and_off_by_default() {
    let mut old = lexical_only(1, "old", 1.0);
    Arc::make_mut(&mut old.context).created_at = Timestamp::from_millis(0);
    let fresh = lexical_only(2, "fresh", 0.95);
    assert_eq!(order(vec![old.clone(), fresh.clone()], "x", &Settings::default()), [1, 2]);
    let nudged = Settings { nudges: Nudges { recency: 0.1, ..Nudges::default() }, ..Settings::default() };
    assert_eq!(order(vec![old.clone(), fresh], "x", &nudged), [2, 1]);
    let worse = lexical_only(3, "worse", 0.5);
    let excessive = Settings { nudges: Nudges { recency: 50.0, ..Nudges::default() }, ..Settings::default() };
    assert_eq!(order(vec![old, worse], "x", &excessive), [1, 3]);
}

proptest! {
    #[test]
    fn the_order_of_the_candidates_does_not_matter(
        scores in prop::collection::vec((0.0_f32..1.0, 0.0_f32..1.0, 0.0_f32..9.0, 0.0_f32..9.0, 0_i64..9), 1..30),
        turn in 0_usize..30,
    ) {
        let candidates: Vec<_> = (0_u128..)
            .zip(&scores)
            .map(|(number, &(a, b, c, d, sequence))| {
                in_session(candidate(number, &number.to_string(), [Some(a), Some(b), Some(c), Some(d)]), "s", sequence)
            })
            .collect();
        let mut turned = candidates.clone();
        turned.rotate_left(turn % scores.len());
        // Several contexts at one place of a session cannot come from the engine; which one is the neighbour is then open.
        let settings = Settings { boosts: Boosts { next: 0.0, previous: 0.0, ..Boosts::default() }, ..Settings::default() };
        prop_assert_eq!(order(candidates, "x", &settings), order(turned, "x", &settings));
    }

    #[test]
    fn a_cosine_that_all_have_changes_nothing_where_words_tell_them_apart(
        words in prop::collection::vec((0.01_f32..9.0, 0_i64..9), 1..20),
        cosine in -1.0_f32..1.0,
    ) {
        let ranked = |cosine: Option<f32>| {
            let candidates = (0_u128..).zip(&words).map(|(number, &(bm25, sequence))| {
                in_session(candidate(number, &number.to_string(), [cosine, cosine, Some(bm25), None]), "s", sequence)
            });
            let ranked = rank(candidates.collect(), &QueryFacts::of("x"), &Settings::default(), NOW);
            ranked.into_iter().map(|ranked| (ranked.context.id, ranked.parts)).collect::<Vec<_>>()
        };
        prop_assert_eq!(ranked(Some(cosine)), ranked(None));
    }

    #[test]
    fn the_named_parts_of_every_score_make_that_score(
        contexts in prop::collection::vec(
            (prop::collection::vec(prop::option::of(-9.0_f32..9.0), 4), 0_i64..4, 0_i64..9, 0_i64..99, 0_usize..3),
            1..20,
        ),
        nudges in prop::collection::vec(0.0_f64..0.1, 3),
        query in prop::sample::select(vec!["what did Ann say in November 2023", "tea", "on 14 November, Ben?", ""]),
    ) {
        let settings = Settings {
            nudges: Nudges { recency: nudges[0], frequency: nudges[1], level: nudges[2] },
            ..Settings::default()
        };
        let candidates = (0_u128..).zip(&contexts).map(|(number, (legs, session, sequence, accesses, level))| {
            let of = candidate(number, &number.to_string(), [legs[0], legs[1], legs[2], legs[3]]);
            let mut of = in_session(of, &session.to_string(), *sequence);
            let context = std::sync::Arc::make_mut(&mut of.context);
            context.access_count = *accesses;
            context.level = Level::ALL[*level];
            context.actor = Actor::new(if number % 2 == 0 { "Ann" } else { "Ben" }).ok();
            of
        });
        for ranked in rank(candidates.collect(), &QueryFacts::of(query), &settings, NOW) {
            let (factors, terms): (Vec<_>, Vec<_>) =
                ranked.parts.named().into_iter().partition(|(name, _)| name.ends_with("_factor"));
            prop_assert_eq!((terms.len(), factors.len()), (8, 3));
            let sum: f64 = terms.iter().map(|(_, value)| value).sum();
            let product: f64 = factors.iter().map(|(_, value)| value).product();
            prop_assert!(ranked.score.is_finite() && (ranked.score - sum * product).abs() < 1e-12, "{:?}", ranked);
            prop_assert!(terms.iter().all(|(_, value)| *value >= 0.0), "{:?}", ranked.parts);
            prop_assert!(factors.iter().all(|(_, value)| (value - 1.0).abs() <= 0.05), "{:?}", ranked.parts);
        }
    }
}
