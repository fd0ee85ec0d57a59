//! Kubernetes quantities, as a number or a text: `500m`, `2`, `16Mi`.
//!
//! [`Amount`] is the only parser of them, with the whole grammar of `k8s.io/apimachinery/pkg/api/resource`. What a person writes
//! into the resource is a [`Quantity`], for which fewer notations are enough: those of its schema's pattern.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

mod amount;

pub use amount::Amount;

/// A quantity of the resource, kept as it was written; never negative. Quantities are equal when they are written alike; use
/// [`Quantity::amount`] to compare amounts.
///
/// ```
/// use context_manager_crds::quantity::{Amount, Quantity};
///
/// let memory: Quantity = "64Mi".parse()?;
/// assert_eq!(memory.bytes(), Some(64 << 20));
/// assert_eq!("1000m".parse::<Quantity>()?.amount(), Amount::of(1));
/// assert!("much".parse::<Quantity>().is_err());
/// # Ok::<(), context_manager_crds::quantity::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantity {
    text: String,
    amount: Amount,
}

/// Why a text is not a quantity.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a quantity; write a number with an optional suffix, such as 500m, 2, 64Mi or 10Gi")]
pub struct Error(String);

const PATTERN: &str = "^[0-9]{1,15}(\\.[0-9]{1,9})?(Ki|Mi|Gi|Ti|Pi|n|u|m|k|M|G|T|P)?$";

impl Quantity {
    /// Whole bytes, rounded up as Kubernetes does; nothing when it is more than fits.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        self.amount.rounded_up()
    }

    /// How much it is.
    #[must_use]
    pub fn amount(&self) -> Amount {
        self.amount
    }
}

impl FromStr for Quantity {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !is_plain(text) {
            return Err(Error(text.to_owned()));
        }
        Ok(Self { text: text.to_owned(), amount: text.parse()? })
    }
}

/// What the pattern says of the digits; of the suffixes it leaves out `E`, `Ei` and exponents.
fn is_plain(text: &str) -> bool {
    let number = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits =
        |part: &str, most: usize| (1..=most).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    digits(whole, 15) && digits(fraction, 9) && !text.contains(['e', 'E'])
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
            IntOrString::Int(number) => Ok(Self { text: number.to_string(), amount: Amount::of(number) }),
            IntOrString::String(text) => text.parse().map_err(de::Error::custom),
        }
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
            // Of a number; the pattern is about a text.
            "minimum": 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, string::string_regex};

    use super::*;

    fn quantity(text: &str) -> Quantity {
        text.parse().expect(text)
    }

    #[test]
    fn amounts_are_compared_across_units() {
        for (smaller, larger) in [("500m", "1"), ("1023Mi", "1Gi"), ("1G", "1Gi"), ("1.5Gi", "1537Mi"), ("0", "1n")] {
            assert!(quantity(smaller).amount() < quantity(larger).amount(), "{smaller} < {larger}");
        }
        let large = ["1P", "340282366920939P", "999999999999999P"].map(|text| quantity(text).amount());
        assert!(large.is_sorted() && large[0] < large[1], "all that the pattern lets pass: {large:?}");
    }

    #[test]
    fn bytes_are_whole_and_rounded_up() {
        assert_eq!(quantity("1.5Gi").bytes(), Some(1_536 << 20));
        assert_eq!(quantity("1024.5").bytes(), Some(1_025));
        assert_eq!(quantity("999999999999999P").bytes(), None);
    }

    #[test]
    fn numbers_are_read_and_nonsense_is_refused() {
        let number = |json: &str| serde_json::from_str::<Quantity>(json).expect("a number");
        assert!(serde_json::from_str::<Quantity>("-1").is_err());
        assert_eq!(number("2"), quantity("2"));
        assert_eq!(number("9223372036854775807").bytes(), Some(u64::MAX / 2));
        for text in
            ["", "Mi", "-1", "+1", "1 Mi", "1mi", "1.", ".5", "1e3", "1E", "1Ei", "1KiB", "1.2.3", "1234567890123456"]
        {
            assert!(text.parse::<Quantity>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_the_pattern_lets_pass_is_read(text in string_regex(PATTERN.trim_matches(['^', '$'])).expect("a pattern")) {
            prop_assert_eq!(quantity(&text).to_string(), text);
        }
    }
}
