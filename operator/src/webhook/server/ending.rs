//! How a connection ends without an admission that fails by it.
//!
//! API servers speak HTTP/1.1 to webhooks, so that several replicas share the load, and keep connections open between requests. A server that
//! closes such a connection may do so in the moment in which a request is sent; the client sees the end, does not know whether the request was
//! taken, and does not repeat it (RFC 9112 section 9.5 and 9.3.1). So the client ends it: an answer says that it is the last one (`Connection: close`,
//! section 9.6), and connections that nobody uses are left to the client. What is ended from here is a connection that nobody used
//! for a while. In HTTP/2 the server says which request it took last, and the client repeats the others (RFC 9113 section 6.8).

use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// How long an API server may leave a connection unused before it ends it itself (client-go's transports: 90 s), and a little more.
pub(super) const UNUSED: Duration = Duration::from_mins(2);
/// How long a connection waits for its last request while the server ends. Of a busy API server it comes soon.
const FAREWELL: Duration = Duration::from_secs(4);
/// How long a client may take to close a connection that was ended from here. It may be sending a request in that moment; a socket that is closed
/// at once resets it.
const LINGER: Duration = Duration::from_secs(5);
/// Longest time between two looks at the wall clock, which may be set while a timer sleeps.
pub(super) const CLOCK: Duration = Duration::from_secs(10);

/// When a connection is to end.
#[derive(Clone, Debug)]
pub(super) struct End {
    age: Duration,
    since: Instant,
    /// The client hears of the certificate's end so much before it that it can ask once more.
    announced: Timestamp,
    not_after: Timestamp,
    order: CancellationToken,
    shutdown: CancellationToken,
}

impl End {
    /// For a connection that begins now: it ends at this age, with its certificate, by an order, or with the server.
    pub(super) fn new(
        age: Duration,
        not_after: Timestamp,
        order: CancellationToken,
        shutdown: CancellationToken,
    ) -> Self {
        let now = Timestamp::now();
        let lasts = Duration::try_from(not_after.duration_since(now)).unwrap_or_default();
        let announced = now.checked_add(lasts / 5 * 4).unwrap_or(not_after);
        Self { age, since: Instant::now(), announced, not_after, order, shutdown }
    }

    /// Returns when the client is to be told.
    pub(super) async fn is_near(&self) {
        tokio::select! {
            () = tokio::time::sleep(self.age.saturating_sub(self.since.elapsed())) => {}
            () = reached(self.announced) => {}
            () = self.order.cancelled() => {}
            () = self.shutdown.cancelled() => {}
        }
    }

    /// Returns when the connection is ended although its client has not asked again.
    pub(super) async fn is_here(&self) {
        let server = async {
            self.shutdown.cancelled().await;
            tokio::time::sleep(FAREWELL).await;
        };
        let order = async {
            self.order.cancelled().await;
            // The server's end is an order to all of them.
            if self.shutdown.is_cancelled() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = reached(self.not_after) => {}
            () = order => {}
            () = server => {}
        }
    }
}

/// Returns when the wall clock shows this time.
async fn reached(time: Timestamp) {
    loop {
        let left = Duration::try_from(time.duration_since(Timestamp::now())).unwrap_or_default();
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(CLOCK)).await;
    }
}

/// Reads what the client sends and nobody will answer, until it closes the connection or has had its time. What is left unread when a
/// socket is closed makes the kernel reset the connection.
pub(super) async fn linger(socket: OwnedFd) {
    let rest = async {
        let mut socket = TcpStream::from_std(socket.into())?;
        tokio::io::copy(&mut socket, &mut tokio::io::sink()).await
    };
    match tokio::time::timeout(LINGER, rest).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => debug!(error = %error, "A client did not close its connection in order"),
        Err(_) => debug!("A client did not close its connection within {} s", LINGER.as_secs()),
    }
}
