//! The Secret that the sidecars of a resource mount to reach its server.

use context_manager_protocol::names;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use secrecy::ExposeSecret as _;

use super::credentials::Credentials;
use crate::controller::{
    apply::{Manager, apply, covers},
    build,
    error::{Error, call},
    keys::{name_taken, owned, suspended},
    plan::Plan,
    reconcile::Context,
    status::Trouble,
};

/// Brings the Secret to what it should be.
pub(super) async fn ensure(
    context: &Context,
    plan: &Plan,
    credentials: &Credentials,
) -> Result<Result<(), Trouble>, Error> {
    let name = names::store_secret(&plan.name);
    let api = Api::<Secret>::namespaced(context.client.clone(), &plan.namespace);
    let live = call("read the store's Secret", api.get_opt(&name)).await?;
    if let Some(foreign) = live.as_ref().filter(|live| !build::is_ours(&live.metadata) && !owned(*live, plan)) {
        return Ok(Err(name_taken(foreign, &name)));
    }
    let key = credentials.key.as_ref().map(|key| key.expose_secret().as_bytes());
    let mut wanted = build::store_secret(plan, key, credentials.ca.as_deref());
    if let Some(live) = &live {
        // A Secret's type cannot be changed.
        wanted.type_.clone_from(&live.type_);
    }
    if live.as_ref().is_some_and(|live| covers(live, &wanted) && has_nothing_else(live, &wanted)) {
        return Ok(Ok(()));
    }
    if plan.suspended {
        return Ok(Err(suspended("The store's Secret is not up to date")));
    }
    apply(&api, &name, &wanted, Manager::Store, "write the store's Secret").await?;
    context.wrote("store_secret");
    Ok(Ok(()))
}

/// Whether no file of ours is left in it that is not wanted any more.
fn has_nothing_else(live: &Secret, wanted: &Secret) -> bool {
    let has = |secret: &Secret, file: &str| secret.data.as_ref().is_some_and(|data| data.contains_key(file));
    [names::QDRANT_API_KEY_FILE, names::QDRANT_CA_FILE].iter().all(|file| has(live, file) == has(wanted, file))
}
