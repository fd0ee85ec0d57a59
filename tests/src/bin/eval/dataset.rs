//! Conversations with questions, in the format of LoCoMo (Maharana et al., ACL 2024).
//!
//! One turn is one context. A question's evidence is the turns that answer it; the annotations have a few malformed ids such as
//! `D8:6; D9:17` or `D:11:26`, which are split and repaired. What names no turn is left out, and so is a question without any.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use jiff::{civil::DateTime, fmt::strtime, tz::TimeZone};
use serde::Deserialize;
use serde_json::{Map, Value};

/// How a session says when it was, as in `1:56 pm on 8 May, 2023`.
const SESSION_TIME: &str = "%I:%M %p on %d %B, %Y";

/// A conversation and its questions.
#[derive(Debug)]
pub struct Conversation {
    pub sample_id: String,
    /// In the order in which they were spoken, by session.
    pub sessions: Vec<Session>,
    pub questions: Vec<Question>,
}

/// Turns of one sitting.
#[derive(Debug)]
pub struct Session {
    pub name: String,
    /// Unix milliseconds.
    pub at: i64,
    pub turns: Vec<Turn>,
}

/// What one speaker said.
#[derive(Debug, Deserialize)]
pub struct Turn {
    pub speaker: String,
    pub dia_id: String,
    #[serde(default)]
    text: String,
    #[serde(default)]
    blip_caption: Option<String>,
}

/// A question and the turns that answer it.
#[derive(Debug)]
pub struct Question {
    /// Its place in the file's `qa`.
    pub index: usize,
    pub text: String,
    pub evidence: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Sample {
    #[serde(rename = "sample_id")]
    id: String,
    conversation: Map<String, Value>,
    qa: Vec<Annotation>,
}

#[derive(Deserialize)]
struct Annotation {
    question: String,
    #[serde(default)]
    evidence: Vec<String>,
}

impl Turn {
    /// What is stored: the words, and the caption of a shared image.
    pub fn words(&self) -> String {
        match &self.blip_caption {
            Some(caption) => format!("{} [shared image: {caption}]", self.text).trim_start().to_owned(),
            None => self.text.clone(),
        }
    }
}

/// Reads every `*.json` of a folder, or one file.
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
        let samples: Vec<Sample> = serde_json::from_slice(&content)
            .with_context(|| format!("{} is not a list of LoCoMo conversations", file.display()))?;
        for sample in samples {
            let id = sample.id.clone();
            conversations.push(conversation(sample).with_context(|| format!("{}: {id}", file.display()))?);
        }
    }
    ensure!(
        !conversations.is_empty(),
        "--data {} has no conversation; name a folder with LoCoMo's JSON",
        data.display()
    );
    Ok(conversations)
}

fn conversation(sample: Sample) -> Result<Conversation> {
    let Sample { id: sample_id, mut conversation, qa } = sample;
    let mut sessions = Vec::new();
    for number in 1.. {
        let name = format!("session_{number}");
        let Some(turns) = conversation.remove(&name) else { break };
        let time = conversation.get(&format!("{name}_date_time")).and_then(Value::as_str);
        let time = time.with_context(|| format!("{name}_date_time is missing"))?;
        let turns = serde_json::from_value(turns).with_context(|| name.clone())?;
        sessions.push(Session { at: unix_millis(time)?, name, turns });
    }
    let turns: BTreeSet<&str> =
        sessions.iter().flat_map(|session: &Session| &session.turns).map(|turn| turn.dia_id.as_str()).collect();
    let questions = qa.into_iter().enumerate().map(|(index, Annotation { question, evidence })| {
        let ids = evidence.iter().flat_map(|text| dia_ids(text)).filter(|id| turns.contains(id.as_str()));
        Question { index, text: question, evidence: ids.collect() }
    });
    let questions = questions.filter(|question| !question.evidence.is_empty()).collect();
    Ok(Conversation { sample_id, sessions, questions })
}

fn unix_millis(time: &str) -> Result<i64> {
    let broken = strtime::parse(SESSION_TIME, time).with_context(|| format!("{time:?} is not a session's time"))?;
    let time = DateTime::from_parts(broken.to_date()?, broken.to_time()?);
    Ok(time.to_zoned(TimeZone::UTC)?.timestamp().as_millisecond())
}

/// The ids in an annotation: a `D`, the session's number, the turn's number.
fn dia_ids(text: &str) -> Vec<String> {
    let mentions = text.split('D').skip(1);
    let numbers = |mention: &str| {
        let digits = mention.split(|character: char| !character.is_ascii_digit());
        digits.filter_map(|digits| digits.parse::<u32>().ok()).take(2).collect::<Vec<_>>()
    };
    let id = |mention| match numbers(mention)[..] {
        [session, turn] => Some(format!("D{session}:{turn}")),
        _ => None,
    };
    mentions.filter_map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_evidence_is_split_and_repaired() {
        assert_eq!(dia_ids("D1:3"), ["D1:3"]);
        assert_eq!(dia_ids("D8:6; D9:17"), ["D8:6", "D9:17"]);
        assert_eq!(dia_ids("D:11:26"), ["D11:26"]);
        assert_eq!(dia_ids("D30:05"), ["D30:5"]);
        assert!(dia_ids("D").is_empty());
    }

    #[test]
    fn a_sessions_time_is_read() {
        assert_eq!(unix_millis("1:56 pm on 8 May, 2023").expect("a valid time"), 1_683_554_160_000);
        assert!(unix_millis("yesterday").is_err());
    }

    #[test]
    fn a_conversation_keeps_its_turns_in_order_and_drops_questions_without_evidence() {
        let sample = serde_json::json!({
            "sample_id": "conv-1",
            "conversation": {
                "speaker_a": "Ann", "session_1_date_time": "1:56 pm on 8 May, 2023",
                "session_1": [
                    {"speaker": "Ann", "dia_id": "D1:1", "text": "Look!", "blip_caption": "a red bike"},
                    {"speaker": "Bo", "dia_id": "D1:2", "text": "Nice."},
                ],
            },
            "qa": [
                {"question": "Who rides?", "evidence": ["D1:1"], "category": 4},
                {"question": "Unknown?", "evidence": ["D9:9"]},
                {"question": "None?", "answer": 3},
            ],
        });
        let conversation = conversation(serde_json::from_value(sample).expect("a sample")).expect("a conversation");
        let words: Vec<String> = conversation.sessions[0].turns.iter().map(Turn::words).collect();
        assert_eq!(words, ["Look! [shared image: a red bike]", "Nice."]);
        assert_eq!(conversation.questions.iter().map(|question| question.index).collect::<Vec<_>>(), [0]);
    }
}
