//! The rights that the chart needs and gives, from what helm renders of it with its defaults: the same file is compared with the chart
//! and applied by kustomize, so no second list can fall behind.

use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::core::{ApiResource, GroupVersionKind};
use serde::Deserialize;

use super::{Right, Scope};
use crate::operator::Component;

const RENDERED: &str = include_str!("../../../../deploy/kustomize/base/context-manager.yaml");
/// The name before those of the parts in what is rendered.
const FULL_NAME: &str = "context-manager";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Object {
    api_version: String,
    kind: String,
    metadata: Metadata,
    #[serde(default)]
    rules: Vec<PolicyRule>,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    name: String,
    namespace: Option<String>,
}

impl Object {
    const fn scope(&self) -> Scope {
        if self.metadata.namespace.is_some() { Scope::Home } else { Scope::Cluster }
    }

    /// `resource.group`.
    fn resource(&self) -> String {
        let (group, version) = self.api_version.split_once('/').unwrap_or(("", &self.api_version));
        let plural = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &self.kind)).plural;
        if group.is_empty() { plural } else { format!("{plural}.{group}") }
    }
}

/// What helm makes, and where it keeps its releases.
pub(super) fn to_install() -> Vec<Right> {
    let write = &["create", "patch"];
    let mut rights = vec![Right::new(Scope::Cluster, write, "customresourcedefinitions.apiextensions.k8s.io")];
    for object in objects() {
        let right = Right::new(object.scope(), write, object.resource());
        if !rights.contains(&right) {
            rights.push(right);
        }
    }
    rights.push(Right::new(Scope::Home, &["create", "list"], "secrets"));
    rights
}

/// What the roles of a part give it. `deployment` is the name of its Deployment, which tells what else is named after the release.
pub(super) fn of(component: Component, deployment: &str) -> Vec<Right> {
    let role = format!("{FULL_NAME}-{}", component.as_str());
    let installed = deployment.strip_suffix(component.as_str()).and_then(|name| name.strip_suffix('-'));
    let installed = installed.unwrap_or(FULL_NAME);
    let as_installed =
        |name: &str| name.strip_prefix(FULL_NAME).map_or_else(|| name.to_owned(), |rest| installed.to_owned() + rest);
    let mut rights = Vec::new();
    for object in objects().into_iter().filter(|object| object.metadata.name == role) {
        for PolicyRule { api_groups, resources, resource_names, verbs, .. } in &object.rules {
            let names: Vec<_> = match resource_names.as_deref() {
                Some(names) if !names.is_empty() => names.iter().map(|name| Some(as_installed(name))).collect(),
                Some(_) | None => vec![None],
            };
            for group in api_groups.iter().flatten() {
                for resource in resources.iter().flatten() {
                    rights.extend(names.iter().map(|name| Right {
                        scope: object.scope(),
                        verbs: verbs.clone(),
                        resource: in_group(resource, group),
                        name: name.clone(),
                    }));
                }
            }
        }
    }
    rights
}

/// `resource.group/subresource`.
pub(super) fn in_group(resource: &str, group: &str) -> String {
    match (group, resource.split_once('/')) {
        ("", _) => resource.to_owned(),
        (group, Some((resource, sub))) => format!("{resource}.{group}/{sub}"),
        (group, None) => format!("{resource}.{group}"),
    }
}

fn objects() -> Vec<Object> {
    serde_saphyr::from_multiple(RENDERED).expect("it is compiled in, and a test reads it")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(rights: &[Right]) -> Vec<String> {
        let line = |Right { scope, verbs, resource, name }: &Right| {
            format!("{scope:?} {} {resource} {}", verbs.join(","), name.as_deref().unwrap_or("*"))
        };
        rights.iter().map(line).collect()
    }

    #[test]
    fn the_rights_of_each_part_are_those_that_the_chart_gives() {
        let controller = lines(&of(Component::Controller, "context-manager-controller"));
        for right in [
            "Cluster patch contextmanagers.contextmanager.dev/status *",
            "Cluster get,list,watch,create,patch persistentvolumeclaims *",
            "Cluster get mutatingwebhookconfigurations.admissionregistration.k8s.io context-manager",
            "Home get,create,patch leases.coordination.k8s.io *",
        ] {
            assert!(controller.iter().any(|found| found == right), "no {right:?} in {controller:?}");
        }
        let webhook = lines(&of(Component::Webhook, "memory-webhook"));
        assert!(webhook.iter().any(|found| found == "Home get,update secrets memory-webhook-ca"), "{webhook:?}");
        assert!(!webhook.iter().any(|found| found.contains("leases")), "{webhook:?}");
    }

    #[test]
    fn to_install_takes_the_rights_for_all_that_helm_makes() {
        let rights = lines(&to_install());
        for right in [
            "Cluster create,patch mutatingwebhookconfigurations.admissionregistration.k8s.io *",
            "Cluster create,patch clusterrolebindings.rbac.authorization.k8s.io *",
            "Home create,patch poddisruptionbudgets.policy *",
            "Home create,patch services *",
            "Home create,patch deployments.apps *",
        ] {
            assert!(rights.iter().any(|found| found == right), "no {right:?} in {rights:?}");
        }
        assert_eq!(rights.len(), 11, "{rights:?}");
    }
}
