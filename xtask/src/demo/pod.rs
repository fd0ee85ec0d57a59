//! The agent's pod beside what its author wrote: what the webhook added, and the event that says so.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::kube::{Kube, items, text, wait_for};
use super::{AGENTS, screen};

/// The injected container.
pub const SIDECAR: &str = "context-manager";

/// Shows what was added to the pod, and checks it.
pub fn show(kube: &Kube, name: &str) -> Result<()> {
    screen::command("kubectl", ["-n", AGENTS, "get", "pod", name, "-o", "json"]);
    let pod = kube.json(&["-n", AGENTS, "pod", name])?;
    let written = kube.json(&["-n", AGENTS, "deployment", "agent"])?;
    screen::note("written by the agent's author, in examples/agent.yaml:");
    screen::output(&described(written.pointer("/spec/template/spec").context("a Deployment has a template")?));
    screen::note("what runs:");
    screen::output(&described(pod.pointer("/spec").context("a pod has a spec")?));
    check(&written, &pod)?;
    show_event(kube)
}

fn check(written: &Value, pod: &Value) -> Result<()> {
    if !items(written, "/spec/template/spec/initContainers").is_empty() {
        bail!("examples/agent.yaml has a sidecar of its own, so nothing is shown by this");
    }
    let first = items(pod, "/spec/initContainers").first().context("no sidecar was injected")?;
    if text(first, "/name")? != SIDECAR || text(first, "/restartPolicy").ok() != Some("Always") {
        bail!("the first init container is not the sidecar: {first}");
    }
    let mounts_token = |mount: &Value| text(mount, "/name").is_ok_and(|name| name.starts_with("kube-api-access"));
    if items(first, "/volumeMounts").iter().any(mounts_token) {
        bail!("the sidecar can read a token of the Kubernetes API");
    }
    screen::checked("the sidecar is a native one: it starts before the agent, and ends after it; it has no API token");
    let agent = items(pod, "/spec/containers").first().context("the pod has no container")?;
    let variables: Vec<_> = items(agent, "/env").iter().filter_map(|variable| text(variable, "/name").ok()).collect();
    if variables != ["CONTEXT_MANAGER_URL", "CONTEXT_MANAGER_KEYS"] {
        bail!("the agent's container has the variables {variables:?}");
    }
    let status = items(pod, "/status/initContainerStatuses").first().context("the sidecar has no status")?;
    if status.pointer("/ready") != Some(&Value::Bool(true)) {
        bail!("the sidecar is not ready: {status}");
    }
    screen::checked("the agent's container knows a URL on localhost and the path of a key file, and nothing else");
    Ok(())
}

fn show_event(kube: &Kube) -> Result<()> {
    let command = ["-n", AGENTS, "events", "--for", "deployment/agent"];
    // Events are written after the admission, never in its way.
    let events = wait_for("the event of the injection", Duration::from_secs(30), || {
        let events = kube.ask(&command)?;
        let is_told = |line: &str| line.split_whitespace().any(|word| word == "Injected");
        Ok(events.lines().any(is_told).then_some(events))
    })?;
    screen::command("kubectl", command);
    screen::output(&events);
    screen::checked("the Deployment has an event that tells of the injection");
    Ok(())
}

/// Containers with their variables and mounts, and volumes, a line each.
fn described(spec: &Value) -> String {
    let mut lines = Vec::new();
    for (kind, list) in [("init container", "/initContainers"), ("container", "/containers")] {
        for container in items(spec, list) {
            let name = text(container, "/name").unwrap_or_default();
            let image = text(container, "/image").unwrap_or_default();
            let restart = text(container, "/restartPolicy").map(|policy| format!(", restartPolicy: {policy}"));
            lines.push(format!("{kind} {name}: {image}{}", restart.unwrap_or_default()));
            for variable in items(container, "/env") {
                let value = text(variable, "/value").unwrap_or("(a field of the pod)");
                lines.push(format!("  {}={value}", text(variable, "/name").unwrap_or_default()));
            }
            for mount in items(container, "/volumeMounts") {
                let at = |pointer| text(mount, pointer).unwrap_or_default();
                lines.push(format!("  {} from volume {}", at("/mountPath"), at("/name")));
            }
        }
    }
    let volumes: Vec<_> = items(spec, "/volumes").iter().filter_map(|volume| text(volume, "/name").ok()).collect();
    lines.push(format!("volumes: {}", volumes.join(", ")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(env: &[&str], mount: &str) -> Value {
        let env: Vec<_> = env.iter().map(|name| json!({"name": name, "value": "x"})).collect();
        json!({
            "spec": {
                "initContainers": [{"name": SIDECAR, "restartPolicy": "Always", "volumeMounts": [{"name": mount}]}],
                "containers": [{"name": "agent", "env": env}],
            },
            "status": {"initContainerStatuses": [{"ready": true}]},
        })
    }

    #[test]
    fn a_token_or_a_credential_too_many_is_noticed() {
        let written = json!({"spec": {"template": {"spec": {}}}});
        let both = ["CONTEXT_MANAGER_URL", "CONTEXT_MANAGER_KEYS"];
        assert!(check(&written, &pod(&both, "context-manager-config")).is_ok());
        assert!(check(&written, &pod(&both, "kube-api-access-x7abc")).is_err());
        assert!(check(&written, &pod(&[both[0], both[1], "API_KEY"], "context-manager-config")).is_err());
        assert!(check(&written, &json!({"spec": {"containers": [{"name": "agent"}]}})).is_err());
    }

    #[test]
    fn description_has_a_line_for_what_a_reader_looks_for() {
        let text = described(&pod(&["CONTEXT_MANAGER_URL"], "data")["spec"]);
        assert!(text.contains("init container context-manager: , restartPolicy: Always\n"), "{text}");
        assert!(text.contains("  CONTEXT_MANAGER_URL=x\n"), "{text}");
    }
}
