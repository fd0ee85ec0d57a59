//! Conversations with questions, in the format of LoCoMo (Maharana et al., ACL 2024).
//!
//! One turn is one context. Files in this format differ in what they leave out and how they write ids, so they are read with
//! patience: sessions may have gaps and any order, a time, a speaker or a caption may be missing, and evidence such as
//! `D8:6; D9:17`, `D:11:26` or `D30:05` is split and repaired. A turn without any words cannot be stored, and a question whose
//! evidence names no turn is asked and not scored; both are counted in [`Conversation::notes`].

mod field;
mod time;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Map, Value};

use field::{actor, line_of, number_of, strings, words_of};

/// A conversation and its questions.
#[derive(Debug)]
pub struct Conversation {
    pub sample_id: String,
    /// In the order of their numbers.
    pub sessions: Vec<Session>,
    /// All of them, in their order.
    pub questions: Vec<Question>,
    /// What was not as it should be.
    pub notes: Vec<String>,
}

/// Turns of one sitting.
#[derive(Debug)]
pub struct Session {
    pub name: String,
    /// Unix milliseconds, if the file tells.
    pub at: Option<i64>,
    pub turns: Vec<Turn>,
}

/// What one speaker said.
#[derive(Debug, PartialEq, Eq)]
pub struct Turn {
    pub speaker: Option<String>,
    /// As the file writes it.
    pub dia_id: String,
    /// The words, and the caption of a shared image; never blank.
    pub words: String,
}

/// A question and the turns that answer it.
#[derive(Debug)]
pub struct Question {
    /// Its place in the file's `qa`.
    pub index: usize,
    /// Blank if the file has none; such a question cannot be asked.
    pub text: String,
    /// As the turns write their ids; without any the question is not scored.
    pub evidence: BTreeSet<String>,
    /// The number of its category, if it has one.
    pub category: Option<i64>,
}

/// Reads every `*.json` of a folder, or one file; a file holds a list of conversations, or one.
pub fn read(data: &Path) -> Result<Vec<Conversation>> {
    let mut files = Vec::new();
    if data.is_dir() {
        for entry in fs::read_dir(data).with_context(|| format!("--data {}", data.display()))? {
            files.push(entry?.path());
        }
        files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        files.sort();
    } else {
        files.push(data.to_owned());
    }
    let mut conversations = Vec::new();
    for file in files {
        let content = fs::read(&file).with_context(|| format!("--data {}: it cannot be read", file.display()))?;
        let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&content);
        let samples = match serde_json::from_slice(content) {
            Ok(Value::Array(samples)) => samples,
            Ok(sample) => vec![sample],
            Err(error) => bail!("{} is not JSON: {error}", file.display()),
        };
        for (place, sample) in samples.into_iter().enumerate() {
            let number = conversations.len();
            let sample = conversation(sample, number)
                .with_context(|| format!("{}: entry {place} is not a LoCoMo conversation", file.display()))?;
            conversations.push(sample);
        }
    }
    ensure!(
        !conversations.is_empty(),
        "--data {} has no conversation; name a folder with LoCoMo's JSON",
        data.display()
    );
    Ok(conversations)
}

fn conversation(sample: Value, number: usize) -> Result<Conversation> {
    let Value::Object(mut sample) = sample else { bail!("it is not an object") };
    let sample_id = sample.get("sample_id").and_then(line_of).unwrap_or_else(|| format!("conversation-{number}"));
    let Some(Value::Object(spoken)) = sample.remove("conversation") else { bail!("it has no object `conversation`") };
    let mut notes = Vec::new();
    let sessions = sessions(&spoken, &mut notes);
    ensure!(
        sessions.iter().any(|session| !session.turns.is_empty()),
        "{sample_id}: `conversation` has no turn; turns stand in `session_1`, `session_2` and so on"
    );
    let known = Ids::of(&sessions);
    let qa = match sample.remove("qa") {
        Some(Value::Array(qa)) => qa,
        Some(Value::Null) | None => Vec::new(),
        Some(_) => bail!("{sample_id}: `qa` is not a list"),
    };
    let questions: Vec<Question> =
        qa.iter().enumerate().map(|(index, annotation)| question(index, annotation, &known)).collect();
    let unscored = questions.iter().filter(|question| question.evidence.is_empty()).count();
    if unscored > 0 {
        notes.push(format!("{unscored} questions name no turn as evidence: asked, not scored"));
    }
    Ok(Conversation { sample_id, sessions, questions, notes })
}

fn sessions(conversation: &Map<String, Value>, notes: &mut Vec<String>) -> Vec<Session> {
    // By number: the file may have `session_10` before `session_9`, and leave numbers out.
    let numbered: BTreeMap<u64, (&String, &Vec<Value>)> = conversation
        .iter()
        .filter_map(|(name, turns)| {
            let number = name.strip_prefix("session_")?.parse().ok()?;
            Some((number, (name, turns.as_array()?)))
        })
        .collect();
    let (mut without_words, mut without_time) = (0, Vec::new());
    let mut taken = BTreeSet::new();
    let mut sessions = Vec::new();
    for (number, (name, all)) in numbered {
        let at = conversation.get(&format!("{name}_date_time")).and_then(time::unix_millis);
        if at.is_none() {
            without_time.push(name.as_str());
        }
        let mut turns = Vec::new();
        for (place, value) in all.iter().enumerate() {
            let given = value.get("dia_id").and_then(line_of).filter(|id| !taken.contains(id));
            // Ids of its own must not meet one that the file gives to a later turn: none of LoCoMo's has a `#`.
            let dia_id = given.unwrap_or_else(|| format!("D{number}:#{}", place + 1));
            taken.insert(dia_id.clone());
            match words_of(value) {
                Some(words) => turns.push(Turn { speaker: value.get("speaker").and_then(actor), dia_id, words }),
                None => without_words += 1,
            }
        }
        sessions.push(Session { name: name.clone(), at, turns });
    }
    if without_words > 0 {
        notes.push(format!("{without_words} turns have no words: not stored"));
    }
    if !without_time.is_empty() {
        notes.push(format!("no time that can be read: {}", without_time.join(", ")));
    }
    sessions
}

fn question(index: usize, annotation: &Value, known: &Ids) -> Question {
    let evidence = annotation.get("evidence").map(strings).unwrap_or_default();
    Question {
        index,
        text: annotation.get("question").and_then(field::query).unwrap_or_default(),
        evidence: evidence.iter().flat_map(|text| known.named_in(text)).collect(),
        category: annotation.get("category").and_then(number_of),
    }
}

/// The ids of a conversation's turns.
struct Ids {
    as_written: BTreeSet<String>,
    /// By the numbers of session and turn.
    by_numbers: HashMap<[u32; 2], String>,
}

impl Ids {
    fn of(sessions: &[Session]) -> Self {
        let ids = || sessions.iter().flat_map(|session| &session.turns).map(|turn| turn.dia_id.clone());
        let by_numbers = ids().filter_map(|id| match dia_ids(&id)[..] {
            [numbers] => Some((numbers, id)),
            _ => None,
        });
        Self { as_written: ids().collect(), by_numbers: by_numbers.collect() }
    }

    /// The turns that an annotation names.
    fn named_in(&self, text: &str) -> Vec<String> {
        match self.as_written.get(text.trim()) {
            Some(id) => vec![id.clone()],
            None => dia_ids(text).iter().filter_map(|numbers| self.by_numbers.get(numbers)).cloned().collect(),
        }
    }
}

/// The numbers of session and turn in an annotation: after each `D` the first two.
fn dia_ids(text: &str) -> Vec<[u32; 2]> {
    let numbers = |mention: &str| -> Option<[u32; 2]> {
        let digits = mention.split(|character: char| !character.is_ascii_digit()).filter(|digits| !digits.is_empty());
        let numbers: Vec<u32> = digits.take(2).map_while(|digits| digits.parse().ok()).collect();
        numbers.try_into().ok()
    };
    text.split(['D', 'd']).skip(1).filter_map(numbers).collect()
}

#[cfg(test)]
mod tests;
