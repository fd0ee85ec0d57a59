//! The definition of `ContextManager`.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::json;

use super::finding::Findings;
use crate::{
    cluster::{Cluster, call},
    error::Error,
};

const NAME: &str = "contextmanagers.contextmanager.dev";
const CHECK: &str = "definition";

/// The definition that is installed, if one is.
pub(crate) async fn fetch(cluster: &Cluster) -> Result<Option<CustomResourceDefinition>, Error> {
    let api = cluster.all::<CustomResourceDefinition>();
    let right = "get customresourcedefinitions.apiextensions.k8s.io";
    call("read the definition of ContextManager", right, api.get_opt(NAME)).await
}

/// It is there, served, and that of this version.
pub(super) async fn check(cluster: &Cluster, findings: &mut Findings) {
    let found = match fetch(cluster).await {
        Ok(Some(found)) => found,
        Ok(None) => {
            return findings.problem(
                CHECK,
                format!("{NAME} does not exist"),
                "install the chart with crds.install: true",
            );
        }
        Err(error) => return findings.unknown(CHECK, &error),
    };
    let unmet = unmet(&found);
    if !unmet.is_empty() {
        let message = format!("{NAME} is not in force: {}", unmet.join("; "));
        return findings.problem(CHECK, message, format!("look at `kubectl describe crd {NAME}`"));
    }
    let version = format!("v{}", env!("CARGO_PKG_VERSION"));
    if same_schema(&found, &context_manager_crds::crd()) {
        findings.fine(CHECK, format!("{NAME} is in force, and that of {version}"));
    } else {
        let remedy = "upgrade the chart or this program, so that both are of one version; helm upgrades the definition with crds.install: true";
        findings.warning(CHECK, format!("{NAME} is in force, and is not that of this program ({version})"), remedy);
    }
}

/// An older one may be left over.
pub(super) async fn before(cluster: &Cluster, findings: &mut Findings) {
    match fetch(cluster).await {
        Ok(None) => findings.fine(CHECK, "there is none yet; the chart brings it"),
        Ok(Some(found)) if same_schema(&found, &context_manager_crds::crd()) => {
            findings.fine(CHECK, "there is one of this version already");
        }
        Ok(Some(_)) => findings.warning(
            CHECK,
            "there is one of another version already",
            "if it is not of an installation in use, the chart's will replace it; one that helm did not make needs `helm install --take-ownership` (helm 3.17 or later)",
        ),
        Err(error) => findings.unknown(CHECK, &error),
    }
}

fn unmet(found: &CustomResourceDefinition) -> Vec<String> {
    let conditions = found.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let bad = |name: &str| !conditions.iter().any(|condition| condition.type_ == name && condition.status == "True");
    let message = |name: &str| {
        let said =
            conditions.iter().find(|condition| condition.type_ == name).and_then(|condition| condition.message.clone());
        format!("{name} is not true ({})", said.unwrap_or_else(|| "nothing is said".to_owned()))
    };
    ["NamesAccepted", "Established"].into_iter().filter(|name| bad(name)).map(message).collect()
}

fn same_schema(found: &CustomResourceDefinition, wanted: &CustomResourceDefinition) -> bool {
    let schemas = |of: &CustomResourceDefinition| {
        of.spec.versions.iter().map(|version| json!([version.name, version.served, version.schema])).collect::<Vec<_>>()
    };
    schemas(found) == schemas(wanted)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_definition_is_compared_by_its_schema() {
        let ours = context_manager_crds::crd();
        let mut other = ours.clone();
        other.metadata.resource_version = Some("7".to_owned());
        assert!(same_schema(&other, &ours));
        other.spec.versions[0].schema = None;
        assert!(!same_schema(&other, &ours));
    }

    #[test]
    fn a_condition_that_is_not_true_is_named() {
        let mut found = context_manager_crds::crd();
        assert_eq!(unmet(&found).len(), 2);
        found.status = Some(
            serde_json::from_value(json!({"conditions": [
                {"type": "NamesAccepted", "status": "True"}, {"type": "Established", "status": "False", "message": "wait"}]}))
            .unwrap(),
        );
        assert_eq!(unmet(&found), ["Established is not true (wait)"]);
    }
}
