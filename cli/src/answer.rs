//! What a subcommand answers: text for the standard output, notes for the standard error, and an exit code.

use std::process::ExitCode;

use serde::Serialize;

use crate::error::Error;

/// The exit codes (`docs/cli.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done, and all is well.
    Fine = 0,
    /// It could not be done.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// Done, and what was found is not well.
    Problems = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// [`Exit::Problems`] if something is not well.
    pub(crate) const fn unless(well: Health) -> Self {
        match well {
            Health::Well => Self::Fine,
            Health::Unwell => Self::Problems,
        }
    }
}

/// Whether what was found is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Well,
    Unwell,
}

impl Health {
    pub(crate) fn all(mut well: impl Iterator<Item = bool>) -> Self {
        if well.all(|well| well) { Self::Well } else { Self::Unwell }
    }
}

/// What a subcommand answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// For the standard output.
    pub text: String,
    /// For the standard error, a line each.
    pub notes: Vec<String>,
    /// The exit code.
    pub exit: Exit,
}

impl Answer {
    pub(crate) fn new(text: impl Into<String>, exit: Exit) -> Self {
        Self { text: text.into(), notes: Vec::new(), exit }
    }

    pub(crate) fn noting(self, notes: Vec<String>) -> Self {
        Self { notes, ..self }
    }
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
    /// For programs and people
    Yaml,
}

impl Output {
    /// The value in this form; `table` writes it for people.
    pub(crate) fn write<T: Serialize>(self, value: &T, table: impl FnOnce(&T) -> String) -> Result<String, Error> {
        match self {
            Self::Table => Ok(table(value)),
            Self::Json => serde_json::to_string_pretty(value)
                .map(|text| text + "\n")
                .map_err(|source| Error::Write { what: source.to_string() }),
            Self::Yaml => yaml(value),
        }
    }
}

/// A value as YAML.
pub(crate) fn yaml<T: Serialize>(value: &T) -> Result<String, Error> {
    // By way of JSON, so that both forms are the same.
    let write = |source: String| Error::Write { what: source };
    let value = serde_json::to_value(value).map_err(|error| write(error.to_string()))?;
    serde_saphyr::to_string(&value).map_err(|error| write(error.to_string()))
}
