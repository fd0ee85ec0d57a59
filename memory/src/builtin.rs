//! The built-in embedder: no download, no network, the same vector on every machine.
//!
//! Owns a fixed map from text to a dense vector: words, word pairs and character n-grams are hashed with a sign into the
//! dimensions and the sum is scaled to unit length. Feature hashing: Weinberger et al., "Feature Hashing for Large Scale
//! Multitask Learning", 2009. Sub-word n-grams: Bojanowski et al., "Enriching Word Vectors with Subword Information", 2017.
//! It knows spelling, not meaning: it helps with word forms and typing errors that the lexical leg misses, and an
//! embedding model does better.

use std::collections::HashMap;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::lexical;

/// The name of this embedder as a model; a change of the map is a change of the name.
pub const MODEL: &str = "builtin-hash-2";
/// Weight of a whole term beside its n-grams.
const TERM: f32 = 1.0;
/// Weight of two neighbouring terms.
const PAIR: f32 = 0.5;
/// Weight of all n-grams of a term together.
const NGRAMS: f32 = 0.7;
/// Lengths of the n-grams in characters.
const LENGTHS: std::ops::RangeInclusive<usize> = 3..=5;

/// The vector of a text, of unit length; all zero for a text without words.
///
/// ```
/// use context_manager_memory::{builtin::embed, vectors::cosine};
///
/// let [tea, teas, car] = ["green tea", "green teas", "a red car"].map(|text| embed(text, 384));
/// assert!(cosine(&tea, &teas) > cosine(&tea, &car));
/// ```
#[must_use]
pub fn embed(text: &str, dimensions: usize) -> Vec<f32> {
    let terms = lexical::terms(text);
    let mut counts: HashMap<&str, usize> = HashMap::new();
    let occurrences = terms.iter().map(|term| {
        let count = counts.entry(term).or_default();
        *count += 1;
        *count
    });
    vector(&terms, occurrences, dimensions)
}

/// The vector of terms; `occurrences` says of each how often it was there so far, itself included.
fn vector(terms: &[String], occurrences: impl Iterator<Item = usize>, dimensions: usize) -> Vec<f32> {
    let mut vector = vec![0.0; dimensions];
    for (term, occurrence) in terms.iter().zip(occurrences) {
        // Frequent terms count less than proportionally: the n-th occurrence adds 1/n.
        #[expect(clippy::cast_precision_loss, reason = "a text has far fewer than 2^24 terms")]
        let damping = 1.0 / occurrence as f32;
        add(&mut vector, 1, term, TERM * damping);
        let grams = ngrams(term);
        #[expect(clippy::cast_precision_loss, reason = "a word has far fewer than 2^24 n-grams")]
        let share = NGRAMS * damping / (grams.len().max(1) as f32).sqrt();
        for gram in &grams {
            add(&mut vector, 2, gram, share);
        }
    }
    for pair in terms.windows(2) {
        add(&mut vector, 3, &pair.join(" "), PAIR);
    }
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    if length > 0.0 {
        for value in &mut vector {
            *value /= length;
        }
    }
    vector
}

/// Adds a feature: its hash chooses the dimension, one further bit the sign.
fn add(vector: &mut [f32], family: u64, feature: &str, weight: f32) {
    let hash = xxh3_64_with_seed(feature.as_bytes(), family);
    let Ok(dimensions) = u64::try_from(vector.len()) else { return };
    if let Some(place) = (hash >> 1).checked_rem(dimensions).and_then(|place| usize::try_from(place).ok()) {
        vector[place] += if hash & 1 == 0 { weight } else { -weight };
    }
}

/// The n-grams of a word with its borders marked.
fn ngrams(term: &str) -> Vec<String> {
    let marked: Vec<char> = std::iter::once('<').chain(term.chars()).chain(['>']).collect();
    LENGTHS.flat_map(|length| marked.windows(length).map(|gram| gram.iter().collect()).collect::<Vec<_>>()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vectors::cosine;

    #[test]
    fn a_typing_error_is_nearer_than_another_word() {
        let [right, wrong, other] = ["chocolate", "choclate", "carburettor"].map(|text| embed(text, 384));
        assert!(cosine(&right, &wrong) > cosine(&right, &other) + 0.05);
    }

    #[test]
    fn text_without_words_is_the_zero_vector() {
        assert!(embed("?! the", 16).iter().all(|value| value.abs() < f32::EPSILON));
        assert!(embed("text", 0).is_empty());
    }

    /// The occurrences of each term so far, counted anew for each: what the map was defined by.
    fn embed_by_definition(text: &str, dimensions: usize) -> Vec<f32> {
        let terms = lexical::terms(text);
        let so_far = |(place, term): (usize, &String)| terms[..=place].iter().filter(|other| *other == term).count();
        vector(&terms, terms.iter().enumerate().map(so_far), dimensions)
    }

    proptest! {
        #[test]
        fn vectors_are_those_of_the_definition(
            few in "[a-c港長は ]{0,200}",
            any in "\\PC{0,100}",
            dimensions in 0_usize..512,
        ) {
            let text = [few, any].join(" ");
            prop_assert_eq!(embed(&text, dimensions), embed_by_definition(&text, dimensions));
        }

        #[test]
        fn vectors_have_unit_length_or_none(text in "\\PC{0,200}", dimensions in 1_usize..512) {
            let length = embed(&text, dimensions).iter().map(|value| value * value).sum::<f32>();
            prop_assert!(length.abs() < 1e-6 || (length - 1.0).abs() < 1e-4, "{}", length);
        }
    }
}
