//! The channel: where it leads, whom it trusts, and the key that each call carries.
//!
//! One HTTP/2 connection carries all calls. It is made at the first call, kept alive by pings, and made anew when it breaks.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use crate::{Error, Options, Trust};

const DEFAULT_PORT: u16 = 6334;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection whose other end is gone without a word is noticed after these two.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A channel whose calls carry the key.
pub(crate) type Authenticated = InterceptedService<Channel, ApiKey>;

/// The key, which can be changed while calls are made.
#[derive(Clone, Default)]
pub(crate) struct ApiKey(Arc<ArcSwapOption<MetadataValue<Ascii>>>);

impl ApiKey {
    /// What the next call carries: an API key or a JSON Web Token, or nothing.
    pub(crate) fn set(&self, key: Option<&str>) -> Result<(), Error> {
        let value = key.map(MetadataValue::try_from).transpose().map_err(|_| Error::ApiKey)?;
        self.0.store(value.map(|mut value| {
            value.set_sensitive(true);
            Arc::new(value)
        }));
        Ok(())
    }
}

impl Interceptor for ApiKey {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(key) = &*self.0.load() {
            request.metadata_mut().insert("api-key", MetadataValue::clone(key));
        }
        Ok(request)
    }
}

/// A connection, encrypted or not.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The channel to the endpoint; nothing is connected yet.
pub(crate) fn connect(options: &Options, key: ApiKey) -> Result<Authenticated, Error> {
    let wrong = |problem| Error::Url { url: options.url.clone(), problem };
    let uri: Uri = options.url.parse().map_err(|_| wrong("is not a URL"))?;
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| wrong("names no host"))?.to_owned();
    let tls = match uri.scheme_str() {
        Some("https") => Some((connector(&options.trust)?, server_name(&host).ok_or_else(|| wrong("names no host"))?)),
        Some("http") => None,
        _ => return Err(wrong("begins with neither https:// nor http://")),
    };
    let port = uri.port_u16().unwrap_or(DEFAULT_PORT);
    // Tonic refuses https without its own TLS; ours is in the connector, so the URI it sees says http.
    let endpoint = Endpoint::from_shared(format!("http://{host}:{port}")).map_err(|_| wrong("is not a URL"))?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .user_agent(concat!("context-manager/", env!("CARGO_PKG_VERSION")))
        .map_err(|_| wrong("is not a URL"))?;
    let address = (host.trim_matches(['[', ']']).to_owned(), port);
    let channel = endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| {
        let (address, tls) = (address.clone(), tls.clone());
        async move {
            let stream = TcpStream::connect((address.0.as_str(), address.1)).await?;
            stream.set_nodelay(true)?;
            let stream: Box<dyn Stream> = match tls {
                Some((connector, name)) => Box::new(connector.connect(name, stream).await?),
                None => Box::new(stream),
            };
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    }));
    Ok(InterceptedService::new(channel, key))
}

fn server_name(host: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).ok()
}

fn connector(trust: &Trust) -> Result<TlsConnector, Error> {
    // The process has one cryptography provider; whoever comes first installs it.
    _ = rustls::crypto::ring::default_provider().install_default();
    let builder = ClientConfig::builder();
    let mut config = match trust {
        Trust::WebRoots => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        Trust::Bundle(pem) => builder.with_root_certificates(bundle(pem)?).with_no_client_auth(),
        Trust::Anybody => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(anybody::Anybody::default()))
            .with_no_client_auth(),
    };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_endpoint_that_is_none_is_named_with_the_remedy() {
        for (url, problem) in [
            ("", "is not a URL"),
            ("qdrant:6334", "begins with neither"),
            ("ftp://qdrant", "begins with neither"),
            ("/path", "names no host"),
        ] {
            let error =
                connect(&Options::new(url, "c", 4, "m"), ApiKey::default()).map(drop).expect_err(url).to_string();
            assert!(error.contains(problem) && error.contains("https://qdrant.example.com:6334"), "{url}: {error}");
        }
        assert!(connect(&Options::new("https://[::1]:6334", "c", 4, "m"), ApiKey::default()).is_ok());
    }

    #[tokio::test]
    async fn a_bundle_without_a_certificate_is_refused() {
        for pem in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            let trust = Trust::Bundle(pem.into());
            let options = Options { trust, ..Options::new("https://localhost", "c", 4, "m") };
            assert!(matches!(connect(&options, ApiKey::default()), Err(Error::Trust { .. })), "{pem:?}");
        }
    }

    #[test]
    fn a_key_that_no_header_can_carry_is_refused() {
        assert!(ApiKey::default().set(Some("a\nb")).is_err());
        assert!(ApiKey::default().set(None).is_ok());
    }
}
