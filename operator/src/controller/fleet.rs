//! The pods of a resource, counted for the status. Nothing is remembered of them from one look to the next.

use std::collections::BTreeMap;

use context_manager_crds::{ContextManager, context_manager::status::Pods};
use context_manager_protocol::names;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt as _,
    api::{DynamicObject, ListParams, PartialObjectMeta},
};

use super::{
    error::{Error, call},
    plan::Plan,
    reconcile::Context,
};
use crate::{
    inject,
    pods::{has_ended, sidecar_status},
    upgrade::Target,
    webhook::view,
};

/// What was found of a resource's pods.
pub(super) struct Fleet {
    /// How many there are.
    pub(super) counted: Pods,
    /// Those with a sidecar.
    pub(super) injected: Vec<Pod>,
    /// Those that ask for one by their label and have none.
    pub(super) missing: Vec<PartialObjectMeta<Pod>>,
    /// What they would get now, if that is known.
    pub(super) target: Option<Target>,
}

/// Looks at the pods of a resource.
pub(super) async fn look(context: &Context, plan: &Plan, resource: &ContextManager) -> Result<Fleet, Error> {
    let target = context.sidecar_image.as_ref().and_then(|image| Some(Target::of(view(resource)?, image)));
    let injected = injected(context, plan).await?;
    let mut counted = count(&injected, target.as_ref().map(|target| target.template.as_str()));
    let missing = missing(context, plan).await?;
    counted.missing = i32::try_from(missing.len()).unwrap_or(i32::MAX);
    context.metrics.pods.count(plan, &counted);
    Ok(Fleet { counted, injected, missing, target })
}

/// Pods of the resource that ask for a sidecar and have none. One that has ended needs none any more.
async fn missing(context: &Context, plan: &Plan) -> Result<Vec<PartialObjectMeta<Pod>>, Error> {
    let api = Api::<Pod>::namespaced(context.client.clone(), &plan.namespace);
    let asking = format!("{}=true,!{}", names::INJECT, names::INJECTED);
    let asking =
        ListParams::default().labels(&asking).fields("status.phase!=Succeeded,status.phase!=Failed").match_any();
    let mut asking = call("list the pods without a sidecar", api.list_metadata(&asking)).await?.items;
    asking.retain(|pod| pod.metadata.deletion_timestamp.is_none());
    if !asking.is_empty() {
        let alone = is_alone(context, plan).await?;
        asking.retain(|pod| is_meant(pod.annotations(), &plan.name, alone));
    }
    Ok(asking)
}

/// How many pods with a sidecar have not ended.
pub(super) async fn running(context: &Context, plan: &Plan) -> Result<i32, Error> {
    Ok(count(&injected(context, plan).await?, None).injected)
}

async fn injected(context: &Context, plan: &Plan) -> Result<Vec<Pod>, Error> {
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

fn is_meant(annotations: &BTreeMap<String, String>, resource: &str, alone: bool) -> bool {
    annotations.get(names::NAME).map_or(alone, |name| name == resource)
}

/// The resource as injection sees it.
pub(super) fn view(resource: &ContextManager) -> Option<inject::Resource> {
    let object: DynamicObject = serde_json::from_value(serde_json::to_value(resource).ok()?).ok()?;
    view::resource(&object)
}

fn count(pods: &[Pod], template: Option<&str>) -> Pods {
    let mut counted = Pods::default();
    for pod in pods.iter().filter(|pod| !has_ended(pod)) {
        counted.injected += 1;
        counted.ready += i32::from(sidecar_status(pod).is_some_and(|sidecar| sidecar.ready));
        // A pod of an earlier version has no such annotation, and other things than today.
        let is_current = |template| pod.annotations().get(names::INJECTED_TEMPLATE).is_some_and(|had| had == template);
        counted.outdated += i32::from(template.is_some_and(|template| !is_current(template)));
    }
    counted
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_that_live_are_counted_by_what_they_are() {
        let pod = |phase: &str, ready: bool, template: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"annotations": {names::INJECTED_TEMPLATE: template}},
                "status": {"phase": phase, "initContainerStatuses": [
                    {"name": names::CONTAINER, "ready": ready, "image": "i", "imageID": "i", "restartCount": 0}]},
            }))
            .unwrap()
        };
        let pods = [pod("Running", true, "a"), pod("Running", false, "b"), pod("Failed", false, "b"), Pod::default()];
        assert_eq!(count(&pods, Some("a")), Pods { injected: 3, ready: 1, outdated: 2, missing: 0 });
        assert_eq!(count(&pods, None).outdated, 0, "nothing is known of what they would get");
    }

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
        let named: BTreeMap<_, _> = [(names::NAME.to_owned(), "x".to_owned())].into();
        assert!(is_meant(&named, "x", false) && !is_meant(&named, "y", true));
        assert!(is_meant(&BTreeMap::new(), "x", true) && !is_meant(&BTreeMap::new(), "x", false));
    }
}
