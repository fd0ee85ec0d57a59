//! The vectors of contexts and queries, and the four scores that compare them.
//!
//! Owns the shape of the four retrieval legs: dense and sparse, each over the context's own text (`self`) and over the
//! same text with the previous context before it (`ctx`).

use serde::{Deserialize, Serialize};

/// A sparse vector: ascending unique indices and a value for each.
///
/// ```
/// use context_manager_memory::SparseVector;
///
/// let a = SparseVector::from_pairs([(7, 1.0), (2, 2.0), (7, 0.5)]);
/// assert_eq!((a.indices(), a.values()), (&[2, 7][..], &[2.0, 1.5][..]));
/// assert_eq!(a.dot(&SparseVector::from_pairs([(7, 2.0), (9, 1.0)])), 3.0);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawSparse")]
pub struct SparseVector {
    indices: Vec<u32>,
    values: Vec<f32>,
}

/// What a sparse vector looks like before its order is checked.
#[derive(Deserialize)]
struct RawSparse {
    indices: Vec<u32>,
    values: Vec<f32>,
}

impl TryFrom<RawSparse> for SparseVector {
    type Error = &'static str;

    fn try_from(RawSparse { indices, values }: RawSparse) -> Result<Self, Self::Error> {
        if indices.len() != values.len() {
            return Err("a sparse vector needs as many values as indices");
        }
        Ok(Self::from_pairs(indices.into_iter().zip(values)))
    }
}

impl SparseVector {
    /// Sorts the pairs by index and adds up the values of an index that occurs more than once.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (u32, f32)>) -> Self {
        let mut pairs: Vec<(u32, f32)> = pairs.into_iter().collect();
        pairs.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let mut vector = Self { indices: Vec::with_capacity(pairs.len()), values: Vec::with_capacity(pairs.len()) };
        for (index, value) in pairs {
            match (vector.indices.last(), vector.values.last_mut()) {
                (Some(&last), Some(sum)) if last == index => *sum += value,
                _ => {
                    vector.indices.push(index);
                    vector.values.push(value);
                }
            }
        }
        vector
    }

    /// The indices, ascending and unique.
    #[must_use]
    pub fn indices(&self) -> &[u32] {
        &self.indices
    }

    /// The values, one for each index.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Whether no index has a value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// Whether an index has a value.
    #[must_use]
    pub fn has(&self, index: u32) -> bool {
        self.indices.binary_search(&index).is_ok()
    }

    /// The pairs of index and value, by ascending index.
    pub fn iter(&self) -> impl Iterator<Item = (u32, f32)> + '_ {
        self.indices.iter().copied().zip(self.values.iter().copied())
    }

    /// The sum of the products of the values that share an index.
    #[must_use]
    pub fn dot(&self, other: &Self) -> f32 {
        self.dot_weighted(other, |_| 1.0)
    }

    /// Like [`dot`](Self::dot), with each product multiplied by the weight of its index.
    #[must_use]
    pub fn dot_weighted(&self, other: &Self, weight: impl Fn(u32) -> f32) -> f32 {
        let (mut sum, mut at) = (0.0, 0);
        for (index, value) in self.iter() {
            at += other.indices[at..].partition_point(|&candidate| candidate < index);
            if other.indices.get(at) == Some(&index) {
                sum += value * other.values[at] * weight(index);
            }
        }
        sum
    }
}

/// The vectors of one context. A dense vector is missing while the embedding API is down; the sparse ones never are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Vectors {
    /// The embedding of the context's own text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dense_self: Option<Vec<f32>>,
    /// The embedding of the previous context's text and its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dense_ctx: Option<Vec<f32>>,
    /// The BM25 weights of the context's own text.
    pub sparse_self: SparseVector,
    /// The BM25 weights of the previous context's text and its own.
    pub sparse_ctx: SparseVector,
}

/// The vectors of a query; each is compared with both texts of a context.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueryVectors {
    /// The query's embedding; missing when the embedding could not take part.
    pub dense: Option<Vec<f32>>,
    /// The query's terms; missing when only dense retrieval is wanted.
    pub sparse: Option<SparseVector>,
}

/// One of the four ways in which a query is compared with a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// By meaning, with the context's own text.
    DenseSelf,
    /// By meaning, with the context's text and the previous one.
    DenseCtx,
    /// By words, with the context's own text.
    SparseSelf,
    /// By words, with the context's text and the previous one.
    SparseCtx,
}

impl Leg {
    /// Every leg.
    pub const ALL: [Self; 4] = [Self::DenseSelf, Self::DenseCtx, Self::SparseSelf, Self::SparseCtx];
}

/// The exact score of a context on each leg.
///
/// `None` says that the leg could not compare the two: the query or the context has no vector for it. A context that
/// was compared and shares no term with the query has `Some(0.0)`; the difference matters to [`crate::rank`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LegScores {
    /// Cosine of the query and the context's own text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dense_self: Option<f32>,
    /// Cosine of the query and the context's text with the previous one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dense_ctx: Option<f32>,
    /// BM25 of the query and the context's own text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sparse_self: Option<f32>,
    /// BM25 of the query and the context's text with the previous one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sparse_ctx: Option<f32>,
}

impl LegScores {
    /// The scores of a context from what a store found on the legs that it was asked for. What a lexical leg does not find has no term in
    /// common with the query, which is a score of nothing; what a dense one does not find has no vector, which is no score.
    ///
    /// ```
    /// use context_manager_memory::{Leg, LegScores};
    ///
    /// let scores = LegScores::of_found([(Leg::DenseSelf, None), (Leg::SparseSelf, None), (Leg::SparseCtx, Some(2.0))]);
    /// assert_eq!((scores.dense_self, scores.dense_ctx), (None, None));
    /// assert_eq!((scores.sparse_self, scores.sparse_ctx), (Some(0.0), Some(2.0)));
    /// ```
    #[must_use]
    pub fn of_found(found: impl IntoIterator<Item = (Leg, Option<f32>)>) -> Self {
        let mut scores = Self::default();
        for (leg, score) in found {
            match leg {
                Leg::DenseSelf => scores.dense_self = score,
                Leg::DenseCtx => scores.dense_ctx = score,
                Leg::SparseSelf => scores.sparse_self = score.or(Some(0.0)),
                Leg::SparseCtx => scores.sparse_ctx = score.or(Some(0.0)),
            }
        }
        scores
    }

    /// The score on a leg.
    #[must_use]
    pub const fn on(&self, leg: Leg) -> Option<f32> {
        match leg {
            Leg::DenseSelf => self.dense_self,
            Leg::DenseCtx => self.dense_ctx,
            Leg::SparseSelf => self.sparse_self,
            Leg::SparseCtx => self.sparse_ctx,
        }
    }
}

/// The cosine of two dense vectors; 0 if either has no length or their dimensions differ.
///
/// ```
/// use context_manager_memory::vectors::cosine;
///
/// assert_eq!(cosine(&[3.0, 0.0], &[0.5, 0.0]), 1.0);
/// assert_eq!(cosine(&[1.0, 0.0], &[0.0, 1.0]), 0.0);
/// ```
#[must_use]
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        return 0.0;
    }
    let (mut dot, mut norm_a, mut norm_b) = (0.0_f32, 0.0_f32, 0.0_f32);
    for (x, y) in a.iter().zip(b) {
        dot += x * y;
        norm_a += x * x;
        norm_b += y * y;
    }
    let length = (norm_a * norm_b).sqrt();
    if length > 0.0 { dot / length } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn dot_product_is_symmetric(
            a in prop::collection::vec((0_u32..40, 0_i8..9), 0..30),
            b in prop::collection::vec((0_u32..40, 0_i8..9), 0..30),
        ) {
            let a = SparseVector::from_pairs(a.into_iter().map(|(i, v)| (i, f32::from(v))));
            let b = SparseVector::from_pairs(b.into_iter().map(|(i, v)| (i, f32::from(v))));
            // Small whole numbers, so that the sums are exact in any order.
            prop_assert!((a.dot(&b) - b.dot(&a)).abs() < f32::EPSILON);
        }

        #[test]
        fn indices_are_ascending_and_unique(pairs in prop::collection::vec((0_u32..40, -1.0_f32..1.0), 0..60)) {
            let vector = SparseVector::from_pairs(pairs);
            prop_assert!(vector.indices().is_sorted_by(|a, b| a < b));
            prop_assert_eq!(vector.indices().len(), vector.values().len());
        }
    }

    #[test]
    fn sparse_vector_with_a_missing_value_does_not_parse() {
        assert!(serde_json::from_str::<SparseVector>(r#"{"indices":[1,2],"values":[1.0]}"#).is_err());
    }

    #[test]
    fn cosine_of_a_zero_vector_is_zero() {
        assert!(cosine(&[0.0, 0.0], &[1.0, 0.0]).abs() < f32::EPSILON);
        assert!(cosine(&[1.0], &[1.0, 0.0]).abs() < f32::EPSILON);
    }
}
