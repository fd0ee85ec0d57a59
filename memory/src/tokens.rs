//! How long a text is in tokens.
//!
//! Every model cuts text in its own way. The estimate needs no vocabulary and so no memory; it is fitted to `o200k_base`, and is rather
//! too high than too low, because what is too low exceeds a caller's budget. It never falls when text is appended. Whoever fills the
//! window of a model to the brim counts by its vocabulary instead.

mod estimate;

use crate::Context;

/// What counts tokens.
///
/// ```
/// use context_manager_memory::tokens::Tokenizer;
///
/// assert_eq!(Tokenizer::Estimate.count("internationalization"), 5);
/// assert_eq!(Tokenizer::O200kBase.count("internationalization"), 2);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tokenizer {
    /// [`estimate`].
    #[default]
    Estimate,
    /// The vocabulary of GPT-4o and later models.
    O200kBase,
    /// The vocabulary of GPT-4 and GPT-3.5.
    Cl100kBase,
}

impl Tokenizer {
    /// The tokens of a text. A vocabulary is unpacked when it is first asked.
    #[must_use]
    pub fn count(self, text: &str) -> u32 {
        match self.vocabulary() {
            None => estimate(text),
            Some(vocabulary) => u32::try_from(vocabulary.count(text)).unwrap_or(u32::MAX),
        }
    }

    /// The tokens of a context's text. What was counted when it was written is an estimate.
    #[must_use]
    pub fn tokens_of(self, context: &Context) -> u32 {
        match self {
            Self::Estimate => context.tokens,
            Self::O200kBase | Self::Cl100kBase => self.count(&context.text),
        }
    }

    /// The longest beginning of a text that has at most `most` tokens, cut after a word; cut inside a word if the first one is
    /// too long.
    ///
    /// ```
    /// use context_manager_memory::tokens::Tokenizer;
    ///
    /// assert_eq!(Tokenizer::O200kBase.shorten("one two three", 2), "one two");
    /// assert_eq!(Tokenizer::O200kBase.shorten("one", 0), "");
    /// ```
    #[must_use]
    pub fn shorten(self, text: &str, most: u32) -> &str {
        let mut short = shorten_by(|text| self.count(text), text, most);
        // A longer beginning can have fewer tokens of a vocabulary, so the search by halves may end a little too far.
        while self.count(short) > most {
            let end = short.char_indices().next_back().map_or(0, |(at, _)| at);
            short = text[..end].trim_end();
        }
        short
    }

    fn vocabulary(self) -> Option<&'static tiktoken::CoreBpe> {
        let name = match self {
            Self::Estimate => return None,
            Self::O200kBase => "o200k_base",
            Self::Cl100kBase => "cl100k_base",
        };
        Some(tiktoken::get_encoding(name).expect("the vocabulary is compiled in"))
    }
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
    estimate::estimate(text)
}

fn shorten_by(count: impl Fn(&str) -> u32, text: &str, most: u32) -> &str {
    if count(text) <= most {
        return text;
    }
    let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    // The count hardly ever falls with the length, so the longest beginning that fits can be searched for by halves.
    let fitting = ends.partition_point(|&end| count(&text[..end]) <= most).saturating_sub(1);
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
    fn a_vocabulary_counts_exactly() {
        for (kind, tokens, text) in CORPUS {
            assert_eq!(Tokenizer::O200kBase.count(text), *tokens, "{kind}");
        }
        // What the platform's own tokenizer says of its example.
        assert_eq!(Tokenizer::Cl100kBase.count("tiktoken is great!"), 6);
    }

    #[test]
    fn a_context_is_counted_by_its_text() {
        let [tenant, agent] = ["t", "a"];
        let tenant = crate::TenantId::new(tenant).expect("a name");
        let agent = crate::AgentId::new(agent).expect("a name");
        let id = crate::ContextId::new(uuid::Uuid::from_u128(1));
        let now = crate::Timestamp::from_millis(0);
        let context = Context::new(id, tenant, agent, crate::Level::LongTerm, "internationalization", now);
        let of = [Tokenizer::Estimate, Tokenizer::O200kBase].map(|tokenizer| tokenizer.tokens_of(&context));
        assert_eq!(of, [5, 2]);
    }

    #[test]
    fn special_tokens_in_a_text_are_text() {
        assert!(Tokenizer::O200kBase.count("<|endoftext|>") > 1);
    }

    #[test]
    fn a_text_without_words_to_cut_at_is_counted_too() {
        let text = "a".repeat(100_000);
        assert!(Tokenizer::O200kBase.count(&text) > 1_000);
        let short = Tokenizer::Cl100kBase.shorten(&text, 7);
        assert!(!short.is_empty() && Tokenizer::Cl100kBase.count(short) <= 7, "{short}");
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
            for tokenizer in [Tokenizer::Estimate, Tokenizer::O200kBase, Tokenizer::Cl100kBase] {
                let short = tokenizer.shorten(&text, most);
                prop_assert!(tokenizer.count(short) <= most);
                prop_assert!(text.starts_with(short));
            }
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
        assert_eq!(Tokenizer::Estimate.shorten("internationalization", 1), "interna");
    }
}
