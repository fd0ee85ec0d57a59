//! What is too large or too small to be accepted; every refusal names the field and the remedy.

use serde_json::Value;

use crate::{
    Metadata,
    store::{Condition, Operator, Scalar},
};

/// The bounds of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of a stored text.
    pub text_bytes: usize,
    /// Most bytes of a query.
    pub query_bytes: usize,
    /// Most metadata keys.
    pub metadata_keys: usize,
    /// Most characters of a metadata key.
    pub metadata_key_chars: usize,
    /// Most bytes of all metadata as JSON.
    pub metadata_bytes: usize,
    /// Deepest nesting of a metadata value.
    pub metadata_depth: usize,
    /// Most conditions of a filter.
    pub filter_conditions: usize,
    /// Most values of all `any` of a filter together.
    pub filter_values: usize,
    /// Most bytes of a value of a filter.
    pub filter_value_bytes: usize,
    /// Most contexts of a batch.
    pub batch: usize,
    /// Most contexts of an answer or a page.
    pub results: i64,
    /// Largest token budget.
    pub token_budget: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            text_bytes: 64 << 10,
            query_bytes: 8 << 10,
            metadata_keys: 64,
            metadata_key_chars: 128,
            metadata_bytes: 16 << 10,
            metadata_depth: 8,
            filter_conditions: 64,
            filter_values: 256,
            filter_value_bytes: 1 << 10,
            batch: 256,
            results: 1_000,
            token_budget: 1_000_000,
        }
    }
}

/// A value that is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}; {remedy}")]
pub struct Violation {
    /// The field's name, as in the request.
    pub field: String,
    /// What is wrong.
    pub problem: String,
    /// What is accepted.
    pub remedy: String,
}

fn refuse(field: &str, problem: impl Into<String>, remedy: impl Into<String>) -> Result<(), Violation> {
    Err(Violation { field: field.to_owned(), problem: problem.into(), remedy: remedy.into() })
}

impl Limits {
    /// Checks a text that is to be stored.
    ///
    /// # Errors
    /// When it is blank, too long, or has control characters other than white space.
    ///
    /// ```
    /// use context_manager_memory::limits::Limits;
    ///
    /// let refused = Limits::default().text("  ").unwrap_err();
    /// assert_eq!(refused.to_string(), "text is blank; give it at least one visible character");
    /// ```
    pub fn text(&self, text: &str) -> Result<(), Violation> {
        Self::words("text", text, self.text_bytes, "store it in several contexts")
    }

    /// Checks a query.
    ///
    /// # Errors
    /// When it is blank, too long, or has control characters other than white space.
    pub fn query(&self, query: &str) -> Result<(), Violation> {
        Self::words("query", query, self.query_bytes, "ask for the essence")
    }

    fn words(field: &str, text: &str, most: usize, how: &str) -> Result<(), Violation> {
        if text.trim().is_empty() {
            return refuse(field, "is blank", "give it at least one visible character");
        }
        if text.len() > most {
            return refuse(field, format!("has {} bytes", text.len()), format!("at most {most} are accepted; {how}"));
        }
        match text.char_indices().find(|(_, character)| character.is_control() && !character.is_whitespace()) {
            Some((at, character)) => {
                refuse(field, format!("has the control character {character:?} at byte {at}"), "remove it")
            }
            None => Ok(()),
        }
    }

    /// Checks metadata.
    ///
    /// # Errors
    /// When there are too many keys, a key is empty or too long, or the values are too deep or too large. Whole numbers have 64 bits with
    /// a sign: a larger one would come back from a Qdrant server as another number.
    pub fn metadata(&self, metadata: &Metadata) -> Result<(), Violation> {
        if metadata.len() > self.metadata_keys {
            return refuse(
                "metadata",
                format!("has {} keys", metadata.len()),
                format!("at most {} are accepted", self.metadata_keys),
            );
        }
        for (key, value) in metadata {
            let field = format!("metadata.{}", key.chars().take(64).collect::<String>());
            let characters = key.chars().count();
            if !(1..=self.metadata_key_chars).contains(&characters) {
                let remedy = format!("a key has 1 to {} characters", self.metadata_key_chars);
                return refuse(&field, format!("has a key of {characters} characters"), remedy);
            }
            if depth(value) > self.metadata_depth {
                return refuse(
                    &field,
                    "is nested too deeply",
                    format!("at most {} levels are accepted", self.metadata_depth),
                );
            }
        }
        if let Some((key, number)) = metadata.iter().find_map(|(key, value)| Some((key, unsigned(value)?))) {
            let remedy = format!("at most {} is accepted; send a larger one as a string", i64::MAX);
            return refuse(&format!("metadata.{key}"), format!("has the whole number {number}"), remedy);
        }
        let bytes = serde_json::to_vec(metadata).map_or(usize::MAX, |json| json.len());
        if bytes > self.metadata_bytes {
            return refuse(
                "metadata",
                format!("has {bytes} bytes as JSON"),
                format!("at most {} are accepted", self.metadata_bytes),
            );
        }
        Ok(())
    }

    /// Checks the conditions of a filter: the store looks at each value of each of them for every context that comes into question.
    ///
    /// # Errors
    /// When there are too many conditions or values, or a key or a value is too long.
    pub fn filter(&self, conditions: &[Condition]) -> Result<(), Violation> {
        if conditions.len() > self.filter_conditions {
            return refuse(
                "filter",
                format!("has {} conditions", conditions.len()),
                format!("at most {} are accepted", self.filter_conditions),
            );
        }
        let mut values = 0;
        for Condition { path, operator } in conditions {
            let key = path.join(".");
            let field = filter_field(&key);
            let characters = key.chars().count();
            if characters > self.metadata_key_chars {
                let remedy = format!("no metadata key has more than {}", self.metadata_key_chars);
                return refuse(&field, format!("has a key of {characters} characters"), remedy);
            }
            let scalars = match operator {
                Operator::Equals(value) => std::slice::from_ref(value),
                Operator::AnyOf(several) | Operator::NoneOf(several) => {
                    values += several.len();
                    several.as_slice()
                }
                Operator::Range { .. } | Operator::Exists | Operator::Absent => &[],
            };
            if values > self.filter_values {
                let remedy = format!("at most {} are accepted in all of a filter", self.filter_values);
                return refuse(&field, format!("brings the values of any to {values}"), remedy);
            }
            for scalar in scalars {
                if let Scalar::Text(text) = scalar
                    && text.len() > self.filter_value_bytes
                {
                    let remedy = format!("at most {} are accepted", self.filter_value_bytes);
                    return refuse(&field, format!("has a value of {} bytes", text.len()), remedy);
                }
            }
        }
        Ok(())
    }

    /// Checks the number of contexts of a batch.
    ///
    /// # Errors
    /// When there is none, or too many.
    pub fn batch(&self, contexts: usize) -> Result<(), Violation> {
        if (1..=self.batch).contains(&contexts) {
            return Ok(());
        }
        refuse("contexts", format!("has {contexts} entries"), format!("1 to {} are accepted", self.batch))
    }

    /// Checks a token budget.
    ///
    /// # Errors
    /// When it is not positive, or too large.
    pub fn token_budget(&self, budget: i64) -> Result<usize, Violation> {
        Self::count("token_budget", budget, self.token_budget)
    }

    /// Checks a number of results.
    ///
    /// # Errors
    /// When it is not positive, or too large.
    pub fn results(&self, limit: i64) -> Result<usize, Violation> {
        Self::count("limit", limit, self.results)
    }

    fn count(field: &str, value: i64, most: i64) -> Result<usize, Violation> {
        match usize::try_from(value) {
            Ok(count) if (1..=most).contains(&value) => Ok(count),
            Ok(_) | Err(_) => refuse(field, format!("is {value}"), format!("1 to {most} are accepted")).map(|()| 0),
        }
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        Value::Object(values) => 1 + values.values().map(depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 1,
    }
}

/// What a refusal calls the condition on a key; of a long key the beginning.
///
/// ```
/// assert_eq!(context_manager_memory::limits::filter_field("team"), "filter.team");
/// ```
#[must_use]
pub fn filter_field(key: &str) -> String {
    format!("filter.{}", key.chars().take(64).collect::<String>())
}

/// A whole number that has no place in 64 bits with a sign.
fn unsigned(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64().filter(|_| !number.is_i64()),
        Value::Array(values) => values.iter().find_map(unsigned),
        Value::Object(values) => values.values().find_map(unsigned),
        Value::Null | Value::Bool(_) | Value::String(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn metadata(value: &Value) -> Metadata {
        value.as_object().cloned().unwrap_or_default()
    }

    fn equals(key: &str, value: &str) -> Condition {
        Condition { path: vec![key.to_owned()], operator: Operator::Equals(Scalar::Text(value.to_owned())) }
    }

    fn conditions(count: usize, values: usize) -> Vec<Condition> {
        let operator = || Operator::AnyOf((0..values).map(|value| Scalar::Text(value.to_string())).collect());
        (0..count).map(|key| Condition { path: vec![key.to_string()], operator: operator() }).collect()
    }

    #[test]
    fn each_refusal_names_the_field_and_the_remedy() {
        let limits = Limits::default();
        let many: Metadata = (0..65).map(|key| (key.to_string(), Value::Null)).collect();
        let deep = (0..9).fold(json!(1), |value, _| json!([value]));
        for (result, expected) in [
            (limits.text(&"x".repeat(70_000)), "text has 70000 bytes; at most 65536 are accepted"),
            (limits.text("a\u{0}"), "text has the control character '\\0' at byte 1; remove it"),
            (limits.query(""), "query is blank"),
            (limits.metadata(&many), "metadata has 65 keys; at most 64 are accepted"),
            (limits.metadata(&metadata(&json!({"a": deep}))), "metadata.a is nested too deeply"),
            (limits.metadata(&metadata(&json!({"": 1}))), "has a key of 0 characters"),
            (limits.metadata(&metadata(&json!({"a": "x".repeat(17_000)}))), "bytes as JSON; at most 16384"),
            (
                limits.metadata(&metadata(&json!({"a": [{"b": 9_223_372_036_854_775_808_u64}]}))),
                "metadata.a has the whole number 9223372036854775808; at most 9223372036854775807 is accepted",
            ),
            (limits.filter(&conditions(65, 1)), "filter has 65 conditions; at most 64 are accepted"),
            (
                limits.filter(&conditions(1, 257)),
                "filter.0 brings the values of any to 257; at most 256 are accepted in all of a filter",
            ),
            (limits.filter(&conditions(3, 100)), "filter.2 brings the values of any to 300"),
            (
                limits.filter(&[equals("k", &"x".repeat(1_025))]),
                "filter.k has a value of 1025 bytes; at most 1024 are accepted",
            ),
            (
                limits.filter(&[equals(&"k".repeat(129), "x")]),
                "has a key of 129 characters; no metadata key has more than 128",
            ),
            (limits.batch(0), "contexts has 0 entries; 1 to 256 are accepted"),
            (limits.batch(257), "contexts has 257 entries"),
            (limits.token_budget(-1).map(drop), "token_budget is -1; 1 to 1000000 are accepted"),
            (limits.token_budget(0).map(drop), "token_budget is 0"),
            (limits.results(1_001).map(drop), "limit is 1001; 1 to 1000 are accepted"),
        ] {
            let message = result.map_or_else(|violation| violation.to_string(), |()| "accepted".to_owned());
            assert!(message.contains(expected), "{message:?} is not {expected:?}");
        }
    }

    /// A number as people read it: 65,536.
    fn grouped(number: &impl ToString) -> String {
        let digits = number.to_string();
        let mut text = String::new();
        for (place, digit) in digits.chars().enumerate() {
            if place > 0 && (digits.len() - place).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        text
    }

    #[test]
    fn every_limit_is_documented() {
        let page = include_str!("../../docs/protocol.md");
        let table = page.split("\n## Limits\n").nth(1).expect("docs/protocol.md has a chapter of limits");
        let Limits {
            text_bytes,
            query_bytes,
            metadata_keys,
            metadata_key_chars,
            metadata_bytes,
            metadata_depth,
            filter_conditions,
            filter_values,
            filter_value_bytes,
            batch,
            results,
            token_budget,
        } = Limits::default();
        for (what, limit) in [
            ("`text` of a context", format!("{} bytes", grouped(&text_bytes))),
            ("`query` of a search", format!("{} bytes", grouped(&query_bytes))),
            ("keys of `metadata`", grouped(&metadata_keys)),
            ("a key of `metadata` or of a `filter`", format!("{} characters", grouped(&metadata_key_chars))),
            ("`metadata` as JSON", format!("{} bytes", grouped(&metadata_bytes))),
            ("nesting of a value of `metadata`", format!("{} levels", grouped(&metadata_depth))),
            ("conditions of a `filter`", grouped(&filter_conditions)),
            ("values of all `any` of a `filter` together", grouped(&filter_values)),
            ("a value of a `filter`", format!("{} bytes", grouped(&filter_value_bytes))),
            ("contexts of a batch", grouped(&batch)),
            ("`limit` of a search or a page", format!("{} contexts", grouped(&results))),
            ("`token_budget`", format!("{} tokens", grouped(&token_budget))),
        ] {
            let row = format!("\n| {what} | {limit} |");
            assert!(table.contains(&row), "docs/protocol.md lacks {row:?}");
        }
    }

    #[test]
    fn ordinary_values_are_accepted() {
        let limits = Limits::default();
        assert_eq!(limits.text("two\nlines\tand a tab"), Ok(()));
        assert_eq!(limits.metadata(&metadata(&json!({"topic": {"a": [1, true, null]}}))), Ok(()));
        assert_eq!(limits.metadata(&metadata(&json!({"a": [i64::MIN, i64::MAX, 1.0, 1e300, -0.0]}))), Ok(()));
        assert_eq!(limits.token_budget(2_000), Ok(2_000));
        assert_eq!(limits.filter(&conditions(64, 4)), Ok(()));
        assert_eq!(limits.filter(&[equals(&"é".repeat(128), &"x".repeat(1_024))]), Ok(()));
    }
}
