//! A collection of a Qdrant server as the operator uses it: what may change something there passes the [`Fence`], as writes to the API server
//! do. Nothing else of the operator has a [`Collection`].

use context_manager_memory::TenantId;
use context_manager_qdrant::{self as qdrant, Collection, Found, Options, Orphans};
use secrecy::{ExposeSecret as _, SecretString};

use crate::controller::fence::{Closed, Fence};

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// Somebody else leads.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// The server did not do it.
    #[error(transparent)]
    Qdrant(#[from] qdrant::Error),
}

/// A collection, and what stands in front of its changes.
pub(super) struct Server {
    collection: Collection,
    fence: Fence,
}

impl Server {
    /// Prepares the way; nothing is sent yet.
    pub(super) fn new(options: Options, key: Option<&SecretString>, fence: Fence) -> Result<Self, qdrant::Error> {
        let server = Self { collection: Collection::connect(options)?, fence };
        server.set_key(key)?;
        Ok(server)
    }

    /// What later calls prove themselves by.
    pub(super) fn set_key(&self, key: Option<&SecretString>) -> Result<(), qdrant::Error> {
        self.collection.set_api_key(key.map(SecretString::expose_secret))
    }

    /// Looks whether the collection is there and fits.
    pub(super) async fn inspect(&self) -> Result<Found, qdrant::Error> {
        self.collection.inspect().await
    }

    /// How many contexts are not this tenant's.
    pub(super) async fn count_of_others(&self, tenant: &TenantId) -> Result<usize, qdrant::Error> {
        self.collection.count_of_others(tenant).await
    }

    /// How many orphans there are.
    pub(super) async fn count_orphans(&self, orphans: &Orphans) -> Result<usize, qdrant::Error> {
        self.collection.count_orphans(orphans).await
    }

    /// Makes the collection if it is not there, else checks it, and makes what it lacks.
    pub(super) async fn open(&self) -> Result<(), Error> {
        self.change(Box::pin(self.collection.open())).await
    }

    /// Drops the collection with all that is in it.
    pub(super) async fn drop_collection(&self) -> Result<bool, Error> {
        self.change(Box::pin(self.collection.drop_collection())).await
    }

    /// Deletes all contexts of a tenant.
    pub(super) async fn delete_tenant(&self, tenant: &TenantId) -> Result<(), Error> {
        self.change(Box::pin(self.collection.delete_tenant(tenant))).await
    }

    /// Deletes at most so many orphans, and says how many.
    pub(super) async fn delete_orphans(&self, orphans: &Orphans, limit: usize) -> Result<usize, Error> {
        self.change(Box::pin(self.collection.delete_orphans(orphans, limit))).await
    }

    async fn change<T>(&self, change: impl Future<Output = Result<T, qdrant::Error>>) -> Result<T, Error> {
        Ok(self.fence.guard(change).await??)
    }
}
