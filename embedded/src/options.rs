//! How a store is opened.

use std::path::PathBuf;

use context_manager_memory::store::{Model, OnModelChange};

/// What an acknowledged write survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The end of the process, in whatever way.
    #[default]
    Process,
    /// The end of the machine too: each write returns only after a flush, which all waiting writes share.
    Node,
}

/// What becomes of vectors that former models have made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Former {
    /// They stay, so that going back to their model costs nothing.
    #[default]
    Keep,
    /// They go, and give back their space.
    Drop,
}

/// How a store is opened.
///
/// ```
/// use context_manager_embedded::{Durability, OpenOptions};
///
/// let options = OpenOptions { durability: Durability::Node, ..OpenOptions::new("/data/memory", 384, "builtin-hash-1") };
/// assert_eq!(options.model.dimensions, 384);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// The directory; made if it is not there.
    pub path: PathBuf,
    /// The embedding model; vectors of different models cannot be compared.
    pub model: Model,
    /// What is done with a directory whose vectors are another model's.
    pub on_model_change: OnModelChange,
    /// What becomes of the vectors of former models.
    pub former: Former,
    /// What an acknowledged write survives.
    pub durability: Durability,
    /// The size of a file of the engine's log in bytes; two of them are laid out in advance.
    pub log_segment_bytes: usize,
    /// How many threads a search may use.
    pub search_threads: usize,
}

impl OpenOptions {
    /// Options for a sidecar: small log files, one search thread, writes that survive the process.
    pub fn new(path: impl Into<PathBuf>, dimensions: usize, model: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            model: Model { name: model.into(), dimensions },
            on_model_change: OnModelChange::default(),
            former: Former::default(),
            durability: Durability::Process,
            log_segment_bytes: 8 << 20,
            search_threads: 1,
        }
    }
}
