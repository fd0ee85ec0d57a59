//! The agent: an ordinary Deployment that remembers a document and answers questions from it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::answers::{self, Said};
use super::input::Input;
use super::kube::{Change, Kube, items, text, wait_for};
use super::{AGENTS, screen};
use crate::cluster::ClusterArgs;
use crate::paths;

/// The agent's program, in its image.
const PROGRAM: &str = "/context-manager-example-agent";
/// What the images of the examples begin with.
const PREFIX: &str = "localhost/";
const ROLLOUT: [&str; 6] = ["-n", AGENTS, "rollout", "status", "deployment/agent", "--timeout=120s"];
const LOGS: [&str; 6] = ["-n", AGENTS, "logs", "deployment/agent", "-c", "agent"];

/// Gives the agent its document and starts it; returns its pod's name.
pub fn deploy(kube: &Kube, input: &Input, args: &ClusterArgs) -> Result<String> {
    let document = format!("--from-file=document.md={}", from_repository(&input.document).display());
    let questions = format!("--from-file=questions.txt={}", from_repository(&input.questions_file).display());
    kube.run(&["-n", AGENTS, "create", "configmap", "document", &document, &questions])?;
    kube.apply_file("examples/agent.yaml", &with_prefix("examples/agent.yaml", args)?)?;
    kube.run(&ROLLOUT)?;
    kube.run(&["-n", AGENTS, "get", "pods", "-l", "app=agent"])?;
    pod(kube)
}

/// Shows what the agent stored and answered, and checks it.
pub fn listen(kube: &Kube, input: &Input) -> Result<Said> {
    let log = finished_log(kube)?;
    screen::command("kubectl", LOGS);
    screen::output(&log);
    let said = answers::read_run(&log)?;
    if said.found != 0 || said.remembered == 0 {
        bail!("a new agent found {} contexts and stored {}", said.found, said.remembered);
    }
    let figures = exec(kube, &["stats"])?;
    screen::output(&figures);
    let stats: Value = serde_json::from_str(figures.trim()).context("the agent printed something else than JSON")?;
    let held = stats.pointer("/contexts/long_term").and_then(Value::as_u64);
    if held != u64::try_from(said.remembered).ok() {
        bail!("{} paragraphs were stored, but the memory holds {held:?}", said.remembered);
    }
    screen::checked(&format!("{} paragraphs stored by signed requests, and the memory holds as many", said.remembered));
    answers::check(&said.answers, input)?;
    Ok(said)
}

/// Asks the same questions in the running pod, and compares.
pub fn ask_again(kube: &Kube, before: &Said) -> Result<()> {
    let printed = exec(kube, &["ask", "--questions", "/document/questions.txt"])?;
    screen::output(&printed);
    answers::compare(&before.answers, &answers::read_answers(&printed))
}

/// Replaces the pod by a new one, and checks that it found everything before it stored anything.
pub fn replace(kube: &Kube, before: &Said) -> Result<()> {
    let old = pod(kube)?;
    kube.run(&["-n", AGENTS, "rollout", "restart", "deployment/agent"])?;
    kube.run(&ROLLOUT)?;
    let new = pod(kube)?;
    if new == old {
        bail!("the pod {old} was not replaced");
    }
    let log = finished_log(kube)?;
    screen::command("kubectl", LOGS);
    screen::output(&log.lines().take(2).collect::<Vec<_>>().join("\n"));
    screen::output("…");
    let said = answers::read_run(&log)?;
    if said.found != before.remembered {
        bail!("the new pod found {} contexts in memory, not the {} that were stored", said.found, before.remembered);
    }
    screen::checked(&format!("{new} found all {} contexts that {old} had stored", said.found));
    answers::compare(&before.answers, &said.answers)
}

/// The name of the agent's one pod.
pub fn pod(kube: &Kube) -> Result<String> {
    let pods = kube.json(&["-n", AGENTS, "pods", "-l", "app=agent"])?;
    let alive: Vec<_> =
        items(&pods, "/items").iter().filter(|pod| pod.pointer("/metadata/deletionTimestamp").is_none()).collect();
    match alive[..] {
        [pod] => Ok(text(pod, "/metadata/name")?.to_owned()),
        _ => bail!("the agent has {} pods, not one", alive.len()),
    }
}

/// A file of the examples with the images of `--image-prefix`.
pub fn with_prefix(file: &str, args: &ClusterArgs) -> Result<Change> {
    let prefix = format!("{}/", args.image_prefix.trim_end_matches('/'));
    if prefix == PREFIX {
        return Ok(Change { filter: String::new(), text: None });
    }
    let content = std::fs::read_to_string(paths::repository().join(file))?;
    let text = content.replace(&format!("image: {PREFIX}"), &format!("image: {prefix}"));
    Ok(Change { filter: format!("sed 's#image: {PREFIX}#image: {prefix}#'"), text: Some(text) })
}

/// The path as it is typed in the repository, where all shown commands run.
fn from_repository(file: &Path) -> &Path {
    file.strip_prefix(paths::repository()).unwrap_or(file)
}

/// The log of the agent once it has answered everything.
fn finished_log(kube: &Kube) -> Result<String> {
    wait_for("the agent's answers", Duration::from_mins(1), || {
        let log = kube.ask(&LOGS)?;
        Ok(log.contains("ready; waiting for SIGTERM").then_some(log))
    })
}

fn exec(kube: &Kube, arguments: &[&str]) -> Result<String> {
    let command = ["-n", AGENTS, "exec", "deployment/agent", "-c", "agent", "--", PROGRAM];
    kube.run_quietly(&[&command[..], arguments].concat())
}
