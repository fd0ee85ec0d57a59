//! Acknowledged writes that cannot reach the store: lines in files beside the journal, for a person to decide about.
//!
//! The sidecar appends to them while `context-manager-sidecar set-aside` reads them, in another process; both lock a file for as long as
//! they look at or change its content, and never while they wait for somebody.

use std::{
    fs::File,
    io::{self, Read as _, Write},
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use serde::Serialize;

/// What was set aside, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Contexts whose id somebody else took meanwhile, as lines of an export
    Conflicts,
    /// Contexts that the store refuses while it takes others, as lines of an export
    Refused,
    /// Changes and deletions that the store refuses, as they were journaled
    RefusedChanges,
}

/// Why what was set aside is not told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read or changed.
    #[error("failed to use {path:?}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nobody takes what was read.
    #[error("failed to write what was set aside; nothing was removed")]
    Output(#[source] io::Error),
    /// There is more in the file than what was told.
    #[error("more was set aside meanwhile; nothing was removed, so ask again")]
    Grown,
}

impl Kind {
    /// Its file beside the journal.
    pub(crate) fn file(self, directory: &Path) -> PathBuf {
        directory.join(match self {
            Self::Conflicts => "conflicts.jsonl",
            Self::Refused => "refused.jsonl",
            Self::RefusedChanges => "refused_changes.jsonl",
        })
    }
}

/// Adds a line to a file; it is on the disk when this returns.
pub(crate) fn append(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    let mut file = File::options().create(true).append(true).open(path)?;
    file.lock()?;
    file.write_all(&line)?;
    file.sync_all()
}

/// Writes the lines of a file to `output`, oldest first; with `remove` they are gone from the file afterwards. A file that is not there
/// has none.
///
/// # Errors
/// When a line may not have been written or removed.
pub fn tell(directory: &Path, kind: Kind, remove: bool, output: &mut impl Write) -> Result<(), Error> {
    let path = kind.file(directory);
    let failed = |source| Error::File { path: path.clone(), source };
    let mut file = match File::options().read(true).write(remove).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    let mut lines = Vec::new();
    file.lock_shared().and_then(|()| file.read_to_end(&mut lines)).and_then(|_| file.unlock()).map_err(failed)?;
    output.write_all(&lines).and_then(|()| output.flush()).map_err(Error::Output)?;
    if remove {
        file.lock().map_err(failed)?;
        if file.metadata().map_err(failed)?.len() != lines.len() as u64 {
            return Err(Error::Grown);
        }
        file.set_len(0).and_then(|()| file.sync_all()).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes what is written, and something is set aside meanwhile.
    struct Slow<'a>(&'a Path, Vec<u8>);

    impl Write for Slow<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            append(&Kind::Refused.file(self.0), &"late")?;
            self.1.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Takes nothing.
    struct Gone;

    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn told(directory: &Path, remove: bool) -> String {
        let mut output = Vec::new();
        tell(directory, Kind::Refused, remove, &mut output).expect("told");
        String::from_utf8(output).expect("text")
    }

    #[test]
    fn lines_are_told_until_they_are_removed_and_none_is_lost() {
        let directory = tempfile::tempdir().expect("a directory");
        let directory = directory.path();
        assert_eq!(told(directory, true), "", "nothing was set aside");
        let file = Kind::Refused.file(directory);
        append(&file, &"one").expect("written");
        append(&file, &"two").expect("written");
        assert_eq!(told(directory, false), "\"one\"\n\"two\"\n");
        assert!(matches!(tell(directory, Kind::Refused, true, &mut Gone), Err(Error::Output(_))));
        let mut slow = Slow(directory, Vec::new());
        assert!(matches!(tell(directory, Kind::Refused, true, &mut slow), Err(Error::Grown)));
        assert_eq!(told(directory, true), "\"one\"\n\"two\"\n\"late\"\n");
        assert_eq!(told(directory, false), "");
        append(&file, &"three").expect("written");
        assert_eq!(told(directory, true), "\"three\"\n");
    }
}
