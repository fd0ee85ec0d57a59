//! Durations as people write them: `90s`, `1h30m`, `250ms`.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A duration that is a string such as `1h30m` in YAML, TOML and JSON.
///
/// ```
/// use std::time::Duration;
/// use context_manager_protocol::duration::HumanDuration;
///
/// let ttl: HumanDuration = "1h30m".parse()?;
/// assert_eq!(ttl.get(), Duration::from_secs(5_400));
/// assert_eq!(ttl.to_string(), "1h 30m");
/// assert!("soon".parse::<HumanDuration>().is_err());
/// # Ok::<(), context_manager_protocol::duration::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HumanDuration(Duration);

/// Why a text is not a duration.
#[derive(Debug, thiserror::Error)]
#[error("{value:?} is not a duration; write a number with a unit, such as 30s, 5m or 1h30m")]
pub struct Error {
    value: String,
    source: humantime::DurationError,
}

impl HumanDuration {
    /// A duration of whole seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// A duration of whole milliseconds.
    #[must_use]
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }

    /// The duration itself.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }

    /// Whole milliseconds, saturating; what timestamps are counted in.
    #[must_use]
    pub fn as_millis_i64(self) -> i64 {
        i64::try_from(self.0.as_millis()).unwrap_or(i64::MAX)
    }
}

impl From<Duration> for HumanDuration {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl FromStr for HumanDuration {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        humantime::parse_duration(value).map(Self).map_err(|source| Error { value: value.to_owned(), source })
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(formatter)
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_string().replace(' ', ""))
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for HumanDuration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^([0-9]+(ms|s|m|h|d|w))+$",
            "maxLength": 32,
        })
    }
}
