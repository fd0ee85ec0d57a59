//! How long a text is in tokens.
//!
//! Owns an estimate, not a tokenizer: every model cuts text in its own way, and a vocabulary of megabytes has no place in a
//! small sidecar. The estimate is fitted to `o200k_base`, and is rather too high than too low, because what is too low exceeds a
//! caller's budget. It never falls when text is appended.

mod estimate;

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
    estimate::estimate(text)
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
mod corpus;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{corpus::CORPUS, *};

    /// The estimate's error as a share of the tokens that there are.
    fn error(tokens: u32, text: &str) -> f64 {
        f64::from(estimate(text)) / f64::from(tokens) - 1.0
    }

    #[test]
    fn the_estimate_is_never_far_below_and_rarely_far_above() {
        for (kind, tokens, text) in CORPUS {
            let error = error(*tokens, text);
            assert!((-0.15..=0.40).contains(&error), "{kind}: {:.0} %", 100.0 * error);
        }
        let all: u32 = CORPUS.iter().map(|(_, tokens, _)| tokens).sum();
        let estimated: u32 = CORPUS.iter().map(|(_, _, text)| estimate(text)).sum();
        let error = f64::from(estimated) / f64::from(all) - 1.0;
        assert!((0.0..=0.06).contains(&error), "over all: {:.1} %", 100.0 * error);
    }

    #[test]
    fn a_text_of_everything_is_no_exception() {
        let text: String = CORPUS.iter().flat_map(|(_, _, text)| [*text, "\n\n"]).collect();
        let all: u32 = CORPUS.iter().map(|(_, tokens, _)| tokens + 1).sum();
        assert!((-0.05..=0.15).contains(&error(all, &text)), "{:.3}", error(all, &text));
    }

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
        assert_eq!(estimate("internationalization"), 5);
        assert_eq!(estimate("1234567"), 3);
        assert_eq!(estimate("Привет"), 3);
    }

    #[test]
    fn a_first_word_that_is_too_long_is_cut_inside() {
        assert_eq!(shorten("internationalization", 1), "interna");
    }
}
