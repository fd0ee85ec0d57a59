//! What is wrong with a call itself, in the same words whichever store refuses it. Texts of contexts are never part of it.

use std::sync::Arc;

use crate::{ContextId, SparseVector};

/// What is wrong with a call itself, so that repeating it cannot help. Nothing of it was done.
#[derive(Clone, Debug, thiserror::Error)]
pub enum InvalidCall {
    /// A vector has another length than those that are stored.
    #[error("a vector of {} has {actual} dimensions, but the {place} has {expected}", subject(*id))]
    Dimensions {
        /// Whose vector it is; none is the query's.
        id: Option<ContextId>,
        /// What the vectors are stored in.
        place: &'static str,
        /// The length of those that are stored.
        expected: usize,
        /// The vector's.
        actual: usize,
    },
    /// A vector has a value that is no number.
    #[error("a vector of {} has a value that is not a finite number", subject(*id))]
    NotFinite {
        /// Whose vector it is; none is the query's.
        id: Option<ContextId>,
    },
    /// A metadata key cannot be filtered by.
    #[error("cannot filter by the metadata key {0:?}; a filter's key is not empty and has no '\"' and no '\\'")]
    MetadataKey(String),
    /// A context cannot be written as a payload.
    #[error("context {id} cannot be written as JSON")]
    Encode {
        /// The context.
        id: ContextId,
        /// What is wrong with it.
        source: Arc<serde_json::Error>,
    },
}

impl InvalidCall {
    /// Checks that a dense vector is as long as those of the `place` where it is to be stored or searched for, and has only numbers.
    ///
    /// # Errors
    /// When it does not.
    pub fn check_dense(
        id: Option<ContextId>,
        vector: &[f32],
        expected: usize,
        place: &'static str,
    ) -> Result<(), Self> {
        if vector.len() != expected {
            return Err(Self::Dimensions { id, place, expected, actual: vector.len() });
        }
        check_values(id, vector)
    }

    /// Checks that a sparse vector has only numbers.
    ///
    /// # Errors
    /// When it does not.
    pub fn check_sparse(id: Option<ContextId>, vector: &SparseVector) -> Result<(), Self> {
        check_values(id, vector.values())
    }
}

fn check_values(id: Option<ContextId>, values: &[f32]) -> Result<(), InvalidCall> {
    if values.iter().all(|value| value.is_finite()) { Ok(()) } else { Err(InvalidCall::NotFinite { id }) }
}

fn subject(id: Option<ContextId>) -> String {
    id.map_or_else(|| "the query".to_owned(), |id| format!("context {id}"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
mod tests {
    use super::*;

    #[test]
    fn a_vector_that_does_not_fit_is_refused_with_its_context_or_as_the_querys() {
        let id = ContextId::new(uuid::Uuid::from_u128(7));
        let dense = |id, vector: &[f32]| InvalidCall::check_dense(id, vector, 2, "store");
        dense(Some(id), &[1.0, 0.0]).unwrap();
        let refused = dense(Some(id), &[1.0]).unwrap_err().to_string();
        assert_eq!(refused, format!("a vector of context {id} has 1 dimensions, but the store has 2"));
        let refused = dense(None, &[1.0; 3]).unwrap_err().to_string();
        assert_eq!(refused, "a vector of the query has 3 dimensions, but the store has 2");
        let refused = dense(None, &[1.0, f32::NAN]).unwrap_err().to_string();
        assert_eq!(refused, "a vector of the query has a value that is not a finite number");
    }

    #[test]
    fn a_term_whose_weight_is_no_number_is_refused() {
        let sparse = |weight| InvalidCall::check_sparse(None, &SparseVector::from_pairs([(1, 0.5), (2, weight)]));
        sparse(1.0).unwrap();
        assert!(matches!(sparse(f32::INFINITY), Err(InvalidCall::NotFinite { id: None })));
    }
}
