//! Layers around an embedder, one concern each. [`super::embedder`] is the only place that orders them.

pub mod cache;
pub mod guard;
pub mod measure;
pub mod retry;
pub mod split;
