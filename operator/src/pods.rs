//! What pods say of their sidecar and of whoever made them; read alike by the controller, the webhook and the command line.

use context_manager_protocol::names;
use k8s_openapi::{
    api::core::v1::{Container, ContainerStatus, Pod},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::api::ObjectMeta;

/// Whether a pod's work is over.
#[must_use]
pub fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// The sidecar of a pod, in whichever list.
#[must_use]
pub fn sidecar(pod: &Pod) -> Option<&Container> {
    let spec = pod.spec.as_ref()?;
    let mut containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    containers.find(|container| container.name == names::CONTAINER)
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

/// The controller that made an object, if one did.
#[must_use]
pub fn controller_of(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}
