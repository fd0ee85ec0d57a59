//! The operations of the protocol. A handler decodes, calls the engine and encodes; it decides nothing.

use axum::{
    Router,
    http::Method,
    routing::{get, post},
};
use context_manager_protocol::problem::Code;

use crate::{engine::Engine, refusal::Refusal};

pub mod exchange;
mod read;
mod transfer;
mod write;

/// The paths, as they are routed and counted.
pub mod path {
    /// Store, list, clear a session.
    pub const CONTEXTS: &str = "/v1/contexts";
    /// Store several.
    pub const BATCH: &str = "/v1/contexts/batch";
    /// Delete by conditions.
    pub const DELETE: &str = "/v1/contexts/delete";
    /// Everything, line by line.
    pub const EXPORT: &str = "/v1/contexts/export";
    /// What an export gave.
    pub const IMPORT: &str = "/v1/contexts/import";
    /// Retrieve within a token budget.
    pub const SEARCH: &str = "/v1/contexts/search";
    /// Figures.
    pub const STATS: &str = "/v1/contexts/stats";
    /// One context.
    pub const CONTEXT: &str = "/v1/contexts/{id}";
}

/// All operations on `engine`.
pub fn router(engine: Engine) -> Router {
    Router::new()
        .route(path::CONTEXTS, post(write::store).get(read::list).delete(write::clear_session))
        .route(path::BATCH, post(write::store_batch))
        .route(path::DELETE, post(write::delete_matching))
        .route(path::EXPORT, get(transfer::export))
        .route(path::IMPORT, post(transfer::import))
        .route(path::SEARCH, post(read::search))
        .route(path::STATS, get(read::stats))
        .route(path::CONTEXT, get(read::context).patch(write::update).delete(write::delete))
        .fallback(unknown_route)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(engine)
}

async fn unknown_route() -> Refusal {
    Refusal::new(Code::RouteUnknown, "the routes are those under /v1/contexts; see docs/protocol.md")
}

async fn method_not_allowed(method: Method) -> Refusal {
    let method = if method.as_str().len() <= 16 { method.as_str() } else { "this method" };
    Refusal::new(
        Code::MethodNotAllowed,
        format!("{method} is not supported here; the header Allow names those that are"),
    )
}
