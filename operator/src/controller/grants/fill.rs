//! The rest of a copy beside its key ring: what is copied, and bringing a namespace to it, the configuration last.

use context_manager_crds::context_manager::{embedding::SecretKeyRef, qdrant::ConfigMapKeyRef};
use context_manager_protocol::names;
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{Api, api::ObjectMeta};

use super::{
    build::{self, Data, FILES},
    refusals::{Failure, readable},
};
use crate::controller::{
    apply::{Manager, apply, covers},
    build::gives_instance,
    context::Context,
    error::{Error, call},
    given,
    keys::suspended,
    plan::Plan,
    status::Trouble,
};

/// What is copied.
pub(super) struct Originals {
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
    pub(super) async fn fetch(context: &Context, plan: &Plan) -> Result<Self, Error> {
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
pub(super) async fn fill(
    context: &Context,
    plan: &Plan,
    namespace: &str,
    originals: &Originals,
) -> Result<(), Failure> {
    if let Some(missing) = &originals.missing {
        return Err(Trouble::passing("Waiting", format!("{missing} is not there yet")).into());
    }
    let name = names::granted(&plan.namespace, &plan.name);
    let secrets = Api::<Secret>::namespaced(context.client.clone(), namespace);
    let Some(live) = readable(call("read a copy", secrets.get_opt(&name)).await)? else {
        return Err(Trouble::passing("Waiting", "the key ring is not copied yet").into());
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
    let manager = context.manager(Manager::Grants);
    let is_given = |metadata: &ObjectMeta| !plan.suspended && gives_instance(metadata, &manager);
    if !covers(&live, &wanted) || !has_nothing_else(&live, &wanted) || is_given(&live.metadata) {
        if plan.suspended {
            return Err(suspended("The copy is not up to date").into());
        }
        let write = apply(&secrets, &name, &wanted, &manager, "write a copy");
        context.refusals.attempt(plan.into(), namespace, write).await?;
        context.wrote("granted_secret");
    }
    if is_complete {
        let maps = Api::<ConfigMap>::namespaced(context.client.clone(), namespace);
        let live = readable(call("read a copy", maps.get_opt(&name)).await)?;
        let wanted = build::config_map(plan, namespace, originals.config.as_deref());
        if live.is_none_or(|live| !covers(&live, &wanted) || is_given(&live.metadata)) {
            if plan.suspended {
                return Err(suspended("The copy is not up to date").into());
            }
            let write = apply(&maps, &name, &wanted, &manager, "write a copy");
            context.refusals.attempt(plan.into(), namespace, write).await?;
            context.wrote("granted_config_map");
        }
    }
    lacking.map_or(Ok(()), |trouble| Err(trouble.into()))
}

/// Whether no file of ours is left in a copy that is not desired any more.
fn has_nothing_else(live: &Secret, wanted: &Secret) -> bool {
    let has = |secret: &Secret, file: &str| secret.data.as_ref().is_some_and(|data| data.contains_key(file));
    FILES.iter().all(|file| has(live, file) == has(wanted, file))
}
