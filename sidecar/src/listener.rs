//! Sockets and connections: plain HTTP/1.1 and HTTP/2 without TLS, with bounds on their number and on idle heads.
//!
//! The protocol is bound to loopback, and on request to a Unix socket ([`socket`]), and to nothing else; that is not
//! configurable. Requests are none of this module's business: it hands connections to a router.

use std::{
    convert::Infallible,
    future::Future,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body, http::header, response::Response};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
    service::TowerToHyperService,
};
use prometheus::IntGauge;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;
use tracing::{debug, info, warn};

mod linger;
mod places;
pub mod socket;
#[cfg(test)]
mod tests;

use linger::Lingering;
use places::{Place, Places};

pub use places::Share;

/// Most connections of one listener; more wait in the socket's queue.
const MAX_CONNECTIONS: usize = 1_024;
/// Most headers of a request, and most bytes of them.
const MAX_HEADERS: usize = 64;
const MAX_HEAD_BYTES: u32 = 32 * 1_024;
/// Most requests at once on an HTTP/2 connection.
const MAX_STREAMS: u32 = 128;
/// How often an HTTP/2 connection is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Pause after a failed accept, such as when the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How every HTTP/2 connection begins; no HTTP/1 method begins with these two bytes.
const HTTP2_START: &[u8] = b"PR";

/// A listener cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("failed to listen on {address}; another process may use the port")]
pub struct Error {
    address: SocketAddr,
    source: io::Error,
}

/// What the clients of a listener may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest time for the head of a request, and longest time without a request on a kept connection.
    pub idle: Duration,
    /// Most connections before one that is open makes way for a new one; without it, new ones wait in the socket's queue.
    pub share: Option<Share>,
}

impl Limits {
    /// Of the protocol, which the agent alone reaches. The time is longer than the 90 s after which common clients give up idle
    /// connections themselves, so that a request never meets a closing one.
    pub const PROTOCOL: Self = Self { idle: Duration::from_secs(100), share: None };
    /// Of probes and metrics, which the whole cluster reaches: nobody there may keep the kubelet out, which would take the pod for one
    /// that is not ready. Who asks for them connects anew without harm.
    pub const ADMIN: Self = Self { idle: Duration::from_secs(5), share: Some(Share { all: 64, of_one: 8 }) };
}

/// Where connections come from.
pub trait Accept: Send + Sync + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection, and who made it.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, IpAddr)>> + Send;

    /// Which version of HTTP the client speaks.
    fn version(stream: &Self::Stream) -> impl Future<Output = io::Result<Version>> + Send;
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, IpAddr)> {
        let (stream, peer) = Self::accept(self).await?;
        // Without this, Nagle's algorithm delays the second of two small packets by up to 40 ms.
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "Failed to set TCP_NODELAY");
        }
        Ok((stream, peer.ip()))
    }

    async fn version(stream: &TcpStream) -> io::Result<Version> {
        version(stream).await
    }
}

/// Binds `port` on 127.0.0.1, and on `::1` where the host has IPv6.
///
/// # Errors
/// When the port is taken.
pub async fn bind_loopback(port: u16) -> Result<Vec<TcpListener>, Error> {
    let first = bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)).await?;
    let port = first.local_addr().map_or(port, |address| address.port());
    match bind(SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port)).await {
        Ok(second) => Ok(vec![first, second]),
        Err(Error { address, source }) if lacks_ipv6(&source) => {
            info!(address = %address, "Not listening: the host has no IPv6");
            Ok(vec![first])
        }
        Err(error) => Err(error),
    }
}

/// Binds one address.
///
/// # Errors
/// When it is taken, or not an address of this host.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error { address, source })
}

fn lacks_ipv6(error: &io::Error) -> bool {
    // EAFNOSUPPORT has no stable name in `ErrorKind`.
    const EAFNOSUPPORT: i32 = 97;
    matches!(error.kind(), ErrorKind::AddrNotAvailable | ErrorKind::Unsupported)
        || error.raw_os_error() == Some(EAFNOSUPPORT)
}

/// Serves connections of `listeners` until `stop`, then finishes the requests in flight. Whoever awaits it bounds that.
pub async fn serve<L: Accept>(
    listeners: Vec<L>,
    router: Router,
    limits: Limits,
    open: IntGauge,
    stop: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let places = limits.share.map(Places::new);
    let (connections, graceful) = (TaskTracker::new(), GracefulShutdown::new());
    let accepting = listeners.into_iter().map(|listener| {
        let (router, open, permits, places, stop) = (&router, &open, &permits, &places, &stop);
        let (connections, graceful) = (&connections, &graceful);
        async move {
            while let Some((stream, peer, permit)) = accept(&listener, permits, stop).await {
                let place = places.as_ref().map(|places| Arc::new(places.take(peer)));
                let (router, open) = (router.clone(), Open::new(open));
                let connection = Connection { router, idle: limits.idle, place, _permit: permit, _open: open };
                connections.spawn(connection.serve::<L>(stream, graceful.watcher(), stop.clone()));
            }
        }
    });
    futures::future::join_all(accepting).await;
    graceful.shutdown().await;
    connections.close();
    connections.wait().await;
}

async fn accept<L: Accept>(
    listener: &L,
    permits: &Arc<Semaphore>,
    stop: &CancellationToken,
) -> Option<(L::Stream, IpAddr, OwnedSemaphorePermit)> {
    let next = async {
        let permit = Arc::clone(permits).acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => return Some((stream, peer, permit)),
                Err(error) => {
                    warn!(%error, "Failed to accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    stop.run_until_cancelled(next).await.flatten()
}

struct Connection {
    router: Router,
    idle: Duration,
    place: Option<Arc<Place>>,
    _permit: OwnedSemaphorePermit,
    _open: Open,
}

impl Connection {
    async fn serve<L: Accept>(self, stream: L::Stream, watcher: Watcher, stop: CancellationToken) {
        let Self { router, idle, place, _permit, _open } = self;
        let makes_way = place.as_ref().map(|place| place.makes_way()).unwrap_or_default();
        let talk = async {
            let first = stop.run_until_cancelled(timeout(idle, L::version(&stream))).await;
            let Some(Ok(Ok(version))) = first else { return };
            let service = TowerToHyperService::new(tower::service_fn(move |request: hyper::Request<_>| {
                let (router, in_flight) = (router.clone(), place.as_ref().map(Place::request));
                async move {
                    let _in_flight = in_flight;
                    Ok::<_, Infallible>(answer(router, request).await)
                }
            }));
            let builder = builder(version, idle);
            let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
            if let Err(error) = watcher.watch(connection).await {
                debug!(%error, "A connection broke");
            }
        };
        makes_way.run_until_cancelled(talk).await;
    }
}

async fn answer(router: Router, request: hyper::Request<Incoming>) -> Response {
    // Whoever sends `Expect: 100-continue` waits for our word before the body, so there is nothing to throw away.
    let waits = request.headers().contains_key(header::EXPECT);
    let body = |body| if waits { Body::new(body) } else { Body::new(Lingering::new(body)) };
    let Ok(response) = router.oneshot(request.map(body)).await;
    response
}

/// A version of HTTP.
#[derive(Clone, Copy, Debug)]
pub enum Version {
    /// HTTP/1.0 and HTTP/1.1.
    Http1,
    /// HTTP/2 without TLS, whose use the client knows beforehand.
    Http2,
}

/// Which version the client speaks, by its first two bytes, which stay in the socket. It is told apart here because the
/// bound on idle heads only begins when the version is known.
async fn version(stream: &TcpStream) -> io::Result<Version> {
    const PAUSE: Duration = Duration::from_millis(5);
    let mut start = [0; HTTP2_START.len()];
    loop {
        match stream.peek(&mut start).await? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            1 if start[0] == HTTP2_START[0] => sleep(PAUSE).await,
            _ if start == *HTTP2_START => return Ok(Version::Http2),
            _ => return Ok(Version::Http1),
        }
    }
}

fn builder(version: Version, idle: Duration) -> auto::Builder<TokioExecutor> {
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut builder = match version {
        Version::Http1 => builder.http1_only(),
        Version::Http2 => builder.http2_only(),
    };
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(idle)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD_BYTES);
    builder
}

/// One open connection in the metrics.
struct Open(IntGauge);

impl Open {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
