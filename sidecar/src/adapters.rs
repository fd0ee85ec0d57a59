//! The adapters: one technology each behind a port of [`crate::ports`], and the layers around them.

pub mod builtin;
pub mod embedded;
pub mod embedder;
pub mod layers;
pub mod openai;
pub mod qdrant;
mod trimmed;
