//! The operations of the protocol. A handler decodes, asks for permission, calls the engine and encodes; it decides nothing.
//!
//! [`ENDPOINTS`] is the one table of them: what it has is served, counted, audited, and walked by the test of the access rules.

use axum::{
    Router,
    http::Method,
    routing::{MethodRouter, delete, get, patch, post},
};
use context_manager_protocol::{config::Operation, problem::Code};

use crate::{engine::Engine, metrics::Route, refusal::Refusal};

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
    /// All of these in the frames of a WebSocket; served by [`crate::stream`].
    pub const STREAM: &str = context_manager_protocol::stream::PATH;
}

/// An operation.
pub struct Endpoint {
    /// How it is asked for. `GET` is `HEAD` as well.
    pub method: Method,
    /// Where.
    pub path: &'static str,
    /// How it is counted.
    pub route: Route,
    /// What an access rule has to permit outside the agent's own memory.
    pub permission: Operation,
    handler: fn() -> MethodRouter<Engine>,
}

impl Endpoint {
    const fn new(
        method: Method,
        path: &'static str,
        route: Route,
        permission: Operation,
        handler: fn() -> MethodRouter<Engine>,
    ) -> Self {
        Self { method, path, route, permission, handler }
    }

    /// The operation that a method asks for at a path as it is routed.
    #[must_use]
    pub fn find(method: &Method, path: &str) -> Option<&'static Self> {
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        ENDPOINTS.iter().find(|endpoint| endpoint.path == path && endpoint.method == *method)
    }
}

/// All operations.
pub static ENDPOINTS: [Endpoint; 12] = [
    Endpoint::new(Method::POST, path::CONTEXTS, Route::Store, Operation::Store, || post(write::store)),
    Endpoint::new(Method::POST, path::BATCH, Route::StoreBatch, Operation::Store, || post(write::store_batch)),
    Endpoint::new(Method::POST, path::SEARCH, Route::Search, Operation::Read, || post(read::search)),
    Endpoint::new(Method::GET, path::CONTEXT, Route::Get, Operation::Read, || get(read::context)),
    Endpoint::new(Method::GET, path::CONTEXTS, Route::List, Operation::Read, || get(read::list)),
    Endpoint::new(Method::GET, path::STATS, Route::Stats, Operation::Read, || get(read::stats)),
    Endpoint::new(Method::PATCH, path::CONTEXT, Route::Update, Operation::Update, || patch(write::update)),
    Endpoint::new(Method::DELETE, path::CONTEXT, Route::Delete, Operation::Delete, || delete(write::delete)),
    Endpoint::new(Method::DELETE, path::CONTEXTS, Route::ClearSession, Operation::Delete, || {
        delete(write::clear_session)
    }),
    Endpoint::new(Method::POST, path::DELETE, Route::DeleteMatching, Operation::Delete, || {
        post(write::delete_matching)
    }),
    Endpoint::new(Method::GET, path::EXPORT, Route::Export, Operation::Export, || get(transfer::export)),
    Endpoint::new(Method::POST, path::IMPORT, Route::Import, Operation::Import, || post(transfer::import)),
];

/// All operations on `engine`.
pub fn router(engine: Engine) -> Router {
    let serve = |router: Router<Engine>, endpoint: &Endpoint| router.route(endpoint.path, (endpoint.handler)());
    ENDPOINTS
        .iter()
        .fold(Router::new(), serve)
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
