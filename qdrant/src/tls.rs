//! Who may be at the other end, and who is at this one: the TLS part of a connection.
//!
//! The files are read for each connection. What cannot be used any more leaves the last good content in force, because a
//! half-written bundle must not cut off a server that it would vouch for.

use std::{
    fmt, fs, io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, RootCertStore};
use secrecy::ExposeSecret as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    Error, Identity, Trust,
    certificate::Shown,
    welcome::{Presenter, Watched, Welcome},
};

/// Makes encrypted connections.
pub(crate) struct Tls {
    trust: Trust,
    identity: Option<Identity>,
    host: ServerName<'static>,
    last: Mutex<(Files, TlsConnector)>,
    welcome: Arc<Welcome>,
}

/// What the files hold. Never printed, because a key is among it.
#[derive(Default, PartialEq, Eq)]
struct Files {
    bundle: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Tls {
    /// Reads the files for the first time.
    pub(crate) fn new(
        trust: Trust,
        identity: Option<Identity>,
        host: ServerName<'static>,
        welcome: Arc<Welcome>,
    ) -> Result<Self, Error> {
        let files = Files::read(&trust, identity.as_ref())?;
        let connector = connector(&trust, &files, &welcome)?;
        Ok(Self { trust, identity, host, last: Mutex::new((files, connector)), welcome })
    }

    /// Encrypts a connection.
    pub(crate) async fn encrypt<S>(&self, stream: S) -> io::Result<Watched<TlsStream<S>>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let encrypted = self.current().connect(self.host.clone(), stream).await;
        let encrypted = encrypted.inspect_err(|error| self.welcome.broke(error))?;
        Ok(Watched::new(encrypted, Arc::clone(&self.welcome)))
    }

    /// The files are small and read once for each connection, so the thread is not given away for them.
    fn current(&self) -> TlsConnector {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let read = Files::read(&self.trust, self.identity.as_ref());
        let changed = read.and_then(|files| {
            if files == last.0 {
                Ok(None)
            } else {
                connector(&self.trust, &files, &self.welcome).map(|made| Some((files, made)))
            }
        });
        match changed {
            Ok(None) => {}
            Ok(Some(changed)) => {
                tracing::info!("Read changed certificates for Qdrant");
                *last = changed;
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "Certificates for Qdrant cannot be used; the former ones stay in force");
            }
        }
        last.1.clone()
    }
}

impl Files {
    fn read(trust: &Trust, identity: Option<&Identity>) -> Result<Self, Error> {
        let bundle = match trust {
            Trust::Bundle(pem) => Some(pem.clone()),
            Trust::File(path) => Some(read(path)?),
            Trust::WebRoots | Trust::Anybody => None,
        };
        let identity = match identity {
            Some(Identity::Files { certificate, key }) => Some((read(certificate)?, read(key)?)),
            Some(Identity::Pem { certificate, key }) => {
                Some((certificate.clone().into_bytes(), key.expose_secret().as_bytes().to_vec()))
            }
            None => None,
        };
        Ok(Self { bundle, identity })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source: source.into() })
}

fn connector(trust: &Trust, files: &Files, welcome: &Arc<Welcome>) -> Result<TlsConnector, Error> {
    // The process has one cryptography provider; whoever comes first installs it.
    _ = rustls::crypto::ring::default_provider().install_default();
    let builder = ClientConfig::builder();
    let builder = match (trust, &files.bundle) {
        (Trust::Anybody, _) => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(anybody::Anybody::default()))
        }
        (_, Some(pem)) => builder.with_root_certificates(bundle(pem)?),
        (Trust::WebRoots | Trust::Bundle(_) | Trust::File(_), None) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
            builder.with_root_certificates(roots)
        }
    };
    let identity = files.identity.as_ref();
    let certificate = identity.map(|(certificate, key)| Shown::read(certificate, key)).transpose()?;
    let presenter = Presenter { certificate, welcome: Arc::clone(welcome) };
    let mut config = builder.with_client_cert_resolver(Arc::new(presenter));
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

fn bundle(pem: &[u8]) -> Result<RootCertStore, Error> {
    let trust = |problem: String| Error::Trust { problem };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| trust(format!("is not PEM: {error}")))?;
        roots.add(certificate).map_err(|error| trust(format!("has a certificate that cannot be used: {error}")))?;
    }
    if roots.is_empty() { Err(trust("has no certificate in it".to_owned())) } else { Ok(roots) }
}

/// Why the certificate of a server is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distrust {
    /// No CA that is trusted here has signed it.
    UnknownAuthority,
    /// Its time is over, by the clock of this machine.
    Expired,
    /// Its time has not begun, by the clock of this machine.
    NotYetValid,
    /// It is for another host name than that of the URL.
    OtherName,
    /// It was revoked.
    Revoked,
    /// It cannot be checked.
    Uncheckable,
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownAuthority => "no CA that is trusted here has signed it; check store.qdrant.ca_file",
            Self::Expired => "it has expired; renew it, or set the clock",
            Self::NotYetValid => "it is not valid yet; set the clock",
            Self::OtherName => "it is for another host name than the one in store.qdrant.url",
            Self::Revoked => "it was revoked",
            Self::Uncheckable => "it cannot be checked",
        })
    }
}

impl Distrust {
    /// What is wrong with the server's certificate, if that is why a connection was not made.
    pub(crate) fn behind(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        use rustls::CertificateError as Why;

        let mut cause = Some(error);
        while let Some(error) = cause {
            // An I/O error hides what it carries from `source`.
            let carried = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            let shown = carried.map_or(error, |carried| carried as &(dyn std::error::Error + 'static));
            if let Some(rustls::Error::InvalidCertificate(why)) = shown.downcast_ref() {
                #[expect(clippy::wildcard_enum_match_arm, reason = "the others need no remedy of their own")]
                return Some(match why {
                    // A CA of the same name with another key looks like a wrong signature.
                    Why::UnknownIssuer | Why::BadSignature => Self::UnknownAuthority,
                    Why::Expired | Why::ExpiredContext { .. } => Self::Expired,
                    Why::NotValidYet | Why::NotValidYetContext { .. } => Self::NotYetValid,
                    Why::NotValidForName | Why::NotValidForNameContext { .. } => Self::OtherName,
                    Why::Revoked => Self::Revoked,
                    _ => Self::Uncheckable,
                });
            }
            cause = error.source();
        }
        None
    }
}

/// A verifier that asks only whether the other end has the key of the certificate it shows, whoever that is.
mod anybody {
    use rustls::{
        DigitallySignedStruct, Error, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, ServerName, UnixTime},
    };

    #[derive(Debug)]
    pub(super) struct Anybody(WebPkiSupportedAlgorithms);

    impl Default for Anybody {
        fn default() -> Self {
            Self(ring::default_provider().signature_verification_algorithms)
        }
    }

    impl ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _end_entity: &CertificateDer<'_>,
            _intermediates: &[CertificateDer<'_>],
            _server_name: &ServerName<'_>,
            _ocsp_response: &[u8],
            _now: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, cert, dss, &self.0)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, dss, &self.0)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.supported_schemes()
        }
    }
}
