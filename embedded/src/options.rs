//! How a store is opened.

use std::path::PathBuf;

/// What an acknowledged write survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The end of the process, in whatever way.
    #[default]
    Process,
    /// The end of the machine too: each write returns only after a flush, which all waiting writes share.
    Node,
}

/// How a store is opened. The directory, once made, can only be opened with the same model and dimensions.
///
/// ```
/// use context_manager_embedded::{Durability, OpenOptions};
///
/// let options = OpenOptions { durability: Durability::Node, ..OpenOptions::new("/data/memory", 384, "builtin-hash-1") };
/// assert_eq!(options.dimensions, 384);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// The directory; made if it is not there.
    pub path: PathBuf,
    /// The length of every dense vector.
    pub dimensions: usize,
    /// The name of the embedding model; vectors of different models cannot be compared.
    pub model: String,
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
            dimensions,
            model: model.into(),
            durability: Durability::Process,
            log_segment_bytes: 8 << 20,
            search_threads: 1,
        }
    }
}
