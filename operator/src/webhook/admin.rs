//! Probes and metrics, over plain HTTP and apart from the admission port.

use std::{io, sync::Arc};

use axum::{
    Router,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{caches::Caches, metrics::Metrics};
use crate::pki::Certificates;

/// What readiness depends on.
#[derive(Clone)]
pub(super) struct Readiness {
    pub(super) certificates: Certificates,
    pub(super) caches: Caches,
    pub(super) draining: CancellationToken,
}

impl Readiness {
    /// Why this replica should get no requests; nothing when it should.
    pub(super) fn obstacle(&self, now: Timestamp) -> Option<String> {
        if self.draining.is_cancelled() {
            return Some("shutting down".to_owned());
        }
        if let Some(missing) = self.caches.missing() {
            return Some(missing.to_owned());
        }
        self.certificates.check(now).err().map(|untrusted| untrusted.to_string())
    }
}

pub(super) fn router(readiness: Readiness, metrics: Arc<Metrics>) -> Router {
    let ready = move || {
        let obstacle = readiness.obstacle(Timestamp::now());
        async { obstacle.map_or_else(|| "ok\n".into_response(), |what| unavailable(&what)) }
    };
    let scrape = move || {
        let text = metrics.render(Timestamp::now());
        async {
            match text {
                Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
                Err(error) => unavailable(&error.to_string()),
            }
        }
    };
    Router::new().route("/healthz", get(async || "ok\n")).route("/readyz", get(ready)).route("/metrics", get(scrape))
}

pub(super) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) -> io::Result<()> {
    axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await }).await
}

fn unavailable(what: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{what}\n")).into_response()
}
