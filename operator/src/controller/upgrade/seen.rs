//! A pod as an upgrade sees it: pure.

use context_manager_protocol::names;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};
use kube::ResourceExt as _;

use super::rests::Rest;
use crate::{
    pods,
    upgrade::{Note, Standing, Target, workload},
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

/// A pod with a sidecar.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Seen {
    /// What a person who reads the resource's status calls it.
    pub(super) name: String,
    /// Its namespace and name.
    pub(super) place: (String, String),
    /// Tells it from another one of the same name.
    pub(super) uid: Option<String>,
    /// Whether it is of another namespace than the resource.
    pub(super) granted: bool,
    /// The list of the pod's spec that the sidecar stands in.
    pub(super) list: &'static str,
    /// Where the sidecar is in it.
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
    /// Since when it has been running.
    pub(super) running: Option<Timestamp>,
    /// Why the sidecar does not start.
    pub(super) stuck: Option<String>,
    /// Whether the pod is being deleted.
    pub(super) leaving: bool,
    /// Whether its work is over.
    pub(super) ended: bool,
    /// What makes another one in its place, if anything does.
    pub(super) workload: Option<String>,
    pub(super) created: Timestamp,
    pub(super) note: Option<Note>,
    /// What is known if it had to stay as it is.
    pub(super) rest: Option<Rest>,
}

impl Seen {
    /// What there is to see; nothing if the pod has no sidecar.
    pub(super) fn of(pod: &Pod, target: &Target) -> Option<Self> {
        let (list, index) = pods::sidecar_place(pod)?;
        let image = pods::sidecar(pod)?.image.clone()?;
        let template = pod.annotations().get(names::INJECTED_TEMPLATE).cloned();
        let sidecar = pods::sidecar_status(pod);
        let (namespace, name) = (pod.metadata.namespace.clone().unwrap_or_default(), pod.metadata.name.clone()?);
        Some(Self {
            name: pods::title(pod),
            place: (namespace, name),
            uid: pod.metadata.uid.clone(),
            granted: pods::used_from(pod).is_some(),
            list,
            index,
            image,
            template,
            standing: target.standing(pod),
            ready: sidecar.is_some_and(|sidecar| sidecar.ready),
            restarts: sidecar.map_or(0, |sidecar| sidecar.restart_count),
            ran: sidecar.is_some_and(ran),
            running: sidecar.and_then(running),
            stuck: sidecar.and_then(stuck),
            leaving: pod.metadata.deletion_timestamp.is_some(),
            ended: pods::has_ended(pod),
            workload: workload(pod),
            created: pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            note: Note::of(pod),
            rest: None,
        })
    }

    /// Whether it is neither ended nor about to be.
    pub(super) const fn is_alive(&self) -> bool {
        !self.leaving && !self.ended
    }

    /// Whether it is left alone for now.
    pub(super) fn rests(&self, now: Timestamp) -> bool {
        self.rest.as_ref().is_some_and(|rest| rest.until > now)
    }
}

fn ran(sidecar: &ContainerStatus) -> bool {
    let states = [&sidecar.state, &sidecar.last_state];
    let did = |state: &ContainerState| state.running.is_some() || state.terminated.is_some();
    states.into_iter().flatten().any(did)
}

fn running(sidecar: &ContainerStatus) -> Option<Timestamp> {
    let running = sidecar.state.as_ref()?.running.as_ref()?;
    running.started_at.as_ref().map(|time| time.0)
}

fn stuck(sidecar: &ContainerStatus) -> Option<String> {
    let reason = sidecar.state.as_ref()?.waiting.as_ref()?.reason.clone()?;
    STUCK.contains(&reason.as_str()).then_some(reason)
}
