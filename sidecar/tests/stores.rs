//! The contract of the vector store, on both adapters.
//!
//! `embedded` is the engine in process. `qdrant` is a server: the one that `CONTEXT_MANAGER_TEST_QDRANT_URL` names, or else one of
//! this process that speaks the protocol in front of the same engine. Each test has a directory or a collection of its own.

#[path = "stores/contract.rs"]
mod contract;
#[path = "stores/fixture.rs"]
mod fixture;
#[path = "stores/same.rs"]
mod same;
