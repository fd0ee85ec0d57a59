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

/// The weighted, normalised legs of each candidate. A leg that no candidate has takes no part, and the others take its weight.
pub(super) fn fuse(candidates: &[Candidate], weights: &Weights) -> Vec<Parts> {
    let legs: [(Leg, f64, Base, Part); 4] = [
        (Leg::DenseSelf, weights.dense_self, Base::Lowest, |parts| &mut parts.dense_self),
        (Leg::DenseCtx, weights.dense_ctx, Base::Lowest, |parts| &mut parts.dense_ctx),
        (Leg::SparseSelf, weights.sparse_self, Base::Zero, |parts| &mut parts.sparse_self),
        (Leg::SparseCtx, weights.sparse_ctx, Base::Zero, |parts| &mut parts.sparse_ctx),
    ];
    let mut all = vec![Parts { recency: 1.0, frequency: 1.0, level: 1.0, ..Parts::default() }; candidates.len()];
    for (leg, weight, base, part) in legs {
        let values: Vec<_> = candidates.iter().map(|candidate| candidate.scores.on(leg).map(f64::from)).collect();
        for (parts, value) in all.iter_mut().zip(normalised(&values, base)) {
            *part(parts) = weight.max(0.0) * value;
        }
    }
    let best = all.iter().map(Parts::fused).fold(0.0, f64::max);
    if best > 0.0 {
        for parts in &mut all {
            for (_, _, _, part) in legs {
                *part(parts) /= best;
            }
        }
    }
    all
}

/// Values from 0 to 1; a candidate without the leg has 0, and so has every one of a leg that does not distinguish any.
fn normalised(values: &[Option<f64>], base: Base) -> Vec<f64> {
    let known = || values.iter().flatten().copied().filter(|value| value.is_finite());
    let low = match base {
        Base::Zero => 0.0,
        Base::Lowest => known().fold(f64::INFINITY, f64::min),
    };
    let span = known().fold(f64::NEG_INFINITY, f64::max) - low;
    let scale = |value: f64| if span > 0.0 { ((value - low) / span).clamp(0.0, 1.0) } else { 0.0 };
    values.iter().map(|value| value.filter(|value| value.is_finite()).map_or(0.0, scale)).collect()
}
