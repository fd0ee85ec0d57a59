//! An export in a file. Only whole lines are written, so that whatever interrupts it, the next attempt knows where to go on.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, BufWriter, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use uuid::Uuid;

use crate::error::Error;

/// Longest line: of a context with the longest text and metadata, and then some.
const LONGEST: usize = 64 << 20;

/// The file.
pub(super) struct Copy {
    path: PathBuf,
    file: BufWriter<File>,
    /// The beginning of a line whose end has not come yet.
    rest: Vec<u8>,
    contexts: usize,
    last: Option<Uuid>,
    whole: bool,
}

/// What is to be known of a line.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Context {
        id: Uuid,
    },
    End {
        #[serde(rename = "exported")]
        _exported: usize,
    },
}

impl Copy {
    /// Opens the file, or makes it for its owner alone. Half a line at its end is taken away.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = opened.map_err(|error| input(path, &error))?;
        let mut reader = BufReader::new(&file);
        let (mut length, mut contexts, mut last, mut line) = (0, 0, None, Vec::new());
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line).map_err(|error| input(path, &error))?;
            if !line.ends_with(b"\n") {
                break;
            }
            match serde_json::from_slice(&line) {
                Ok(Line::Context { id }) => (contexts, last) = (contexts + 1, Some(id)),
                Ok(Line::End { .. }) => {
                    let what = format!("it has a whole export of {contexts} contexts already; name another file");
                    return Err(input(path, &what));
                }
                Err(_) => {
                    let what = format!("line {} is none of an export; name another file", contexts + 1);
                    return Err(input(path, &what));
                }
            }
            length += read as u64;
        }
        let mut file = file;
        let at_end = file.set_len(length).and_then(|()| file.seek(SeekFrom::End(0)));
        at_end.map_err(|error| input(path, &error))?;
        let file = BufWriter::new(file);
        Ok(Self { path: path.to_owned(), file, rest: Vec::new(), contexts, last, whole: false })
    }

    /// How many contexts it has.
    pub(super) const fn contexts(&self) -> usize {
        self.contexts
    }

    /// The last of them.
    pub(super) const fn last(&self) -> Option<Uuid> {
        self.last
    }

    /// Whether the last line has come.
    pub(super) const fn is_whole(&self) -> bool {
        self.whole
    }

    /// Forgets half a line: another answer begins.
    pub(super) fn begin(&mut self) {
        self.rest.clear();
    }

    /// Adds a part of an answer.
    pub(super) fn add(&mut self, part: &[u8]) -> Result<(), Error> {
        self.rest.extend_from_slice(part);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            let is_short = self.rest.len() <= LONGEST;
            return if is_short { Ok(()) } else { Err(input(&self.path, "the export has a line without an end")) };
        };
        let rest = self.rest.split_off(end + 1);
        let lines = std::mem::replace(&mut self.rest, rest);
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            self.add_line(line)?;
        }
        Ok(())
    }

    fn add_line(&mut self, line: &[u8]) -> Result<(), Error> {
        let understood = serde_json::from_slice(line);
        match understood.map_err(|error| input(&self.path, &format!("the answer has a line that is none: {error}")))? {
            Line::Context { id } => {
                self.write(line)?;
                (self.contexts, self.last) = (self.contexts + 1, Some(id));
                Ok(())
            }
            // Its number is of the last attempt alone.
            Line::End { .. } => {
                let end = format!("{{\"exported\":{}}}\n", self.contexts);
                self.write(end.as_bytes())?;
                self.whole = true;
                self.keep()
            }
        }
    }

    fn write(&mut self, line: &[u8]) -> Result<(), Error> {
        self.file.write_all(line).map_err(|error| input(&self.path, &error))
    }

    /// Brings what has come to the disk.
    pub(super) fn keep(&mut self) -> Result<(), Error> {
        self.file.flush().and_then(|()| self.file.get_ref().sync_all()).map_err(|error| input(&self.path, &error))
    }
}

fn input(path: &Path, what: &(impl ToString + ?Sized)) -> Error {
    Error::Input { file: path.display().to_string(), what: what.to_string() }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn line(number: u128) -> String {
        format!("{{\"id\":\"{}\",\"text\":\"t\"}}\n", Uuid::from_u128(number))
    }

    #[test]
    fn an_export_goes_on_after_the_last_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("team.jsonl");
        let mut copy = Copy::open(&path).unwrap();
        let text = line(1) + &line(2) + &line(3);
        for byte in &text.as_bytes()[..text.len() - 5] {
            copy.add(&[*byte]).unwrap();
        }
        assert_eq!((copy.contexts(), copy.last(), copy.is_whole()), (2, Some(Uuid::from_u128(2)), false));
        // The same process goes on after a broken answer, and so does another one, of whatever was left in the file.
        copy.begin();
        copy.add(line(3).as_bytes()).unwrap();
        copy.keep().unwrap();
        drop(copy);
        fs::write(&path, fs::read_to_string(&path).unwrap() + "{\"id\":\"").unwrap();
        let mut copy = Copy::open(&path).unwrap();
        assert_eq!((copy.contexts(), copy.last()), (3, Some(Uuid::from_u128(3))));
        copy.add(format!("{}{{\"exported\":1}}\n", line(4)).as_bytes()).unwrap();
        assert!(copy.is_whole());
        drop(copy);
        let expected = text + &line(4) + "{\"exported\":4}\n";
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "nobody else reads a memory");
        let again = Copy::open(&path).err().unwrap().to_string();
        assert!(again.contains("whole export of 4 contexts"), "{again}");
    }

    #[test]
    fn another_file_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        fs::write(&path, "to do\nlater").unwrap();
        let refused = Copy::open(&path).err().unwrap().to_string();
        assert!(refused.contains("line 1") && refused.contains("name another file"), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "to do\nlater");
    }
}
