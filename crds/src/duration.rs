//! Durations of the resource: hours, minutes, seconds and milliseconds, as the rest of Kubernetes and CEL read them.

use std::{borrow::Cow, fmt, str::FromStr};

use context_manager_protocol::duration::HumanDuration;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A duration such as `1h30m`. Days and weeks are not accepted, because CEL has no such units: write `2160h`.
///
/// ```
/// use context_manager_crds::duration::Duration;
///
/// let every: Duration = "1h30m".parse()?;
/// assert_eq!(every.get().as_secs(), 5_400);
/// assert_eq!(every.to_string(), "1h30m");
/// assert!("90d".parse::<Duration>().is_err());
/// # Ok::<(), context_manager_crds::duration::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(std::time::Duration);

/// Why a text is not a duration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration; write h, m, s and ms in this order, such as 1h30m, 300s or 250ms")]
pub struct Error(String);

/// Units in the order they are written, with the most digits of each: together less than CEL's 292 years.
const UNITS: [(&str, u64, usize); 4] = [("h", 3_600_000, 6), ("m", 60_000, 7), ("s", 1_000, 9), ("ms", 1, 9)];
/// The same as a pattern of the schema.
const PATTERN: &str = "^([0-9]{1,6}h)?([0-9]{1,7}m)?([0-9]{1,9}s)?([0-9]{1,9}ms)?$";

impl Duration {
    /// A duration of whole milliseconds.
    #[must_use]
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(std::time::Duration::from_millis(milliseconds))
    }

    /// A duration of whole seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(std::time::Duration::from_secs(seconds))
    }

    /// The duration itself.
    #[must_use]
    pub const fn get(self) -> std::time::Duration {
        self.0
    }
}

impl From<Duration> for HumanDuration {
    fn from(duration: Duration) -> Self {
        duration.0.into()
    }
}

impl FromStr for Duration {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || Error(text.to_owned());
        let mut rest = text;
        let mut total = 0;
        for (unit, factor, most_digits) in UNITS {
            let digits = rest.len() - rest.trim_start_matches(|character: char| character.is_ascii_digit()).len();
            let (number, tail) = rest.split_at(digits);
            // "5ms" must not be read as five minutes with an "s" left over.
            if !tail.starts_with(unit) || (unit == "m" && tail.starts_with("ms")) {
                continue;
            }
            if digits == 0 || digits > most_digits {
                return Err(error());
            }
            total += number.parse::<u64>().map_err(|_| error())? * factor;
            rest = &tail[unit.len()..];
        }
        if text.is_empty() || !rest.is_empty() {
            return Err(error());
        }
        Ok(Self::from_millis(total))
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if rest == 0 {
            return formatter.write_str("0s");
        }
        for (unit, factor, _) in UNITS {
            if rest >= factor {
                write!(formatter, "{}{unit}", rest / factor)?;
            }
            rest %= factor;
        }
        Ok(())
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": PATTERN, "minLength": 2, "maxLength": 32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for text in ["0s", "250ms", "1s", "5m", "1h30m", "2160h", "1h2m3s4ms"] {
            assert_eq!(text.parse::<Duration>().expect(text).to_string(), text);
        }
        assert_eq!("90m".parse::<Duration>().expect("minutes").to_string(), "1h30m");
    }

    #[test]
    fn what_cel_cannot_read_is_refused() {
        for text in ["", "5", "s", "1d", "1w", "1 h", "-1s", "1m1h", "1.5h", "1h 30m", "5mss", "1234567h", "1s1s"] {
            assert!(text.parse::<Duration>().is_err(), "{text:?}");
        }
    }
}
