//! A journal: records appended to files, each on the disk when [`Journal::append`] returns, read again in their order after
//! whatever ended the process.
//!
//! Owns the files of one directory: their format ([`frame`]), their size, their repair after a torn write. It does not know what a
//! record says. A record is numbered; [`Journal::complete`] says up to which number the records are not needed any more,
//! and the space of whole files is given back. The size of all files is bounded, and an append that does not fit is refused
//! with nothing written.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! use context_manager_journal::{Journal, Options};
//!
//! let (journal, _) = Journal::open(Options::new(directory.path()))?;
//! let number = journal.append(b"remember the tea")?;
//! drop(journal);
//!
//! let (journal, opened) = Journal::open(Options::new(directory.path()))?;
//! assert_eq!(opened.records[0].payload, b"remember the tea");
//! journal.complete(number)?;
//! # Ok(())
//! # }
//! ```

mod error;
pub mod frame;
mod journal;
mod segment;

pub use error::Error;
pub use journal::{Damage, Journal, Opened, Options, Record, Usage};
