//! A collection of a Qdrant server, over gRPC: the remote counterpart of the embedded store.
//!
//! Owns everything that knows the server: the channel with its trust and its key ([`Options`]), the collection's making and
//! checking ([`Collection::open`]), and the translation of the product's calls. Contexts lie in a collection exactly as in the
//! embedded store ([`context_manager_memory::store::schema`]), so moving from one to the other is reading and writing.
//!
//! Writes wait until the server has applied them. Every call has a deadline. Calls are idempotent, so a caller may repeat one
//! whose answer was lost. Nothing here retries, reads a clock, makes an id or ranks.
//!
//! # Guards
//! A collection that was made for another model, with other vectors or another schema is refused, and never changed or deleted.

mod accesses;
mod admin;
mod certificate;
mod channel;
mod collection;
mod convert;
mod error;
mod failure;
mod filter;
mod frequencies;
mod model;
mod options;
mod read;
mod schema;
mod search;
mod tls;
mod together;
mod welcome;
mod write;

pub use admin::{Found, Orphans};
pub use collection::Collection;
pub use error::Error;
pub use failure::Failure;
pub use options::{Identity, Options, Sizing, Trust};
pub use tls::Distrust;
pub use welcome::Refusal;
