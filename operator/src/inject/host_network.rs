//! A pod that shares the node's network: its loopback is open to every process of the node, and its ports are taken from all other
//! pods there. So its sidecar listens on no port, and is spoken to by the Unix sockets in a volume of the pod.

use context_manager_protocol::names;

use super::{Resource, pod::Pod};

/// What its author may not have thought of.
pub(super) fn warnings(pod: Pod<'_>, resource: &Resource) -> Vec<String> {
    let mut warnings = Vec::new();
    for key in [names::PROTOCOL_PORT, names::ADMIN_PORT] {
        if pod.annotation(key).is_some() {
            warnings.push(format!("annotation {key} has no effect: with hostNetwork the sidecar listens on no port"));
        }
    }
    if !pod.shares_a_group() {
        warnings.push(format!(
            "the pod has no securityContext.fsGroup, so containers of another user than the sidecar's, root apart, cannot use the socket \
             {}, and with hostNetwork there is no port; set one",
            names::SOCKET_FILE
        ));
    }
    let finds_services = pod.spec("dnsPolicy").is_some_and(|policy| policy == "ClusterFirstWithHostNet");
    if resource.store_secret.is_some() && !finds_services {
        warnings.push(
            "with hostNetwork the names of Services, such as a Qdrant server's, are found only with dnsPolicy: ClusterFirstWithHostNet"
                .to_owned(),
        );
    }
    warnings
}
