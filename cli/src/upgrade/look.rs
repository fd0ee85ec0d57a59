//! What the cluster says of a resource and its pods.

use context_manager_crds::context_manager::status::FailedImage;
use context_manager_operator::{
    upgrade::{Request, Target},
    webhook::view,
};
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
    /// For resources that name no image.
    image: Result<String, String>,
}

impl<'c> Looker<'c> {
    pub(super) async fn new(cluster: &'c Cluster, given: Option<String>) -> Self {
        let image = match given {
            Some(image) => Ok(image),
            None => match operator::deployment(cluster, Component::Webhook).await {
                Ok(webhook) => webhook
                    .as_ref()
                    .and_then(operator::sidecar_image)
                    .ok_or_else(|| format!("no webhook is installed in namespace {:?}", cluster.operator_namespace)),
                Err(error) => Err(error.to_string()),
            },
        };
        Self { cluster, image }
    }

    /// A resource with its pods; nothing if it is being deleted.
    pub(super) async fn plan(&self, object: &DynamicObject, wanted: Wanted) -> Result<Option<Plan>, Error> {
        let Some(resource) = view::resource(object) else { return Ok(None) };
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let image = match (&resource.image, &self.image) {
            (Some(image), _) | (None, Ok(image)) => image.clone(),
            (None, Err(why)) => {
                return Err(Error::Refused(format!(
                    "{why}; so it is not known what the pods of {namespace}/{name} would get: pass --sidecar-image or --operator-namespace"
                )));
            }
        };
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
