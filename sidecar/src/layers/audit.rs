//! The audit log: one line for each authenticated request that may change memory or take all of it away, whatever became of it.
//! Requests that are not authenticated have theirs from [`super::authenticate`].
//!
//! It says who (tenant, agent, key), what (operation, ids), the decision and how it ended; the span has the request's id. It
//! never has a text, a query or metadata.

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use context_manager_protocol::problem::{Code, Problem};
use tracing::info;
use uuid::Uuid;

use crate::{
    engine::Engine,
    identity::Verified,
    metrics::{Label as _, Route},
};

/// Most ids of one line.
const MOST_IDS: usize = 100;

/// The contexts that a request wrote; an extension of its answer.
#[derive(Clone, Debug, Default)]
pub struct Written(pub Vec<Uuid>);

/// The layer. It stands inside authentication, around all routes.
pub async fn audit(State(engine): State<Engine>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<Route>().copied().unwrap_or(Route::Unknown);
    let verified = request.extensions().get::<Verified>().cloned();
    let response = next.run(request).await;
    let problem = response.extensions().get::<Problem>().map(|problem| problem.code);
    let refused = problem == Some(Code::AccessDenied);
    if is_recorded(route) || refused {
        let written = response.extensions().get::<Written>().map(|Written(ids)| ids.as_slice()).unwrap_or_default();
        let shown: Vec<String> = written.iter().take(MOST_IDS).map(ToString::to_string).collect();
        let owner = engine.owner();
        info!(
            target: "context_manager::audit",
            decision = if refused { "refused" } else { "allowed" },
            operation = route.as_str(),
            tenant = owner.tenant.as_str(),
            agent = owner.agent.as_str(),
            key.id = verified.as_ref().map_or("", Verified::key_id),
            http.status = response.status().as_u16(),
            problem.code = problem.map_or("", Code::as_str),
            contexts = shown.join(","),
            contexts.total = written.len(),
            "Decided on a request"
        );
    }
    response
}

/// Whether an operation changes the memory or takes all of it away.
const fn is_recorded(route: Route) -> bool {
    match route {
        Route::Store
        | Route::StoreBatch
        | Route::Update
        | Route::Delete
        | Route::ClearSession
        | Route::DeleteMatching
        | Route::Export
        | Route::Import => true,
        Route::Search | Route::Get | Route::List | Route::Stats | Route::Unknown => false,
    }
}
