//! JSON and `MessagePack`, chosen by media type. Both write maps with field names and identifiers as text, so that a message
//! has one shape, whatever carries it.

use serde::{Deserialize, Serialize};

mod strict;

/// Deepest nesting that a message may have.
const MAX_DEPTH: usize = 64;

/// How a message is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `application/json` (RFC 8259).
    #[default]
    Json,
    /// `application/msgpack`.
    MessagePack,
}

/// Why bytes are not the message that was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{format}, at {path}: {reason}")]
pub struct DecodeError {
    format: &'static str,
    /// Path of the field, such as `contexts[2].level`; `.` for the message itself.
    pub path: String,
    reason: String,
    /// Whether the bytes are of the format at all, and only a value does not fit.
    pub well_formed: bool,
}

impl Format {
    /// The format of a media type; parameters such as `charset` are ignored.
    ///
    /// ```
    /// use context_manager_protocol::codec::Format;
    ///
    /// assert_eq!(Format::from_media_type("application/json; charset=utf-8"), Some(Format::Json));
    /// assert_eq!(Format::from_media_type("application/x-msgpack"), Some(Format::MessagePack));
    /// assert_eq!(Format::from_media_type("text/plain"), None);
    /// ```
    #[must_use]
    pub fn from_media_type(media_type: &str) -> Option<Self> {
        let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match essence.as_str() {
            "application/json" => Some(Self::Json),
            "application/msgpack" | "application/x-msgpack" | "application/vnd.msgpack" => Some(Self::MessagePack),
            _ => None,
        }
    }

    /// The media type.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::MessagePack => "application/msgpack",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Json => "JSON",
            Self::MessagePack => "MessagePack",
        }
    }

    /// Reads a message; trailing bytes are refused.
    ///
    /// # Errors
    /// When the bytes are not of this format, or not this message; the error names the field.
    pub fn decode<'de, T: Deserialize<'de>>(self, bytes: &'de [u8]) -> Result<T, DecodeError> {
        let mut track = serde_path_to_error::Track::new();
        let result = match self {
            Self::Json => {
                let mut deserializer = serde_json::Deserializer::from_slice(bytes);
                strict::deserialize(serde_path_to_error::Deserializer::new(&mut deserializer, &mut track))
                    .and_then(|message: T| deserializer.end().map(|()| message))
                    .map_err(|error| (error.to_string(), error.is_data()))
            }
            Self::MessagePack => {
                let mut rest = bytes;
                let mut deserializer = rmp_serde::Deserializer::new(&mut rest).with_human_readable();
                deserializer.set_max_depth(MAX_DEPTH);
                strict::deserialize(serde_path_to_error::Deserializer::new(&mut deserializer, &mut track))
                    .map_err(|error| (error.to_string(), matches!(error, rmp_serde::decode::Error::Syntax(_))))
                    .and_then(|message| {
                        if rest.is_empty() {
                            Ok(message)
                        } else {
                            Err((format!("{} bytes follow the message", rest.len()), false))
                        }
                    })
            }
        };
        result.map_err(|(reason, well_formed)| DecodeError {
            format: self.name(),
            path: track.path().to_string(),
            reason,
            well_formed,
        })
    }

    /// Writes a message.
    ///
    /// # Panics
    /// Never for the messages of this crate: they have only maps with text keys, lists, text, numbers and booleans.
    #[must_use]
    pub fn encode<T: Serialize>(self, message: &T) -> Vec<u8> {
        match self {
            Self::Json => serde_json::to_vec(message).expect("messages have text keys only"),
            Self::MessagePack => {
                let mut bytes = Vec::new();
                let mut serializer = rmp_serde::Serializer::new(&mut bytes).with_struct_map().with_human_readable();
                message.serialize(&mut serializer).expect("writing to memory does not fail");
                bytes
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::DeserializeOwned;
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::{
        level::Level,
        message::{ContextRequest, ContextStore, ContextStoreBatch},
    };

    const FORMATS: [Format; 2] = [Format::Json, Format::MessagePack];

    fn error<T: DeserializeOwned + std::fmt::Debug>(message: &serde_json::Value) -> [DecodeError; 2] {
        FORMATS.map(|format| format.decode::<T>(&format.encode(message)).expect_err("a bad message"))
    }

    #[test]
    fn a_bad_field_is_named_by_its_path_in_both_formats() {
        for error in error::<ContextStoreBatch>(&json!({"contexts": [{"text": "a"}, {"text": "b", "level": "l4"}]})) {
            assert_eq!(error.path, "contexts[1].level");
            assert!(error.to_string().contains("`immediate`, `short_term`, `long_term`"), "{error}");
        }
        for error in error::<ContextRequest>(&json!({"query": "a", "tokenBudget": 10})) {
            assert!(error.to_string().contains("unknown field `tokenBudget`"), "{error}");
        }
        for error in error::<ContextStore>(&json!({"level": "immediate"})) {
            assert!(error.to_string().contains("missing field `text`"), "{error}");
            assert!(error.well_formed);
        }
    }

    #[test]
    fn broken_bytes_are_an_error_and_not_well_formed() {
        let whole = FORMATS.map(|format| (format, format.encode(&json!({"query": "a"}))));
        for (format, bytes) in whole {
            let cut = format.decode::<ContextRequest>(&bytes[..bytes.len() - 1]).expect_err("cut short");
            assert!(!cut.well_formed, "{cut}");
            let long = format.decode::<ContextRequest>(&[bytes.as_slice(), &[0xc1]].concat()).expect_err("too long");
            assert!(!long.well_formed, "{long}");
            assert!(format.decode::<ContextRequest>(b"").is_err());
        }
    }

    #[test]
    fn deep_nesting_is_refused_and_does_not_overflow_the_stack() {
        let json = format!("{{\"text\":\"a\",\"metadata\":{{\"a\":{}1{}}}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(Format::Json.decode::<ContextStore>(json.as_bytes()).is_err());
        let mut packed = Format::MessagePack.encode(&json!({"text": "a"}));
        packed[0] = 0x82;
        packed.extend_from_slice(b"\xa8metadata\x81\xa1a");
        packed.extend(std::iter::repeat_n(0x91, 1_000_000));
        assert!(Format::MessagePack.decode::<ContextStore>(&packed).is_err());
    }

    proptest! {
        #[test]
        fn a_message_survives_both_formats(text in "\\PC{1,60}", session in proptest::option::of("[a-z]{1,8}"), number in any::<i32>(), id in any::<u128>()) {
            let message = ContextStore {
                id: Some(Uuid::from_u128(id)),
                text,
                level: Level::LongTerm,
                session,
                actor: None,
                metadata: json!({"n": number, "s": "x", "l": [1, 2], "o": {"b": true}}).as_object().cloned().unwrap_or_default(),
                ttl: Some("1h30m".parse().expect("a duration")),
                occurred_at: Some(i64::from(number)),
                supersedes: Vec::new(),
                scope: None,
            };
            for format in FORMATS {
                prop_assert_eq!(format.decode::<ContextStore>(&format.encode(&message)), Ok(message.clone()));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for format in FORMATS {
                let _ = format.decode::<ContextStore>(&bytes);
                let _ = format.decode::<ContextRequest>(&bytes);
            }
        }
    }
}
