//! What the cluster says of a resource and its pods.

use context_manager_crds::context_manager::status::FailedImage;
use context_manager_operator::{
    inject::Resource,
    upgrade::{Request, Target},
    webhook::view,
};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{ResourceExt as _, api::DynamicObject};
use serde_json::Value;

use super::plan::{Asked, Plan, Said, Wanted};
use crate::{
    cluster::Cluster,
    error::Error,
    operator::{self, Component},
    status::{detail::pods, summary},
};

/// What is the same for all resources.
pub(super) struct Looker<'c> {
    cluster: &'c Cluster,
    images: Images,
}

/// Where the images of resources that name none are from.
enum Images {
    Given(String),
    Of(Vec<Deployment>),
    Unknown(String),
}

impl<'c> Looker<'c> {
    pub(super) async fn new(cluster: &'c Cluster, given: Option<String>) -> Self {
        let images = match given {
            Some(image) => Images::Given(image),
            None => match operator::deployments(cluster, Component::Webhook).await {
                Ok(webhooks) if webhooks.is_empty() => {
                    Images::Unknown(format!("no webhook is installed in namespace {:?}", cluster.operator_namespace))
                }
                Ok(webhooks) => Images::Of(webhooks),
                Err(error) => Images::Unknown(error.to_string()),
            },
        };
        Self { cluster, images }
    }

    /// Why a resource is another operator's, if it is: that one knows what its pods would get.
    pub(super) fn is_of_another(&self, object: &DynamicObject) -> Option<String> {
        let resource = view::resource(object)?;
        let Images::Of(webhooks) = &self.images else { return None };
        let nobody = matches!(operator::image_for(webhooks, &resource), Ok(None));
        nobody.then(|| operator::nobody_serves(self.cluster, &resource))
    }

    fn image(&self, resource: &Resource) -> Result<String, String> {
        match (&resource.image, &self.images) {
            (Some(image), _) | (None, Images::Given(image)) => Ok(image.clone()),
            (None, Images::Unknown(why)) => Err(why.clone()),
            (None, Images::Of(webhooks)) => {
                let image = operator::image_for(webhooks, resource).map_err(|error| error.to_string())?;
                image.ok_or_else(|| operator::nobody_serves(self.cluster, resource))
            }
        }
    }

    /// A resource with its pods; nothing if it is being deleted.
    pub(super) async fn plan(&self, object: &DynamicObject, wanted: Wanted) -> Result<Option<Plan>, Error> {
        let Some(resource) = view::resource(object) else { return Ok(None) };
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let image = self.image(&resource).map_err(|why| {
            Error::Refused(format!(
                "{why}; so it is not known what the pods of {namespace}/{name} would get: pass --sidecar-image or --operator-namespace"
            ))
        })?;
        let pods = pods(self.cluster, &namespace, &name, &resource.allowed_namespaces).await?;
        let target = Target::of(resource, &image);
        let configured = object.data.pointer("/spec/sidecar/upgrade/strategy").cloned().unwrap_or(Value::Null);
        let request = Request::of(&object.metadata);
        let asked = Asked {
            // A strategy of another version is none that this one could speak of.
            configured: serde_json::from_value::<Option<_>>(configured).ok().flatten().unwrap_or_default(),
            before: request.as_ref().and_then(|request| request.strategy_for(&target.image)),
            wanted,
            forgiven: request.as_ref().and_then(|request| request.forgives(&target.image)),
            failed: failed(object).filter(|failed| failed.image == target.image).map(|failed| failed.at.0),
        };
        let suspended = object.data.pointer("/spec/suspend").and_then(Value::as_bool).unwrap_or_default();
        let generation = object.metadata.generation.unwrap_or_default();
        let mut plan = Plan::new((namespace, name, generation), &target, asked, &pods);
        plan.said = said(object);
        if suspended {
            plan.suspend();
        }
        Ok(Some(plan))
    }
}

/// The image that failed, as the operator remembers it.
fn failed(object: &DynamicObject) -> Option<FailedImage> {
    serde_json::from_value(object.data.pointer("/status/upgrade/failed")?.clone()).ok()
}

/// What the condition of this generation says, if there is one.
fn said(object: &DynamicObject) -> Option<Said> {
    let conditions = summary(object).status.conditions;
    let found = conditions.into_iter().find(|said| said.type_ == "SidecarsCurrent")?;
    let current = found.observed_generation == object.metadata.generation;
    current.then_some(Said { reason: found.reason, message: found.message })
}
