//! Values of a file, as the protocol takes them: what a hand-made file has too much is taken off, what it lacks is `None`.

use context_manager_memory::{Actor, limits::Limits};
use serde_json::Value;

/// A text or a number as one line; `None` if it is blank.
pub fn line_of(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    let line = printable(&text).split_whitespace().collect::<Vec<_>>().join(" ");
    Some(line).filter(|line| !line.is_empty())
}

/// A speaker's name.
pub fn actor(value: &Value) -> Option<String> {
    let name: String = line_of(value)?.chars().take(Actor::MAX_CHARS).collect();
    Actor::new(name.trim()).ok().map(|actor| actor.as_str().to_owned())
}

/// The words of a turn, with the caption of a shared image.
pub fn words_of(turn: &Value) -> Option<String> {
    let part = |name| turn.get(name).and_then(Value::as_str).map(printable).filter(|text| !text.trim().is_empty());
    let words = match (part("text"), part("blip_caption")) {
        (Some(text), Some(caption)) => format!("{text} [shared image: {caption}]"),
        (None, Some(caption)) => format!("[shared image: {caption}]"),
        (text, None) => text?,
    };
    Some(beginning(&words, Limits::default().text_bytes).to_owned())
}

/// A question as the protocol takes it.
pub fn query(value: &Value) -> Option<String> {
    let text = printable(value.as_str()?);
    let text = beginning(&text, Limits::default().query_bytes);
    (!text.trim().is_empty()).then(|| text.to_owned())
}

/// A number, also one that is written as a text.
pub fn number_of(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.trim().parse().ok())
}

/// All texts of a value: itself, or those of a list, however deep.
pub fn strings(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(values) => values.iter().flat_map(strings).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => Vec::new(),
    }
}

fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() && character != '\n' { ' ' } else { character }).collect()
}

fn beginning(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}
