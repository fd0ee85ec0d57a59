//! The WebSocket `/v1/stream`: the protocol's messages in frames, on a connection that was signed for once.
//!
//! The stream has no operations of its own. Each frame is made into the request that it stands for and sent through the same
//! routes and layers as a request of the network ([`crate::pipeline`]); its answer is put into a frame. What is a stream's own
//! is its life: heartbeats, the bounds on frames and streams, and its end.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Extension, Router,
    extract::{Request, State},
    response::Response,
};
use context_manager_protocol::problem::Code;
use prometheus::IntGauge;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

use crate::{
    identity::Verified, layers::Shared, refusal::Refusal, routes::exchange::accepted_format,
    stream::connection::Connection,
};

mod connection;
mod ending;
mod handshake;
mod metered;
#[cfg(test)]
mod tests;
mod translate;

/// All open streams; a cheap handle.
#[derive(Clone, Debug, Default)]
pub struct Streams {
    open: Arc<AtomicUsize>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Streams {
    /// None yet; they end when `stop` says so.
    #[must_use]
    pub fn new(stop: CancellationToken) -> Self {
        Self { open: Arc::default(), tasks: TaskTracker::new(), stop }
    }

    /// Returns when all have ended, after the listeners have.
    pub async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn enter(&self, shared: &Shared) -> Result<Place, Refusal> {
        let limit = shared.live.config().protocol.max_streams;
        let place = Place::take(&self.open, &shared.metrics.streams.open);
        if place.before >= limit {
            let detail =
                format!("{limit} streams at once is the limit (protocol.max_streams); close one, or use the routes");
            return Err(Refusal::new(Code::Overloaded, detail));
        }
        Ok(place)
    }
}

/// A place among the open streams; given back when it is dropped.
#[derive(Debug)]
struct Place {
    open: Arc<AtomicUsize>,
    gauge: IntGauge,
    before: usize,
}

impl Place {
    fn take(open: &Arc<AtomicUsize>, gauge: &IntGauge) -> Self {
        gauge.inc();
        Self { open: Arc::clone(open), gauge: gauge.clone(), before: open.fetch_add(1, Ordering::AcqRel) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
        self.gauge.dec();
    }
}

/// What a stream needs to be opened.
#[derive(Clone, Debug)]
pub struct Opening {
    /// The routes, for requests that an authenticated connection carries.
    pub operations: Router,
    /// What answers for frames that cannot be read, behind the same layers.
    pub unreadable: Router,
    /// What the layers share.
    pub shared: Shared,
    /// All streams.
    pub streams: Streams,
}

/// `GET /v1/stream`, as the beginning of a WebSocket.
///
/// # Errors
/// When the request opens no WebSocket, or there are too many.
pub async fn open(State(opening): State<Opening>, mut request: Request) -> Result<Response, Refusal> {
    let verified = request.extensions().get::<Verified>().cloned();
    let verified =
        verified.ok_or_else(|| Refusal::new(Code::Internal, "the stream was reached without authentication"))?;
    let accepted = handshake::accept(&request)?;
    let place = opening.streams.enter(&opening.shared)?;
    let format = accepted_format(request.headers());
    let upgrade = hyper::upgrade::on(&mut request);
    let (tasks, stop) = (opening.streams.tasks.clone(), opening.streams.stop.clone());
    tasks.spawn(async move {
        let _place = place;
        match upgrade.await {
            Ok(upgraded) => Connection::new(opening, verified, format, upgraded).await.run(&stop).await,
            Err(error) => debug!(%error, "A stream broke before it began"),
        }
    });
    Ok(handshake::switch(accepted))
}

/// Answers for a frame that cannot be read, so that it passes the layers as any request does.
pub async fn refuse_unreadable(Extension(refusal): Extension<Refusal>) -> Refusal {
    refusal
}
