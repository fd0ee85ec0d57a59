//! `cluster up`: brings every part to where it should be, in an order in which each finds what it needs.
//!
//! Level-triggered: each step looks at what is there and does what is missing, so a second call repairs what died and
//! otherwise only looks.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::unistd::geteuid;

use super::credentials::{self, User};
use super::packages::SystemPrograms;
use super::part::{Ensured, Part, http_ok};
use super::process::Process;
use super::programs::Programs;
use super::state::{Shape, State};
use super::{Dev, cgroup, control_plane, down, load, network, node, services};
use crate::paths::Home;
use crate::progress::human;
use crate::{command, disk};

const A_MINUTE: Duration = Duration::from_mins(1);
const TWO_MINUTES: Duration = Duration::from_mins(2);

/// What the caller asked for; what is not said stays as the cluster is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// The number of nodes.
    pub nodes: Option<u8>,
    /// An API server without nodes.
    pub api_only: bool,
}

/// Makes the cluster run.
pub fn up(home: &Home, wanted: Wanted) -> Result<Dev> {
    let started = Instant::now();
    if !cfg!(target_os = "linux") {
        bail!("the dev cluster runs on Linux only; use a cluster you have by `--cluster current`");
    }
    let state = State::new(home.cluster());
    state.check_path()?;
    check_alone(&state)?;
    // Asked before the programs are built, which takes minutes, and again under the lock.
    check_rights(decide(&state, wanted)?)?;
    let programs = Programs::provide(home)?;
    let _lock = home.lock("cluster")?;
    check_alone(&state)?;
    let shape = decide(&state, wanted)?;
    check_rights(shape)?;
    // Found before anything starts: a cluster that cannot have nodes shall not come up halfway.
    let system = if shape.nodes > 0 { Some(SystemPrograms::provide()?) } else { None };
    if state.exists() && state.shape().is_none() {
        eprintln!("removing what a cluster of before the last reboot, or one that never came up, left behind");
        down::clean(&state)?;
    }
    state.create()?;
    disk::require(&home.cluster(), disk::FOR_CLUSTER, "the dev cluster")?;
    state.record(shape)?;
    let run = Run { state: &state, programs: &programs, shape };
    let changed = match &system {
        None => run.api_only()?,
        Some(system) => run.with_nodes(system)?,
    };
    let dev = Dev { state, programs, system, shape, changed };
    if changed {
        eprintln!("cluster is up ({}), after {}", shape.describe(), human(started.elapsed()));
    }
    Ok(dev)
}

struct Run<'r> {
    state: &'r State,
    programs: &'r Programs,
    shape: Shape,
}

impl Run<'_> {
    fn api_only(&self) -> Result<bool> {
        let changed = self.api()?;
        if !self.has("serviceaccount/default") {
            // No controller makes it here, and without it no pod is admitted.
            command::output(self.kubectl().args(["create", "serviceaccount", "default"]))?;
        }
        Ok(changed)
    }

    fn with_nodes(&self, system: &SystemPrograms) -> Result<bool> {
        network::save_settings(self.state)?;
        network::make_bridges(&system.ip, self.shape.nodes)?;
        network::set_up(self.state, system)?;
        // Containerd needs a moment, and nothing of the control plane: it starts first.
        let mut changed = self.start_runtimes(system)?;
        changed |= self.api()?;
        changed |= self.start_controllers()?;
        self.await_runtimes(system)?;
        changed |= self.start_agents()?;
        if changed {
            services::allow_dns(self.kubectl())?;
        }
        self.await_all()?;
        Ok(changed)
    }

    fn start_runtimes(&self, system: &SystemPrograms) -> Result<bool> {
        let version = system.containerd_version()?;
        let mut changed = false;
        for node in self.nodes() {
            cgroup::make(node)?;
            let is_new = node::configure_containerd(self.state, system, node)?;
            changed |= self.start(&node::containerd(self.state, system.containerd.clone(), &version, node), is_new)?;
        }
        Ok(changed)
    }

    /// Waits for each containerd, and gives it the image that every pod needs.
    fn await_runtimes(&self, system: &SystemPrograms) -> Result<()> {
        for node in self.nodes() {
            let ctr = || ctr(system, self.state, node);
            let containerd = node::containerd(self.state, system.containerd.clone(), "", node);
            containerd.wait(self.state, A_MINUTE, || command::succeeds(ctr().arg("version")))?;
            load::load(ctr, &self.programs.pause_archive())?;
        }
        Ok(())
    }

    fn start_controllers(&self) -> Result<bool> {
        let manager = control_plane::controller_manager(self.state, self.programs);
        let scheduler = control_plane::scheduler(self.state, self.programs);
        let started = self.start(&manager, self.configure(User::ControllerManager)?)?;
        Ok(self.start(&scheduler, self.configure(User::Scheduler)?)? || started)
    }

    /// Kubelets, kube-proxy and DNS.
    fn start_agents(&self) -> Result<bool> {
        let mut changed = false;
        for node in self.nodes() {
            let is_new = self.configure(User::Node(node))? | node::configure_kubelet(self.state, node)?;
            changed |= self.start(&node::kubelet(self.state, self.programs, node), is_new)?;
        }
        let is_new = self.configure(User::Proxy)? | services::configure_proxy(self.state)?;
        changed |= self.start(&services::proxy(self.state, self.programs), is_new)?;
        let is_new = self.configure(User::Dns)? | services::configure_dns(self.state)?;
        changed |= self.start(&services::dns(self.state, self.programs), is_new)?;
        Ok(changed)
    }

    fn await_all(&self) -> Result<()> {
        let (state, programs) = (self.state, self.programs);
        control_plane::controller_manager(state, programs)
            .wait(state, A_MINUTE, || self.has("serviceaccount/default"))?;
        services::proxy(state, programs).wait(state, A_MINUTE, || http_ok(services::PROXY_HEALTH, "/healthz"))?;
        services::dns(state, programs).wait(state, A_MINUTE, services::dns_answers)?;
        for node in self.nodes() {
            node::kubelet(state, programs, node).wait(state, TWO_MINUTES, || {
                http_ok(node::kubelet_health(node), "/healthz") && is_ready(self.kubectl(), node)
            })?;
        }
        // It serves nothing by which it could be asked; that it still runs is what can be known.
        control_plane::scheduler(state, programs).wait(state, A_MINUTE, || true)
    }

    /// etcd and the API server, and the administrator's kubeconfig.
    fn api(&self) -> Result<bool> {
        credentials::provide(self.state, self.programs)?;
        let etcd = control_plane::etcd(self.state, self.programs);
        let api = control_plane::api_server(self.state, self.programs, self.shape);
        let mut changed = self.start(&etcd, false)?;
        etcd.wait(self.state, A_MINUTE, || http_ok(etcd.listens[0], "/health"))?;
        changed |= self.start(&api, false)?;
        // The certificate's file comes first, the listener next; only then is asking worth its price.
        api.wait(self.state, TWO_MINUTES, || {
            std::net::TcpStream::connect(api.listens[0]).is_ok() && credentials::write_authority(self.state).is_ok()
        })?;
        self.configure(User::Admin)?;
        api.wait(self.state, TWO_MINUTES, || command::succeeds(self.kubectl().args(["get", "--raw=/readyz"])))?;
        Ok(changed)
    }

    /// Starts a part, if it has to be, and tells so; `is_new` says that its files were written anew.
    fn start(&self, part: &Part, is_new: bool) -> Result<bool> {
        let ensured = part.ensure(self.state, is_new.into())?;
        if ensured == Ensured::Started {
            eprintln!("started {} {}", part.name, part.version);
        }
        Ok(ensured == Ensured::Started)
    }

    fn configure(&self, user: User) -> Result<bool> {
        credentials::write_kubeconfig(self.state, user, &control_plane::api_url(self.shape))
    }

    fn nodes(&self) -> std::ops::Range<u8> {
        0..self.shape.nodes
    }

    fn has(&self, object: &str) -> bool {
        command::succeeds(self.kubectl().args(["get", object]))
    }

    fn kubectl(&self) -> Command {
        kubectl(&self.programs.path("kubectl"), &self.state.kubeconfig())
    }
}

/// kubectl on the dev cluster, with nothing of the caller's own configuration.
pub fn kubectl(program: &Path, kubeconfig: &Path) -> Command {
    let mut kubectl = Command::new(program);
    // The cluster is on this machine; a proxy of the caller's would only be in the way.
    kubectl.env("KUBECONFIG", kubeconfig).env("NO_PROXY", "*").env("no_proxy", "*");
    kubectl
}

/// The client of one node's containerd.
pub fn ctr(system: &SystemPrograms, state: &State, node: u8) -> Command {
    let mut ctr = Command::new(&system.ctr);
    ctr.arg("--address").arg(node::socket(state, node)).args(["--namespace", "k8s.io"]);
    ctr
}

fn check_rights(shape: Shape) -> Result<()> {
    if shape.nodes > 0 && !geteuid().is_root() {
        bail!(
            "a real node needs root (it makes bridges, mounts and cgroups): run this as root (with a Rust in your home folder by \
             `sudo env \"PATH=$PATH\" \"HOME=$HOME\" cargo xtask …`), or take `cluster up --api-only` (no pods), or use a cluster you \
             have by `--cluster current`"
        );
    }
    Ok(())
}

/// The ports, addresses, bridges and control groups exist once on a machine, so a second cluster would break the first.
fn check_alone(state: &State) -> Result<()> {
    let Some(other) = Process::other_cluster(state.folder()) else { return Ok(()) };
    bail!(
        "a dev cluster with its state in {} runs already, and a machine can have one: use it or end it by \
         `CONTEXT_MANAGER_HOME={} cargo xtask cluster down`",
        other.display(),
        other.parent().unwrap_or(&other).display()
    )
}

fn decide(state: &State, wanted: Wanted) -> Result<Shape> {
    let asked = if wanted.api_only { Some(0) } else { wanted.nodes };
    let Some(Shape { nodes: has }) = state.shape() else {
        return Ok(Shape { nodes: asked.unwrap_or(1) });
    };
    match asked {
        None => Ok(Shape { nodes: has }),
        Some(0) if has > 0 => bail!("the cluster that is up has nodes; run `cargo xtask cluster down` first"),
        Some(nodes) if has == 0 && nodes > 0 => {
            bail!("the cluster that is up has no nodes; run `cargo xtask cluster down` first")
        }
        Some(nodes) if nodes < has => {
            bail!("the cluster that is up has {has} nodes, not {nodes}; run `cargo xtask cluster down` first")
        }
        Some(nodes) => Ok(Shape { nodes }),
    }
}

fn is_ready(mut kubectl: Command, node: u8) -> bool {
    const READY: &str = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
    command::output(kubectl.args(["get", "node", &node::name(node), "-o", READY])).is_ok_and(|status| status == "True")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn with_nodes(nodes: u8) -> (tempfile::TempDir, State) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let state = State::new(folder.path().join("c"));
        state.create().expect("create");
        state.record(Shape { nodes }).expect("record");
        (folder, state)
    }

    fn asks(nodes: u8) -> Wanted {
        Wanted { nodes: Some(nodes), api_only: false }
    }

    #[test]
    fn first_cluster_has_one_node_unless_told_otherwise() {
        let state = State::new(PathBuf::from("/nowhere/at/all"));
        assert_eq!(decide(&state, Wanted::default()).expect("decided").nodes, 1);
        assert_eq!(decide(&state, Wanted { nodes: None, api_only: true }).expect("decided").nodes, 0);
    }

    #[test]
    fn nodes_are_added_but_never_silently_taken_away() {
        let (_folder, state) = with_nodes(2);
        assert_eq!(decide(&state, Wanted::default()).expect("decided").nodes, 2);
        assert_eq!(decide(&state, asks(3)).expect("decided").nodes, 3);
        assert!(decide(&state, asks(1)).is_err());
    }

    #[test]
    fn cluster_without_nodes_does_not_become_one_with_nodes() {
        let (_folder, state) = with_nodes(0);
        assert_eq!(decide(&state, Wanted::default()).expect("decided").nodes, 0);
        assert!(decide(&state, asks(1)).is_err());
    }
}
