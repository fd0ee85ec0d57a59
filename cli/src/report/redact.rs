//! What may stand in a bundle.
//!
//! Objects of ours are kept, without what others wrote into their annotations. Pods are cut down to what is ours in them, because commands,
//! arguments and variables of agents are where people put prompts and passwords. Secrets become lists of names and lengths.

use std::collections::BTreeSet;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use context_manager_protocol::names;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::ResourceExt as _;
use serde_json::{Map, Value, json};

use super::urls::without_credentials;

/// What stands where something was taken out.
pub(super) const REDACTED: &str = "[redacted]";
/// Shorter values are words that occur by themselves, such as `true`; keys and certificates are longer.
const LEAST: usize = 8;

/// Metadata without what is large, of nobody's use, or of unknown content: of annotations only those of this product.
pub(super) fn metadata(mut object: Value) -> Value {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.retain(|key, _| key.starts_with(names::GROUP));
        }
    }
    object
}

/// A Secret without its values.
pub(super) fn secret(secret: &Secret) -> Value {
    let lengths: Map<_, _> =
        secret.data.iter().flatten().map(|(key, ByteString(value))| (key.clone(), json!(value.len()))).collect();
    json!({
        "name": secret.name_any(),
        "type": secret.type_,
        "created": secret.metadata.creation_timestamp,
        "labels": secret.labels(),
        "owners": secret.owner_references().iter().map(|owner| format!("{}/{}", owner.kind, owner.name)).collect::<Vec<_>>(),
        "bytesByKey": lengths,
    })
}

/// An object of the product. What users write into it is taken out where it may be a credential: user, password and query of a URL, and
/// variables that are not the product's own.
pub(super) fn resource(object: Value) -> Value {
    let mut object = metadata(object);
    urls(&mut object);
    variables(&mut object);
    object
}

/// The names of the Secrets that a spec refers to.
pub(super) fn references(spec: &Value, names: &mut BTreeSet<String>) {
    for (key, value) in spec.as_object().into_iter().flatten() {
        if key == "secretRef" || key.ends_with("SecretRef") {
            names.extend(value.get("name").and_then(Value::as_str).map(str::to_owned));
        }
        references(value, names);
    }
}

/// Variables whose values say how the product runs.
fn is_known(variable: &str) -> bool {
    ["RUST_LOG", "POD_NAME"].contains(&variable) || variable.starts_with("CONTEXT_MANAGER_")
}

/// Takes the values out of all other variables, wherever containers are.
fn variables(value: &mut Value) {
    match value {
        Value::Object(entries) => {
            for entry in entries.get_mut("env").and_then(Value::as_array_mut).into_iter().flatten() {
                let known = entry.get("name").and_then(Value::as_str).is_some_and(is_known);
                if let Some(value) = entry.get_mut("value").filter(|_| !known) {
                    *value = json!(REDACTED);
                }
            }
            entries.values_mut().for_each(variables);
        }
        Value::Array(items) => items.iter_mut().for_each(variables),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Takes credentials out of every URL in a value.
fn urls(value: &mut Value) {
    match value {
        Value::String(text) => *text = without_credentials(text),
        Value::Array(items) => items.iter_mut().for_each(urls),
        Value::Object(entries) => entries.values_mut().for_each(urls),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A pod of an agent: the sidecar, without what others may have put into its variables, and of all other containers the name and the image.
pub(super) fn agent(pod: Value) -> Value {
    let mut pod = metadata(pod);
    let Some(spec) = pod.get_mut("spec").map(Value::take) else { return pod };
    let containers = |list: &str| -> Value {
        let items = spec.get(list).and_then(Value::as_array).into_iter().flatten();
        items
            .map(|container| {
                if container.get("name").and_then(Value::as_str) == Some(names::CONTAINER) {
                    return container.clone();
                }
                json!({"name": container.get("name"), "image": container.get("image"), "ports": container.get("ports")})
            })
            .collect()
    };
    let volumes = spec.get("volumes").and_then(Value::as_array).into_iter().flatten();
    let name = |volume: &Value| volume.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let ours: Vec<_> = volumes.filter(|volume| name(volume).starts_with("context-manager-")).cloned().collect();
    pod["spec"] = json!({
        "initContainers": containers("initContainers"),
        "containers": containers("containers"),
        "volumes": ours,
        "nodeName": spec.get("nodeName"),
        "hostNetwork": spec.get("hostNetwork"),
        "securityContext": spec.get("securityContext"),
        "restartPolicy": spec.get("restartPolicy"),
    });
    // What a container wrote when it ended is its own business, and so is the command that could not be started.
    forget_messages(&mut pod["status"]);
    // Other webhooks give variables to all containers, also to the sidecar.
    variables(&mut pod);
    pod
}

fn forget_messages(status: &mut Value) {
    for list in ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"] {
        for container in status.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if container.get("name").and_then(Value::as_str) == Some(names::CONTAINER) {
                continue;
            }
            for state in ["state", "lastState"] {
                for (_, detail) in container.get_mut(state).and_then(Value::as_object_mut).into_iter().flatten() {
                    if let Some(detail) = detail.as_object_mut() {
                        detail.remove("message");
                    }
                }
            }
        }
    }
}

/// Secret values that must not stand anywhere, the longest first: of one that begins with another one the rest would stay.
#[derive(Default)]
pub(super) struct Scrubber(Vec<String>);

impl Scrubber {
    /// Takes the values of a Secret, in every form they could be written in: as they are, in Base64, line by line of PEM, and piece by piece
    /// of JSON. Certificates are for everybody: the CA of a Secret is the `caBundle` that support wants to see.
    pub(super) fn learn(&mut self, secret: &Secret) {
        let public = |key: &str| std::path::Path::new(key).extension().is_some_and(|extension| extension == "crt");
        for (_, ByteString(value)) in secret.data.iter().flatten().filter(|(key, _)| !public(key)) {
            self.add(BASE64_STANDARD.encode(value));
            let Ok(text) = std::str::from_utf8(value) else { continue };
            self.add(text.trim().to_owned());
            text.lines().filter(|line| !line.starts_with("-----")).for_each(|line| self.add(line.trim().to_owned()));
            if let Ok(json) = serde_json::from_str(text) {
                self.pieces(&json);
            }
        }
    }

    fn pieces(&mut self, value: &Value) {
        match value {
            // An id of a key is shown everywhere.
            Value::Object(entries) => {
                for (_, value) in entries.iter().filter(|(name, _)| *name != "id") {
                    self.pieces(value);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.pieces(item)),
            Value::String(text) => self.add(text.clone()),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn add(&mut self, text: String) {
        if text.len() >= LEAST && !self.0.contains(&text) {
            let place = self.0.partition_point(|other| other.len() >= text.len());
            self.0.insert(place, text);
        }
    }

    /// Takes the values out of a text; how many there were.
    pub(super) fn scrub(&self, text: &mut String) -> usize {
        let mut found = 0;
        for secret in &self.0 {
            let count = text.matches(secret.as_str()).count();
            if count > 0 {
                *text = text.replace(secret.as_str(), REDACTED);
                found += count;
            }
        }
        found
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const MATERIAL: &str = "c2VjcmV0LW1hdGVyaWFsLW9mLWEta2V5LTMyLWJ5dGVz";

    fn ring() -> Secret {
        let ring = json!({"active": {"id": "k-2026", "key": MATERIAL}}).to_string();
        serde_json::from_value(json!({
            "metadata": {"name": "memory-context-keys"}, "type": "Opaque",
            "data": {"keys.json": BASE64_STANDARD.encode(ring), "word": BASE64_STANDARD.encode("true")},
        }))
        .unwrap()
    }

    #[test]
    fn a_secret_is_its_names_and_lengths() {
        let shown = secret(&ring());
        assert_eq!(shown["bytesByKey"]["word"], 4);
        assert!(!shown.to_string().contains(MATERIAL) && !shown.to_string().contains(&BASE64_STANDARD.encode("true")));
    }

    #[test]
    fn a_value_is_taken_out_in_every_form_and_an_id_stays() {
        let mut scrubber = Scrubber::default();
        scrubber.learn(&ring());
        let whole = BASE64_STANDARD.encode(json!({"active": {"id": "k-2026", "key": MATERIAL}}).to_string());
        let mut text = format!("key {MATERIAL} of {whole}, id k-2026, true");
        assert_eq!(scrubber.scrub(&mut text), 2);
        assert_eq!(text, "key [redacted] of [redacted], id k-2026, true");
    }

    #[test]
    fn of_a_value_that_begins_with_another_one_nothing_stays() {
        let data =
            json!({"a": BASE64_STANDARD.encode("the-password"), "b": BASE64_STANDARD.encode("the-password-of-2026")});
        let mut scrubber = Scrubber::default();
        scrubber.learn(&serde_json::from_value(json!({"data": data})).unwrap());
        let mut text = "the-password-of-2026 and the-password".to_owned();
        assert_eq!(scrubber.scrub(&mut text), 2);
        assert_eq!(text, "[redacted] and [redacted]");
    }

    #[test]
    fn a_private_key_is_known_by_each_of_its_lines() {
        let pem =
            "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49\nAgEGCCqGSM49AwEHBG0w\n-----END PRIVATE KEY-----\n";
        let secret = serde_json::from_value(json!({"data": {"tls.key": BASE64_STANDARD.encode(pem)}})).unwrap();
        let mut scrubber = Scrubber::default();
        scrubber.learn(&secret);
        let mut text = "AgEGCCqGSM49AwEHBG0w and -----END PRIVATE KEY-----".to_owned();
        assert_eq!(scrubber.scrub(&mut text), 1);
        assert_eq!(text, "[redacted] and -----END PRIVATE KEY-----");
    }

    #[test]
    fn of_an_agent_only_names_and_the_sidecar_are_kept() {
        let pod = json!({
            "metadata": {"name": "a", "managedFields": [1], "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": "PASSWORD", "contextmanager.dev/inject": "true"}},
            "spec": {
                "containers": [{"name": "agent", "image": "agent:1", "args": ["PROMPT"], "env": [{"name": "A", "value": "PASSWORD"}]}],
                "initContainers": [
                    {"name": "context-manager", "args": ["--config"], "env": [
                        {"name": "CONTEXT_MANAGER_AGENT", "value": "researcher"}, {"name": "DD_API_KEY", "value": "PASSWORD"}]},
                    {"name": "prepare", "command": ["PROMPT"]},
                ],
                "volumes": [{"name": "context-manager-data"}, {"name": "mine", "secret": {"secretName": "PASSWORD"}}],
            },
            "status": {
                "containerStatuses": [
                    {"name": "agent", "state": {"terminated": {"exitCode": 1, "message": "PROMPT"}}},
                    {"name": "tool", "state": {"waiting": {"reason": "RunContainerError", "message": "exec: \"PROMPT\""}},
                        "lastState": {"waiting": {"message": "PROMPT"}, "terminated": {"message": "PROMPT"}}},
                ],
                "initContainerStatuses": [{"name": "context-manager", "state": {"waiting": {"message": "no such image"}}}],
            },
        });
        let kept = agent(pod);
        let text = kept.to_string();
        assert!(!text.contains("PASSWORD") && !text.contains("PROMPT") && !text.contains("managedFields"), "{text}");
        let sidecar = &kept["spec"]["initContainers"][0];
        assert_eq!(sidecar["args"][0], "--config");
        assert_eq!(
            (&sidecar["env"][0]["value"], &sidecar["env"][1]["value"]),
            (&json!("researcher"), &json!(REDACTED))
        );
        assert_eq!(kept["metadata"]["annotations"]["contextmanager.dev/inject"], "true");
        assert_eq!(kept["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 1);
        assert_eq!(kept["status"]["containerStatuses"][1]["state"]["waiting"]["reason"], "RunContainerError");
        assert_eq!(kept["status"]["initContainerStatuses"][0]["state"]["waiting"]["message"], "no such image");
    }

    #[test]
    fn the_secrets_of_a_spec_are_known_by_its_references() {
        let spec = json!({"auth": {"secretRef": {"name": "mine", "key": "k"}},
            "vectorStore": {"qdrant": {"apiKeySecretRef": {"name": "qdrant"}, "tls": {"caSecretRef": {"name": "ca"}}}}, "name": "no"});
        let mut found = BTreeSet::new();
        references(&spec, &mut found);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["ca", "mine", "qdrant"]);
    }

    #[test]
    fn variables_that_are_not_the_products_own_lose_their_values() {
        let env = json!([{"name": "RUST_LOG", "value": "info"}, {"name": "PROXY", "value": "PASSWORD"},
            {"name": "CONTEXT_MANAGER_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}]);
        let kept = resource(json!({"spec": {"template": {"spec": {"containers": [{"name": "webhook", "env": env}]}}}}));
        let kept = &kept["spec"]["template"]["spec"]["containers"][0]["env"];
        assert_eq!((&kept[0]["value"], &kept[1]["value"]), (&json!("info"), &json!(REDACTED)));
        assert!(kept[2].get("value").is_none());
    }

    #[test]
    fn a_certificate_is_public_and_stays() {
        let pem = "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIU\n-----END CERTIFICATE-----\n";
        let secret = serde_json::from_value(json!({"data": {"ca.crt": BASE64_STANDARD.encode(pem)}})).unwrap();
        let mut scrubber = Scrubber::default();
        scrubber.learn(&secret);
        assert_eq!(scrubber.scrub(&mut format!("caBundle: {}", BASE64_STANDARD.encode(pem))), 0);
    }

    #[test]
    fn credentials_in_urls_are_taken_out_of_a_configuration_too() {
        let config = "[store.qdrant]\nurl = \"http://qdrant:6334\"\n[embedding]\nurl = \"https://me:PASSWORD@api/v1?api-key=PASSWORD\"\n";
        let url = "https://me:PASSWORD@api/v1?api-key=PASSWORD";
        let kept =
            resource(json!({"data": {"config.toml": config}, "spec": {"embedding": {"url": url}, "note": "a@b"}}));
        assert!(!kept.to_string().contains("PASSWORD"), "{kept}");
        assert_eq!(kept["spec"]["embedding"]["url"], "https://[redacted]@api/v1?api-key=[redacted]");
        assert_eq!(kept["spec"]["note"], "a@b");
    }
}
