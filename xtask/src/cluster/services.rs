//! What makes Services work: kube-proxy, and `CoreDNS` on the first node's address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::credentials::User;
use super::network::PODS;
use super::node;
use super::part::Part;
use super::programs::{COREDNS, KUBERNETES, Programs};
use super::state::{State, node_address, write_if_changed};
use crate::command;

/// kube-proxy's health endpoint, which turns well after its first complete pass over the rules.
pub const PROXY_HEALTH: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10256);
const PROXY_METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);

/// Writes kube-proxy's configuration, and tells whether it is new.
pub fn configure_proxy(state: &State) -> Result<bool> {
    write_if_changed(&proxy_path(state), &proxy_config(state))
}

/// kube-proxy by nftables; one serves all nodes, because they share this machine's network namespace.
pub fn proxy(state: &State, programs: &Programs) -> Part {
    Part {
        name: "kube-proxy".into(),
        program: programs.path("kube-proxy"),
        args: vec![format!("--config={}", proxy_path(state).display())],
        listens: vec![PROXY_HEALTH, PROXY_METRICS],
        version: KUBERNETES.into(),
    }
}

/// Writes `CoreDNS`'s configuration, and tells whether it is new.
pub fn configure_dns(state: &State) -> Result<bool> {
    write_if_changed(&corefile_path(state), &corefile(state))
}

/// `CoreDNS`.
pub fn dns(state: &State, programs: &Programs) -> Part {
    Part {
        name: "coredns".into(),
        program: programs.path("coredns"),
        args: vec![format!("-conf={}", corefile_path(state).display())],
        listens: vec![dns_address()],
        version: COREDNS.into(),
    }
}

/// Gives the DNS server the right to see what it serves.
pub fn allow_dns(mut kubectl: Command) -> Result<()> {
    let user = User::Dns.name();
    let objects = serde_json::json!({
        "apiVersion": "v1",
        "kind": "List",
        "items": [{
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": { "name": user },
            "rules": [
                { "apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"] },
                { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"] },
            ],
        }, {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": { "name": user },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user }],
        }],
    });
    command::output_with_input(kubectl.args(["apply", "-f", "-"]), &objects.to_string())?;
    Ok(())
}

/// Whether the DNS server knows the API server's own Service, which it does once it has seen the cluster.
pub fn dns_answers() -> bool {
    let ask = || -> std::io::Result<bool> {
        let socket = UdpSocket::bind((node_address(0), 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        socket.send_to(&query("kubernetes.default.svc.cluster.local"), dns_address())?;
        let mut answer = [0; 512];
        let (length, _) = socket.recv_from(&mut answer)?;
        Ok(has_answer(&answer[..length]))
    };
    ask().unwrap_or(false)
}

fn dns_address() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(node_address(0)), 53)
}

fn proxy_path(state: &State) -> PathBuf {
    state.path("proxy.yaml")
}

fn proxy_config(state: &State) -> String {
    let address = node_address(0);
    let (name, kubeconfig) = (node::name(0), User::Proxy.kubeconfig(state));
    let kubeconfig = kubeconfig.display();
    // `minSyncPeriod`: ten times as often as by default, because tests use a Service the moment after they made it.
    // `conntrack`: zeros leave the machine's own connection tracking as it is.
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {{kubeconfig: {kubeconfig}}}
hostnameOverride: {name}
mode: nftables
bindAddress: {address}
nodePortAddresses: [{address}/32]
detectLocalMode: ClusterCIDR
clusterCIDR: {PODS}
healthzBindAddress: {PROXY_HEALTH}
metricsBindAddress: {PROXY_METRICS}
nftables: {{minSyncPeriod: 100ms, syncPeriod: 30s}}
conntrack: {{maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
"
    )
}

fn corefile_path(state: &State) -> PathBuf {
    state.path("Corefile")
}

fn corefile(state: &State) -> String {
    let (address, kubeconfig) = (node_address(0), User::Dns.kubeconfig(state));
    format!(
        "cluster.local:53 10.in-addr.arpa:53 {{\n    bind {address}\n    errors\n    kubernetes cluster.local 10.in-addr.arpa \
         {{\n        kubeconfig {}\n        pods insecure\n    }}\n    cache 5\n}}\n",
        kubeconfig.display()
    )
}

/// A DNS question for a name's IPv4 address.
fn query(name: &str) -> Vec<u8> {
    const HEADER: [u8; 12] = [0x43, 0x4d, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    const ROOT_THEN_A_IN: [u8; 5] = [0, 0, 1, 0, 1];
    let mut packet = HEADER.to_vec();
    for label in name.split('.') {
        packet.push(u8::try_from(label.len()).unwrap_or(0));
        packet.extend_from_slice(label.as_bytes());
    }
    packet.extend_from_slice(&ROOT_THEN_A_IN);
    packet
}

/// Whether a packet is an answer without error and with at least one record.
fn has_answer(packet: &[u8]) -> bool {
    matches!(packet, [0x43, 0x4d, flags, code, _, _, high, low, ..]
        if flags & 0x80 != 0 && code % 16 == 0 && (*high, *low) != (0, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn question_has_a_label_for_each_part_of_the_name() {
        let packet = query("ab.c");
        assert_eq!(&packet[12..], [2, b'a', b'b', 1, b'c', 0, 0, 1, 0, 1]);
    }

    #[test]
    fn refusal_and_empty_answer_are_no_answer() {
        let mut packet = query("ab.c");
        assert!(!has_answer(&packet), "it is the question itself");
        packet[2] |= 0x80;
        assert!(!has_answer(&packet), "no records");
        packet[7] = 1;
        assert!(has_answer(&packet));
        packet[3] = 5;
        assert!(!has_answer(&packet), "refused");
    }

    #[test]
    fn each_directive_of_the_corefile_stands_on_its_own_line() {
        let text = corefile(&State::new("/s".into()));
        assert!(
            text.contains("    kubernetes cluster.local 10.in-addr.arpa {\n        kubeconfig /s/dns.kubeconfig\n"),
            "{text}"
        );
        assert_eq!(text.matches('{').count(), text.matches('}').count());
    }
}
