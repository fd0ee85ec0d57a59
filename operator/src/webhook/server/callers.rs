//! Whom the server talks to: everybody, or who shows a certificate of a CA that is given, as API servers can be told to do
//! (`AdmissionConfiguration`).

use std::{fs, io, path::PathBuf, sync::Arc};

use rustls::{
    RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};

use crate::pki;

/// Why the CA of callers cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("failed to read the CA of API servers in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It has no CA.
    #[error("the CA of API servers in {} {what}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

/// The CAs of those who may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::webhook) struct Callers {
    path: PathBuf,
    pem: Vec<u8>,
}

impl Callers {
    /// Reads them from a file in PEM.
    pub(in crate::webhook) fn read(path: PathBuf) -> Result<Self, Error> {
        let pem = match fs::read(&path) {
            Ok(pem) => pem,
            Err(source) => return Err(Error::Read { path, source }),
        };
        match pki::check_bundle(&pem) {
            Ok(()) => Ok(Self { path, pem }),
            Err(what) => Err(Error::Invalid { path, what }),
        }
    }

    /// The same, read again; nothing if nothing changed.
    pub(super) fn changed(&self) -> Result<Option<Self>, Error> {
        let now = Self::read(self.path.clone())?;
        Ok((now != *self).then_some(now))
    }

    /// What refuses everybody else.
    pub(super) fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&self.pem).filter_map(Result::ok));
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        verifier.map_err(|error| rustls::Error::General(error.to_string()))
    }
}
