//! The `ContextManager` resource: its types, the rules that the API server checks, and the YAML generated from both.
//!
//! Every rule stands twice: as schema or CEL for the API server ([`rules`]), and as plain code ([`validate`]) for objects
//! that were admitted before the rule existed. The schema has no defaults: an absent field stays absent, and what it
//! means is decided where it is used, so that a later release can choose better. The crate never talks to a cluster.

pub mod context_manager;
pub mod duration;
pub mod quantity;
pub mod rules;
pub mod validate;

mod schema;

pub use context_manager::{ContextManager, ContextManagerSpec, ContextManagerStatus};
pub use schema::{crd, crd_yaml};
