//! The copies as they should be: pure.

use std::collections::BTreeMap;

use context_manager_protocol::names;
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::api::ObjectMeta;

use crate::controller::{
    build::{GRANTED_BY, MANAGED_BY, is_ours},
    plan::Plan,
};

/// Annotation of a copy: since when it has this key ring.
const COPIED_AT: &str = "contextmanager.dev/keys-copied-at";

/// Files of a copy beside the key ring.
pub(super) const FILES: [&str; 8] = [
    names::CA_FILE,
    names::CERTIFICATE_FILE,
    names::PRIVATE_KEY_FILE,
    names::QDRANT_API_KEY_FILE,
    names::QDRANT_CA_FILE,
    names::EMBEDDING_API_KEY_FILE,
    names::OTLP_HEADERS_FILE,
    names::OTLP_CA_FILE,
];

/// What a Secret holds.
pub(super) type Data = BTreeMap<String, ByteString>;

/// The selector for the copies of a resource.
pub(super) fn selector(namespace: &str, name: &str) -> String {
    let (by_namespace, by_name) = GRANTED_BY;
    format!("{by_namespace}={namespace},{by_name}={name}")
}

/// Whether an object is a copy of this resource, or of an earlier one of its name.
pub(super) fn is_copy(metadata: &ObjectMeta, namespace: &str, name: &str) -> bool {
    let label = |key: &str| metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
    is_ours(metadata) && label(GRANTED_BY.0) == Some(namespace) && label(GRANTED_BY.1) == Some(name)
}

/// Name and labels of a copy. An owner in another namespace is none, so the labels say whose it is.
fn metadata(plan: &Plan, namespace: &str) -> ObjectMeta {
    let labels = [
        ("app.kubernetes.io/part-of", "context-manager"),
        MANAGED_BY,
        (GRANTED_BY.0, plan.namespace.as_str()),
        (GRANTED_BY.1, plan.name.as_str()),
    ];
    ObjectMeta {
        name: Some(names::granted(&plan.namespace, &plan.name)),
        namespace: Some(namespace.to_owned()),
        labels: Some(labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()),
        ..ObjectMeta::default()
    }
}

/// The configuration's copy; without a text it is the sign that there may be a Secret beside it.
pub(super) fn config_map(plan: &Plan, namespace: &str, text: Option<&str>) -> ConfigMap {
    ConfigMap {
        metadata: metadata(plan, namespace),
        data: text.map(|text| [(names::CONFIG_FILE.to_owned(), text.to_owned())].into()),
        ..ConfigMap::default()
    }
}

/// The part of the Secret that is the key ring.
pub(super) fn keys(plan: &Plan, namespace: &str, ring: &ByteString, now: Timestamp) -> Secret {
    let mut metadata = metadata(plan, namespace);
    metadata.annotations = Some([(COPIED_AT.to_owned(), now.to_string())].into());
    Secret {
        metadata,
        data: Some([(names::KEYS_FILE.to_owned(), ring.clone())].into()),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

/// The rest of it.
pub(super) fn rest(plan: &Plan, namespace: &str, data: Data) -> Secret {
    Secret { metadata: metadata(plan, namespace), data: Some(data), ..Secret::default() }
}

/// The key ring of a copy, and since when it has it.
pub(super) fn copied(secret: &Secret) -> Option<(&ByteString, Timestamp)> {
    let ring = secret.data.as_ref()?.get(names::KEYS_FILE)?;
    Some((ring, secret.metadata.annotations.as_ref()?.get(COPIED_AT)?.parse().ok()?))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::controller::{build::INSTANCE, plan::tests::resource};

    #[test]
    fn a_copy_is_known_by_its_labels_and_has_no_owner() {
        let plan = Plan::of(&resource(&json!({"allowedNamespaces": ["other", "team"]}))).unwrap();
        assert_eq!(plan.grants.namespaces, ["other"], "its own namespace is no other one");
        let made = config_map(&plan, "other", None).metadata;
        assert_eq!(made.name, Some(names::granted("team", "memory")));
        assert_eq!((made.namespace.as_deref(), &made.owner_references), (Some("other"), &None));
        assert!(is_copy(&made, "team", "memory"));
        assert!(!made.labels.as_ref().unwrap().contains_key(INSTANCE), "Argo CD may prune what has it and no owner");
        assert!(!is_copy(&made, "team", "other") && !is_copy(&made, "other", "memory"));
        assert!(!is_copy(&ObjectMeta::default(), "team", "memory"));
    }

    #[test]
    fn the_ring_and_the_rest_are_written_apart() {
        let plan = Plan::of(&resource(&json!({"allowedNamespaces": ["other"]}))).unwrap();
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let ring = ByteString(b"ring".to_vec());
        let secret = keys(&plan, "other", &ring, now);
        assert_eq!(copied(&secret), Some((&ring, now)));
        let rest = rest(&plan, "other", Data::new());
        assert_eq!((copied(&rest), &rest.type_), (None, &None));
    }
}
