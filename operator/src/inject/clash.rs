//! Finds what the sidecar would collide with, before anything is patched: the API server would refuse the patched pod
//! with a message about fields that its author never wrote. Ports are another matter: they can move.

use context_manager_protocol::names;

use super::{Denial, Reason, pod::Pod, sidecar};

pub(super) fn check(pod: Pod<'_>) -> Result<(), Denial> {
    if pod.injected() {
        return Ok(());
    }
    container_name(pod)?;
    volume_names(pod)
}

fn container_name(pod: Pod<'_>) -> Result<(), Denial> {
    match pod.containers().find(|container| container.name == names::CONTAINER) {
        None => Ok(()),
        Some(_) => Err(Denial {
            reason: Reason::ContainerNameTaken,
            message: format!(
                "the pod already has a container {:?}, the name of the injected sidecar; rename it, or set {}: \
                 \"false\" if it is a sidecar of your own",
                names::CONTAINER,
                names::INJECT
            ),
        }),
    }
}

fn volume_names(pod: Pod<'_>) -> Result<(), Denial> {
    match sidecar::VOLUMES.iter().find(|name| pod.has_volume(name)) {
        None => Ok(()),
        Some(name) => Err(Denial {
            reason: Reason::VolumeNameTaken,
            message: format!(
                "the pod already has a volume {name:?}, which the sidecar brings; rename the pod's volume"
            ),
        }),
    }
}
