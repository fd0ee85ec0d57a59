//! Kubernetes quantities, as a number or a text: `500m`, `2`, `16Mi`.

use std::{borrow::Cow, cmp::Ordering, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A quantity that is not negative, kept as it was written. Quantities are equal when they are written alike; use
/// [`Quantity::compare`] to compare amounts.
///
/// ```
/// use std::cmp::Ordering;
/// use context_manager_crds::quantity::Quantity;
///
/// let memory: Quantity = "64Mi".parse()?;
/// assert_eq!(memory.bytes(), Some(64 << 20));
/// assert_eq!("1000m".parse::<Quantity>()?.compare(&"1".parse()?), Ordering::Equal);
/// assert!("much".parse::<Quantity>().is_err());
/// # Ok::<(), context_manager_crds::quantity::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantity {
    text: String,
    /// In billionths, the smallest unit there is.
    nano: u128,
}

/// Why a text is not a quantity.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a quantity; write a number with an optional suffix, such as 500m, 2, 64Mi or 10Gi")]
pub struct Error(String);

const NANO: u128 = 1_000_000_000;
const UNITS: [(&str, u128); 14] = [
    ("Ki", NANO << 10),
    ("Mi", NANO << 20),
    ("Gi", NANO << 30),
    ("Ti", NANO << 40),
    ("Pi", NANO << 50),
    ("n", 1),
    ("u", 1_000),
    ("m", 1_000_000),
    ("k", NANO * 1_000),
    ("M", NANO * 1_000_000),
    ("G", NANO * 1_000_000_000),
    ("T", NANO * 1_000_000_000_000),
    ("P", NANO * 1_000_000_000_000_000),
    ("", NANO),
];
const PATTERN: &str = "^[0-9]{1,15}(\\.[0-9]{1,9})?(Ki|Mi|Gi|Ti|Pi|n|u|m|k|M|G|T|P)?$";

impl Quantity {
    /// Whole bytes; nothing when it is not a whole number that fits.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        self.nano.is_multiple_of(NANO).then(|| u64::try_from(self.nano / NANO).ok()).flatten()
    }

    /// Compares the amounts.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl FromStr for Quantity {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || Error(text.to_owned());
        let (number, factor) = UNITS
            .iter()
            .find_map(|(suffix, factor)| text.strip_suffix(suffix).map(|number| (number, *factor)))
            .ok_or_else(error)?;
        let (whole, fraction) = number.split_once('.').map_or((number, None), |(whole, rest)| (whole, Some(rest)));
        let digits = |part: &str, most: usize| {
            let valid = (1..=most).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
            if valid { part.parse::<u128>().map_err(|_| error()) } else { Err(error()) }
        };
        let mut nano = digits(whole, 15)? * factor;
        if let Some(fraction) = fraction {
            let scale = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(u32::MAX).min(9));
            // Rounded up, as Kubernetes does below a billionth.
            nano += (digits(fraction, 9)? * factor).div_ceil(scale);
        }
        Ok(Self { text: text.to_owned(), nano })
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum IntOrString {
    Int(u64),
    String(String),
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match IntOrString::deserialize(deserializer)? {
            IntOrString::Int(number) => number.to_string().parse(),
            IntOrString::String(text) => text.parse(),
        }
        .map_err(de::Error::custom)
    }
}

impl JsonSchema for Quantity {
    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "pattern": PATTERN,
            "maxLength": 32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantity(text: &str) -> Quantity {
        text.parse().expect(text)
    }

    #[test]
    fn amounts_are_compared_across_units() {
        for (smaller, larger) in [("500m", "1"), ("1023Mi", "1Gi"), ("1G", "1Gi"), ("1.5Gi", "1537Mi"), ("0", "1n")] {
            assert_eq!(quantity(smaller).compare(&quantity(larger)), Ordering::Less, "{smaller} < {larger}");
        }
        assert_eq!(quantity("1.5Gi").bytes(), Some(1_536 << 20));
        assert_eq!(quantity("500m").bytes(), None);
    }

    #[test]
    fn numbers_are_read_and_nonsense_is_refused() {
        assert_eq!(serde_json::from_str::<Quantity>("2").expect("a number"), quantity("2"));
        for text in ["", "Mi", "-1", "+1", "1 Mi", "1mi", "1.", ".5", "1e3", "1KiB"] {
            assert!(text.parse::<Quantity>().is_err(), "{text:?}");
        }
    }
}
