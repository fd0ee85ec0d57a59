//! A Qdrant server as the store: what sidecars need to reach it.
//!
//! Sidecars mount one Secret of the operator, `<name>-context-store`, whatever the resource refers to. So a key or a CA that is added or
//! rotated later reaches pods that run already.

mod credentials;
mod secret;

use super::{
    error::Error,
    plan::{Plan, QdrantPlan},
    reconcile::Context,
    status::{Finding, Good},
};

/// Brings the store's Secret to what it should be.
pub(super) async fn ensure(context: &Context, plan: &Plan, wanted: &QdrantPlan) -> Result<Finding, Error> {
    let credentials = match credentials::fetch(context, plan, wanted).await? {
        Ok(credentials) => credentials,
        Err(trouble) => return Ok(Err(trouble)),
    };
    if let Err(trouble) = secret::ensure(context, plan, &credentials).await? {
        return Ok(Err(trouble));
    }
    let message = format!("sidecars use the collection {} of {}", wanted.store.collection, wanted.store.url);
    Ok(Ok(Good("Provisioned", message)))
}
