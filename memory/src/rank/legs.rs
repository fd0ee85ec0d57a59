//! Fusion: each leg normalised over the candidates, weighted, added, and the best sum scaled to 1.

use super::{Candidate, Parts, Weights};
use crate::Leg;

type Part = fn(&mut Parts) -> &mut f64;

/// What makes the lowest value of a leg: lexical scores start at nothing, cosines have no natural zero.
#[derive(Clone, Copy)]
enum Base {
    Zero,
    Lowest,
}

/// The weighted, normalised legs of each candidate. A leg that no candidate has takes no part, and the others take its weight. Nor do
/// cosines that are all the same, unless there is nothing else: then all that have a positive one fit equally well.
pub(super) fn fuse(candidates: &[Candidate], weights: &Weights) -> Vec<Parts> {
    let best_of = |all: &[Parts]| all.iter().map(Parts::fused).fold(0.0, f64::max);
    let mut all = weighted(candidates, weights, 0.0);
    let mut best = best_of(&all);
    if best <= 0.0 {
        all = weighted(candidates, weights, 1.0);
        best = best_of(&all);
    }
    if best > 0.0 {
        for parts in &mut all {
            for (_, _, _, part) in legs(weights) {
                *part(parts) /= best;
            }
        }
    }
    all
}

fn legs(weights: &Weights) -> [(Leg, f64, Base, Part); 4] {
    [
        (Leg::DenseSelf, weights.dense_self, Base::Lowest, |parts| &mut parts.dense_self),
        (Leg::DenseCtx, weights.dense_ctx, Base::Lowest, |parts| &mut parts.dense_ctx),
        (Leg::SparseSelf, weights.sparse_self, Base::Zero, |parts| &mut parts.sparse_self),
        (Leg::SparseCtx, weights.sparse_ctx, Base::Zero, |parts| &mut parts.sparse_ctx),
    ]
}

/// The same before the best sum is scaled. Cosines that are all the same count as `equal`.
fn weighted(candidates: &[Candidate], weights: &Weights, equal: f64) -> Vec<Parts> {
    let mut all = vec![Parts { recency: 1.0, frequency: 1.0, level: 1.0, ..Parts::default() }; candidates.len()];
    for (leg, weight, base, part) in legs(weights) {
        let values: Vec<_> = candidates.iter().map(|candidate| candidate.scores.on(leg).map(f64::from)).collect();
        for (parts, value) in all.iter_mut().zip(normalised(&values, base, equal)) {
            *part(parts) = weight.max(0.0) * value;
        }
    }
    all
}

/// Values from 0 to 1; a candidate without the leg has 0. Cosines that are all the same are `equal` if they are positive, or else 0.
fn normalised(values: &[Option<f64>], base: Base, equal: f64) -> Vec<f64> {
    let known = || values.iter().flatten().copied().filter(|value| value.is_finite());
    let low = match base {
        Base::Zero => 0.0,
        Base::Lowest => known().fold(f64::INFINITY, f64::min),
    };
    let high = known().fold(f64::NEG_INFINITY, f64::max);
    let span = high - low;
    let scale = |value: f64| {
        if span > 0.0 {
            ((value - low) / span).clamp(0.0, 1.0)
        } else if high > 0.0 {
            equal
        } else {
            0.0
        }
    };
    values.iter().map(|value| value.filter(|value| value.is_finite()).map_or(0.0, scale)).collect()
}
