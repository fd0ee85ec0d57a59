//! A `ContextManager` that the operator cannot decode, as an older definition may have let it in.

use anyhow::{Context as _, Result};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::cluster::{self, Namespace, eventually, resource_type};
use crate::operator::PATIENCE;

/// Such a resource; it is deleted when dropped, and the definition is what it was again.
pub struct Unreadable {
    namespace: String,
    name: String,
}

impl Unreadable {
    /// Makes one, whose `spec.gc` is a text. The cluster's definition permits that until it is dropped.
    ///
    /// # Errors
    /// When the API server refuses the definition, or the resource with it.
    pub async fn make(namespace: &Namespace, name: &str, mut spec: Value) -> Result<Self> {
        let client = cluster::client().await?;
        let definitions = Api::<CustomResourceDefinition>::all(client);
        let path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/gc";
        let relaxed = json!([{"op": "replace", "path": path, "value": {"x-kubernetes-preserve-unknown-fields": true}}]);
        let relaxed = Patch::<()>::Json(serde_json::from_value(relaxed)?);
        let made = Self { namespace: namespace.name.clone(), name: name.to_owned() };
        definitions.patch("contextmanagers.contextmanager.dev", &PatchParams::default(), &relaxed).await?;
        spec["gc"] = json!("often");
        let mut object = DynamicObject::new(name, &resource_type()).data(json!({"spec": spec}));
        object.metadata.namespace = Some(namespace.name.clone());
        let create = || async { namespace.resources().create(&PostParams::default(), &object).await };
        eventually("the older definition", PATIENCE, create).await.context("failed to make a resource")?;
        Ok(made)
    }
}

impl Drop for Unreadable {
    fn drop(&mut self) {
        let Self { namespace, name } = self;
        let (what, namespace, name) = (format!("{namespace}/{name}"), namespace.clone(), name.clone());
        cluster::clean_up(&what, async move |client| {
            // Whatever is not as the definition has it goes before the definition comes back.
            let resources = Api::<DynamicObject>::namespaced_with(client.clone(), &namespace, &resource_type());
            let deleted = resources.delete(&name, &DeleteParams::default()).await;
            cluster::install_definition(&client).await?;
            match deleted {
                Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
                Err(error) => Err(error.into()),
                Ok(_) => Ok(()),
            }
        });
    }
}
