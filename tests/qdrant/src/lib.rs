//! A server that speaks Qdrant's gRPC protocol in front of Qdrant's own engine, for suites on machines without a Qdrant server.
//!
//! It knows the calls that the product makes, with the fields that the product sets; every other call, and every field that would
//! change an answer, is refused by name and not ignored. Collections lie in a directory and survive `kill -9`, like a server's.
//! What it cannot show is a cluster: there is one node, and replication settings are kept but mean nothing.
//!
//! The same suites run on a real server (`CONTEXT_MANAGER_TEST_QDRANT_URL`), which is what keeps this one honest.

mod access;
mod collections;
mod control;
mod convert;
mod filter;
mod points;
mod server;
mod store;
mod strict;
mod vectors;

pub use control::{Control, Mode};
pub use server::{Server, Tls};
