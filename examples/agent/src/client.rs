//! A signing client in about a hundred lines: what an agent needs to speak the protocol.

use std::{
    io::ErrorKind,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use context_manager_protocol::{
    codec::Format,
    keyring::KeyRing,
    problem::{Code, Problem},
    signature::{self, Request},
};
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

/// How often a request is signed anew and sent again while the sidecar restarts or is overloaded.
const ATTEMPTS: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// A client of one sidecar.
pub struct Client {
    http: reqwest::Client,
    url: String,
    keys: PathBuf,
}

/// Why one attempt failed.
enum Failure {
    /// The sidecar does not answer, or says that it cannot now: worth another attempt, with a new signature.
    Passing(anyhow::Error),
    /// The request itself is wrong.
    Final(anyhow::Error),
}

impl Client {
    /// A client of the sidecar at `url`, such as `http://127.0.0.1:7419` or `unix:///run/memory.sock`, which signs with the active key of the ring in the file `keys`.
    pub fn new(url: &str, keys: PathBuf) -> Result<Self> {
        // The protocol never leaves the pod, but the HTTP library wants a provider before it makes any client.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        // It speaks plain HTTP within the pod, so it needs no certificates, and its image has none.
        let http = reqwest::Client::builder().tls_certs_only([]).timeout(Duration::from_secs(30)).no_proxy();
        // A pod that shares the node's network has a Unix socket instead of a port. The host of a request is not signed.
        let (http, url) = match url.strip_prefix("unix://") {
            Some(socket) => (http.unix_socket(socket), "http://localhost"),
            None => (http, url.trim_end_matches('/')),
        };
        Ok(Self { http: http.build()?, url: url.to_owned(), keys })
    }

    /// Sends a signed GET.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.send("GET", path, &[]).await
    }

    /// Sends a signed POST.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, message: &impl Serialize) -> Result<T> {
        self.send("POST", path, &Format::Json.encode(message)).await
    }

    /// Sends a signed GET once, without another attempt; the id of the key that signed it.
    pub async fn attempt(&self, path: &str) -> Result<String> {
        let ring = self.ring()?;
        match self.once::<serde_json::Value>(&ring, "GET", path, &[]).await {
            Ok(_) => Ok(ring.active().id().to_owned()),
            Err(Failure::Passing(error) | Failure::Final(error)) => Err(error),
        }
    }

    async fn send<T: DeserializeOwned>(&self, method: &str, path: &str, body: &[u8]) -> Result<T> {
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            // The key file is read each time, because keys are rotated while the agent runs.
            let ring = self.ring()?;
            match self.once(&ring, method, path, body).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Passing(error)) if attempt < ATTEMPTS => {
                    eprintln!("attempt {attempt} of {ATTEMPTS} failed: {error:#}");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(Failure::Passing(error) | Failure::Final(error)) => return Err(error),
            }
        }
        bail!("{method} {path} was never sent")
    }

    /// One attempt.
    async fn once<T: DeserializeOwned>(
        &self,
        ring: &KeyRing,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> Result<T, Failure> {
        let (bare, query) = path.split_once('?').map_or((path, None), |(bare, query)| (bare, Some(query)));
        let nonce = Uuid::new_v4().simple().to_string();
        let headers = signature::sign(ring.active(), &Request { method, path: bare, query, body }, now(), &nonce);
        let request = self
            .http
            .request(
                method.parse().map_err(|error| Failure::Final(anyhow::Error::new(error)))?,
                format!("{}{path}", self.url),
            )
            .headers(headers.to_header_map())
            .header("content-type", Format::Json.media_type())
            .body(body.to_vec());
        let answer = request.send().await.context("the sidecar does not answer").map_err(Failure::Passing)?;
        let status = answer.status();
        let bytes = answer.bytes().await.context("the answer was cut off").map_err(Failure::Passing)?;
        if status.is_success() {
            return Format::Json
                .decode(&bytes)
                .context("the answer is not what the protocol says")
                .map_err(Failure::Final);
        }
        match serde_json::from_slice::<Problem>(&bytes) {
            Ok(problem) => {
                let error = anyhow::anyhow!(
                    "{method} {path}: {} ({}): {}",
                    problem.title,
                    problem.code.as_str(),
                    problem.detail
                );
                Err(if passes(&problem) { Failure::Passing(error) } else { Failure::Final(error) })
            }
            Err(_) => Err(Failure::Final(anyhow::anyhow!("{method} {path}: {status} without a problem document"))),
        }
    }

    fn ring(&self) -> Result<KeyRing> {
        // A changed Secret comes in a new directory, and the kubelet deletes the old one: who is on the way to the file just then finds
        // nothing there, once.
        let read = || std::fs::read(&self.keys);
        let file = read().or_else(|error| if error.kind() == ErrorKind::NotFound { read() } else { Err(error) });
        let file = file.with_context(|| format!("failed to read the key ring {}", self.keys.display()))?;
        KeyRing::from_json(&file).with_context(|| format!("{} is not a key ring", self.keys.display()))
    }
}

/// A restart of the sidecar makes signatures of the same second too old; a new one will do. A key that the sidecar does not know is
/// one that is no longer in the key file, or not yet in the sidecar's.
fn passes(problem: &Problem) -> bool {
    problem.status == 503 || matches!(problem.code, Code::TimestampBeforeStart | Code::KeyUnknown)
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
