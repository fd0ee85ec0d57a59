//! Whole numbers as JSON Schema means them: `4.0` is 4. Languages with one kind of number write it so, in `MessagePack` already
//! from 2³² on.

use std::fmt;

use serde::{Deserializer, de};

/// Reads a whole number that may be absent.
///
/// # Errors
/// When it is another kind of value, has a fraction, or needs more than 64 bits.
pub(crate) fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    deserializer.deserialize_option(Given)
}

struct Given;

impl<'de> de::Visitor<'de> for Given {
    type Value = Option<i64>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a whole number")
    }

    fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_i64(self)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Some(number))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
        i64::try_from(number).map(Some).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
    }

    #[expect(clippy::cast_possible_truncation, reason = "the bounds were checked")]
    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Self::Value, E> {
        /// 2⁶³, the first number that is too large.
        const TOO_LARGE: f64 = 9_223_372_036_854_775_808.0;
        // What lies just below the least number is read as -2⁶³ as well.
        if !number.is_finite() || number.fract().abs() > 0.0 || number.abs() >= TOO_LARGE {
            return Err(E::invalid_value(de::Unexpected::Float(number), &self));
        }
        Ok(Some(number as i64))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::{
        codec::{DecodeError, Format},
        message::ContextUpdate,
    };

    fn read(version: &Value) -> [Result<Option<i64>, DecodeError>; 2] {
        let message = json!({"text": "a", "if_version": version});
        [Format::Json, Format::MessagePack]
            .map(|format| format.decode::<ContextUpdate>(&format.encode(&message)).map(|message| message.if_version))
    }

    #[test]
    fn a_whole_number_is_read_however_it_is_written() {
        for (given, expected) in [
            (json!(7), Some(7)),
            (json!(-7), Some(-7)),
            (json!(7.0), Some(7)),
            (json!(1_700_000_000_000.0), Some(1_700_000_000_000)),
            (json!(i64::MIN), Some(i64::MIN)),
            (json!(null), None),
        ] {
            assert_eq!(read(&given), [Ok(expected), Ok(expected)], "{given}");
        }
        for given in [json!(7.5), json!(9.3e18), json!(-1e300), json!(u64::MAX), json!("7"), json!([7]), json!(true)] {
            assert!(read(&given).iter().all(Result::is_err), "{given}");
        }
    }
}
