//! The HTTP client with its trust in certificates.
//!
//! With a CA file, only that bundle is trusted, and the client is made anew when the file's content changes. Without
//! one, the roots built into the binary are trusted, so that an image needs no certificates of its own.

use std::{path::PathBuf, sync::Arc, time::Duration};

use reqwest::{Certificate, redirect};
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

use crate::ports::embedder::Error;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes the client and keeps it as long as the CA file stays the same.
pub(super) struct Client {
    ca_file: Option<PathBuf>,
    current: Mutex<Current>,
}

struct Current {
    bundle_digest: Option<[u8; 32]>,
    client: reqwest::Client,
}

impl Client {
    pub(super) fn new(ca_file: Option<PathBuf>) -> Result<Self, Error> {
        let bundle = match &ca_file {
            Some(path) => Some(std::fs::read(path).map_err(|source| unusable(path, source))?),
            None => None,
        };
        let current = build(ca_file.as_ref().zip(bundle))?;
        Ok(Self { ca_file, current: Mutex::new(current) })
    }

    pub(super) async fn get(&self) -> Result<reqwest::Client, Error> {
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
    Error::File { what: "the CA bundle", path: path.to_owned(), source: Arc::new(source) }
}

fn build(bundle: Option<(&PathBuf, Vec<u8>)>) -> Result<Current, Error> {
    // The process has one cryptography provider; whoever comes first installs it.
    _ = rustls::crypto::ring::default_provider().install_default();
    let (certificates, bundle_digest) = match bundle {
        Some((path, pem)) => {
            let certificates = Certificate::from_pem_bundle(&pem).map_err(|source| unusable(path, source))?;
            if certificates.is_empty() {
                return Err(unusable(path, std::io::Error::other("no certificate in it")));
            }
            (certificates, Some(Sha256::digest(&pem).into()))
        }
        None => (built_in_roots()?, None),
    };
    let client = reqwest::Client::builder()
        .tls_certs_only(certificates)
        .connect_timeout(CONNECT_TIMEOUT)
        // A redirect would carry the texts and the key to a place that nobody configured.
        .redirect(redirect::Policy::none())
        .user_agent(concat!("context-manager/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|source| Error::Setup { source: Arc::new(source) })?;
    Ok(Current { bundle_digest, client })
}

fn built_in_roots() -> Result<Vec<Certificate>, Error> {
    webpki_root_certs::TLS_SERVER_ROOT_CERTS
        .iter()
        .map(|root| Certificate::from_der(root).map_err(|source| Error::Setup { source: Arc::new(source) }))
        .collect()
}
