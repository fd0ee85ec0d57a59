//! A Job with a sidecar: it has to complete.

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::input::Input;
use super::kube::{Kube, items, text};
use super::{AGENTS, agent, answers, screen};
use crate::cluster::ClusterArgs;

const FILE: &str = "examples/job.yaml";

/// Runs the Job to its end, and checks what it did and how its sidecar ended.
pub fn run(kube: &Kube, input: &Input, args: &ClusterArgs) -> Result<()> {
    kube.apply_file(FILE, &agent::with_prefix(FILE, args)?)?;
    kube.run(&["-n", AGENTS, "wait", "--for=condition=Complete", "job/reader", "--timeout=120s"])?;
    kube.run(&["-n", AGENTS, "get", "job,pod", "-l", "job-name=reader"])?;
    let log = kube.run(&["-n", AGENTS, "logs", "job/reader", "-c", "reader"])?;
    let said = answers::read_run(&log)?;
    if said.found != 0 {
        bail!("the Job found {} contexts, although it is an agent of its own with nothing stored yet", said.found);
    }
    answers::check(&said.answers, input)?;
    let pods = kube.json(&["-n", AGENTS, "pods", "-l", "job-name=reader"])?;
    let [pod] = items(&pods, "/items") else { bail!("the Job needed {} pods", items(&pods, "/items").len()) };
    let sidecar = items(pod, "/status/initContainerStatuses").first().context("the Job's pod has no sidecar")?;
    let code = sidecar.pointer("/state/terminated/exitCode").and_then(Value::as_i64);
    if text(pod, "/status/phase")? != "Succeeded" || code != Some(0) {
        bail!("the pod is {}, and its sidecar ended with {code:?}", text(pod, "/status/phase")?);
    }
    screen::checked("the Job completed; its sidecar was ended by the kubelet, in order (exit code 0)");
    screen::checked("it saw nothing of what the agent remembers: the memory of each agent is its own");
    Ok(())
}
