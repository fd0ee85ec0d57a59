//! The directory: reopening, locking, refusing what does not fit, noticing damage.

use std::{
    fs,
    path::{Path, PathBuf},
};

use context_manager_embedded::{Durability, Error, Former, OpenOptions, Shard};
use context_manager_memory::store::{Dense, OnModelChange, Selection};

use crate::fixture::{DIMENSIONS, NOW, context, id, me, options, put, query, store};

fn count(shard: &Shard) -> usize {
    shard.count(&Selection::alive(me(), NOW)).expect("count")
}

/// The files below a directory with a name that contains `part`.
fn files(directory: &Path, part: &str) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.file_name().is_some_and(|name| name.to_string_lossy().contains(part)) {
                found.push(path);
            }
        }
    }
    found
}

fn refusal(path: &Path) -> Error {
    Shard::open(options(path)).expect_err("a refusal")
}

#[test]
fn reopened_store_has_what_was_stored() {
    let (directory, shard) = store();
    put(&shard, (0..50).map(|number| context(number, &format!("memory {number}"))));
    shard.delete(&me(), &[id(0)]).expect("deleted");
    shard.close().expect("closed");
    let shard = Shard::open(options(directory.path())).expect("reopened");
    assert_eq!(count(&shard), 49);
    drop(shard);
    let shard = Shard::open(options(directory.path())).expect("reopened again");
    assert_eq!(shard.get(&me(), &[id(49)], NOW).expect("read"), [context(49, "memory 49")]);
    let search = context_manager_memory::store::Search {
        query: query("memory 49"),
        selection: Selection::alive(me(), NOW),
        per_leg: 5,
        frequencies: None,
    };
    assert!(!shard.search(&search).expect("search").is_empty());
}

#[test]
fn second_store_on_the_directory_is_refused_until_the_first_is_closed() {
    let (directory, shard) = store();
    let refused = refusal(directory.path());
    assert!(matches!(refused, Error::Locked { holder: Some(pid), .. } if pid == std::process::id()), "{refused}");
    assert!(refused.to_string().contains("in use by another sidecar"), "{refused}");
    put(&shard, [context(1, "still works")]);
    shard.close().expect("closed");
    assert_eq!(count(&Shard::open(options(directory.path())).expect("free again")), 1);
}

#[test]
fn other_dimensions_or_model_are_refused_and_the_contexts_stay() {
    let (directory, shard) = store();
    put(&shard, [context(1, "kept")]);
    shard.close().expect("closed");
    for other in [
        OpenOptions::new(directory.path(), 65, options(directory.path()).model.name),
        OpenOptions::new(directory.path(), DIMENSIONS, "text-embedding-3-small"),
    ] {
        let refused = Shard::open(other).expect_err("other vectors");
        assert!(matches!(refused, Error::Incompatible { .. }), "{refused}");
        assert!(refused.to_string().contains("use a new directory"), "{refused}");
    }
    assert_eq!(count(&Shard::open(options(directory.path())).expect("the old settings")), 1);
}

#[test]
fn cut_or_missing_files_of_the_engine_are_noticed() {
    for cut in [0, 2] {
        let (directory, shard) = store();
        put(&shard, (0..200).map(|number| context(number, "x")));
        shard.flush().expect("flushed");
        // The engine keeps the last entry of its log and would repair the files from it.
        shard.delete(&me(), &[id(0)]).expect("deleted");
        shard.close().expect("closed");
        let mappings = files(directory.path(), "mappings");
        assert!(!mappings.is_empty(), "the engine's file of ids");
        for path in mappings {
            let length = fs::metadata(&path).expect("a file").len();
            let file = fs::File::options().write(true).open(&path).expect("a file");
            file.set_len(length.checked_div(cut).unwrap_or(0)).expect("cut");
        }
        let refused = refusal(directory.path());
        assert!(matches!(refused, Error::Damaged { .. } | Error::Engine { .. }), "{refused}");
        if cut == 2 {
            assert!(refused.to_string().contains("at least 199 contexts"), "{refused}");
        }
    }
}

#[test]
fn emptied_engine_is_noticed_and_not_replaced() {
    let (directory, shard) = store();
    put(&shard, [context(1, "x")]);
    shard.close().expect("closed");
    let engine = directory.path().join("engine");
    let aside = directory.path().join("aside");
    fs::rename(&engine, &aside).expect("moved");
    let refused = refusal(directory.path());
    assert!(matches!(refused, Error::Damaged { .. }), "{refused}");
    assert!(!engine.exists(), "nothing was made in its place");
    fs::rename(&aside, &engine).expect("moved back");
    assert_eq!(count(&Shard::open(options(directory.path())).expect("whole again")), 1);
}

#[test]
fn lost_or_cut_manifest_is_noticed() {
    let (directory, shard) = store();
    put(&shard, [context(1, "x")]);
    shard.close().expect("closed");
    let manifest = directory.path().join("manifest.json");
    let text = fs::read(&manifest).expect("a manifest");
    fs::write(&manifest, &text[..text.len() / 2]).expect("cut");
    assert!(matches!(refusal(directory.path()), Error::Damaged { .. }));
    fs::remove_file(&manifest).expect("removed");
    let refused = refusal(directory.path());
    assert!(refused.to_string().contains("none beside 1 contexts"), "{refused}");
    fs::write(&manifest, text).expect("restored");
    assert_eq!(count(&Shard::open(options(directory.path())).expect("whole again")), 1);
}

#[test]
fn context_that_was_flushed_last_must_be_there() {
    let (directory, shard) = store();
    put(&shard, [context(1, "x"), context(2, "y")]);
    shard.close().expect("closed");
    let manifest = directory.path().join("manifest.json");
    let text = fs::read_to_string(&manifest).expect("a manifest");
    let (old, new) = (id(2).to_string(), id(3).to_string());
    assert!(text.contains(&old), "{text}");
    fs::write(&manifest, text.replace(&old, &new)).expect("written");
    let refused = refusal(directory.path());
    assert!(refused.to_string().contains(&new), "{refused}");
}

#[test]
fn interrupted_first_start_is_taken_up_again() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let leftover = directory.path().join("engine.new");
    fs::create_dir_all(leftover.join("segments")).expect("a leftover");
    fs::write(leftover.join("edge_config.json"), "{").expect("a leftover");
    let shard = Shard::open(options(directory.path())).expect("opened");
    shard.close().expect("closed");
    fs::remove_file(directory.path().join("manifest.json")).expect("removed");
    assert_eq!(count(&Shard::open(options(directory.path())).expect("nothing was stored yet")), 0);
}

#[test]
fn directory_that_cannot_be_made_is_an_error_with_its_name() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("file");
    fs::write(&file, "x").expect("a file");
    let refused = refusal(&file.join("below"));
    assert!(matches!(refused, Error::File { .. }) && refused.to_string().contains("below"), "{refused}");
}

#[test]
fn durable_writes_share_flushes_and_leave_nothing_unflushed() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let durable = OpenOptions { durability: Durability::Node, ..options(directory.path()) };
    let shard = Shard::open(durable).expect("opened");
    std::thread::scope(|scope| {
        for thread in 0..8_u128 {
            let shard = &shard;
            scope.spawn(move || {
                for number in 0..25 {
                    put(shard, [context(thread * 100 + number, "x")]);
                }
            });
        }
    });
    let stats = shard.stats().expect("stats");
    assert_eq!((stats.points, stats.unflushed_writes, stats.unreadable), (200, 0, 0));
    assert!(stats.disk_bytes.is_some_and(|bytes| bytes > 0));
}

#[test]
fn flush_covers_what_was_written_before_it() {
    let (_directory, shard) = store();
    put(&shard, [context(1, "x")]);
    put(&shard, [context(2, "y")]);
    assert_eq!(shard.stats().expect("stats").unflushed_writes, 2);
    shard.flush().expect("flushed");
    assert_eq!(shard.stats().expect("stats").unflushed_writes, 0);
}

fn for_model(directory: &Path, name: &str) -> OpenOptions {
    OpenOptions { on_model_change: OnModelChange::ReEmbed, ..OpenOptions::new(directory, DIMENSIONS, name) }
}

#[test]
fn an_interrupted_change_of_the_model_leaves_the_store_as_it_was() {
    let (directory, shard) = store();
    put(&shard, (0..600).map(|number| context(number, "kept")));
    shard.close().expect("closed");
    // What an end of the process leaves before the manifest is replaced: new files, unfinished or whole, that do not count.
    for leftover in ["engine-2.new", "engine-2"] {
        fs::create_dir(directory.path().join(leftover)).expect("a folder");
        fs::write(directory.path().join(leftover).join("half"), "a file").expect("written");
    }
    let shard = Shard::open(options(directory.path())).expect("the old files count");
    assert_eq!(count(&shard), 600);
    assert!(!directory.path().join("engine-2").exists(), "what does not count goes");
    shard.close().expect("closed");
    fs::create_dir(directory.path().join("engine-2")).expect("a folder");
    let shard = Shard::open(for_model(directory.path(), "another")).expect("changed after all");
    assert_eq!(count(&shard), 600);
    let missing = Selection { dense: Dense::Missing, ..Selection::alive(me(), NOW) };
    assert_eq!(shard.count(&missing).expect("counted"), 600);
    assert_eq!(shard.former_models(), [options(directory.path()).model]);
    shard.close().expect("closed");
    // And after the manifest is replaced: the old files are still there and do not count any more.
    assert!(!directory.path().join("engine").exists());
    fs::create_dir(directory.path().join("engine")).expect("a folder");
    let shard = Shard::open(for_model(directory.path(), "another")).expect("the new files count");
    assert_eq!(count(&shard), 600);
    assert!(!directory.path().join("engine").exists());
    drop(shard);
    fs::remove_file(directory.path().join("manifest.json")).expect("removed");
    let refused = Shard::open(for_model(directory.path(), "another")).expect_err("which files count is not known");
    assert!(matches!(refused, Error::Damaged { .. }) && refused.to_string().contains("engine-2"), "{refused}");
    assert!(directory.path().join("engine-2").exists(), "nothing is deleted without the manifest");
}

#[test]
fn former_vectors_give_back_their_space_when_they_are_dropped() {
    let (directory, shard) = store();
    put(&shard, (0..300).map(|number| context(number, "kept")));
    shard.close().expect("closed");
    Shard::open(for_model(directory.path(), "another")).expect("changed").close().expect("closed");
    let dropped = OpenOptions { former: Former::Drop, ..for_model(directory.path(), "another") };
    let shard = Shard::open(dropped).expect("written anew");
    assert_eq!((count(&shard), shard.former_models()), (300, Vec::new()));
    shard.close().expect("closed");
    let refused = Shard::open(options(directory.path())).expect_err("the former vectors are gone");
    assert!(matches!(refused, Error::Incompatible { .. }), "{refused}");
}
