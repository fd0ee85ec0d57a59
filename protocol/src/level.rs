//! The three memory levels.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A memory level, from the freshest to the most lasting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// The last few contexts of a session.
    Immediate,
    /// Hours; expires and is garbage-collected.
    ShortTerm,
    /// Kept until deleted, unless a TTL is configured.
    LongTerm,
}

impl Level {
    /// All levels, from the freshest to the most lasting.
    pub const ALL: [Self; 3] = [Self::Immediate, Self::ShortTerm, Self::LongTerm];

    /// The name used on the wire, in metrics and in logs.
    ///
    /// ```
    /// assert_eq!(context_manager_protocol::level::Level::ShortTerm.as_str(), "short_term");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Immediate => "immediate",
            Self::ShortTerm => "short_term",
            Self::LongTerm => "long_term",
        }
    }
}
