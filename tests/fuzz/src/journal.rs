//! The journal's files with any content: nothing panics, and no whole record before the damage is lost.

use std::{fs, path::Path};

use context_manager_journal::{
    Error, Journal, Opened, Options,
    frame::{self, HEAD, Kind},
};

const MAGIC: &[u8; 8] = b"CMJRNL\0\x01";

/// Frames are read as long as they are whole, and are what was written.
pub fn frames(data: &[u8]) {
    let (frames, length) = frame::read(data);
    let mut written = Vec::new();
    for found in &frames {
        frame::write(&mut written, found.kind, found.number, found.payload);
    }
    assert_eq!(written, data[..length]);
    // The same with a right checksum, so that what lies behind it is reached.
    let Some((kind, payload)) = data.split_first() else { return };
    let kind = [Kind::Record, Kind::Completed, Kind::Other(*kind | 2)][usize::from(kind % 3)];
    let number = payload.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes) >> 1);
    let mut one = Vec::new();
    frame::write(&mut one, kind, number, payload);
    assert_eq!(one.len(), HEAD + payload.len());
    let (read, length) = frame::read(&one);
    assert_eq!((read.len(), length, read[0].kind, read[0].number), (1, one.len(), kind, number));
}

/// A file with any content beside a good one: both are read as far as they are whole.
pub fn files(data: &[u8]) {
    let directory = folder();
    let mut good = MAGIC.to_vec();
    frame::write(&mut good, Kind::Record, 1, b"first");
    fs::write(directory.path().join("0000000000000001.journal"), &good).expect("written");
    let with_magic = [MAGIC.as_slice(), data].concat();
    fs::write(directory.path().join("0000000000000002.journal"), &with_magic).expect("written");
    let (frames, length) = frame::read(data);
    let completed = frames.iter().filter(|frame| frame.kind == Kind::Completed).map(|frame| frame.number).max();
    let expected = frames.iter().filter(|frame| frame.kind == Kind::Record).map(|frame| (frame.number, frame.payload));
    let expected = std::iter::once((1, b"first".as_slice())).chain(expected);
    let expected: Vec<_> = expected.filter(|(number, _)| completed.is_none_or(|done| *number > done)).collect();
    if frames.iter().any(|frame| matches!(frame.kind, Kind::Other(_))) {
        assert!(matches!(Journal::open(options(directory.path())), Err(Error::Kind { .. })));
        return;
    }
    let opened = check(directory.path());
    assert_eq!(opened.records.iter().map(|r| (r.number, r.payload.as_slice())).collect::<Vec<_>>(), expected);
    let torn: u64 = opened.damage.iter().map(|damage| damage.bytes).sum();
    assert_eq!(torn, (data.len() - length) as u64, "what is no record is set aside, byte by byte");

    // And without a head of its own.
    let directory = folder();
    fs::write(directory.path().join("0000000000000001.journal"), data).expect("written");
    match Journal::open(options(directory.path())) {
        Ok(_) | Err(Error::Kind { .. }) => {}
        Err(Error::Format(_)) => {
            let kept = fs::read(directory.path().join("0000000000000001.journal")).expect("read");
            assert_eq!(kept, data, "what is not understood stays as it is");
        }
        Err(other) => unreachable!("{other}"),
    }
}

/// A good file whose end is overwritten: the first byte says from which record on, the others are written there.
pub fn tail(data: &[u8]) {
    const RECORDS: usize = 8;
    let Some((&from, garbage)) = data.split_first() else { return };
    let mut bytes = MAGIC.to_vec();
    let mut ends = Vec::new();
    for number in 1..=RECORDS {
        frame::write(&mut bytes, Kind::Record, number as u64, format!("record {number}").as_bytes());
        ends.push(bytes.len());
    }
    let at = MAGIC.len() + usize::from(from) % (bytes.len() - MAGIC.len());
    bytes.truncate(at);
    bytes.extend_from_slice(garbage);
    let whole = ends.iter().filter(|end| **end <= at).count();
    let directory = folder();
    fs::write(directory.path().join("0000000000000001.journal"), &bytes).expect("written");
    let (read, _) = frame::read(&bytes[MAGIC.len()..]);
    if read.iter().any(|frame| matches!(frame.kind, Kind::Other(_))) {
        return;
    }
    let opened = check(directory.path());
    // What the garbage completes is its own business; what was whole before it is there, unless a whole frame says that it is done.
    if read.iter().all(|frame| frame.kind == Kind::Record) {
        for number in 1..=whole {
            assert_eq!(opened.records[number - 1].payload, format!("record {number}").as_bytes());
        }
    }
}

/// Opens the folder, appends, and opens it again: what was found is found again, with what was appended.
fn check(directory: &Path) -> Opened {
    let (journal, opened) = Journal::open(options(directory)).expect("a journal of this version opens");
    let number = journal.append(b"after").expect("a repaired journal takes records");
    drop(journal);
    let (_journal, again) = Journal::open(options(directory)).expect("opened again");
    assert!(again.damage.is_empty(), "the damage was repaired");
    let (last, before) = again.records.split_last().expect("the appended record");
    assert_eq!((last.number, last.payload.as_slice()), (number, b"after".as_slice()));
    assert_eq!(before, opened.records);
    opened
}

fn options(directory: &Path) -> Options {
    Options::new(directory)
}

/// In memory where there is such a file system, so that a sync costs nothing.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder")
}
