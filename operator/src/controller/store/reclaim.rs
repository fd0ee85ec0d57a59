//! What becomes of the contexts on a server when their resource is deleted. With `reclaimPolicy: Delete` a finalizer keeps the resource
//! until they are deleted; with `Retain` there is no finalizer and nothing here is called.
//!
//! Never deleted is what may be somebody else's: a collection that Context Manager did not make for this model, one that another
//! resource uses ([`super::sharing`]), and contexts of other namespaces. Where that cannot be known, the deletion waits.

use std::{sync::Arc, time::Duration};

use context_manager_crds::context_manager::ReclaimPolicy;
use context_manager_memory::TenantId;
use context_manager_qdrant::{Failure, Found};
use kube::{Resource as _, api::ObjectMeta};
use tracing::info;

use super::{credentials, probe::Target, server, sharing::sharing};
use crate::controller::{
    Object,
    context::Context,
    end::{self, Released, is_asked},
    error::Error,
    finalizers, fleet,
    plan::{Plan, QdrantPlan, StoragePlan},
    status::Trouble,
};
use crate::scope::Scope;

/// The finalizer.
pub const FINALIZER: &str = "contextmanager.dev/store-data";
/// Annotation `"true"` on a resource: its deletion does not wait for its contexts to be deleted.
pub const ABANDON: &str = "contextmanager.dev/abandon-data";

/// Longest time of a deletion.
const DEADLINE: Duration = Duration::from_mins(1);

/// Whether a resource is kept by the finalizer.
pub(in crate::controller) fn is_held(metadata: &ObjectMeta) -> bool {
    finalizers::has(metadata, FINALIZER)
}

/// The finalizer belongs where the contexts are to be deleted with the resource, and nowhere else.
pub(in crate::controller) fn holds(plan: &Plan) -> finalizers::Wanted {
    let deletes = matches!(&plan.storage, StoragePlan::Qdrant(store) if store.reclaim == ReclaimPolicy::Delete);
    (FINALIZER, deletes)
}

/// Deletes what the finalizer was for, as far as it is this resource's, and takes the finalizer away.
pub(in crate::controller) async fn release(context: &Context, object: &Object) -> Result<Released, Error> {
    let metadata = object.meta();
    if is_asked(metadata, ABANDON) {
        info!(
            namespace = metadata.namespace,
            name = metadata.name,
            "Abandoned the contexts of a resource as its annotation asks"
        );
        return let_go(context, metadata).await;
    }
    let resource = match &object.0 {
        Ok(resource) => resource,
        Err(unreadable) => {
            let message = format!("the resource cannot be read: {}", unreadable.error);
            return Ok(Released::Waits(waits("InvalidSpec", &message, metadata)));
        }
    };
    let plan = match Plan::of(resource) {
        Ok(plan) => plan,
        Err(invalid) => return Ok(Released::Waits(waits("InvalidSpec", &invalid.to_string(), metadata))),
    };
    let StoragePlan::Qdrant(wanted) = &plan.storage else {
        return let_go(context, metadata).await;
    };
    if wanted.reclaim == ReclaimPolicy::Retain {
        return let_go(context, metadata).await;
    }
    if plan.suspended {
        let message = "spec.suspend is true, so nothing is deleted; set it to false";
        return Ok(Released::Waits(waits("Suspended", message, metadata)));
    }
    let running = fleet::running(context, &plan).await?;
    if running > 0 {
        let message =
            format!("{running} pods still use the memory; its contexts are deleted when the last of them has ended");
        return Ok(Released::Waits(waits("PodsRemain", &message, metadata)));
    }
    // A few at a time, so that servers that are away leave room for the rest of the work.
    let Ok(_permit) = context.deletions.try_acquire() else { return Ok(Released::Busy) };
    match delete(context, &plan, wanted).await? {
        Ok(done) => {
            context.tell(&plan, done.reason, &done.note).await;
            let_go(context, metadata).await
        }
        Err(trouble) => Ok(Released::Waits(waits(trouble.reason, &trouble.message, metadata))),
    }
}

/// An event for the end of a deletion.
struct Done {
    reason: &'static str,
    note: String,
}

async fn delete(context: &Context, plan: &Plan, wanted: &QdrantPlan) -> Result<Result<Done, Trouble>, Error> {
    // A namespace that is deleted may have lost its Secrets before its resources.
    let last = || context.probes.last(&plan.owner.uid);
    let target = match credentials::fetch(context, plan, wanted).await? {
        Ok(credentials) if credentials.are_whole(wanted) => Arc::new(Target::new(context, plan, wanted, &credentials)),
        Ok(credentials) => last().unwrap_or_else(|| Arc::new(Target::new(context, plan, wanted, &credentials))),
        Err(trouble) => match last() {
            Some(target) => target,
            None => return Ok(Err(trouble)),
        },
    };
    let sharing = sharing(context, plan, wanted).await?;
    let others = &sharing.others;
    // Where not all resources can be seen, somebody else may use the collection.
    let alone = others.is_empty() && sharing.namesakes.is_empty() && context.scope == Scope::Cluster;
    if let Some(name) = others.iter().find(|other| other.serves(&plan.namespace)).map(|other| &other.name) {
        let note = format!(
            "Kept the contexts in collection {}: ContextManager {name} of this namespace uses them",
            wanted.store.collection
        );
        return Ok(Ok(Done { reason: "DataKept", note }));
    }
    if let Some(obstacle) = sharing.obstacle(&plan.namespace, &wanted.store.collection) {
        return Ok(Err(obstacle));
    }
    let Ok(tenant) = TenantId::new(plan.namespace.as_str()) else {
        let note = format!("Nothing was stored for {}, which cannot be a tenant", plan.namespace);
        return Ok(Ok(Done { reason: "DataKept", note }));
    };
    // What pods of other namespaces stored is the resource's as well, unless somebody else may have stored it too.
    let guests = plan.grants.namespaces.iter().filter(|_| alone);
    let guests: Vec<_> = guests.filter_map(|guest| TenantId::new(guest.as_str()).ok()).collect();
    let deleting = delete_from(&target, &tenant, &guests, alone);
    Ok(match tokio::time::timeout(DEADLINE, deleting).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(target.trouble(&error)),
        Err(_) => Err(Trouble::passing("StoreUnreachable", "the server did not delete the contexts in time")),
    })
}

async fn delete_from(
    target: &Target,
    tenant: &TenantId,
    guests: &[TenantId],
    alone: bool,
) -> Result<Done, server::Error> {
    let collection = target.connect()?;
    let name = &target.scope.collection;
    let done = |reason, note| Ok(Done { reason, note });
    match collection.inspect().await {
        Ok(Found::Nothing) => return done("DataDeleted", format!("There was no collection {name} any more")),
        Ok(Found::Fitting) => {}
        Err(error) if error.failure() == Failure::Incompatible => {
            return done("DataKept", format!("Kept the collection {name}, which is not this resource's: {error}"));
        }
        Err(error) => return Err(error.into()),
    }
    for guest in guests {
        collection.delete_tenant(guest).await?;
    }
    if alone && collection.count_of_others(tenant).await? == 0 {
        collection.drop_collection().await?;
        return done("DataDeleted", format!("Dropped the collection {name}"));
    }
    collection.delete_tenant(tenant).await?;
    let note = format!(
        "Deleted the contexts of namespace {} from collection {name}, which others may use too",
        tenant.as_str()
    );
    done("DataDeleted", note)
}

fn waits(reason: &'static str, message: &str, metadata: &ObjectMeta) -> Trouble {
    end::waits(reason, message, metadata, ("the contexts", ABANDON))
}

async fn let_go(context: &Context, metadata: &ObjectMeta) -> Result<Released, Error> {
    finalizers::set(context, metadata, &[(FINALIZER, false)]).await.map(|()| Released::Yes)
}
