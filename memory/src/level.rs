//! The three levels of memory and a value for each of them.
//!
//! Owns the names of the levels on the wire (`immediate`, `short_term`, `long_term`) and their order.

use std::{fmt, ops, str::FromStr};

use serde::{Deserialize, Serialize};

/// How long a context is meant to matter.
///
/// ```
/// use context_manager_memory::Level;
///
/// assert_eq!("short_term".parse(), Ok(Level::ShortTerm));
/// assert_eq!(Level::LongTerm.to_string(), "long_term");
/// assert!("forever".parse::<Level>().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// L1: the last few contexts of a session.
    Immediate,
    /// L2: hours; expires unless it is used often enough.
    ShortTerm,
    /// L3: kept.
    LongTerm,
}

impl Level {
    /// All levels, from the shortest lived to the longest lived.
    pub const ALL: [Self; 3] = [Self::Immediate, Self::ShortTerm, Self::LongTerm];

    /// The level's name on the wire, in payloads and in metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Immediate => "immediate",
            Self::ShortTerm => "short_term",
            Self::LongTerm => "long_term",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A level's name that is none of the three.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown level {given:?}; use \"immediate\", \"short_term\" or \"long_term\"")]
pub struct UnknownLevel {
    /// What was given, cut to a printable length.
    pub given: String,
}

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|level| level.as_str() == name)
            .ok_or_else(|| UnknownLevel { given: name.chars().take(64).collect() })
    }
}

/// One value for each level; indexed by [`Level`], so no level can be forgotten.
///
/// ```
/// use context_manager_memory::{Level, PerLevel};
///
/// let mut used = PerLevel::<usize>::default();
/// used[Level::LongTerm] += 7;
/// assert_eq!(used.iter().map(|(_, tokens)| tokens).sum::<usize>(), 7);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PerLevel<T> {
    /// The value of [`Level::Immediate`].
    pub immediate: T,
    /// The value of [`Level::ShortTerm`].
    pub short_term: T,
    /// The value of [`Level::LongTerm`].
    pub long_term: T,
}

impl<T> PerLevel<T> {
    /// Computes the value of each level.
    pub fn from_fn(mut value: impl FnMut(Level) -> T) -> Self {
        Self {
            immediate: value(Level::Immediate),
            short_term: value(Level::ShortTerm),
            long_term: value(Level::LongTerm),
        }
    }

    /// The levels and their values, in the order of [`Level::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (Level, &T)> {
        Level::ALL.into_iter().map(|level| (level, &self[level]))
    }
}

impl<T> ops::Index<Level> for PerLevel<T> {
    type Output = T;

    fn index(&self, level: Level) -> &T {
        match level {
            Level::Immediate => &self.immediate,
            Level::ShortTerm => &self.short_term,
            Level::LongTerm => &self.long_term,
        }
    }
}

impl<T> ops::IndexMut<Level> for PerLevel<T> {
    fn index_mut(&mut self, level: Level) -> &mut T {
        match level {
            Level::Immediate => &mut self.immediate,
            Level::ShortTerm => &mut self.short_term,
            Level::LongTerm => &mut self.long_term,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
mod tests {
    use super::*;

    #[test]
    fn names_survive_a_round_trip_as_text_and_as_json() {
        for level in Level::ALL {
            assert_eq!(level.as_str().parse::<Level>().unwrap(), level);
            let json = serde_json::to_string(&level).unwrap();
            assert_eq!(json, format!("{:?}", level.as_str()));
            assert_eq!(serde_json::from_str::<Level>(&json).unwrap(), level);
        }
    }

    #[test]
    fn unknown_level_is_named_with_the_known_ones() {
        let message = "LongTerm".parse::<Level>().unwrap_err().to_string();
        assert!(message.contains("LongTerm") && message.contains("long_term"), "{message}");
    }

    #[test]
    fn each_level_has_its_own_value() {
        let mut values = PerLevel::from_fn(Level::as_str);
        for level in Level::ALL {
            assert_eq!(values[level], level.as_str());
        }
        values[Level::ShortTerm] = "changed";
        assert_eq!(values.iter().map(|(_, v)| *v).collect::<Vec<_>>(), ["immediate", "changed", "long_term"]);
    }
}
