//! How much memory a JSON text takes at most when it is read, told by its punctuation before it is: two bytes of a list of zeros become a
//! hundred, so the length of a text says little.

use serde_json::{Map, Value};

/// Beside what is read of a review: the answer and its parts on the way to it, in bytes, and as a multiple of the text for messages that
/// repeat it.
const ANSWER: u64 = 64 << 10;
const REPEATED: u64 = 6;
/// What an allocator adds to a small piece.
const PIECE: u64 = 32;

/// The most that the values of a review take, and what is made of them.
pub(crate) fn weigh(json: &[u8]) -> u64 {
    weigh_values(json) + REPEATED * json.len() as u64 + ANSWER
}

/// The most that the values of a text take.
pub(crate) fn weigh_values(json: &[u8]) -> u64 {
    let Punctuation { maps, lists, commas, texts } = Punctuation::of(json);
    let (slot, entry) = (size(size_of::<Value>()), size(size_of::<(String, Value)>()));
    // A list of one has room for four. A longer one has room for twice as much as it needs, and half of that again while it grows.
    let of_lists = lists * (4 * slot + PIECE);
    let of_maps = maps * (if ORDERED { 4 * (entry + 17) + 2 * PIECE } else { 12 * entry + 2 * PIECE });
    // Whether a comma is one of a list or of a map is not looked at. Entries of a map in order of their keys fill half of a node.
    let more = commas * (if ORDERED { 7 * (entry + 17) / 2 } else { 3 * slot.max(entry) });
    let length = json.len() as u64;
    of_lists + of_maps + more + texts * PIECE + length + length / 4
}

/// Whether maps keep the order of their entries, which depends on what else is compiled with this: such a one is larger in itself.
const ORDERED: bool = size_of::<Map<String, Value>>() > 3 * size_of::<usize>();

const fn size(bytes: usize) -> u64 {
    bytes as u64
}

/// How often it has what makes values.
#[derive(Debug, Default, PartialEq, Eq)]
struct Punctuation {
    maps: u64,
    lists: u64,
    commas: u64,
    texts: u64,
}

impl Punctuation {
    fn of(json: &[u8]) -> Self {
        let mut found = Self::default();
        let (mut in_text, mut escaped) = (false, false);
        for byte in json {
            match (in_text, byte) {
                (true, _) if escaped => escaped = false,
                (true, b'\\') => escaped = true,
                (true, b'"') => in_text = false,
                (false, b'"') => {
                    in_text = true;
                    found.texts += 1;
                }
                (false, b'{') => found.maps += 1,
                (false, b'[') => found.lists += 1,
                (false, b',') => found.commas += 1,
                _ => {}
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_stands_in_a_text_is_no_punctuation() {
        let value = json!({"a": "{[,\\\"", "b": [1, "x,y", {}]});
        let expected = Punctuation { maps: 2, lists: 1, commas: 3, texts: 4 };
        assert_eq!(Punctuation::of(value.to_string().as_bytes()), expected);
        assert_eq!(Punctuation::of(b"\"never ends \\"), Punctuation { texts: 1, ..Punctuation::default() });
    }

    /// What a value takes beside itself, as far as it can be seen from outside.
    fn taken(value: &Value) -> u64 {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
            Value::String(text) => size(text.capacity()),
            Value::Array(items) => size(items.capacity() * size_of::<Value>()) + items.iter().map(taken).sum::<u64>(),
            Value::Object(map) => {
                map.iter().map(|(key, value)| size(size_of::<(String, Value)>() + key.capacity()) + taken(value)).sum()
            }
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(Value::Null), any::<u8>().prop_map(Value::from), ".{0,8}".prop_map(Value::from)];
        leaf.prop_recursive(4, 200, 20, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..20).prop_map(Value::from),
                prop::collection::btree_map("[a-z]{0,5}", inner, 0..20).prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_value_takes_more_than_its_text_weighs(value in any_json()) {
            let text = value.to_string();
            let read: Value = serde_json::from_str(&text).expect("it was written so");
            prop_assert!(taken(&read) <= weigh_values(text.as_bytes()));
        }
    }

    #[test]
    fn what_is_made_to_take_much_weighs_much_and_a_pod_little() {
        let zeros = format!("[{}0]", "0,".repeat(1 << 20));
        let read: Value = serde_json::from_str(&zeros).expect("JSON");
        let (taken, weighed) = (taken(&read), weigh_values(zeros.as_bytes()));
        assert!(taken > 30 << 20 && taken <= weighed, "{taken} of {weighed}");
        let pod = include_str!("../tests/golden/pods/deployment.json");
        let weighed = weigh(pod.as_bytes()) - ANSWER;
        assert!(weighed < 64 * pod.len() as u64, "{weighed} for {}", pod.len());
    }
}
