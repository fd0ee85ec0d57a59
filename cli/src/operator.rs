//! What is installed: the webhook's registration at the API server, and the Deployments of webhook and controller.

use std::collections::BTreeSet;

use context_manager_operator::{
    inject::{NamespaceFacts, OnMissing, Resource},
    pki,
    scope::Scope,
    selector,
};
use context_manager_protocol::names;
use k8s_openapi::api::{
    admissionregistration::v1::{MutatingWebhook, MutatingWebhookConfiguration},
    apps::v1::Deployment,
    core::v1::Pod,
};
use kube::{ResourceExt as _, api::ListParams};
use serde::Serialize;

use crate::{
    cluster::{Cluster, call},
    error::Error,
};

/// Names of the chart's entries end so.
const ENTRY: &str = ".contextmanager.dev";
/// Label and value of all that the chart makes.
pub(crate) const PART: &str = "app.kubernetes.io/part-of=context-manager";
const COMPONENT: &str = "app.kubernetes.io/component";
/// Label of all that one release has.
const RELEASE: &str = "app.kubernetes.io/instance";
/// The configuration of a webhook that is told none.
const CONFIGURATION: &str = "context-manager";

/// A program of the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Component {
    Controller,
    Webhook,
}

impl Component {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Controller => "controller",
            Self::Webhook => "webhook",
        }
    }
}

/// Whether the API server asks the webhook about the pods of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "asked", rename_all_fields = "camelCase")]
pub(crate) enum Asked {
    Yes { configuration: String },
    No { why: String },
    Unknown { why: String },
}

/// All configurations with entries of ours.
pub(crate) async fn registrations(cluster: &Cluster) -> Result<Vec<MutatingWebhookConfiguration>, Error> {
    let list = cluster.all::<MutatingWebhookConfiguration>();
    let (action, right) =
        ("list MutatingWebhookConfigurations", "list mutatingwebhookconfigurations.admissionregistration.k8s.io");
    let all = call(action, right, list.list(&ListParams::default())).await?;
    Ok(all.items.into_iter().filter(|found| entries(found).next().is_some()).collect())
}

/// The entries of ours.
pub(crate) fn entries(configuration: &MutatingWebhookConfiguration) -> impl Iterator<Item = &MutatingWebhook> {
    configuration.webhooks.iter().flatten().filter(|entry| entry.name.ends_with(ENTRY))
}

/// Whether one of these configurations makes the API server ask about the pods of a namespace that may want a sidecar.
pub(crate) fn asked<'r>(
    registrations: impl IntoIterator<Item = &'r MutatingWebhookConfiguration>,
    namespace: &NamespaceFacts,
) -> Asked {
    let mut labels = namespace.labels.clone();
    labels.entry(selector::NAMESPACE.to_owned()).or_insert_with(|| namespace.name.clone());
    let mut unmet = Vec::new();
    for registration in registrations {
        for entry in entries(registration) {
            let missing = entry
                .namespace_selector
                .as_ref()
                .map(|selector| selector::unmet(selector, &labels))
                .unwrap_or_default();
            if missing.is_empty() {
                return Asked::Yes { configuration: registration.metadata.name.clone().unwrap_or_default() };
            }
            unmet.extend(missing);
        }
    }
    // One entry is for namespaces that ask and the other for those that do not: that one of them is not for this one says nothing.
    unmet.retain(|part| !part.starts_with(names::INJECT));
    match unmet.into_iter().next() {
        Some(part) => Asked::No {
            why: format!("namespace {:?} is left out of the webhook by its namespaceSelector: {part}", namespace.name),
        },
        None => Asked::No {
            why: "the webhook of Context Manager that decides about this pod has no MutatingWebhookConfiguration; install the chart"
                .to_owned(),
        },
    }
}

/// The webhook that a configuration is of, among these Deployments.
pub(crate) fn registered<'d>(webhooks: &'d [Deployment], configuration: &str) -> Option<&'d Deployment> {
    webhooks.iter().find(|webhook| configuration_of(webhook) == configuration)
}

/// The configuration that makes the API server ask a webhook.
pub(crate) fn configuration_of(webhook: &Deployment) -> String {
    let told = flag(webhook, "--webhook-configuration", "CONTEXT_MANAGER_WEBHOOK_CONFIGURATION");
    told.unwrap_or_else(|| CONFIGURATION.to_owned())
}

/// Who makes the webhook's certificate, if not the webhook itself, and in which Secret.
pub(crate) fn issuer_of(webhook: &Deployment) -> Option<(String, String)> {
    let issuer = flag(webhook, "--certificate-issuer", "CONTEXT_MANAGER_CERTIFICATE_ISSUER");
    let issuer = issuer.filter(|issuer| issuer != "self-managed")?;
    let secret = flag(webhook, "--certificate-secret", "CONTEXT_MANAGER_CERTIFICATE_SECRET").unwrap_or_default();
    Some((issuer, secret))
}

/// The Secret with the webhook's own CA. A webhook that is not told has its default, and so has one that is not there.
pub(crate) fn authority_of(webhook: Option<&Deployment>) -> String {
    let told = webhook.and_then(|webhook| flag(webhook, "--ca-secret", "CONTEXT_MANAGER_CA_SECRET"));
    told.unwrap_or_else(|| pki::WEBHOOK_CA.to_owned())
}

/// The same of the controller, for the CA of the sidecars' certificates.
fn client_authority_of(controller: Option<&Deployment>) -> String {
    let told = controller.and_then(|found| flag(found, "--client-ca-secret", "CONTEXT_MANAGER_CLIENT_CA_SECRET"));
    told.unwrap_or_else(|| pki::CLIENT_CA.to_owned())
}

/// The Secrets with private keys that the programs of these Deployments use: the CA of the sidecars' certificates, and the webhook's own CA or
/// what another issuer writes for it.
pub(crate) fn authorities(deployments: &[Deployment]) -> BTreeSet<String> {
    let of = |component: Component| {
        let is_it = |found: &&Deployment| found.labels().get(COMPONENT).is_some_and(|is| is == component.as_str());
        let found: Vec<_> = deployments.iter().filter(is_it).map(Some).collect();
        if found.is_empty() { vec![None] } else { found }
    };
    let client = of(Component::Controller).into_iter().map(client_authority_of);
    let webhook = of(Component::Webhook)
        .into_iter()
        .map(|webhook| webhook.and_then(issuer_of).map_or_else(|| authority_of(webhook), |(_, secret)| secret));
    client.chain(webhook).filter(|name| !name.is_empty()).collect()
}

/// The Deployments of a component: one of each release in the operator's namespace, or that of the release that was named.
pub(crate) async fn deployments(cluster: &Cluster, component: Component) -> Result<Vec<Deployment>, Error> {
    let Cluster { operator_namespace: namespace, release: wanted, .. } = cluster;
    let api = cluster.of::<Deployment>(namespace);
    let labels = format!("{PART},{COMPONENT}={}", component.as_str());
    let action = format!("list the Deployments of namespace {namespace:?}");
    let found = call(&action, "list deployments.apps", api.list(&ListParams::default().labels(&labels))).await?;
    let mut found = found.items;
    let Some(wanted) = wanted else { return Ok(found) };
    found.retain(|deployment| release(deployment) == wanted);
    if found.is_empty() {
        return Err(Error::Missing {
            what: format!("the {} of a release {wanted:?} in namespace {namespace:?}", component.as_str()),
            remedy: "name another one by --release, or its namespace by --operator-namespace".to_owned(),
        });
    }
    Ok(found)
}

/// The release that a Deployment is of.
pub(crate) fn release(deployment: &Deployment) -> &str {
    deployment.labels().get(RELEASE).map(String::as_str).unwrap_or_default()
}

/// The container of a pod in which a program of the operator runs, by the chart's names: a service mesh may have put others beside it.
pub(crate) fn container(pod: &Pod) -> Option<&str> {
    let component = pod.labels().get(COMPONENT)?;
    let containers = &pod.spec.as_ref()?.containers;
    containers.iter().map(|container| container.name.as_str()).find(|name| name == component)
}

/// The only one of these Deployments, if there is any: among several nobody but the caller can choose.
pub(crate) fn only<'d>(found: impl IntoIterator<Item = &'d Deployment>) -> Result<Option<&'d Deployment>, Error> {
    let found: Vec<_> = found.into_iter().collect();
    match found.as_slice() {
        [] => Ok(None),
        [only] => Ok(Some(*only)),
        several => Err(ambiguous(&several.iter().map(|deployment| release(deployment)).collect::<Vec<_>>())),
    }
}

/// That several releases would do.
pub(crate) fn ambiguous(releases: &[&str]) -> Error {
    let quoted: Vec<_> = releases.iter().map(|release| format!("{release:?}")).collect();
    Error::Refused(format!(
        "several releases of the operator would do: {}; name the one that is meant by --release",
        quoted.join(", ")
    ))
}

/// The image that pods of a resource get: its own, or else that of the webhook of its class. Nothing if that webhook is none of these.
pub(crate) fn image_for(webhooks: &[Deployment], resource: &Resource) -> Result<Option<String>, Error> {
    if let Some(image) = &resource.image {
        return Ok(Some(image.clone()));
    }
    let serves = |webhook: &&Deployment| class(webhook) == resource.class && watches(webhook, &resource.namespace);
    Ok(only(webhooks.iter().filter(serves))?.and_then(sidecar_image))
}

/// Why nobody knows that image.
pub(crate) fn nobody_serves(cluster: &Cluster, resource: &Resource) -> String {
    format!(
        "no webhook of class {:?} that serves namespace {:?} is installed in namespace {:?}",
        resource.class, resource.namespace, cluster.operator_namespace
    )
}

/// A flag of a Deployment's program, from its arguments or its environment.
pub(crate) fn flag(deployment: &Deployment, flag: &str, variable: &str) -> Option<String> {
    let containers = &deployment.spec.template.spec.as_ref()?.containers;
    containers.iter().find_map(|container| {
        let arguments = container.args.as_deref().unwrap_or_default();
        let prefix = format!("{flag}=");
        let joined = arguments.iter().find_map(|argument| argument.strip_prefix(&prefix).map(str::to_owned));
        let apart = || arguments.windows(2).find(|pair| pair[0] == flag).map(|pair| pair[1].clone());
        let environment = || container.env.iter().flatten().find(|entry| entry.name == variable)?.value.clone();
        joined.or_else(apart).or_else(environment)
    })
}

/// What the webhook of a Deployment injects where a resource names no image.
pub(crate) fn sidecar_image(webhook: &Deployment) -> Option<String> {
    flag(webhook, "--sidecar-image", "CONTEXT_MANAGER_SIDECAR_IMAGE")
}

/// What the webhook of a Deployment does where no resource can be chosen.
pub(crate) fn on_missing(webhook: &Deployment) -> OnMissing {
    match flag(webhook, "--on-missing", "CONTEXT_MANAGER_ON_MISSING").as_deref() {
        Some("deny") => OnMissing::Deny,
        Some(_) | None => OnMissing::Skip,
    }
}

/// The class of the resources that the webhook of a Deployment serves.
pub(crate) fn class(webhook: &Deployment) -> String {
    let class = flag(webhook, "--controller-class", "CONTEXT_MANAGER_CONTROLLER_CLASS");
    class.unwrap_or_else(|| names::DEFAULT_CLASS.to_owned())
}

/// The namespaces that a Deployment's program serves by rights in them alone; empty when it serves all.
pub(crate) fn watched(deployment: &Deployment) -> Vec<String> {
    let named = flag(deployment, "--watch-namespace", "CONTEXT_MANAGER_WATCH_NAMESPACES").unwrap_or_default();
    named.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Whether a Deployment's program serves a namespace.
pub(crate) fn watches(deployment: &Deployment, namespace: &str) -> bool {
    Scope::of(watched(deployment)).contains(namespace)
}

/// The name of the lease by which one replica of the controller of a Deployment leads.
pub(crate) fn lease(controller: &Deployment) -> Option<String> {
    flag(controller, "--lease", "CONTEXT_MANAGER_LEASE")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    /// As the chart renders it.
    fn registration() -> MutatingWebhookConfiguration {
        let excluded = json!({"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system"]});
        let entry = |name: &str, operator: &str| {
            json!({"name": name, "clientConfig": {}, "sideEffects": "None", "admissionReviewVersions": ["v1"],
                "namespaceSelector": {"matchExpressions": [excluded, {"key": names::INJECT, "operator": operator, "values": ["true"]}]}})
        };
        let entries = [entry("namespaces.contextmanager.dev", "In"), entry("pods.contextmanager.dev", "NotIn")];
        serde_json::from_value(json!({"metadata": {"name": "context-manager"}, "webhooks": entries})).unwrap()
    }

    #[test]
    fn the_webhook_is_asked_about_all_namespaces_but_those_left_out() {
        let ask = |name: &str, label: Option<&str>| {
            let labels = label.map(|value| (names::INJECT.to_owned(), value.to_owned())).into_iter().collect();
            asked(&[registration()], &NamespaceFacts { name: name.to_owned(), labels })
        };
        for label in [None, Some("true"), Some("false")] {
            assert_eq!(ask("team", label), Asked::Yes { configuration: "context-manager".to_owned() }, "{label:?}");
            let Asked::No { why } = ask("kube-system", label) else { unreachable!() };
            assert!(why.contains("kubernetes.io/metadata.name NotIn kube-system"), "{why}");
        }
    }

    #[test]
    fn without_a_registration_nobody_is_asked() {
        let Asked::No { why } = asked(&[], &NamespaceFacts::default()) else { unreachable!() };
        assert!(why.contains("install the chart"), "{why}");
    }

    #[test]
    fn flags_are_read_from_arguments_and_environment() {
        let deployment = |container: serde_json::Value| -> Deployment {
            serde_json::from_value(json!({"spec": {"selector": {}, "template": {"spec": {"containers": [container]}}}}))
                .unwrap()
        };
        for container in [
            json!({"name": "a", "args": ["webhook", "--sidecar-image=s:1", "--on-missing=deny"]}),
            json!({"name": "a", "args": ["--sidecar-image", "s:1", "--on-missing", "deny"]}),
            json!({"name": "a", "env": [{"name": "CONTEXT_MANAGER_SIDECAR_IMAGE", "value": "s:1"},
                {"name": "CONTEXT_MANAGER_ON_MISSING", "value": "deny"}]}),
        ] {
            let found = deployment(container);
            assert_eq!((sidecar_image(&found).as_deref(), on_missing(&found)), (Some("s:1"), OnMissing::Deny));
        }
        let blue = deployment(json!({"name": "a", "args": ["--controller-class=blue", "--lease=mine"]}));
        assert_eq!((class(&blue).as_str(), lease(&blue).as_deref()), ("blue", Some("mine")));
        let narrow = deployment(json!({"name": "a", "args": ["--watch-namespace=team-a,team-b"]}));
        assert_eq!(watched(&narrow), ["team-a", "team-b"]);
        let bare = deployment(json!({"name": "a"}));
        assert_eq!((class(&bare).as_str(), lease(&bare), watched(&bare)), ("default", None, Vec::new()));
        assert_eq!((sidecar_image(&bare), on_missing(&bare)), (None, OnMissing::Skip));
    }

    #[test]
    fn beside_what_a_mesh_adds_the_programs_container_is_found() {
        let of = |component: &str| -> Pod {
            let containers = json!([{"name": "istio-proxy"}, {"name": "webhook"}]);
            serde_json::from_value(
                json!({"metadata": {"labels": {COMPONENT: component}}, "spec": {"containers": containers}}),
            )
            .unwrap()
        };
        assert_eq!((container(&of("webhook")), container(&of("controller"))), (Some("webhook"), None));
    }

    fn webhook(release: &str, arguments: &[&str]) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": format!("{release}-webhook"), "labels": {RELEASE: release, COMPONENT: "webhook"}},
            "spec": {"selector": {}, "template": {"spec": {"containers": [{"name": "webhook", "args": arguments}]}}},
        }))
        .unwrap()
    }

    fn resource(namespace: &str, spec: &serde_json::Value) -> Resource {
        let object = json!({"apiVersion": "contextmanager.dev/v1alpha1", "kind": "ContextManager",
            "metadata": {"name": "memory", "namespace": namespace}, "spec": spec});
        context_manager_operator::webhook::view::resource(&serde_json::from_value(object).unwrap()).unwrap()
    }

    #[test]
    fn of_several_operators_the_one_of_the_resources_class_gives_the_image() {
        let webhooks = [
            webhook("green", &["--sidecar-image=s:1", "--webhook-configuration=green"]),
            webhook("blue", &["--sidecar-image=s:2", "--webhook-configuration=blue", "--controller-class=blue"]),
            webhook("a", &["--sidecar-image=s:3", "--controller-class=narrow", "--watch-namespace=team-a"]),
            webhook("b", &["--sidecar-image=s:4", "--controller-class=narrow", "--watch-namespace=team-b,team-c"]),
        ];
        let image = |namespace: &str, spec: &serde_json::Value| {
            image_for(&webhooks, &resource(namespace, spec)).map_err(|error| error.to_string())
        };
        let known = |image: &str| Ok(Some(image.to_owned()));
        assert_eq!(image("team-a", &json!({})), known("s:1"));
        assert_eq!(image("team-a", &json!({"controllerClassName": "blue"})), known("s:2"));
        assert_eq!(image("team-a", &json!({"controllerClassName": "narrow"})), known("s:3"));
        assert_eq!(image("team-c", &json!({"controllerClassName": "narrow"})), known("s:4"));
        assert_eq!(image("team-d", &json!({"controllerClassName": "narrow"})), Ok(None));
        assert_eq!(image("team-a", &json!({"controllerClassName": "red"})), Ok(None));
        let own = json!({"controllerClassName": "red", "sidecar": {"image": "own:1"}});
        assert_eq!(image("team-a", &own), known("own:1"));
        let of = |configuration: &str| registered(&webhooks, configuration).map(release);
        assert_eq!((of("green"), of("blue")), (Some("green"), Some("blue")));
        assert_eq!((of("context-manager"), of("red")), (Some("a"), None));
    }

    #[test]
    fn among_several_that_would_do_nobody_is_chosen() {
        let webhooks = [webhook("green", &["--sidecar-image=s:1"]), webhook("blue", &["--sidecar-image=s:2"])];
        for error in [image_for(&webhooks, &resource("team", &json!({}))).unwrap_err(), only(&webhooks).unwrap_err()] {
            let said = error.to_string();
            assert!(said.contains("\"green\", \"blue\"") && said.contains("--release"), "{said}");
        }
        assert_eq!(only(&webhooks[..1]).unwrap().map(release), Some("green"));
        assert!(only(&webhooks[..0]).unwrap().is_none());
    }

    #[test]
    fn the_secrets_of_an_installation_are_those_that_its_programs_are_told() {
        let of = |rendered: &str| {
            let objects: Vec<serde_json::Value> = serde_saphyr::from_multiple(rendered).unwrap();
            let all = objects.into_iter().filter(|object| object["kind"] == "Deployment");
            authorities(&all.map(|object| serde_json::from_value(object).unwrap()).collect::<Vec<_>>())
        };
        let names = |names: [&str; 2]| BTreeSet::from(names.map(str::to_owned));
        let blue = of(include_str!("../../tests/golden/chart/namespaced.yaml"));
        assert_eq!(blue, names(["blue-client-ca", "blue-webhook-ca"]));
        let given = of(include_str!("../../tests/golden/chart/cert-manager.yaml"));
        assert_eq!(given, names(["context-manager-client-ca", "context-manager-webhook-tls"]));
        assert_eq!(authorities(&[]), names(["context-manager-client-ca", "context-manager-webhook-ca"]));
        assert_eq!(authority_of(None), "context-manager-webhook-ca");
    }
}
