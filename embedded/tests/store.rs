//! The contract of the embedded store, on the real engine in temporary directories.

#[path = "store/contexts.rs"]
mod contexts;
#[path = "store/directory.rs"]
mod directory;
#[path = "store/filters.rs"]
mod filters;
#[path = "store/fixture.rs"]
mod fixture;
#[path = "store/process.rs"]
mod process;
#[path = "store/retrieval.rs"]
mod retrieval;
#[path = "store/shortcuts.rs"]
mod shortcuts;
