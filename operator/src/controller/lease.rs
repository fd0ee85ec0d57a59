//! Leadership: one replica at a time writes.

use std::time::Duration;

use kube::Client;
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tower::{BoxError, service_fn};
use tracing::{info, warn};

use super::{Failure, Settings};

/// How long before its end a lease is renewed.
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// Longest time of one call, so that a stuck one does not cost the lease.
const CALL: Duration = Duration::from_secs(3);

/// The lease, held.
pub(super) struct Lease {
    state: watch::Receiver<bool>,
    task: JoinHandle<Result<LeaseManager, LeaseManagerError>>,
}

impl Lease {
    /// Waits until this replica leads; `None` when it was told to stop before.
    pub(super) async fn acquire(
        client: &Client,
        settings: &Settings,
        shutdown: &CancellationToken,
    ) -> Result<Option<Self>, Failure> {
        let unbounded = client.clone();
        let bounded = service_fn(move |request| {
            let client = unbounded.clone();
            async move { timeout(CALL, client.send(request)).await.map_err(BoxError::from)?.map_err(BoxError::from) }
        });
        let manager = LeaseManagerBuilder::new(Client::new(bounded, &settings.namespace), &settings.lease)
            .with_namespace(&settings.namespace)
            .with_identity(&settings.instance)
            .with_duration(settings.lease_duration.as_secs())
            .with_grace(GRACE.as_secs())
            .build();
        let Some(manager) = shutdown.run_until_cancelled(manager).await else { return Ok(None) };
        let (state, task) = manager.map_err(Failure::Lease)?.watch().await;
        let mut lease = Self { state, task };
        let leads = async { lease.state.wait_for(|leads| *leads).await.is_ok() };
        match shutdown.run_until_cancelled(leads).await {
            Some(true) => Ok(Some(lease)),
            Some(false) => Err(Failure::LostLease),
            None => {
                lease.release().await;
                Ok(None)
            }
        }
    }

    /// Returns when another replica leads.
    pub(super) async fn lost(&mut self) {
        // An error says that the task is gone, and with it the lease.
        let _ = self.state.wait_for(|leads| !*leads).await;
    }

    /// Lets another replica lead at once.
    pub(super) async fn release(self) {
        let Self { state, task } = self;
        drop(state);
        match timeout(2 * CALL, task).await {
            Ok(Ok(Ok(_))) => info!("Released the lease"),
            Ok(Ok(Err(error))) => warn!(%error, "Failed to release the lease; it ends by itself"),
            Ok(Err(_)) | Err(_) => warn!("The lease was not released in time; it ends by itself"),
        }
    }
}
