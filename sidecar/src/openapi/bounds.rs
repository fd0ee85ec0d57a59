//! The bounds of fields and parameters, from the constants by which the engine checks them. The types of the protocol do not
//! know them: what is too long is the engine's decision.

use context_manager_memory::{Actor, AgentId, SessionId, SpaceId, limits::Limits};
use serde_json::{Map, Value, json};

use super::problems::operations;
use crate::engine::{MOST_LEVELS, MOST_SCOPES, MOST_SUPERSEDED};

/// White space that is no control character, as characters of a regular expression.
const SPACES: &str = r"\u0020\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000";
/// What a line of text must not have.
const NOT_IN_A_LINE: &str = r"\u0000-\u001f\u007f-\u009f\u2028\u2029";
/// What a text must not have: control characters other than white space.
const NOT_IN_A_TEXT: &str = r"\u0000-\u0008\u000e-\u001f\u007f-\u0084\u0086-\u009f";
/// A number with a unit, or several; what is refused only for being too short is left to the description.
const DURATION: &str = "^[1-9][0-9]{0,5}(ms|s|m|h|d|w)([1-9][0-9]{0,5}(ms|s|m|h|d|w)){0,3}$";

/// Adds the bounds.
pub(super) fn apply(document: &mut Value) {
    for (pointer, keywords) in of_fields() {
        match document["components"]["schemas"].pointer_mut(pointer) {
            Some(Value::Object(schema)) => merge(schema, keywords),
            // Any value, so far.
            Some(any @ Value::Bool(true)) => *any = keywords,
            _ => {}
        }
    }
    let bounds = of_parameters();
    for operation in operations(document) {
        let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten();
        for parameter in parameters {
            let keywords = parameter["name"].as_str().and_then(|name| bounds.get(name)).cloned();
            if let (Some(keywords), Value::Object(schema)) = (keywords, &mut parameter["schema"]) {
                merge(schema, keywords);
            }
        }
    }
}

/// Keywords by the place of the field below the schemas.
fn of_fields() -> Vec<(&'static str, Value)> {
    let limits = Limits::default();
    let text = words(limits.text_bytes);
    let session = line(SessionId::MAX_CHARS);
    let metadata = json!({
        "maxProperties": limits.metadata_keys,
        "propertyNames": {"minLength": 1, "maxLength": limits.metadata_key_chars},
        "x-max-bytes": limits.metadata_bytes,
        "x-max-depth": limits.metadata_depth,
    });
    let scalar = json!({
        "type": ["string", "number", "boolean"],
        "maxLength": limits.filter_value_bytes,
        "x-max-bytes": limits.filter_value_bytes,
    });
    let filter = json!({
        "maxProperties": limits.filter_conditions,
        "propertyNames": {"minLength": 1, "maxLength": limits.metadata_key_chars, "pattern": r#"^[^"\\]*$"#},
        "x-max-values": limits.filter_values,
    });
    let duration = json!({"pattern": DURATION, "examples": ["1h30m"]});
    vec![
        ("/ContextStore/properties/text", text.clone()),
        ("/ContextStore/properties/session", session.clone()),
        ("/ContextStore/properties/actor", line(Actor::MAX_CHARS)),
        ("/ContextStore/properties/metadata", metadata.clone()),
        ("/ContextStore/properties/ttl", duration.clone()),
        ("/ContextStore/properties/occurred_at", time()),
        ("/ContextStore/properties/supersedes", json!({"maxItems": MOST_SUPERSEDED})),
        ("/ContextStoreBatch/properties/contexts", json!({"minItems": 1, "maxItems": limits.batch})),
        ("/ContextRequest/properties/query", words(limits.query_bytes)),
        ("/ContextRequest/properties/token_budget", json!({"minimum": 1, "maximum": limits.token_budget})),
        ("/ContextRequest/properties/limit", json!({"minimum": 1, "maximum": limits.results})),
        ("/ContextRequest/properties/levels", json!({"minItems": 1, "maxItems": MOST_LEVELS})),
        ("/ContextRequest/properties/session", session.clone()),
        ("/ContextRequest/properties/as_of", time()),
        ("/ContextUpdate", any_of(&["text", "metadata", "ttl"])),
        ("/ContextUpdate/properties/text", text),
        ("/ContextUpdate/properties/metadata", metadata),
        ("/ContextUpdate/properties/ttl", duration),
        ("/ContextUpdate/properties/if_version", json!({"minimum": i64::MIN, "maximum": i64::MAX})),
        ("/ContextDelete", any_of(&["session", "levels", "filter", "created_before"])),
        ("/ContextDelete/properties/session", session),
        ("/ContextDelete/properties/levels", json!({"minItems": 1, "maxItems": MOST_LEVELS})),
        ("/ContextDelete/properties/created_before", time()),
        ("/ContextRequest/properties/scopes", json!({"maxItems": MOST_SCOPES})),
        ("/Scope/properties/agent", identifier(AgentId::MAX_CHARS)),
        ("/Scope/properties/space", identifier(SpaceId::MAX_CHARS)),
        ("/Scope/properties/session", line(SessionId::MAX_CHARS)),
        ("/Filter", filter),
        ("/Condition/oneOf/0/properties/eq", scalar.clone()),
        (
            "/Condition/oneOf/1/properties/any",
            json!({"minItems": 1, "maxItems": limits.filter_values, "items": scalar}),
        ),
        ("/Range", any_of(&["gt", "gte", "lt", "lte"])),
    ]
}

/// Keywords by the name of the parameter; a name means the same in every operation.
fn of_parameters() -> Map<String, Value> {
    let limits = Limits::default();
    let bounds = [
        ("agent", identifier(AgentId::MAX_CHARS)),
        ("space", identifier(SpaceId::MAX_CHARS)),
        ("session", line(SessionId::MAX_CHARS)),
        ("limit", json!({"minimum": 1, "maximum": limits.results})),
        ("cursor", json!({"format": "uuid"})),
        ("as_of", time()),
    ];
    bounds.into_iter().map(|(name, keywords)| (name.to_owned(), keywords)).collect()
}

/// Any point in time that can be written.
fn time() -> Value {
    json!({"minimum": i64::MIN, "maximum": i64::MAX})
}

/// A name of an agent or a space.
fn identifier(longest: usize) -> Value {
    json!({"minLength": 1, "maxLength": longest, "pattern": "^[A-Za-z0-9]([A-Za-z0-9._:/@-]*[A-Za-z0-9])?$"})
}

/// A name: a line of text without white space at its ends.
fn line(longest: usize) -> Value {
    let end = format!("[^{NOT_IN_A_LINE}{SPACES}]");
    json!({"minLength": 1, "maxLength": longest, "pattern": format!("^{end}([^{NOT_IN_A_LINE}]*{end})?$")})
}

/// A text with at least one character that can be seen.
fn words(bytes: usize) -> Value {
    let (any, visible) =
        (format!("[^{NOT_IN_A_TEXT}]*"), format!("[^{NOT_IN_A_TEXT}{SPACES}\\u0009-\\u000d\\u0085\\u2028\\u2029]"));
    json!({"minLength": 1, "maxLength": bytes, "pattern": format!("^{any}{visible}{any}$"), "x-max-bytes": bytes})
}

/// At least one of the fields is there, and not `null`.
fn any_of(fields: &[&str]) -> Value {
    let given = |field: &&str| json!({"required": [field], "properties": {*field: {"not": {"type": "null"}}}});
    json!({"anyOf": fields.iter().map(given).collect::<Vec<_>>()})
}

fn merge(schema: &mut Map<String, Value>, keywords: Value) {
    if let Value::Object(keywords) = keywords {
        schema.extend(keywords);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bound_is_of_a_field_that_there_is() {
        let document = super::super::build();
        for (pointer, keywords) in of_fields() {
            let found = document["components"]["schemas"].pointer(pointer);
            for (keyword, value) in keywords.as_object().expect("keywords") {
                assert_eq!(found.and_then(|schema| schema.get(keyword)), Some(value), "{pointer} {keyword}");
            }
        }
    }
}
