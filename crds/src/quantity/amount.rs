//! How much a quantity is, by the whole grammar of Kubernetes and without floating point.

use std::str::FromStr;

use super::Error;

/// Billionths in one.
const NANO: u128 = 1_000_000_000;

/// The most that a number with a binary suffix stands for, 2^63 - 1, in billionths.
const MOST_BINARY: u128 = ((1 << 63) - 1) * NANO;

/// A point that is farther than this from the first digit makes a number too large, or too small, to be told from its neighbours.
const PLACES: i64 = 40;

/// How much a quantity is.
///
/// It is read as the API server reads it: with a sign, an exponent or any suffix, in as many digits as there are. It is exact
/// to a billionth, and what is finer is rounded away from zero. With a binary suffix the most is 2^63 - 1; all other amounts from
/// about 10^29 on are taken for the same.
///
/// ```
/// use context_manager_crds::quantity::Amount;
///
/// assert_eq!("64Mi".parse::<Amount>()?, Amount::of(64 << 20));
/// assert_eq!("1e3".parse::<Amount>()?, Amount::of(1_000));
/// assert!("-1".parse::<Amount>()? < Amount::default());
/// assert!("1 Mi".parse::<Amount>().is_err());
/// # Ok::<(), context_manager_crds::quantity::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount {
    nano: i128,
}

impl Amount {
    /// So many units.
    #[must_use]
    pub fn of(units: u64) -> Self {
        Self::from_nano(u128::from(units) * NANO)
    }

    fn from_nano(nano: u128) -> Self {
        Self { nano: i128::try_from(nano).unwrap_or(i128::MAX) }
    }

    /// Whether it is more than nothing.
    #[must_use]
    pub fn is_positive(self) -> bool {
        self.nano > 0
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { nano: self.nano.saturating_add(other.nano) }
    }

    /// What is left without the other; less than nothing when that is more.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self { nano: self.nano.saturating_sub(other.nano) }
    }

    /// Whole units, rounded up as Kubernetes does; nothing when it is negative or does not fit.
    #[must_use]
    pub fn rounded_up(self) -> Option<u64> {
        u64::try_from(u128::try_from(self.nano).ok()?.div_ceil(NANO)).ok()
    }

    /// Whole units, rounded down: 0 for what is negative, and at most [`u64::MAX`].
    #[must_use]
    pub fn rounded_down(self) -> u64 {
        self.times_that_fit(NANO)
    }

    /// Whole thousandths, rounded down: 0 for what is negative, and at most [`u64::MAX`].
    #[must_use]
    pub fn milli_rounded_down(self) -> u64 {
        self.times_that_fit(NANO / 1_000)
    }

    fn times_that_fit(self, unit: u128) -> u64 {
        u64::try_from(u128::try_from(self.nano).unwrap_or_default() / unit).unwrap_or(u64::MAX)
    }
}

impl FromStr for Amount {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.strip_prefix(['+', '-']).unwrap_or(text);
        let Self { nano } = unsigned(number).ok_or_else(|| Error(text.to_owned()))?;
        Ok(Self { nano: if text.starts_with('-') { -nano } else { nano } })
    }
}

fn unsigned(text: &str) -> Option<Amount> {
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = [whole, fraction].concat();
    if digits.is_empty() || digits.contains('.') {
        return None;
    }
    let (ten, two) = exponents(suffix)?;
    let significant = digits.trim_start_matches('0');
    let zeros = digits.len() - significant.len();
    let point = i64::try_from(whole.len()).ok()? - i64::try_from(zeros).ok()? + i64::from(ten);
    let nano = nano(significant, point.clamp(-PLACES, PLACES), NANO << two);
    Some(Amount::from_nano(if two > 0 { nano.min(MOST_BINARY) } else { nano }))
}

/// The exponents of ten and of two that a suffix stands for.
fn exponents(suffix: &str) -> Option<(i32, u32)> {
    Some(match suffix {
        "n" => (-9, 0),
        "u" => (-6, 0),
        "m" => (-3, 0),
        "" => (0, 0),
        "k" => (3, 0),
        "M" => (6, 0),
        "G" => (9, 0),
        "T" => (12, 0),
        "P" => (15, 0),
        "E" => (18, 0),
        "Ki" => (0, 10),
        "Mi" => (0, 20),
        "Gi" => (0, 30),
        "Ti" => (0, 40),
        "Pi" => (0, 50),
        "Ei" => (0, 60),
        exponent => (exponent.strip_prefix(['e', 'E'])?.parse().ok()?, 0),
    })
}

/// The value of digits with a point behind the first so many of them, or so many places before them if that is negative, times the
/// factor; rounded up.
fn nano(digits: &str, point: i64, factor: u128) -> u128 {
    let place = usize::try_from(point).unwrap_or_default();
    let before = "0".repeat(usize::try_from(-point).unwrap_or_default());
    let padded = format!("{before}{digits:0<place$}");
    let (whole, fraction) = padded.split_at(place);
    let value = |digit: u8| u128::from(digit - b'0');
    let whole = whole.bytes().fold(0_u128, |sum, digit| sum.saturating_mul(10).saturating_add(value(digit)));
    // From the last digit on the sum stays below ten factors, however many digits there are.
    let (part, rest) = fraction.bytes().rev().fold((0, false), |(part, rest), digit| {
        let sum = value(digit) * factor + part;
        (sum / 10, rest || !sum.is_multiple_of(10))
    });
    whole.saturating_mul(factor).saturating_add(part + u128::from(rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Each suffix with its exponent of ten, or none, and what one of it is in billionths.
    const SUFFIXES: [(&str, Option<i32>, u128); 16] = [
        ("n", Some(-9), 1),
        ("u", Some(-6), 1_000),
        ("m", Some(-3), 1_000_000),
        ("", Some(0), NANO),
        ("k", Some(3), 1_000 * NANO),
        ("M", Some(6), 1_000_000 * NANO),
        ("G", Some(9), 1_000_000_000 * NANO),
        ("T", Some(12), 1_000_000_000_000 * NANO),
        ("P", Some(15), 1_000_000_000_000_000 * NANO),
        ("E", Some(18), 1_000_000_000_000_000_000 * NANO),
        ("Ki", None, 1_024 * NANO),
        ("Mi", None, 1_024_u128.pow(2) * NANO),
        ("Gi", None, 1_024_u128.pow(3) * NANO),
        ("Ti", None, 1_024_u128.pow(4) * NANO),
        ("Pi", None, 1_024_u128.pow(5) * NANO),
        ("Ei", None, 1_024_u128.pow(6) * NANO),
    ];

    fn amount(text: &str) -> Amount {
        text.parse().expect(text)
    }

    #[test]
    fn every_notation_of_kubernetes_is_read() {
        for (text, nano) in [
            ("0", 0),
            ("-0", 0),
            ("5n", 5),
            ("250m", 250_000_000),
            (".5", 500_000_000),
            ("1.", 1_000_000_000),
            ("1.G", 1_000_000_000_000_000_000),
            ("+1", 1_000_000_000),
            ("-1.5", -1_500_000_000),
            ("1e3", 1_000_000_000_000),
            ("1E3", 1_000_000_000_000),
            ("1.3E+6", 1_300_000_000_000_000),
            ("2E-1", 200_000_000),
            ("0.5e-9", 1),
            ("12E", 12_000_000_000_000_000_000_000_000_000),
            ("100.035Ki", 102_435_840_000_000),
            ("0.05Gi", 53_687_091_200_000_000),
            ("3Ei", 3_458_764_513_820_540_928_000_000_000),
        ] {
            assert_eq!(amount(text), Amount { nano }, "{text}");
        }
    }

    #[test]
    fn what_is_finer_than_a_billionth_is_rounded_away_from_zero() {
        for (text, nano) in [
            ("3.001n", 4),
            ("-3.001n", -4),
            ("0.0000000001", 1),
            ("1e-2147483648", 1),
            ("0.000000000001Ki", 2),
            ("1.00000000000000000000000000000000000000000000000000", 1_000_000_000),
            ("1.00000000000000000000000000000000000000000000000001", 1_000_000_001),
        ] {
            assert_eq!(amount(text), Amount { nano }, "{text}");
        }
    }

    #[test]
    fn what_is_too_large_is_the_most_there_is() {
        let most = Amount::of(u64::MAX / 2);
        for text in ["8Ei", "9Ei", "9223372036854775807Ki", "999999999999999Pi"] {
            assert_eq!(amount(text), most, "{text}");
        }
        for text in ["999999999999999P", "1e30", "1e2147483647", "9".repeat(100).as_str()] {
            assert_eq!(amount(text), Amount { nano: i128::MAX }, "{text}");
            assert_eq!(amount(&format!("-{text}")), Amount { nano: -i128::MAX }, "{text}");
        }
        assert_eq!(amount("0e2147483647"), Amount::default());
        assert_eq!(amount("1e30").plus(amount("1e30")), amount("1e30"));
        assert_eq!((amount("1e30").rounded_up(), amount("1e30").rounded_down()), (None, u64::MAX));
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in [
            "",
            "m",
            ".",
            "+",
            "-",
            ".k",
            "1.2.3",
            "--1",
            "+-1",
            "1 Mi",
            " 1",
            "1\n",
            "1mi",
            "1KiB",
            "64MB",
            "lots",
            "1e",
            "1e+",
            "1ee3",
            "1Ee3",
            "1e1.5",
            "1e3k",
            "1e99999999999",
            "0x10",
            "1_000",
            "1µ",
            "١",
            "NaN",
            "inf",
        ] {
            assert_eq!(text.parse::<Amount>(), Err(Error(text.to_owned())));
        }
    }

    #[test]
    fn whole_units_and_thousandths_are_rounded_as_asked() {
        let rounded = |text| (amount(text).rounded_down(), amount(text).rounded_up());
        assert_eq!(rounded("1500m"), (1, Some(2)));
        assert_eq!(rounded("2"), (2, Some(2)));
        assert_eq!(rounded("1n"), (0, Some(1)));
        assert_eq!(rounded("-1500m"), (0, None));
        assert_eq!(amount("0.0019").milli_rounded_down(), 1);
    }

    proptest! {
        #[test]
        fn a_number_is_its_digits_times_its_suffix(
            whole in 0_u32..100_000,
            fraction in "[0-9]{0,6}",
            (suffix, ten, factor) in prop::sample::select(SUFFIXES.to_vec()),
        ) {
            let digits: u128 = format!("{whole}{fraction}").parse().expect("digits");
            let scale = (0..fraction.len()).fold(1_u128, |scale, _| scale * 10);
            let exact = (digits * factor).div_ceil(scale);
            let expected = if ten.is_none() { exact.min(MOST_BINARY) } else { exact };
            prop_assert_eq!(amount(&format!("{whole}.{fraction}{suffix}")), Amount::from_nano(expected));
        }

        #[test]
        fn the_same_number_in_another_notation_is_the_same(
            number in "[0-9]{1,30}(\\.[0-9]{0,30})?",
            (suffix, ten, _) in prop::sample::select(SUFFIXES.to_vec()),
        ) {
            let known = amount(&format!("{number}{suffix}"));
            prop_assert_eq!(amount(&format!("+000{number}{suffix}")), known);
            prop_assert_eq!(amount(&format!("-{number}{suffix}")), Amount::default().minus(known));
            if let Some(ten) = ten {
                prop_assert_eq!(amount(&format!("{number}e{ten}")), known);
                prop_assert_eq!(amount(&format!("{number}E{ten:+}")), known);
            }
        }

        #[test]
        fn a_larger_number_is_no_smaller_an_amount(
            mut numbers in prop::array::uniform2(any::<u128>()),
            (suffix, ..) in prop::sample::select(SUFFIXES.to_vec()),
        ) {
            numbers.sort_unstable();
            let [smaller, larger] = numbers.map(|number| amount(&format!("{number}{suffix}")));
            prop_assert!(smaller <= larger);
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}", alike in "[-+]?[0-9.]{0,60}[eEinumkKMGTP]{0,3}[-+]?[0-9]{0,12}") {
            let _ = (text.parse::<Amount>(), alike.parse::<Amount>());
        }
    }
}
