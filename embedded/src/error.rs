//! Why a call of the store failed.
//!
//! Owns the messages that an operator of the product reads; texts of contexts are never part of one.

use std::{error::Error as StdError, io, path::PathBuf};

use context_manager_memory::store::InvalidCall;

/// Why a call of the store failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has the directory.
    #[error(
        "the directory {path:?} is in use by another sidecar{}; stop it, or give each sidecar a directory of its own",
        holder.map_or_else(String::new, |pid| format!(" (process {pid})"))
    )]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The process that has it, as far as known.
        holder: Option<u32>,
    },
    /// The directory was made with other settings.
    #[error(
        "the store in {path:?} has {setting} {stored}, but the configuration says {wanted}; use a new directory and store \
         the contexts again, or go back to {stored}"
    )]
    Incompatible {
        /// The directory.
        path: PathBuf,
        /// What differs.
        setting: &'static str,
        /// How it was made.
        stored: String,
        /// How it should be opened.
        wanted: String,
    },
    /// The directory holds less than was flushed to it.
    #[error(
        "the store in {path:?} is damaged: expected {expected}, found {found}; restore the directory from a backup, or \
         move it away to start with an empty one"
    )]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What there should be.
        expected: String,
        /// What there is.
        found: String,
    },
    /// A file of the directory cannot be used.
    #[error("failed to {action} {path:?}")]
    File {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The engine failed.
    #[error("the vector engine failed to {action}")]
    Engine {
        /// What was tried.
        action: &'static str,
        /// What the engine said.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The call itself is wrong.
    #[error(transparent)]
    Invalid(#[from] InvalidCall),
}

impl Error {
    /// Whether the call itself is wrong, so that repeating it cannot help and no damage was done.
    #[must_use]
    pub const fn is_callers(&self) -> bool {
        matches!(self, Self::Invalid(_))
    }

    pub(crate) fn engine(action: &'static str) -> impl FnOnce(qdrant_edge::OperationError) -> Self {
        move |error| Self::Engine { action, source: Box::new(error) }
    }

    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { action, path: path.into(), source }
    }
}
