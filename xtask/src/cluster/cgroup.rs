//! The nodes' control groups: made before a kubelet starts, and at the end the sure way to find every process of every pod.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::process;

const ROOT: &str = "/sys/fs/cgroup";
const NAME: &str = "context-manager-dev";

/// The name of a node's group, which is the same in every hierarchy.
pub fn name(node: u8) -> String {
    format!("{NAME}{node}")
}

/// Makes a node's group in every hierarchy; the kubelet refuses to start without.
pub fn make(node: u8) -> Result<()> {
    if is_unified() {
        // Best effort: a controller that this kernel lacks is one that the kubelet will do without or name itself.
        let _ = fs::write(Path::new(ROOT).join("cgroup.subtree_control"), "+cpu +cpuset +memory +pids +io");
    }
    for hierarchy in hierarchies() {
        let group = hierarchy.join(name(node));
        fs::create_dir_all(&group).with_context(|| format!("failed to make {}", group.display()))?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            // In the old cpuset hierarchy a new group has no processors at all until it is given some.
            let is_empty = fs::read_to_string(group.join(file)).is_ok_and(|text| text.trim().is_empty());
            if is_empty && let Ok(all) = fs::read_to_string(hierarchy.join(file)) {
                fs::write(group.join(file), all.trim()).with_context(|| format!("failed to set {file}"))?;
            }
        }
    }
    Ok(())
}

/// Kills every process in the nodes' groups and removes the groups.
pub fn remove_all() -> Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let groups = groups();
        if groups.is_empty() {
            return Ok(());
        }
        let pids: Vec<i32> = groups.iter().flat_map(|group| processes(group)).collect();
        process::kill_all(&pids);
        for group in &groups {
            remove(group);
        }
        if Instant::now() >= end {
            bail!("{} cannot be removed: {} processes are still in it", groups[0].display(), pids.len());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The groups of all nodes in all hierarchies.
pub fn groups() -> Vec<PathBuf> {
    let ours = |group: &PathBuf| {
        let name = group.file_name().unwrap_or_default().to_string_lossy();
        name.strip_prefix(NAME).is_some_and(|rest| rest.len() == 1 && rest.as_bytes()[0].is_ascii_digit())
    };
    hierarchies().iter().flat_map(|hierarchy| folders(hierarchy)).filter(ours).collect()
}

fn is_unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

fn hierarchies() -> Vec<PathBuf> {
    if is_unified() { vec![PathBuf::from(ROOT)] } else { folders(Path::new(ROOT)) }
}

/// The folders in a folder; links (`cpu` to `cpu,cpuacct`) are left out, so no hierarchy counts twice.
fn folders(of: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(of).into_iter().flatten().filter_map(Result::ok);
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

fn processes(group: &Path) -> Vec<i32> {
    let own = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    // A process of another pid namespace shows as 0, and a signal to 0 would reach this program itself.
    let own: Vec<i32> = own.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 1).collect();
    own.into_iter().chain(folders(group).iter().flat_map(|child| processes(child))).collect()
}

fn remove(group: &Path) {
    for child in folders(group) {
        remove(&child);
    }
    // A group with processes in it stays; the caller comes back when they are dead.
    let _ = fs::remove_dir(group);
}
