//! Opens a span for each request. It has the operation and ids, never a path, a query or a body: they may hold what an agent
//! remembers.

use std::time::Instant;

use axum::{
    extract::{MatchedPath, Request},
    middleware::Next,
    response::Response,
};
use context_manager_protocol::problem::Code;
use tracing::{Instrument as _, debug};

use super::request_id::RequestId;
use crate::{
    identity::Verified,
    metrics::Route,
    telemetry::{self, Arrival, Carrier},
};

/// The layer. It needs the request's id and operation, and encloses all that logs.
pub async fn trace(request: Request, next: Next) -> Response {
    let extensions = request.extensions();
    let arrival = Arrival {
        id: extensions.get::<RequestId>().map_or("", RequestId::as_str),
        operation: extensions.get::<Route>().copied().unwrap_or(Route::Unknown),
        method: request.method(),
        route: extensions.get::<MatchedPath>().map(MatchedPath::as_str),
        // Only a frame comes with its caller known: that of its stream.
        carrier: if extensions.get::<Verified>().is_some() { Carrier::WebSocket } else { Carrier::Http },
    };
    let span = telemetry::request(arrival, request.headers());
    let answer = async {
        let since = Instant::now();
        let response = next.run(request).await;
        let duration_ms = since.elapsed().as_secs_f64() * 1_000.0;
        debug!(http.status = response.status().as_u16(), duration_ms, "Answered");
        response
    };
    let response = answer.instrument(span.clone()).await;
    telemetry::answered(&span, response.status(), response.extensions().get::<Code>().copied());
    response
}
