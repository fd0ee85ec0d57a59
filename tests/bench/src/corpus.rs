//! Texts of the usual length, made of the words of the project's own documentation; the same in every run.

use std::{fs, path::Path};

use anyhow::{Result, ensure};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};

/// Words of a stored text and of a query.
const TEXT_WORDS: usize = 30;
const QUERY_WORDS: usize = 6;
/// Sessions at a time, of which each gets its next context in turn, so that clients do not wait for each other's place in one.
const SESSIONS: usize = 64;
/// Contexts of a session.
const SESSION: usize = 50;

pub struct Corpus {
    words: Vec<String>,
    random: StdRng,
    made: usize,
    /// The next of the sessions that have ended, of which each is gone on with once.
    ended: usize,
}

impl Corpus {
    pub fn new() -> Result<Self> {
        let mut words = Vec::new();
        for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs"))? {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(path)?;
                words.extend(
                    text.split_whitespace().filter(|word| word.chars().all(char::is_alphabetic)).map(str::to_owned),
                );
            }
        }
        words.sort();
        ensure!(words.len() > 1_000, "the documentation has only {} words", words.len());
        // What is measured first is stored in the very first sessions.
        Ok(Self { words, random: StdRng::seed_from_u64(7), made: 0, ended: SESSIONS })
    }

    fn sentence(&mut self, words: usize) -> String {
        let picked: Vec<&str> = (0..words)
            .map(|_| {
                let place = self.random.random_range(0..self.words.len());
                self.words[place].as_str()
            })
            .collect();
        picked.join(" ")
    }

    /// A text to store.
    pub fn text(&mut self) -> String {
        self.sentence(TEXT_WORDS)
    }

    /// A message that stores a context.
    pub fn context(&mut self) -> Value {
        let session = self.begun() + self.made % SESSIONS;
        self.made += 1;
        self.of_session(session)
    }

    /// A message for each session that is under way.
    pub fn under_way(&mut self) -> Vec<Value> {
        (0..SESSIONS).map(|_| self.context()).collect()
    }

    /// A message of a session that ended long ago, each time another one; `None` when there is none left.
    pub fn resumed(&mut self) -> Option<Value> {
        let session = self.ended;
        if session >= self.begun() {
            return None;
        }
        self.ended += 1;
        Some(self.of_session(session))
    }

    /// The first of the sessions that are under way.
    const fn begun(&self) -> usize {
        self.made / (SESSIONS * SESSION) * SESSIONS
    }

    fn of_session(&mut self, session: usize) -> Value {
        json!({"text": self.text(), "level": "long_term", "session": format!("session-{session}")})
    }

    /// Words to search for.
    pub fn query(&mut self) -> String {
        self.sentence(QUERY_WORDS)
    }
}
