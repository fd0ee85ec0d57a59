//! Namespaces: what Pod Security enforces where the operator and agents run, and whether a NetworkPolicy keeps the controller from
//! asking sidecars.

use std::collections::BTreeMap;

use context_manager_protocol::names;
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::Namespace,
        networking::v1::{NetworkPolicy, NetworkPolicyPort},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::{
    ResourceExt as _,
    api::{DynamicObject, ListParams},
};

use super::finding::Findings;
use crate::{
    cluster::{Cluster, Visible, call},
    error::Error,
    operator::{self, Component},
};

const SECURITY: &str = "pod-security";
const NETWORK: &str = "admin-port";
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
const LEVELS: [&str; 3] = ["privileged", "baseline", "restricted"];

/// The operator's namespace may be there already.
pub(super) async fn before(cluster: &Cluster, findings: &mut Findings) {
    let name = &cluster.operator_namespace;
    match call(&format!("read namespace {name:?}"), "get namespaces", cluster.all::<Namespace>().get_opt(name)).await {
        Ok(None) => findings
            .fine(SECURITY, format!("namespace {name:?} does not exist yet; use `helm install --create-namespace`")),
        Ok(Some(found)) => match level(&found) {
            Ok(level) => findings
                .fine(SECURITY, format!("namespace {name:?} enforces {level}; the operator's pods satisfy restricted")),
            Err(what) => findings.problem(SECURITY, what, format!("write one of {} to the label", LEVELS.join(", "))),
        },
        Err(error) => findings.unknown(SECURITY, &error),
    }
}

/// Whether the operator's namespace is seen to be there.
pub(super) async fn is_there(cluster: &Cluster) -> bool {
    cluster.all::<Namespace>().get_opt(&cluster.operator_namespace).await.is_ok_and(|found| found.is_some())
}

/// The operator's namespace, and all with a `ContextManager`.
pub(super) async fn check(cluster: &Cluster, visible: &Result<Visible, Error>, findings: &mut Findings) {
    let all = match call("list namespaces", "list namespaces", cluster.all::<Namespace>().list(&ListParams::default()))
        .await
    {
        Ok(all) => all.items,
        Err(error) => {
            findings.unknown(SECURITY, &error);
            Vec::new()
        }
    };
    let used = used(visible.as_ref().map(|visible| visible.found.as_slice()).unwrap_or_default());
    if !all.is_empty() {
        let webhooks = operator::deployments(cluster, Component::Webhook).await.unwrap_or_default();
        pod_security(cluster, &all, &used, &webhooks, findings);
    }
    network(cluster, &used, findings).await;
}

/// Namespaces with a `ContextManager`, each with the admin ports of its resources.
fn used(resources: &[DynamicObject]) -> BTreeMap<String, Vec<i32>> {
    let mut used: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    for resource in resources {
        let port = resource.data.pointer("/spec/sidecar/adminPort").and_then(serde_json::Value::as_i64);
        let port =
            port.and_then(|port| i32::try_from(port).ok()).unwrap_or_else(|| i32::from(names::DEFAULT_ADMIN_PORT));
        used.entry(resource.namespace().unwrap_or_default()).or_default().push(port);
    }
    used
}

/// What a namespace enforces.
fn level(namespace: &Namespace) -> Result<&str, String> {
    match namespace.labels().get(ENFORCE).map(String::as_str) {
        None => Ok("nothing"),
        Some(level) if LEVELS.contains(&level) => Ok(level),
        Some(other) => Err(format!(
            "namespace {:?} has {ENFORCE}={other}, which is no level, and the strictest counts",
            namespace.name_any()
        )),
    }
}

fn pod_security(
    cluster: &Cluster,
    all: &[Namespace],
    used: &BTreeMap<String, Vec<i32>>,
    webhooks: &[Deployment],
    findings: &mut Findings,
) {
    let mut levels: BTreeMap<&str, usize> = BTreeMap::new();
    for namespace in all.iter().filter(|namespace| used.contains_key(&namespace.name_any())) {
        match level(namespace) {
            Ok(level) => *levels.entry(level).or_default() += 1,
            Err(what) => findings.problem(SECURITY, what, format!("write one of {} to the label", LEVELS.join(", "))),
        }
    }
    let home = all.iter().find(|namespace| namespace.name_any() == cluster.operator_namespace).map(level);
    let on_host = |webhook: &Deployment| {
        webhook.spec.template.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or_default()
    };
    let host = webhooks.iter().any(on_host);
    if let (true, Some(Ok(level @ ("baseline" | "restricted")))) = (host, &home) {
        let message =
            format!("webhook.hostNetwork is set, and namespace {:?} enforces {level}", cluster.operator_namespace);
        return findings.problem(
            SECURITY,
            message,
            "let the namespace enforce privileged, or set webhook.hostNetwork: false",
        );
    }
    let counted: Vec<_> = levels.iter().map(|(level, count)| format!("{count} enforce {level}")).collect();
    let counted = if counted.is_empty() { "none has a ContextManager yet".to_owned() } else { counted.join(", ") };
    findings.fine(
        SECURITY,
        format!("of the namespaces with a ContextManager {counted}; operator and sidecars satisfy restricted"),
    );
}

async fn network(cluster: &Cluster, used: &BTreeMap<String, Vec<i32>>, findings: &mut Findings) {
    let mut closed = Vec::new();
    for (namespace, ports) in used {
        match policies(cluster, namespace).await {
            Ok(policies) if shuts_out(&policies, ports) => closed.push(namespace.as_str()),
            Ok(_) => {}
            Err(error) => return findings.unknown(NETWORK, &error),
        }
    }
    if closed.is_empty() {
        return findings.fine(NETWORK, "no NetworkPolicy keeps the controller from the admin port of sidecars");
    }
    let message = format!(
        "NetworkPolicies of {} let nothing in to the admin port of sidecars, so a rotation of keys waits five minutes for each",
        closed.join(", ")
    );
    findings.warning(NETWORK, message, "permit it to the operator's namespace, as docs/rotation.md shows");
}

async fn policies(cluster: &Cluster, namespace: &str) -> Result<Vec<NetworkPolicy>, Error> {
    let api = cluster.of::<NetworkPolicy>(namespace);
    let action = format!("list the NetworkPolicies of namespace {namespace:?}");
    Ok(call(&action, "list networkpolicies.networking.k8s.io", api.list(&ListParams::default())).await?.items)
}

/// Whether all pods are closed to what comes in, and no policy opens one of the ports to anybody.
fn shuts_out(policies: &[NetworkPolicy], ports: &[i32]) -> bool {
    let ingress = || {
        policies
            .iter()
            .filter_map(|policy| policy.spec.as_ref())
            .filter(|spec| spec.policy_types.as_ref().is_none_or(|types| types.iter().any(|kind| kind == "Ingress")))
    };
    let selects_all = |selector: &k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector| {
        selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
            && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
    };
    let closed = ingress().any(|spec| spec.pod_selector.as_ref().is_none_or(&selects_all));
    let opens = |listed: &[NetworkPolicyPort]| {
        listed.is_empty() || listed.iter().any(|port| ports.iter().any(|wanted| covers(port, *wanted)))
    };
    let opened = ingress()
        .flat_map(|spec| spec.ingress.iter().flatten())
        .any(|rule| opens(rule.ports.as_deref().unwrap_or_default()));
    closed && !opened
}

fn covers(port: &NetworkPolicyPort, wanted: i32) -> bool {
    match (&port.port, port.end_port) {
        (None, _) => true,
        (Some(IntOrString::Int(first)), Some(last)) => (*first..=last).contains(&wanted),
        (Some(IntOrString::Int(port)), None) => *port == wanted,
        (Some(IntOrString::String(name)), _) => name == names::ADMIN_PORT_NAME,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn policy(spec: &Value) -> NetworkPolicy {
        serde_json::from_value(json!({ "spec": spec })).unwrap()
    }

    #[test]
    fn a_namespace_that_is_closed_needs_a_policy_that_opens_the_port() {
        let deny = policy(&json!({"podSelector": {}, "policyTypes": ["Ingress"]}));
        let open = |port: &Value| policy(&json!({"podSelector": {}, "ingress": [{"ports": [port]}]}));
        assert!(!shuts_out(&[], &[7420]));
        assert!(shuts_out(std::slice::from_ref(&deny), &[7420]));
        assert!(shuts_out(&[deny.clone(), open(&json!({"port": 80}))], &[7420]));
        for port in
            [json!({"port": 7420}), json!({"port": "ctx-admin"}), json!({"port": 7000, "endPort": 8000}), json!({})]
        {
            assert!(!shuts_out(&[deny.clone(), open(&port)], &[7420]), "{port}");
        }
        let some = policy(&json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"]}));
        assert!(!shuts_out(&[some], &[7420]), "only some pods are closed");
        let egress = policy(&json!({"podSelector": {}, "policyTypes": ["Egress"]}));
        assert!(!shuts_out(&[egress], &[7420]));
    }

    #[test]
    fn a_level_that_does_not_exist_is_named() {
        let namespace = |level: &str| -> Namespace {
            serde_json::from_value(json!({"metadata": {"name": "team", "labels": {ENFORCE: level}}})).unwrap()
        };
        assert_eq!(level(&namespace("restricted")), Ok("restricted"));
        assert!(level(&namespace("strict")).unwrap_err().contains("strict"));
        assert_eq!(level(&Namespace::default()), Ok("nothing"));
    }
}
