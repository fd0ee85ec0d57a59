//! What survives the end of the process: a copy of this test program writes, and is ended without notice.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
};

use context_manager_embedded::{Error, Shard};
use context_manager_memory::{
    Context, Timestamp,
    store::{Selection, Updated},
};

use crate::fixture::{NOW, context, id, me, options, point, put};

const DIRECTORY: &str = "CONTEXT_MANAGER_TEST_DIRECTORY";

/// Starts this program again with one of the tests below that end with `_child`.
fn child(test: &str, directory: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", &format!("process::{test}"), "--ignored", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .expect("a second process")
}

fn directory() -> std::path::PathBuf {
    std::env::var_os(DIRECTORY).expect("only started by another test").into()
}

fn say(line: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("the parent listens");
}

#[test]
#[ignore = "the other process of acknowledged_writes_survive_a_killed_process"]
fn writing_child() {
    let shard = Shard::open(options(&directory())).expect("opened");
    for number in 0.. {
        put(&shard, [context(number, &format!("memory {number}"))]);
        if number % 500 == 499 {
            shard.flush().expect("flushed");
        }
        say(&format!("acknowledged {number}"));
    }
}

#[test]
fn acknowledged_writes_survive_a_killed_process() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for wanted in [300_u128, 1_200] {
        let mut child = child("writing_child", directory.path());
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let mut acknowledged = 0;
        for line in lines.map_while(Result::ok) {
            if let Some(number) = line.rsplit_once("acknowledged ").and_then(|(_, number)| number.parse().ok()) {
                acknowledged = number;
                if number == wanted {
                    let refused = Shard::open(options(directory.path())).expect_err("in use");
                    assert!(
                        matches!(refused, Error::Locked { holder: Some(pid), .. } if pid == child.id()),
                        "{refused}"
                    );
                    child.kill().expect("killed");
                }
            }
        }
        child.wait().expect("ended");
        assert!(acknowledged >= wanted);
        let shard = Shard::open(options(directory.path())).expect("reopened");
        for number in 0..=acknowledged {
            let read = shard.get(&me(), &[id(number)], NOW).expect("read");
            assert_eq!(read, [context(number, &format!("memory {number}"))]);
        }
    }
}

/// What another process left that ended by itself, and its directory.
fn after_the_crash_of(name: &str) -> (tempfile::TempDir, Shard) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let status = child(name, directory.path()).wait().expect("ended");
    assert!(!status.success());
    let shard = Shard::open(options(directory.path())).expect("reopened");
    (directory, shard)
}

#[test]
#[ignore = "the other process of deletions_before_a_crash_do_not_look_like_damage"]
fn deleting_child() {
    let shard = Shard::open(options(&directory())).expect("opened");
    put(&shard, (0..300).map(|number| context(number, "x")));
    shard.flush().expect("flushed");
    let newest_and_others: Vec<_> = (100..300).map(id).collect();
    assert_eq!(shard.delete(&me(), &newest_and_others).expect("deleted"), 200);
    say("acknowledged");
    std::process::abort();
}

#[test]
fn deletions_before_a_crash_do_not_look_like_damage() {
    let (_directory, shard) = after_the_crash_of("deleting_child");
    assert_eq!(shard.count(&Selection::alive(me(), NOW)).expect("count"), 100);
}

#[test]
#[ignore = "the other process of an_expired_context_that_was_stored_again_before_a_crash_does_not_look_like_damage"]
fn replacing_child() {
    let shard = Shard::open(options(&directory())).expect("opened");
    let later = |millis| Timestamp::from_millis(NOW.as_millis() + millis);
    shard.insert(&[point(context(1, "tea"))], NOW).expect("stored");
    let second = Context { version: 2, expires_at: Some(later(10)), ..context(1, "tea") };
    assert_eq!(shard.update(&second, None, 1).expect("changed"), Updated::Applied);
    shard.flush().expect("flushed");
    shard.insert(&[point(context(1, "coffee"))], later(20)).expect("stored again");
    say("acknowledged");
    std::process::abort();
}

#[test]
fn an_expired_context_that_was_stored_again_before_a_crash_does_not_look_like_damage() {
    let (_directory, shard) = after_the_crash_of("replacing_child");
    assert_eq!(shard.get(&me(), &[id(1)], NOW).expect("read"), [context(1, "coffee")]);
}
