//! The `CustomResourceDefinition`, and its YAML form.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use serde_json::{Value, json};

use crate::ContextManager;

/// Said at the head of the generated file.
const HEADER: &str =
    "# Generated from the types in crds/src by `cargo run -p context-manager-crds --bin crdgen`; do not edit.\n";

/// The generation that a status speaks of before anybody has written one: none that a resource can have. Readers that know kstatus take
/// a resource without a status for one that is settled, and one whose status speaks of another generation for one that is in progress.
const UNSEEN: i64 = -1;

/// The definition as it is installed.
///
/// # Panics
/// Never: the definition is JSON before and after.
#[must_use]
pub fn crd() -> CustomResourceDefinition {
    let mut value = serde_json::to_value(ContextManager::crd()).expect("a definition is JSON");
    strip(&mut value);
    for version in value["spec"]["versions"].as_array_mut().into_iter().flatten() {
        let fields = &mut version["schema"]["openAPIV3Schema"]["properties"];
        fields["status"]["default"] = json!({"observedGeneration": UNSEEN});
        // Server-side apply makes a null of an object that loses its last field, and a null without a default is refused.
        fields["spec"]["default"] = json!({});
    }
    serde_json::from_value(value).expect("a schema with a default is one")
}

/// The definition as YAML, with a header that says where it comes from.
///
/// # Panics
/// Never: the definition is JSON, and all JSON is YAML.
#[must_use]
pub fn crd_yaml() -> String {
    let value = serde_json::to_value(crd()).expect("a definition is JSON");
    let yaml = serde_saphyr::to_string(&value).expect("all JSON is YAML");
    format!("{HEADER}{yaml}")
}

/// Removes `nullable`: an absent field is written by leaving it out, and a rule's `has(self.x)` would be true for a null.
/// Removes formats that the API server does not know and warns about, and examples that are meant for Rust.
fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("nullable");
            map.remove("title");
            if let Some(Value::String(description)) = map.get_mut("description")
                && let Some(example) = description.find("\n\n```")
            {
                description.truncate(example);
            }
            if map.get("format").is_some_and(|format| format.as_str().is_some_and(|name| name.starts_with("uint"))) {
                map.remove("format");
            }
            map.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
