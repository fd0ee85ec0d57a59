//! Acknowledged writes that cannot reach the store: lines in files beside the journal, for a person to decide about.
//!
//! The sidecar appends to them while `context-manager-sidecar set-aside` reads them, in another process; both lock a file for as long as
//! they look at or change its content, and never while they wait for somebody.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write},
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use serde::{Serialize, de::DeserializeOwned};

/// What was set aside, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Contexts whose id somebody else took meanwhile, as lines of an export
    Conflicts,
    /// Contexts that the store refuses while it takes others, as lines of an export
    Refused,
    /// Changes and deletions that the store refuses, of contexts that were set aside, or of what is another by now, as they were journaled
    RefusedChanges,
    /// Records of the journal that this version cannot read: number, what is wrong, and the record as it is
    Unreadable,
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
    /// The file does not hold what was told any more, or not that alone.
    #[error("more was set aside or removed meanwhile; nothing was removed now, so ask again")]
    Changed,
}

impl Kind {
    /// Its file beside the journal.
    pub(crate) fn file(self, directory: &Path) -> PathBuf {
        directory.join(match self {
            Self::Conflicts => "conflicts.jsonl",
            Self::Refused => "refused.jsonl",
            Self::RefusedChanges => "refused_changes.jsonl",
            Self::Unreadable => "unreadable.jsonl",
        })
    }
}

/// Adds a line to a file for each value; they are on the disk when this returns. After an error none is in the file, as far as the disk lets
/// that be seen to: whoever has them tries again.
pub(crate) fn append(path: &Path, values: &[impl Serialize]) -> io::Result<()> {
    let mut lines = Vec::new();
    for value in values {
        serde_json::to_writer(&mut lines, value)?;
        lines.push(b'\n');
    }
    let mut file = File::options().create(true).read(true).append(true).open(path)?;
    file.lock()?;
    let length = file.metadata()?.len();
    if is_torn(&mut file, length)? {
        lines.insert(0, b'\n');
    }
    if let Err(error) = file.write_all(&lines).and_then(|()| file.sync_all()) {
        // Half a line on a full disk would spoil the next one.
        _ = file.set_len(length);
        return Err(error);
    }
    match path.parent() {
        // It may have been made just now.
        Some(directory) if length == 0 => File::open(directory)?.sync_all(),
        Some(_) | None => Ok(()),
    }
}

/// Whether the last line of a file has no end, because the process that wrote it has ended in the middle.
fn is_torn(file: &mut File, length: u64) -> io::Result<bool> {
    let Some(last) = length.checked_sub(1) else { return Ok(false) };
    let mut end = [0];
    file.seek(SeekFrom::Start(last))?;
    file.read_exact(&mut end)?;
    Ok(end != *b"\n")
}

/// Writes the lines of a file to `output`, oldest first; with `remove` they are gone from the file afterwards. A file that is not there
/// has none.
///
/// # Errors
/// When a line may not have been written or removed.
pub fn tell(directory: &Path, kind: Kind, remove: bool, output: &mut impl Write) -> Result<(), Error> {
    let path = kind.file(directory);
    let failed = |source| Error::File { path: path.clone(), source };
    let Some((mut file, lines)) = read(&path, remove).map_err(failed)? else { return Ok(()) };
    output.write_all(&lines).and_then(|()| output.flush()).map_err(Error::Output)?;
    if remove {
        file.lock().map_err(failed)?;
        if content(&mut file).map_err(failed)? != lines {
            return Err(Error::Changed);
        }
        file.set_len(0).and_then(|()| file.sync_all()).map_err(failed)?;
    }
    Ok(())
}

/// What the lines of a file say, as far as they can be read.
pub(crate) fn lines<T: DeserializeOwned>(path: &Path) -> io::Result<Vec<T>> {
    let Some((_, content)) = read(path, false)? else { return Ok(Vec::new()) };
    Ok(content.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

/// Empties a file, if it is there.
pub(crate) fn clear(path: &Path) -> io::Result<()> {
    match File::options().write(true).open(path) {
        Ok(file) => {
            file.set_len(0)?;
            file.sync_all()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// A file and what it has, if it is there; it is not locked any more.
fn read(path: &Path, to_change_it: bool) -> io::Result<Option<(File, Vec<u8>)>> {
    let mut file = match File::options().read(true).write(to_change_it).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    file.lock_shared()?;
    let content = content(&mut file)?;
    file.unlock()?;
    Ok(Some((file, content)))
}

fn content(file: &mut File) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes what is written, and something happens meanwhile.
    struct Slow<F>(F);

    impl<F: FnMut()> Write for Slow<F> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            (self.0)();
            Ok(bytes.len())
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
        append(&file, &["one"]).expect("written");
        append(&file, &["two"]).expect("written");
        assert_eq!(told(directory, false), "\"one\"\n\"two\"\n");
        assert!(matches!(tell(directory, Kind::Refused, true, &mut Gone), Err(Error::Output(_))));
        let mut slow = Slow(|| append(&file, &["late"]).expect("written"));
        assert!(matches!(tell(directory, Kind::Refused, true, &mut slow), Err(Error::Changed)));
        assert_eq!(told(directory, true), "\"one\"\n\"two\"\n\"late\"\n");
        assert_eq!(told(directory, false), "");
        append(&file, &["three"]).expect("written");
        // Somebody else removes it meanwhile, and what comes then is as long.
        let mut slow = Slow(|| {
            assert_eq!(told(directory, true), "\"three\"\n");
            append(&file, &["seven"]).expect("written");
        });
        assert!(matches!(tell(directory, Kind::Refused, true, &mut slow), Err(Error::Changed)));
        assert_eq!(told(directory, true), "\"seven\"\n");
    }

    #[test]
    fn a_line_of_a_process_that_ended_in_the_middle_spoils_no_other() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = Kind::Refused.file(directory.path());
        std::fs::write(&file, "\"one\"\n\"tw").expect("written");
        append(&file, &["two"]).expect("written");
        append(&file, &["three"]).expect("written");
        assert_eq!(told(directory.path(), false), "\"one\"\n\"tw\n\"two\"\n\"three\"\n");
    }
}
