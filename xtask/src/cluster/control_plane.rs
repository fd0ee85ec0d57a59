//! The control plane: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, and how each is known to be ready.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::credentials::User;
use super::network::SERVICES;
use super::part::Part;
use super::programs::{ETCD, KUBERNETES, Programs};
use super::state::{Shape, State, node_address};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const ETCD_CLIENTS: SocketAddr = SocketAddr::new(LOOPBACK, 2379);
const ETCD_PEERS: SocketAddr = SocketAddr::new(LOOPBACK, 2380);
const API_PORT: u16 = 6443;

/// Where the API server listens: on the first node's bridge, so that pods reach it; without nodes on loopback.
pub fn api_address(shape: Shape) -> SocketAddr {
    let ip = if shape.nodes == 0 { LOOPBACK } else { IpAddr::V4(node_address(0)) };
    SocketAddr::new(ip, API_PORT)
}

/// The API server's address as kubeconfigs have it.
pub fn api_url(shape: Shape) -> String {
    format!("https://{}", api_address(shape))
}

/// etcd, on loopback and in the clear. It does not sync to disk: a dev cluster does not outlive its machine's power.
pub fn etcd(state: &State, programs: &Programs) -> Part {
    Part {
        name: "etcd".into(),
        program: programs.path("etcd"),
        args: vec![
            format!("--data-dir={}", state.path("etcd").display()),
            "--unsafe-no-fsync".into(),
            "--log-level=warn".into(),
            format!("--listen-client-urls=http://{ETCD_CLIENTS}"),
            format!("--advertise-client-urls=http://{ETCD_CLIENTS}"),
            format!("--listen-peer-urls=http://{ETCD_PEERS}"),
            format!("--initial-advertise-peer-urls=http://{ETCD_PEERS}"),
            format!("--initial-cluster=default=http://{ETCD_PEERS}"),
        ],
        listens: vec![ETCD_CLIENTS, ETCD_PEERS],
        version: ETCD.into(),
    }
}

/// kube-apiserver with the default admission plugins (Pod Security and the webhooks among them) and `NodeRestriction`.
pub fn api_server(state: &State, programs: &Programs, shape: Shape) -> Part {
    let address = api_address(shape);
    let keys = state.path("keys");
    let key = |name: &str| keys.join(name).display().to_string();
    let mut part = Part {
        name: "kube-apiserver".into(),
        program: programs.path("kube-apiserver"),
        args: vec![
            format!("--cert-dir={}", state.path("certs").display()),
            format!("--etcd-servers=http://{ETCD_CLIENTS}"),
            format!("--bind-address={}", address.ip()),
            format!("--secure-port={}", address.port()),
            format!("--service-cluster-ip-range={SERVICES}"),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            "--allow-privileged=true".into(),
            format!("--token-auth-file={}", state.path("tokens.csv").display()),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--service-account-key-file={}", key("sa.pub")),
            format!("--service-account-signing-key-file={}", key("sa.key")),
            // Nodes' names are in no DNS that the API server could ask.
            "--kubelet-preferred-address-types=InternalIP".into(),
            format!("--kubelet-client-certificate={}", key("kubelet-client.crt")),
            format!("--kubelet-client-key={}", key("kubelet-client.key")),
        ],
        listens: vec![address],
        version: KUBERNETES.into(),
    };
    // Pods reach the Service `kubernetes` there. Loopback is refused as such an address, and without nodes nobody asks.
    if !address.ip().is_loopback() {
        part.args.push(format!("--advertise-address={}", address.ip()));
    }
    part
}

/// kube-controller-manager; it serves nothing itself.
pub fn controller_manager(state: &State, programs: &Programs) -> Part {
    Part {
        name: "kube-controller-manager".into(),
        program: programs.path("kube-controller-manager"),
        args: vec![
            format!("--kubeconfig={}", User::ControllerManager.kubeconfig(state).display()),
            "--leader-elect=false".into(),
            "--use-service-account-credentials=true".into(),
            format!("--service-account-private-key-file={}", state.path("keys/sa.key").display()),
            format!("--root-ca-file={}", state.path("ca.crt").display()),
            "--bind-address=127.0.0.1".into(),
            "--secure-port=0".into(),
        ],
        listens: Vec::new(),
        version: KUBERNETES.into(),
    }
}

/// kube-scheduler; it serves nothing itself.
pub fn scheduler(state: &State, programs: &Programs) -> Part {
    Part {
        name: "kube-scheduler".into(),
        program: programs.path("kube-scheduler"),
        args: vec![
            format!("--kubeconfig={}", User::Scheduler.kubeconfig(state).display()),
            "--leader-elect=false".into(),
            "--bind-address=127.0.0.1".into(),
            "--secure-port=0".into(),
        ],
        listens: Vec::new(),
        version: KUBERNETES.into(),
    }
}
