//! The estimate: what a text's characters cost, one after the other, in sixtieths of a token.
//!
//! Byte-pair vocabularies keep most English words whole, cut other languages into shorter pieces, and digits into threes. Whether a
//! Latin word is English cannot be seen in itself, so two things are remembered while reading: letters with diacritics, and how many words
//! have gone by without one of the small words that every sentence has. Each charge is positive, so the estimate never falls when text is
//! appended.
//!
//! The charges are fitted to `o200k_base` on sentences in thirty languages, code, data and symbols; the test measures how far off they are.

/// What one token costs.
const TOKEN: u64 = 60;
/// Words without a small word among them after which a text is not taken for English any more.
const STRANGE_AFTER: u32 = 6;
/// Words after a letter such as `ł` and after one such as `é` that are charged as another language's.
const FOREIGN_WORDS: u32 = 12;
const WESTERN_WORDS: u32 = 6;

/// Small words of English and its neighbours, whose vocabulary is nearly as good.
const SMALL: [&str; 113] = [
    "a", "an", "the", "of", "to", "and", "or", "in", "on", "at", "by", "for", "from", "with", "as", "is", "are", "was",
    "were", "be", "been", "has", "have", "had", "it", "its", "this", "that", "i", "you", "he", "she", "we", "they",
    "my", "your", "his", "her", "our", "their", "not", "but", "if", "so", "do", "did", "can", "will", "would", "what",
    "when", "who", "how", "me", "him", "them", "us", "no", "yes", "all", "there", "up", "out", "about", "just", "like",
    "de", "la", "le", "les", "et", "en", "que", "un", "une", "des", "du", "el", "los", "las", "y", "por", "con", "der",
    "die", "das", "und", "ist", "zu", "den", "mit", "von", "nicht", "ein", "eine", "auf", "il", "elle", "se", "pas",
    "pour", "dans", "est", "os", "o", "e", "da", "em", "para", "não", "um", "uma", "go",
];
/// Ends of English words.
const ENDINGS: [&str; 9] = ["tion", "tions", "ing", "ment", "ments", "ity", "ly", "able", "ness"];

/// What a run of characters is made of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Run {
    Start,
    Space,
    Line,
    Latin,
    Letters(Script),
    Digits,
    Punctuation,
    Symbols,
}

/// A script other than Latin, with what a word and each of its letters cost.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Script {
    word: u64,
    letter: u64,
}

const fn script(word: u64, letter: u64) -> Script {
    Script { word, letter }
}

const fn script_of(character: char) -> Option<Script> {
    Some(match character {
        '\u{370}'..='\u{3ff}' | '\u{1f00}'..='\u{1fff}' => script(8, 25),
        '\u{400}'..='\u{52f}' => script(20, 17),
        '\u{530}'..='\u{58f}' | '\u{10a0}'..='\u{10ff}' => script(12, 22),
        '\u{591}'..='\u{5f4}' => script(16, 23),
        '\u{610}'..='\u{65f}' | '\u{66e}'..='\u{6d3}' | '\u{6d5}'..='\u{6ef}' => script(14, 19),
        '\u{900}'..='\u{963}' | '\u{970}'..='\u{dff}' => script(14, 20),
        '\u{e00}'..='\u{e4f}' | '\u{e5a}'..='\u{ecf}' => script(0, 27),
        '\u{3041}'..='\u{30ff}' | '\u{31f0}'..='\u{31ff}' => script(0, 40),
        '\u{3005}'..='\u{3007}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' => {
            script(0, 57)
        }
        '\u{ac00}'..='\u{d7af}' => script(14, 44),
        _ => return None,
    })
}

/// The estimated number of tokens.
pub(super) fn estimate(text: &str) -> u32 {
    let mut reader = Reader::default();
    for (at, character) in text.char_indices() {
        reader.read(text, at, character);
    }
    u32::try_from(reader.cost.div_ceil(TOKEN)).unwrap_or(u32::MAX)
}

struct Reader {
    cost: u64,
    run: Run,
    /// Characters of the run so far.
    length: u64,
    previous: char,
    /// Where the current Latin word begins.
    word: usize,
    /// Whether it follows digits, as in a hash.
    is_code: bool,
    without_small_word: u32,
    foreign: u32,
    western: u32,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            cost: 0,
            run: Run::Start,
            length: 0,
            previous: ' ',
            word: 0,
            is_code: false,
            without_small_word: 0,
            foreign: 0,
            western: 0,
        }
    }
}

impl Reader {
    fn read(&mut self, text: &str, at: usize, character: char) {
        let is_latin = character.is_ascii_alphabetic() || is_latin_letter(character);
        if self.run == Run::Latin && !is_latin {
            self.end_word(&text[self.word..at]);
        }
        if character == '\n' || character == '\r' {
            let after = self.run;
            let begins = self.begin(Run::Line);
            self.cost += if !begins {
                0
            } else if after == Run::Punctuation {
                10
            } else {
                TOKEN
            };
        } else if character.is_whitespace() {
            self.space();
        } else if is_latin {
            self.latin(at, character);
        } else if let Some(script) = script_of(character) {
            self.cost += script.letter + if self.begin(Run::Letters(script)) { script.word } else { 0 };
        } else if character.is_numeric() {
            self.digit(character);
        } else if character.is_alphabetic() {
            let other = script(0, 130);
            self.begin(Run::Letters(other));
            self.cost += other.letter;
        } else if character.is_ascii() || "–—…“”‘’«»„¿¡·،。、：，".contains(character) {
            self.punctuation(character);
        } else {
            self.begin(Run::Symbols);
            self.cost += match character {
                '\u{200d}' | '\u{fe00}'..='\u{fe0f}' | '\u{300}'..='\u{36f}' => 30,
                '\u{1f000}'.. | '\u{2600}'..='\u{27bf}' => 110,
                _ => 105,
            };
        }
        self.previous = character;
    }

    /// Whether a new run begins with this character.
    fn begin(&mut self, run: Run) -> bool {
        let begins = self.run != run;
        self.length = if begins { 1 } else { self.length + 1 };
        self.run = run;
        begins
    }

    /// One space belongs to the word after it; further ones are indentation, of which a token takes many.
    fn space(&mut self) {
        if self.run == Run::Line {
            self.cost += 12;
            self.run = Run::Space;
            self.length = 2;
            return;
        }
        self.begin(Run::Space);
        self.cost += match self.length {
            1 => 0,
            2 => TOKEN,
            _ => 1,
        };
    }

    fn latin(&mut self, at: usize, character: char) {
        let after = self.run;
        if self.begin(Run::Latin) {
            self.word = at;
            self.is_code = after == Run::Digits;
            // A sign before a word is often part of its token.
            self.cost += if after == Run::Punctuation { 32 } else { TOKEN };
        } else if character.is_ascii_uppercase() {
            self.cost += if self.previous.is_ascii_uppercase() { 9 } else { 45 };
        }
        if !character.is_ascii() {
            if character < '\u{100}' {
                self.western = WESTERN_WORDS;
                self.cost += 11;
            } else {
                self.foreign = FOREIGN_WORDS;
                self.cost += 16;
            }
        }
        let (free, letter) = if self.is_code {
            (1, 22)
        } else if self.foreign > 0 || self.without_small_word > STRANGE_AFTER {
            (3, 20)
        } else if self.western > 0 {
            (5, 13)
        } else {
            (7, 14)
        };
        self.cost += if self.length > free { letter } else { 0 };
    }

    fn end_word(&mut self, word: &str) {
        let is_small = SMALL.iter().any(|small| small.eq_ignore_ascii_case(word));
        let is_known = is_small || ENDINGS.iter().any(|ending| word.ends_with(ending));
        self.without_small_word = if is_known { 0 } else { self.without_small_word.saturating_add(1) };
        self.foreign = self.foreign.saturating_sub(1);
        self.western = self.western.saturating_sub(1);
    }

    /// Three digits are a token, and the space before them is one too.
    fn digit(&mut self, character: char) {
        let is_after_space = self.run == Run::Space && self.length == 1;
        self.begin(Run::Digits);
        self.cost += if self.length % 3 == 1 { TOKEN } else { 0 };
        self.cost += if is_after_space { TOKEN } else { 0 };
        self.cost += if character.is_ascii() { 0 } else { TOKEN };
    }

    fn punctuation(&mut self, character: char) {
        self.cost += match (self.begin(Run::Punctuation), character == self.previous) {
            (true, _) => TOKEN,
            (false, true) => 8,
            (false, false) => 20,
        };
        self.cost += if character.is_ascii() { 0 } else { 15 };
    }
}

const fn is_latin_letter(character: char) -> bool {
    matches!(character, '\u{c0}'..='\u{d6}' | '\u{d8}'..='\u{f6}' | '\u{f8}'..='\u{24f}' | '\u{1e00}'..='\u{1eff}')
}
