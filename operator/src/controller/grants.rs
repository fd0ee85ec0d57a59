//! What pods of other namespaces get of a resource that allows them: a Secret and a `ConfigMap` in their own namespace, kept in step.
//!
//! The `ConfigMap` is made first, empty, and removed last: so it is always a sign of the Secret, which may not be listed. Owner references
//! cannot cross namespaces, so a finalizer keeps the resource until its copies are gone. The configuration comes last, and pods do not
//! start without it: what they start with is complete.
//!
//! The key ring is copied by the rotation ([`super::keys`]), before it asks the sidecars.

mod build;
mod fill;
mod refusals;

use std::time::Duration;

use context_manager_protocol::names;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, ObjectMeta, PartialObjectMeta, Preconditions},
};
use tracing::info;

use super::{
    apply::{Manager, apply},
    build::{GRANTED_BY, gives_instance},
    context::Context,
    end::{Released, is_asked, waits},
    error::{Error, call},
    finalizers,
    keys::{name_taken, suspended},
    plan::Plan,
    status::{Finding, Good, Trouble, listed},
};
use crate::scope;
use fill::{Originals, fill};
pub use refusals::Refusals;
use refusals::{Failure, Refused, readable, sorted};

/// Namespaces whose pods never get a sidecar, beside the operator's own: copies there would be of no use, and nobody's business.
const CLOSED: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];
/// Namespaces that are written to at once: one whose webhook does not answer takes its time.
const AT_ONCE: usize = 16;

/// The finalizer.
pub const FINALIZER: &str = "contextmanager.dev/granted-copies";
/// Annotation `"true"` on a resource: its deletion does not wait for its copies to be removed.
pub const ABANDON: &str = "contextmanager.dev/abandon-copies";

/// Namespace and name of the resource that an object is a copy of.
pub(super) fn original(metadata: &ObjectMeta) -> Option<(&str, &str)> {
    let labels = metadata.labels.as_ref()?;
    Some((labels.get(GRANTED_BY.0)?, labels.get(GRANTED_BY.1)?))
}

/// The namespaces that a resource allows.
#[derive(Debug, Default)]
pub(super) struct Grants {
    /// Those where there is room for copies.
    open: Vec<String>,
    /// What is the matter in these, and in others. Nothing more is written there in this look at the resource.
    troubles: Vec<(String, Refused)>,
}

/// Whether a resource is kept by the finalizer.
pub(super) fn is_held(metadata: &ObjectMeta) -> bool {
    finalizers::has(metadata, FINALIZER)
}

/// The finalizer is there before the first copy; it goes when the last one is gone.
pub(super) fn holds(metadata: &ObjectMeta, plan: &Plan) -> finalizers::Wanted {
    (FINALIZER, is_held(metadata) || !plan.grants.namespaces.is_empty())
}

/// Makes room for copies where the resource allows them, and takes the others away.
pub(super) async fn open(context: &Context, plan: &Plan, metadata: &ObjectMeta) -> Result<Grants, Error> {
    let mut grants = Grants::default();
    if plan.grants.namespaces.is_empty() && !is_held(metadata) {
        return Ok(grants);
    }
    let existing = find(context, &plan.namespace, &plan.name).await?;
    let has_sign = |namespace: &str| existing.iter().any(|copy| copy.namespace().as_deref() == Some(namespace));
    context
        .refusals
        .keep_namespaces(&plan.owner.uid, |at| has_sign(at) || plan.grants.namespaces.iter().any(|it| it == at));
    let wanted: Vec<_> = plan.grants.namespaces.iter().map(|at| (at.clone(), has_sign(at))).collect();
    let made = stream::iter(wanted).map(|(namespace, has_sign)| async move {
        let made = sorted(make_room(context, plan, &namespace, has_sign).await)?;
        Ok::<_, Error>((namespace, made))
    });
    for (namespace, made) in made.buffered(AT_ONCE).try_collect::<Vec<_>>().await? {
        match made {
            Ok(()) => grants.open.push(namespace),
            Err(refused) => grants.troubles.push((namespace, refused)),
        }
    }
    let withdrawn: Vec<_> = existing.into_iter().filter(|copy| !allows(context, plan, copy)).collect();
    if plan.suspended {
        let waits = withdrawn.iter().filter_map(kube::ResourceExt::namespace);
        grants
            .troubles
            .extend(waits.map(|namespace| {
                (namespace, Refused { trouble: suspended("The copy is to be removed"), again: None })
            }));
        return Ok(grants);
    }
    let (gone, left) = remove(context, plan.into(), &withdrawn).await?;
    if !gone.is_empty() {
        context.tell(plan, "GrantWithdrawn", &format!("Removed the copies in namespace {}", listed(&gone))).await;
    }
    if plan.grants.namespaces.is_empty() && left.is_empty() {
        finalizers::set(context, metadata, &[(FINALIZER, false)]).await?;
    }
    grants.troubles.extend(left);
    Ok(grants)
}

/// Removes all copies of a resource that is being deleted, and lets it go. Children in its own namespace go as well, suspended or not.
pub(super) async fn release(context: &Context, metadata: &ObjectMeta) -> Result<Released, Error> {
    let Some(owner) = Owner::of(metadata) else { return Ok(Released::Yes) };
    if is_asked(metadata, ABANDON) {
        let Owner { namespace, name, .. } = owner;
        info!(namespace, name, "Abandoned the copies of a resource as its annotation asks");
    } else {
        let copies = find(context, owner.namespace, owner.name).await?;
        let (_, left) = remove(context, owner, &copies).await?;
        if !left.is_empty() {
            return Ok(Released::Waits(waits("CopiesRemain", &said(&left), metadata, ("the copies", ABANDON))));
        }
    }
    finalizers::set(context, metadata, &[(FINALIZER, false)]).await?;
    Ok(Released::Yes)
}

impl Grants {
    /// The namespaces whose pods count.
    pub(super) fn namespaces(&self) -> &[String] {
        &self.open
    }

    /// Brings the key ring of every copy to that of a Secret. Since when all of them have it: pods that were made before may have mounted
    /// another one.
    pub(super) async fn copy_keys(
        &mut self,
        context: &Context,
        plan: &Plan,
        original: &Secret,
    ) -> Result<Option<Timestamp>, Error> {
        let Some(ring) = original.data.as_ref().and_then(|data| data.get(names::KEYS_FILE)) else { return Ok(None) };
        let copied = stream::iter(self.well()).map(|namespace| async move {
            let copied = sorted(copy_ring(context, plan, &namespace, ring).await)?;
            Ok::<_, Error>((namespace, copied))
        });
        let mut latest = None;
        for (namespace, copied) in copied.buffered(AT_ONCE).try_collect::<Vec<_>>().await? {
            match copied {
                Ok(since) => latest = latest.max(since),
                Err(refused) => {
                    // Pods of a namespace that only refuses still count, and a rotation waits for them as long as for others there.
                    self.open.retain(|open| *open != namespace || refused.again.is_some());
                    self.troubles.push((namespace, refused));
                }
            }
        }
        Ok(latest)
    }

    /// Brings the rest of every copy to what it should be, and says how the grants are, and when there is more to do. Nothing if there is
    /// none.
    pub(super) async fn fill(
        &mut self,
        context: &Context,
        plan: &Plan,
    ) -> Result<(Option<Finding>, Option<Duration>), Error> {
        if self.open.is_empty() && self.troubles.is_empty() {
            return Ok((None, None));
        }
        let originals = &Originals::fetch(context, plan).await?;
        let filled = stream::iter(self.well()).map(|namespace| async move {
            let filled = sorted(fill(context, plan, &namespace, originals).await)?;
            Ok::<_, Error>((namespace, filled))
        });
        let filled: Vec<_> = filled.buffered(AT_ONCE).try_collect().await?;
        self.troubles.extend(filled.into_iter().filter_map(|(namespace, filled)| Some((namespace, filled.err()?))));
        let again = self.troubles.iter().filter_map(|(_, refused)| refused.again).min();
        Ok((Some(self.judge()), again))
    }

    /// Those that have room, and of which nothing is the matter so far.
    fn well(&self) -> Vec<String> {
        let is_well = |namespace: &&String| self.troubles.iter().all(|(troubled, _)| troubled != *namespace);
        self.open.iter().filter(is_well).cloned().collect()
    }

    fn judge(&self) -> Finding {
        let mut troubles = self.troubles.iter().map(|(_, refused)| &refused.trouble);
        let Some(first) = troubles.clone().find(|trouble| trouble.stalled).or_else(|| troubles.next()) else {
            return Ok(Good("Copied", format!("pods of {} may use this", listed(&self.open))));
        };
        Err(Trouble { reason: first.reason, message: said(&self.troubles), stalled: first.stalled })
    }
}

/// What is the matter where.
fn said(troubles: &[(String, Refused)]) -> String {
    let said = troubles.iter().map(|(at, Refused { trouble, .. })| format!("namespace {at}: {}", trouble.message));
    said.collect::<Vec<_>>().join("; ")
}

/// Whose copies they are.
#[derive(Clone, Copy, Debug)]
struct Owner<'a> {
    uid: &'a str,
    namespace: &'a str,
    name: &'a str,
}

impl<'a> Owner<'a> {
    fn of(metadata: &'a ObjectMeta) -> Option<Self> {
        let ObjectMeta { uid: Some(uid), namespace: Some(namespace), name: Some(name), .. } = metadata else {
            return None;
        };
        Some(Self { uid, namespace, name })
    }
}

impl<'a> From<&'a Plan> for Owner<'a> {
    fn from(plan: &'a Plan) -> Self {
        Self { uid: &plan.owner.uid, namespace: &plan.namespace, name: &plan.name }
    }
}

fn allows(context: &Context, plan: &Plan, copy: &impl kube::ResourceExt) -> bool {
    copy.namespace().is_some_and(|at| plan.grants.namespaces.contains(&at) && !is_closed(context, &at))
}

fn is_closed(context: &Context, namespace: &str) -> bool {
    CLOSED.contains(&namespace) || context.namespace == namespace
}

type Sign = PartialObjectMeta<ConfigMap>;

/// The signs of all copies, wherever this operator looks.
async fn find(context: &Context, namespace: &str, name: &str) -> Result<Vec<Sign>, Error> {
    let mut found = Vec::new();
    let params = ListParams::default().labels(&build::selector(namespace, name));
    for place in context.scope.places() {
        let api = scope::api::<ConfigMap>(&context.client, place);
        found.extend(call("list the copies in other namespaces", api.list_metadata(&params)).await?.items);
    }
    Ok(found)
}

/// Makes the sign in a namespace. Nothing there is overwritten that is not a copy of this resource.
async fn make_room(context: &Context, plan: &Plan, namespace: &str, has_sign: bool) -> Result<(), Failure> {
    if is_closed(context, namespace) {
        let message = "pods of it never get a sidecar, so nothing is copied there; take it from spec.allowedNamespaces";
        return Err(Trouble::stalled("NamespaceClosed", message).into());
    }
    if !context.scope.contains(namespace) {
        let message = "this operator does not serve it; add it to watchNamespaces in the chart, or take it from spec.allowedNamespaces";
        return Err(Trouble::stalled("NamespaceNotServed", message).into());
    }
    let name = names::granted(&plan.namespace, &plan.name);
    let secrets = Api::<Secret>::namespaced(context.client.clone(), namespace);
    let is_foreign = |metadata: &ObjectMeta| !build::is_copy(metadata, &plan.namespace, &plan.name);
    let secret = readable(call("read a copy", secrets.get_opt(&name)).await)?;
    if let Some(secret) = secret.filter(|secret| is_foreign(&secret.metadata)) {
        return Err(name_taken(&secret, &name).into());
    }
    if has_sign {
        return Ok(());
    }
    let maps = Api::<ConfigMap>::namespaced(context.client.clone(), namespace);
    let map = readable(call("read a copy", maps.get_opt(&name)).await)?;
    if let Some(map) = map.filter(|map| is_foreign(&map.metadata)) {
        return Err(name_taken(&map, &name).into());
    }
    if plan.suspended {
        return Err(suspended("There is no copy").into());
    }
    let (wanted, manager) = (build::config_map(plan, namespace, None), context.manager(Manager::Grants));
    let write = apply(&maps, &name, &wanted, &manager, "make room for a copy");
    context.refusals.attempt(plan.into(), namespace, write).await?;
    context.wrote("granted_config_map");
    Ok(())
}

/// Brings the key ring of a copy to that of the original. Since when it has it, unless it is suspended without it.
async fn copy_ring(
    context: &Context,
    plan: &Plan,
    namespace: &str,
    ring: &ByteString,
) -> Result<Option<Timestamp>, Failure> {
    let name = names::granted(&plan.namespace, &plan.name);
    let api = Api::<Secret>::namespaced(context.client.clone(), namespace);
    let live = readable(call("read a copy", api.get_opt(&name)).await)?;
    let known = live.as_ref().and_then(build::copied).filter(|(copy, _)| *copy == ring).map(|(_, since)| since);
    let manager = context.manager(Manager::Keys);
    let is_right = live.as_ref().is_some_and(|Secret { metadata, .. }| {
        build::is_copy(metadata, &plan.namespace, &plan.name) && !gives_instance(metadata, &manager)
    });
    if plan.suspended || (known.is_some() && is_right) {
        return Ok(known);
    }
    let since = known.unwrap_or_else(Timestamp::now);
    let wanted = build::keys(plan, namespace, ring, since);
    let write = apply(&api, &name, &wanted, &manager, "copy the key ring");
    context.refusals.attempt(plan.into(), namespace, write).await?;
    context.wrote("granted_keys");
    Ok(Some(since))
}

/// Where copies are gone, and where they are not and why.
type Removed = (Vec<String>, Vec<(String, Refused)>);

/// Removes copies.
async fn remove(context: &Context, owner: Owner<'_>, copies: &[Sign]) -> Result<Removed, Error> {
    let places: Vec<_> = copies.iter().filter_map(kube::ResourceExt::namespace).collect();
    let removed = stream::iter(places).map(|namespace| async move {
        let removed = sorted(remove_from(context, owner, &namespace).await)?;
        Ok::<_, Error>((namespace, removed))
    });
    let (mut gone, mut left) = Removed::default();
    for (namespace, removed) in removed.buffered(AT_ONCE).try_collect::<Vec<_>>().await? {
        match removed {
            Ok(()) => gone.push(namespace),
            Err(mut refused) => {
                refused.trouble.message = format!("the copies are to be removed, but {}", refused.trouble.message);
                left.push((namespace, refused));
            }
        }
    }
    Ok((gone, left))
}

/// Removes the Secret of a copy, and then its sign.
async fn remove_from(context: &Context, owner: Owner<'_>, namespace: &str) -> Result<(), Failure> {
    let name = names::granted(owner.namespace, owner.name);
    let is_copy = |metadata: &ObjectMeta| build::is_copy(metadata, owner.namespace, owner.name);
    let secrets = Api::<Secret>::namespaced(context.client.clone(), namespace);
    let live = readable(call("read a copy", secrets.get_opt(&name)).await)?;
    if let Some(live) = live.filter(|live| is_copy(&live.metadata)) {
        context.refusals.attempt(owner, namespace, delete(&secrets, &name, &live.metadata)).await?;
        context.wrote("granted_secret");
    }
    let maps = Api::<ConfigMap>::namespaced(context.client.clone(), namespace);
    let live = readable(call("read a copy", maps.get_metadata_opt(&name)).await)?;
    if let Some(live) = live.filter(|live| is_copy(&live.metadata)) {
        context.refusals.attempt(owner, namespace, delete(&maps, &name, &live.metadata)).await?;
        context.wrote("granted_config_map");
    }
    Ok(())
}

/// Deletes just the object that was seen, whatever was changed in it since: somebody who keeps changing it must not keep it.
async fn delete<K>(api: &Api<K>, name: &str, seen: &ObjectMeta) -> Result<(), Error>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let preconditions = Preconditions { uid: seen.uid.clone(), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match call("remove a copy", api.delete(name, &params)).await {
        Err(error) if error.status().is_none_or(|status| status.code != 404) => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}
