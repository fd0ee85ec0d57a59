//! The channel: where it leads, how it is kept alive, and the key that each call carries.
//!
//! One HTTP/2 connection carries all calls at once. It is made at the first call, kept alive by pings of HTTP/2 and of TCP, and
//! made anew when it breaks.

use std::{io, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use http::Uri;
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};
use tower::{ServiceExt as _, service_fn};

use crate::{Error, Options, tls::Tls, welcome::Welcome};

const DEFAULT_PORT: u16 = 6334;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection whose other end is gone without a word is noticed after these two.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// What stands between may forget a connection that is silent; TCP's own probes keep it known where pings of HTTP/2 do not pass.
const TCP_PROBES: u32 = 3;

/// A channel whose calls carry the key and the caller's headers.
pub(crate) type Authenticated = InterceptedService<Channel, Headers>;

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

/// What each call carries.
#[derive(Clone)]
pub(crate) struct Headers {
    key: ApiKey,
    more: fn() -> Vec<(&'static str, String)>,
}

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        for (name, value) in (self.more)() {
            if let Ok(value) = MetadataValue::try_from(value) {
                request.metadata_mut().insert(name, value);
            }
        }
        if let Some(key) = &*self.key.0.load() {
            request.metadata_mut().insert("api-key", MetadataValue::clone(key));
        }
        Ok(request)
    }
}

/// A connection, encrypted or not.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The channel to the endpoint; nothing is connected yet. Whether its connections are let in is noted in `welcome`.
pub(crate) fn connect(options: &Options, key: ApiKey, welcome: &Arc<Welcome>) -> Result<Authenticated, Error> {
    let wrong = |problem| Error::Url { url: options.url.clone(), problem };
    let uri: Uri = options.url.parse().map_err(|_| wrong("is not a URL"))?;
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| wrong("names no host"))?.to_owned();
    let tls = match uri.scheme_str() {
        Some("https") => {
            let name = server_name(&host).ok_or_else(|| wrong("names no host"))?;
            Some(Arc::new(Tls::new(options.trust.clone(), options.identity.clone(), name, Arc::clone(welcome))?))
        }
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
    let tcp = tcp();
    let welcome = Arc::clone(welcome);
    let channel = endpoint.connect_with_connector_lazy(service_fn(move |uri: Uri| {
        let (tcp, tls) = (tcp.clone(), tls.clone());
        welcome.begin();
        async move {
            let stream = tcp.oneshot(uri).await.map_err(io::Error::other)?.into_inner();
            let stream: Box<dyn Stream> = match tls {
                Some(tls) => Box::new(tls.encrypt(stream).await?),
                None => Box::new(stream),
            };
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    }));
    Ok(InterceptedService::new(channel, Headers { key, more: options.call_headers }))
}

fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_keepalive(Some(KEEP_ALIVE));
    tcp.set_keepalive_interval(Some(KEEP_ALIVE_TIMEOUT));
    tcp.set_keepalive_retries(Some(TCP_PROBES));
    tcp
}

fn server_name(host: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Trust;

    #[tokio::test]
    async fn an_endpoint_that_is_none_is_named_with_the_remedy() {
        for (url, problem) in [
            ("", "is not a URL"),
            ("qdrant:6334", "begins with neither"),
            ("ftp://qdrant", "begins with neither"),
            ("/path", "names no host"),
        ] {
            let error = connect(&Options::new(url, "c", 4, "m"), ApiKey::default(), &Arc::default())
                .map(drop)
                .expect_err(url)
                .to_string();
            assert!(error.contains(problem) && error.contains("https://qdrant.example.com:6334"), "{url}: {error}");
        }
        assert!(connect(&Options::new("https://[::1]:6334", "c", 4, "m"), ApiKey::default(), &Arc::default()).is_ok());
    }

    #[tokio::test]
    async fn a_bundle_without_a_certificate_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let bundle = folder.path().join("ca.pem");
        let connect = || {
            let trust = Trust::File(bundle.clone());
            connect(
                &Options { trust, ..Options::new("https://localhost", "c", 4, "m") },
                ApiKey::default(),
                &Arc::default(),
            )
        };
        assert!(matches!(connect(), Err(Error::File { .. })), "there is none");
        for pem in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            std::fs::write(&bundle, pem).expect("written");
            assert!(matches!(connect(), Err(Error::Trust { .. })), "{pem:?}");
        }
    }

    #[test]
    fn a_key_that_no_header_can_carry_is_refused() {
        assert!(ApiKey::default().set(Some("a\nb")).is_err());
        assert!(ApiKey::default().set(None).is_ok());
    }
}
