//! Support for the suites on real parts: programs started as a user starts them, a client that signs, and a real cluster.
//!
//! Nothing here stands in for a part of the product. The suites themselves are in `tests/tests/`.

pub mod admissions;
pub mod api_server;
pub mod background;
pub mod bucket;
pub mod cert_manager;
pub mod client;
pub mod cluster;
pub mod collector;
pub mod disk;
pub mod embeddings;
pub mod files;
pub mod front;
pub mod gate;
pub mod helm;
pub mod ledger;
pub mod listening;
pub mod nodes;
pub mod objects;
pub mod operator;
pub mod plugin;
pub mod pods;
pub mod policy;
pub mod program;
pub mod proxy;
pub mod qdrant;
pub mod replica;
pub mod rights;
pub mod rotation;
pub mod sidecar;
pub mod stream;
pub mod tally;
pub mod team;
pub mod unreadable;
pub mod volumes;
pub mod webhook;
