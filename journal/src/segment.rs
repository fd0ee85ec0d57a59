//! One file of the journal: a head that names format and version, then frames.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use crate::{Error, frame};

/// Begins each file; its last byte is the format's version.
const MAGIC: &[u8; 8] = b"CMJRNL\0\x01";
const EXTENSION: &str = "journal";

/// A file that is appended to.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    /// Its place in the order of the files.
    pub(crate) number: u64,
    /// The highest number of a frame in it.
    pub(crate) last: Option<u64>,
    pub(crate) length: u64,
    /// Grows when written but unsynced records had to be taken back.
    pub(crate) epoch: u64,
    pub(crate) file: File,
}

/// What a file holds.
pub(crate) struct Content {
    pub(crate) segment: Segment,
    pub(crate) bytes: Vec<u8>,
    /// Bytes at the end that are no whole frames; they are in the file `aside` now.
    pub(crate) torn: Option<(u64, PathBuf)>,
}

impl Segment {
    pub(crate) fn create(directory: &Path, number: u64) -> Result<Self, Error> {
        let path = directory.join(format!("{number:016}.{EXTENSION}"));
        let mut file = options().open(&path).map_err(Error::file("create", &path))?;
        let begun = file.write_all(MAGIC).and_then(|()| file.sync_all()).map_err(Error::file("begin", &path));
        if let Err(error) = begun.and_then(|()| sync_directory(directory)) {
            // An empty file would be read as one of another format, and any file is in the way of the next attempt.
            fs::remove_file(&path).map_err(Error::file("remove", &path))?;
            return Err(error);
        }
        Ok(Self { path, number, last: None, length: MAGIC.len() as u64, epoch: 0, file })
    }

    /// Reads a file. What is torn or damaged at its end is moved to a file beside it, so that nothing is destroyed.
    pub(crate) fn read(path: &Path, number: u64) -> Result<Content, Error> {
        let mut file = OpenOptions::new().read(true).write(true).open(path).map_err(Error::file("open", path))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(Error::file("read", path))?;
        if bytes.len() < MAGIC.len() && MAGIC.starts_with(&bytes) {
            // The process ended while it made the file, before any frame was in it.
            bytes = MAGIC.to_vec();
            let repaired = file.rewind().and_then(|()| file.write_all(MAGIC));
            repaired.map_err(Error::file("repair", path))?;
        }
        let frames = bytes.strip_prefix(MAGIC).ok_or_else(|| Error::Format(path.to_owned()))?;
        let (read, length) = frame::read(frames);
        let last = read.iter().map(|frame| frame.number).max();
        let whole = MAGIC.len() + length;
        let torn = if whole < bytes.len() {
            let aside = set_aside(path, whole, &bytes[whole..])?;
            file.set_len(whole as u64).map_err(Error::file("cut", path))?;
            Some(((bytes.len() - whole) as u64, aside))
        } else {
            None
        };
        // What a killed process wrote may be in the kernel's memory alone, and from now on it counts as kept.
        file.sync_all().map_err(Error::file("sync", path))?;
        bytes.truncate(whole);
        bytes.drain(..MAGIC.len());
        file.seek(SeekFrom::End(0)).map_err(Error::file("seek in", path))?;
        let segment = Self { path: path.to_owned(), number, last, length: whole as u64, epoch: 0, file };
        Ok(Content { segment, bytes, torn })
    }

    /// The files of a directory in their order.
    pub(crate) fn all(directory: &Path) -> Result<Vec<(PathBuf, u64)>, Error> {
        let mut found = Vec::new();
        for entry in fs::read_dir(directory).map_err(Error::file("list", directory))? {
            let path = entry.map_err(Error::file("list", directory))?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION)
                && let Some(number) = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok())
            {
                found.push((path, number));
            }
        }
        found.sort_by_key(|(_, number)| *number);
        Ok(found)
    }

    /// Writes bytes at the end; what a failed write left is taken back. Not yet on the disk.
    pub(crate) fn append(&mut self, bytes: &[u8], last: u64) -> Result<(), Error> {
        if let Err(error) = self.file.write_all(bytes) {
            self.cut(self.length)?;
            return Err(Error::file("write", &self.path)(error));
        }
        self.length += bytes.len() as u64;
        self.last = Some(self.last.map_or(last, |before| before.max(last)));
        Ok(())
    }

    /// Takes back what was written beyond `length`.
    pub(crate) fn cut(&mut self, length: u64) -> Result<(), Error> {
        let cut = self.file.set_len(length).and_then(|()| self.file.seek(SeekFrom::Start(length)));
        cut.map_err(|_| Error::Broken)?;
        self.length = length;
        Ok(())
    }

    pub(crate) fn remove(self) -> Result<(), Error> {
        fs::remove_file(&self.path).map_err(Error::file("remove", &self.path))
    }
}

/// Writes what is torn to a file of its own, on the disk before the torn part is cut. What an earlier tear at the same place left stays.
fn set_aside(path: &Path, at: usize, torn: &[u8]) -> Result<PathBuf, Error> {
    let mut times = 1;
    let (aside, mut file) = loop {
        let again = if times == 1 { String::new() } else { format!("-{times}") };
        let aside = path.with_extension(format!("torn-at-{at}{again}"));
        match options().open(&aside) {
            Ok(file) => break (aside, file),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => times += 1,
            Err(error) => return Err(Error::file("create", &aside)(error)),
        }
    };
    file.write_all(torn).and_then(|()| file.sync_all()).map_err(Error::file("write", &aside))?;
    path.parent().map_or(Ok(()), sync_directory)?;
    Ok(aside)
}

/// How a new file is made, which nobody else may read.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Makes the names of new files survive the end of the machine.
pub(crate) fn sync_directory(directory: &Path) -> Result<(), Error> {
    File::open(directory).and_then(|opened| opened.sync_all()).map_err(Error::file("sync", directory))
}
