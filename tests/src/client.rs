//! A client that signs, and that can be told to sign wrongly.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use context_manager_protocol::{
    codec::Format,
    keyring::Key,
    problem::Problem,
    signature::{self, Request},
};
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

/// A client of one sidecar.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    key: Key,
}

/// A request before it is signed; each field can be set to what it should not be.
pub struct Draft<'a> {
    /// The method.
    pub method: &'a str,
    /// Path with query.
    pub path: &'a str,
    /// The body as sent.
    pub body: Vec<u8>,
    /// The body as signed; as sent when absent.
    pub signed_body: Option<Vec<u8>>,
    /// Seconds that `created` lies in the future.
    pub clock_skew: i64,
    /// `created` itself; now, and the skew, when absent.
    pub created: Option<i64>,
    /// The nonce; a fresh one when absent.
    pub nonce: Option<String>,
    /// The `Idempotency-Key`.
    pub idempotency_key: Option<&'a str>,
    /// The media type.
    pub content_type: &'a str,
    /// Further headers.
    pub more: Vec<(&'a str, &'a str)>,
}

/// An answer with its status.
pub struct Answer {
    /// The HTTP status code.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl<'a> Draft<'a> {
    /// A correct request with a JSON body.
    #[must_use]
    pub fn new(method: &'a str, path: &'a str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            method,
            path,
            body: body.into(),
            signed_body: None,
            clock_skew: 0,
            created: None,
            nonce: None,
            idempotency_key: None,
            content_type: Format::Json.media_type(),
            more: Vec::new(),
        }
    }
}

impl Answer {
    /// The body as a message.
    ///
    /// # Errors
    /// When it is another one.
    pub fn message<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("status {}: {}", self.status, String::from_utf8_lossy(&self.body)))
    }

    /// The body as a problem document.
    ///
    /// # Errors
    /// When it is none.
    pub fn problem(&self) -> Result<Problem> {
        self.message()
    }
}

impl Client {
    /// A client of the sidecar at `url` that signs with `key`.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(url: impl Into<String>, key: Key) -> Result<Self> {
        Ok(Self { http: builder().build()?, url: url.into(), key })
    }

    /// A client that speaks through the Unix socket at `path`.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn over(path: &Path, key: Key) -> Result<Self> {
        Ok(Self { http: builder().unix_socket(path).build()?, url: "http://localhost".to_owned(), key })
    }

    /// Sends a request.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn send(&self, draft: Draft<'_>) -> Result<Answer> {
        let Draft { method, path, body, signed_body, clock_skew, created, nonce, idempotency_key, content_type, more } =
            draft;
        let (bare, query) = path.split_once('?').map_or((path, None), |(bare, query)| (bare, Some(query)));
        let nonce = nonce.unwrap_or_else(|| Uuid::new_v4().simple().to_string());
        let signed = Request { method, path: bare, query, body: signed_body.as_deref().unwrap_or(&body) };
        let created = created.unwrap_or_else(|| now() + clock_skew);
        let headers = signature::sign(&self.key, &signed, created, &nonce);
        let mut request = self
            .http
            .request(method.parse()?, format!("{}{path}", self.url))
            .headers(headers.to_header_map())
            .header("content-type", content_type)
            .header("accept", Format::Json.media_type())
            .body(body);
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        for (name, value) in more {
            request = request.header(name, value);
        }
        let answer = request.send().await.with_context(|| format!("no answer to {method} {path}"))?;
        let status = answer.status().as_u16();
        Ok(Answer { status, body: answer.bytes().await?.to_vec() })
    }

    /// Sends a message by POST.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn post(&self, path: &str, message: &impl Serialize) -> Result<Answer> {
        self.send(Draft::new("POST", path, Format::Json.encode(message))).await
    }

    /// Sends a GET.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.send(Draft::new("GET", path, Vec::new())).await
    }
}

fn builder() -> reqwest::ClientBuilder {
    crate::cluster::install_tls();
    reqwest::Client::builder().tls_certs_only([]).timeout(Duration::from_secs(20)).no_proxy()
}

/// Unix time in seconds.
#[must_use]
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
