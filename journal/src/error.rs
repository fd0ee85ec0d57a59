//! Why the journal refuses or fails; each message names the remedy.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Why the journal refuses or fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process uses the directory.
    #[error("the journal in {0:?} is in use by another process; give each its own directory")]
    Locked(PathBuf),
    /// The files have reached their bound; nothing was written.
    #[error("the journal is full: {used} of {limit} bytes are used and {wanted} more are needed")]
    Full {
        /// Bytes of all files.
        used: u64,
        /// The bound.
        limit: u64,
        /// What did not fit.
        wanted: u64,
    },
    /// A record is larger than a record may be; nothing was written.
    #[error("a record of {actual} bytes is larger than the {limit} bytes that a record of the journal may have")]
    Oversized {
        /// Its size.
        actual: usize,
        /// The largest.
        limit: usize,
    },
    /// A file was written by another program, or by a later version of this one.
    #[error("{0:?} is not a journal of this version; use the version that wrote it, or move the file away")]
    Format(PathBuf),
    /// A file has a record of a kind that only a later version knows. It may say anything about the others, as the mark of completion does, so
    /// none of them is read without it; all of them stay.
    #[error(
        "record {number} in {path:?} is of the kind {kind}, which this version does not know; use the version that wrote it, or move the file away"
    )]
    Kind {
        /// The file.
        path: PathBuf,
        /// The record's number.
        number: u64,
        /// Its kind.
        kind: u8,
    },
    /// The disk failed.
    #[error("failed to {action} {path:?}")]
    File {
        /// What was tried.
        action: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An earlier failure of the disk left a file in a state that nobody knows; what was acknowledged is read at the next open.
    #[error(
        "the journal takes no records since a write to the disk failed and could not be taken back; restart the process"
    )]
    Broken,
}

impl Error {
    /// Whether the disk has no room; nothing was written then.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }

    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { action, path: path.to_owned(), source }
    }
}
