//! The programs of the operator: controller and webhook run, and the controller leads.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::Deployment, coordination::v1::Lease};
use kube::ResourceExt as _;

use super::finding::Findings;
use crate::{
    cluster::{Cluster, call},
    error::Error,
    operator::{self, Component},
};

/// The lease of a controller that is told none.
const LEASE: &str = "context-manager-controller";

/// Looks at the Deployments of every release, and at the leases.
pub(super) async fn check(cluster: &Cluster, findings: &mut Findings) {
    let controllers = operator::deployments(cluster, Component::Controller).await;
    let webhooks = operator::deployments(cluster, Component::Webhook).await;
    let releases = releases(controllers.iter().chain(&webhooks).flatten());
    programs(Component::Controller, &controllers, &releases, &cluster.operator_namespace, findings);
    programs(Component::Webhook, &webhooks, &releases, &cluster.operator_namespace, findings);
    let mut leases: Vec<_> = controllers.iter().flatten().map(operator::lease).collect();
    if leases.is_empty() {
        leases.push(None);
    }
    for name in leases {
        lease(cluster, name.as_deref().unwrap_or(LEASE), findings).await;
    }
}

/// The releases of these Deployments: each of them should have both programs.
fn releases<'d>(found: impl Iterator<Item = &'d Deployment>) -> BTreeSet<&'d str> {
    found.map(operator::release).collect()
}

fn programs(
    component: Component,
    found: &Result<Vec<Deployment>, Error>,
    releases: &BTreeSet<&str>,
    namespace: &str,
    findings: &mut Findings,
) {
    let check = component.as_str();
    let found = match found {
        Ok(found) => found,
        Err(Error::Missing { what, remedy }) => {
            return findings.problem(check, format!("{what} does not exist"), remedy);
        }
        Err(error) => return findings.unknown(check, error),
    };
    for deployment in found {
        judge(deployment, check, namespace, findings);
    }
    let remedy = "install the chart, or name its namespace by --operator-namespace";
    if releases.is_empty() {
        findings.problem(check, format!("namespace {namespace:?} has no Deployment of it"), remedy);
    }
    let lacks = |release: &&&str| !found.iter().any(|deployment| operator::release(deployment) == **release);
    for release in releases.iter().filter(lacks) {
        let message = format!("namespace {namespace:?} has no Deployment of it of release {release:?}");
        findings.problem(check, message, remedy);
    }
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
            format!("no controller leads by the Lease {name:?}, so nobody reconciles"),
            format!("look at the controller's pods and log in namespace {namespace}"),
        ),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::{super::finding::Level, *};

    fn deployment(release: &str, available: i32) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": format!("{release}-webhook"), "labels": {"app.kubernetes.io/instance": release}},
            "spec": {"replicas": 2, "selector": {}, "template": {}},
            "status": {"availableReplicas": available},
        }))
        .unwrap()
    }

    fn found(found: Vec<Deployment>, releases: &[&str]) -> Vec<(Level, String)> {
        let mut findings = Findings::default();
        programs(Component::Webhook, &Ok(found), &releases.iter().copied().collect(), "system", &mut findings);
        findings.0.into_iter().map(|finding| (finding.level, finding.message)).collect()
    }

    #[test]
    fn the_programs_of_every_release_are_looked_at() {
        let both = vec![deployment("green", 2), deployment("blue", 0)];
        assert_eq!(releases(both.iter()), BTreeSet::from(["blue", "green"]));
        let said = found(both, &["green", "blue"]);
        assert_eq!(said.iter().map(|(level, _)| *level).collect::<Vec<_>>(), [Level::Fine, Level::Problem]);
        assert!(said[1].1.contains("blue-webhook"), "{said:?}");
        // One that has a controller alone lacks its webhook.
        let said = found(vec![deployment("green", 2)], &["green", "blue"]);
        assert!(said[1].0 == Level::Problem && said[1].1.contains("of release \"blue\""), "{said:?}");
        let said = found(Vec::new(), &[]);
        assert!(said.len() == 1 && said[0].0 == Level::Problem, "{said:?}");
    }
}
