//! Both stores are asked the same of the same contexts.

use std::collections::BTreeMap;

use context_manager_memory::{
    ContextId, LegScores, QueryVectors, lexical,
    store::{Point, Search, Selection},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

use super::fixture::{DIMENSIONS, Kind, NOW, Place, owner, point};

const WORDS: [&str; 12] =
    ["tea", "coffee", "mountain", "river", "painting", "guitar", "garden", "train", "novel", "bread", "winter", "lamp"];
/// Two sums of 32-bit floats in another order.
const TOLERANCE: f32 = 1e-4;

#[tokio::test(flavor = "multi_thread")]
async fn candidates_and_scores_are_the_same() {
    let mut random = StdRng::seed_from_u64(7);
    let contexts: Vec<Point> = (0..300)
        .map(|number| {
            let text = sentence(&mut random);
            let mut point = point(["a", "b"][usize::from(number % 2)], number, &text);
            point.vectors.dense_self = Some(direction(&mut random));
            point.vectors.dense_ctx = (number % 5 != 0).then(|| direction(&mut random));
            point
        })
        .collect();
    let places = [Place::new(Kind::Embedded).await, Place::new(Kind::Qdrant).await];
    let [embedded, qdrant] = [places[0].open().await, places[1].open().await];
    for store in [&embedded, &qdrant] {
        for batch in contexts.chunks(50) {
            store.upsert(batch.to_vec()).await.expect("stored");
        }
    }
    for round in 0..20 {
        let search = Search {
            query: QueryVectors {
                dense: (round % 4 != 0).then(|| direction(&mut random)),
                sparse: (round % 4 != 1).then(|| lexical::query(&sentence(&mut random))),
            },
            selection: Selection::alive(owner(["a", "b"][round % 2]), NOW),
            // More than there are, so that equal scores at the cut cannot make a difference.
            per_leg: 200,
            frequencies: None,
        };
        let mut answers = Vec::new();
        for store in [&embedded, &qdrant] {
            let found = store.candidates(vec![search.clone()]).await.expect("found");
            let scores: BTreeMap<ContextId, LegScores> =
                found.into_iter().map(|candidate| (candidate.context.id, candidate.scores)).collect();
            answers.push(scores);
        }
        let [first, second] = answers.as_slice() else { unreachable!("two stores were asked") };
        assert!(!first.is_empty(), "round {round} finds something");
        assert_eq!(first.keys().collect::<Vec<_>>(), second.keys().collect::<Vec<_>>(), "round {round}");
        for (id, scores) in first {
            for (one, other) in legs(*scores).into_iter().zip(legs(second[id])) {
                let same = match (one, other) {
                    (Some(one), Some(other)) => (one - other).abs() <= TOLERANCE,
                    (None, None) => true,
                    (Some(_), None) | (None, Some(_)) => false,
                };
                assert!(same, "round {round}, {id}: {scores:?} and {:?}", second[id]);
            }
        }
    }
}

fn legs(LegScores { dense_self, dense_ctx, sparse_self, sparse_ctx }: LegScores) -> [Option<f32>; 4] {
    [dense_self, dense_ctx, sparse_self, sparse_ctx]
}

fn sentence(random: &mut StdRng) -> String {
    let words: Vec<&str> =
        (0..random.random_range(1..8)).map(|_| *WORDS.choose(random).expect("there are words")).collect();
    words.join(" ")
}

fn direction(random: &mut StdRng) -> Vec<f32> {
    (0..DIMENSIONS).map(|_| random.random_range(-1.0..1.0)).collect()
}
