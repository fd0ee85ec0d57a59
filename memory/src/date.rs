//! Days and months: as words for the lexical index, and as they are named in a query.
//!
//! Owns a small English grammar of dates (`8 May 2023`, `May 8, 2023`, `2023-05-08`, `May 2023`, `in May`). The verb "may" is
//! not a month: the word counts only when it is capitalised inside a sentence, or a number stands beside it.

use jiff::{civil::Date, tz::TimeZone};

use crate::Timestamp;

/// The months' names, from January on.
pub(crate) const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
/// Days after which the closeness to a named day has fallen to one half.
const HALF_DAYS: f64 = 3.0;

/// A date as a query names it; at least the month is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedDate {
    /// The year, if named.
    pub year: Option<i16>,
    /// The month, from 1.
    pub month: i8,
    /// The day of the month, if named.
    pub day: Option<i8>,
}

/// The UTC day of a point in time; `None` outside the years -9999 to 9999.
#[must_use]
pub fn day(at: Timestamp) -> Option<Date> {
    let instant = jiff::Timestamp::from_millisecond(at.as_millis()).ok()?;
    Some(instant.to_zoned(TimeZone::UTC).date())
}

/// A day in words, such as `8 May 2023`, for the lexical index.
///
/// ```
/// use context_manager_memory::{Timestamp, date::in_words};
///
/// assert_eq!(in_words(Timestamp::from_millis(1_683_504_000_000)), "8 may 2023");
/// ```
#[must_use]
pub fn in_words(at: Timestamp) -> String {
    day(at).map_or_else(String::new, |date| format!("{} {} {}", date.day(), month_name(date.month()), date.year()))
}

/// The dates that a query names.
///
/// ```
/// use context_manager_memory::date::{NamedDate, named};
///
/// assert_eq!(named("What happened on 8 May 2023?"), [NamedDate { year: Some(2023), month: 5, day: Some(8) }]);
/// assert!(named("May I ask what she may do?").is_empty());
/// ```
#[must_use]
pub fn named(query: &str) -> Vec<NamedDate> {
    let words: Vec<&str> =
        query.split(|c: char| !c.is_alphanumeric() && c != '-').filter(|word| !word.is_empty()).collect();
    let mut dates = Vec::new();
    for (place, word) in words.iter().enumerate() {
        if let Ok(date) = word.parse::<Date>() {
            dates.push(NamedDate { year: Some(date.year()), month: date.month(), day: Some(date.day()) });
            continue;
        }
        let Some(month) = month(word) else { continue };
        let before = place.checked_sub(1).and_then(|at| words.get(at)).copied();
        let after = words.get(place + 1).copied();
        let day = before.and_then(day_number).or_else(|| after.and_then(day_number));
        let year_after_day = after.and_then(day_number).and(words.get(place + 2).copied());
        let year = after.and_then(year_number).or_else(|| year_after_day.and_then(year_number));
        let is_verb = word.eq_ignore_ascii_case("may") && day.is_none() && year.is_none();
        if !is_verb || (place > 0 && *word == "May") {
            dates.push(NamedDate { year, month, day });
        }
    }
    dates
}

/// How close a point in time is to the nearest of the named dates: 1 on the day or in the month, falling to 0.
#[must_use]
pub fn closeness(at: Timestamp, dates: &[NamedDate]) -> f64 {
    let Some(date) = day(at) else { return 0.0 };
    dates.iter().map(|named| close(date, *named)).fold(0.0, f64::max)
}

fn close(date: Date, named: NamedDate) -> f64 {
    let year = named.year.unwrap_or(date.year());
    match named.day.map(|day| Date::new(year, named.month, day)) {
        Some(Ok(day)) => {
            let days = date.since(day).map_or(i32::MAX, |span| span.get_days()).abs();
            (-f64::from(days) / HALF_DAYS * std::f64::consts::LN_2).exp()
        }
        Some(Err(_)) => 0.0,
        None => f64::from(u8::from(date.month() == named.month && date.year() == year)),
    }
}

fn month(word: &str) -> Option<i8> {
    let word = word.to_ascii_lowercase();
    let found = MONTHS.iter().position(|name| *name == word || (word.len() == 3 && name.starts_with(&word)))?;
    i8::try_from(found + 1).ok()
}

fn month_name(month: i8) -> &'static str {
    usize::try_from(month - 1).ok().and_then(|place| MONTHS.get(place)).copied().unwrap_or_default()
}

fn day_number(word: &str) -> Option<i8> {
    let digits = word.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffix = &word[digits.len()..];
    let ordinal = ["", "st", "nd", "rd", "th"].iter().any(|known| suffix.eq_ignore_ascii_case(known));
    digits.parse().ok().filter(|day| ordinal && (1..=31).contains(day))
}

fn year_number(word: &str) -> Option<i16> {
    word.parse().ok().filter(|year| word.len() == 4 && (1_000..=9_999).contains(year))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::from_millis(text.parse::<jiff::Timestamp>().map_or(0, jiff::Timestamp::as_millisecond))
    }

    #[test]
    fn dates_are_read_in_the_usual_forms() {
        let may = |year, day| NamedDate { year, month: 5, day };
        for (query, expected) in [
            ("on May 8, 2023", may(Some(2023), Some(8))),
            ("on the 8th May", may(None, Some(8))),
            ("2023-05-08?", may(Some(2023), Some(8))),
            ("In May 2023", may(Some(2023), None)),
            ("what was in May", may(None, None)),
        ] {
            assert_eq!(named(query), [expected], "{query}");
        }
        assert_eq!(named("in Dec").first().map(|date| date.month), Some(12));
        assert!(named("she may come in 2023 or not").is_empty());
        assert!(named("2023-99-99 and 31").is_empty());
    }

    #[test]
    fn closeness_is_one_on_the_day_and_falls_around_it() {
        let dates = named("8 May 2023");
        let close = |text| closeness(at(text), &dates);
        assert!((close("2023-05-08T23:59:59Z") - 1.0).abs() < 1e-9);
        assert!((close("2023-05-11T00:00:00Z") - 0.5).abs() < 1e-9);
        assert!(close("2022-05-08T00:00:00Z") < 1e-6);
        let month = named("in May 2023");
        assert!((closeness(at("2023-05-31T00:00:00Z"), &month) - 1.0).abs() < 1e-9);
        assert!(closeness(at("2023-06-01T00:00:00Z"), &month) < 1e-9);
        assert!(closeness(at("2023-05-01T00:00:00Z"), &[]) < 1e-9);
    }
}
