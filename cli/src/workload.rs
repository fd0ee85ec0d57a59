//! Pods in objects: a pod itself, or the template that a workload makes its pods from, seen as the webhook will see them.

use json_patch::PatchError;
use serde_json::{Map, Value, json};

/// The label by which a Deployment tells the pods of its revisions apart.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// A pod, or the pod that a workload is going to make.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Subject {
    pub(crate) kind: String,
    pub(crate) name: String,
    /// The namespace that the object names.
    pub(crate) namespace: Option<String>,
    /// What the API server will show the webhook.
    pub(crate) pod: Value,
    /// Where the template is in the object; nowhere in a pod.
    template: Option<&'static str>,
}

/// The subject in an object; nothing if it makes no pods.
pub(crate) fn subject(object: &Value) -> Option<Subject> {
    let kind = object.get("kind")?.as_str()?.to_owned();
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let name = text("/metadata/name").or_else(|| text("/metadata/generateName")).unwrap_or_default();
    let namespace = text("/metadata/namespace");
    if kind == "Pod" {
        return Some(Subject { kind, name, namespace, pod: object.clone(), template: None });
    }
    let template = if kind == "CronJob" { "/spec/jobTemplate/spec/template" } else { "/spec/template" };
    let found = object.pointer(template)?;
    found.pointer("/spec/containers")?.as_array()?;
    let pod = made_by(object, &kind, &name, found);
    Some(Subject { kind, name, namespace, pod, template: Some(template) })
}

/// The pod that the workload's controller will make. Names that are made by chance are stood in for; the rest is the template's.
fn made_by(object: &Value, kind: &str, name: &str, template: &Value) -> Value {
    let version = object.get("apiVersion").cloned().unwrap_or_default();
    let (version, owner, owner_name) = match kind {
        "Deployment" => (json!("apps/v1"), "ReplicaSet", format!("{name}-0")),
        // A CronJob names its Jobs by the minutes since 1970, in eight digits.
        "CronJob" => (json!("batch/v1"), "Job", format!("{name}-00000000")),
        _ => (version, kind, name.to_owned()),
    };
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": template.get("spec")});
    let mut metadata = template.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    metadata.insert("generateName".to_owned(), json!(format!("{owner_name}-")));
    let reference = json!({"apiVersion": version, "kind": owner, "name": owner_name, "uid": "", "controller": true});
    metadata.insert("ownerReferences".to_owned(), json!([reference]));
    if kind == "Deployment" {
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        if let Some(labels) = labels.as_object_mut() {
            labels.insert(TEMPLATE_HASH.to_owned(), json!("0"));
        }
    }
    pod["metadata"] = Value::Object(metadata);
    pod
}

impl Subject {
    /// `kind/name`, as kubectl writes it.
    pub(crate) fn title(&self) -> String {
        format!("{}/{}", self.kind.to_lowercase(), self.name)
    }

    /// Whether its pods are made by somebody else from a template.
    pub(crate) const fn is_template(&self) -> bool {
        self.template.is_some()
    }

    /// The object with a patch of its pod carried out.
    pub(crate) fn patched(&self, object: &Value, patch: &json_patch::Patch) -> Result<Value, PatchError> {
        let Some(template) = self.template else {
            let mut patched = object.clone();
            json_patch::patch(&mut patched, patch)?;
            return Ok(patched);
        };
        let mut pod = self.pod.clone();
        json_patch::patch(&mut pod, patch)?;
        let mut patched = object.clone();
        if let Some(place) = patched.pointer_mut(template).and_then(Value::as_object_mut) {
            place.insert("spec".to_owned(), pod["spec"].take());
            let metadata = place.entry("metadata").or_insert_with(|| json!({}));
            keep(metadata, pod["metadata"].take());
        }
        Ok(patched)
    }
}

/// Labels and annotations of the pod become the template's; what stood in for the controller's own is left out.
fn keep(metadata: &mut Value, mut pod: Value) {
    if !metadata.is_object() {
        *metadata = json!({});
    }
    let Some(metadata) = metadata.as_object_mut() else { return };
    let written = metadata.get("labels").and_then(|labels| labels.get(TEMPLATE_HASH)).cloned();
    for map in ["labels", "annotations"] {
        let Some(mut entries) = pod.get_mut(map).map(Value::take) else { continue };
        if let Some(entries) = entries.as_object_mut().filter(|_| map == "labels") {
            put_back(entries, written.clone());
        }
        if entries.as_object().is_some_and(|entries| !entries.is_empty()) {
            metadata.insert(map.to_owned(), entries);
        }
    }
}

fn put_back(labels: &mut Map<String, Value>, written: Option<Value>) {
    labels.remove(TEMPLATE_HASH);
    if let Some(written) = written {
        labels.insert(TEMPLATE_HASH.to_owned(), written);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use context_manager_operator::inject::{Decision, NamespaceFacts, OnMissing, Settings, decide, patch};
    use kube::api::DynamicObject;

    use super::*;

    fn template() -> Value {
        json!({
            "metadata": {"labels": {"app": "a"}, "annotations": {"contextmanager.dev/inject": "true"}},
            "spec": {"containers": [{"name": "agent", "image": "agent:1"}]},
        })
    }

    fn workload(version: &str, kind: &str) -> Value {
        let spec = if kind == "CronJob" {
            json!({"jobTemplate": {"spec": {"template": template()}}})
        } else {
            json!({"template": template()})
        };
        json!({"apiVersion": version, "kind": kind, "metadata": {"name": "support"}, "spec": spec})
    }

    fn decided(subject: &Subject) -> Box<context_manager_operator::inject::Injection> {
        let resource: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "contextmanager.dev/v1alpha1", "kind": "ContextManager", "metadata": {"name": "memory", "namespace": "team"}, "spec": {},
        }))
        .unwrap();
        let resource = context_manager_operator::webhook::view::resource(&resource).unwrap();
        let settings = Settings { sidecar_image: "sidecar:1".to_owned(), on_missing: OnMissing::Skip, class: None };
        let namespace = NamespaceFacts { name: "team".to_owned(), ..NamespaceFacts::default() };
        match decide(&subject.pod, &namespace, &[resource], &settings) {
            Decision::Inject(injection) => injection,
            other @ (Decision::Skip(_) | Decision::Deny(_)) => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn the_pods_of_every_kind_of_workload_have_its_name_as_their_agent() {
        for (version, kind) in [
            ("apps/v1", "Deployment"),
            ("apps/v1", "StatefulSet"),
            ("apps/v1", "DaemonSet"),
            ("apps/v1", "ReplicaSet"),
            ("batch/v1", "Job"),
            ("batch/v1", "CronJob"),
            ("example.com/v1", "Crew"),
        ] {
            let subject = subject(&workload(version, kind)).unwrap();
            assert_eq!(decided(&subject).agent, "support", "{kind}");
        }
    }

    #[test]
    fn a_patched_template_has_the_sidecar_and_nothing_of_what_stood_in() {
        for (version, kind) in [("apps/v1", "Deployment"), ("batch/v1", "CronJob")] {
            let object = workload(version, kind);
            let subject = subject(&object).unwrap();
            let injection = decided(&subject);
            let patched = subject.patched(&object, &patch(&subject.pod, &injection)).unwrap();
            let template = patched.pointer(subject.template.unwrap()).unwrap();
            assert_eq!(template["spec"]["initContainers"][0]["name"], "context-manager", "{kind}");
            let metadata = template["metadata"].as_object().unwrap();
            assert_eq!(metadata.keys().collect::<Vec<_>>().len(), 2, "{metadata:?}");
            assert_eq!(metadata["labels"]["app"], "a");
            assert!(metadata["labels"].get(TEMPLATE_HASH).is_none());
            assert_eq!(metadata["annotations"]["contextmanager.dev/injected-hash"], injection.hash.as_str());
            // Its pods need nothing more.
            let again = super::subject(&patched).unwrap();
            assert_eq!(patch(&again.pod, &decided(&again)).0.len(), 0, "{kind}");
        }
    }

    #[test]
    fn an_object_without_pods_is_no_subject() {
        for object in
            [json!({"kind": "ConfigMap", "metadata": {"name": "a"}}), json!({"kind": "Service", "spec": {}}), json!({})]
        {
            assert_eq!(subject(&object), None);
        }
    }
}
