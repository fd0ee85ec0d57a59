//! A cluster that is there while the operator may run none (`controller.managedQdrant=false`): its nodes run on, and what sidecars and
//! nodes prove themselves by is renewed, because it ends by itself. That takes the rights to Secrets and `ConfigMap`s, which the operator
//! has in any case; nothing else of the cluster is read or written.

use context_manager_crds::ContextManagerStatus;
use context_manager_protocol::names;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;

use super::{
    CURRENT, build,
    restoration::Restoration,
    secret::{self, Lost, Material},
};
use crate::controller::{
    build as children,
    context::Context,
    error::{Error, call},
    keys::owned,
    plan::{ManagedPlan, Plan},
    status::Trouble,
    store::{self, Found},
};

/// The reason of all that is not done.
pub(super) const REASON: &str = "ManagedQdrantOff";

/// Follows a cluster that sidecars use, and makes none.
pub(super) async fn ensure(
    context: &Context,
    plan: &Plan,
    wanted: &ManagedPlan,
    current: Option<&ContextManagerStatus>,
) -> Result<Found, Error> {
    let found = if is_in_use(context, plan, wanted).await? {
        follow(context, plan, wanted, current).await?
    } else {
        Found::of(Err(refused()), None)
    };
    Ok(Found { snapshots: current.and_then(|current| current.snapshots.clone()), ..found })
}

/// Whether sidecars have had access: the cluster is formed, and no restoration is open.
pub(super) async fn is_in_use(context: &Context, plan: &Plan, wanted: &ManagedPlan) -> Result<bool, Error> {
    let maps = Api::<ConfigMap>::namespaced(context.client.clone(), &plan.namespace);
    let live = call("read the managed Qdrant's ConfigMap", maps.get_opt(&names::qdrant(&plan.name))).await?;
    let Some(map) = live.filter(|live| children::is_ours(&live.metadata) || owned(live, plan)) else {
        return Ok(false);
    };
    let is_whole = Restoration::of(wanted, Some(&map)).is_none_or(|restoration| !restoration.is_open());
    Ok(build::is_formed(&map) && is_whole)
}

async fn follow(
    context: &Context,
    plan: &Plan,
    wanted: &ManagedPlan,
    current: Option<&ContextManagerStatus>,
) -> Result<Found, Error> {
    let (credentials, certificate) = match secret::ensure(context, plan, wanted, Lost::Report).await? {
        Ok(Material { credentials, fingerprint: _, certificate }) => (credentials, certificate),
        Err(trouble) => return Ok(Found::of(Err(trouble), None)),
    };
    let mut found = store::follow(context, plan, &wanted.qdrant, &credentials, current).await?;
    found.beside.push((CURRENT, Err(left())));
    Ok(Found { certificate, ..found })
}

fn refused() -> Trouble {
    Trouble::stalled(
        REASON,
        "the operator was installed without the rights to run a Qdrant; set controller.managedQdrant=true in the values of the chart, \
         or use spec.vectorStore.embedded or qdrant",
    )
}

fn left() -> Trouble {
    Trouble::stalled(
        REASON,
        "the operator has no rights to run a Qdrant any more: tokens and certificates are renewed, and no node is repaired, restarted, \
         added or saved; set controller.managedQdrant=true in the values of the chart",
    )
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
pub(super) mod tests;
