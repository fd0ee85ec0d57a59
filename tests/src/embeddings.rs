//! An OpenAI-compatible embeddings API on loopback, whose models differ in what they make of a text.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Result;
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use context_manager_memory::builtin;
use serde::Deserialize;
use serde_json::json;
use tokio::{net::TcpListener, task::JoinSet};

/// A running API; it ends with the runtime or when dropped.
///
/// A model is called `NAME-DIMENSIONS`. The vectors of a model whose name begins with `opposite` point the other way.
pub struct Embeddings {
    address: SocketAddr,
    shared: Shared,
    _tasks: JoinSet<()>,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    /// Texts by model.
    texts: BTreeMap<String, usize>,
    /// What is answered instead of vectors.
    failure: Option<u16>,
    /// Texts with this in them are refused.
    poison: Option<String>,
    /// The headers of each call.
    calls: Vec<HeaderMap>,
}

#[derive(Deserialize)]
struct Request {
    model: String,
    input: Vec<String>,
}

impl Embeddings {
    /// Listens on a free port.
    ///
    /// # Errors
    /// When there is none.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (address, shared) = (listener.local_addr()?, Shared::default());
        let router = Router::new().route("/v1/embeddings", post(embed)).with_state(shared.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap_or_default() });
        Ok(Self { address, shared, _tasks: tasks })
    }

    /// The table `[embedding]` of a sidecar's configuration for this API and a model.
    #[must_use]
    pub fn config(&self, model: &str) -> String {
        let dimensions = dimensions(model).unwrap_or_default();
        let url = format!("http://{}/v1/embeddings", self.address);
        format!(
            "[embedding]\nprovider = \"open_ai\"\nurl = \"{url}\"\nmodel = \"{model}\"\ndimensions = {dimensions}\n\
             timeout = \"2s\"\ncache = {{ capacity = \"0\" }}\nretry = {{ max_attempts = 1 }}\n"
        )
    }

    /// How many texts a model was asked for.
    #[must_use]
    pub fn texts(&self, model: &str) -> usize {
        self.shared.inner().texts.get(model).copied().unwrap_or_default()
    }

    /// The headers of all calls since this was last asked.
    #[must_use]
    pub fn take_calls(&self) -> Vec<HeaderMap> {
        std::mem::take(&mut self.shared.inner().calls)
    }

    /// Answers with this status from now on; `None` answers with vectors again.
    pub fn fail(&self, status: Option<u16>) {
        self.shared.inner().failure = status;
    }

    /// Refuses texts that have this in them.
    pub fn refuse(&self, text: &str) {
        self.shared.inner().poison = Some(text.to_owned());
    }
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn dimensions(model: &str) -> Option<usize> {
    model.rsplit_once('-')?.1.parse().ok()
}

async fn embed(
    State(shared): State<Shared>,
    headers: HeaderMap,
    Json(Request { model, input }): Json<Request>,
) -> Response {
    shared.inner().calls.push(headers);
    let Some(dimensions) = dimensions(&model) else { return StatusCode::NOT_FOUND.into_response() };
    {
        let mut inner = shared.inner();
        if let Some(status) = inner.failure.and_then(|status| StatusCode::from_u16(status).ok()) {
            return status.into_response();
        }
        if inner.poison.as_ref().is_some_and(|poison| input.iter().any(|text| text.contains(poison.as_str()))) {
            return StatusCode::BAD_REQUEST.into_response();
        }
        *inner.texts.entry(model.clone()).or_default() += input.len();
    }
    let sign = if model.starts_with("opposite") { -1.0 } else { 1.0 };
    let data = input.iter().enumerate().map(|(index, text)| {
        let vector: Vec<f32> = builtin::embed(text, dimensions).into_iter().map(|value| value * sign).collect();
        json!({"index": index, "embedding": vector})
    });
    Json(json!({"data": data.collect::<Vec<_>>()})).into_response()
}
