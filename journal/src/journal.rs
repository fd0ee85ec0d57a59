//! The journal: appends that share their syncs, completion, and the opening after an end.

use std::{
    fs::{self, File, TryLockError},
    mem,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    Error,
    frame::{self, HEAD, Kind, LARGEST},
    segment::{Content, Segment, sync_directory},
};

/// How a journal is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its directory; made if it is not there.
    pub directory: PathBuf,
    /// Most bytes of all files.
    pub max_bytes: u64,
    /// A file of this size is followed by a new one, so that the old one can be given back.
    pub segment_bytes: u64,
}

impl Options {
    /// 64 MiB in files of 4 MiB.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), max_bytes: 64 << 20, segment_bytes: 4 << 20 }
    }
}

/// A record that is not complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number; later records have higher ones.
    pub number: u64,
    /// Its content.
    pub payload: Vec<u8>,
}

/// Bytes that were no whole records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// How many.
    pub bytes: u64,
    /// Where they are now.
    pub aside: PathBuf,
}

/// What was found on opening.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// The records that are not complete, in their order.
    pub records: Vec<Record>,
    /// What could not be read. The write that an end of the machine interrupts leaves such bytes; nobody was told that it is there.
    pub damage: Vec<Damage>,
}

/// How much is in the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of all files.
    pub bytes: u64,
    /// The bound.
    pub limit: u64,
}

/// The journal of one directory; the directory is locked as long as it lives.
#[derive(Debug)]
pub struct Journal {
    options: Options,
    files: Mutex<Files>,
    /// Held by whoever syncs; the others find their records synced when they get it.
    sync: Mutex<()>,
    _lock: File,
}

#[derive(Debug)]
struct Files {
    full: Vec<Segment>,
    current: Segment,
    /// How much of the current file is on the disk.
    synced: u64,
    next: u64,
    completed: Option<u64>,
    broken: bool,
}

impl Journal {
    /// Opens the directory and reads what is not complete.
    ///
    /// # Errors
    /// When another process uses it, a file is of another format or has what only a later version knows, or the disk fails.
    pub fn open(options: Options) -> Result<(Self, Opened), Error> {
        let directory = &options.directory;
        fs::create_dir_all(directory).map_err(Error::file("make", directory))?;
        let lock = lock(&options)?;
        let mut opened = Opened::default();
        let (mut segments, mut completed, mut next) = (Vec::new(), None::<u64>, 1);
        let mut records = Vec::new();
        for (path, number) in Segment::all(directory)? {
            let Content { segment, bytes, torn } = Segment::read(&path, number)?;
            opened.damage.extend(torn.map(|(bytes, aside)| Damage { bytes, aside }));
            for found in frame::read(&bytes).0 {
                next = next.max(found.number + 1);
                match found.kind {
                    Kind::Record => records.push(Record { number: found.number, payload: found.payload.to_vec() }),
                    Kind::Completed => completed = completed.max(Some(found.number)),
                    Kind::Other(kind) => return Err(Error::Kind { path, number: found.number, kind }),
                }
            }
            segments.push(segment);
        }
        sync_directory(directory)?;
        records.retain(|record| completed.is_none_or(|completed| record.number > completed));
        opened.records = records;
        let current = match segments.pop() {
            Some(last) => last,
            None => Segment::create(directory, 1)?,
        };
        let files = Files { full: segments, synced: current.length, current, next, completed, broken: false };
        Ok((Self { options, files: Mutex::new(files), sync: Mutex::default(), _lock: lock }, opened))
    }

    /// Appends a record; it is on the disk when this returns. Concurrent appends share a sync. Returns its number.
    ///
    /// # Errors
    /// When it does not fit, or the disk fails; it is not in the journal then.
    pub fn append(&self, payload: &[u8]) -> Result<u64, Error> {
        if payload.len() > LARGEST {
            return Err(Error::Oversized { actual: payload.len(), limit: LARGEST });
        }
        let (number, epoch, segment, end) = {
            let mut files = self.files();
            if files.broken {
                return Err(Error::Broken);
            }
            let wanted = (HEAD + payload.len()) as u64;
            let used = files.bytes();
            if used + wanted > self.options.max_bytes {
                return Err(Error::Full { used, limit: self.options.max_bytes, wanted });
            }
            if files.current.length >= self.options.segment_bytes {
                files.begin(&self.options)?;
            }
            let number = files.next;
            let mut bytes = Vec::new();
            frame::write(&mut bytes, Kind::Record, number, payload);
            files.append(&bytes, number)?;
            files.next += 1;
            (number, files.current.epoch, files.current.number, files.current.length)
        };
        self.sync(epoch, segment, end)?;
        Ok(number)
    }

    /// The number that the next record gets at least.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.files().next
    }

    /// Says that all records up to `number` are not needed any more. That is remembered without a sync: after an end of the machine some
    /// of them may come again.
    ///
    /// # Errors
    /// When the disk fails; the records may come again then.
    pub fn complete(&self, number: u64) -> Result<(), Error> {
        let mut files = self.files();
        if files.broken {
            return Err(Error::Broken);
        }
        if files.completed.is_some_and(|completed| completed >= number) {
            return Ok(());
        }
        let mut bytes = Vec::new();
        frame::write(&mut bytes, Kind::Completed, number, &[]);
        files.append(&bytes, number)?;
        files.completed = Some(number);
        if number + 1 == files.next && !files.current.is_empty() {
            // Everything is complete: the mark goes to a new file, synced, before the old ones go.
            files.begin(&self.options)?;
            let mut bytes = Vec::new();
            frame::write(&mut bytes, Kind::Completed, number, &[]);
            files.append(&bytes, number)?;
            let path = files.current.path.clone();
            if let Err(error) = files.current.file.sync_data() {
                files.take_back();
                return Err(Error::file("sync", &path)(error));
            }
            files.synced = files.current.length;
        }
        // Oldest first, so that a file that stays never comes after one that has gone.
        while files.full.first().is_some_and(|segment| segment.last.is_none_or(|last| last <= number)) {
            files.full.remove(0).remove()?;
        }
        Ok(())
    }

    /// How much is in the files.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage { bytes: self.files().bytes(), limit: self.options.max_bytes }
    }

    /// Waits until the current file is on the disk up to `end`.
    fn sync(&self, epoch: u64, segment: u64, end: u64) -> Result<(), Error> {
        let _turn = self.sync.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, path, length) = {
            let files = self.files();
            files.still(epoch, segment)?;
            // A file that is not the current one any more was synced before its successor began.
            if files.current.number != segment || files.synced >= end {
                return Ok(());
            }
            let path = files.current.path.clone();
            let file = files.current.file.try_clone().map_err(Error::file("sync", &path))?;
            (file, path, files.current.length)
        };
        let synced = file.sync_data();
        let mut files = self.files();
        // The disk tells a lost write to one of two that sync at the same time, and the other one has taken the bytes back.
        files.still(epoch, segment)?;
        match synced {
            Ok(()) if files.current.number == segment => {
                files.synced = files.synced.max(length);
                Ok(())
            }
            Ok(()) => Ok(()),
            Err(error) => {
                files.take_back();
                Err(Error::file("sync", &path)(error))
            }
        }
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files {
    fn bytes(&self) -> u64 {
        self.full.iter().map(|segment| segment.length).sum::<u64>() + self.current.length
    }

    fn append(&mut self, bytes: &[u8], last: u64) -> Result<(), Error> {
        let appended = self.current.append(bytes, last);
        self.broken |= matches!(appended, Err(Error::Broken));
        appended
    }

    /// Whether nothing of a file was taken back since. One that is gone was not needed any more.
    fn still(&self, epoch: u64, segment: u64) -> Result<(), Error> {
        let found = self.full.iter().chain([&self.current]).find(|found| found.number == segment);
        match found {
            Some(found) if found.epoch != epoch => Err(taken_back(&found.path)),
            Some(_) | None => Ok(()),
        }
    }

    /// Begins a new file. The old one is synced first, because nobody looks at it again before the next open.
    fn begin(&mut self, options: &Options) -> Result<(), Error> {
        if let Err(error) = self.current.file.sync_data() {
            let path = self.current.path.clone();
            self.take_back();
            return Err(Error::file("sync", &path)(error));
        }
        self.synced = self.current.length;
        let new = Segment::create(&options.directory, self.current.number + 1)?;
        self.synced = new.length;
        self.full.push(mem::replace(&mut self.current, new));
        Ok(())
    }

    /// After a failed sync nobody knows what of the unsynced bytes is on the disk, so that they are cut off.
    fn take_back(&mut self) {
        self.current.epoch += 1;
        if self.current.cut(self.synced).is_err() {
            self.broken = true;
        }
    }
}

impl Segment {
    const fn is_empty(&self) -> bool {
        self.last.is_none()
    }
}

/// What a record gets whose bytes were cut off because another sync failed.
fn taken_back(path: &Path) -> Error {
    Error::file("sync", path)(std::io::Error::other("an earlier sync failed"))
}

fn lock(options: &Options) -> Result<File, Error> {
    let path = options.directory.join("lock");
    let file = File::options().write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(Error::file("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked(options.directory.clone())),
        Err(TryLockError::Error(error)) => Err(Error::file("lock", &path)(error)),
    }
}
