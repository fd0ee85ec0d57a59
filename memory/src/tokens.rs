//! How long a text is in tokens.
//!
//! Owns an estimate, not a tokenizer: every model cuts text in its own way, and a vocabulary of megabytes has no place in a
//! small sidecar. The estimate counts what sub-word tokenizers cut at (words, digits, punctuation, ideographs) and charges
//! long words by their length. It never falls when text is appended.

/// Letters of a Latin word that one token covers. Byte-pair vocabularies keep most English words of this length whole.
const LATIN_LETTERS: u32 = 7;
/// Letters of a word in another alphabet that one token covers.
const OTHER_LETTERS: u32 = 3;
/// Digits that one token covers, as in the vocabularies of current GPT and Llama models.
const DIGITS: u32 = 3;

/// What a run of characters is made of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Run {
    Latin,
    Other,
    Digit,
    Line,
    None,
}

/// The estimated number of tokens of a text.
///
/// ```
/// use context_manager_memory::tokens::estimate;
///
/// assert_eq!(estimate(""), 0);
/// assert_eq!(estimate("Tea, not coffee."), 5);
/// assert_eq!(estimate("日本語"), 3);
/// ```
#[must_use]
pub fn estimate(text: &str) -> u32 {
    let (mut tokens, mut run, mut length) = (0_u32, Run::None, 0_u32);
    for character in text.chars() {
        let kind = kind(character);
        let capacity = match kind {
            Run::Latin => LATIN_LETTERS,
            Run::Other => OTHER_LETTERS,
            Run::Digit => DIGITS,
            Run::Line => u32::MAX,
            Run::None => {
                tokens += u32::from(!character.is_whitespace());
                run = Run::None;
                continue;
            }
        };
        if kind != run || length == capacity {
            tokens += 1;
            length = 0;
        }
        run = kind;
        length += 1;
    }
    tokens
}

fn kind(character: char) -> Run {
    match character {
        '\n' => Run::Line,
        _ if character.is_numeric() => Run::Digit,
        'a'..='z' | 'A'..='Z' | '\u{c0}'..='\u{24f}' => Run::Latin,
        // Ideographs, kana and hangul are about a token each, so each stands alone.
        '\u{2e80}'..='\u{9fff}' | '\u{ac00}'..='\u{d7af}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}' => {
            Run::None
        }
        _ if character.is_alphabetic() => Run::Other,
        _ => Run::None,
    }
}

/// The longest beginning of a text that has at most `most` tokens, cut after a word; cut inside a word if the first one is too
/// long.
///
/// ```
/// use context_manager_memory::tokens::shorten;
///
/// assert_eq!(shorten("one two three", 2), "one two");
/// assert_eq!(shorten("one", 9), "one");
/// assert_eq!(shorten("one", 0), "");
/// ```
#[must_use]
pub fn shorten(text: &str, most: u32) -> &str {
    if estimate(text) <= most {
        return text;
    }
    let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    // The estimate never falls with the length, so the longest beginning that fits can be searched for by halves.
    let fitting = ends.partition_point(|&end| estimate(&text[..end]) <= most).saturating_sub(1);
    let cut = ends.get(fitting).copied().unwrap_or(0);
    let inside = text[cut..].starts_with(|next: char| !next.is_whitespace());
    let after_word =
        if inside { text[..cut].rfind(char::is_whitespace).filter(|&at| !text[..at].trim().is_empty()) } else { None };
    text[..after_word.unwrap_or(cut)].trim_end()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn appending_text_never_lowers_the_estimate(a in "\\PC{0,60}", b in "\\PC{0,60}") {
            let longer = [a.as_str(), b.as_str()].concat();
            prop_assert!(estimate(&longer) >= estimate(&a));
        }

        #[test]
        fn shortened_text_fits_and_is_a_beginning(text in "[a-zA-Zäß日本 .,0-9\\n]{0,200}", most in 0_u32..60) {
            let short = shorten(&text, most);
            prop_assert!(estimate(short) <= most);
            prop_assert!(text.starts_with(short));
        }
    }

    #[test]
    fn long_words_and_numbers_cost_more_than_one_token() {
        assert_eq!(estimate("internationalization"), 3);
        assert_eq!(estimate("1234567"), 3);
        assert_eq!(estimate("Привет"), 2);
    }

    #[test]
    fn a_first_word_that_is_too_long_is_cut_inside() {
        assert_eq!(shorten("internationalization", 1), "interna");
    }
}
