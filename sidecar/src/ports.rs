//! The ports: what the engine needs from the outside, in the product's own terms.
//!
//! Owns the two traits and their errors. An adapter implements a trait for one technology; the engine holds it as
//! `Arc<dyn …>` and knows none of them. Nothing here names a vector engine, an HTTP client or a wire format.

use std::time::Duration;

pub mod embedder;
pub mod vector_store;

pub use embedder::Embedder;
pub use vector_store::VectorStore;

/// Whether a failed call may be made again, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same call fails the same way until somebody changes something.
    Never,
    /// After a backoff of the caller's choice.
    Backoff,
    /// Not before this time has passed, as the other side asked for.
    After(Duration),
}

impl Retry {
    /// Whether another attempt is worth it at all.
    #[must_use]
    pub const fn is_worthwhile(self) -> bool {
        !matches!(self, Self::Never)
    }
}
