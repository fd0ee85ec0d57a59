//! The programs of the operator: controller and webhook run, and the controller leads.

use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::Deployment, coordination::v1::Lease};
use kube::ResourceExt as _;

use super::finding::Findings;
use crate::{
    cluster::{Cluster, call},
    operator::{self, Component},
};

/// The lease of a controller that is told none.
const LEASE: &str = "context-manager-controller";

/// Looks at both Deployments and the lease.
pub(super) async fn check(cluster: &Cluster, findings: &mut Findings) {
    let controller = deployment(cluster, Component::Controller, findings).await;
    deployment(cluster, Component::Webhook, findings).await;
    let name = controller.as_ref().and_then(operator::lease);
    lease(cluster, name.as_deref().unwrap_or(LEASE), findings).await;
}

async fn deployment(cluster: &Cluster, component: Component, findings: &mut Findings) -> Option<Deployment> {
    let check = component.as_str();
    let namespace = &cluster.operator_namespace;
    match operator::deployment(cluster, component).await {
        Ok(Some(found)) => {
            judge(&found, check, namespace, findings);
            return Some(found);
        }
        Ok(None) => findings.problem(
            check,
            format!("namespace {namespace:?} has no Deployment of it"),
            "install the chart, or name its namespace by --operator-namespace",
        ),
        Err(error) => findings.unknown(check, &error),
    }
    None
}

fn judge(found: &Deployment, check: &'static str, namespace: &str, findings: &mut Findings) {
    let wanted = found.spec.replicas.unwrap_or(1);
    let ready = found.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
    let name = found.name_any();
    let look = format!(
        "look at `kubectl -n {namespace} describe deployment {name}` and `kubectl -n {namespace} logs deployment/{name}`"
    );
    if ready == 0 {
        findings.problem(check, format!("no replica of {name} is available, of {wanted}"), look);
    } else if ready < wanted {
        findings.warning(check, format!("{ready} of {wanted} replicas of {name} are available"), look);
    } else if wanted == 1 && check == Component::Webhook.as_str() {
        let remedy = "set webhook.replicas: 2, so that pods that ask for a sidecar never wait for a restart";
        findings.warning(check, format!("{name} has one replica alone"), remedy);
    } else {
        findings.fine(check, format!("{ready} of {wanted} replicas of {name} are available"));
    }
}

async fn lease(cluster: &Cluster, name: &str, findings: &mut Findings) {
    let check = "leader";
    let namespace = &cluster.operator_namespace;
    let action = format!("read the Lease {name:?} of namespace {namespace:?}");
    let found = call(&action, "get leases.coordination.k8s.io", cluster.of::<Lease>(namespace).get_opt(name)).await;
    let spec = match found {
        Ok(found) => found.and_then(|found| found.spec).unwrap_or_default(),
        Err(error) => return findings.unknown(check, &error),
    };
    let holder = spec.holder_identity.filter(|holder| !holder.is_empty());
    let lasts = i64::from(spec.lease_duration_seconds.unwrap_or(15));
    let renewed = spec.renew_time.map(|at| Timestamp::now().as_second() - at.0.as_second());
    match (holder, renewed) {
        (Some(holder), Some(ago)) if ago <= 2 * lasts => findings.fine(check, format!("{holder} leads")),
        (Some(holder), Some(ago)) => findings.problem(
            check,
            format!("{holder} has not renewed its lease for {ago} s, so nobody reconciles"),
            format!("look at the controller's pods and log in namespace {namespace}"),
        ),
        (Some(_) | None, _) => findings.problem(
            check,
            "no controller leads, so nobody reconciles",
            format!("look at the controller's pods and log in namespace {namespace}"),
        ),
    }
}
