//! Words as sparse vectors, so that the dot product of a query and a document is BM25.
//!
//! Owns the tokenizer (Unicode words, lower case, English stop words out, Snowball stems; pairs of characters where a script has no
//! spaces between words) and the term weights. A document's
//! vector holds the saturated term frequency, a query's vector the count of each term; the inverse document frequency is
//! the store's part (Qdrant's sparse `Modifier::Idf`) or that of [`crate::local`]. Okapi BM25: Robertson and Zaragoza, "The
//! Probabilistic Relevance Framework", 2009. Stems: Porter's English Snowball stemmer.

use std::{borrow::Cow, collections::HashSet, sync::LazyLock};

use rust_stemmers::{Algorithm, Stemmer};
use unicode_normalization::{IsNormalized, UnicodeNormalization as _, is_nfc_quick};
use xxhash_rust::xxh32::xxh32;

use crate::SparseVector;

/// The parameters of BM25.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bm25 {
    /// How soon a repeated term stops to count more.
    pub k1: f32,
    /// How much a long text is discounted, from 0 to 1.
    pub b: f32,
    /// The length in terms of an average text.
    pub average_length: f32,
}

/// `k1` is the usual one; `b` is low because contexts are short and of similar length.
impl Default for Bm25 {
    fn default() -> Self {
        Self { k1: 1.2, b: 0.4, average_length: 32.0 }
    }
}

static STOP_WORDS: LazyLock<HashSet<&'static str>> =
    LazyLock::new(|| stop_words::lookup("en").unwrap_or_default().iter().copied().collect());

/// The terms of a text in their order: lower-cased, without stop words, stemmed. What is written without spaces, and Korean with its
/// endings, is taken apart in overlapping pairs of characters: "港長は" is "港長" and "長は".
///
/// ```
/// use context_manager_memory::lexical::terms;
///
/// assert_eq!(terms("The cats were RUNNING, again!"), ["cat", "run"]);
/// assert_eq!(terms("港長は寝た"), ["港長", "長は", "は寝", "寝た"]);
/// ```
#[must_use]
pub fn terms(text: &str) -> Vec<String> {
    let stemmer = Stemmer::create(Algorithm::English);
    let mut terms = Vec::new();
    for word in words(text) {
        if word.is_ascii() || !word.contains(is_in_pairs) {
            if !STOP_WORDS.contains(word.as_str()) {
                terms.push(stemmer.stem(&word).into_owned());
            }
            continue;
        }
        for run in runs(&word) {
            match run.chars().count() {
                _ if !run.contains(is_in_pairs) => terms.push(stemmer.stem(run).into_owned()),
                1 => terms.push(run.to_owned()),
                _ => terms.extend(run.chars().zip(run.chars().skip(1)).map(|(a, b)| String::from_iter([a, b]))),
            }
        }
    }
    terms
}

/// The parts of a word that are made of pairs, and those that are not.
fn runs(word: &str) -> impl Iterator<Item = &str> {
    let mut rest = word;
    std::iter::from_fn(move || {
        let first = is_in_pairs(rest.chars().next()?);
        let end = rest.find(|character| is_in_pairs(character) != first).unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        rest = after;
        Some(run)
    })
}

/// One character may be a word of its own where pairs are indexed, and a query for it meets no pair.
fn single_characters(text: &str) -> impl Iterator<Item = u32> {
    let mut buffer = [0; 4];
    text.chars()
        .filter(|character| is_ideograph(*character))
        .map(move |character| index(character.encode_utf8(&mut buffer)))
}

const fn is_in_pairs(character: char) -> bool {
    is_without_spaces(character) || matches!(character, '\u{ac00}'..='\u{d7af}')
}

const fn is_ideograph(character: char) -> bool {
    matches!(character, '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

/// The words of a text in lower case, punctuation left out.
pub fn words(text: &str) -> impl Iterator<Item = String> {
    let words: Vec<String> = words_as_written(&composed(text)).map(str::to_lowercase).collect();
    words.into_iter()
}

/// The text in Unicode's form NFC (UAX #15), so that "ü" is one character and not "u" with a mark that no word has. Names of files and texts
/// out of PDFs often come in the other form.
fn composed(text: &str) -> Cow<'_, str> {
    match is_nfc_quick(text.chars()) {
        IsNormalized::Yes => Cow::Borrowed(text),
        IsNormalized::No | IsNormalized::Maybe => Cow::Owned(text.nfc().collect()),
    }
}

/// The stems of the words of a text, in their order, without those that are listed.
pub(crate) fn stems<'a>(text: &'a str, without: &'a [&str]) -> impl Iterator<Item = String> {
    let stemmer = Stemmer::create(Algorithm::English);
    words(text).filter(|word| !without.contains(&word.as_str())).map(move |word| stemmer.stem(&word).into_owned())
}

/// Puts a word in lower case into `to`.
pub(crate) fn lower(word: &str, to: &mut String) {
    to.clear();
    if word.is_ascii() {
        to.push_str(word);
        to.make_ascii_lowercase();
    } else {
        to.push_str(&word.to_lowercase());
    }
}

/// Whether a script separates words by nothing: Chinese, Japanese, Thai, Lao, Khmer and Burmese.
pub(crate) const fn is_without_spaces(character: char) -> bool {
    matches!(
        character,
        '\u{0e00}'..='\u{0eff}'
            | '\u{1000}'..='\u{109f}'
            | '\u{1780}'..='\u{17ff}'
            | '\u{3005}'..='\u{30ff}'
            | '\u{3400}'..='\u{4dbf}'
            | '\u{4e00}'..='\u{9fff}'
            | '\u{f900}'..='\u{faff}'
            | '\u{20000}'..='\u{3ffff}'
    )
}

/// The words of a text as they are written, punctuation and a possessive's ending left out.
pub(crate) fn words_as_written(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character: char| !character.is_alphanumeric() && character != '\'' && character != '’')
        .map(|word| word.trim_matches(['\'', '’']))
        .map(|word| word.strip_suffix("'s").or_else(|| word.strip_suffix("’s")).unwrap_or(word))
        .filter(|word| !word.is_empty())
}

/// The index of a term in a sparse vector: a hash that is the same on every machine and in every version.
#[must_use]
pub fn index(term: &str) -> u32 {
    xxh32(term.as_bytes(), 0)
}

impl Bm25 {
    /// The vector of a text that is stored.
    #[must_use]
    pub fn document(&self, text: &str) -> SparseVector {
        let text = composed(text);
        let terms = terms(&text);
        #[expect(clippy::cast_precision_loss, reason = "a text has far fewer than 2^24 terms")]
        let length = terms.len() as f32;
        let indices = terms.iter().map(|term| index(term)).chain(single_characters(&text));
        let counts = SparseVector::from_pairs(indices.map(|index| (index, 1.0)));
        let norm = self.k1 * (1.0 - self.b + self.b * length / self.average_length);
        SparseVector::from_pairs(counts.iter().map(|(index, count)| (index, count * (self.k1 + 1.0) / (count + norm))))
    }
}

/// The vector of a query: how often each term occurs.
#[must_use]
pub fn query(text: &str) -> SparseVector {
    SparseVector::from_pairs(terms(text).iter().map(|term| (index(term), 1.0)))
}

/// The inverse document frequency of a term that `with` of `all` documents have, in the form that never is negative; the
/// same that Qdrant's sparse `Modifier::Idf` applies.
#[must_use]
pub fn idf(all: usize, with: usize) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "document counts are far below 2^24 or the error does not matter")]
    let (all, with) = (all as f32, with as f32);
    ((all - with + 0.5) / (with + 0.5)).ln_1p()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn word_forms_share_a_term_and_stop_words_have_none() {
        assert_eq!(terms("Painted paintings"), terms("paint painting"));
        assert!(terms("the and of").is_empty());
        assert_eq!(terms("Melanie's"), terms("melanie"));
    }

    #[test]
    fn a_word_is_the_same_however_its_marks_are_encoded() {
        for text in ["Zürich", "résumé", "Tiếng Việt", "한국어", "Ελλάδα", "が"] {
            let (taken_apart, whole): (String, String) = (text.nfd().collect(), text.nfc().collect());
            assert_ne!(taken_apart, whole, "{text} has marks");
            assert_eq!(terms(&taken_apart), terms(&whole), "{text}");
            assert_eq!(Bm25::default().document(&taken_apart), Bm25::default().document(&whole), "{text}");
        }
    }

    #[test]
    fn a_shared_rare_term_scores_and_an_unrelated_text_does_not() {
        let bm25 = Bm25::default();
        let score = |text: &str| query("violin lessons").dot(&bm25.document(text));
        assert!(score("She began violin lessons.") > score("She began lessons."));
        assert!(score("Nothing alike").abs() < f32::EPSILON);
    }

    #[test]
    fn what_is_written_without_spaces_is_found_by_a_part_of_it() {
        let score = |asked: &str, text: &str| query(asked).dot(&Bm25::default().document(text));
        for (asked, right, wrong) in [
            ("起重机坏了吗", "因为起重机又坏了,检查推迟到星期四。", "今天的晚饭是面条。"),
            ("点検はいつ", "クレーンが壊れたので、点検を木曜日まで延期した。", "猫が窓辺で寝ている。"),
            ("점검은 언제", "크레인이 고장 나서 점검을 목요일로 미뤘다.", "고양이가 창가에서 잔다."),
            ("เครนเสียไหม", "เลื่อนไปวันพฤหัสบดีเพราะเครนเสียอีกแล้ว", "แมวนอนหลับ"),
            ("猫", "院子里有一只猫。", "院子里有一条狗。"),
        ] {
            assert!(score(asked, right) > score(asked, wrong), "{asked}");
        }
    }

    #[test]
    fn scripts_that_meet_in_one_word_are_kept_apart() {
        assert_eq!(terms("iPhoneを買う"), ["iphon", "を買", "買う"]);
        assert_eq!(terms("第15回"), ["第", "15", "回"]);
    }

    #[test]
    fn a_repeated_term_counts_more_but_saturates() {
        let bm25 = Bm25::default();
        let weight = |times: usize| query("tea").dot(&bm25.document(&"tea ".repeat(times)));
        assert!(weight(2) > weight(1));
        assert!(weight(40) < bm25.k1 + 1.0);
    }

    #[test]
    fn rare_terms_weigh_more_and_none_weighs_less_than_nothing() {
        assert!(idf(100, 1) > idf(100, 50));
        assert!(idf(10, 10) > 0.0);
    }

    proptest! {
        #[test]
        fn any_text_has_finite_weights(text in "\\PC{0,200}") {
            prop_assert!(Bm25::default().document(&text).values().iter().all(|value| value.is_finite() && *value > 0.0));
        }
    }
}
