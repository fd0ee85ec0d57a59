//! Whether metadata are the same as they were before they were stored.
//!
//! Stores keep metadata as JSON, and a parser that is made for speed may give a floating-point number back that is one of its
//! neighbours (`float_roundtrip` of `serde_json`). What is written again is still the same.

use serde_json::Value;

use crate::Metadata;

/// How far a number may be from the one that was written, relative to it: some units in the last place.
const ROUNDING: f64 = 8.0 * f64::EPSILON;

/// Whether metadata are the same but for such neighbours.
///
/// ```
/// use context_manager_memory::alike::alike;
///
/// let metadata = |score: f64| serde_json::json!({"score": score}).as_object().cloned().unwrap_or_default();
/// assert!(alike(&metadata(0.1), &metadata(0.1_f64.next_up())));
/// assert!(!alike(&metadata(0.1), &metadata(0.2)));
/// ```
#[must_use]
pub fn alike(one: &Metadata, other: &Metadata) -> bool {
    one.len() == other.len()
        && one.iter().all(|(key, value)| other.get(key).is_some_and(|there| values_alike(value, there)))
}

/// The same of single values.
#[must_use]
pub fn values_alike(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) if one.is_f64() && other.is_f64() => {
            let (one, other) = (one.as_f64().unwrap_or_default(), other.as_f64().unwrap_or_default());
            (one - other).abs() <= ROUNDING * one.abs().max(other.abs())
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| values_alike(one, other))
        }
        (Value::Object(one), Value::Object(other)) => alike(one, other),
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn neighbours_are_alike_and_nothing_else_is() {
        let number = -3.425_397_748_137_272e287_f64;
        for (one, other, expected) in [
            (json!({"a": [number, {"b": 0.1}]}), json!({"a": [number.next_down(), {"b": 0.1_f64.next_up()}]}), true),
            (json!({"a": number}), json!({"a": number * (1.0 + 1e-12)}), false),
            (json!({"a": 1}), json!({"a": 1.0}), false),
            (json!({"a": 9_007_199_254_740_993_i64}), json!({"a": 9_007_199_254_740_992_i64}), false),
            (json!({"a": 0.0}), json!({"a": -0.0}), true),
            (json!({"a": [1, 2]}), json!({"a": [1]}), false),
            (json!({"a": 1}), json!({"b": 1}), false),
            (json!({"a": null}), json!({}), false),
        ] {
            assert_eq!(values_alike(&one, &other), expected, "{one} and {other}");
            assert_eq!(values_alike(&other, &one), expected, "{other} and {one}");
        }
    }
}
