//! The operations of the protocol. A handler decodes, asks for permission, calls the engine and encodes; it decides nothing.
//!
//! [`ENDPOINTS`] is the one table of them: what it has is served, counted, audited, and walked by the test of the access rules.
//! Each handler stands there with what the OpenAPI document says of it, so that neither is there without the other.

use aide::{
    axum::{
        ApiRouter,
        routing::{ApiMethodRouter, delete_with, get_with, patch_with, post_with},
    },
    openapi::OpenApi,
};
use axum::{Router, http::Method};
use context_manager_protocol::{config::Operation, problem::Code};

use crate::{engine::Engine, metrics::Route, refusal::Refusal};

mod describe;
pub mod document;
pub mod exchange;
mod read;
pub mod transfer;
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
    /// Every memory of the tenant, line by line.
    pub const EXPORT_TENANT: &str = "/v1/tenant/export";
    /// What such an export gave.
    pub const IMPORT_TENANT: &str = "/v1/tenant/import";
    /// Retrieve within a token budget.
    pub const SEARCH: &str = "/v1/contexts/search";
    /// Figures.
    pub const STATS: &str = "/v1/contexts/stats";
    /// One context.
    pub const CONTEXT: &str = "/v1/contexts/{id}";
    /// All of these in the frames of a WebSocket; served by [`crate::stream`].
    pub const STREAM: &str = context_manager_protocol::stream::PATH;
    /// The description of all of these. It is about no memory, so no access rule is about it.
    pub const OPENAPI: &str = "/v1/openapi.json";
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
    handler: fn() -> ApiMethodRouter<Engine>,
}

impl Endpoint {
    const fn new(
        method: Method,
        path: &'static str,
        route: Route,
        permission: Operation,
        handler: fn() -> ApiMethodRouter<Engine>,
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
pub static ENDPOINTS: [Endpoint; 14] = [
    Endpoint::new(Method::POST, path::CONTEXTS, Route::Store, Operation::Store, || {
        post_with(write::store, describe::store)
    }),
    Endpoint::new(Method::POST, path::BATCH, Route::StoreBatch, Operation::Store, || {
        post_with(write::store_batch, describe::store_batch)
    }),
    Endpoint::new(Method::POST, path::SEARCH, Route::Search, Operation::Read, || {
        post_with(read::search, describe::search)
    }),
    Endpoint::new(Method::GET, path::CONTEXT, Route::Get, Operation::Read, || {
        get_with(read::context, describe::context)
    }),
    Endpoint::new(Method::GET, path::CONTEXTS, Route::List, Operation::Read, || get_with(read::list, describe::list)),
    Endpoint::new(Method::GET, path::STATS, Route::Stats, Operation::Read, || get_with(read::stats, describe::stats)),
    Endpoint::new(Method::PATCH, path::CONTEXT, Route::Update, Operation::Update, || {
        patch_with(write::update, describe::update)
    }),
    Endpoint::new(Method::DELETE, path::CONTEXT, Route::Delete, Operation::Delete, || {
        delete_with(write::delete, describe::delete)
    }),
    Endpoint::new(Method::DELETE, path::CONTEXTS, Route::ClearSession, Operation::Delete, || {
        delete_with(write::clear_session, describe::clear_session)
    }),
    Endpoint::new(Method::POST, path::DELETE, Route::DeleteMatching, Operation::Delete, || {
        post_with(write::delete_matching, describe::delete_matching)
    }),
    Endpoint::new(Method::GET, path::EXPORT, Route::Export, Operation::Export, || {
        get_with(transfer::export, describe::export)
    }),
    Endpoint::new(Method::POST, path::IMPORT, Route::Import, Operation::Import, || {
        post_with(transfer::import, describe::import)
    }),
    Endpoint::new(Method::GET, path::EXPORT_TENANT, Route::ExportTenant, Operation::Export, || {
        get_with(transfer::export_tenant, describe::export_tenant)
    }),
    Endpoint::new(Method::POST, path::IMPORT_TENANT, Route::ImportTenant, Operation::Import, || {
        post_with(transfer::import_tenant, describe::import_tenant)
    }),
];

/// All operations on `engine`.
pub fn router(engine: Engine) -> Router {
    described()
        .finish_api(&mut OpenApi::default())
        .fallback(unknown_route)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(engine)
}

/// All operations with their descriptions; [`crate::openapi`] makes the document of them.
pub fn described() -> ApiRouter<Engine> {
    let serve = |router: ApiRouter<Engine>, endpoint: &Endpoint| router.api_route(endpoint.path, (endpoint.handler)());
    let document = get_with(document::openapi, describe::openapi);
    let served = ENDPOINTS.iter().fold(ApiRouter::new(), serve).api_route(path::OPENAPI, document);
    // The pipeline serves the stream, because its frames pass the layers.
    served.api_route_docs(path::STREAM, describe::stream())
}

async fn unknown_route() -> Refusal {
    Refusal::new(Code::RouteUnknown, "the routes are those under /v1/contexts and /v1/tenant; see docs/protocol.md")
}

async fn method_not_allowed(method: Method) -> Refusal {
    let method = if method.as_str().len() <= 16 { method.as_str() } else { "this method" };
    Refusal::new(
        Code::MethodNotAllowed,
        format!("{method} is not supported here; the header Allow names those that are"),
    )
}
