//! What pods say of their sidecar and of whoever made them; read alike by the controller, the webhook and the command line.

use context_manager_protocol::names;
use k8s_openapi::{
    api::core::v1::{Container, ContainerStatus, Pod},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{ResourceExt as _, api::ObjectMeta};

/// The label selector for the pods that use a resource in a namespace; `from` is the resource's namespace, if that is another one.
///
/// ```
/// use context_manager_operator::pods::selector;
///
/// let own = "contextmanager.dev/context-manager=memory,!contextmanager.dev/context-manager-namespace";
/// assert_eq!(selector("memory", None), own);
/// let other = "contextmanager.dev/context-manager=memory,contextmanager.dev/context-manager-namespace=team";
/// assert_eq!(selector("memory", Some("team")), other);
/// ```
#[must_use]
pub fn selector(resource: &str, from: Option<&str>) -> String {
    let (name, namespace) = (names::INJECTED, names::INJECTED_FROM);
    match from {
        None => format!("{name}={resource},!{namespace}"),
        Some(from) => format!("{name}={resource},{namespace}={from}"),
    }
}

/// The namespace of the resource that a pod uses, if it is another one than the pod's.
#[must_use]
pub fn used_from(pod: &Pod) -> Option<&str> {
    pod.labels().get(names::INJECTED_FROM).map(String::as_str)
}

/// What a person who looks at a pod's resource calls the pod: with its namespace, if that is another one.
#[must_use]
pub fn title(pod: &Pod) -> String {
    let name = pod.name_any();
    match (used_from(pod), &pod.metadata.namespace) {
        (Some(_), Some(namespace)) => format!("{namespace}/{name}"),
        (Some(_) | None, _) => name,
    }
}

/// The `Secret` with the key ring that a pod mounts, if it has a sidecar.
#[must_use]
pub fn keys_secret(pod: &Pod) -> Option<String> {
    let resource = pod.labels().get(names::INJECTED)?;
    Some(used_from(pod).map_or_else(|| names::keys_secret(resource), |from| names::granted(from, resource)))
}

/// Whether a pod's work is over.
#[must_use]
pub fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether the whole pod is ready, not only its sidecar.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The sidecar of a pod, in whichever list.
#[must_use]
pub fn sidecar(pod: &Pod) -> Option<&Container> {
    let spec = pod.spec.as_ref()?;
    let mut containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    containers.find(|container| container.name == names::CONTAINER)
}

/// Where it stands: the list in the pod's spec, and the place in that list.
#[must_use]
pub fn sidecar_place(pod: &Pod) -> Option<(&'static str, usize)> {
    let spec = pod.spec.as_ref()?;
    let place = |list: &[Container]| list.iter().position(|container| container.name == names::CONTAINER);
    let early = spec.init_containers.as_deref().and_then(place);
    early.map(|index| ("initContainers", index)).or_else(|| Some(("containers", place(&spec.containers)?)))
}

/// What the kubelet says of it.
#[must_use]
pub fn sidecar_status(pod: &Pod) -> Option<&ContainerStatus> {
    let status = pod.status.as_ref()?;
    let mut lists = [&status.init_container_statuses, &status.container_statuses].into_iter().flatten().flatten();
    lists.find(|container| container.name == names::CONTAINER)
}

/// A port of the sidecar, as injection wrote it in a variable such as [`names::ENV_PROTOCOL_PORT`].
#[must_use]
pub fn sidecar_port(pod: &Pod, variable: &str) -> Option<u16> {
    let entry = sidecar(pod)?.env.iter().flatten().find(|entry| entry.name == variable)?;
    entry.value.as_ref()?.parse().ok()
}

/// Whether the sidecar listens on no port, because the pod shares the node's network.
#[must_use]
pub fn is_closed(pod: &Pod) -> bool {
    let variables = sidecar(pod).and_then(|sidecar| sidecar.env.as_deref()).unwrap_or_default();
    variables.iter().any(|entry| entry.name == names::ENV_SOCKET_ONLY)
}

/// The controller that made an object, if one did.
#[must_use]
pub fn controller_of(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}
