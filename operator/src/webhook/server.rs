//! The TLS server: connections in bounded number, each with a bounded handshake, and an orderly end.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
    service::TowerToHyperService,
};
use rustls::{ServerConfig, crypto::ring};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::pki::Certificates;

#[cfg(test)]
mod tests;

/// API servers keep a few connections each and send many requests over them.
const MAX_CONNECTIONS: usize = 512;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// After an error of `accept`, such as too many open files: long enough for one to be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown`, then gives requests in flight `drain`.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    certificates: Certificates,
    drain: Duration,
    shutdown: CancellationToken,
) -> Result<(), rustls::Error> {
    let acceptor = TlsAcceptor::from(Arc::new(tls(certificates)?));
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let accept = async {
        loop {
            // A permit is waited for before the connection is taken, so that the backlog of the system holds the rest.
            let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (acceptor, router, watcher) = (acceptor.clone(), router.clone(), graceful.watcher());
                    let shutdown = shutdown.clone();
                    tokio::spawn(async move {
                        // A handshake that is interrupted has not been asked anything yet.
                        if let Some(Some(stream)) = shutdown.run_until_cancelled(handshake(stream, acceptor)).await {
                            converse(stream, router, watcher).await;
                        }
                        drop(permit);
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
    finish(&connections, graceful, drain).await;
    Ok(())
}

/// Ends idle connections at once, and others after their answer.
async fn finish(connections: &Semaphore, graceful: GracefulShutdown, drain: Duration) {
    if tokio::time::timeout(drain, graceful.shutdown()).await.is_err() {
        let left = MAX_CONNECTIONS - connections.available_permits();
        warn!(connections = left, "Connections are still open after {} s; closing them", drain.as_secs());
    }
}

fn tls(certificates: Certificates) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth();
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

async fn converse(stream: TlsStream<TcpStream>, router: Router, watcher: Watcher) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(Some(Duration::from_secs(30)));
    let service = TowerToHyperService::new(router);
    let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
    if let Err(error) = watcher.watch(connection).await {
        debug!(error = %error, "A connection ended with an error");
    }
}
