//! The nodes' control groups: made before a kubelet starts, and at the end the sure way to find every process of every pod.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::process;

const ROOT: &str = "/sys/fs/cgroup";
const NAME: &str = "context-manager-dev";
/// Where the unified hierarchy says what there is for the groups below, and is told what they get.
const THERE: &str = "cgroup.controllers";
const GIVEN: &str = "cgroup.subtree_control";
/// A kubelet does not start in a group that lacks one of these, if the machine has it.
const NEEDED: [&str; 5] = ["cpu", "cpuset", "hugetlb", "memory", "pids"];

/// The name of a node's group, which is the same in every hierarchy.
pub fn name(node: u8) -> String {
    format!("{NAME}{node}")
}

/// Makes a node's group in every hierarchy; the kubelet refuses to start without.
pub fn make(node: u8) -> Result<()> {
    if is_unified() {
        give_controllers(Path::new(ROOT))?;
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

/// Gives the controllers to the groups below the root of the unified hierarchy; systemd gives only some. The kernel takes all that are named
/// at once or none, so each is named by itself.
fn give_controllers(root: &Path) -> Result<()> {
    let read = |file: &str| {
        let file = root.join(file);
        fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))
    };
    let there = read(THERE)?;
    for name in NEEDED.into_iter().chain(["io"]).filter(|name| there.split_whitespace().any(|there| there == *name)) {
        // What came of it is seen below.
        let _ = fs::write(root.join(GIVEN), format!("+{name}"));
    }
    let lacking = lacking(&there, &read(GIVEN)?);
    if !lacking.is_empty() {
        bail!(
            "control groups below {} do not get {}, without which no kubelet starts: see what `echo +{} > {}` says as root; in a \
             container, give it the machine's own control groups (`--privileged --cgroupns=host`)",
            root.display(),
            lacking.join(", "),
            lacking[0],
            root.join(GIVEN).display()
        );
    }
    Ok(())
}

/// What a kubelet needs, and is there, and not given.
fn lacking(there: &str, given: &str) -> Vec<&'static str> {
    let has = |list: &str, name: &str| list.split_whitespace().any(|listed| listed == name);
    NEEDED.into_iter().filter(|name| has(there, name) && !has(given, name)).collect()
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
    Path::new(ROOT).join(THERE).exists()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_that_a_kubelet_needs_is_lacking_only_where_the_machine_has_it() {
        let debian = "cpuset cpu io memory hugetlb pids rdma misc";
        assert_eq!(lacking(debian, "cpuset cpu io memory pids"), ["hugetlb"], "as systemd leaves it");
        assert_eq!(lacking(debian, ""), NEEDED);
        assert!(lacking(debian, "cpuset cpu io memory hugetlb pids").is_empty());
        assert!(
            lacking("cpuset cpu io memory pids", "cpu cpuset memory pids").is_empty(),
            "nobody asks for hugetlb there"
        );
    }

    #[test]
    fn what_cannot_be_given_is_named_with_what_to_do() {
        // A plain file takes every write and gives nothing.
        let root = tempfile::tempdir().expect("a folder");
        fs::write(root.path().join(THERE), "cpu memory\n").expect("a file");
        let said = give_controllers(root.path()).expect_err("nothing is given").to_string();
        for part in ["do not get cpu, memory,", "echo +cpu > ", GIVEN, "--cgroupns=host"] {
            assert!(said.contains(part), "{part:?} is missing in {said:?}");
        }
    }
}
