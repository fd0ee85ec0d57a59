//! What crosses a process boundary: between an agent and its sidecar, between the operator and the sidecar, and between the sidecar
//! and an embeddings API.
//!
//! The crate owns the messages and their codecs ([`message`], [`codec`], [`stream`]), the signature of a request ([`signature`],
//! [`digest`]), what a caller says about its trace ([`trace_context`]), the public error codes ([`problem`]), the key ring file
//! ([`keyring`]), the sidecar's configuration file ([`config`]), the embeddings API's calls and answers ([`embeddings`]), and every
//! name that two processes must agree on ([`names`]).
//!
//! It does no I/O, reads no clock and knows neither Kubernetes nor the vector store: times, nonces and keys come in as
//! arguments, so that the agent's side and the sidecar's side run the same code.

pub mod codec;
pub mod config;
pub mod digest;
pub mod duration;
pub mod embeddings;
pub mod hexadecimal;
mod integer;
pub mod keyring;
pub mod level;
pub mod message;
pub mod names;
pub mod problem;
pub mod signature;
pub mod size;
pub mod stream;
pub mod trace_context;
