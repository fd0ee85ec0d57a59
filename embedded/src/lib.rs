//! The embedded vector store: Qdrant's engine in process, on one directory.
//!
//! Owns everything that knows the engine: the directory
//! and its guards ([`Shard::open`]), writes, exact retrieval over four legs ([`Shard::search`]), expiry and statistics. No other
//! crate names `qdrant_edge`, so that only programs that embed the engine compile it.
//!
//! Every call blocks and may be made from any thread; an async program calls from threads of its own. Writes are applied one
//! after another, reads run beside them. Nothing here reads a clock, makes an id or ranks.
//!
//! # Durability
//! A write is in the engine's log when the call returns and survives the end of the process, `kill -9` included. The end of
//! the machine it survives only after [`Shard::flush`], which [`Durability::Node`] does before each write returns; calls that
//! wait for it at the same time share one flush. A flush also trims the log, so a program with [`Durability::Process`] calls it
//! on a timer: what is in the log is replayed on the next open.
//!
//! # Models
//! The engine's files have the current model's vectors under the plain names. When the model changes, the files are written anew
//! beside the old ones, with the former vectors under a name of their own and none under the plain ones; the manifest then says
//! which files count. So a change is there as a whole or not at all, and contexts are found by their words until they have their
//! new vectors.
//!
//! # Guards
//! The engine opens damaged files without an error and shows what is left. So each flush records in a manifest how many
//! contexts there must be at least and which one was written last, and [`Shard::open`] refuses a directory that has less, that
//! belongs to another embedding model (unless it may get vectors of the new one), or that another process uses. It never deletes what it does not understand. What the
//! manifest cannot see is the loss of writes that were never flushed; the engine reports a cut log through the `log` crate,
//! which the program should bridge to its own log.

mod error;
mod filter;
mod lock;
mod manifest;
mod options;
mod shard;

pub use error::Error;
pub use options::{Durability, Former, OpenOptions};
pub use shard::Shard;
