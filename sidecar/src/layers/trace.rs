//! Opens a span for each request. It has the operation and ids, never a path, a query or a body: they may hold what an agent
//! remembers.

use std::time::Instant;

use axum::{extract::Request, middleware::Next, response::Response};
use tracing::{Instrument as _, debug, error_span};

use super::request_id::RequestId;
use crate::metrics::{Label as _, Route};

/// The layer. It needs the request's id and operation, and encloses all that logs.
pub async fn trace(request: Request, next: Next) -> Response {
    let id = request.extensions().get::<RequestId>().map_or("", RequestId::as_str);
    let route = request.extensions().get::<Route>().map_or("", |route| route.as_str());
    // Of the highest level, so that whatever is logged inside names the request at every log level.
    let span = error_span!("request", request.id = id, http.route = route);
    async {
        let since = Instant::now();
        let response = next.run(request).await;
        let duration_ms = since.elapsed().as_secs_f64() * 1_000.0;
        debug!(http.status = response.status().as_u16(), duration_ms, "Answered");
        response
    }
    .instrument(span)
    .await
}
