//! Puts the parts together, in the order in which they need each other, and takes them apart again.
//!
//! Start: admin listener (so that probes are answered), engine, protocol listener, loops. End: readiness down, no new
//! connections, requests in flight finished within [`shutdown::DRAIN`], engine flushed within [`shutdown::FLUSH`].

use std::{
    io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::Router;
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use context_manager_protocol::{
    config::{SidecarConfig, Store},
    keyring::KeyRing,
};

use crate::{
    accepted::{self, LastAccepted},
    admin::{self, Admin},
    background::{self, GarbageCollection},
    bytes_in_flight::BytesInFlight,
    clock::unix_time,
    engine::{self, Engine},
    layers::Shared,
    listener::{
        self, Limits,
        socket::{self, Socket},
    },
    live::Live,
    logging::Filter,
    metrics::{Listener, Metrics},
    nonces::{self, NonceStore},
    pipeline,
    readiness::{Gate, Readiness},
    refusal::chain,
    reload::Reload,
    settings::{Listening, Settings},
    shutdown,
    stream::Streams,
    telemetry::Telemetry,
};

#[cfg(test)]
mod tests;

/// Why the sidecar does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port cannot be bound.
    #[error("failed to start the {name} listener")]
    Listen {
        /// Which one.
        name: &'static str,
        /// Why.
        source: listener::Error,
    },
    /// The Unix socket cannot be bound.
    #[error("failed to start the {name} Unix socket")]
    Socket {
        /// Which one.
        name: &'static str,
        /// Why.
        source: socket::Error,
    },
    /// The engine cannot be opened.
    #[error("failed to open the memory")]
    Engine(#[source] engine::Error),
    /// A listener's address cannot be told.
    #[error("failed to read a listener's address")]
    Address(#[source] io::Error),
    /// A task that should run as long as the sidecar has ended.
    #[error("the {0} ended unexpectedly; the log says why")]
    TaskEnded(&'static str),
}

/// A sidecar that takes requests.
pub struct Sidecar {
    protocol: Option<SocketAddr>,
    admin: Option<SocketAddr>,
    readiness: Readiness,
    engine: Engine,
    listeners: Tasks,
    loops: Vec<JoinHandle<()>>,
    stop: CancellationToken,
    telemetry: Telemetry,
    _gates: [Gate; 2],
}

struct Tasks {
    protocol: JoinHandle<()>,
    streams: Streams,
    admin: JoinHandle<()>,
    stop_admin: CancellationToken,
}

impl Sidecar {
    /// Starts all parts; returns when requests are taken. `stop` begins the end, also while the start is under way.
    ///
    /// # Errors
    /// When a port is taken, or the engine cannot be opened.
    pub async fn start(
        settings: Settings,
        (config, keys): (SidecarConfig, KeyRing),
        (filter, telemetry): (Filter, Telemetry),
        stop: CancellationToken,
    ) -> Result<Option<Self>, Error> {
        let begun = unix_time();
        let metrics = Arc::new(Metrics::new());
        telemetry.apply(&config.tracing, &settings.identity, &metrics);
        let live = Arc::new(Live::new(config, keys));
        let readiness = Readiness::default();
        let (engine_gate, listener_gate) = (readiness.gate("engine"), readiness.gate("protocol_listener"));

        let stop_admin = CancellationToken::new();
        let opened = Arc::new(OnceLock::new());
        let admin = Admin {
            readiness: readiness.clone(),
            live: Arc::clone(&live),
            metrics: Arc::clone(&metrics),
            engine: Arc::clone(&opened),
        };
        let (admin_address, admin) = serve_admin(admin, &metrics, (&settings, &live), stop_admin.clone()).await?;

        let config = live.config();
        let opening = Engine::open(&config, &settings.identity, &settings.secrets, Arc::clone(&metrics));
        let Some(engine) = stop.run_until_cancelled(Box::pin(opening)).await else { return Ok(None) };
        let engine = engine.map_err(Error::Engine)?;
        engine_gate.open();
        let _ = opened.set(engine.clone());

        let (accepted, last) = last_accepted(&config);
        // Nobody is let in before this second has come: a nonce of an earlier one may have been used before a restart.
        let window = i64::try_from(config.protocol.timestamp_window.get().as_secs()).unwrap_or(i64::MAX);
        let ended = unix_time();
        let started = accepted::first_second(begun, last, ended, window);
        let nonces = Arc::new(NonceStore::new(nonces::CAPACITY));
        metrics.auth.nonce_capacity.set(i64::try_from(nonces::CAPACITY).unwrap_or(i64::MAX));
        let shared = Shared {
            live: Arc::clone(&live),
            metrics: Arc::clone(&metrics),
            bytes_in_flight: BytesInFlight::new(metrics.requests.bytes_in_flight.clone()),
            nonces: Arc::clone(&nonces),
            accepted: Arc::new(accepted),
            readiness: readiness.clone(),
            clock: unix_time,
            started,
        };
        // Who signs with a clock that was set back is told to come later; probes are not kept waiting for it.
        if stop.run_until_cancelled(until(started.min(ended.saturating_add(1)))).await.is_none() {
            return Ok(None);
        }
        let (bound, protocol_address) = bind_ports(&settings, &live).await?;
        let socket = bind_socket("protocol's", live.config().protocol.socket.as_deref()).await?;
        let streams = Streams::new(stop.clone());
        let router = pipeline::build(&engine, &shared, &streams);
        let protocol = tokio::spawn(serve_protocol(bound, socket, router, Arc::clone(&metrics), stop.clone()));

        let garbage = GarbageCollection {
            engine: engine.clone(),
            live: Arc::clone(&live),
            metrics: Arc::clone(&metrics),
            nonces,
            clock: unix_time,
        };
        let reload = Reload::new(settings, live, metrics, engine.clone(), (filter, telemetry.clone()));
        let loops = vec![
            tokio::spawn(reload.run(stop.clone())),
            tokio::spawn(garbage.run(stop.clone())),
            tokio::spawn(background::tick(engine.clone(), stop.clone())),
            tokio::spawn(background::drain(engine.clone(), stop.clone())),
            tokio::spawn(background::re_embed(engine.clone(), stop.clone())),
        ];
        listener_gate.open();
        info!(protocol = protocol_address.map(display), admin = admin_address.map(display), "Ready");
        Ok(Some(Self {
            protocol: protocol_address,
            admin: admin_address,
            readiness,
            engine,
            listeners: Tasks { protocol, streams, admin, stop_admin },
            loops,
            stop,
            telemetry,
            _gates: [engine_gate, listener_gate],
        }))
    }

    /// Where the protocol is spoken, if on a port.
    #[must_use]
    pub const fn protocol(&self) -> Option<SocketAddr> {
        self.protocol
    }

    /// Where probes and metrics are answered, if on a port.
    #[must_use]
    pub const fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Runs until told to stop, then ends in order.
    ///
    /// # Errors
    /// When a part ended that should not have.
    pub async fn run(mut self) -> Result<(), Error> {
        let ended = tokio::select! {
            () = self.stop.cancelled() => None,
            _ = &mut self.listeners.protocol => Some("protocol listener"),
            _ = &mut self.listeners.admin => Some("admin listener"),
            _ = futures::future::select_all(&mut self.loops) => Some("reload or a background loop"),
        };
        // The parts end by the same token, so one of them may be seen before the token itself.
        let unexpected = ended.filter(|_| !self.stop.is_cancelled());
        self.readiness.drain();
        self.stop.cancel();
        if timeout(shutdown::DRAIN, self.listeners.drained()).await.is_err() {
            warn!(
                limit_ms = shutdown::DRAIN.as_millis(),
                "Requests were still in flight; their connections are closed"
            );
        }
        match timeout(shutdown::FLUSH, self.engine.shutdown()).await {
            Ok(Ok(())) => info!("Stopped"),
            Ok(Err(error)) => {
                error!(error = chain(&error), "Failed to flush; the log of writes is replayed at the next start");
            }
            Err(_) => warn!("Flushing takes too long; the log of writes is replayed at the next start"),
        }
        tokio::join!(self.telemetry.shutdown(shutdown::LAST_SPANS), self.listeners.end_admin(shutdown::LAST_SPANS));
        unexpected.map_or(Ok(()), |name| Err(Error::TaskEnded(name)))
    }
}

impl Tasks {
    /// Returns when no request of the protocol is in flight any more.
    async fn drained(&mut self) {
        // A handle that was awaited to its end must not be awaited again.
        if !self.protocol.is_finished() {
            let _ = (&mut self.protocol).await;
        }
        self.streams.ended().await;
    }

    /// Ends the admin listener, so that its socket's file goes: the process does not wait for what still runs when it exits.
    async fn end_admin(&mut self, limit: Duration) {
        self.stop_admin.cancel();
        if !self.admin.is_finished() && timeout(limit, &mut self.admin).await.is_err() {
            debug!("An answer of the admin listener was still under way; its connection is closed");
        }
    }
}

/// Binds the protocol's ports, if ports are listened on; the first one's address.
async fn bind_ports(settings: &Settings, live: &Live) -> Result<(Vec<TcpListener>, Option<SocketAddr>), Error> {
    if settings.listening == Listening::SocketsOnly {
        return Ok((Vec::new(), None));
    }
    let port = live.config().protocol.port;
    let bound = listener::bind_loopback(port).await.map_err(|source| Error::Listen { name: "protocol", source })?;
    let address = bound[0].local_addr().map_err(Error::Address)?;
    Ok((bound, Some(address)))
}

/// Binds a Unix socket, if there is to be one.
async fn bind_socket(name: &'static str, path: Option<&Path>) -> Result<Option<Socket>, Error> {
    let Some(path) = path else { return Ok(None) };
    let socket = Socket::bind(path).await.map_err(|source| Error::Socket { name, source })?;
    info!(socket = %path.display(), "Listening on the {name} Unix socket");
    Ok(Some(socket))
}

/// Serves the protocol on all its sockets.
async fn serve_protocol(
    ports: Vec<TcpListener>,
    socket: Option<Socket>,
    router: Router,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let open = |listener| metrics.requests.connections.of(listener);
    let socket = Vec::from_iter(socket);
    tokio::join!(
        listener::serve(ports, router.clone(), Limits::PROTOCOL, open(Listener::Protocol), stop.clone()),
        listener::serve(socket, router.clone(), Limits::PROTOCOL, open(Listener::Socket), stop.clone()),
    );
}

/// The record of the embedded store's directory, which this process has locked by now. Beside a Qdrant server there is no place for one.
fn last_accepted(config: &SidecarConfig) -> (LastAccepted, Option<i64>) {
    let Store::Embedded(store) = &config.store else { return (LastAccepted::none(), None) };
    LastAccepted::open(&store.path).unwrap_or_else(|error| {
        warn!(
            error = chain(&error),
            "Could not open the record of accepted requests; every start waits for a whole second"
        );
        (LastAccepted::none(), None)
    })
}

async fn serve_admin(
    admin: Admin,
    metrics: &Metrics,
    (settings, live): (&Settings, &Live),
    stop: CancellationToken,
) -> Result<(Option<SocketAddr>, JoinHandle<()>), Error> {
    let config = live.config();
    let port = match settings.listening {
        Listening::SocketsOnly => None,
        Listening::Ports => {
            let address = SocketAddr::new(config.admin.address, config.admin.port);
            Some(listener::bind(address).await.map_err(|source| Error::Listen { name: "admin", source })?)
        }
    };
    let address = port.as_ref().map(TcpListener::local_addr).transpose().map_err(Error::Address)?;
    let socket = bind_socket("admin", settings.admin_socket.as_deref()).await?;
    let open = || metrics.requests.connections.of(Listener::Admin);
    let router = admin::router(admin);
    let ports = listener::serve(Vec::from_iter(port), router.clone(), Limits::ADMIN, open(), stop.clone());
    let sockets = listener::serve(Vec::from_iter(socket), router, Limits::ADMIN, open(), stop.clone());
    // Where nothing is listened on, the task ends when it is told to as well.
    let serving = async move {
        tokio::join!(ports, sockets, stop.cancelled());
    };
    Ok((address, tokio::spawn(serving)))
}

/// Returns when the Unix time has reached `second`.
async fn until(second: i64) {
    while unix_time() < second {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
