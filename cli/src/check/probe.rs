//! The whole way of an injection, from the API server through the webhook and Pod Security to a finished pod: by a dry run.

use context_manager_protocol::names;
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt as _, api::PostParams};
use serde_json::json;

use super::finding::Findings;
use crate::{
    cluster::{Cluster, Visible},
    error::{Error, lacks_right},
    status::summary,
};

const CHECK: &str = "injection";
/// What it takes.
const RIGHT: &str = "create pods";

/// Tries a pod in a namespace with a `ContextManager`: that of the caller, or else the first.
pub(super) async fn check(cluster: &Cluster, visible: &Result<Visible, Error>, findings: &mut Findings) {
    let found = match visible {
        Ok(visible) => &visible.found,
        Err(error) => return findings.unknown(CHECK, error),
    };
    let here = found.iter().find(|resource| resource.metadata.namespace.as_ref() == Some(&cluster.namespace));
    let Some(resource) = here.or_else(|| found.first()).map(summary) else {
        return findings.unknown(CHECK, &"there is no ContextManager to try it with; make one, `spec: {}` is enough");
    };
    let namespace = &resource.namespace;
    let pod = match serde_json::from_value::<Pod>(pod(&resource.name)) {
        Ok(pod) => pod,
        Err(error) => return findings.unknown(CHECK, &error),
    };
    let params = PostParams { dry_run: true, ..PostParams::default() };
    match cluster.of::<Pod>(namespace).create(&params, &pod).await {
        Ok(pod) if pod.annotations().contains_key(names::INJECTED_HASH) => {
            findings.fine(CHECK, format!("a pod tried in namespace {namespace:?} got its sidecar"));
        }
        Ok(_) => findings.problem(
            CHECK,
            format!("a pod tried in namespace {namespace:?} got no sidecar: the API server does not ask the webhook about it"),
            "look whether the namespace is left out by webhook.excludedNamespaces, and at `kubectl context explain`",
        ),
        // The webhook's own refusals, Pod Security and quotas come as 403 too; those say more than that a right is missing.
        Err(kube::Error::Api(status)) if status.code == 403 && !lacks_right(RIGHT, &status.message) => {
            refused(namespace, &status.message, findings);
        }
        Err(error) => {
            let error = Error::from_api(&format!("try a pod in namespace {namespace:?}"), RIGHT, error);
            if let Error::Api { source, .. } = &error {
                refused(namespace, &source.to_string(), findings);
            } else {
                findings.unknown(CHECK, &error);
            }
        }
    }
}

fn refused(namespace: &str, said: &str, findings: &mut Findings) {
    let remedy = if said.contains("x509") {
        "the API server does not trust the webhook: see webhook-trust"
    } else if said.contains("failed calling webhook") {
        "the API server does not reach the webhook: see the table in docs/injection.md"
    } else {
        "the message names what refuses it"
    };
    findings.problem(CHECK, format!("a pod tried in namespace {namespace:?} is refused: {said}"), remedy);
}

/// A pod that satisfies `restricted`, so that a refusal is about the sidecar.
fn pod(resource: &str) -> serde_json::Value {
    json!({
        "metadata": {
            "generateName": "kubectl-context-check-",
            "annotations": {names::INJECT: "true", names::NAME: resource},
        },
        "spec": {
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "agent",
                "image": "kubectl-context.invalid/check:1",
                "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}, "limits": {"cpu": "1m", "memory": "1Mi"}},
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    })
}
