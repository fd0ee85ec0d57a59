//! The JSON patch that carries out an injection: `add` operations only, and only for what is not there yet.
//!
//! So it is idempotent: the API server calls a webhook again when another one changed the pod meanwhile, and the second
//! patch then serves only what that one added.

use context_manager_crds::context_manager::sidecar::Mode;
use context_manager_protocol::names;
use json_patch::{AddOperation, Patch, PatchOperation, jsonptr::PointerBuf};
use serde_json::{Map, Value, json};

use super::{
    Injection, Ports,
    pod::{Container, List, Pod},
};

/// The container that `kubectl logs` and `kubectl exec` take when none is named.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// The patch for a pod. Applied twice it is the same as applied once.
#[must_use]
pub fn patch(pod: &Value, injection: &Injection) -> Patch {
    let pod = Pod::new(pod);
    let mut operations = Vec::new();
    let injected = pod.injected();
    if !injected {
        mark(&mut operations, pod, "labels", names::INJECTED, &injection.resource);
        if let Some(from) = &injection.from {
            // The map of labels is there by now.
            add(&mut operations, &["metadata", "labels", names::INJECTED_FROM], json!(from));
        }
        mark(&mut operations, pod, "annotations", names::INJECTED_HASH, &injection.hash);
        // The map of annotations is there by now, whoever made it.
        add(&mut operations, &["metadata", "annotations", names::INJECTED_TEMPLATE], json!(injection.template));
        if let Some(Ports { protocol, admin, moved: true }) = injection.ports {
            let ports = json!(format!("protocol={protocol},admin={admin}"));
            add(&mut operations, &["metadata", "annotations", names::INJECTED_PORTS], ports);
        }
        if let Some(name) = default_container(pod, injection.mode) {
            add(&mut operations, &["metadata", "annotations", DEFAULT_CONTAINER], json!(name));
        }
    }
    volumes(&mut operations, pod, injection);
    for container in pod.others().filter(|container| injection.containers.iter().any(|name| name == container.name)) {
        serve(&mut operations, container, injection);
    }
    // The sidecar comes last, because it moves the other containers of its list, whose places the operations above name.
    if !injected {
        let list = match injection.mode {
            Mode::Native => List::Init.key(),
            Mode::Classic => List::Main.key(),
        };
        match pod.spec(list) {
            Some(_) => add(&mut operations, &["spec", list, "0"], injection.sidecar.clone()),
            None => add(&mut operations, &["spec", list], json!([injection.sidecar])),
        }
    }
    Patch(operations)
}

/// The pod's own first container, where the sidecar takes its place at the head of the list and nobody chose one.
fn default_container(pod: Pod<'_>, mode: Mode) -> Option<&str> {
    if mode == Mode::Native || pod.annotation(DEFAULT_CONTAINER).is_some() {
        return None;
    }
    pod.others().find(|container| container.list == List::Main).map(|container| container.name)
}

fn add(operations: &mut Vec<PatchOperation>, path: &[&str], value: Value) {
    operations.push(PatchOperation::Add(AddOperation { path: PointerBuf::from_tokens(path.iter().copied()), value }));
}

fn mark(operations: &mut Vec<PatchOperation>, pod: Pod<'_>, map: &str, key: &str, value: &str) {
    match pod.metadata(map) {
        Some(entries) if entries.get(key).and_then(Value::as_str) == Some(value) => {}
        Some(_) => add(operations, &["metadata", map, key], json!(value)),
        None => {
            let entries: Map<_, _> = [(key.to_owned(), json!(value))].into_iter().collect();
            add(operations, &["metadata", map], Value::Object(entries));
        }
    }
}

fn volumes(operations: &mut Vec<PatchOperation>, pod: Pod<'_>, injection: &Injection) {
    let name = |volume: &Value| volume.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let missing: Vec<_> = injection.volumes.iter().filter(|volume| !pod.has_volume(&name(volume))).cloned().collect();
    extend(operations, &["spec", "volumes"], pod.spec("volumes"), missing);
}

/// Gives one container the environment, the key ring and the socket. What its author set stays as it is.
fn serve(operations: &mut Vec<PatchOperation>, container: Container<'_>, injection: &Injection) {
    let index = container.index.to_string();
    let path = ["spec", container.list.key(), &index];
    let has = |list: &str, key: &str, value: &str| {
        let entries = container.json.get(list).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        entries.iter().any(|entry| entry.get(key).and_then(Value::as_str) == Some(value))
    };
    let env = injection
        .env
        .iter()
        .filter(|(name, _)| !has("env", "name", name))
        .map(|(name, value)| json!({"name": name, "value": value}))
        .collect();
    let here = |list| container.json.get(list).filter(|value: &&Value| !value.is_null());
    extend(operations, &[&path[..], &["env"]].concat(), here("env"), env);
    let is_free = |mount: &&Value| {
        let place = mount.get("mountPath").and_then(Value::as_str).unwrap_or_default();
        !has("volumeMounts", "mountPath", place)
    };
    let mounts = injection.mounts.iter().filter(is_free).cloned().collect();
    extend(operations, &[&path[..], &["volumeMounts"]].concat(), here("volumeMounts"), mounts);
}

fn extend(operations: &mut Vec<PatchOperation>, path: &[&str], existing: Option<&Value>, items: Vec<Value>) {
    match existing {
        _ if items.is_empty() => {}
        None => add(operations, path, Value::Array(items)),
        Some(_) => items.into_iter().for_each(|item| add(operations, &[path, &["-"]].concat(), item)),
    }
}
