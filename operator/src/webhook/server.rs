//! The TLS server: connections in bounded number ([`connection_limits`]), each with a bounded handshake and a bounded age, and an orderly
//! [end](ending).
//!
//! No connection outlives the certificate it was made with: an API server keeps one open for as long as it may, and would
//! go on trusting a certificate that has ended.

use std::{
    os::fd::AsFd as _,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    http::{HeaderValue, Request, StatusCode, header::CONNECTION},
    response::{IntoResponse as _, Response},
};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use jiff::Timestamp;
use rustls::{ServerConfig, crypto::ring};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;
use tracing::{debug, info, warn};

use super::Error;
use crate::pki::Certificates;
use callers::Callers;
pub(super) use connection_limits::Peer;
use connection_limits::{Limits, Place, Places};
use ending::{CLOCK, End, UNUSED, linger};

pub(super) mod callers;
mod connection_limits;
mod ending;
#[cfg(test)]
mod tests;

/// API servers keep a few connections each and send many requests over them.
const LIMITS: Limits = Limits { all: 512, of_one: 64, ending: 64 };
/// As long as an API server can be told to wait at most.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// After an error of `accept`, such as too many open files: long enough for one to be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Requests at once on one connection of HTTP/2. API servers speak HTTP/1.1, one request after another.
const STREAMS: u32 = 16;
/// Most bytes of a connection that were received and not read yet, or made and not sent.
const BUFFER: u16 = 32 << 10;

/// Who sends a request.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// What counts as one client.
    pub(super) peer: Peer,
    /// Cuts off its connection.
    pub(super) cut: CancellationToken,
}

/// How long things may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// A connection; the next answer is its last then.
    pub connection_age: Duration,
    /// Requests in flight at the end of the server.
    pub drain: Duration,
}

/// Serves until `shutdown`, then gives requests in flight their time.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    certificates: Certificates,
    times: Times,
    callers: Option<Callers>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let mut entrance = Entrance::new(certificates.clone(), callers)?;
    let (places, connections) = (Places::new(LIMITS), TaskTracker::new());
    let accept = async {
        loop {
            match listener.accept().await {
                Ok((stream, address)) => {
                    let (acceptor, router, shutdown) = (entrance.acceptor(), router.clone(), shutdown.clone());
                    // Read before the handshake: a leaf that comes meanwhile ends later.
                    let not_after = certificates.leaf().map_or(Timestamp::MAX, |leaf| leaf.not_after);
                    let place = places.take(address.ip(), &shutdown);
                    connections.spawn(async move {
                        let (order, cut) = (place.orders.end.clone(), place.orders.cut.clone());
                        let talk = async {
                            // Who is in the middle of a handshake as the server ends is answered, too: a dial that fails is a pod that is refused.
                            if let Some(stream) = handshake(stream, acceptor).await {
                                let end = End::new(times.connection_age, not_after, order.clone(), shutdown);
                                converse(stream, router, &place, end).await;
                            }
                        };
                        cut.run_until_cancelled(talk).await;
                    });
                }
                Err(error) => {
                    warn!(error = %error, "A connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    shutdown.run_until_cancelled(accept).await;
    drop(listener);
    finish(&connections, times.drain).await;
    Ok(())
}

/// Waits for the connections, which know that they are to end: idle ones at once, others after their answer.
async fn finish(connections: &TaskTracker, drain: Duration) {
    connections.close();
    if tokio::time::timeout(drain, connections.wait()).await.is_err() {
        let left = connections.len();
        warn!(connections = left, "Connections are still open after {} s; closing them", drain.as_secs());
    }
}

/// How callers get in. The CA of those who may is read again from time to time, since whoever keeps it replaces it while this runs.
struct Entrance {
    certificates: Certificates,
    callers: Option<Callers>,
    acceptor: TlsAcceptor,
    looked: Instant,
}

impl Entrance {
    fn new(certificates: Certificates, callers: Option<Callers>) -> Result<Self, Error> {
        let acceptor = acceptor(certificates.clone(), callers.as_ref()).map_err(Error::Tls)?;
        Ok(Self { certificates, callers, acceptor, looked: Instant::now() })
    }

    fn acceptor(&mut self) -> TlsAcceptor {
        if let Some(callers) = self.callers.as_ref().filter(|_| self.looked.elapsed() >= CLOCK) {
            self.looked = Instant::now();
            match callers.changed() {
                Ok(None) => {}
                Ok(Some(changed)) => self.change(changed),
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    warn!(error, "The CA of API servers cannot be used; the one before stays in force");
                }
            }
        }
        self.acceptor.clone()
    }

    fn change(&mut self, callers: Callers) {
        match acceptor(self.certificates.clone(), Some(&callers)) {
            Ok(acceptor) => {
                info!("Taking another CA of API servers");
                (self.acceptor, self.callers) = (acceptor, Some(callers));
            }
            Err(error) => warn!(%error, "The CA of API servers cannot be used; the one before stays in force"),
        }
    }
}

fn acceptor(certificates: Certificates, callers: Option<&Callers>) -> Result<TlsAcceptor, rustls::Error> {
    Ok(TlsAcceptor::from(Arc::new(tls(certificates, callers)?)))
}

fn tls(certificates: Certificates, callers: Option<&Callers>) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?;
    let builder = match callers {
        Some(callers) => builder.with_client_cert_verifier(callers.verifier()?),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

async fn handshake(stream: TcpStream, acceptor: TlsAcceptor) -> Option<TlsStream<TcpStream>> {
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            debug!(error = %error, "A TLS handshake failed");
            None
        }
        Err(_) => {
            debug!("A TLS handshake took too long");
            None
        }
    }
}

/// What a request hears whose body or answer does not come.
fn late() -> Response {
    let message = format!("the request was not over within {} s\n", REQUEST_TIMEOUT.as_secs());
    (StatusCode::REQUEST_TIMEOUT, message).into_response()
}

/// The last answer of a connection.
fn saying_goodbye(mut answer: Response) -> Response {
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

async fn converse(stream: TlsStream<TcpStream>, router: Router, place: &Place, end: End) {
    let is_told = stream.get_ref().1.alpn_protocol() != Some(b"h2");
    // Which of the two is spoken is known: a connection on which nothing has come yet ends in order, too.
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut builder = if is_told { builder.http1_only() } else { builder.http2_only() };
    // It counts from the last answer on.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(UNUSED).max_buf_size(BUFFER.into());
    let window = u32::from(BUFFER);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(window)
        .initial_connection_window_size(2 * window)
        .max_send_buf_size(BUFFER.into());
    let (requests, last) = (place.requests(), CancellationToken::new());
    let is_last = last.clone();
    let caller = Caller { peer: place.peer, cut: place.orders.cut.clone() };
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller.clone());
        let (in_flight, answer) = (requests.one(), router.clone().oneshot(request));
        let is_last = is_last.clone();
        async move {
            let answer = tokio::time::timeout(REQUEST_TIMEOUT, answer).await;
            drop(in_flight);
            let answer = answer.unwrap_or_else(|_| Ok(late()));
            answer.map(|answer| if is_last.is_cancelled() { saying_goodbye(answer) } else { answer })
        }
    });
    let socket = stream.get_ref().0.as_fd().try_clone_to_owned();
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let to_end = async {
        end.is_near().await;
        if is_told {
            last.cancel();
            end.is_here().await;
        }
    };
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = to_end => {
            // The client is told to send nothing more here, and what it has sent is answered.
            connection.as_mut().graceful_shutdown();
            let outcome = connection.await;
            if let Ok(socket) = socket {
                linger(socket).await;
            }
            outcome
        }
    };
    if let Err(error) = outcome {
        debug!(error = %error, "A connection ended with an error");
    }
}
