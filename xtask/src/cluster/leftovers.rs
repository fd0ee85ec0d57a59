//! What the parts write outside of the state folder, at paths that nobody can configure, and how it is found again.
//!
//! Other clusters of this machine may use the same folders, so only what can be told to be ours is removed, and a folder
//! only when it is empty.

use std::fs;
use std::path::{Path, PathBuf};

use super::process::Process;
use super::state::State;

/// The name with which every CNI network of ours begins.
pub const NETWORK: &str = "context-manager-dev-";

const CNI_RESULTS: &str = "/var/lib/cni/results";
const CONTAINER_LOGS: &str = "/var/log/containers";
const DEVICE_PLUGINS: &str = "/var/lib/kubelet/device-plugins";

/// Folders that are removed when nothing is in them any more, inner ones first.
const FOLDERS: [&str; 8] = [
    "/run/containerd/s",
    "/run/containerd",
    CNI_RESULTS,
    "/var/lib/cni",
    DEVICE_PLUGINS,
    "/var/lib/kubelet",
    CONTAINER_LOGS,
    "/run/netns",
];

/// Removes it. Must run before the state is removed, which tells what is ours, and after all parts have ended.
pub fn remove(state: &State) {
    let mut files = shim_sockets(state);
    files.extend(cni_results(&names(CNI_RESULTS)).iter().map(|name| Path::new(CNI_RESULTS).join(name)));
    files.extend(log_links(state));
    // The kubelet's socket for device plugins has a fixed path, which belongs to whichever kubelet runs.
    if !Process::all().iter().any(|process| process.name() == "kubelet") {
        files.extend(["kubelet.sock", "kubelet_internal_checkpoint"].map(|name| Path::new(DEVICE_PLUGINS).join(name)));
    }
    for file in files {
        // What is not there is what is wanted.
        let _ = fs::remove_file(file);
    }
    for folder in FOLDERS {
        // Fails when something of somebody else's is in it, and then it stays.
        let _ = fs::remove_dir(folder);
    }
}

/// Each shim's socket, which the shim leaves behind when it is killed; its path stands beside the container's bundle.
fn shim_sockets(state: &State) -> Vec<PathBuf> {
    let mut sockets = Vec::new();
    for node in names(state.folder()).iter().filter(|name| name.starts_with("node")) {
        let bundles = state.path(node).join("containerd/state/io.containerd.runtime.v2.task/k8s.io");
        for bundle in names(&bundles) {
            let address = fs::read_to_string(bundles.join(bundle).join("address")).unwrap_or_default();
            sockets.extend(address.trim().strip_prefix("unix://").map(PathBuf::from));
        }
    }
    sockets
}

/// Which of the CNI plugins' notes are ours: those of our networks, and the loopback notes of the same pods.
fn cni_results(all: &[String]) -> Vec<String> {
    let pods: Vec<&str> = all
        .iter()
        .filter_map(|name| name.strip_prefix(NETWORK)?.strip_suffix("-eth0")?.split_once('-'))
        .map(|(_, pod)| pod)
        .collect();
    let is_ours =
        |name: &&String| name.starts_with(NETWORK) || pods.iter().any(|pod| **name == format!("cni-loopback-{pod}-lo"));
    all.iter().filter(is_ours).cloned().collect()
}

/// The kubelet links each container's log in a folder of the system's.
fn log_links(state: &State) -> Vec<PathBuf> {
    let links = names(CONTAINER_LOGS).into_iter().map(|name| Path::new(CONTAINER_LOGS).join(name));
    links.filter(|link| fs::read_link(link).is_ok_and(|target| target.starts_with(state.folder()))).collect()
}

fn names(folder: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_of_another_clusters_pods_are_left_alone() {
        let all = ["context-manager-dev-0-abc-eth0", "cni-loopback-abc-lo", "cni-loopback-def-lo", "kindnet-def-eth0"];
        let ours = cni_results(&all.map(str::to_owned));
        assert_eq!(ours, ["context-manager-dev-0-abc-eth0", "cni-loopback-abc-lo"]);
    }

    #[test]
    fn sockets_are_read_from_the_bundles() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let bundle = folder.path().join("node0/containerd/state/io.containerd.runtime.v2.task/k8s.io/abc");
        fs::create_dir_all(&bundle).expect("folder");
        fs::write(bundle.join("address"), "unix:///run/containerd/s/123").expect("write");
        let sockets = shim_sockets(&State::new(folder.path().to_owned()));
        assert_eq!(sockets, [PathBuf::from("/run/containerd/s/123")]);
    }
}
