//! The children without secrets: configuration and claim; and what is only looked at: the webhook, the user's Secrets.

use context_manager_crds::{ContextManagerStatus, quantity::Amount};
use context_manager_protocol::{config::SidecarConfig, names};
use k8s_openapi::{
    api::{
        admissionregistration::v1::{MutatingWebhook, MutatingWebhookConfiguration},
        core::v1::{ConfigMap, PersistentVolumeClaim},
    },
    apimachinery::pkg::api::resource,
};
use kube::Api;

use super::{
    apply::{Manager, apply, covers},
    build,
    context::Context,
    error::{Error, call},
    given,
    keys::{name_taken, not_taken, owned, suspended},
    managed,
    plan::{ClaimPlan, Plan, StoragePlan},
    status::{Finding, Good, Trouble, listed},
    store,
};
use crate::{pki::only_certificates, selector};

/// Brings the configuration to what it should be.
pub(super) async fn config(context: &Context, plan: &Plan) -> Result<Finding, Error> {
    let name = names::config_map(&plan.name);
    let api = Api::<ConfigMap>::namespaced(context.client.clone(), &plan.namespace);
    let live = call("read the configuration", api.get_opt(&name)).await?;
    if let Some(foreign) = live.as_ref().filter(|live| !build::is_ours(&live.metadata) && !owned(*live, plan)) {
        return Ok(Err(name_taken(foreign, &name)));
    }
    let published = live.as_ref().and_then(published);
    let (ca, trouble) = match embedding_ca(context, plan).await? {
        Ok(ca) => (ca, None),
        Err(trouble) => match published.as_ref().and_then(|published| published.embedding.ca.clone()) {
            // What sidecars have is worth more than nothing.
            Some(ca) => (Some(ca), Some(trouble)),
            // They would trust other CAs than they are to.
            None => return Ok(Err(trouble)),
        },
    };
    let mut config = plan.config.clone();
    config.embedding.ca = ca;
    let wanted = build::config_map(plan, &config);
    if live.as_ref().is_none_or(|live| !covers(live, &wanted)) {
        if plan.suspended {
            return Ok(match published {
                Some(published) if says_the_same(&published, &config) => {
                    Ok(Good("Provisioned", format!("generation {} is published", published.generation)))
                }
                Some(_) | None => Err(suspended("The configuration is not up to date")),
            });
        }
        let manager = context.manager(Manager::Config);
        if let Err(error) = apply(&api, &name, &wanted, &manager, "write the configuration").await {
            return not_taken(error, "ConfigMap", &name).map(Err);
        }
        context.wrote("config_map");
    }
    let good = Good("Provisioned", format!("generation {} is published", config.generation));
    Ok(trouble.map_or(Ok(good), Err))
}

/// The CA of the embedding API, if it has one of its own. Whoever may read the configuration reads it, so nothing that stands beside the
/// certificates gets there.
async fn embedding_ca(context: &Context, plan: &Plan) -> Result<Result<Option<String>, Trouble>, Error> {
    let Some(source) = &plan.embedding_ca else { return Ok(Ok(None)) };
    let fields = ["spec.embedding.tls.caSecretRef", "spec.embedding.tls.caConfigMapRef"];
    let found = given::checked_ca(context, &plan.namespace, fields, source).await?;
    Ok(found.map(|pem| Some(only_certificates(&pem))))
}

/// The configuration that is published.
fn published(live: &ConfigMap) -> Option<SidecarConfig> {
    SidecarConfig::from_toml(live.data.as_ref()?.get(names::CONFIG_FILE)?).ok()
}

/// Suspending a resource makes a new generation of it and changes nothing else.
fn says_the_same(published: &SidecarConfig, wanted: &SidecarConfig) -> bool {
    SidecarConfig { generation: wanted.generation, ..published.clone() } == *wanted
}

/// Brings the store to what it should be, as far as it lies in the cluster, and says in a word where contexts are kept.
pub(super) async fn storage(
    context: &Context,
    plan: &Plan,
    current: Option<&ContextManagerStatus>,
) -> Result<(String, store::Found), Error> {
    let settled = |finding| store::Found::of(finding, None);
    match &plan.storage {
        StoragePlan::EmptyDir => {
            let good = Good("EmptyDir", "each pod has a volume that ends with it".to_owned());
            Ok(("Embedded/EmptyDir".to_owned(), settled(Ok(good))))
        }
        StoragePlan::Claim(wanted) => {
            let field = "spec.vectorStore.embedded.storage.volumeClaimTemplate";
            Ok(("Embedded/Claim".to_owned(), settled(claim(context, plan, wanted, field).await?)))
        }
        StoragePlan::Managed(wanted) => {
            Ok(("Managed".to_owned(), Box::pin(managed::ensure(context, plan, wanted, current)).await?))
        }
        StoragePlan::Qdrant(wanted) => Ok(("Qdrant".to_owned(), store::ensure(context, plan, wanted, current).await?)),
    }
}

/// Brings a claim to what it should be. `field` is where the resource asks for it.
pub(super) async fn claim(
    context: &Context,
    plan: &Plan,
    wanted: &ClaimPlan,
    field: &'static str,
) -> Result<Finding, Error> {
    let api = Api::<PersistentVolumeClaim>::namespaced(context.client.clone(), &plan.namespace);
    let live = call("read the claim", api.get_opt(&wanted.name)).await?;
    if let Some(foreign) = live.as_ref().filter(|live| !build::is_ours(&live.metadata) && !owned(*live, plan)) {
        return Ok(Err(name_taken(foreign, &wanted.name)));
    }
    let mut desired = build::claim(plan, wanted);
    if let Some(live) = &live {
        keep_what_cannot_change(&mut desired, live, wanted);
    }
    let manager = context.manager(Manager::Storage);
    let current = |live: &PersistentVolumeClaim| {
        covers(live, &desired)
            && owned(live, plan) != wanted.retain
            && (plan.suspended || !build::gives_instance(&live.metadata, &manager))
    };
    let is_there = live.is_some();
    let live = match live {
        Some(live) if current(&live) => live,
        _ if plan.suspended => return Ok(Err(suspended("The claim is not up to date"))),
        _ => match apply(&api, &wanted.name, &desired, &manager, "write the claim").await {
            Ok(written) => {
                context.wrote("claim");
                written
            }
            Err(error) => {
                let say = |words: &str| refused(field, &wanted.name, is_there, words);
                return error.or_refused("ClaimRefused", say).map(Err);
            }
        },
    };
    let phase = live.status.and_then(|status| status.phase).unwrap_or_else(|| "Pending".to_owned());
    Ok(match phase.as_str() {
        "Bound" => Ok(Good("ClaimBound", format!("the claim {} is bound", wanted.name))),
        "Lost" => {
            let message = format!("the volume of the claim {} is gone; restore it, or delete the claim", wanted.name);
            Err(Trouble::stalled("ClaimLost", message))
        }
        // Many classes bind a claim only when the first pod uses it, so this must not keep the first pod away.
        _ => Ok(Good("ClaimPending", format!("the claim {} is bound with its first pod, at the latest", wanted.name))),
    })
}

/// What is said of a claim that the API server does not take. One that is there stays as it is, and pods go on using it.
fn refused(field: &str, name: &str, is_there: bool, words: &str) -> String {
    let (what, remedy) = if is_there {
        (
            "does not let the claim change, which stays as it is",
            "a volume can grow once the claim is bound, if its StorageClass has allowVolumeExpansion: true and no quota or policy of the \
             namespace is against it",
        )
    } else {
        (
            "does not take the claim",
            "ask for less, or change the quota, limit or policy of the namespace that is against it",
        )
    };
    format!("{field}: the API server {what} ({name}: {words}); {remedy}. It is tried again")
}

/// Class, modes and volume of an existing claim cannot be changed, and its size only upwards. The API server writes a size in its
/// own way.
fn keep_what_cannot_change(desired: &mut PersistentVolumeClaim, live: &PersistentVolumeClaim, wanted: &ClaimPlan) {
    let (Some(desired), Some(live)) = (&mut desired.spec, &live.spec) else { return };
    desired.access_modes.clone_from(&live.access_modes);
    if desired.storage_class_name.is_some() {
        desired.storage_class_name.clone_from(&live.storage_class_name);
    }
    if desired.volume_name.is_some() {
        desired.volume_name.clone_from(&live.volume_name);
    }
    let has = live.resources.as_ref().and_then(|resources| resources.requests.as_ref()?.get("storage"));
    let grows = |resource::Quantity(has): &resource::Quantity| {
        has.parse::<Amount>().is_ok_and(|has| wanted.size.amount() > has)
    };
    if has.is_some_and(|has| !grows(has)) {
        desired.resources.clone_from(&live.resources);
        if let Some(resources) = &mut desired.resources {
            resources.limits = None;
        }
    }
}

/// Whether the Secret that the user makes for the embedding API is there; pods that mount it could not start without it.
pub(super) async fn embedding_key(context: &Context, plan: &Plan) -> Result<Result<(), Trouble>, Error> {
    let Some(reference) = &plan.embedding_key else { return Ok(Ok(())) };
    let field = "spec.embedding.apiKeySecretRef";
    Ok(given::secret(context, &plan.namespace, field, reference).await?.map(drop))
}

/// Whether the API server would call the webhook and trust it; and for which of the resource's namespaces, its own and those that it allows,
/// it never does.
pub(super) async fn injection(context: &Context, plan: &Plan) -> Result<(Finding, Vec<String>), Error> {
    let name = &context.webhook_configuration;
    let api = Api::<MutatingWebhookConfiguration>::all(context.client.clone());
    let Some(configuration) = call("read the webhook's configuration", api.get_opt(name)).await? else {
        let message =
            format!("there is no MutatingWebhookConfiguration {name:?}, so no pod gets a sidecar; install the chart");
        return Ok((Err(Trouble::passing("WebhookMissing", message)), Vec::new()));
    };
    let webhooks = configuration.webhooks.unwrap_or_default();
    let trusted = !webhooks.is_empty()
        && webhooks.iter().all(|webhook| webhook.client_config.ca_bundle.as_ref().is_some_and(|ca| !ca.0.is_empty()));
    let left_out = left_out(&webhooks, plan);
    let finding = if trusted {
        reached(plan, &left_out)
    } else {
        let message = "the webhook has not published its CA yet; if this stays, look at the webhook's log";
        Err(Trouble::passing("WebhookNotTrusted", message))
    };
    Ok((finding, left_out))
}

/// Namespaces of the resource's pods that every entry leaves out by their names. Other labels of namespaces are not known here.
fn left_out(webhooks: &[MutatingWebhook], plan: &Plan) -> Vec<String> {
    let leaves_out = |webhook: &MutatingWebhook, namespace: &str| {
        webhook.namespace_selector.as_ref().is_some_and(|selector| selector::leaves_out(selector, namespace))
    };
    let never = |namespace: &&String| {
        !webhooks.is_empty() && webhooks.iter().all(|webhook| leaves_out(webhook, namespace.as_str()))
    };
    std::iter::once(&plan.namespace).chain(&plan.grants.namespaces).filter(never).cloned().collect()
}

/// Whether pods get a sidecar, as far as their namespaces are concerned.
fn reached(plan: &Plan, left_out: &[String]) -> Finding {
    let good = "pods that opt in get a sidecar";
    if left_out.is_empty() {
        return Ok(Good("WebhookTrusted", good.to_owned()));
    }
    let names = listed(left_out);
    if left_out.len() <= plan.grants.namespaces.len() {
        // Pods of the others can use it.
        let message = format!("{good}, but those of {names}, which the webhook is not asked about");
        return Ok(Good("WebhookTrusted", message));
    }
    let message = format!(
        "the webhook is not asked about pods of {names}, so none of them gets a sidecar: it leaves out the operator's own namespace, \
         those of the cluster, and webhook.excludedNamespaces of the chart; take the namespace from that value, or use another one"
    );
    Err(Trouble::stalled("NamespaceExcluded", message))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
    use serde_json::json;

    use super::*;
    use crate::controller::{
        context::tests::context_with,
        objects::{Objects, SECRETS},
        plan::tests::resource,
    };

    /// The key and the certificate of a new CA.
    fn authority() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().pem();
        (key.serialize_pem(), certificate)
    }

    #[tokio::test]
    async fn the_ca_of_the_embedding_api_is_published_in_the_configuration_and_a_broken_one_does_not_replace_it() {
        let objects = Objects::default();
        let client = objects.client();
        let context = context_with(&client, |settings| settings);
        let plan = |dimensions: i32| {
            let embedding = json!({
                "provider": "openAI", "url": "https://embeddings/v1/embeddings", "model": "m", "dimensions": dimensions,
                "tls": {"caSecretRef": {"name": "mine", "key": "ca.crt"}},
            });
            Plan::of(&resource(&json!({"embedding": embedding}))).unwrap()
        };
        let maps = Api::<ConfigMap>::namespaced(client.clone(), "team");
        let live = async || maps.get_opt("memory-context-config").await.unwrap().as_ref().and_then(published);
        let ended = async |dimensions| config(&context, &plan(dimensions)).await.unwrap();
        let write = |ca: &str| objects.put(&format!("{SECRETS}/mine"), &[("ca.crt", ca)]);

        let trouble = ended(8).await.unwrap_err();
        assert_eq!(trouble.reason, "SecretNotFound");
        assert!(trouble.message.starts_with("spec.embedding.tls.caSecretRef: "), "{}", trouble.message);
        assert_eq!(live().await, None, "sidecars would trust other CAs than they are to");

        let ((key, first), (_, second)) = (authority(), authority());
        write(&format!("{key}{first}a note\n{second}"));
        ended(8).await.unwrap();
        let both = live().await.unwrap().embedding.ca;
        assert_eq!(both, Some(format!("{first}{second}")), "and nothing else");

        write("no certificate");
        let trouble = ended(16).await.unwrap_err();
        assert_eq!(trouble.reason, "SecretInvalid");
        let remedy = "has no certificate in PEM; write the certificates of the CAs in PEM to it";
        assert!(trouble.message.contains(remedy), "{}", trouble.message);
        let kept = live().await.unwrap().embedding;
        assert_eq!(kept.ca, both, "sidecars keep what was good");
        assert_eq!(kept.dimensions, 16, "and get the rest");

        write(&second);
        ended(16).await.unwrap();
        assert_eq!(live().await.unwrap().embedding.ca, Some(second));
    }

    #[tokio::test]
    async fn a_configuration_that_the_api_server_does_not_take_is_said() {
        let objects = Objects::default();
        let context = context_with(&objects.client(), |settings| settings);
        let plan = Plan::of(&resource(&json!({}))).unwrap();
        objects.refuse(true);
        let trouble = config(&context, &plan).await.unwrap().unwrap_err();
        assert_eq!((trouble.reason, trouble.stalled), ("ObjectRefused", true));
        let words = "ConfigMap memory-context-config (exceeded quota: small)";
        assert!(trouble.message.contains(words), "{}", trouble.message);
        objects.refuse(false);
        config(&context, &plan).await.unwrap().unwrap();
    }

    #[test]
    fn an_existing_claim_grows_and_changes_nothing_else() {
        let live: PersistentVolumeClaim = serde_json::from_value(json!({"spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "fast", "volumeName": "pv-1",
            "resources": {"requests": {"storage": "1Gi"}},
        }}))
        .unwrap();
        let size_after = |size: &str| {
            let wanted = ClaimPlan {
                name: "x".to_owned(),
                storage_class: None,
                access_modes: vec!["ReadWriteMany"],
                size: size.parse().unwrap(),
                volume: None,
                retain: true,
            };
            let mut desired: PersistentVolumeClaim =
                serde_json::from_value(json!({"spec": {"resources": {"requests": {"storage": size}}}})).unwrap();
            keep_what_cannot_change(&mut desired, &live, &wanted);
            let spec = desired.spec.unwrap();
            assert_eq!(spec.access_modes.unwrap(), ["ReadWriteOnce"]);
            assert_eq!(
                (spec.storage_class_name, spec.volume_name),
                (None, None),
                "what is not ours stays with its owner"
            );
            spec.resources.unwrap().requests.unwrap()["storage"].0.clone()
        };
        assert_eq!(size_after("1024Mi"), "1Gi", "the same amount in other words is no change");
        assert_eq!(size_after("2Gi"), "2Gi");
        assert_eq!(size_after("512Mi"), "1Gi", "a claim cannot shrink");
    }

    #[test]
    fn a_namespace_that_the_webhook_is_not_asked_about_is_said_and_stalls_a_resource_for_no_other() {
        let plan = |spec| Plan::of(&crate::controller::plan::tests::resource(&spec)).unwrap();
        let entry = |asks: &str, excluded: &[&str]| -> MutatingWebhook {
            let name = json!({"key": selector::NAMESPACE, "operator": "NotIn", "values": excluded});
            let asked = json!({"key": names::INJECT, "operator": asks, "values": ["true"]});
            serde_json::from_value(json!({
                "name": "x", "clientConfig": {}, "sideEffects": "None", "admissionReviewVersions": ["v1"],
                "namespaceSelector": {"matchExpressions": [name, asked]},
            }))
            .unwrap()
        };
        let both = |excluded: &[&str]| [entry("In", excluded), entry("NotIn", excluded)];
        let judged = |excluded: &[&str], plan: &Plan| {
            let left_out = left_out(&both(excluded), plan);
            let finding = reached(plan, &left_out);
            (left_out, finding)
        };
        let (alone, shared) = (plan(json!({})), plan(json!({"allowedNamespaces": ["guest"]})));
        assert_eq!(judged(&["home"], &shared).0, Vec::<String>::new());
        let Good(reason, message) = judged(&["home"], &shared).1.unwrap();
        assert_eq!((reason, message.as_str()), ("WebhookTrusted", "pods that opt in get a sidecar"));

        let (left_out_of_it, finding) = judged(&["home", "team"], &alone);
        let trouble = finding.unwrap_err();
        assert_eq!(left_out_of_it, ["team"]);
        assert_eq!((trouble.reason, trouble.stalled), ("NamespaceExcluded", true));
        assert!(trouble.message.contains("pods of team") && trouble.message.contains("webhook.excludedNamespaces"));
        for excluded in ["team", "guest"] {
            let (found, finding) = judged(&[excluded], &shared);
            assert_eq!(found, [excluded]);
            assert!(finding.unwrap().1.contains(&format!("but those of {excluded}")), "others can use it");
        }
        assert_eq!(judged(&["team", "guest"], &shared).1.unwrap_err().reason, "NamespaceExcluded");

        // An entry without a selector is for all namespaces, and where there is none, nobody is left out by it.
        let everywhere = MutatingWebhook { namespace_selector: None, ..entry("In", &[]) };
        let [one, _] = both(&["team"]);
        assert_eq!(left_out(&[one, everywhere], &alone), Vec::<String>::new());
        assert_eq!(left_out(&[], &alone), Vec::<String>::new());
    }
}
