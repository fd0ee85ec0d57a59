//! Pods as people write them.

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
