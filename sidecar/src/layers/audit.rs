//! The audit log: one line for each authenticated request that may change memory or take all of it away, whatever became of it,
//! and for each stream that is opened. Requests that are not authenticated have theirs from [`super::authenticate`].
//!
//! It says who (tenant, agent, key), what (operation, ids), where (the memories that were asked for), the decision of the access
//! rules and how it ended; the span has the request's id. It never has a text, a query, metadata or a session's name. What the
//! rules refuse is counted here as well.

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use context_manager_protocol::problem::{Code, Problem};
use tracing::info;
use uuid::Uuid;

use crate::{
    access::Decision,
    engine::Engine,
    identity::{Identity, Verified},
    metrics::{Label as _, Route},
};

/// Most ids of one line.
const MOST_IDS: usize = 100;
/// Most memories of one line.
const MOST_SCOPES: usize = 16;

/// The contexts that a request wrote; an extension of its answer.
#[derive(Clone, Debug, Default)]
pub struct Written(pub Vec<Uuid>);

/// The layer. It stands inside authentication, around all routes.
pub async fn audit(State(engine): State<Engine>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<Route>().copied().unwrap_or(Route::Unknown);
    let verified = request.extensions().get::<Verified>().cloned();
    let response = next.run(request).await;
    let problem = response.extensions().get::<Problem>().map(|problem| problem.code);
    let decisions = verified.as_ref().map(|verified| verified.decisions().all()).unwrap_or_default();
    let refused: Vec<&Decision> = decisions.iter().filter(|decision| !decision.permitted).collect();
    for decision in &refused {
        engine.metrics().auth.denials.add(decision.operation, 1);
    }
    if is_recorded(route) || !refused.is_empty() {
        let written = response.extensions().get::<Written>().map(|Written(ids)| ids.as_slice()).unwrap_or_default();
        let shown: Vec<String> = written.iter().take(MOST_IDS).map(ToString::to_string).collect();
        let Identity { tenant, agent, pod: _ } = engine.identity();
        let decision = match problem {
            Some(Code::AccessDenied) => "refused",
            _ if refused.is_empty() => "allowed",
            _ => "refused in part",
        };
        info!(
            target: "context_manager::audit",
            decision,
            operation = route.as_str(),
            tenant = tenant.as_str(),
            agent = agent.as_str(),
            key.id = verified.as_ref().map_or("", Verified::key_id),
            scope = scopes(decisions.iter()),
            scope.refused = scopes(refused.iter().copied()),
            http.status = response.status().as_u16(),
            problem.code = problem.map_or("", Code::as_str),
            contexts = shown.join(","),
            contexts.total = written.len(),
            "Decided on a request"
        );
    }
    response
}

/// The memories that were asked for and what for, such as `store in space team`.
fn scopes<'a>(decisions: impl Iterator<Item = &'a Decision>) -> String {
    let shown = decisions.take(MOST_SCOPES).map(|Decision { operation, whose, in_session, permitted: _ }| {
        let part = if *in_session { "a session of " } else { "" };
        format!("{} in {part}{whose}", operation.as_str())
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// Whether an operation changes the memory, takes all of it away, or opens a way to do so.
const fn is_recorded(route: Route) -> bool {
    match route {
        Route::Store
        | Route::StoreBatch
        | Route::Update
        | Route::Delete
        | Route::ClearSession
        | Route::DeleteMatching
        | Route::Export
        | Route::ExportTenant
        | Route::Import
        | Route::ImportTenant
        | Route::Stream => true,
        Route::Search | Route::Get | Route::List | Route::Stats | Route::OpenApi | Route::Unknown => false,
    }
}
