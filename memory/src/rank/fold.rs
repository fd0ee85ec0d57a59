//! Folding: of contexts that say the same, only the best is part of an answer.
//!
//! Two contexts of one actor say the same if their words have the same stems in the same order, words such as "the" and "just" left out, or
//! if nine tenths of their word triples are the same. Whatever else they share, they do not if they differ in a number, a date, a
//! negation, a name, a tense, a question mark or a symbol: `paid` and `not paid` are nearly the same words.
//!
//! Every context of every search comes through here, so the first look costs two hashes a word; stems are made only of those that
//! have the same initials, once for each, and triples are compared only where their smallest hashes meet (Bayardo et al., "Scaling Up All Pairs
//! Similarity Search", 2007: sets that alike must share one of their first elements in a common order).

mod telling;

use std::{
    cell::{Cell, OnceCell},
    collections::{HashMap, HashSet},
};

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::Ranked;
use crate::{Context, lexical};

/// Words of a shingle.
const SHINGLE: usize = 3;
/// How many of all shingles of two texts are in both, of 100.
const ALIKE: usize = 90;
/// Words whose presence changes nothing: of any other word it is part of what is said.
const EMPTY: [&str; 22] = [
    "a", "an", "the", "and", "so", "just", "very", "really", "too", "then", "that", "it", "is", "are", "am", "be",
    "of", "to", "oh", "well", "also", "please",
];

/// Bytes of text that are compared for one search at most, so that a thousand long texts that are nearly alike do not hold it up. The best
/// are compared first; what is left after that many stays.
const COMPARED: usize = 32 << 20;

/// Takes those out that say what a better one says, and names them there. `ranked` is in order; of equal scores the newest stays.
pub(super) fn fold(ranked: Vec<Ranked>) -> Vec<Ranked> {
    fold_within(&Effort(Cell::new(COMPARED)), ranked)
}

/// What may still be compared, in bytes.
struct Effort(Cell<usize>);

impl Effort {
    /// Whether so much may be compared; then there is less left.
    fn spend(&self, bytes: usize) -> bool {
        let left = self.0.get().checked_sub(bytes);
        self.0.set(left.unwrap_or_default());
        left.is_some()
    }
}

fn fold_within(effort: &Effort, ranked: Vec<Ranked>) -> Vec<Ranked> {
    let mut kept: Vec<Ranked> = Vec::with_capacity(ranked.len());
    let mut by_initials: HashMap<u64, Vec<usize>> = HashMap::new();
    let mut by_shingle: HashMap<u64, Vec<usize>> = HashMap::new();
    let mut sketches: Vec<Sketch> = Vec::with_capacity(ranked.len());
    for one in ranked {
        let sketch = Sketch::of(&one.context);
        let length = one.context.text.len();
        let has_same_stems = |&place: &usize| sketches[place].stems(&kept[place].context) == sketch.stems(&one.context);
        let same = by_initials.get(&sketch.initials).into_iter().flatten().copied().filter(has_same_stems);
        let met = sketch.first().iter().filter_map(|hash| by_shingle.get(hash)).flatten().copied();
        let mut seen = HashSet::new();
        let met = met.take_while(|_| effort.spend(size_of::<u64>())).filter(move |&place| seen.insert(place));
        let alike = met.filter(|&place| {
            let there = &sketches[place];
            effort.spend(size_of::<u64>() * (sketch.shingles.len() + there.shingles.len())) && sketch.is_alike(there)
        });
        let says_the_same = |&place: &usize| {
            let there = &kept[place].context;
            effort.spend(length + there.text.len()) && telling::says_the_same(there, &one.context)
        };
        let found = same.chain(alike).find(says_the_same);
        if let Some(place) = found {
            // The other one may have taken its place.
            sketches[place].stems = OnceCell::new();
            kept[place].absorb(one);
            continue;
        }
        by_initials.entry(sketch.initials).or_default().push(kept.len());
        for hash in sketch.first() {
            by_shingle.entry(*hash).or_default().push(kept.len());
        }
        sketches.push(sketch);
        kept.push(one);
    }
    kept
}

impl Ranked {
    /// The other one is ranked at the same place or below.
    #[expect(clippy::float_cmp, reason = "scores that are equal are the same sums of the same parts")]
    fn absorb(&mut self, mut other: Self) {
        let is_newer = other.context.event_time() > self.context.event_time();
        if other.score == self.score && is_newer {
            other.folded = std::mem::take(&mut self.folded);
            std::mem::swap(self, &mut other);
        }
        self.folded.push(other.context.id);
    }
}

/// What of a text tells quickly whether another one may say the same.
struct Sketch {
    /// Of actor and the words' first letters, in their order.
    initials: u64,
    /// Hashes of the shingles, ascending, each once.
    shingles: Vec<u64>,
    /// Of the stems of the words, made when another one has the same initials.
    stems: OnceCell<u64>,
}

impl Sketch {
    fn of(context: &Context) -> Self {
        let actor = context.actor.as_ref().map_or(0, |actor| xxh3_64(actor.as_str().to_lowercase().as_bytes()));
        let (mut initials, mut hashes) = (Vec::new(), Vec::new());
        let mut word = String::new();
        for written in lexical::words_as_written(&context.text) {
            lexical::lower(written, &mut word);
            hashes.push(xxh3_64_with_seed(word.as_bytes(), actor));
            if !EMPTY.contains(&word.as_str()) {
                initials.extend(word.chars().next().map(u32::from).unwrap_or_default().to_le_bytes());
            }
        }
        let mut shingles: Vec<u64> = hashes
            .windows(SHINGLE)
            .map(|words| words.iter().fold(0, |all: u64, word| all.rotate_left(21).wrapping_mul(5) ^ word))
            .collect();
        shingles.sort_unstable();
        shingles.dedup();
        Self { initials: xxh3_64_with_seed(&initials, actor), shingles, stems: OnceCell::new() }
    }

    fn stems(&self, context: &Context) -> u64 {
        let all = || lexical::stems(&context.text, &EMPTY).flat_map(|stem| [stem, " ".to_owned()]).collect::<String>();
        *self.stems.get_or_init(|| xxh3_64(all().as_bytes()))
    }

    /// Of two sets of which nine tenths are shared, one of these is in both.
    fn first(&self) -> &[u64] {
        let shared = (self.shingles.len() * ALIKE).div_ceil(100);
        let first = if self.shingles.is_empty() { 0 } else { self.shingles.len() - shared + 1 };
        &self.shingles[..first]
    }

    fn is_alike(&self, other: &Self) -> bool {
        let (mut shared, mut at) = (0, 0);
        for shingle in &self.shingles {
            at += other.shingles[at..].partition_point(|candidate| candidate < shingle);
            shared += usize::from(other.shingles.get(at) == Some(shingle));
        }
        let all = self.shingles.len() + other.shingles.len() - shared;
        shared > 0 && shared * 100 >= all * ALIKE
    }
}

#[cfg(test)]
mod tests;
