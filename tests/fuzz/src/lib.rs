//! What must hold for whatever bytes a stranger, a disk or a person hands to the product's parsers.
//!
//! Each target is a function of bytes that panics when something does not hold. `fuzz/` runs them under libFuzzer
//! (`cargo xtask fuzz`), and `tests/corpora.rs` runs them over the stored inputs in every test run. Nothing here knows the vector
//! engine, so that the targets compile in seconds.

mod answers;
mod config;
mod journal;
mod messages;
mod signature;
mod stored;
mod stream;
mod texts;

/// A function that must not panic, whatever it gets.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also the name of its folder of inputs.
pub const TARGETS: &[(&str, Target)] = &[
    ("messages_json", messages::json),
    ("messages_msgpack", messages::message_pack),
    ("export_lines", messages::export_lines),
    ("stream_json", stream::json),
    ("stream_msgpack", stream::message_pack),
    ("stored", stored::json),
    ("payload", stored::payload),
    ("signature", signature::headers),
    ("content_digest", signature::content_digest),
    ("key_ring", config::key_ring),
    ("config", config::sidecar),
    ("journal_frames", journal::frames),
    ("journal_files", journal::files),
    ("journal_tail", journal::tail),
    ("durations_and_sizes", texts::durations_and_sizes),
    ("texts", texts::texts),
    ("embeddings", answers::embeddings),
    ("trace_parent", answers::trace_parent),
];

/// Runs the target of that name.
///
/// # Panics
/// When something does not hold, or when there is no such target.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(target, _)| *target == name);
    let (_, target) = target.expect("a target of the table");
    target(data);
}
