//! The admission webhook: a thin server around [`crate::inject`].
//!
//! It is stateless and runs in as many replicas as one likes, without a leader: what it knows of the cluster are two
//! caches (labels of namespaces, and `ContextManager`s), and its certificate is its own ([`crate::pki`]). It writes
//! nothing to the cluster but events, and never waits for those.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::Client;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    inject,
    pki::{self, Certificates},
    scope::Scope,
    watches,
};

mod admin;
mod admit;
mod args;
mod caches;
mod events;
mod intake;
mod known;
mod memory_budget;
mod metrics;
mod review;
mod server;
pub mod view;

pub use args::Args;
pub use server::Times;

use admit::Admitter;
use caches::Caches;
use events::Events;
use intake::Intake;
use metrics::Metrics;
use server::callers::Callers;

/// Time between two looks at what is missing at the start.
const LOOK: Duration = Duration::from_millis(20);

/// What the webhook is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where the API server calls.
    pub address: SocketAddr,
    /// Where probes and metrics are served.
    pub admin_address: SocketAddr,
    /// Where pods and resources are looked at.
    pub scope: Scope,
    /// How injection is done.
    pub injection: inject::Settings,
    /// Certificates.
    pub pki: pki::Settings,
    /// This replica's name, shown in events.
    pub instance: String,
    /// How long connections, and requests in flight at the end, may last.
    pub times: Times,
    /// A file in PEM with the CAs of the certificates that callers have to show; without it everybody may call.
    pub api_server_ca: Option<PathBuf>,
}

/// Why the webhook cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address cannot be listened on.
    #[error("failed to listen on {address}; is another process there?")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A metric could not be registered.
    #[error("failed to register metrics")]
    Metrics(#[from] prometheus::Error),
    /// The CA of those who may call cannot be used.
    #[error(transparent)]
    Callers(#[from] server::callers::Error),
    /// TLS could not be set up.
    #[error("failed to set up TLS")]
    Tls(#[source] rustls::Error),
    /// The admin server ended.
    #[error("the admin server ended")]
    Admin(#[source] io::Error),
}

/// Sockets that are already bound, so that a caller that asked for any free port can read which one it got.
#[derive(Debug)]
pub struct Listeners {
    admission: TcpListener,
    admin: TcpListener,
}

impl Listeners {
    /// Where the API server calls.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.admission.local_addr()
    }

    /// Where probes and metrics are served.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn admin_address(&self) -> io::Result<SocketAddr> {
        self.admin.local_addr()
    }
}

/// Binds both sockets.
///
/// # Errors
/// When an address cannot be listened on.
pub async fn bind(settings: &Settings) -> Result<Listeners, Error> {
    let listen = async |address| TcpListener::bind(address).await.map_err(|source| Error::Bind { address, source });
    Ok(Listeners { admission: listen(settings.address).await?, admin: listen(settings.admin_address).await? })
}

/// Binds and serves until `shutdown`.
///
/// # Errors
/// When an address cannot be listened on, or the server cannot be set up.
pub async fn run(client: Client, settings: Settings, shutdown: CancellationToken) -> Result<(), Error> {
    let listeners = bind(&settings).await?;
    serve(client, settings, listeners, shutdown).await
}

/// Serves on sockets that are already bound, until `shutdown`.
///
/// # Errors
/// When the server cannot be set up.
pub async fn serve(
    client: Client,
    settings: Settings,
    listeners: Listeners,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let Settings { scope, injection, pki, instance, times, address, admin_address: _, api_server_ca } = settings;
    let callers = api_server_ca.map(Callers::read).transpose()?;
    let client = watches::restartable(client);
    let certificates = Certificates::default();
    let caches = Caches::new(&scope);
    let intake = Arc::new(Intake::new());
    let metrics = Arc::new(Metrics::new(certificates.clone(), pki.issuer, Arc::clone(&intake))?);
    // Whichever way this function ends, what it started ends with it.
    let stop = shutdown.child_token();
    let _stop_all = stop.clone().drop_guard();
    let events = Events::start(client.clone(), instance, Arc::clone(&metrics), stop.clone());
    tokio::spawn(pki::maintain(client.clone(), pki, certificates.clone(), stop.clone()));
    tokio::spawn(caches.clone().follow(client.clone(), stop.clone()));

    let readiness =
        admin::Readiness { certificates: certificates.clone(), caches: caches.clone(), draining: shutdown.clone() };
    let admin_router = admin::router(readiness.clone(), Arc::clone(&metrics));
    let admin_stop = CancellationToken::new();
    let admin = tokio::spawn(admin::serve(listeners.admin, admin_router, admin_stop.clone()));

    let admitter = Arc::new(Admitter { client, caches, settings: injection, events, intake, metrics });
    // Nobody is let in before this replica would be trusted. Who comes too early, because it does not know that this process was started
    // anew, waits in the socket's backlog for the moment that takes, in place of a handshake that fails.
    let ready = async {
        while readiness.obstacle(Timestamp::now()).is_some() {
            tokio::time::sleep(LOOK).await;
        }
    };
    if shutdown.run_until_cancelled(ready).await.is_some() {
        info!(%address, "Serving admission reviews");
        let router = admit::router(admitter);
        server::serve(listeners.admission, router, certificates, times, callers, shutdown).await?;
        info!("Stopped serving admission reviews");
    }

    // Probes are answered to the very end, so that a replica that drains is seen as one that drains.
    admin_stop.cancel();
    match admin.await {
        Ok(result) => result.map_err(Error::Admin),
        Err(ended) => Err(Error::Admin(io::Error::other(ended))),
    }
}
