//! `cluster down`: ends everything and leaves nothing: no process, mount, network namespace, bridge, packet filter table,
//! cgroup or changed kernel setting, and no state. Only the built programs stay.
//!
//! It works on whatever it finds, so a half-started cluster, one with half of its parts killed, or none at all is fine.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use super::process::{self, Process};
use super::state::State;
use super::{cgroup, leftovers, network, packages};
use crate::paths::Home;
use crate::progress::human;

/// Ends the cluster, if there is one.
pub fn down(home: &Home) -> Result<()> {
    let started = Instant::now();
    let _lock = home.lock("cluster")?;
    let state = State::new(home.cluster());
    packages::allow_services();
    let other = Process::other_cluster(state.folder());
    if let Some(other) = &other {
        eprintln!("the cluster with its state in {} is another one, and stays", other.display());
    }
    let is_ours = other.is_none() && has_traces();
    if !state.exists() && Process::of_cluster(state.folder()).is_empty() && !is_ours {
        eprintln!("there is no cluster");
        return Ok(());
    }
    clean(&state)?;
    eprintln!("cluster is down, and nothing of it is left; took {}", human(started.elapsed()));
    Ok(())
}

/// Removes everything of the cluster, in an order in which nothing can bring back what is already gone.
pub fn clean(state: &State) -> Result<()> {
    // Bridges, control groups and rules have the same names for every cluster, and there is one cluster at a time: while
    // another one runs they are that one's.
    let alone = Process::other_cluster(state.folder()).is_none();
    if alone && has_traces() && !geteuid().is_root() {
        bail!("the cluster has real nodes, so ending it needs root");
    }
    let all = Process::of_cluster(state.folder());
    // First whoever would start pods again or write rules again. kube-proxy may end in order, the kubelet has nothing to save.
    end_named(&all, &["kubelet", "kube-proxy", "coredns"], Signal::SIGTERM);
    end_named(&all, &["kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"], Signal::SIGKILL);
    end_named(&all, &["containerd"], Signal::SIGTERM);
    // Shims outlive containerd; their containers outlive the shims, and the cgroups tell who they are.
    let shims: Vec<Process> = Process::of_cluster(state.folder()).into_iter().filter(Process::is_shim).collect();
    process::stop(&shims, Signal::SIGKILL, Duration::from_secs(5));
    if alone {
        cgroup::remove_all()?;
    }
    network::unmount_all(state.folder())?;
    if alone {
        network::tear_down()?;
        network::restore_settings(state)?;
    }
    leftovers::remove(state);
    if state.exists() {
        fs::remove_dir_all(state.folder()).with_context(|| format!("failed to remove {}", state.folder().display()))?;
    }
    match Process::of_cluster(state.folder()).first() {
        None => Ok(()),
        Some(left) => bail!("process {} ({}) cannot be ended", left.pid, left.name()),
    }
}

/// Whether a cluster with nodes has left anything on this machine.
pub fn has_traces() -> bool {
    !network::bridges().is_empty() || !cgroup::groups().is_empty()
}

fn end_named(all: &[Process], names: &[&str], signal: Signal) {
    let chosen: Vec<Process> = all.iter().filter(|process| names.contains(&process.name())).cloned().collect();
    process::stop(&chosen, signal, Duration::from_secs(3));
}
