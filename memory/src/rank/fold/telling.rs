//! What two nearly equal texts must not differ in.

use std::collections::HashSet;

use super::EMPTY;
use crate::{Context, date, lexical};

/// Words that turn a sentence into its opposite, also in some other languages.
const NEGATIONS: [&str; 40] = [
    "no", "not", "never", "none", "nobody", "nothing", "nowhere", "neither", "nor", "without", "cannot", "hardly",
    "barely", "unless", "except", "nicht", "kein", "keine", "keinen", "nie", "niemals", "ohne", "ne", "pas", "jamais",
    "sans", "non", "nunca", "sin", "não", "niet", "geen", "inte", "ikke", "bez", "не", "нет", "ни", "без", "ні",
];
/// Words for numbers and for points in time, but for the months.
const NUMBERS_AND_DATES: [&str; 53] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
    "thirty",
    "forty",
    "fifty",
    "sixty",
    "seventy",
    "eighty",
    "ninety",
    "hundred",
    "thousand",
    "million",
    "billion",
    "half",
    "dozen",
    "once",
    "twice",
    "first",
    "second",
    "third",
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
    "sunday",
    "am",
    "pm",
    "noon",
    "midnight",
    "morning",
    "afternoon",
    "evening",
];
/// Words for points in time that depend on when they are said.
const RELATIVE: [&str; 12] = [
    "today",
    "yesterday",
    "tomorrow",
    "tonight",
    "now",
    "last",
    "next",
    "ago",
    "currently",
    "recently",
    "later",
    "earlier",
];
/// Words that stand against each other.
const OPPOSED: [&str; 34] = [
    "before", "after", "up", "down", "in", "out", "on", "off", "over", "under", "above", "below", "more", "less",
    "most", "least", "few", "many", "all", "some", "any", "with", "against", "true", "false", "yes", "was", "were",
    "will", "would", "had", "if", "i", "you",
];

/// Whether two texts that are nearly the same are so in all that counts. What is relative in time is another thing on another day.
pub(super) fn says_the_same(a: &Context, b: &Context) -> bool {
    let (a_words, b_words) = (Words::of(&a.text), Words::of(&b.text));
    let telling: HashSet<&str> = a_words.telling().chain(b_words.telling()).collect();
    a_words.only(&telling).eq(b_words.only(&telling))
        && has_same_tenses(&a_words, &b_words)
        && numbers(&a.text).eq(numbers(&b.text))
        && marks(&a.text).eq(marks(&b.text))
        && (!a_words.is_relative() || date::day(a.event_time()) == date::day(b.event_time()))
}

/// A text's words: as written, and in lower case.
struct Words<'a>(Vec<(&'a str, String)>);

impl<'a> Words<'a> {
    fn of(text: &'a str) -> Self {
        Self(lexical::words_as_written(text).map(|word| (word, word.to_lowercase())).collect())
    }

    fn telling(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(written, word)| is_telling(written, word)).map(|(_, word)| word.as_str())
    }

    fn only(&self, telling: &HashSet<&str>) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(_, word)| word.as_str()).filter(|word| telling.contains(word))
    }

    fn is_relative(&self) -> bool {
        self.0.iter().any(|(_, word)| RELATIVE.contains(&word.as_str()))
    }
}

/// A capital letter makes a name, or the first word of a sentence; a word of a script without spaces may hold a whole sentence.
fn is_telling(written: &str, word: &str) -> bool {
    let is_name = written.chars().any(char::is_uppercase);
    let is_negated = word.ends_with("n't") || word.ends_with("n’t");
    let listed = [&NEGATIONS[..], &NUMBERS_AND_DATES, &date::MONTHS, &RELATIVE, &OPPOSED];
    (is_name && !EMPTY.contains(&word))
        || is_negated
        || word.chars().any(|character| character.is_numeric() || lexical::is_without_spaces(character))
        || listed.iter().any(|words| words.contains(&word))
}

/// "works" and "worked" have one stem and are two times.
fn has_same_tenses(a: &Words<'_>, b: &Words<'_>) -> bool {
    let past = |words: &Words<'_>| words.0.iter().filter(|(_, word)| word.ends_with("ed")).count();
    past(a) == past(b)
}

/// Everything with a digit, as it is written: `-5`, `15:30`, `$20`, `3.5`.
fn numbers(text: &str) -> impl Iterator<Item = String> {
    let edge = |character: char| ".,;:!?\"'()[]{}…“”‘’«»*_`~".contains(character);
    text.split_whitespace()
        .map(move |token| token.trim_matches(edge))
        .filter(|token| token.contains(char::is_numeric))
        .map(str::to_lowercase)
}

/// Question marks, emoji, currency and other symbols in their order; plain punctuation is none of them.
fn marks(text: &str) -> impl Iterator<Item = char> {
    let is_plain =
        |character: char| ".,;:!\"'()[]{}-–—…“”‘’«»*_#`~、。，！：；「」・\u{fe0e}\u{fe0f}".contains(character);
    text.chars().filter(move |&character| {
        !character.is_alphanumeric() && !character.is_whitespace() && !character.is_control() && !is_plain(character)
    })
}
