//! The pods of a resource, counted for the status.

use context_manager_crds::{ContextManager, context_manager::status::Pods};
use context_manager_protocol::names;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DynamicObject, ListParams},
};

use super::{
    error::{Error, call},
    plan::Plan,
    reconcile::Context,
};
use crate::{inject, pods::has_ended, upgrade::Target, webhook::view};

/// What was found of a resource's pods.
pub(super) struct Fleet {
    /// How many there are.
    pub(super) counted: Pods,
    /// The names of those that ask for one by their label and have none.
    pub(super) missing: Vec<String>,
    /// What they would get now, if that is known.
    pub(super) target: Option<Target>,
}

/// Looks at the pods of a resource.
pub(super) async fn look(context: &Context, plan: &Plan, resource: &ContextManager) -> Result<Fleet, Error> {
    context.pods_of(&plan.namespace).listed().await?;
    let target = context.sidecar_image.as_ref().and_then(|image| Some(Target::of(view(resource)?, image)));
    let template = target.as_ref().map(|target| target.template.as_str());
    let mut counted = context.pods_of(&plan.namespace).count(&plan.namespace, &plan.name, template);
    let missing = missing(context, plan).await?;
    counted.missing = i32::try_from(missing.len()).unwrap_or(i32::MAX);
    context.metrics.pods.count(plan, &counted);
    Ok(Fleet { counted, missing, target })
}

/// Pods of the resource that ask for a sidecar and have none.
async fn missing(context: &Context, plan: &Plan) -> Result<Vec<String>, Error> {
    let asking = context.pods_of(&plan.namespace).missing(&plan.namespace);
    if asking.is_empty() {
        return Ok(Vec::new());
    }
    let alone = is_alone(context, plan).await?;
    let meant = asking.into_iter().filter(|(_, resource)| is_meant(resource.as_deref(), &plan.name, alone));
    Ok(meant.map(|(pod, _)| pod).collect())
}

/// How many pods with a sidecar have not ended, by the API server's own word.
pub(super) async fn running(context: &Context, plan: &Plan) -> Result<usize, Error> {
    Ok(injected(context, plan).await?.iter().filter(|pod| !has_ended(pod)).count())
}

/// The pods of a resource that have a sidecar, whole.
pub(super) async fn injected(context: &Context, plan: &Plan) -> Result<Vec<Pod>, Error> {
    let api = Api::<Pod>::namespaced(context.client.clone(), &plan.namespace);
    let params = ListParams::default().labels(&format!("{}={}", names::INJECTED, plan.name)).match_any();
    Ok(call("list the pods with a sidecar", api.list(&params)).await?.items)
}

/// Whether a pod that names no resource means this one.
async fn is_alone(context: &Context, plan: &Plan) -> Result<bool, Error> {
    let api = Api::<ContextManager>::namespaced(context.client.clone(), &plan.namespace);
    let two = ListParams::default().limit(2);
    Ok(call("list the resources of a namespace", api.list_metadata(&two)).await?.items.len() == 1)
}

fn is_meant(named: Option<&str>, resource: &str, alone: bool) -> bool {
    named.map_or(alone, |name| name == resource)
}

/// The resource as injection sees it.
pub(super) fn view(resource: &ContextManager) -> Option<inject::Resource> {
    let object: DynamicObject = serde_json::from_value(serde_json::to_value(resource).ok()?).ok()?;
    view::resource(&object)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_needs_a_new_pod_makes_another_template() {
        let resource = |spec: serde_json::Value| crate::controller::plan::tests::resource(&spec);
        let of = |spec, image| Target::of(view(&resource(spec)).unwrap(), image).template;
        let base = of(json!({}), "sidecar:1");
        assert_eq!(base, of(json!({"gc": {"interval": "7s"}}), "sidecar:1"), "it is reloaded");
        assert_ne!(base, of(json!({}), "sidecar:2"));
        assert_ne!(base, of(json!({"sidecar": {"image": "other:1"}}), "sidecar:1"));
        assert_ne!(base, of(json!({"sidecar": {"adminPort": 9001}}), "sidecar:1"));
    }

    #[test]
    fn a_pod_that_names_no_resource_means_the_only_one() {
        assert!(is_meant(Some("x"), "x", false) && !is_meant(Some("x"), "y", true));
        assert!(is_meant(None, "x", true) && !is_meant(None, "x", false));
    }
}
