//! Which events go into a bundle: those that the operator tells, and those about what is its own. A namespace has events of others, too,
//! and what they say is nobody's business here.

use std::collections::BTreeSet;

use context_manager_crds::ContextManager;
use context_manager_protocol::names;
use k8s_openapi::api::{core::v1::ObjectReference, events::v1::Event};
use kube::Resource as _;
use serde_json::{Value, json};

/// How the parts of the operator call themselves when they tell something.
const REPORTERS: &str = "context-manager-";

/// What is the product's own in a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ours {
    /// Pods of agents that have a sidecar.
    pub(super) agents: BTreeSet<String>,
    /// Objects whose names are one of these, or go on with a hyphen.
    pub(super) names: BTreeSet<String>,
}

impl Ours {
    /// Takes in what the operator makes for a resource.
    pub(super) fn resource(&mut self, name: &str) {
        self.names.insert(format!("{name}-context"));
    }

    /// Whether an event is in order.
    pub(super) fn tell(&self, event: &Event) -> bool {
        let told_by = event.reporting_controller.as_deref().unwrap_or_default();
        told_by.starts_with(REPORTERS) || event.regarding.as_ref().is_some_and(|object| self.include(object))
    }

    fn include(&self, object: &ObjectReference) -> bool {
        let (kind, name) = (object.kind.as_deref().unwrap_or_default(), object.name.as_deref().unwrap_or_default());
        if kind == ContextManager::kind(&()) {
            return true;
        }
        if kind == "Pod" && self.agents.contains(name) {
            // Of an agent's own containers an event may quote the command.
            let field = object.field_path.as_deref().unwrap_or_default();
            return field.is_empty() || field.contains(&format!("{{{}}}", names::CONTAINER));
        }
        self.names.iter().any(|ours| {
            name.strip_prefix(ours.as_str()).is_some_and(|rest| matches!(rest.chars().next(), None | Some('-')))
        })
    }
}

/// What is said of an event.
pub(super) fn line(event: &Event) -> Value {
    let about = event.regarding.as_ref().map(|object| {
        format!("{}/{}", object.kind.as_deref().unwrap_or_default(), object.name.as_deref().unwrap_or_default())
    });
    let by = event.reporting_controller.as_deref().filter(|by| !by.is_empty());
    json!({"time": event.event_time, "created": event.metadata.creation_timestamp, "about": about, "type": event.type_,
        "reason": event.reason, "note": event.note, "by": by})
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn events_of_others_are_left_out() {
        let mut ours = Ours::default();
        ours.resource("memory");
        ours.agents.insert("agent".to_owned());
        ours.names.insert("context-manager-controller".to_owned());
        let tells = |by: &str, kind: &str, name: &str, field: &str| {
            let event = json!({"metadata": {}, "eventTime": null, "reportingController": by,
                "regarding": {"kind": kind, "name": name, "fieldPath": field}});
            ours.tell(&serde_json::from_value(event).unwrap())
        };
        for (by, kind, name, field) in [
            ("context-manager-webhook", "ReplicaSet", "shop-7d", ""),
            ("context-manager-controller", "ContextManager", "memory", ""),
            ("kubelet", "Pod", "agent", ""),
            ("kubelet", "Pod", "agent", "spec.initContainers{context-manager}"),
            ("kubelet", "Pod", "memory-context-qdrant-0", "spec.containers{qdrant}"),
            ("", "StatefulSet", "memory-context-qdrant", ""),
            ("", "PersistentVolumeClaim", "memory-context-data", ""),
            ("", "Pod", "context-manager-controller-5f-x", ""),
            ("", "Lease", "context-manager-controller", ""),
        ] {
            assert!(tells(by, kind, name, field), "{by} about {kind} {name} {field}");
        }
        for (by, kind, name, field) in [
            ("kubelet", "Pod", "agent", "spec.containers{agent}"),
            ("kubelet", "Pod", "agent-2", ""),
            ("", "Deployment", "shop", ""),
            ("", "ConfigMap", "memory", ""),
            ("", "ConfigMap", "memory-contexts", ""),
            ("", "Deployment", "agent", ""),
        ] {
            assert!(!tells(by, kind, name, field), "{by} about {kind} {name} {field}");
        }
    }
}
