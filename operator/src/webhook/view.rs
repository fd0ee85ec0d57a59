//! The slim view of a `ContextManager` that injection needs, read from its raw JSON. What is absent has the defaults of
//! the sidecar's configuration; what cannot be read as it should is taken as absent, since the API server has checked
//! the object against its schema.

use context_manager_crds::context_manager::sidecar::Mode;
use context_manager_protocol::names;
use kube::{ResourceExt, api::DynamicObject};
use serde_json::Value;

use crate::inject::{ConfigMapKey, OnMissing, Resource, SecretKey, Storage};

/// The view; nothing for a resource that is being deleted, because a pod that starts now would lose its memory at once.
#[must_use]
pub fn resource(object: &DynamicObject) -> Option<Resource> {
    if object.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let name = object.name_any();
    let spec = object.data.get("spec").unwrap_or(&Value::Null);
    let text = |pointer: &str| spec.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let port = |pointer: &str, default: u16| {
        spec.pointer(pointer).and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok()).unwrap_or(default)
    };
    let reference = |pointer: &str| text(&format!("{pointer}/name")).zip(text(&format!("{pointer}/key")));
    let secret = |pointer: &str| reference(pointer).map(|(secret, key)| SecretKey { secret, key });
    let otlp_ca = reference("/observability/tracing/caConfigMapRef");
    let on_a_server = ["/vectorStore/qdrant", "/vectorStore/managed"]
        .iter()
        .any(|store| spec.pointer(store).is_some_and(Value::is_object));
    let texts = |pointer: &str| {
        let all = spec.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
        all.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    Some(Resource {
        namespace: object.namespace().unwrap_or_default(),
        allowed_namespaces: texts("/allowedNamespaces"),
        granted: false,
        class: text("/controllerClassName").unwrap_or_else(|| names::DEFAULT_CLASS.to_owned()),
        image: text("/sidecar/image"),
        mode: mode(spec),
        protocol_port: port("/sidecar/protocolPort", names::DEFAULT_PROTOCOL_PORT),
        socket: spec.pointer("/sidecar/socket").and_then(Value::as_bool).unwrap_or_default(),
        admin_port: port("/sidecar/adminPort", names::DEFAULT_ADMIN_PORT),
        resources: resources(spec),
        storage: storage(spec, &name),
        config_map: names::config_map(&name),
        keys_secret: names::keys_secret(&name),
        tls_secret: names::tls_secret(&name),
        embedding_key: secret("/embedding/apiKeySecretRef"),
        otlp_headers: secret("/observability/tracing/headersSecretRef"),
        otlp_ca: otlp_ca.map(|(config_map, key)| ConfigMapKey { config_map, key }),
        store_secret: on_a_server.then(|| names::store_secret(&name)),
        containers: texts("/injection/containers"),
        on_missing: match text("/injection/onMissing").as_deref() {
            Some("Deny") => OnMissing::Deny,
            Some(_) | None => OnMissing::Skip,
        },
        name,
    })
}

/// What the sidecar is given. Amounts are texts, also those that were written as a number: a pod's template is compared by its text, with
/// one that is made from the typed resource.
fn resources(spec: &Value) -> Option<Value> {
    let mut resources = spec.pointer("/sidecar/resources").filter(|value| value.is_object()).cloned()?;
    for pointer in ["/requests/cpu", "/requests/memory", "/limits/cpu", "/limits/memory"] {
        if let Some(amount) = resources.pointer_mut(pointer)
            && let Some(text) = quantity(amount)
        {
            *amount = Value::String(text);
        }
    }
    Some(resources)
}

/// A quantity's text, whichever way it was written.
fn quantity(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

fn mode(spec: &Value) -> Mode {
    let mode = spec.pointer("/sidecar/mode").cloned();
    mode.and_then(|mode| serde_json::from_value(mode).ok()).unwrap_or_default()
}

fn storage(spec: &Value, name: &str) -> Storage {
    let storage = spec.pointer("/vectorStore/embedded/storage");
    if storage.and_then(|storage| storage.get("volumeClaimTemplate")).is_some_and(|claim| !claim.is_null()) {
        return Storage::Claim { name: names::data_claim(name) };
    }
    let limit = storage.and_then(|storage| storage.pointer("/emptyDir/sizeLimit"));
    Storage::EmptyDir { size_limit: limit.and_then(quantity) }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    fn view(metadata: &Value, spec: &Value) -> Option<Resource> {
        let object = json!({
            "apiVersion": "contextmanager.dev/v1alpha1",
            "kind": "ContextManager",
            "metadata": metadata,
            "spec": spec,
        });
        resource(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn the_smallest_resource_has_the_defaults() {
        let seen = view(&json!({"name": "memory"}), &json!({})).unwrap();
        assert_eq!(seen.mode, Mode::Native);
        assert_eq!((seen.protocol_port, seen.socket, seen.admin_port), (7419, false, 7420));
        assert_eq!(seen.storage, Storage::EmptyDir { size_limit: None });
        assert_eq!((seen.image, seen.resources, seen.embedding_key), (None, None, None));
        assert_eq!((seen.keys_secret.as_str(), seen.class.as_str()), ("memory-context-keys", "default"));
    }

    #[test]
    fn everything_that_injection_needs_is_read() {
        let spec = json!({
            "controllerClassName": "blue",
            "vectorStore": {"embedded": {"storage": {"volumeClaimTemplate": {"accessModes": ["ReadWriteOnce"]}}}},
            "embedding": {"apiKeySecretRef": {"name": "provider", "key": "token"}},
            "sidecar": {
                "image": "sidecar:2",
                "mode": "Classic",
                "protocolPort": 9001,
                "socket": true,
                "adminPort": 9002,
                "resources": {"limits": {"memory": "1Gi"}},
            },
            "observability": {"tracing": {
                "otlpEndpoint": "http://otel:4318",
                "headersSecretRef": {"name": "otel", "key": "headers"},
                "caConfigMapRef": {"name": "otel-ca", "key": "ca.crt"},
            }},
            "injection": {"onMissing": "Deny", "containers": ["agent"]},
            "allowedNamespaces": ["other"],
        });
        let seen = view(&json!({"name": "memory", "namespace": "team"}), &spec).unwrap();
        let expected = Resource {
            namespace: "team".to_owned(),
            allowed_namespaces: vec!["other".to_owned()],
            granted: false,
            name: "memory".to_owned(),
            class: "blue".to_owned(),
            image: Some("sidecar:2".to_owned()),
            mode: Mode::Classic,
            protocol_port: 9001,
            socket: true,
            admin_port: 9002,
            resources: Some(json!({"limits": {"memory": "1Gi"}})),
            storage: Storage::Claim { name: "memory-context-data".to_owned() },
            config_map: "memory-context-config".to_owned(),
            keys_secret: "memory-context-keys".to_owned(),
            tls_secret: "memory-context-tls".to_owned(),
            embedding_key: Some(SecretKey { secret: "provider".to_owned(), key: "token".to_owned() }),
            store_secret: None,
            otlp_headers: Some(SecretKey { secret: "otel".to_owned(), key: "headers".to_owned() }),
            otlp_ca: Some(ConfigMapKey { config_map: "otel-ca".to_owned(), key: "ca.crt".to_owned() }),
            containers: vec!["agent".to_owned()],
            on_missing: OnMissing::Deny,
        };
        assert_eq!(seen, expected);
        let managed = json!({"vectorStore": {"managed": {}}});
        let server = json!({"vectorStore": {"qdrant": {"url": "https://qdrant"}}});
        for server in [server, managed] {
            let seen = view(&json!({"name": "memory"}), &server).unwrap();
            assert_eq!(seen.store_secret.as_deref(), Some("memory-context-store"));
            assert_eq!(seen.storage, Storage::EmptyDir { size_limit: None }, "the journal's volume ends with the pod");
        }
        let limited = json!({"vectorStore": {"embedded": {"storage": {"emptyDir": {"sizeLimit": "2Gi"}}}}});
        let seen = view(&json!({"name": "memory"}), &limited).unwrap();
        assert_eq!(seen.storage, Storage::EmptyDir { size_limit: Some("2Gi".to_owned()) });
    }

    #[test]
    fn an_amount_is_a_text_however_it_was_written() {
        let of = |resources: Value| {
            view(&json!({"name": "memory"}), &json!({"sidecar": {"resources": resources}})).unwrap().resources
        };
        let numbers = json!({"cpu": 1, "memory": 1_073_741_824});
        let texts = json!({"cpu": "1", "memory": "1073741824"});
        let expected = json!({"requests": texts, "limits": {"cpu": "2"}});
        assert_eq!(of(json!({"requests": numbers, "limits": {"cpu": 2}})), Some(expected.clone()));
        assert_eq!(of(expected.clone()), Some(expected));
        assert_eq!(of(json!({"limits": {}})), Some(json!({"limits": {}})));
    }

    #[test]
    fn a_resource_that_is_being_deleted_is_no_candidate() {
        let metadata = json!({"name": "memory", "deletionTimestamp": "2030-01-01T00:00:00Z"});
        assert_eq!(view(&metadata, &json!({})), None);
    }
}
