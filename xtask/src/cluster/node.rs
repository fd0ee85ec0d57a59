//! One real node: containerd with folders of its own, the CNI network on the node's bridge, and a kubelet.
//!
//! Several nodes share this machine's network namespace; each has its own bridge, address, containerd and cgroup.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::Result;

use super::credentials::User;
use super::network::bridge;
use super::packages::SystemPrograms;
use super::part::Part;
use super::programs::{KUBERNETES, PAUSE_IMAGE, Programs};
use super::state::{State, node_address, write_if_changed};
use super::{cgroup, leftovers, network};

/// The node's name in the cluster.
pub fn name(node: u8) -> String {
    format!("node{node}")
}

/// The socket of the node's containerd.
pub fn socket(state: &State, node: u8) -> PathBuf {
    state.node(node).join("containerd/containerd.sock")
}

/// The kubelet's health endpoint.
pub fn kubelet_health(node: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(node_address(node)), 10248)
}

/// Writes the configuration of the node's containerd and of its network, and tells whether containerd's is new.
pub fn configure_containerd(state: &State, system: &SystemPrograms, node: u8) -> Result<bool> {
    let folder = state.node(node);
    // The network's is read for each new pod, so a change of it needs no restart.
    write_if_changed(&folder.join("cni/10-context-manager-dev.conflist"), &network_config(state, node))?;
    write_if_changed(&containerd_file(state, node), &containerd_config(state, system, node))
}

/// Writes the configuration of the node's kubelet, and tells whether it is new.
pub fn configure_kubelet(state: &State, node: u8) -> Result<bool> {
    write_if_changed(&kubelet_file(state, node), &kubelet_config(state, node))
}

/// The node's containerd.
pub fn containerd(state: &State, program: PathBuf, version: &str, node: u8) -> Part {
    Part {
        name: format!("containerd-{}", name(node)),
        program,
        args: vec![format!("--config={}", containerd_file(state, node).display())],
        listens: Vec::new(),
        version: version.into(),
    }
}

/// The node's kubelet.
pub fn kubelet(state: &State, programs: &Programs, node: u8) -> Part {
    let folder = state.node(node);
    let address = IpAddr::V4(node_address(node));
    Part {
        name: format!("kubelet-{}", name(node)),
        program: programs.path("kubelet"),
        args: vec![
            format!("--config={}", kubelet_file(state, node).display()),
            format!("--kubeconfig={}", User::Node(node).kubeconfig(state).display()),
            format!("--root-dir={}", folder.join("kubelet").display()),
            format!("--cert-dir={}", folder.join("pki").display()),
            format!("--hostname-override={}", name(node)),
            format!("--node-ip={address}"),
        ],
        listens: vec![SocketAddr::new(address, 10250), kubelet_health(node)],
        version: KUBERNETES.into(),
    }
}

fn containerd_file(state: &State, node: u8) -> PathBuf {
    state.node(node).join("containerd.toml")
}

fn kubelet_file(state: &State, node: u8) -> PathBuf {
    state.node(node).join("kubelet.yaml")
}

fn containerd_config(state: &State, system: &SystemPrograms, node: u8) -> String {
    let folder = state.node(node);
    let folder = folder.display();
    let cni = system.cni.display();
    let socket = socket(state, node);
    let socket = socket.display();
    // `restrict_oom_score_adj`: without the right to lower the score, starting a pod would fail.
    // `netns_mounts_under_state_dir`: so that `cluster down` finds this cluster's network namespaces and nobody else's.
    format!(
        r#"version = 2
root = "{folder}/containerd/root"
state = "{folder}/containerd/state"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.internal.v1.opt",
  "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        Root = "{folder}/runc"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni}"
    conf_dir = "{folder}/cni"
"#
    )
}

/// A bridge and addresses from a list: no port mapping and no masquerading, so no iptables.
fn network_config(state: &State, node: u8) -> String {
    let network = serde_json::json!({
        "cniVersion": "1.0.0",
        "name": format!("{}{node}", leftovers::NETWORK),
        "plugins": [{
            "type": "bridge",
            "bridge": bridge(node),
            "isGateway": true,
            "ipMasq": false,
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "dataDir": state.node(node).join("ipam"),
                "ranges": [[{ "subnet": network::pods(node) }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }],
    });
    network.to_string()
}

fn kubelet_config(state: &State, node: u8) -> String {
    let folder = state.node(node);
    let folder = folder.display();
    let address = node_address(node);
    let dns = node_address(0);
    let socket = socket(state, node);
    let socket = socket.display();
    let authority = state.path("keys/kubelet-ca.crt");
    let authority = authority.display();
    let cgroup = cgroup::name(node);
    // `failCgroupV1: false` lets it run where controllers are still on cgroup v1; on v2 it changes nothing.
    // `makeIPTablesUtilChains: false` keeps it from leaving chains behind in tables that are not ours.
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {address}
healthzBindAddress: {address}
authentication:
  anonymous: {{enabled: false}}
  webhook: {{enabled: true}}
  x509: {{clientCAFile: {authority:?}}}
authorization: {{mode: Webhook}}
containerRuntimeEndpoint: unix://{socket}
cgroupDriver: cgroupfs
cgroupRoot: /{cgroup}
enforceNodeAllocatable: [pods]
failCgroupV1: false
failSwapOn: false
makeIPTablesUtilChains: false
configMapAndSecretChangeDetectionStrategy: Watch
podLogsDir: {folder}/pod-logs
volumePluginDir: {folder}/volume-plugins
resolvConf: \"\"
clusterDomain: cluster.local
clusterDNS: [{dns}]
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard:
  memory.available: 100Mi
  nodefs.available: 500Mi
  nodefs.inodesFree: 1%
  imagefs.available: 500Mi
"
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn nodes_share_no_folder_address_or_cgroup() {
        let state = State::new(PathBuf::from("/s"));
        let (first, second) = (kubelet_config(&state, 0), kubelet_config(&state, 1));
        for line in first
            .lines()
            .filter(|line| ["address", "container", "cgroupRoot", "podLogs"].iter().any(|key| line.starts_with(key)))
        {
            assert!(!second.contains(line), "both nodes have {line:?}");
        }
    }

    #[test]
    fn pods_get_addresses_on_their_nodes_bridge() {
        let text = network_config(&State::new(PathBuf::from("/s")), 1);
        let network: serde_json::Value = serde_json::from_str(&text).expect("valid JSON");
        let plugin = &network["plugins"][0];
        assert_eq!(plugin["bridge"], "ctxm1");
        assert_eq!(plugin["ipam"]["ranges"][0][0]["subnet"], "10.244.1.0/24");
        assert!(Path::new(plugin["ipam"]["dataDir"].as_str().expect("a path")).starts_with("/s/node1"));
    }
}
