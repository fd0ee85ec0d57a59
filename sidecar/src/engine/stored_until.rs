//! Until when contexts were stored, as far as this sidecar knows: later than now once the clock was set back.
//!
//! A journaled deletion is about what was stored before it, which the clock alone does not tell. So the time outlives the process, in a file
//! beside the journal, but for the last seconds before a process was killed: what is spared for these is set aside and not forgotten.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use context_manager_memory::Timestamp;
use tokio::task::spawn_blocking;
use tracing::warn;

/// How far ahead the clock may have been where a context was stored that this sidecar has not stored itself.
pub(super) const FROM_A_FAST_CLOCK: Duration = Duration::from_hours(24);

/// Beside the journal.
const FILE: &str = "stored_until";

/// The time.
#[derive(Debug)]
pub(super) struct StoredUntil {
    /// In milliseconds of Unix time.
    at: AtomicI64,
    /// What the file has.
    kept: AtomicI64,
    /// Nothing is journaled without it.
    file: Option<PathBuf>,
}

impl StoredUntil {
    /// What the last process has kept in the journal's directory.
    pub(super) async fn open(directory: Option<PathBuf>) -> Self {
        let file = directory.map(|directory| directory.join(FILE));
        let kept = match file.clone() {
            Some(file) => spawn_blocking(move || read(&file)).await.unwrap_or(i64::MIN),
            None => i64::MIN,
        };
        Self { at: kept.into(), kept: kept.into(), file }
    }

    /// Something was stored then.
    pub(super) fn note(&self, at: Timestamp) {
        self.at.fetch_max(at.as_millis(), Ordering::AcqRel);
    }

    /// The time until which something was stored.
    pub(super) fn get(&self) -> Timestamp {
        Timestamp::from_millis(self.at.load(Ordering::Acquire))
    }

    /// Keeps it for the next process. One that cannot be written is tried again at the next call.
    pub(super) async fn keep(&self) {
        let at = self.at.load(Ordering::Acquire);
        let Some(file) = self.file.clone().filter(|_| at > self.kept.load(Ordering::Acquire)) else { return };
        match spawn_blocking(move || write(&file, at)).await {
            Ok(Ok(())) => self.kept.store(at, Ordering::Release),
            Ok(Err(error)) => warn!(%error, "Failed to keep until when contexts were stored; it is tried again"),
            Err(_) => {}
        }
    }
}

fn read(file: &Path) -> i64 {
    let read = fs::read_to_string(file);
    match read.map(|content| content.trim().parse()) {
        Ok(Ok(at)) => at,
        Err(error) if error.kind() == io::ErrorKind::NotFound => i64::MIN,
        Ok(Err(_)) | Err(_) => {
            warn!(file = %file.display(), "Cannot read until when contexts were stored; the clock decides what a deletion is about");
            i64::MIN
        }
    }
}

/// In one step: after an end of the process the file has the old time or the new one.
fn write(file: &Path, at: i64) -> io::Result<()> {
    let new = file.with_extension("new");
    let mut written = File::create(&new)?;
    writeln!(written, "{at}")?;
    written.sync_all()?;
    fs::rename(new, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_latest_time_outlives_the_process_whatever_the_file_had() {
        let directory = tempfile::tempdir().expect("a directory");
        let open = async || StoredUntil::open(Some(directory.path().to_owned())).await;
        let time = Timestamp::from_millis;
        let first = open().await;
        first.note(time(7));
        first.note(time(5));
        assert_eq!(first.get(), time(7));
        assert_eq!(open().await.get(), time(i64::MIN), "it was not kept yet");
        first.keep().await;
        assert_eq!(open().await.get(), time(7));
        fs::write(directory.path().join(FILE), "yesterday").expect("spoilt");
        let second = open().await;
        assert_eq!(second.get(), time(i64::MIN));
        second.note(time(6));
        second.keep().await;
        assert_eq!(open().await.get(), time(6));
        let nowhere = StoredUntil::open(None).await;
        nowhere.note(time(1));
        nowhere.keep().await;
        assert_eq!(nowhere.get(), time(1));
    }
}
