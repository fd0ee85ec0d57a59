//! The contract of the vector store, on both adapters.
//!
//! `embedded` is the engine in process. `qdrant` is a server: the one that `CONTEXT_MANAGER_TEST_QDRANT_URL` names, one in a container
//! with `CONTEXT_MANAGER_TEST_QDRANT=docker`, or else one of this process that speaks the protocol in front of the same engine. Each test has a directory or a collection of its own.

#[macro_use]
#[path = "stores/both.rs"]
mod both;
#[path = "stores/connection.rs"]
mod connection;
#[path = "stores/contract.rs"]
mod contract;
#[path = "stores/docker.rs"]
mod docker;
#[path = "stores/fixture.rs"]
mod fixture;
#[path = "stores/models.rs"]
mod models;
#[path = "stores/same.rs"]
mod same;
