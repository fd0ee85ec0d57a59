//! What an answer is recognised by.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de};

/// Most bytes of a text.
const MAX_BYTES: usize = 128;
const EXPECTED: &str = "a number from 0 on, or a text of 1 to 128 bytes";

/// The agent's own name for a request, which comes back in the answer; the sidecar gives it no meaning.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(untagged)]
pub enum CorrelationId {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
}

impl From<u64> for CorrelationId {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl<'de> Deserialize<'de> for CorrelationId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = CorrelationId;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(EXPECTED)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<CorrelationId, E> {
                Ok(CorrelationId::Number(number))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<CorrelationId, E> {
                let wrong = || E::invalid_value(de::Unexpected::Signed(number), &self);
                u64::try_from(number).map(CorrelationId::Number).map_err(|_| wrong())
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<CorrelationId, E> {
                if (1..=MAX_BYTES).contains(&text.len()) {
                    return Ok(CorrelationId::Text(text.to_owned()));
                }
                Err(E::invalid_length(text.len(), &self))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}
