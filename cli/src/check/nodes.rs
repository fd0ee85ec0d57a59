//! Versions: of the API server, and of the kubelets that have to run native sidecars.

use k8s_openapi::api::core::v1::Node;
use kube::{ResourceExt as _, api::ListParams};

use super::finding::Findings;
use crate::{
    cluster::{Cluster, call},
    error::Error,
};

/// What the chart asks for: native sidecars are stable from here on.
const API_SERVER: (u32, u32) = (1, 33);
/// Native sidecars are on from here on.
const KUBELET: (u32, u32) = (1, 29);

/// The API server answers, and is new enough.
pub(super) async fn api_server(cluster: &Cluster, findings: &mut Findings) -> Result<(), Error> {
    let version =
        call("read the API server's version", "get /version", cluster.client.apiserver_version()).await?.git_version;
    match parse(&version) {
        Some(found) if found >= API_SERVER => findings.fine("api-server", format!("version {version}")),
        Some(_) => findings.problem(
            "api-server",
            format!("version {version} is older than {}.{}", API_SERVER.0, API_SERVER.1),
            "upgrade Kubernetes: injection needs native sidecars and match conditions",
        ),
        None => findings.unknown("api-server", &format!("the version {version:?} cannot be read")),
    }
    Ok(())
}

/// All nodes run Linux and native sidecars.
pub(super) async fn nodes(cluster: &Cluster, findings: &mut Findings) {
    let nodes = match call("list nodes", "list nodes", cluster.all::<Node>().list(&ListParams::default())).await {
        Ok(nodes) => nodes.items,
        Err(error) => return findings.unknown("nodes", &error),
    };
    let (mut old, mut strange) = (Vec::new(), Vec::new());
    for node in &nodes {
        let Some(info) = node.status.as_ref().and_then(|status| status.node_info.as_ref()) else { continue };
        if parse(&info.kubelet_version).is_some_and(|version| version < KUBELET) {
            old.push(format!("{} ({})", node.name_any(), info.kubelet_version));
        }
        let supported = ["amd64", "arm64"].contains(&info.architecture.as_str());
        if info.operating_system != "linux" || !supported {
            strange.push(format!("{} ({}/{})", node.name_any(), info.operating_system, info.architecture));
        }
    }
    if old.is_empty() {
        findings.fine("native-sidecars", format!("all of {} nodes run them", nodes.len()));
    } else {
        let message = format!("the kubelets of {} do not", old.join(", "));
        let remedy = format!(
            "upgrade them to {}.{} or later, or set spec.sidecar.mode: Classic for pods that run there",
            KUBELET.0, KUBELET.1
        );
        findings.problem("native-sidecars", message, remedy);
    }
    if !strange.is_empty() {
        let message = format!("there is no image for {}", strange.join(", "));
        findings.warning("nodes", message, "keep agents on nodes of linux/amd64 or linux/arm64 by a nodeSelector");
    }
}

/// `v1.33.4+k3s1` is (1, 33).
fn parse(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.trim_start_matches('v').split('.');
    let major = parts.next()?.parse().ok()?;
    let minor: String = parts.next()?.chars().take_while(char::is_ascii_digit).collect();
    Some((major, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_all_vendors_are_read() {
        for (text, expected) in [
            ("v1.33.4+k3s1", Some((1, 33))),
            ("v1.34.1-gke.100", Some((1, 34))),
            ("1.29+", Some((1, 29))),
            ("new", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
        assert!(parse("v1.28.9") < Some(KUBELET));
    }
}
