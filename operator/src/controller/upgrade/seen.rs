//! A pod as an upgrade sees it: pure.

use context_manager_protocol::names;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ContainerState, ContainerStatus, Pod},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::ResourceExt as _;
use serde::{Deserialize, Serialize};

use crate::{
    inject::{self, Resource},
    pods,
};

/// Why a container does not start; each ends only when somebody changes something.
const STUCK: [&str; 8] = [
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
];
/// Controllers that make another pod for one that is evicted. A Job does so as well, and begins its work anew.
const MAKE_ANOTHER: [&str; 3] = ["DaemonSet", "ReplicaSet", "StatefulSet"];

/// What sidecars are to be.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::controller) struct Target {
    /// The image.
    pub(in crate::controller) image: String,
    /// The hash of what any pod of the resource gets.
    pub(in crate::controller) template: String,
    /// What they are made from.
    pub(in crate::controller) resource: Resource,
}

impl Target {
    /// What pods of the resource get now.
    pub(in crate::controller) fn of(resource: Resource, default_image: &str) -> Self {
        let template = inject::template(&resource, default_image);
        let image = resource.image.clone().unwrap_or_else(|| default_image.to_owned());
        Self { image, template, resource }
    }

    /// What a pod would have got if only the image had been another one.
    fn template_with(&self, image: &str) -> String {
        inject::template(&Resource { image: Some(image.to_owned()), ..self.resource.clone() }, image)
    }
}

/// How far a pod is from what it would get now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It has just that.
    Current,
    /// Only its image is another one.
    OtherImage,
    /// It takes a new pod.
    OtherSettings,
}

/// What an upgrade in place wrote on its pod: whoever leads knows from it how the upgrade went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Note {
    /// The image before.
    pub(super) from: String,
    /// The template before.
    pub(super) from_template: String,
    /// The image after.
    pub(super) to: String,
    /// When it was replaced.
    pub(super) at: Timestamp,
    /// How often the sidecar will have been restarted when the kubelet has done its part.
    pub(super) restarts: i32,
    /// Whether the sidecar was ready before.
    pub(super) was_ready: bool,
    /// How it went.
    pub(super) outcome: Outcome,
}

/// How an upgrade in place went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Outcome {
    /// It was begun; the pod's status says the rest.
    Begun,
    /// The image before is there again.
    Restored,
}

/// A pod that has not ended.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Seen {
    pub(super) name: String,
    /// Where the sidecar is among the init containers.
    pub(super) index: usize,
    /// The sidecar's image.
    pub(super) image: String,
    /// The template that the pod carries.
    pub(super) template: Option<String>,
    pub(super) standing: Standing,
    /// Whether the sidecar is ready.
    pub(super) ready: bool,
    pub(super) restarts: i32,
    /// Whether the sidecar ever ran.
    pub(super) ran: bool,
    /// Why the sidecar does not start.
    pub(super) stuck: Option<String>,
    /// Whether the pod is being deleted.
    pub(super) leaving: bool,
    /// Whether a controller makes another one in its place.
    pub(super) replaceable: bool,
    pub(super) created: Timestamp,
    pub(super) note: Option<Note>,
}

impl Seen {
    /// What there is to see; nothing if the pod has ended or has no sidecar among its init containers.
    pub(super) fn of(pod: &Pod, target: &Target) -> Option<Self> {
        if pods::has_ended(pod) {
            return None;
        }
        let containers = pod.spec.as_ref()?.init_containers.as_ref()?;
        let index = containers.iter().position(|container| container.name == names::CONTAINER)?;
        let image = containers.get(index)?.image.clone()?;
        let template = pod.annotations().get(names::INJECTED_TEMPLATE).cloned();
        let standing = match template.as_deref() {
            Some(template) if template == target.template => Standing::Current,
            Some(template) if template == target.template_with(&image) => Standing::OtherImage,
            Some(_) | None => Standing::OtherSettings,
        };
        let sidecar = pods::sidecar_status(pod);
        Some(Self {
            name: pod.metadata.name.clone()?,
            index,
            image,
            template,
            standing,
            ready: sidecar.is_some_and(|sidecar| sidecar.ready),
            restarts: sidecar.map_or(0, |sidecar| sidecar.restart_count),
            ran: sidecar.is_some_and(ran),
            stuck: sidecar.and_then(stuck),
            leaving: pod.metadata.deletion_timestamp.is_some(),
            replaceable: replacer(pod).is_some(),
            created: pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            // What somebody made unreadable counts as not said.
            note: pod.annotations().get(names::UPGRADE).and_then(|note| serde_json::from_str(note).ok()),
        })
    }
}

/// The controller that makes another pod in place of one that is evicted, if there is one.
pub(in crate::controller) fn replacer(pod: &Pod) -> Option<&OwnerReference> {
    pods::controller_of(&pod.metadata).filter(|owner| MAKE_ANOTHER.contains(&owner.kind.as_str()))
}

fn ran(sidecar: &ContainerStatus) -> bool {
    let states = [&sidecar.state, &sidecar.last_state];
    let did = |state: &ContainerState| state.running.is_some() || state.terminated.is_some();
    states.into_iter().flatten().any(did)
}

fn stuck(sidecar: &ContainerStatus) -> Option<String> {
    let reason = sidecar.state.as_ref()?.waiting.as_ref()?.reason.clone()?;
    STUCK.contains(&reason.as_str()).then_some(reason)
}
