//! What pods of other namespaces get of a resource that allows them: a Secret and a `ConfigMap` in their own namespace, kept in step.
//!
//! The `ConfigMap` is made first, empty, and removed last: so it is always a sign of the Secret, which may not be listed. Owner references
//! cannot cross namespaces, so a finalizer keeps the resource until its copies are gone. The configuration comes last, and pods do not
//! start without it: what they start with is complete.
//!
//! The key ring is copied by the rotation ([`super::keys`]), before it asks the sidecars.

mod build;

use context_manager_crds::context_manager::{embedding::SecretKeyRef, qdrant::ConfigMapKeyRef};
use context_manager_protocol::names;
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, ObjectMeta, PartialObjectMeta, Preconditions},
};

use super::{
    apply::{Manager, apply, covers},
    build::GRANTED_BY,
    error::{Error, call},
    finalizers, given,
    keys::{name_taken, suspended},
    plan::Plan,
    reconcile::Context,
    status::{Finding, Good, Trouble, listed},
};
use crate::scope;
use build::{Data, FILES};

/// The finalizer.
pub const FINALIZER: &str = "contextmanager.dev/granted-copies";

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
    /// What is the matter in others.
    troubles: Vec<(String, Trouble)>,
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
    for namespace in &plan.grants.namespaces {
        let has_sign = existing.iter().any(|copy| copy.namespace().as_ref() == Some(namespace));
        match make_room(context, plan, namespace, has_sign).await? {
            Ok(()) => grants.open.push(namespace.clone()),
            Err(trouble) => grants.troubles.push((namespace.clone(), trouble)),
        }
    }
    let withdrawn: Vec<_> = existing.into_iter().filter(|copy| !allows(plan, copy)).collect();
    if plan.suspended {
        let waits = withdrawn.iter().filter_map(kube::ResourceExt::namespace);
        grants.troubles.extend(waits.map(|namespace| (namespace, suspended("The copy is to be removed"))));
        return Ok(grants);
    }
    remove(context, &withdrawn, &plan.namespace, &plan.name).await?;
    if !withdrawn.is_empty() {
        let from: Vec<_> = withdrawn.iter().filter_map(kube::ResourceExt::namespace).collect();
        context.tell(plan, "GrantWithdrawn", &format!("Removed the copies in namespace {}", listed(&from))).await;
    }
    if plan.grants.namespaces.is_empty() {
        finalizers::set(context, metadata, &[(FINALIZER, false)]).await?;
    }
    Ok(grants)
}

/// Removes all copies of a resource that is being deleted, and lets it go. Children in its own namespace go as well, suspended or not.
pub(super) async fn release(context: &Context, metadata: &ObjectMeta) -> Result<(), Error> {
    let (Some(namespace), Some(name)) = (&metadata.namespace, &metadata.name) else { return Ok(()) };
    let copies = find(context, namespace, name).await?;
    remove(context, &copies, namespace, name).await?;
    finalizers::set(context, metadata, &[(FINALIZER, false)]).await
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
        let (name, mut latest) = (names::granted(&plan.namespace, &plan.name), None);
        for namespace in self.open.clone() {
            let api = Api::<Secret>::namespaced(context.client.clone(), &namespace);
            let live = call("read a copy", api.get_opt(&name)).await?;
            let known = live.as_ref().and_then(build::copied).filter(|(copy, _)| *copy == ring).map(|(_, since)| since);
            let is_right =
                live.as_ref().is_some_and(|live| build::is_copy(&live.metadata, &plan.namespace, &plan.name));
            let since = match known {
                Some(since) if is_right || plan.suspended => since,
                _ if plan.suspended => continue,
                _ => {
                    let now = Timestamp::now();
                    let wanted = build::keys(plan, &namespace, ring, now);
                    let written =
                        apply(&api, &name, &wanted, &context.manager(Manager::Keys), "copy the key ring").await;
                    if let Err(trouble) = or_refused(written)? {
                        self.close(&namespace, trouble);
                        continue;
                    }
                    context.wrote("granted_keys");
                    now
                }
            };
            latest = latest.max(Some(since));
        }
        Ok(latest)
    }

    fn close(&mut self, namespace: &str, trouble: Trouble) {
        self.open.retain(|open| open != namespace);
        self.troubles.push((namespace.to_owned(), trouble));
    }

    /// Brings the rest of every copy to what it should be, and says how the grants are. Nothing if there is none.
    pub(super) async fn fill(mut self, context: &Context, plan: &Plan) -> Result<Option<Finding>, Error> {
        if self.open.is_empty() && self.troubles.is_empty() {
            return Ok(None);
        }
        let originals = Originals::fetch(context, plan).await?;
        for namespace in &self.open {
            if let Err(trouble) = fill(context, plan, namespace, &originals).await? {
                self.troubles.push((namespace.clone(), trouble));
            }
        }
        Ok(Some(self.judge()))
    }

    fn judge(self) -> Finding {
        let Some((_, first)) = self.troubles.iter().find(|(_, trouble)| trouble.stalled).or(self.troubles.first())
        else {
            return Ok(Good("Copied", format!("pods of {} may use this", listed(&self.open))));
        };
        let all: Vec<_> =
            self.troubles.iter().map(|(at, trouble)| format!("namespace {at}: {}", trouble.message)).collect();
        Err(Trouble { reason: first.reason, message: all.join("; "), stalled: first.stalled })
    }
}

fn allows(plan: &Plan, copy: &impl kube::ResourceExt) -> bool {
    copy.namespace().is_some_and(|at| plan.grants.namespaces.contains(&at))
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
async fn make_room(
    context: &Context,
    plan: &Plan,
    namespace: &str,
    has_sign: bool,
) -> Result<Result<(), Trouble>, Error> {
    if !context.scope.contains(namespace) {
        let message = "this operator does not serve it; add it to watchNamespaces in the chart, or take it from spec.allowedNamespaces";
        return Ok(Err(Trouble::stalled("NamespaceNotServed", message)));
    }
    let name = names::granted(&plan.namespace, &plan.name);
    let secrets = Api::<Secret>::namespaced(context.client.clone(), namespace);
    let is_foreign = |metadata: &ObjectMeta| !build::is_copy(metadata, &plan.namespace, &plan.name);
    if let Some(secret) = call("read a copy", secrets.get_opt(&name)).await?.filter(|it| is_foreign(&it.metadata)) {
        return Ok(Err(name_taken(&secret, &name)));
    }
    if has_sign {
        return Ok(Ok(()));
    }
    let maps = Api::<ConfigMap>::namespaced(context.client.clone(), namespace);
    if let Some(map) = call("read a copy", maps.get_opt(&name)).await?.filter(|it| is_foreign(&it.metadata)) {
        return Ok(Err(name_taken(&map, &name)));
    }
    if plan.suspended {
        return Ok(Err(suspended("There is no copy")));
    }
    let wanted = build::config_map(plan, namespace, None);
    let made = apply(&maps, &name, &wanted, &context.manager(Manager::Grants), "make room for a copy").await;
    let made = or_refused(made)?;
    if made.is_ok() {
        context.wrote("granted_config_map");
    }
    Ok(made)
}

/// A namespace that is gone, or going, is no fault of the resource.
fn or_refused<T>(written: Result<T, Error>) -> Result<Result<(), Trouble>, Error> {
    let Err(error) = written else { return Ok(Ok(())) };
    let (reason, message) = match error.status().map(|status| status.code) {
        Some(404) => ("NamespaceMissing", "it does not exist; pods there can use this when it does"),
        Some(403) => (
            "NamespaceRefuses",
            "copies are refused there: the namespace is being deleted, or the operator lacks the right",
        ),
        _ => return Err(error),
    };
    Ok(Err(Trouble::passing(reason, message)))
}

/// Removes copies, each Secret before its sign.
async fn remove(context: &Context, copies: &[Sign], namespace: &str, name: &str) -> Result<(), Error> {
    let copy = names::granted(namespace, name);
    for at in copies.iter().filter_map(kube::ResourceExt::namespace) {
        let secrets = Api::<Secret>::namespaced(context.client.clone(), &at);
        let live = call("read a copy", secrets.get_opt(&copy)).await?;
        if let Some(live) = live.filter(|live| build::is_copy(&live.metadata, namespace, name)) {
            delete(&secrets, &copy, &live.metadata).await?;
            context.wrote("granted_secret");
        }
        let maps = Api::<ConfigMap>::namespaced(context.client.clone(), &at);
        let live = call("read a copy", maps.get_metadata_opt(&copy)).await?;
        if let Some(live) = live.filter(|live| build::is_copy(&live.metadata, namespace, name)) {
            delete(&maps, &copy, &live.metadata).await?;
            context.wrote("granted_config_map");
        }
    }
    Ok(())
}

/// Deletes just the object that was seen.
async fn delete<K>(api: &Api<K>, name: &str, seen: &ObjectMeta) -> Result<(), Error>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let preconditions = Preconditions { uid: seen.uid.clone(), resource_version: seen.resource_version.clone() };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match call("remove a copy", api.delete(name, &params)).await {
        Err(error) if error.status().is_none_or(|status| status.code != 404) => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// What is copied.
struct Originals {
    /// Files of the operator's own Secrets.
    made: Data,
    /// Files of Secrets and `ConfigMap`s of the user, or what is the matter with them; one that is not asked for is not there.
    given: Vec<(&'static str, Result<Vec<u8>, Trouble>)>,
    /// The configuration that is published.
    config: Option<String>,
    /// What has to be waited for.
    missing: Option<String>,
}

impl Originals {
    async fn fetch(context: &Context, plan: &Plan) -> Result<Self, Error> {
        let secrets = Api::<Secret>::namespaced(context.client.clone(), &plan.namespace);
        let mut found = Self { made: Data::new(), given: Vec::new(), config: None, missing: None };
        let store = plan.storage.server().map(|_| names::store_secret(&plan.name));
        for name in std::iter::once(names::tls_secret(&plan.name)).chain(store) {
            match call("read what is copied", secrets.get_opt(&name)).await? {
                Some(secret) => found.made.extend(secret.data.unwrap_or_default()),
                None => found.missing = Some(format!("the Secret {name}")),
            }
        }
        found.made.retain(|file, _| FILES.contains(&file.as_str()));
        let name = names::config_map(&plan.name);
        let maps = Api::<ConfigMap>::namespaced(context.client.clone(), &plan.namespace);
        let map = call("read what is copied", maps.get_opt(&name)).await?;
        found.config = map.and_then(|map| map.data?.remove(names::CONFIG_FILE));
        if found.config.is_none() {
            found.missing = Some(format!("the ConfigMap {name}"));
        }
        if let Some(reference) = &plan.embedding_key {
            let field = "spec.embedding.apiKeySecretRef";
            let key = given::secret(context, &plan.namespace, field, reference).await?;
            found.given.push((names::EMBEDDING_API_KEY_FILE, key));
        }
        found.optional(context, plan, (plan.grants.otlp_headers.as_ref(), plan.grants.otlp_ca.as_ref())).await?;
        Ok(found)
    }

    /// Pods start without these.
    async fn optional(
        &mut self,
        context: &Context,
        plan: &Plan,
        (headers, ca): (Option<&SecretKeyRef>, Option<&ConfigMapKeyRef>),
    ) -> Result<(), Error> {
        if let Some(reference) = headers {
            let field = "spec.observability.tracing.headersSecretRef";
            let found = given::secret(context, &plan.namespace, field, reference).await?;
            self.given.extend(found.ok().map(|bytes| (names::OTLP_HEADERS_FILE, Ok(bytes))));
        }
        if let Some(reference) = ca {
            let field = "spec.observability.tracing.caConfigMapRef";
            let found = given::config_map(context, &plan.namespace, field, reference).await?;
            self.given.extend(found.ok().map(|bytes| (names::OTLP_CA_FILE, Ok(bytes))));
        }
        Ok(())
    }
}

/// Brings the copies of a namespace to what they should be, the configuration last.
async fn fill(
    context: &Context,
    plan: &Plan,
    namespace: &str,
    originals: &Originals,
) -> Result<Result<(), Trouble>, Error> {
    if let Some(missing) = &originals.missing {
        return Ok(Err(Trouble::passing("Waiting", format!("{missing} is not there yet"))));
    }
    let name = names::granted(&plan.namespace, &plan.name);
    let secrets = Api::<Secret>::namespaced(context.client.clone(), namespace);
    let Some(live) = call("read a copy", secrets.get_opt(&name)).await? else {
        return Ok(Err(Trouble::passing("Waiting", "the key ring is not copied yet")));
    };
    let mut data = originals.made.clone();
    let mut lacking = None;
    for (file, found) in &originals.given {
        let kept = || live.data.as_ref().and_then(|data| data.get(*file).cloned());
        match found {
            Ok(bytes) => drop(data.insert((*file).to_owned(), ByteString(bytes.clone()))),
            // What pods have is worth more than nothing.
            Err(trouble) => {
                data.extend(kept().map(|bytes| ((*file).to_owned(), bytes)));
                lacking = Some(trouble.clone());
            }
        }
    }
    let is_complete = data.len() == originals.made.len() + originals.given.len();
    let wanted = build::rest(plan, namespace, data);
    if !covers(&live, &wanted) || !has_nothing_else(&live, &wanted) {
        if plan.suspended {
            return Ok(Err(suspended("The copy is not up to date")));
        }
        let written = apply(&secrets, &name, &wanted, &context.manager(Manager::Grants), "write a copy").await;
        if let Err(trouble) = or_refused(written)? {
            return Ok(Err(trouble));
        }
        context.wrote("granted_secret");
    }
    if is_complete {
        let maps = Api::<ConfigMap>::namespaced(context.client.clone(), namespace);
        let live = call("read a copy", maps.get_opt(&name)).await?;
        let wanted = build::config_map(plan, namespace, originals.config.as_deref());
        if live.is_none_or(|live| !covers(&live, &wanted)) {
            if plan.suspended {
                return Ok(Err(suspended("The copy is not up to date")));
            }
            let written = apply(&maps, &name, &wanted, &context.manager(Manager::Grants), "write a copy").await;
            if let Err(trouble) = or_refused(written)? {
                return Ok(Err(trouble));
            }
            context.wrote("granted_config_map");
        }
    }
    Ok(lacking.map_or(Ok(()), Err))
}

/// Whether no file of ours is left in a copy that is not desired any more.
fn has_nothing_else(live: &Secret, wanted: &Secret) -> bool {
    let has = |secret: &Secret, file: &str| secret.data.as_ref().is_some_and(|data| data.contains_key(file));
    FILES.iter().all(|file| has(live, file) == has(wanted, file))
}
