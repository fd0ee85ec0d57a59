//! The children as they should be: pure. Each is what one field manager applies, no more, so that what others add stays.

use std::collections::BTreeMap;

use context_manager_protocol::{config::SidecarConfig, keyring::KeyRing, names};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, PersistentVolumeClaim, PersistentVolumeClaimSpec, Secret, VolumeResourceRequirements},
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::FieldsV1},
};
use kube::api::ObjectMeta;

use super::plan::{ClaimPlan, Plan};
use crate::pki::client::Pair;

/// Label of every child: the resource it belongs to.
pub const RESOURCE: &str = "contextmanager.dev/owned-by";
/// Label by which every child is found.
pub(in crate::controller) const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "context-manager");
/// Labels of a copy in another namespace: the resource's namespace and its name.
pub const GRANTED_BY: (&str, &str) = ("contextmanager.dev/granted-by-namespace", "contextmanager.dev/granted-by");
/// Label that every child of earlier versions has. Argo CD may go by it, and what has it and no owner is then one of the objects of the
/// Application of that name, to be pruned because no manifest has it.
pub(in crate::controller) const INSTANCE: &str = "app.kubernetes.io/instance";
/// Annotation of the key ring: since when its active key signs.
pub const ROTATED_AT: &str = "contextmanager.dev/rotated-at";

/// The label selector for all children.
#[must_use]
pub fn selector() -> String {
    format!("{}={}", MANAGED_BY.0, MANAGED_BY.1)
}

/// Whether an object was made by this operator.
#[must_use]
pub fn is_ours(metadata: &ObjectMeta) -> bool {
    let labels = metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(MANAGED_BY.0)).is_some_and(|value| value == MANAGED_BY.1)
}

/// Whether an object has the label of earlier versions from this field manager, whose next apply takes it away.
pub(in crate::controller) fn gives_instance(metadata: &ObjectMeta, manager: &str) -> bool {
    let given = metadata.managed_fields.iter().flatten().filter(|entry| entry.manager.as_deref() == Some(manager));
    let label = format!("f:{INSTANCE}");
    given.filter_map(|entry| entry.fields_v1.as_ref()).any(|FieldsV1(fields)| {
        let labels = fields.pointer("/f:metadata/f:labels");
        labels.is_some_and(|labels| labels.get(&label).is_some())
    })
}

/// Name, labels and owner of a child.
#[must_use]
pub fn metadata(plan: &Plan, name: String, owned: bool) -> ObjectMeta {
    let labels = [("app.kubernetes.io/part-of", "context-manager"), MANAGED_BY, (RESOURCE, plan.name.as_str())];
    ObjectMeta {
        name: Some(name),
        namespace: Some(plan.namespace.clone()),
        labels: Some(labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()),
        owner_references: owned.then(|| vec![plan.owner.clone()]),
        ..ObjectMeta::default()
    }
}

/// The sidecar's configuration.
#[must_use]
pub fn config_map(plan: &Plan, config: &SidecarConfig) -> ConfigMap {
    ConfigMap {
        metadata: metadata(plan, names::config_map(&plan.name), true),
        data: Some([(names::CONFIG_FILE.to_owned(), config.to_toml())].into()),
        ..ConfigMap::default()
    }
}

/// The key ring's Secret with the ring, or only its labels and owner, to put those right.
#[must_use]
pub fn keys_secret(plan: &Plan, ring: Option<&KeyRing>) -> Secret {
    let content = |ring: &KeyRing| [(names::KEYS_FILE.to_owned(), ByteString(ring.to_json()))].into();
    Secret {
        metadata: metadata(plan, names::keys_secret(&plan.name), true),
        data: ring.map(content),
        type_: ring.map(|_| "Opaque".to_owned()),
        ..Secret::default()
    }
}

/// CA bundle and client certificate.
#[must_use]
pub fn tls_secret(plan: &Plan, bundle: &str, pair: &Pair) -> Secret {
    let files =
        [(names::CA_FILE, bundle), (names::CERTIFICATE_FILE, &pair.certificate), (names::PRIVATE_KEY_FILE, &pair.key)];
    Secret {
        metadata: metadata(plan, names::tls_secret(&plan.name), true),
        data: Some(
            files.into_iter().map(|(name, text)| (name.to_owned(), ByteString(text.as_bytes().to_vec()))).collect(),
        ),
        type_: Some("kubernetes.io/tls".to_owned()),
        ..Secret::default()
    }
}

/// What sidecars show to and ask of a Qdrant server.
#[must_use]
pub fn store_secret(plan: &Plan, key: Option<&[u8]>, ca: Option<&[u8]>) -> Secret {
    let files = [(names::QDRANT_API_KEY_FILE, key), (names::QDRANT_CA_FILE, ca)];
    let data = files.into_iter().filter_map(|(name, content)| Some((name.to_owned(), ByteString(content?.to_vec()))));
    Secret {
        metadata: metadata(plan, names::store_secret(&plan.name), true),
        data: Some(data.collect()),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

/// The claim of the data. One that is retained has no owner, so that the garbage collector leaves it alone.
#[must_use]
pub fn claim(plan: &Plan, claim: &ClaimPlan) -> PersistentVolumeClaim {
    let requests: BTreeMap<_, _> = [("storage".to_owned(), Quantity(claim.size.to_string()))].into();
    PersistentVolumeClaim {
        metadata: metadata(plan, claim.name.clone(), !claim.retain),
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(claim.access_modes.iter().map(|mode| (*mode).to_owned()).collect()),
            resources: Some(VolumeResourceRequirements { requests: Some(requests), limits: None }),
            storage_class_name: claim.storage_class.clone(),
            volume_name: claim.volume.clone(),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::controller::plan::{StoragePlan, tests::resource};

    #[test]
    fn children_belong_to_the_resource_and_can_be_found() {
        let plan = Plan::of(&resource(&json!({}))).unwrap();
        let made = config_map(&plan, &plan.config);
        assert_eq!(
            serde_json::to_value(&made.metadata).unwrap(),
            json!({
                "name": "memory-context-config",
                "namespace": "team",
                "labels": {
                    "app.kubernetes.io/part-of": "context-manager",
                    "app.kubernetes.io/managed-by": "context-manager",
                    "contextmanager.dev/owned-by": "memory",
                },
                "ownerReferences": [{
                    "apiVersion": "contextmanager.dev/v1alpha1", "kind": "ContextManager", "name": "memory",
                    "uid": "uid-1", "controller": true,
                }],
            })
        );
        assert!(is_ours(&made.metadata) && !is_ours(&ObjectMeta::default()));
    }

    #[test]
    fn a_label_of_earlier_versions_is_taken_away_from_what_has_it_from_this_operator() {
        let with = |manager: &str, labels: &serde_json::Value| -> ObjectMeta {
            let fields = json!({"f:metadata": {"f:labels": labels}, "f:spec": {}});
            serde_json::from_value(json!({
                "labels": {INSTANCE: "memory"},
                "managedFields": [{"manager": "somebody"}, {"manager": manager, "operation": "Apply", "fieldsV1": fields}],
            }))
            .unwrap()
        };
        let (ours, other) = (json!({"f:app.kubernetes.io/instance": {}}), json!({"f:app.kubernetes.io/part-of": {}}));
        assert!(gives_instance(&with("context-manager-storage", &ours), "context-manager-storage"));
        assert!(!gives_instance(&with("argocd-controller", &ours), "context-manager-storage"), "others may give it");
        assert!(!gives_instance(&with("context-manager-storage", &other), "context-manager-storage"));
        assert!(!gives_instance(&ObjectMeta::default(), "context-manager-storage"));
    }

    #[test]
    fn putting_labels_right_does_not_touch_the_keys() {
        let plan = Plan::of(&resource(&json!({}))).unwrap();
        let applied = serde_json::to_value(keys_secret(&plan, None)).unwrap();
        assert!(applied.get("data").is_none() && applied.get("type").is_none(), "{applied}");
    }

    #[test]
    fn the_store_secret_has_the_files_that_the_configuration_names_and_no_other() {
        let plan = Plan::of(&resource(&json!({"vectorStore": {"qdrant": {"url": "https://qdrant"}}}))).unwrap();
        let files = |key: Option<&[u8]>, ca: Option<&[u8]>| {
            let made = store_secret(&plan, key, ca);
            assert_eq!(made.metadata.name.as_deref(), Some("memory-context-store"));
            made.data.unwrap().into_keys().collect::<Vec<_>>()
        };
        assert_eq!(files(Some(b"key"), Some(b"ca")), ["qdrant-api-key", "qdrant-ca.crt"]);
        assert!(files(None, None).is_empty());
    }

    #[test]
    fn a_retained_claim_has_no_owner() {
        let template =
            json!({"embedded": {"storage": {"volumeClaimTemplate": {"resources": {"requests": {"storage": "1Gi"}}}}}});
        for (policy, owners) in [("Retain", 0), ("Delete", 1)] {
            let plan = Plan::of(&resource(&json!({"vectorStore": template, "reclaimPolicy": policy}))).unwrap();
            let StoragePlan::Claim(wanted) = &plan.storage else { unreachable!("the spec has a claim") };
            let made = claim(&plan, wanted);
            assert_eq!(made.metadata.owner_references.unwrap_or_default().len(), owners, "{policy}");
            assert_eq!(made.spec.unwrap().storage_class_name, None, "the cluster's default class is not overwritten");
        }
    }
}
