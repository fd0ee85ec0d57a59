//! The admin routes: probes, health and metrics. They are open to the cluster, so they have no data, no names and no secrets.
//!
//! Health is asked of the parts when it is asked for; nothing here is remembered from an earlier answer.

use std::sync::{Arc, OnceLock};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;

use crate::{
    engine::Engine,
    live::Live,
    metrics::{self, Metrics, WatchedFile},
    readiness::Readiness,
};

/// What the routes show.
#[derive(Clone)]
pub struct Admin {
    /// Whether the sidecar takes requests.
    pub readiness: Readiness,
    /// Configuration and key ring.
    pub live: Arc<Live>,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// The engine, once it is open.
    pub engine: Arc<OnceLock<Engine>>,
}

#[derive(Serialize)]
struct Health {
    status: Status,
    version: &'static str,
    uptime_seconds: u64,
    components: Vec<Component>,
}

#[derive(Serialize)]
struct Component {
    name: &'static str,
    status: Status,
    detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Healthy,
    /// It answers, but not as well as it should.
    Degraded,
    Starting,
    Unhealthy,
    Draining,
}

/// The routes.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/health/liveness", get(liveness))
        .route("/health/readiness", get(readiness))
        .route("/metrics", get(metrics))
        .with_state(admin)
}

/// The process runs and its runtime schedules; anything more would restart a sidecar for its neighbour's fault.
async fn liveness() -> Response {
    Json(serde_json::json!({ "status": "alive" })).into_response()
}

async fn readiness(State(admin): State<Admin>) -> Response {
    let waiting_for = admin.waiting_for();
    let draining = admin.readiness.is_draining();
    let ready = waiting_for.is_empty() && !draining;
    let status = if ready { "ready" } else { "not_ready" };
    let body = serde_json::json!({ "status": status, "waiting_for": waiting_for, "draining": draining });
    (status_code(ready), Json(body)).into_response()
}

async fn health(State(admin): State<Admin>) -> Response {
    let components = admin.components();
    let worst = components.iter().map(|component| component.status).max().unwrap_or(Status::Starting);
    let status = if admin.readiness.is_draining() { Status::Draining } else { worst };
    let health = Health {
        status,
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: admin.metrics.uptime().as_secs(),
        components,
    };
    (status_code(status <= Status::Degraded), Json(health)).into_response()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    admin.metrics.requests.ready.set(i64::from(admin.readiness.is_ready()));
    match admin.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::MEDIA_TYPE)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "Failed to write the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

const fn status_code(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

impl Admin {
    /// The parts without which no request can be served.
    fn waiting_for(&self) -> Vec<&'static str> {
        let mut names = self.readiness.waiting_for();
        if let Some(engine) = self.engine.get() {
            names.extend(engine.readiness().into_iter().filter(|part| !part.ready).map(|part| part.name));
        }
        names
    }

    fn components(&self) -> Vec<Component> {
        let mut components = vec![self.listeners(), self.file(WatchedFile::Config), self.file(WatchedFile::Keys)];
        let Some(engine) = self.engine.get() else {
            components.push(Component { name: "engine", status: Status::Starting, detail: "opening".to_owned() });
            return components;
        };
        components.extend(engine.readiness().into_iter().map(|part| {
            let status = match (part.ready, part.degraded) {
                (false, _) => Status::Unhealthy,
                (true, true) => Status::Degraded,
                (true, false) => Status::Healthy,
            };
            Component { name: part.name, status, detail: part.detail }
        }));
        components
    }

    fn listeners(&self) -> Component {
        let waiting_for = self.readiness.waiting_for();
        let (status, detail) = if waiting_for.is_empty() {
            (Status::Healthy, "requests are taken".to_owned())
        } else {
            (Status::Starting, format!("waiting for {}", waiting_for.join(", ")))
        };
        Component { name: "listener", status, detail }
    }

    fn file(&self, file: WatchedFile) -> Component {
        let loaded = match file {
            WatchedFile::Config => format!("generation {} is loaded", self.live.config().generation),
            WatchedFile::Keys => format!("keys loaded: {}", self.live.keys().keys().count()),
        };
        let name = match file {
            WatchedFile::Config => "configuration",
            WatchedFile::Keys => "key_ring",
        };
        match self.live.error(file) {
            None => Component { name, status: Status::Healthy, detail: loaded },
            Some(error) => Component { name, status: Status::Degraded, detail: format!("{loaded}; {error}") },
        }
    }
}
