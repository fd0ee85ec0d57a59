//! A reverse proxy in front of the real API server: it writes down every request, and answers chosen ones itself.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use anyhow::Result;
use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{Method, Response, StatusCode, Uri, header},
    response::IntoResponse as _,
};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::cluster;

/// Largest body of a request.
const LARGEST: usize = 4 << 20;

/// Answers a request instead of the API server, or lets it pass.
pub type Script = Box<dyn FnMut(&Method, &Uri) -> Option<Response<Body>> + Send>;

/// A request that came, in the order of coming.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When it came.
    pub at: Instant,
    /// Its method.
    pub method: Method,
    /// Path and query.
    pub uri: Uri,
    /// Whether the script answered it.
    pub scripted: bool,
}

impl Seen {
    /// Whether it changes anything but the lease.
    #[must_use]
    pub fn is_write(&self) -> bool {
        self.method != Method::GET && !self.uri.path().contains("/leases")
    }

    /// Whether it starts a watch of this kind of objects.
    #[must_use]
    pub fn is_watch(&self, kind: &str) -> bool {
        is_watch(&self.method, &self.uri, kind)
    }

    /// Whether it begins to list this kind of objects in all namespaces; further pages of a list do not count.
    #[must_use]
    pub fn is_list(&self, kind: &str) -> bool {
        let query = self.uri.query().unwrap_or_default();
        let goes_on = query.contains("watch=") || query.contains("continue=");
        self.method == Method::GET && is_all(&self.uri, kind) && !goes_on
    }
}

/// Whether a request starts a watch of this kind of objects in all namespaces.
#[must_use]
pub fn is_watch(method: &Method, uri: &Uri, kind: &str) -> bool {
    method == Method::GET && is_all(uri, kind) && uri.query().is_some_and(|query| query.contains("watch="))
}

fn is_all(uri: &Uri, kind: &str) -> bool {
    uri.path().ends_with(&format!("/{kind}")) && !uri.path().contains("/namespaces/")
}

/// The status by which an API server refuses, as in a body or in a watch.
#[must_use]
pub fn status(code: u16, reason: &str) -> Value {
    let message = "by the script of a suite";
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message})
}

/// An answer that refuses, and may say after how many seconds another attempt is welcome.
#[must_use]
pub fn refusal(code: u16, reason: &str, retry_after: Option<u64>) -> Response<Body> {
    let mut answer = (StatusCode::from_u16(code).unwrap_or_default(), Json(status(code, reason))).into_response();
    if let Some(seconds) = retry_after {
        answer.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    answer
}

/// The proxy; it ends when dropped.
pub struct Front {
    /// Where it listens, by plain HTTP.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    client: Client,
    seen: Mutex<Vec<Seen>>,
    script: Mutex<Option<Script>>,
}

impl Front {
    /// Listens in front of the cluster's API server.
    ///
    /// # Errors
    /// When there is no cluster, or no port is free.
    pub async fn start() -> Result<Self> {
        Self::before(cluster::config().await?).await
    }

    /// The same in front of another one.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn before(mut config: Config) -> Result<Self> {
        config.default_retry = false;
        let client = Client::try_from(config)?;
        let shared = Arc::new(Shared { client, seen: Mutex::default(), script: Mutex::default() });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let router = Router::new().fallback(pass).with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                eprintln!("the proxy ended: {error}");
            }
        });
        Ok(Self { address, shared, task })
    }

    /// What answers from now on.
    pub fn script(&self, script: impl FnMut(&Method, &Uri) -> Option<Response<Body>> + Send + 'static) {
        *self.shared.script.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(script));
    }

    /// All requests so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many requests were such ones.
    #[must_use]
    pub fn count(&self, such: impl Fn(&Seen) -> bool) -> usize {
        self.seen().iter().filter(|seen| such(seen)).count()
    }

    /// How many requests changed anything but the lease.
    #[must_use]
    pub fn writes(&self) -> usize {
        self.count(Seen::is_write)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let scripted = {
        let mut script = shared.script.lock().unwrap_or_else(PoisonError::into_inner);
        script.as_mut().and_then(|script| script(&parts.method, &parts.uri))
    };
    let (at, method, uri) = (Instant::now(), parts.method.clone(), parts.uri.clone());
    let seen = Seen { at, method, uri, scripted: scripted.is_some() };
    shared.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    if let Some(answer) = scripted {
        return answer;
    }
    let Ok(body) = to_bytes(body, LARGEST).await else { return StatusCode::PAYLOAD_TOO_LARGE.into_response() };
    let mut forwarded = http::Request::new(kube::client::Body::from(body.to_vec()));
    *forwarded.method_mut() = parts.method;
    *forwarded.uri_mut() = parts.uri;
    *forwarded.headers_mut() = parts.headers;
    for own in [header::HOST, header::AUTHORIZATION, header::CONNECTION, header::CONTENT_LENGTH] {
        forwarded.headers_mut().remove(own);
    }
    match shared.client.send(forwarded).await {
        Ok(mut answer) => {
            for own in [header::CONNECTION, header::TRANSFER_ENCODING] {
                answer.headers_mut().remove(own);
            }
            answer.map(Body::new)
        }
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}
