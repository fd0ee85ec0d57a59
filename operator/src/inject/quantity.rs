//! Kubernetes quantities (`250m`, `64Mi`, `1e3`), as far as they have to be checked and compared.

/// The value in base units, or nothing when it is not a quantity. Comparing is all it is used for, so that the rounding
/// of a floating-point number does no harm.
pub(super) fn parse(text: &str) -> Option<f64> {
    let digits = text.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    if !number.bytes().any(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value = number.parse::<f64>().ok()?;
    Some(value * factor(suffix)?)
}

fn factor(suffix: &str) -> Option<f64> {
    Some(match suffix {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 2_f64.powi(10),
        "Mi" => 2_f64.powi(20),
        "Gi" => 2_f64.powi(30),
        "Ti" => 2_f64.powi(40),
        "Pi" => 2_f64.powi(50),
        "Ei" => 2_f64.powi(60),
        exponent => {
            let digits = exponent.strip_prefix(['e', 'E'])?;
            let digits = digits.strip_prefix('+').unwrap_or(digits);
            10_f64.powi(digits.parse::<i8>().ok()?.into())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(text: &str, expected: f64) {
        let value = parse(text).unwrap_or(f64::NAN);
        assert!((value - expected).abs() <= expected * 1e-12, "{text}: {value} is not {expected}");
    }

    #[test]
    fn quantities_of_all_notations_are_read() {
        close("10m", 0.01);
        close("0.5", 0.5);
        close(".5", 0.5);
        close("32Mi", 33_554_432.0);
        close("1.5Gi", 1_610_612_736.0);
        close("1e3", 1000.0);
        close("2E-1", 0.2);
        close("1E", 1e18);
        close("12e+2", 1200.0);
    }

    #[test]
    fn what_is_not_a_quantity_is_refused() {
        for text in ["", "m", ".", "1.2.3", "-1", "+", "32MB", "32 Mi", "lots", "1e", "0x10", "1ee3", "NaN", "inf"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
