//! The HTTP client with its trust in certificates, for the embedding API and the trace collector.
//!
//! With a CA bundle, only that is trusted, and the client is made anew when the content of its file changes. Without
//! one, the roots built into the binary are trusted, so that an image needs no certificates of its own.

use std::{path::PathBuf, sync::Arc, time::Duration};

use reqwest::{Certificate, redirect};
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

/// What went wrong, as it is shared by all who wait for the same client.
type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// Why there is no client.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The CA bundle cannot be used.
    #[error("failed to use the CA bundle {path:?}")]
    Bundle {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        source: Cause,
    },
    /// The client cannot be made.
    #[error("failed to set up the HTTP client")]
    Setup(#[source] Cause),
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes the client and keeps it as long as the CA file stays the same.
#[derive(Debug)]
pub struct Client {
    ca_file: Option<PathBuf>,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    bundle_digest: Option<[u8; 32]>,
    client: reqwest::Client,
}

impl Client {
    /// A client that trusts the file's certificates, or the built-in roots.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn new(ca_file: Option<PathBuf>) -> Result<Self, Error> {
        let bundle = match &ca_file {
            Some(path) => Some(std::fs::read(path).map_err(|source| unusable(path, source))?),
            None => None,
        };
        let current = build(ca_file.as_ref().zip(bundle))?;
        Ok(Self { ca_file, current: Mutex::new(current) })
    }

    /// A client that trusts these certificates, in PEM.
    ///
    /// # Errors
    /// When they cannot be used.
    pub fn trusting(bundle: &str) -> Result<Self, Error> {
        let certificates = certificates(bundle.as_bytes()).map_err(Error::Setup)?;
        let current = Current { bundle_digest: None, client: client(certificates)? };
        Ok(Self { ca_file: None, current: Mutex::new(current) })
    }

    /// The client, with the trust that the file says now.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub async fn get(&self) -> Result<reqwest::Client, Error> {
        let Some(path) = &self.ca_file else { return Ok(self.current.lock().await.client.clone()) };
        let bundle = tokio::fs::read(path).await.map_err(|source| unusable(path, source))?;
        let mut current = self.current.lock().await;
        if current.bundle_digest != Some(Sha256::digest(&bundle).into()) {
            *current = build(Some((path, bundle)))?;
        }
        Ok(current.client.clone())
    }
}

fn unusable(path: &std::path::Path, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Bundle { path: path.to_owned(), source: Arc::new(source) }
}

fn setup(source: reqwest::Error) -> Error {
    Error::Setup(Arc::new(source))
}

fn build(bundle: Option<(&PathBuf, Vec<u8>)>) -> Result<Current, Error> {
    let (certificates, bundle_digest) = match bundle {
        Some((path, pem)) => {
            let found = certificates(&pem).map_err(|source| Error::Bundle { path: path.clone(), source })?;
            (found, Some(Sha256::digest(&pem).into()))
        }
        None => (built_in_roots()?, None),
    };
    Ok(Current { bundle_digest, client: client(certificates)? })
}

fn certificates(pem: &[u8]) -> Result<Vec<Certificate>, Cause> {
    let found = Certificate::from_pem_bundle(pem).map_err(|source| Arc::new(source) as Cause)?;
    if found.is_empty() {
        return Err(Arc::new(std::io::Error::other("no certificate in the CA bundle")));
    }
    Ok(found)
}

fn client(certificates: Vec<Certificate>) -> Result<reqwest::Client, Error> {
    // The process has one cryptography provider; whoever comes first installs it.
    _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .tls_certs_only(certificates)
        .connect_timeout(CONNECT_TIMEOUT)
        // A redirect would carry the texts and the key to a place that nobody configured.
        .redirect(redirect::Policy::none())
        .user_agent(concat!("context-manager/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(setup)
}

fn built_in_roots() -> Result<Vec<Certificate>, Error> {
    webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().map(|root| Certificate::from_der(root).map_err(setup)).collect()
}
