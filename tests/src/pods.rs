//! Pods on a real kubelet: the example agent with an injected sidecar.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use context_manager_protocol::{message::Stats, names};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::{
    api::core::v1::{ConfigMap, ContainerStatus, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Client,
    api::{DeleteParams, WatchEvent, WatchParams},
};
use serde_json::{Value, json};

use crate::{
    cluster::{self, Namespace, eventually},
    objects::{INJECT, annotated},
    webhook::image,
};

/// How long a pod may take to start on a machine that is busy with other suites.
pub const START: Duration = Duration::from_mins(1);
/// Name of the example agent's program and image.
const AGENT: &str = "context-manager-example-agent";
/// What the agents of these suites remember: three paragraphs.
const DOCUMENT: &str =
    "The lighthouse keeper lives on an island.\n\nHis boat is painted green.\n\nOn Sundays he bakes bread.\n";

/// A pod of the example agent that asks for a sidecar; `arguments` are the agent's own.
#[must_use]
pub fn agent(name: &str, arguments: &[&str]) -> Value {
    json!({
        "metadata": {"name": name, "annotations": {INJECT: "true"}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 20,
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "agent",
                "image": image(AGENT),
                "args": arguments,
                "volumeMounts": [{"name": "document", "mountPath": "/document", "readOnly": true}],
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
            "volumes": [{"name": "document", "configMap": {"name": "document"}}],
        },
    })
}

/// The arguments of an agent that remembers the document and stays.
pub const STAYING: &[&str] =
    &["run", "--document", "/document/lighthouse.md", "--question", "What colour is the boat?", "--stay"];
/// The arguments of an agent that does so and ends.
pub const ENDING: &[&str] = &["run", "--document", "/document/lighthouse.md", "--question", "What colour is the boat?"];

/// Makes the document that agents read.
///
/// # Errors
/// When the API server refuses it.
pub async fn make_document(namespace: &Namespace) -> Result<()> {
    let document = json!({"metadata": {"name": "document"}, "data": {"lighthouse.md": DOCUMENT}});
    namespace.make::<ConfigMap>(&document).await.map(drop)
}

/// The pod as one that goes on for ever, with a classic sidecar.
#[must_use]
pub fn classic(pod: Value) -> Value {
    let mut pod = annotated(pod, names::MODE, "Classic");
    pod["spec"]["restartPolicy"] = json!("Always");
    pod
}

/// Makes a pod that stays, and waits until it is ready.
///
/// # Errors
/// When it does not become ready.
pub async fn start(namespace: &Namespace, name: &str) -> Result<Pod> {
    namespace.make::<Pod>(&agent(name, STAYING)).await?;
    ready(namespace, name).await
}

/// Waits until all containers of a pod are ready, and the agent has remembered its document.
///
/// # Errors
/// When that does not come.
pub async fn ready(namespace: &Namespace, name: &str) -> Result<Pod> {
    eventually(&format!("the pod {name}"), START, || async {
        let pod = namespace.api::<Pod>().get(name).await?;
        let (sidecar, agent) = (container(&pod, names::CONTAINER), container(&pod, "agent"));
        let all =
            sidecar.as_ref().is_some_and(|status| status.ready) && agent.as_ref().is_some_and(|status| status.ready);
        ensure!(all, "sidecar {sidecar:?}, agent {agent:?}, {}", obstacles(&pod));
        let log = logs(namespace, name, "agent").await?;
        ensure!(log.contains("green"), "the agent says {log:?}");
        Ok::<_, anyhow::Error>(pod)
    })
    .await
}

/// The image of a pod's sidecar, if it has one.
#[must_use]
pub fn sidecar_image(pod: &Pod) -> Option<String> {
    context_manager_operator::pods::sidecar(pod)?.image.clone()
}

/// What the scheduler and the kubelet say of a pod that does not come up: a node under pressure is named nowhere else.
fn obstacles(pod: &Pod) -> String {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let unmet = conditions.iter().filter(|condition| condition.status != "True");
    unmet
        .map(|unmet| format!("{} {:?}", unmet.type_, unmet.message.as_deref().unwrap_or_default()))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The status of a container, of whichever list.
#[must_use]
pub fn container(pod: &Pod, name: &str) -> Option<ContainerStatus> {
    let status = pod.status.as_ref()?;
    let lists = [&status.init_container_statuses, &status.container_statuses];
    lists.into_iter().flatten().flatten().find(|status| status.name == name).cloned()
}

/// Deletes a pod and waits until it is gone; what it was at last.
///
/// # Errors
/// When it stays.
pub async fn deleted(namespace: &Namespace, name: &str) -> Result<Pod> {
    let api = namespace.api::<Pod>();
    let changes = api.watch(&WatchParams::default().fields(&format!("metadata.name={name}")), "0").await?;
    api.delete(name, &DeleteParams::default()).await?;
    let seen = changes.try_take_while(|event| {
        let go_on = !matches!(event, WatchEvent::Deleted(_));
        async move { Ok(go_on) }
    });
    let events: Vec<_> = tokio::time::timeout(START, seen.boxed().try_collect()).await.context("the pod stays")??;
    let last = events.into_iter().rev().find_map(|event| match event {
        WatchEvent::Modified(pod) | WatchEvent::Added(pod) => Some(pod),
        WatchEvent::Deleted(_) | WatchEvent::Bookmark(_) | WatchEvent::Error(_) => None,
    });
    last.context("the pod changed before it went")
}

/// When a container was started last.
#[must_use]
pub fn started(status: &ContainerStatus) -> Option<Time> {
    let state = status.state.as_ref()?;
    let running = state.running.as_ref().and_then(|running| running.started_at.clone());
    running.or_else(|| state.terminated.as_ref()?.started_at.clone())
}

/// When a container ended, and how.
#[must_use]
pub fn finished(status: &ContainerStatus) -> Option<(Time, i32)> {
    let terminated = status.state.as_ref()?.terminated.as_ref()?;
    Some((terminated.finished_at.clone()?, terminated.exit_code))
}

/// How often a pod's sidecar was restarted.
///
/// # Errors
/// When the pod has none.
pub async fn restarts(namespace: &Namespace, name: &str) -> Result<i32> {
    let pod = namespace.api::<Pod>().get(name).await?;
    Ok(container(&pod, names::CONTAINER).context("the pod has no sidecar")?.restart_count)
}

/// What a container wrote.
///
/// # Errors
/// When the kubelet does not answer.
pub async fn logs(namespace: &Namespace, name: &str, container: &str) -> Result<String> {
    cluster::kubectl(&["logs", "-n", &namespace.name, name, "-c", container]).await
}

/// What is remembered, as the agent sees it from inside its container.
///
/// # Errors
/// When the sidecar refuses it.
pub async fn stats(namespace: &Namespace, name: &str) -> Result<Stats> {
    let program = format!("/{AGENT}");
    let said = cluster::kubectl(&["exec", "-n", &namespace.name, name, "-c", "agent", "--", &program, "stats"]).await?;
    serde_json::from_str(&said).with_context(|| said.clone())
}

/// A page of the sidecar's admin listener, by way of the API server.
///
/// # Errors
/// When it does not answer, or answers that something is wrong.
pub async fn admin_page(client: &Client, namespace: &Namespace, name: &str, path: &str) -> Result<String> {
    let (namespace, port) = (&namespace.name, names::DEFAULT_ADMIN_PORT);
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}:{port}/proxy{path}");
    Ok(client.request_text(http::Request::get(path).body(Vec::new())?).await?)
}

/// Makes the kubelet look at a pod's volumes now. It does so when a pod changes, and otherwise about once a minute.
///
/// # Errors
/// When the API server refuses it.
pub async fn nudge(namespace: &Namespace, name: &str) -> Result<()> {
    let now = crate::client::now();
    let mark = format!("suite/nudge={now}-{}", rand::random::<u16>());
    cluster::kubectl(&["annotate", "--overwrite", "pod", "-n", &namespace.name, name, &mark]).await.map(drop)
}

/// Process id of the pod's sidecar on this machine, which is the node.
///
/// # Errors
/// When the node is another machine.
pub fn sidecar_process(pod: &Pod) -> Result<i32> {
    let uid = pod.metadata.uid.as_deref().context("a pod has a uid")?;
    let marks = [uid.to_owned(), uid.replace('-', "_")];
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let read = |name: &str| fs::read_to_string(path.join(name)).unwrap_or_default();
        let in_pod = || marks.iter().any(|mark| read("cgroup").contains(mark));
        if read("cmdline").starts_with("/context-manager-sidecar") && in_pod() {
            let name = path.file_name().and_then(|name| name.to_str()).context("a process has a number")?;
            return Ok(name.parse()?);
        }
    }
    bail!("the sidecar of pod {uid} does not run on this machine; this suite needs the dev cluster")
}

/// The file system as a process sees it.
#[must_use]
pub fn root_of(process: i32) -> PathBuf {
    Path::new("/proc").join(process.to_string()).join("root")
}
