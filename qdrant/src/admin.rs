//! What only the owner of a collection does: looking at it without making it, dropping it, and deleting without an owner's selection.
//! The operator calls these; a sidecar never does.

use context_manager_memory::{
    AgentId, TenantId, Timestamp,
    store::{Bounds, Clause, Clauses, schema},
};
use qdrant_client::qdrant::{
    DeleteCollection, DeletePoints, GetCollectionInfoRequest, PointsSelector, points_selector::PointsSelectorOneOf,
};

use crate::{Collection, Error, filter, schema as layout};

/// What is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// No collection of this name.
    Nothing,
    /// A collection that fits.
    Fitting,
}

/// Expired contexts of a tenant that no sidecar collects, because no pod of their agent runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphans {
    /// The tenant.
    pub tenant: TenantId,
    /// They expired before this time.
    pub expired_before: Timestamp,
    /// Agents that have a pod; their sidecars collect.
    pub living: Vec<AgentId>,
}

impl Collection {
    /// Looks whether the collection is there and fits. Changes nothing.
    ///
    /// # Errors
    /// [`Error::Incompatible`] when it was made for something else.
    pub async fn inspect(&self) -> Result<Found, Error> {
        if !self.is_there().await? {
            return Ok(Found::Nothing);
        }
        let request = GetCollectionInfoRequest { collection_name: self.options.collection.clone() };
        let info = self.call("describe the collection", self.collections.clone().get(request)).await?;
        layout::check(&self.options, info.result.unwrap_or_default().config.as_ref())?;
        Ok(Found::Fitting)
    }

    /// Drops the collection with all that is in it; says whether it was there.
    ///
    /// # Errors
    /// When the server fails or refuses.
    pub async fn drop_collection(&self) -> Result<bool, Error> {
        let request =
            DeleteCollection { collection_name: self.options.collection.clone(), ..DeleteCollection::default() };
        Ok(self.call("drop the collection", self.collections.clone().delete(request)).await?.result)
    }

    /// How many contexts are not this tenant's.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn count_of_others(&self, tenant: &TenantId) -> Result<usize, Error> {
        let others = Clauses { must: Vec::new(), must_not: vec![of_tenant(tenant)] };
        self.count_by(filter::of(&others)).await
    }

    /// Deletes all contexts of a tenant, of whatever agent and time.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn delete_tenant(&self, tenant: &TenantId) -> Result<(), Error> {
        let clauses = Clauses { must: vec![of_tenant(tenant)], must_not: Vec::new() };
        let selector = PointsSelectorOneOf::Filter(filter::of(&clauses));
        let request = DeletePoints {
            collection_name: self.options.collection.clone(),
            wait: Some(true),
            points: Some(PointsSelector { points_selector_one_of: Some(selector) }),
            ..DeletePoints::default()
        };
        self.call("delete a tenant's contexts", self.points.clone().delete(request)).await?;
        Ok(())
    }

    /// Deletes at most `limit` orphans, and says how many; fewer than `limit` were all of them.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn delete_orphans(&self, orphans: &Orphans, limit: usize) -> Result<usize, Error> {
        self.delete_some(orphans.clauses(), limit).await
    }

    /// How many orphans there are.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn count_orphans(&self, orphans: &Orphans) -> Result<usize, Error> {
        self.count_by(filter::of(&orphans.clauses())).await
    }
}

impl Orphans {
    fn clauses(&self) -> Clauses {
        let Self { tenant, expired_before, living } = self;
        #[expect(clippy::cast_precision_loss, reason = "times are far below 2^53 milliseconds")]
        let before = Bounds { lt: Some(expired_before.as_millis() as f64), ..Bounds::default() };
        let living: Vec<String> = living.iter().map(|agent| agent.as_str().to_owned()).collect();
        let of_the_living =
            (!living.is_empty()).then(|| Clause::AnyKeyword(schema::AGENT.to_owned(), living)).into_iter().collect();
        Clauses {
            must: vec![of_tenant(tenant), Clause::Range(schema::EXPIRES_AT.to_owned(), before)],
            must_not: of_the_living,
        }
    }
}

fn of_tenant(tenant: &TenantId) -> Clause {
    Clause::Keyword(schema::TENANT.to_owned(), tenant.as_str().to_owned())
}
