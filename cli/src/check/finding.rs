//! What a check found.

use std::fmt::Display;

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Level {
    /// As it should be.
    Fine,
    /// It works, and could be better or will not last.
    Warning,
    /// It does not work.
    Problem,
    /// It could not be looked at.
    Unknown,
}

impl Level {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Fine => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
            Self::Unknown => "unknown",
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// Stable name of the check.
    pub(crate) check: &'static str,
    pub(crate) level: Level,
    pub(crate) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remedy: Option<String>,
}

/// All of them in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings(pub(crate) Vec<Finding>);

impl Findings {
    pub(super) fn fine(&mut self, check: &'static str, message: impl Into<String>) {
        self.add(check, Level::Fine, message.into(), None);
    }

    pub(super) fn warning(&mut self, check: &'static str, message: impl Into<String>, remedy: impl Into<String>) {
        self.add(check, Level::Warning, message.into(), Some(remedy.into()));
    }

    pub(super) fn problem(&mut self, check: &'static str, message: impl Into<String>, remedy: impl Into<String>) {
        self.add(check, Level::Problem, message.into(), Some(remedy.into()));
    }

    pub(super) fn unknown(&mut self, check: &'static str, why: &impl Display) {
        self.add(check, Level::Unknown, why.to_string(), None);
    }

    pub(super) fn add(&mut self, check: &'static str, level: Level, message: String, remedy: Option<String>) {
        self.0.push(Finding { check, level, message, remedy });
    }
}
