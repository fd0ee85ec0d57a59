//! A `ContextManager` as it comes over the wire, without what may be large and is never looked at. Nothing bounds the number of its labels,
//! and each of them takes ten times its text in memory; who wrote which field takes as much again.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Resource,
    api::{ApiResource, DynamicObject, ObjectMeta},
    core::DynamicResourceScope,
};
use serde::Deserialize;
use serde_json::{Value, json};

/// Its name, its spec and what a watch needs.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Read")]
pub(crate) struct Slim(pub(crate) DynamicObject);

#[derive(Deserialize)]
struct Read {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    spec: Value,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    deletion_timestamp: Option<Time>,
}

impl From<Read> for Slim {
    fn from(Read { metadata, spec }: Read) -> Self {
        let Metadata { name, namespace, uid, resource_version, deletion_timestamp } = metadata;
        let metadata =
            ObjectMeta { name, namespace, uid, resource_version, deletion_timestamp, ..ObjectMeta::default() };
        Self(DynamicObject { types: None, metadata, data: json!({ "spec": spec }) })
    }
}

impl Resource for Slim {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(of: &ApiResource) -> Cow<'_, str> {
        DynamicObject::kind(of)
    }

    fn group(of: &ApiResource) -> Cow<'_, str> {
        DynamicObject::group(of)
    }

    fn version(of: &ApiResource) -> Cow<'_, str> {
        DynamicObject::version(of)
    }

    fn plural(of: &ApiResource) -> Cow<'_, str> {
        DynamicObject::plural(of)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.0.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.0.metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_large_and_not_looked_at_is_not_read() {
        let object = json!({
            "apiVersion": "contextmanager.dev/v1alpha1",
            "kind": "ContextManager",
            "metadata": {
                "name": "memory",
                "namespace": "team",
                "resourceVersion": "7",
                "deletionTimestamp": "2030-01-01T00:00:00Z",
                "labels": {"a": "b"},
                "annotations": {"a": "b"},
                "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
            },
            "spec": {"sidecar": {"protocolPort": 9001}},
            "status": {"observedGeneration": 1},
        });
        let Slim(read) = serde_json::from_value(object).expect("an object");
        assert_eq!(read.data, json!({"spec": {"sidecar": {"protocolPort": 9001}}}));
        let expected: ObjectMeta = serde_json::from_value(json!({
            "name": "memory",
            "namespace": "team",
            "resourceVersion": "7",
            "deletionTimestamp": "2030-01-01T00:00:00Z",
        }))
        .expect("metadata");
        assert_eq!(read.metadata, expected);
    }

    #[test]
    fn an_object_without_anything_is_read() {
        let Slim(read) = serde_json::from_value(json!({})).expect("an object");
        assert_eq!(read.data, json!({"spec": null}));
    }
}
