//! The embeddings API that many servers share (`POST /v1/embeddings` of `OpenAI`): a call, its answer, and the checks that an answer
//! must pass before anybody uses a vector of it.

use serde::{Deserialize, Serialize};

/// The longest a number of a vector can reasonably be written, its comma included.
const NUMBER_BYTES: usize = 32;
/// Room for everything that is not a number of a vector.
const ENVELOPE_BYTES: usize = 64 * 1024;

/// The body of a call.
#[derive(Clone, Debug, Serialize)]
pub struct Request<'a> {
    /// The model's name.
    pub model: &'a str,
    /// The texts.
    pub input: &'a [String],
}

/// Why an answer has no vectors. The answer is never quoted, because it may quote the texts.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no answer of an embeddings API.
    #[error("not a list of embeddings")]
    Malformed(#[source] serde_json::Error),
    /// It has too few or too many vectors, or one of them twice.
    #[error("{actual} usable vectors for {expected} texts")]
    Count {
        /// How many texts were sent.
        expected: usize,
        /// How many different positions the answer filled, or how many vectors it has if that is more.
        actual: usize,
    },
    /// A vector has another length.
    #[error("vectors of {actual} dimensions instead of {expected}")]
    Dimensions {
        /// What is configured.
        expected: usize,
        /// What came.
        actual: usize,
    },
    /// A vector has a value that is not a finite number.
    #[error("a value that is not a finite number")]
    NotFinite,
}

#[derive(Deserialize)]
struct Answer {
    data: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    /// Where the text stood in the request. Some servers leave it out and answer in order.
    #[serde(default)]
    index: Option<usize>,
    embedding: Vec<f32>,
}

/// The most bytes an answer with `count` vectors may have.
#[must_use]
pub const fn most_bytes(count: usize, dimensions: usize) -> usize {
    ENVELOPE_BYTES.saturating_add(count.saturating_mul(dimensions.saturating_mul(NUMBER_BYTES)))
}

/// The vectors of an answer to `count` texts, in the order of the texts; each has `dimensions` finite values.
///
/// # Errors
/// [`Error`] says what the answer lacks.
pub fn vectors(body: &[u8], count: usize, dimensions: usize) -> Result<Vec<Vec<f32>>, Error> {
    let Answer { data } = serde_json::from_slice(body).map_err(Error::Malformed)?;
    let returned = data.len();
    let mut vectors: Vec<Option<Vec<f32>>> = vec![None; count];
    for (position, Item { index, embedding }) in data.into_iter().enumerate() {
        check(&embedding, dimensions)?;
        let slot = vectors.get_mut(index.unwrap_or(position));
        if let Some(slot) = slot.filter(|slot| slot.is_none()) {
            *slot = Some(embedding);
        }
    }
    let vectors: Vec<Vec<f32>> = vectors.into_iter().flatten().collect();
    if vectors.len() == count && returned == count {
        Ok(vectors)
    } else {
        Err(Error::Count { expected: count, actual: if vectors.len() == count { returned } else { vectors.len() } })
    }
}

fn check(vector: &[f32], dimensions: usize) -> Result<(), Error> {
    if vector.len() != dimensions {
        return Err(Error::Dimensions { expected: dimensions, actual: vector.len() });
    }
    if vector.iter().all(|value| value.is_finite()) { Ok(()) } else { Err(Error::NotFinite) }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};
    use serde_json::json;

    use super::*;

    fn of(body: &str, count: usize) -> Result<Vec<Vec<f32>>, Error> {
        vectors(body.as_bytes(), count, 2)
    }

    #[test]
    fn vectors_are_put_in_the_order_of_the_texts() {
        let body = r#"{"data":[{"index":1,"embedding":[3,4]},{"index":0,"embedding":[1,2]}]}"#;
        assert_eq!(of(body, 2).expect("a whole answer"), [[1.0, 2.0], [3.0, 4.0]]);
    }

    #[test]
    fn answer_without_positions_is_taken_in_order() {
        let body = r#"{"data":[{"embedding":[1,2]},{"embedding":[3,4]}]}"#;
        assert_eq!(of(body, 2).expect("a whole answer"), [[1.0, 2.0], [3.0, 4.0]]);
    }

    #[test]
    fn too_few_too_many_or_doubled_vectors_are_refused() {
        for (body, count) in [
            (r#"{"data":[{"index":0,"embedding":[1,2]}]}"#, 2),
            (r#"{"data":[{"index":0,"embedding":[1,2]},{"index":1,"embedding":[1,2]}]}"#, 1),
            (r#"{"data":[{"index":0,"embedding":[1,2]},{"index":0,"embedding":[3,4]}]}"#, 2),
            (r#"{"data":[{"index":7,"embedding":[1,2]}]}"#, 1),
            (r#"{"data":[]}"#, 1),
        ] {
            assert!(matches!(of(body, count), Err(Error::Count { expected, .. }) if expected == count), "{body}");
        }
    }

    #[test]
    fn wrong_dimension_names_both_lengths() {
        let error = of(r#"{"data":[{"index":0,"embedding":[1,2,3]}]}"#, 1).expect_err("3 is not 2");
        assert!(matches!(error, Error::Dimensions { expected: 2, actual: 3 }), "{error}");
    }

    #[test]
    fn value_beyond_the_range_of_a_float_is_refused() {
        assert!(matches!(of(r#"{"data":[{"index":0,"embedding":[1e39,0]}]}"#, 1), Err(Error::NotFinite)));
    }

    #[test]
    fn garbage_is_refused_without_being_quoted() {
        let error = of("<html>secret text</html>", 1).expect_err("not JSON");
        assert!(matches!(error, Error::Malformed(_)));
        let source = std::error::Error::source(&error).map(ToString::to_string);
        assert!(!format!("{error}: {source:?}").contains("secret"));
    }

    proptest! {
        #[test]
        fn whatever_an_endpoint_answers_is_all_vectors_or_an_error(
            items in vec((option::of(0_usize..4), vec(any::<f64>(), 0..4)), 0..4),
            cut in any::<prop::sample::Index>(),
            count in 0_usize..4,
        ) {
            let written = items.iter().map(|(index, embedding)| json!({"index": index, "embedding": embedding}));
            let body = json!({ "data": written.collect::<Vec<_>>() }).to_string();
            for body in [body.as_str(), &body[..cut.index(body.len())]] {
                if let Ok(vectors) = of(body, count) {
                    prop_assert_eq!(vectors.len(), count);
                    prop_assert!(vectors.iter().all(|vector| vector.len() == 2 && vector.iter().all(|value| value.is_finite())));
                }
            }
        }

        #[test]
        fn bytes_that_are_no_answer_are_refused(body in any::<Vec<u8>>()) {
            prop_assert!(vectors(&body, 1, 2).is_err());
        }
    }
}
