//! What the tests of this crate share: a real engine in a directory of its own, and requests signed as an agent signs them.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode, header},
};
use bytes::Bytes;
use context_manager_protocol::{
    config::{EnvironmentSecrets, SidecarConfig},
    keyring::{Key, KeyRing},
    problem::Problem,
    signature,
};
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tower::ServiceExt as _;
use uuid::Uuid;

use crate::{
    accepted::LastAccepted,
    bytes_in_flight::BytesInFlight,
    clock::unix_time,
    engine::Engine,
    identity::Identity,
    layers::Shared,
    live::Live,
    metrics::Metrics,
    nonces::{CAPACITY, NonceStore},
    pipeline,
    readiness::Readiness,
    stream::Streams,
};

/// Seconds that the fixture's sidecar has been running.
pub const RUNNING_FOR: i64 = 100;

pub fn key(id: &str) -> Key {
    Key::new(id, id.bytes().cycle().take(32).collect()).expect("a valid key")
}

/// A sidecar without sockets.
pub struct Fixture {
    pub engine: Engine,
    pub router: Router,
    pub shared: Shared,
    _directory: TempDir,
}

impl Fixture {
    pub async fn new() -> Self {
        Self::with(|_| {}, CAPACITY).await
    }

    pub async fn with(change: impl FnOnce(&mut SidecarConfig), nonces: usize) -> Self {
        let directory = TempDir::new().expect("a directory");
        let mut config = SidecarConfig::embedded(directory.path().join("data"));
        change(&mut config);
        let metrics = Arc::new(Metrics::new());
        let engine = open_engine(&config, &metrics).await;
        let shared = Shared {
            live: Arc::new(Live::new(config, KeyRing::new(key("k1")))),
            bytes_in_flight: BytesInFlight::new(metrics.requests.bytes_in_flight.clone()),
            metrics,
            nonces: Arc::new(NonceStore::new(nonces)),
            accepted: Arc::new(LastAccepted::none()),
            readiness: Readiness::default(),
            clock: unix_time,
            started: unix_time() - RUNNING_FOR,
        };
        let router = pipeline::build(&engine, &shared, &Streams::default());
        Self { router, engine, shared, _directory: directory }
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        send(self.router.clone(), request).await
    }
}

pub async fn open_engine(config: &SidecarConfig, metrics: &Arc<Metrics>) -> Engine {
    let identity = Identity::new(Some("team-a"), Some("agent"), None).expect("valid names");
    let secrets = EnvironmentSecrets::default();
    Engine::open(config, &identity, &secrets, Arc::clone(metrics)).await.expect("an engine on an empty directory")
}

pub async fn send(router: Router, request: Request<Body>) -> Answer {
    let Ok(response) = router.oneshot(request).await;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("a whole body").to_bytes();
    Answer { status: parts.status, headers: parts.headers, body }
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("a printable header"))
    }

    pub fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic_with(&error, &self.body))
    }

    /// The problem document, after what every one of them must fulfil.
    pub fn problem(&self) -> Problem {
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem: Problem = self.json();
        assert_eq!(problem.status, self.status.as_u16());
        assert_eq!(problem.request_id.as_deref(), Some(self.header("x-request-id")));
        assert!(problem.kind.ends_with(problem.code.as_str()));
        assert!(!problem.detail.is_empty());
        problem
    }
}

#[expect(clippy::panic, reason = "a test fails by panicking")]
fn panic_with<T>(error: &serde_json::Error, body: &Bytes) -> T {
    panic!("{error}: {}", String::from_utf8_lossy(body))
}

/// A request as an agent would make it; every part can be made wrong.
pub struct Call {
    pub key: Key,
    pub method: &'static str,
    pub uri: String,
    pub body: Vec<u8>,
    pub headers: Vec<(&'static str, String)>,
    pub created: i64,
    pub nonce: String,
}

impl Call {
    pub fn new(method: &'static str, uri: impl Into<String>) -> Self {
        Self {
            key: key("k1"),
            method,
            uri: uri.into(),
            body: Vec::new(),
            headers: Vec::new(),
            created: unix_time(),
            nonce: Uuid::new_v4().to_string(),
        }
    }

    pub fn json(method: &'static str, uri: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::new(method, uri) }.header("content-type", "application/json")
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The request, signed.
    pub fn sign(&self) -> Request<Body> {
        let (path, query) = match self.uri.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (self.uri.as_str(), None),
        };
        let signed = signature::Request { method: self.method, path, query, body: &self.body };
        let headers = signature::sign(&self.key, &signed, self.created, &self.nonce).to_header_map();
        let mut request = self.unsigned();
        request.headers_mut().extend(headers);
        request
    }

    pub fn unsigned(&self) -> Request<Body> {
        let mut request = Request::builder().method(self.method).uri(&self.uri);
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        request = request.header(header::CONTENT_LENGTH, self.body.len());
        request.body(Body::from(self.body.clone())).expect("a valid request")
    }
}

/// Waits for what another task does; the test fails when it does not happen.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(holds(), "{what} did not happen within 5 s");
}
