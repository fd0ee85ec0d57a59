//! Any OpenAI-compatible embeddings endpoint over HTTP.
//!
//! Owns one call: the request, its authentication, and the check of everything that comes back (status, size, count,
//! positions, dimensions, finite values). Never retries, caches or splits; layers do. Neither a text nor a word of the
//! other side's answer gets into an error, because an answer may quote the text it refuses.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use context_manager_protocol::{config, embeddings};
use http::{StatusCode, header};
use reqwest::Response;
use secrecy::{ExposeSecret as _, SecretString};
use tracing::Span;
use url::Url;

use crate::{
    http_client::{self, Client},
    ports::embedder::{Cause, Deadline, Embedder, Error, Vector},
    telemetry,
};

/// The adapter.
pub struct OpenAi {
    client: Client,
    url: Url,
    model: String,
    dimensions: usize,
    key: ApiKey,
    query_prefix: String,
    document_prefix: String,
}

/// Where the API key comes from.
pub enum ApiKey {
    /// The API wants none.
    None,
    /// A fixed one, from the environment.
    Fixed(SecretString),
    /// A file. It is read for every call, so that a rotated key is used by the next one.
    File(PathBuf),
}

impl OpenAi {
    /// An adapter for the endpoint that the configuration names.
    ///
    /// # Errors
    /// When the URL is missing, or the CA bundle cannot be used.
    pub fn new(config: &config::Embedding, token: Option<&SecretString>) -> Result<Self, Error> {
        let url = config.url.as_deref().ok_or_else(|| Error::Setup { source: cause("embedding.url is not set") })?;
        let url = Url::parse(url).map_err(|source| Error::Setup { source: Arc::new(source) })?;
        let key = match (&config.api_key_file, token) {
            (Some(path), _) => ApiKey::File(path.clone()),
            (None, Some(token)) => ApiKey::Fixed(token.clone()),
            (None, None) => ApiKey::None,
        };
        let client = match &config.ca {
            Some(bundle) => Client::trusting(bundle),
            None => Client::new(config.ca_file.clone()),
        };
        Ok(Self {
            client: client.map_err(no_client)?,
            url,
            model: config.model.clone().unwrap_or_default(),
            dimensions: config.dimensions,
            key,
            query_prefix: config.query_prefix.clone(),
            document_prefix: config.document_prefix.clone(),
        })
    }

    async fn call(&self, input: Vec<String>) -> Result<Vec<Vector>, Error> {
        let span = telemetry::http_call("POST", &self.url);
        telemetry::watched(&span, self.attempt(input, &span), Error::kind).await
    }

    async fn attempt(&self, input: Vec<String>, span: &Span) -> Result<Vec<Vector>, Error> {
        let client = self.client.get().await.map_err(no_client)?;
        let mut request =
            client.post(self.url.clone()).json(&embeddings::Request { model: &self.model, input: &input });
        if let Some(key) = self.key.read().await? {
            request = request.bearer_auth(key.expose_secret());
        }
        request = request.headers(telemetry::context_headers());
        let response = request.send().await.map_err(|source| self.unreachable(source))?;
        telemetry::http_answered(span, response.status());
        let response = check_status(response)?;
        let body = self.read_body(response, input.len()).await?;
        let vectors = embeddings::vectors(&body, input.len(), self.dimensions)?;
        Ok(vectors.into_iter().map(Vector::from).collect())
    }

    async fn read_body(&self, mut response: Response, count: usize) -> Result<Vec<u8>, Error> {
        let limit = embeddings::most_bytes(count, self.dimensions);
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|source| self.unreachable(source))? {
            if body.len() + chunk.len() > limit {
                return Err(Error::Oversized { limit });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn unreachable(&self, source: reqwest::Error) -> Error {
        let host = self.url.host_str().unwrap_or_default();
        let port = self.url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let url = format!("{}://{host}{port}{}", self.url.scheme(), self.url.path());
        Error::Unreachable { url, source: Arc::new(source.without_url()) }
    }
}

impl ApiKey {
    async fn read(&self) -> Result<Option<SecretString>, Error> {
        let path = match self {
            Self::None => return Ok(None),
            Self::Fixed(key) => return Ok(Some(key.clone())),
            Self::File(path) => path,
        };
        let refuse = |source| Error::File { what: "the API key", path: path.clone(), source };
        let text = tokio::fs::read_to_string(path).await.map_err(|source| refuse(Arc::new(source)))?;
        match text.trim() {
            "" => Err(refuse(cause("the file is empty"))),
            key => Ok(Some(key.into())),
        }
    }
}

fn no_client(error: http_client::Error) -> Error {
    match error {
        http_client::Error::Bundle { path, source } => Error::File { what: "the CA bundle", path, source },
        http_client::Error::Setup(source) => Error::Setup { source },
    }
}

fn cause(message: &'static str) -> Cause {
    Arc::from(Box::<dyn std::error::Error + Send + Sync>::from(message))
}

fn check_status(response: Response) -> Result<Response, Error> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let retry_after = retry_after(&response);
    Err(match status {
        StatusCode::TOO_MANY_REQUESTS => Error::Throttled { retry_after },
        // 408 and 425 are temporary by definition, although they are counted among the caller's mistakes.
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY => Error::Failed { status: status.as_u16(), retry_after },
        status if status.is_server_error() => Error::Failed { status: status.as_u16(), retry_after },
        status => Error::Refused { status: status.as_u16() },
    })
}

/// The seconds of `Retry-After`. Its other form, a date, needs a clock that agrees with the other side's and is taken
/// as no wish at all.
fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

#[async_trait]
impl Embedder for OpenAi {
    async fn embed_documents(&self, texts: &[String], deadline: Deadline) -> Result<Vec<Vector>, Error> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let input = texts.iter().map(|text| format!("{}{text}", self.document_prefix)).collect();
        deadline.bound(self.call(input)).await
    }

    async fn embed_query(&self, text: &str, deadline: Deadline) -> Result<Vector, Error> {
        let vectors = deadline.bound(self.call(vec![format!("{}{text}", self.query_prefix)])).await?;
        vectors.into_iter().next().ok_or(Error::Count { expected: 1, actual: 0 })
    }

    fn dimensions(&self) -> usize {
        self.dimensions
    }

    fn model(&self) -> &str {
        &self.model
    }
}

#[cfg(test)]
mod tests;
