//! Sizes in bytes, as the sidecar's configuration file has them: `10Mi`, `512Ki`, `1G`.
//!
//! A size is a whole number with one of the suffixes `Ki`, `Mi`, `Gi`, `k`, `M` and `G`, or none. Of what Kubernetes takes for a quantity
//! that is a part: no sign, no point, no exponent, nothing larger than `Gi` and nothing smaller than a byte. The operator reads quantities,
//! and writes sizes.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes that is a string such as `10Mi` in YAML, TOML and JSON.
///
/// ```
/// use context_manager_protocol::size::ByteSize;
///
/// assert_eq!("10Mi".parse::<ByteSize>()?.bytes(), 10 * 1024 * 1024);
/// assert_eq!("1500".parse::<ByteSize>()?.to_string(), "1500");
/// assert!("ten".parse::<ByteSize>().is_err());
/// # Ok::<(), context_manager_protocol::size::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

/// Why a text is not a size.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a size; write a number of bytes with an optional suffix (Ki, Mi, Gi, k, M, G), such as 10Mi")]
pub struct Error(String);

const UNITS: [(&str, u64); 6] =
    [("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10), ("G", 1_000_000_000), ("M", 1_000_000), ("k", 1_000)];

impl ByteSize {
    /// A size of `bytes` bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let error = || Error(value.to_owned());
        let (digits, factor) = UNITS
            .iter()
            .find_map(|(suffix, factor)| value.strip_suffix(suffix).map(|digits| (digits, *factor)))
            .unwrap_or((value, 1));
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(error());
        }
        let count: u64 = digits.parse().map_err(|_| error())?;
        count.checked_mul(factor).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (suffix, factor) in &UNITS[..3] {
            if self.0 >= *factor && self.0.is_multiple_of(*factor) {
                return write!(formatter, "{}{suffix}", self.0 / factor);
            }
        }
        write!(formatter, "{}", self.0)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for ByteSize {
    fn schema_name() -> Cow<'static, str> {
        "ByteSize".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+(Ki|Mi|Gi|k|M|G)?$", "maxLength": 24 })
    }
}
