//! Before an uninstallation: what would wait for the operator afterwards, and what would go with it.

use context_manager_operator::controller::{COPIES_FINALIZER, FINALIZER};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{ResourceExt as _, api::DynamicObject};
use serde_json::Value;

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
        Ok(visible) => {
            let seen = match &visible.only {
                Some(only) => Seen::MayOnly(only),
                None if cluster.namespace_given => Seen::Asked(&cluster.namespace),
                None => Seen::All,
            };
            judge(&definition, &visible.found, seen, findings);
        }
        Err(error) => findings.unknown(HELD, &error),
    }
}

/// Of which namespaces the resources were looked at. An uninstallation is about those of all.
#[derive(Clone, Copy)]
enum Seen<'n> {
    All,
    /// The one that was asked for.
    Asked(&'n str),
    /// The only one that the caller may look at.
    MayOnly(&'n str),
}

fn judge(definition: &CustomResourceDefinition, resources: &[DynamicObject], seen: Seen<'_>, findings: &mut Findings) {
    let kept = definition.annotations().get(POLICY).is_some_and(|policy| policy == "keep");
    let count = resources.len();
    let all = match seen {
        Seen::All => format!("all {count} ContextManagers"),
        Seen::Asked(only) | Seen::MayOnly(only) => {
            format!("all ContextManagers, {count} of namespace {only:?} and those of others")
        }
    };
    if kept {
        findings.fine(DEFINITION, format!("helm leaves it where it is, and with it {all}"));
    } else {
        findings.warning(
            DEFINITION,
            format!("if it is the release's, helm deletes it, and with it {all}, their keys and managed Qdrants"),
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
    let (only, remedy) = match seen {
        Seen::All if held => return,
        Seen::All => {
            let message = format!("none of {count} ContextManagers waits for the operator when it is deleted");
            return findings.fine(HELD, message);
        }
        Seen::Asked(only) => (only, "leave --namespace out to look at all"),
        Seen::MayOnly(only) => (only, "let somebody look who may list the ContextManagers of all namespaces"),
    };
    let none = if held { "" } else { ", and none of them waits" };
    let message = format!(
        "only the {count} ContextManagers of namespace {only:?} were looked at{none}; those of other namespaces may wait for the operator"
    );
    findings.warning(HELD, message, remedy);
}

/// Why the deletion of a resource takes the operator, and what ends that. Of one that is suspended the operator takes no finalizer away, and
/// deletes no contexts.
fn reasons(resource: &DynamicObject) -> Vec<(String, String)> {
    let (name, namespace) = (resource.name_any(), resource.namespace().unwrap_or_default());
    let suspended = resource.data.pointer("/spec/suspend").and_then(Value::as_bool).unwrap_or_default();
    let is_so = if suspended { ", and is suspended" } else { "" };
    let patch = |changes: &[&str]| {
        let resumed = suspended.then_some("\"suspend\":false");
        let changes: Vec<_> = changes.iter().copied().chain(resumed).collect();
        let changes = changes.join(",");
        format!("kubectl patch contextmanager/{name} -n {namespace} --type=merge -p '{{\"spec\":{{{changes}}}}}'")
    };
    let reason = |finalizer: &String| match finalizer.as_str() {
        COPIES_FINALIZER => (
            format!("has copies in other namespaces, which only the operator removes{is_so}"),
            format!("delete it first, or: {}", patch(&["\"allowedNamespaces\":null"])),
        ),
        FINALIZER => {
            // Its deletion would wait for the end of the suspension.
            let delete =
                if suspended { format!("{}, and delete it first", patch(&[])) } else { "delete it first".to_owned() };
            (
                format!("has reclaimPolicy: Delete, and only the operator deletes its contexts{is_so}"),
                format!("{delete}, or: {}", patch(&["\"reclaimPolicy\":\"Retain\""])),
            )
        }
        other => (format!("has the finalizer {other:?}, which is none of this version"), "look who set it".to_owned()),
    };
    resource.finalizers().iter().map(reason).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    fn resource(finalizers: &[&str], spec: &Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "contextmanager.dev/v1alpha1", "kind": "ContextManager",
            "metadata": {"name": "memory", "namespace": "team", "finalizers": finalizers},
            "spec": spec,
        }))
        .unwrap()
    }

    fn judged(policy: Option<&str>, resources: &[DynamicObject], seen: Seen<'_>) -> Findings {
        let mut definition = context_manager_crds::crd();
        if let Some(policy) = policy {
            definition.annotations_mut().insert(POLICY.to_owned(), policy.to_owned());
        }
        let mut findings = Findings::default();
        judge(&definition, resources, seen, &mut findings);
        findings
    }

    fn found(policy: Option<&str>, finalizers: &[&str]) -> Vec<(&'static str, Level, String)> {
        let findings = judged(policy, &[resource(finalizers, &json!({}))], Seen::All);
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

    #[test]
    fn a_namespace_that_was_not_looked_at_is_not_taken_as_well() {
        for (seen, remedy) in [(Seen::Asked("system"), "--namespace"), (Seen::MayOnly("system"), "may list")] {
            for (resources, count) in [(vec![], 2), (vec![resource(&[FINALIZER], &json!({}))], 3)] {
                let found = judged(Some("keep"), &resources, seen).0;
                let last = found.last().unwrap();
                assert_eq!((found.len(), last.check, last.level), (count, HELD, Level::Warning), "{found:?}");
                assert!(last.message.contains("namespace \"system\" were looked at"), "{found:?}");
                assert!(last.remedy.as_ref().is_some_and(|said| said.contains(remedy)), "{found:?}");
                assert!(found[0].message.ends_with("of namespace \"system\" and those of others"), "{found:?}");
            }
        }
        let all = judged(Some("keep"), &[], Seen::All).0;
        assert_eq!((all.len(), all[1].level), (2, Level::Fine), "{all:?}");
    }

    #[test]
    fn the_remedy_of_a_suspended_resource_ends_its_suspension() {
        let suspended = resource(&[COPIES_FINALIZER, FINALIZER], &json!({"suspend": true}));
        let said = reasons(&suspended);
        assert!(said.iter().all(|(what, _)| what.ends_with(", and is suspended")), "{said:?}");
        let patch = |changes: &str| {
            format!("kubectl patch contextmanager/memory -n team --type=merge -p '{{\"spec\":{{{changes}}}}}'")
        };
        let copies = patch(r#""allowedNamespaces":null,"suspend":false"#);
        assert_eq!(said[0].1, format!("delete it first, or: {copies}"));
        let (resumed, kept) = (patch(r#""suspend":false"#), patch(r#""reclaimPolicy":"Retain","suspend":false"#));
        assert_eq!(said[1].1, format!("{resumed}, and delete it first, or: {kept}"));
    }
}
