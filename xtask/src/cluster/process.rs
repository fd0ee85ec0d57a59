//! Which processes run, read from `/proc` and from nowhere else.
//!
//! There are no pid files: after a reboot, a crash or the reuse of a pid they tell lies. A part of the cluster is known by
//! its program's name and its first argument, which always names a file or folder of the cluster's state.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::state::RECORD;

/// The programs of the cluster, and the shims that containerd leaves behind when it dies.
const OURS: [&str; 9] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "coredns",
    "containerd",
    SHIM,
];
const SHIM: &str = "containerd-shim-runc-v2";

/// A live process (a dead one that nobody has collected has no command line, and so is not seen).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its command line.
    pub argv: Vec<String>,
}

impl Process {
    /// All processes whose command line this user may read.
    pub fn all() -> Vec<Self> {
        let Ok(entries) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        entries
            .filter_map(Result::ok)
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter_map(Self::read)
            .collect()
    }

    /// All processes that belong to the cluster whose state lies in that folder, whoever started them.
    pub fn of_cluster(state: &Path) -> Vec<Self> {
        let folder = format!("{}/", state.display());
        let belongs = |process: &Self| {
            OURS.contains(&process.name()) && process.argv.iter().skip(1).any(|word| word.contains(&folder))
        };
        Self::all().into_iter().filter(belongs).collect()
    }

    /// The state folder of a cluster that runs, but from another cache than the one with that state folder.
    pub fn other_cluster(state: &Path) -> Option<PathBuf> {
        let is_state = |folder: &Path| folder.join(RECORD).is_file();
        Self::all().into_iter().find_map(|process| {
            process.state_folder(is_state).and_then(|found| found.canonicalize().ok()).filter(|found| found != state)
        })
    }

    /// The state folder that the command line of one of our programs names.
    fn state_folder(&self, is_state: impl Fn(&Path) -> bool) -> Option<PathBuf> {
        let paths = self.argv.iter().skip(1).filter_map(|word| word.split_once("=/"));
        let mut folders = paths.map(|(_, path)| PathBuf::from(format!("/{path}")));
        let named = || folders.find_map(|path| path.ancestors().find(|folder| is_state(folder)).map(Path::to_owned));
        OURS.contains(&self.name()).then(named).flatten()
    }

    /// The program's name, without its folder.
    pub fn name(&self) -> &str {
        self.argv.first().map_or("", |program| program.rsplit('/').next().unwrap_or_default())
    }

    /// Whether this is a shim, which holds containers and outlives containerd.
    pub fn is_shim(&self) -> bool {
        self.name() == SHIM
    }

    /// Whether it still runs and is still the same program.
    pub fn is_alive(&self) -> bool {
        Self::read(self.pid).as_ref() == Some(self)
    }

    fn read(pid: i32) -> Option<Self> {
        let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let argv = split_argv(&bytes);
        (!argv.is_empty()).then_some(Self { pid, argv })
    }
}

/// Ends processes: the signal first, and SIGKILL for those that still live after `grace`.
pub fn stop(processes: &[Process], signal: Signal, grace: Duration) {
    send(processes, signal);
    if !ended(processes, grace) {
        send(processes, Signal::SIGKILL);
        ended(processes, Duration::from_secs(5));
    }
}

/// Whether that process is gone, or dead and only not collected yet. A command line cannot tell: while a program is being
/// replaced by another, it is empty for a moment.
pub fn has_ended(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before the state stands in brackets and may hold anything.
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
    matches!(state, None | Some("Z" | "X"))
}

/// Kills processes by their id, without asking.
pub fn kill_all(pids: &[i32]) {
    for pid in pids {
        // The process may have ended by itself in between.
        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
}

fn send(processes: &[Process], signal: Signal) {
    for process in processes.iter().filter(|process| process.is_alive()) {
        let _ = kill(Pid::from_raw(process.pid), signal);
    }
}

fn ended(processes: &[Process], limit: Duration) -> bool {
    let end = Instant::now() + limit;
    loop {
        if processes.iter().all(|process| !process.is_alive()) {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn split_argv(bytes: &[u8]) -> Vec<String> {
    let words = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    if words.is_empty() {
        return Vec::new();
    }
    words.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn command_line_is_split_at_its_zero_bytes() {
        assert_eq!(split_argv(b"a\0--b=c d\0\0"), ["a", "--b=c d", ""]);
        assert!(split_argv(b"").is_empty(), "a kernel thread or a dead process");
    }

    #[test]
    fn name_is_the_program_without_its_folder() {
        let process = Process { pid: 1, argv: vec!["/some/where/kubelet".into(), "--x".into()] };
        assert_eq!(process.name(), "kubelet");
    }

    #[test]
    fn state_of_another_cluster_is_read_from_its_programs_alone() {
        let state = |words: [&str; 2]| {
            let process = Process { pid: 1, argv: words.map(str::to_owned).into() };
            process.state_folder(|folder| folder == Path::new("/a/cluster"))
        };
        assert_eq!(state(["/p/etcd", "--data-dir=/a/cluster/etcd"]).as_deref(), Some(Path::new("/a/cluster")));
        assert_eq!(
            state(["kubelet", "--config=/a/cluster/node0/kubelet.yaml"]).as_deref(),
            Some(Path::new("/a/cluster"))
        );
        assert_eq!(state(["etcd", "--data-dir=/var/lib/etcd"]), None, "somebody else's etcd");
        assert_eq!(state(["less", "--log=/a/cluster/logs/etcd.log"]), None);
    }

    #[test]
    fn killed_child_is_no_longer_alive_although_nobody_collected_it() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep runs everywhere");
        let pid = i32::try_from(child.id()).expect("pids are small");
        let end = Instant::now() + Duration::from_secs(5);
        // Until the child has become the program, it carries this test's own command line, or none.
        let process = loop {
            match Process::read(pid) {
                Some(process) if process.name() == "sleep" => break process,
                _ => assert!(Instant::now() < end, "the child never became the program"),
            }
        };
        assert!(process.is_alive() && !has_ended(pid));
        stop(std::slice::from_ref(&process), Signal::SIGTERM, Duration::from_secs(5));
        assert!(!process.is_alive() && has_ended(pid));
        child.wait().expect("collect it");
    }
}
