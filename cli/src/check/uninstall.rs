//! Before an uninstallation: what would wait for the operator afterwards, and what would go with it.

use context_manager_operator::controller::{COPIES_FINALIZER, FINALIZER};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{ResourceExt as _, api::DynamicObject};

use super::{
    definition,
    finding::{Findings, Level},
};
use crate::cluster::Cluster;

const DEFINITION: &str = "definition";
const HELD: &str = "held-resources";
/// How helm is told to leave an object where it is.
const POLICY: &str = "helm.sh/resource-policy";

/// Looks at the definition, which takes its resources along, and at each resource.
pub(super) async fn check(cluster: &Cluster, findings: &mut Findings) {
    let definition = match definition::fetch(cluster).await {
        Ok(Some(definition)) => definition,
        Ok(None) => return findings.fine(DEFINITION, "there is none, so no ContextManager either"),
        Err(error) => return findings.unknown(DEFINITION, &error),
    };
    match cluster.visible().await {
        Ok(visible) => judge(&definition, &visible.found, findings),
        Err(error) => findings.unknown(HELD, &error),
    }
}

fn judge(definition: &CustomResourceDefinition, resources: &[DynamicObject], findings: &mut Findings) {
    let kept = definition.annotations().get(POLICY).is_some_and(|policy| policy == "keep");
    let count = resources.len();
    if kept {
        findings.fine(DEFINITION, format!("helm leaves it where it is, and with it all {count} ContextManagers"));
    } else {
        findings.warning(
            DEFINITION,
            format!("if it is the release's, helm deletes it, and with it all {count} ContextManagers, their keys and managed Qdrants"),
            "set crds.keep: true and upgrade the release first, if they are to stay",
        );
    }
    // What goes with the release waits at once; what stays, when somebody deletes it.
    let (level, when) =
        if kept { (Level::Warning, "deleted later") } else { (Level::Problem, "deleted with the release") };
    let mut held = false;
    for resource in resources {
        let place = format!("{}/{}", resource.namespace().unwrap_or_default(), resource.name_any());
        for (what, remedy) in reasons(resource) {
            held = true;
            let message = format!("{place} {what}; {when}, it waits for an operator, and so does its namespace");
            findings.add(HELD, level, message, Some(remedy));
        }
    }
    if !held {
        findings.fine(HELD, format!("none of {count} ContextManagers waits for the operator when it is deleted"));
    }
}

/// Why the deletion of a resource takes the operator, and what ends that.
fn reasons(resource: &DynamicObject) -> Vec<(String, String)> {
    let (name, namespace) = (resource.name_any(), resource.namespace().unwrap_or_default());
    let here = format!("contextmanager/{name} -n {namespace}");
    let reason = |finalizer: &String| match finalizer.as_str() {
        COPIES_FINALIZER => (
            "has copies in other namespaces, which only the operator removes".to_owned(),
            format!(
                "delete it first, or: kubectl patch {here} --type=merge -p '{{\"spec\":{{\"allowedNamespaces\":null}}}}'"
            ),
        ),
        FINALIZER => (
            "has reclaimPolicy: Delete, and only the operator deletes its contexts".to_owned(),
            format!(
                "delete it first, or: kubectl patch {here} --type=merge -p '{{\"spec\":{{\"reclaimPolicy\":\"Retain\"}}}}'"
            ),
        ),
        other => (format!("has the finalizer {other:?}, which is none of this version"), "look who set it".to_owned()),
    };
    resource.finalizers().iter().map(reason).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    fn resource(finalizers: &[&str]) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "contextmanager.dev/v1alpha1", "kind": "ContextManager",
            "metadata": {"name": "memory", "namespace": "team", "finalizers": finalizers},
        }))
        .unwrap()
    }

    fn found(policy: Option<&str>, finalizers: &[&str]) -> Vec<(&'static str, Level, String)> {
        let mut definition = context_manager_crds::crd();
        if let Some(policy) = policy {
            definition.annotations_mut().insert(POLICY.to_owned(), policy.to_owned());
        }
        let mut findings = Findings::default();
        judge(&definition, &[resource(finalizers)], &mut findings);
        findings.0.into_iter().map(|found| (found.check, found.level, found.remedy.unwrap_or_default())).collect()
    }

    #[test]
    fn what_waits_for_the_operator_is_named_with_what_ends_that() {
        let levels = |found: &[(&'static str, Level, String)]| {
            found.iter().map(|(check, level, _)| (*check, *level)).collect::<Vec<_>>()
        };
        assert_eq!(levels(&found(Some("keep"), &[])), [(DEFINITION, Level::Fine), (HELD, Level::Fine)]);
        assert_eq!(levels(&found(None, &[])), [(DEFINITION, Level::Warning), (HELD, Level::Fine)]);
        let both = found(Some("keep"), &[COPIES_FINALIZER, FINALIZER]);
        assert_eq!(levels(&both), [(DEFINITION, Level::Fine), (HELD, Level::Warning), (HELD, Level::Warning)]);
        assert!(both[1].2.contains(
            r#"kubectl patch contextmanager/memory -n team --type=merge -p '{"spec":{"allowedNamespaces":null}}'"#
        ));
        assert!(both[2].2.contains(r#""reclaimPolicy":"Retain""#), "{both:?}");
        // With the definition it goes at once, and then it waits at once.
        assert_eq!(levels(&found(None, &[FINALIZER]))[1], (HELD, Level::Problem));
    }
}
