//! What is asked of all subjects: a text for the sidecar, and the vectors that the sidecar makes of it for the bare ones.

use context_manager_memory::{SparseVector, builtin, lexical, store::schema};

/// The length of the built-in embedder's vectors.
pub const DIMENSIONS: usize = 384;
/// How many of the best each leg contributes.
pub const PER_LEG: usize = 100;
/// Whose contexts: those of a sidecar without a name of its own.
pub const TENANT: &str = "default";
pub const AGENT: &str = "default";
/// The levels that are searched in the store; L1 is empty here.
pub const LEVELS: [&str; 2] = ["short_term", "long_term"];
/// What a query's vectors are compared with.
pub const DENSE: [&str; 2] = [schema::DENSE_SELF, schema::DENSE_CTX];
pub const SPARSE: [&str; 2] = [schema::SPARSE_SELF, schema::SPARSE_CTX];

/// A query.
#[derive(Clone, Debug)]
pub struct Query {
    pub text: String,
    pub dense: Vec<f32>,
    pub terms: SparseVector,
}

impl Query {
    pub fn new(text: String) -> Self {
        let (dense, terms) = (builtin::embed(&text, DIMENSIONS), lexical::query(&text));
        Self { text, dense, terms }
    }
}
