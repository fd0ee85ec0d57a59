//! Pods as people write them, and objects as the chart renders them.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// The word that asks for a sidecar.
pub const INJECT: &str = "contextmanager.dev/inject";

/// A pod that satisfies Pod Security `restricted`, and that no node takes, so that it stays as it was admitted.
#[must_use]
pub fn pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "nodeSelector": {"suite": "nowhere"},
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "agent",
                "image": "localhost/agent:1",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    })
}

/// The pod with an annotation more.
#[must_use]
pub fn annotated(mut pod: Value, key: &str, value: &str) -> Value {
    pod["metadata"]["annotations"][key] = json!(value);
    pod
}

/// The pod with a label more.
#[must_use]
pub fn labelled(mut pod: Value, key: &str, value: &str) -> Value {
    pod["metadata"]["labels"][key] = json!(value);
    pod
}

/// A pod that asks for a sidecar.
#[must_use]
pub fn asking(name: &str) -> Value {
    annotated(pod(name), INJECT, "true")
}

/// An object as helm renders it from the chart with its defaults.
///
/// # Errors
/// When the chart renders none of that kind and name.
pub fn rendered(kind: &str, name: &str) -> Result<Value> {
    rendered_in("deploy/kustomize/base/context-manager.yaml", kind, name, None)
}

/// An object of a file that holds what helm renders, in a namespace if one is given.
///
/// # Errors
/// When the file holds none of that kind and name.
pub fn rendered_in(file: &str, kind: &str, name: &str, namespace: Option<&str>) -> Result<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    let chart = fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
    chart
        .split("\n---\n")
        .filter_map(|document| serde_saphyr::from_str::<Value>(document).ok())
        .find(|object| {
            let is_there = namespace.is_none_or(|namespace| object["metadata"]["namespace"] == namespace);
            object["kind"] == kind && object["metadata"]["name"] == name && is_there
        })
        .with_context(|| format!("the chart renders no {kind} {name}"))
}
