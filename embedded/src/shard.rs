//! The store: one directory, one engine, the product's calls.
//!
//! Owns the handle and its bookkeeping. Locks are always taken in the order `flushing`, `manifest`, `writes`: a flush and a
//! deletion must not disagree about what the directory holds, and an ordinary write waits for neither. The lock of
//! `counting` is taken before `writes` and with none of the others, and no write waits for it. The locks of
//! `frequencies`, `levels` and `recent` are held for moments, and never while the engine works or another one is taken.

mod flush;
mod frequencies;
mod levels;
mod models;
mod open;
mod read;
mod recent;
mod search;
mod write;

use std::{
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use qdrant_edge::EdgeShard;

use frequencies::Frequencies;
use levels::Levels;
use recent::Recent;

use crate::{
    OpenOptions,
    lock::DirectoryLock,
    manifest::{Manifest, Newest},
};

/// The embedded vector store.
///
/// ```no_run
/// use context_manager_embedded::{OpenOptions, Shard};
///
/// let shard = Shard::open(OpenOptions::new("/data/memory", 384, "builtin-hash-1"))?;
/// shard.flush()?;
/// shard.close()?;
/// # Ok::<(), context_manager_embedded::Error>(())
/// ```
pub struct Shard {
    engine: EdgeShard,
    options: OpenOptions,
    flushing: Mutex<()>,
    /// The manifest as it lies in the directory.
    manifest: Mutex<Manifest>,
    writes: Mutex<Writes>,
    /// Number of the last write in the engine's log, and of the last one that a flush covered.
    written: AtomicU64,
    flushed: AtomicU64,
    /// Number of the last write that the manifest accounts for.
    recorded: AtomicU64,
    /// Contexts that were deleted since their space was last given back.
    uncompacted: AtomicUsize,
    unreadable: AtomicU64,
    frequencies: Mutex<Frequencies>,
    /// Held by a search while it counts a corpus for the first time.
    counting: Mutex<()>,
    levels: Mutex<Option<Levels>>,
    /// Writes that changed which contexts there are, or anything but their accesses and dense vectors.
    changes: AtomicU64,
    recent: Mutex<Recent>,
    /// Searches since one without a filter was in vain.
    tries: AtomicUsize,
    // The last field, so that the engine is closed before another process may come.
    _lock: DirectoryLock,
}

/// What has happened since the store was opened; holding its lock makes writes follow one another.
#[derive(Clone, Copy, Debug, Default)]
struct Writes {
    deleted: usize,
    /// Expired contexts whose place new ones took.
    replaced: usize,
    newest: Option<Newest>,
}

/// The engine's own form would show what is stored.
impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Shard {
    /// How the store was opened.
    #[must_use]
    pub const fn options(&self) -> &OpenOptions {
        &self.options
    }

    /// Notes a write in the engine's log and returns its number.
    fn note_write(&self) -> u64 {
        self.written.fetch_add(1, Ordering::AcqRel) + 1
    }
}

/// A panic while the lock was held leaves nothing half done here: the guarded values are counters and copies.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
