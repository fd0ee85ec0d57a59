//! When a session was.

use jiff::{
    civil::{Date, DateTime},
    fmt::strtime,
    tz::TimeZone,
};
use serde_json::Value;

/// How LoCoMo says it, as in `1:56 pm on 8 May, 2023`, and what else is met in files of its format.
const WITH_TIME: [&str; 4] =
    ["%I:%M %p on %d %B, %Y", "%I:%M %p on %d %B %Y", "%I:%M %p on %B %d, %Y", "%Y-%m-%d %H:%M"];
const DAY_ALONE: [&str; 4] = ["%d %B, %Y", "%d %B %Y", "%B %d, %Y", "%Y/%m/%d"];

/// A session's time as Unix milliseconds; `None` if it is absent, or written in a way that is not known.
pub fn unix_millis(value: &Value) -> Option<i64> {
    let text = value.as_str()?.trim();
    if let Ok(instant) = text.parse::<jiff::Timestamp>() {
        return Some(instant.as_millisecond());
    }
    let with_time = |format: &&str| {
        let broken = strtime::parse(format, text).ok()?;
        Some(DateTime::from_parts(broken.to_date().ok()?, broken.to_time().ok()?))
    };
    let day = |format: &&str| Some(strtime::parse(format, text).ok()?.to_date().ok()?.at(0, 0, 0, 0));
    let time = WITH_TIME
        .iter()
        .find_map(with_time)
        .or_else(|| DAY_ALONE.iter().find_map(day))
        .or_else(|| text.parse::<DateTime>().ok())
        .or_else(|| text.parse::<Date>().ok().map(|day| day.at(0, 0, 0, 0)))?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp().as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<i64> {
        unix_millis(&Value::from(text))
    }

    #[test]
    fn a_sessions_time_is_read() {
        assert_eq!(read("1:56 pm on 8 May, 2023"), Some(1_683_554_160_000));
        assert_eq!(read(" 12:09 am on 13 September, 2023 "), Some(1_694_563_740_000));
    }

    #[test]
    fn a_day_alone_and_iso_are_times_too() {
        for text in ["8 May, 2023", "8 May 2023", "May 8, 2023", "2023-05-08", "2023/05/08", "2023-05-08T00:00:00Z"] {
            assert_eq!(read(text), Some(1_683_504_000_000), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        assert_eq!(read("yesterday"), None);
        assert_eq!(read(""), None);
        assert_eq!(unix_millis(&Value::Null), None);
    }
}
