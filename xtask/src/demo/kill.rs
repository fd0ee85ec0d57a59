//! Kills the sidecar's process the hard way, and waits until the kubelet has started it again. The dev cluster's node is this
//! machine, so the process is found in `/proc`, by the pod's control group.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::kube::{Kube, items, text, wait_for};
use super::pod::SIDECAR;
use super::{AGENTS, screen};

/// How the sidecar's program is started in its container.
const PROGRAM: &str = "/context-manager-sidecar";

/// Kills the sidecar of that pod and waits until it is ready again.
pub fn sidecar(kube: &Kube, pod: &str) -> Result<()> {
    let before = kube.json(&["-n", AGENTS, "pod", pod])?;
    let restarts = restarts(status(&before)?)?;
    let process = find(text(&before, "/metadata/uid")?)?;
    println!("$ kill -KILL {process}   # {PROGRAM} on the node");
    kill(Pid::from_raw(process), Signal::SIGKILL).context("failed to kill the sidecar")?;
    let after = wait_for("the sidecar to be ready again", Duration::from_secs(90), || {
        let pod = kube.json(&["-n", AGENTS, "pod", pod])?;
        let status = status(&pod)?;
        let is_back = self::restarts(status)? > restarts && status.pointer("/ready") == Some(&Value::Bool(true));
        Ok(is_back.then(|| status.clone()))
    })?;
    kube.run(&["-n", AGENTS, "get", "pod", pod])?;
    let code = after.pointer("/lastState/terminated/exitCode").and_then(Value::as_i64);
    if self::restarts(&after)? != restarts + 1 || code != Some(137) {
        bail!("the sidecar was restarted {} times and last ended with {code:?}: {after}", self::restarts(&after)?);
    }
    screen::checked("the sidecar ended with code 137 (SIGKILL), and the kubelet started it again in the same pod");
    Ok(())
}

fn status(pod: &Value) -> Result<&Value> {
    let all = items(pod, "/status/initContainerStatuses");
    let found = all.iter().find(|status| text(status, "/name").is_ok_and(|name| name == SIDECAR));
    found.context("the pod has no status of the sidecar")
}

fn restarts(status: &Value) -> Result<i64> {
    status.pointer("/restartCount").and_then(Value::as_i64).context("the status has no restartCount")
}

/// The process of the sidecar in the pod with that unique id.
fn find(uid: &str) -> Result<i32> {
    let group = format!("pod{uid}");
    let processes = fs::read_dir("/proc")?.filter_map(Result::ok);
    let mut found: Vec<i32> = processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|process| belongs(*process, &group))
        .collect();
    match (found.pop(), found.is_empty()) {
        (Some(process), true) => Ok(process),
        (Some(_), false) => bail!("several processes of the pod {uid} run {PROGRAM}"),
        (None, _) => bail!("no process of the pod {uid} runs {PROGRAM} on this machine; is its node elsewhere?"),
    }
}

/// Whether the process runs the sidecar's program in that control group. A process that ended meanwhile does not.
fn belongs(process: i32, group: &str) -> bool {
    let read = |file| fs::read(format!("/proc/{process}/{file}")).unwrap_or_default();
    let (groups, words) = (read("cgroup"), read("cmdline"));
    let in_group = String::from_utf8_lossy(&groups).split(['/', '\n']).any(|part| part == group);
    in_group && words.split(|byte| *byte == 0).next() == Some(PROGRAM.as_bytes())
}
