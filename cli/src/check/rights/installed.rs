//! The rights of an installation: what the chart gives with the values that its Deployments show.

use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt as _;

use super::{Right, Scope, chart};
use crate::operator::{self, Component, flag};

const CONFIGURATIONS: &str = "mutatingwebhookconfigurations.admissionregistration.k8s.io";

/// What a part of the operator needs. Those of `controller.upgradeSidecars` are not among them: no Deployment tells of it, and a
/// resource that lacks them says so.
pub(super) fn rights(component: Component, deployment: &Deployment) -> Vec<Right> {
    let mut rights = chart::of(component, &deployment.name_any());
    let watched = operator::watched(deployment);
    match component {
        Component::Controller => controller(&mut rights, deployment, &watched),
        Component::Webhook => webhook(&mut rights, deployment),
    }
    narrowed(rights, &watched)
}

/// What the chart gives the controller only to run Qdrant clusters.
const OF_CLUSTERS: [&str; 4] =
    ["statefulsets.apps", "services", "poddisruptionbudgets.policy", "networkpolicies.networking.k8s.io"];

fn controller(rights: &mut Vec<Right>, controller: &Deployment, watched: &[String]) {
    let evicts = flag(controller, "--watchdog", "CONTEXT_MANAGER_WATCHDOG").as_deref() == Some("evict");
    if flag(controller, "--managed-qdrant", "CONTEXT_MANAGER_MANAGED_QDRANT").as_deref() == Some("false") {
        rights.retain(|Right { resource, .. }| {
            !OF_CLUSTERS.contains(&resource.as_str()) && (evicts || resource != "pods/eviction")
        });
    }
    if evicts {
        rights.push(Right::new(Scope::Cluster, &["get"], "pods"));
    }
    if flag(controller, "--cert-manager", "CONTEXT_MANAGER_CERT_MANAGER").as_deref() == Some("true") {
        let verbs = &["get", "create", "patch", "delete"];
        rights.push(Right::new(Scope::Cluster, verbs, "certificates.cert-manager.io"));
    }
    if !watched.is_empty() {
        // A right to the Secrets of all namespaces has this already.
        rights.push(Right::new(Scope::Home, &["create"], "secrets"));
        let authority = flag(controller, "--client-ca-secret", "CONTEXT_MANAGER_CLIENT_CA_SECRET");
        rights.push(Right { name: authority, ..Right::new(Scope::Home, &["get", "update"], "secrets") });
    }
}

/// A webhook that makes no CA reads somebody else's certificate alone; with cert-manager somebody else sets caBundle, too.
fn webhook(rights: &mut Vec<Right>, webhook: &Deployment) {
    let Some((issuer, secret)) = operator::issuer_of(webhook) else { return };
    rights.retain(|right| right.resource != "secrets");
    rights.push(Right { name: Some(secret), ..Right::new(Scope::Home, &["get"], "secrets") });
    if issuer == "cert-manager" {
        for right in rights.iter_mut().filter(|right| right.resource == CONFIGURATIONS) {
            right.verbs.retain(|verb| verb != "patch");
        }
    }
}

/// The rights of an operator that serves some namespaces alone: in each of them what it needs in the whole cluster otherwise.
fn narrowed(rights: Vec<Right>, watched: &[String]) -> Vec<Right> {
    if watched.is_empty() {
        return rights;
    }
    let everywhere = |right: &Right| right.scope == Scope::Cluster && right.name.is_none();
    let (wide, mut narrow): (Vec<_>, Vec<_>) = rights.into_iter().partition(everywhere);
    for right in wide {
        narrow.extend(watched.iter().map(|namespace| Right {
            scope: Scope::In(namespace.clone()),
            // A namespace is in itself, and the right to it is one by its name.
            name: (right.resource == "namespaces").then(|| namespace.clone()),
            ..right.clone()
        }));
    }
    narrow
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use k8s_openapi::api::rbac::v1::PolicyRule;
    use serde_json::Value;

    use super::*;

    /// The chart as helm renders it with several values.
    const RENDERED: [(&str, &str); 5] = [
        ("context-manager", include_str!("../../../../deploy/kustomize/base/context-manager.yaml")),
        ("context-manager", include_str!("../../../../tests/golden/chart/cert-manager.yaml")),
        ("context-manager", include_str!("../../../../tests/golden/chart/least-rights.yaml")),
        ("memory", include_str!("../../../../tests/golden/chart/every-option.yaml")),
        ("blue", include_str!("../../../../tests/golden/chart/namespaced.yaml")),
    ];
    const HOME: &str = "context-manager-system";

    /// Namespace (none for the cluster), verb, resource with its group, name.
    type Line = (Option<String>, String, String, Option<String>);

    /// What the roles of a part give.
    fn given(objects: &[Value], part: &str) -> BTreeSet<Line> {
        let mut lines = BTreeSet::new();
        for object in objects.iter().filter(|object| object["metadata"]["name"] == part && object["rules"].is_array()) {
            let place = object["metadata"]["namespace"].as_str().map(str::to_owned);
            let rules: Vec<PolicyRule> = serde_json::from_value(object["rules"].clone()).expect("rules");
            for rule in rules {
                let only = rule.resource_names.unwrap_or_default();
                let names: Vec<_> = if only.is_empty() { vec![None] } else { only.into_iter().map(Some).collect() };
                for group in rule.api_groups.iter().flatten() {
                    for resource in rule.resources.iter().flatten() {
                        let resource = chart::in_group(resource, group);
                        for (name, verb) in
                            names.iter().flat_map(|name| rule.verbs.iter().map(move |verb| (name, verb)))
                        {
                            lines.insert((place.clone(), verb.clone(), resource.clone(), name.clone()));
                        }
                    }
                }
            }
        }
        lines
    }

    fn asked(rights: Vec<Right>) -> BTreeSet<Line> {
        let line = |right: Right| {
            let place = match right.scope {
                // By name it is a right of the cluster, and asked after in the namespace itself.
                Scope::In(_) if right.resource == "namespaces" => None,
                Scope::Cluster => None,
                Scope::In(namespace) => Some(namespace),
                Scope::Home | Scope::Here => Some(HOME.to_owned()),
            };
            let (resource, name) = (right.resource, right.name);
            right.verbs.into_iter().map(move |verb| (place.clone(), verb, resource.clone(), name.clone()))
        };
        rights.into_iter().flat_map(line).collect()
    }

    #[test]
    fn what_is_asked_after_is_what_the_chart_gives_whatever_its_values() {
        for (release, rendered) in RENDERED {
            let objects: Vec<Value> = serde_saphyr::from_multiple(rendered).expect("YAML");
            for component in [Component::Controller, Component::Webhook] {
                let part = format!("{release}-{}", component.as_str());
                let deployment = objects
                    .iter()
                    .find(|object| object["kind"] == "Deployment" && object["metadata"]["name"] == part.as_str());
                let deployment: Deployment =
                    serde_json::from_value(deployment.cloned().expect("a Deployment")).expect("a Deployment");
                let mut given = given(&objects, &part);
                // Of this no Deployment tells.
                given.remove(&(None, "patch".to_owned(), "pods".to_owned(), None));
                assert_eq!(asked(rights(component, &deployment)), given, "{release}: {part}");
            }
        }
    }
}
