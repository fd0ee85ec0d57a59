//! The pods of a resource, counted for the status.

use context_manager_crds::{ContextManager, context_manager::status::Pods};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DynamicObject, ListParams},
};

use super::{
    context::Context,
    error::{Error, call},
    grants::Grants,
    pages::each_pod,
    plan::Plan,
    pods::Owner,
};
use crate::{
    inject,
    pods::{has_ended, selector},
    upgrade::Target,
    webhook::view,
};

/// What was found of a resource's pods.
pub(super) struct Fleet {
    /// How many there are.
    pub(super) counted: Pods,
    /// Those that ask for one by their label and have none, though the webhook is asked about their namespace.
    pub(super) missing: Vec<PodName>,
    /// Namespaces of theirs that the webhook is not asked about: what takes the place of a pod there has no sidecar either.
    pub(super) left_out: Vec<String>,
    /// What they would get now, if that is known.
    pub(super) target: Option<Target>,
}

/// A pod, in whichever namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PodName {
    pub(super) namespace: String,
    pub(super) name: String,
    /// Who makes another one in its place, if anybody does.
    pub(super) owner: Option<Owner>,
}

impl PodName {
    /// What a person who reads the resource's status calls it.
    pub(super) fn title(&self, plan: &Plan) -> String {
        if self.namespace == plan.namespace { self.name.clone() } else { format!("{}/{}", self.namespace, self.name) }
    }
}

/// Looks at the pods of a resource, in its own namespace and in those that it allows.
pub(super) async fn look(
    context: &Context,
    plan: &Plan,
    resource: &ContextManager,
    grants: &Grants,
    left_out: Vec<String>,
) -> Result<Fleet, Error> {
    let target = context.sidecar_image.as_ref().and_then(|image| Some(Target::of(view(resource)?, image)));
    let template = target.as_ref().map(|target| target.template.clone());
    context.pods_of(&plan.namespace).listed().await?;
    let mut counted = context.pods_of(&plan.namespace).count(&plan.namespace, (None, &plan.name), template.as_deref());
    let mut missing = if left_out.contains(&plan.namespace) { Vec::new() } else { missing(context, plan).await? };
    let granted = (!grants.namespaces().is_empty()).then(|| target.as_ref().map(|target| target.granted().template));
    for namespace in grants.namespaces() {
        let (pods, owner) = (context.pods_of(namespace), (Some(plan.namespace.as_str()), plan.name.as_str()));
        pods.listed().await?;
        let Pods { injected, ready, outdated, missing: _ } =
            pods.count(namespace, owner, granted.as_ref().and_then(|template| template.as_deref()));
        counted.injected += injected;
        counted.ready += ready;
        counted.outdated += outdated;
        if left_out.contains(namespace) {
            continue;
        }
        let named = format!("{}/{}", plan.namespace, plan.name);
        let asking = pods.missing(namespace).into_iter().filter(|(.., wanted)| wanted.as_ref() == Some(&named));
        missing.extend(asking.map(|(name, owner, _)| PodName { namespace: namespace.clone(), name, owner }));
    }
    counted.missing = i32::try_from(missing.len()).unwrap_or(i32::MAX);
    context.metrics.pods.count(plan, &counted);
    Ok(Fleet { counted, missing, left_out, target })
}

/// Pods of the resource's namespace that mean it, ask for a sidecar and have none.
async fn missing(context: &Context, plan: &Plan) -> Result<Vec<PodName>, Error> {
    let asking = context.pods_of(&plan.namespace).missing(&plan.namespace);
    if asking.is_empty() {
        return Ok(Vec::new());
    }
    let alone = is_alone(context, plan).await?;
    let meant = asking.into_iter().filter(|(.., wanted)| is_meant(wanted.as_deref(), plan, alone));
    Ok(meant.map(|(name, owner, _)| PodName { namespace: plan.namespace.clone(), name, owner }).collect())
}

/// How many pods with a sidecar have not ended, by the API server's own word.
pub(super) async fn running(context: &Context, plan: &Plan) -> Result<usize, Error> {
    let granted: Vec<_> = plan.grants.namespaces.iter().filter(|at| context.scope.contains(at)).cloned().collect();
    let mut running = 0;
    each_injected(context, plan, &granted, |pod| running += usize::from(!has_ended(pod))).await?;
    Ok(running)
}

/// Shows each pod of a resource that has a sidecar, in its own namespace and in these.
pub(super) async fn each_injected(
    context: &Context,
    plan: &Plan,
    granted: &[String],
    mut look: impl FnMut(&Pod),
) -> Result<(), Error> {
    let own = (plan.namespace.as_str(), None);
    let others = granted.iter().map(|namespace| (namespace.as_str(), Some(plan.namespace.as_str())));
    for (namespace, from) in std::iter::once(own).chain(others) {
        each_pod(&context.client, namespace, &selector(&plan.name, from), &mut look).await?;
    }
    Ok(())
}

/// Whether a pod that names no resource means this one.
async fn is_alone(context: &Context, plan: &Plan) -> Result<bool, Error> {
    let api = Api::<ContextManager>::namespaced(context.client.clone(), &plan.namespace);
    let two = ListParams::default().limit(2);
    Ok(call("list the resources of a namespace", api.list_metadata(&two)).await?.items.len() == 1)
}

fn is_meant(named: Option<&str>, plan: &Plan, alone: bool) -> bool {
    named.map_or(alone, |named| match named.split_once('/') {
        Some((namespace, name)) => namespace == plan.namespace && name == plan.name,
        None => named == plan.name,
    })
}

/// The resource as injection sees it.
pub(super) fn view(resource: &ContextManager) -> Option<inject::Resource> {
    let object: DynamicObject = serde_json::from_value(serde_json::to_value(resource).ok()?).ok()?;
    view::resource(&object)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use http::{Request, Response};
    use kube::{Client, client::Body};
    use serde_json::json;
    use tower::service_fn;

    use super::*;
    use crate::controller::context::tests::context_with;

    #[tokio::test]
    async fn pods_that_the_webhook_is_not_asked_about_are_not_missing_a_sidecar() {
        let service = service_fn(|_: Request<Body>| async {
            let kind = "PartialObjectMetadataList";
            let nothing =
                json!({"apiVersion": "meta.k8s.io/v1", "kind": kind, "metadata": {}, "items": []}).to_string();
            Ok::<_, kube::Error>(Response::new(Body::from(nothing.into_bytes())))
        });
        let context = context_with(&Client::new(service, "default"), |settings| settings);
        context.pods_of("team").list_missing(&["team", "elsewhere"], "memory");
        let resource = crate::controller::plan::tests::resource(&json!({}));
        let plan = Plan::of(&resource).unwrap();
        for (left_out, missing) in [(Vec::new(), 1), (vec!["elsewhere".to_owned()], 1), (vec!["team".to_owned()], 0)] {
            let fleet = look(&context, &plan, &resource, &Grants::default(), left_out.clone()).await.unwrap();
            assert_eq!(
                (fleet.missing.len(), fleet.counted.missing),
                (missing, i32::from(missing == 1)),
                "{left_out:?}"
            );
        }
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
    fn amounts_that_are_numbers_make_the_template_that_the_webhook_makes() {
        for resources in
            [json!({"requests": {"cpu": 1}, "limits": {"memory": 1_073_741_824}}), json!({"limits": {"cpu": "2"}})]
        {
            let spec = json!({"sidecar": {"resources": resources}});
            let raw = json!({"metadata": {"name": "memory", "namespace": "team"}, "spec": spec});
            let raw: DynamicObject = serde_json::from_value(raw).unwrap();
            let typed = view(&crate::controller::plan::tests::resource(&spec)).unwrap();
            let [of_webhook, of_controller] =
                [view::resource(&raw).unwrap(), typed].map(|seen| Target::of(seen, "sidecar:1").template);
            assert_eq!(of_webhook, of_controller, "{resources}");
        }
    }

    #[test]
    fn a_pod_that_names_no_resource_means_the_only_one() {
        let plan = Plan::of(&crate::controller::plan::tests::resource(&json!({}))).unwrap();
        assert!(is_meant(Some("memory"), &plan, false) && !is_meant(Some("y"), &plan, true));
        assert!(is_meant(None, &plan, true) && !is_meant(None, &plan, false));
        assert!(is_meant(Some("team/memory"), &plan, false) && !is_meant(Some("other/memory"), &plan, true));
    }
}
