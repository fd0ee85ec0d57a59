//! The journal on a real disk: what was appended is there again, in its order, once.

use std::{collections::BTreeSet, fs, path::Path, sync::Arc, thread};

use context_manager_journal::{
    Error, Journal, Opened, Options,
    frame::{self, HEAD, Kind},
};

fn open(directory: &Path) -> (Journal, Opened) {
    Journal::open(Options { segment_bytes: 200, max_bytes: 4_096, ..Options::new(directory) }).expect("opened")
}

fn payloads(opened: &Opened) -> Vec<String> {
    opened.records.iter().map(|record| String::from_utf8_lossy(&record.payload).into_owned()).collect()
}

#[test]
fn records_come_back_in_order_until_they_are_complete() {
    let directory = tempfile::tempdir().expect("a directory");
    let (journal, opened) = open(directory.path());
    assert_eq!(opened, Opened::default());
    let numbers: Vec<u64> =
        (0..40).map(|number| journal.append(format!("record {number}").as_bytes()).expect("appended")).collect();
    journal.complete(numbers[29]).expect("completed");
    drop(journal);

    let (journal, opened) = open(directory.path());
    assert_eq!(payloads(&opened), (30..40).map(|number| format!("record {number}")).collect::<Vec<_>>());
    let next = journal.append(b"one more").expect("appended");
    assert!(next > numbers[39]);
    journal.complete(next).expect("completed");
    assert!(journal.usage().bytes < 100, "the space of complete records is given back: {:?}", journal.usage());
    drop(journal);
    assert!(open(directory.path()).1.records.is_empty());
}

#[test]
fn a_torn_tail_is_set_aside_and_costs_nothing_before_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let (journal, _) = open(directory.path());
    for number in 0..3 {
        journal.append(format!("record {number}").as_bytes()).expect("appended");
    }
    drop(journal);
    let file = directory.path().join("0000000000000001.journal");
    let whole = fs::read(&file).expect("read");
    let mut asides = BTreeSet::new();
    for cut in 1..HEAD + 8 {
        fs::write(&file, &whole[..whole.len() - cut]).expect("cut");
        let (journal, opened) = open(directory.path());
        assert_eq!(payloads(&opened), ["record 0", "record 1"], "{cut} bytes are missing");
        assert_eq!(opened.damage.len(), 1);
        let aside = &opened.damage[0].aside;
        assert!(fs::read(aside).is_ok_and(|torn| torn.len() == HEAD + 8 - cut));
        assert!(asides.insert(aside.clone()), "what an earlier tear at the same place left is still there");
        let number = journal.append(b"after").expect("appended");
        drop(journal);
        let (_, opened) = open(directory.path());
        assert_eq!(payloads(&opened), ["record 0", "record 1", "after"]);
        assert_eq!(opened.records[2].number, number);
        fs::write(&file, &whole).expect("restored");
    }
}

#[test]
fn a_full_journal_refuses_and_takes_records_again_when_some_are_complete() {
    let directory = tempfile::tempdir().expect("a directory");
    let (journal, _) = open(directory.path());
    let mut numbers = Vec::new();
    let refused = loop {
        match journal.append(&[7; 100]) {
            Ok(number) => numbers.push(number),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::Full { limit: 4_096, wanted: 117, .. }), "{refused}");
    assert!(numbers.len() > 20, "{}", numbers.len());
    journal.complete(numbers[9]).expect("completed");
    journal.append(&[8; 100]).expect("there is room again");
    drop(journal);
    assert_eq!(open(directory.path()).1.records.len(), numbers.len() - 10 + 1);
}

#[test]
fn a_second_process_and_another_format_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = open(directory.path());
    let second = Journal::open(Options::new(directory.path())).expect_err("locked");
    assert!(matches!(second, Error::Locked(_)), "{second}");
    drop(first);
    fs::write(directory.path().join("0000000000000009.journal"), "CMJRNL\0\x02later").expect("written");
    let other = Journal::open(Options::new(directory.path())).expect_err("another version");
    assert!(matches!(other, Error::Format(_)), "{other}");
}

#[test]
fn a_record_of_a_later_kind_is_refused_and_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let (journal, _) = open(directory.path());
    journal.append(b"before").expect("appended");
    drop(journal);
    let file = directory.path().join("0000000000000001.journal");
    let mut bytes = fs::read(&file).expect("read");
    frame::write(&mut bytes, Kind::Other(2), 2, b"of a later version");
    frame::write(&mut bytes, Kind::Record, 3, b"after");
    fs::write(&file, &bytes).expect("written");
    let refused = Journal::open(Options::new(directory.path())).expect_err("it may say anything");
    assert!(matches!(&refused, Error::Kind { path, number: 2, kind: 2 } if *path == file), "{refused}");
    assert_eq!(fs::read(&file).expect("read"), bytes);
}

#[test]
fn appends_of_many_threads_are_all_there() {
    let directory = tempfile::tempdir().expect("a directory");
    let options = Options { segment_bytes: 1_000, ..Options::new(directory.path()) };
    let (journal, _) = Journal::open(options.clone()).expect("opened");
    let journal = Arc::new(journal);
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            let journal = Arc::clone(&journal);
            thread::spawn(move || {
                let append = |number| journal.append(format!("{thread}-{number}").as_bytes());
                (0..50).map(append).collect::<Result<Vec<_>, _>>().expect("appended")
            })
        })
        .collect();
    let mut numbers: Vec<u64> = threads.into_iter().flat_map(|thread| thread.join().expect("ended")).collect();
    numbers.sort_unstable();
    drop(journal);
    let (_, opened) = Journal::open(options).expect("opened");
    assert_eq!(opened.records.iter().map(|record| record.number).collect::<Vec<_>>(), numbers);
    assert_eq!(numbers.len(), 400);
}
