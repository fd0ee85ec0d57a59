//! Leadership: one replica at a time writes.
//!
//! Every write of the lease names the version it was decided on, so that of two replicas that try at once one is refused. No clock of
//! another machine is believed: a replica that waits takes a lease that it has not seen change for as long as it lasts, and the one
//! that leads counts from before it asked. What it writes passes a [`Fence`], which closes by itself well before others may lead.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease as Object, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::{BoxError, service_fn};
use tracing::{info, warn};

use super::{Clients, Failure, Settings, fence::Fence, reconcile::jittered};

/// Shortest lease: what is left of it after a slow call must suffice for another one.
pub(super) const SHORTEST: Duration = Duration::from_secs(6);
/// Longest time of one call, so that a stuck one does not cost the lease.
const CALL: Duration = Duration::from_secs(3);
/// Time between two looks at somebody else's lease, and between two attempts to renew one's own.
const LOOK: Duration = Duration::from_secs(1);
/// A lease is renewed so often within its duration,
const RENEWALS: u32 = 5;
/// and who cannot renew it stops writing after this part of it: others wait for all of it.
const USABLE: f64 = 2.0 / 3.0;

/// The lease, held. It is renewed in the background.
pub(super) struct Lease {
    held: Held,
    fence: Fence,
    keeper: JoinHandle<()>,
}

/// What a replica needs to write the lease.
#[derive(Clone)]
struct Held {
    api: Api<Object>,
    name: String,
    identity: String,
    duration: Duration,
}

/// The lease of somebody else, as it was seen last.
struct Seen {
    version: Option<String>,
    since: Instant,
}

impl Lease {
    /// Waits until this replica leads; `None` when it was told to stop before.
    pub(super) async fn acquire(
        client: &Client,
        settings: &Settings,
        shutdown: &CancellationToken,
    ) -> Result<Option<Self>, Failure> {
        let held = Held {
            api: Api::namespaced(bounded(client.clone(), &settings.namespace), &settings.namespace),
            name: settings.lease.clone(),
            identity: settings.instance.clone(),
            duration: settings.lease_duration,
        };
        shutdown.run_until_cancelled(held.wait()).await.transpose()
    }

    /// The same clients, which write only as long as this lease is held.
    pub(super) fn fenced(&self, clients: &Clients, namespace: &str) -> Clients {
        let Clients { client, evictions } = clients;
        Clients { client: self.fence.client(client, namespace), evictions: self.fence.client(evictions, namespace) }
    }

    /// What stands in front of all that may be changed only as long as this lease is held.
    pub(super) fn fence(&self) -> Fence {
        self.fence.clone()
    }

    /// Returns when this replica must not write any more.
    pub(super) async fn lost(&self) {
        self.fence.closed().await;
    }

    /// Lets another replica lead at once.
    pub(super) async fn release(self) {
        let Self { held, fence, mut keeper } = self;
        keeper.abort();
        // It may be on its way to the API server, and would come in between.
        let _ = (&mut keeper).await;
        fence.close();
        match held.release().await {
            Ok(true) => info!("Released the lease"),
            Ok(false) => info!("Another replica has the lease"),
            Err(error) => warn!(%error, "Failed to release the lease; it ends by itself"),
        }
    }
}

impl Held {
    /// Looks until the lease can be taken.
    async fn wait(self) -> Result<Lease, Failure> {
        let mut seen = None;
        loop {
            let asked = Instant::now();
            match self.take(&mut seen).await {
                Ok(Some(version)) => {
                    let fence = Fence::until(asked + self.usable());
                    let keeper = tokio::spawn(self.clone().keep(version, fence.clone()));
                    return Ok(Lease { held: self, fence, keeper });
                }
                Ok(None) => {}
                Err(kube::Error::Api(status)) if matches!(status.code, 401 | 403) => {
                    return Err(Failure::Lease(kube::Error::Api(status)));
                }
                Err(error) => warn!(%error, "Failed to look at the lease; it is tried again"),
            }
            sleep(jittered(LOOK, rand::random())).await;
        }
    }

    /// Takes the lease if nobody has it, or nobody has renewed it for as long as it lasts. Its version, if so.
    async fn take(&self, seen: &mut Option<Seen>) -> kube::Result<Option<String>> {
        let Some(found) = self.api.get_opt(&self.name).await? else {
            let object = json!({"metadata": {"name": self.name}, "spec": self.taken(0)});
            let object = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
            return unless_conflict(self.api.create(&PostParams::default(), &object).await);
        };
        let version = found.metadata.resource_version.clone();
        let spec = found.spec.unwrap_or_default();
        let holder = holder(&spec);
        // This replica's own lease is that of an earlier life: it had the same name, and is over.
        if holder.is_some_and(|holder| holder != self.identity) {
            let since = match seen.take() {
                Some(Seen { version: before, since }) if before == version => since,
                _ => Instant::now(),
            };
            *seen = Some(Seen { version: version.clone(), since });
            let lasts = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
            if since.elapsed() < lasts.map_or(self.duration, Duration::from_secs) {
                return Ok(None);
            }
            warn!(holder, "The lease was not renewed in time; taking it");
        }
        let transitions = spec.lease_transitions.unwrap_or_default().saturating_add(1);
        self.write(version.as_deref(), self.taken(transitions)).await
    }

    /// Renews the lease until that fails for too long, or somebody else has it.
    async fn keep(self, mut version: String, fence: Fence) {
        let renewing = async {
            let mut pause = self.duration / RENEWALS;
            loop {
                sleep(pause).await;
                let asked = Instant::now();
                let spec = json!({"renewTime": MicroTime(Timestamp::now())});
                pause = match self.write(Some(&version), spec).await {
                    Ok(Some(renewed)) => {
                        version = renewed;
                        fence.extend(asked + self.usable());
                        self.duration / RENEWALS
                    }
                    // Changed meanwhile: by a renewal whose answer was lost, or by somebody else.
                    Ok(None) => match self.api.get_opt(&self.name).await {
                        Ok(Some(found)) if found.spec.as_ref().and_then(holder) == Some(self.identity.as_str()) => {
                            version = found.metadata.resource_version.unwrap_or_default();
                            Duration::ZERO
                        }
                        Ok(_) => return warn!("Another replica has the lease, or it is gone"),
                        Err(error) => {
                            warn!(%error, "Failed to look at the lease; it is tried again");
                            LOOK
                        }
                    },
                    Err(error) => {
                        warn!(%error, "Failed to renew the lease; it is tried again");
                        LOOK
                    }
                };
            }
        };
        tokio::select! {
            () = renewing => fence.close(),
            () = fence.closed() => warn!("The lease could not be renewed in time"),
        }
    }

    /// Takes this replica's name off the lease; `false` when it is not there.
    async fn release(&self) -> kube::Result<bool> {
        let Some(found) = self.api.get_opt(&self.name).await? else { return Ok(false) };
        if found.spec.as_ref().and_then(holder) != Some(self.identity.as_str()) {
            return Ok(false);
        }
        let spec =
            json!({"holderIdentity": null, "acquireTime": null, "renewTime": null, "leaseDurationSeconds": null});
        Ok(self.write(found.metadata.resource_version.as_deref(), spec).await?.is_some())
    }

    /// Changes the lease if it is still at this version. The next version; `None` when it was changed meanwhile, or is gone.
    async fn write(&self, version: Option<&str>, spec: Value) -> kube::Result<Option<String>> {
        let patch = Patch::Merge(json!({"metadata": {"resourceVersion": version}, "spec": spec}));
        unless_conflict(self.api.patch(&self.name, &PatchParams::default(), &patch).await)
    }

    fn taken(&self, transitions: i32) -> Value {
        let now = MicroTime(Timestamp::now());
        json!({
            "holderIdentity": self.identity,
            "leaseDurationSeconds": self.duration.as_secs(),
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": transitions,
        })
    }

    fn usable(&self) -> Duration {
        self.duration.mul_f64(USABLE)
    }
}

/// Who holds a lease. One that was released names nobody, or an empty name.
fn holder(spec: &LeaseSpec) -> Option<&str> {
    spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

fn unless_conflict(written: kube::Result<Object>) -> kube::Result<Option<String>> {
    match written {
        Ok(object) => Ok(Some(object.metadata.resource_version.unwrap_or_default())),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The same client, whose calls have an end.
fn bounded(client: Client, namespace: &str) -> Client {
    let service = service_fn(move |request| {
        let client = client.clone();
        async move { timeout(CALL, client.send(request)).await.map_err(BoxError::from)?.map_err(BoxError::from) }
    });
    Client::new(service, namespace)
}
