//! Counts each request once, by operation and outcome, also when the caller goes away before the answer.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{Method, StatusCode},
    middleware::Next,
    response::Response,
};

use super::Shared;
use crate::{
    metrics::{Metrics, RequestOutcome, Route},
    routes::{Endpoint, path},
};

/// The layer. It stands outside everything that can refuse, so that refusals are counted too.
pub async fn measure(State(shared): State<Shared>, mut request: Request, next: Next) -> Response {
    let route = route(&request);
    request.extensions_mut().insert(route);
    let mut running = Running::start(Arc::clone(&shared.metrics), route);
    let response = next.run(request).await;
    running.outcome = outcome(response.status());
    response
}

/// The operation that a request asks for.
fn route(request: &Request) -> Route {
    let matched = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    if matched == Some(path::STREAM) && request.method() == Method::GET {
        return Route::Stream;
    }
    if matched == Some(path::OPENAPI) && [Method::GET, Method::HEAD].contains(request.method()) {
        return Route::OpenApi;
    }
    let endpoint = matched.and_then(|path| Endpoint::find(request.method(), path));
    endpoint.map_or(Route::Unknown, |endpoint| endpoint.route)
}

/// How a request ended that was answered with `status`.
#[must_use]
pub fn outcome(status: StatusCode) -> RequestOutcome {
    if status.is_server_error() {
        RequestOutcome::Failed
    } else if status.is_client_error() {
        RequestOutcome::Refused
    } else {
        RequestOutcome::Ok
    }
}

/// A request that is worked on; counted when it is dropped, however it ended.
struct Running {
    metrics: Arc<Metrics>,
    route: Route,
    outcome: RequestOutcome,
    since: Instant,
}

impl Running {
    fn start(metrics: Arc<Metrics>, route: Route) -> Self {
        metrics.requests.in_flight.inc();
        Self { metrics, route, outcome: RequestOutcome::Cancelled, since: Instant::now() }
    }

    fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let requests = &self.metrics.requests;
        requests.in_flight.dec();
        requests.finished.inc(self.route, self.outcome);
        requests.duration.observe(self.route, self.elapsed());
    }
}
