//! Finds what the sidecar would collide with, before anything is patched: the API server would refuse the patched pod
//! with a message about fields that its author never wrote, or the sidecar would fail at run time.

use context_manager_protocol::names;
use serde_json::Value;

use super::{Denial, Reason, options::Options, pod::Pod, sidecar};

pub(super) fn check(pod: Pod<'_>, options: &Options) -> Result<(), Denial> {
    ports(pod, options)?;
    if pod.injected() {
        return Ok(());
    }
    container_name(pod)?;
    volume_names(pod)
}

fn ports(pod: Pod<'_>, options: &Options) -> Result<(), Denial> {
    let Options { protocol_port, admin_port, .. } = *options;
    if protocol_port == admin_port {
        return Err(Denial {
            reason: Reason::PortTaken,
            message: format!(
                "protocol and admin listener of the sidecar both have port {protocol_port}; move one with the \
                 annotation {} or {}",
                names::PROTOCOL_PORT,
                names::ADMIN_PORT
            ),
        });
    }
    for (port, key) in [(protocol_port, names::PROTOCOL_PORT), (admin_port, names::ADMIN_PORT)] {
        if let Some(container) = pod.others().find(|container| declares(container.json, port)) {
            return Err(Denial {
                reason: Reason::PortTaken,
                message: format!(
                    "container {:?} uses port {port}, which the sidecar needs; move the sidecar's with the annotation {key}",
                    container.name
                ),
            });
        }
    }
    Ok(())
}

/// Containers of a pod share one network namespace, so a declared TCP port is taken for all of them.
fn declares(container: &Value, port: u16) -> bool {
    let entries = container.get("ports").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    entries.iter().any(|entry| {
        let tcp = entry.get("protocol").and_then(Value::as_str).is_none_or(|protocol| protocol == "TCP");
        tcp && entry.get("containerPort").and_then(Value::as_u64) == Some(u64::from(port))
    })
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
