//! A record of the journal that this version cannot read: written by a later one, or wrongly.
//!
//! It waits in its place like any other, so that the version that wrote it may still bring it to the store. In its turn it is set aside
//! as it is.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use context_manager_memory::ContextId;
use serde::{Deserialize, Serialize};

/// A record that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::engine) struct Unreadable {
    /// Its number in the journal.
    pub(in crate::engine) number: u64,
    /// What is wrong with it. May quote the record, so it is not for the log.
    pub(super) problem: String,
    /// Its bytes.
    pub(super) record: Vec<u8>,
}

/// How it is set aside.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::engine) struct Line {
    number: u64,
    problem: String,
    #[serde(flatten)]
    record: Record,
}

/// The bytes, as text if they are.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Record {
    #[serde(rename = "record")]
    Text(String),
    #[serde(rename = "record_base64")]
    Bytes(String),
}

impl Unreadable {
    /// The line that says all of it.
    pub(in crate::engine) fn into_line(self) -> Line {
        let record = match String::from_utf8(self.record) {
            Ok(text) => Record::Text(text),
            Err(other) => Record::Bytes(STANDARD.encode(other.as_bytes())),
        };
        Line { number: self.number, problem: self.problem, record }
    }
}

impl Line {
    /// The new contexts that the record names, as far as that can be told without understanding the rest of it.
    pub(in crate::engine) fn new_contexts(&self) -> Vec<ContextId> {
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Form {
            Store { contexts: Vec<Named> },
        }
        #[derive(Deserialize)]
        struct Named {
            id: ContextId,
        }
        let Record::Text(record) = &self.record else { return Vec::new() };
        match serde_json::from_str(record) {
            Ok(Form::Store { contexts }) => contexts.into_iter().map(|named| named.id).collect(),
            Err(_) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(record: &[u8]) -> Line {
        Unreadable { number: 7, problem: "what is this".to_owned(), record: record.to_vec() }.into_line()
    }

    #[test]
    fn a_line_has_every_byte() {
        let json = |line: &Line| serde_json::to_string(line).expect("JSON");
        let text = line(br#"{"merge":{}}"#);
        assert_eq!(json(&text), r#"{"number":7,"problem":"what is this","record":"{\"merge\":{}}"}"#);
        let bytes = line(b"\xff\x00");
        assert_eq!(json(&bytes), r#"{"number":7,"problem":"what is this","record_base64":"/wA="}"#);
        for line in [text, bytes] {
            assert_eq!(serde_json::from_str::<Line>(&json(&line)).expect("a line"), line);
        }
    }

    #[test]
    fn new_contexts_are_told_when_the_rest_is_not_understood() {
        let id: ContextId = "0191e7f0-0000-7000-8000-000000000001".parse().expect("an id");
        let store = format!(r#"{{"store":{{"contexts":[{{"level":"eternal","id":"{id}"}}],"by":3}}}}"#);
        assert_eq!(line(store.as_bytes()).new_contexts(), [id]);
        let update = format!(r#"{{"update":{{"id":"{id}","expected":"the last"}}}}"#);
        assert_eq!(line(update.as_bytes()).new_contexts(), [], "it was there before");
        assert_eq!(line(b"\xff").new_contexts(), []);
    }
}
