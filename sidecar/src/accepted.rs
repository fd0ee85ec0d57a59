//! The second in which a request was last accepted, kept on the disk beside the memory, so that a restart opens no window for replays and
//! yet need not wait.
//!
//! Nonces are remembered in memory only, and `created` of a signature is a whole second. So a sidecar that starts does not know which nonces of
//! the current second its predecessor has accepted, and would have to refuse this second as a whole and wait until it is over. If the
//! file says that the last accepted second is over, nothing of this one was accepted.
//!
//! The file is written before the first request of each second is let in. It survives `kill -9`; the end of the machine takes longer than a
//! second. Whoever reads it holds the lock of the directory, so the predecessor has ended.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};

use tracing::error;

use crate::refusal::chain;

const NAME: &str = "accepted";
/// Digits of the file, so that each write has the same length.
const DIGITS: usize = 20;

/// The record of the last accepted second.
#[derive(Debug, Default)]
pub struct LastAccepted {
    file: Option<(PathBuf, File)>,
    /// What the file says, or is about to say.
    second: AtomicI64,
    writing: Mutex<()>,
}

impl LastAccepted {
    /// No record: the next start waits.
    #[must_use]
    pub fn none() -> Self {
        Self { file: None, second: AtomicI64::new(i64::MAX), writing: Mutex::default() }
    }

    /// The record of a directory, and what it says; nothing if there is none yet, or if it is not readable.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(directory: &Path) -> io::Result<(Self, Option<i64>)> {
        let path = directory.join(NAME);
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
        let mut digits = [0; DIGITS];
        let read = file.read_exact_at(&mut digits, 0).ok().and_then(|()| str::from_utf8(&digits).ok()?.parse().ok());
        // A second that is still to come stays in the file until it is over.
        let second = AtomicI64::new(read.unwrap_or(i64::MIN));
        let record = Self { file: Some((path, file)), second, writing: Mutex::default() };
        Ok((record, read))
    }

    /// Notes that a request is accepted at this Unix time; it may be let in when this returns.
    ///
    /// # Errors
    /// When neither the second can be noted nor the record removed.
    pub fn note(&self, now: i64) -> io::Result<()> {
        if self.second.load(Ordering::Acquire) >= now {
            return Ok(());
        }
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.second.load(Ordering::Acquire) >= now {
            return Ok(());
        }
        let Some((path, file)) = &self.file else { return Ok(()) };
        if let Err(failed) = file.write_all_at(format!("{now:0DIGITS$}").as_bytes(), 0) {
            // Without a record the next start waits, as it must.
            fs::remove_file(path)?;
            error!(error = chain(&failed), path = %path.display(), "Could not note that requests are accepted");
            self.second.store(i64::MAX, Ordering::Release);
            return Ok(());
        }
        self.second.store(now, Ordering::Release);
        Ok(())
    }
}

/// From which second on signatures are accepted by a sidecar that began to start at `begun`, when its predecessor accepted the last one at
/// `last` and has ended by `now`. It may be a second that is not there yet, up to a `window` of seconds if the clock was set back.
#[must_use]
pub fn first_second(begun: i64, last: Option<i64>, now: i64, window: i64) -> i64 {
    match last {
        Some(last) if last < begun => begun,
        // What was accepted then could be sent again now.
        Some(last) if last > now && last <= now.saturating_add(window) => last.saturating_add(1),
        // What was accepted in this second is not known. Nobody is refused for as long as a clock was wrong that was far ahead.
        Some(_) | None => now.saturating_add(1),
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn what_was_noted_last_is_read_and_going_back_changes_nothing() {
        let directory = TempDir::new().expect("a directory");
        let (record, before) = LastAccepted::open(directory.path()).expect("a file");
        assert_eq!(before, None);
        for second in [1_700_000_000, 1_700_000_007, 1_700_000_003] {
            record.note(second).expect("noted");
        }
        let (again, read) = LastAccepted::open(directory.path()).expect("a file");
        assert_eq!(read, Some(1_700_000_007));
        again.note(1_700_000_004).expect("noted");
        assert_eq!(LastAccepted::open(directory.path()).expect("a file").1, read, "it is still to come");
    }

    #[test]
    fn a_file_that_says_nothing_is_no_record() {
        let directory = TempDir::new().expect("a directory");
        for content in ["", "17", "not a number at all."] {
            fs::write(directory.path().join(NAME), content).expect("written");
            assert_eq!(LastAccepted::open(directory.path()).expect("a file").1, None, "{content:?}");
        }
    }

    #[test]
    fn only_a_start_after_the_last_accepted_second_need_not_wait() {
        assert_eq!(first_second(100, Some(99), 101, 60), 100);
        assert_eq!(first_second(100, Some(100), 100, 60), 101, "accepted in this very second");
        assert_eq!(first_second(100, Some(101), 101, 60), 102, "accepted while this one began to start");
        assert_eq!(first_second(100, None, 101, 60), 102);
    }

    #[test]
    fn what_was_accepted_before_the_clock_was_set_back_is_not_accepted_again() {
        assert_eq!(first_second(100, Some(160), 100, 60), 161, "it would be within the window");
        assert_eq!(first_second(100, Some(500), 100, 60), 101, "it is not, for long");
    }
}
