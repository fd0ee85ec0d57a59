//! How far a running pod's sidecar is from what a new pod would get, and who wants it brought there: pure, and read alike by the
//! controller and the command line.

use context_manager_crds::context_manager::sidecar::UpgradeStrategy;
use context_manager_protocol::names;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::Pod,
    apimachinery::pkg::apis::meta::v1::{OwnerReference, Time},
};
use kube::{ResourceExt as _, api::ObjectMeta};
use serde::{Deserialize, Serialize};

use crate::{
    inject::{self, Resource, Storage},
    pods,
};

/// Controllers that make another pod for one that is evicted. A Job does so as well, and begins its work anew.
const MAKE_ANOTHER: [&str; 3] = ["DaemonSet", "ReplicaSet", "StatefulSet"];
/// The label by which a Deployment tells the pods of its revisions apart.
pub(crate) const TEMPLATE_HASH: &str = "pod-template-hash";
/// The same of a Rollout of Argo.
pub(crate) const ROLLOUT_HASH: &str = "rollouts-pod-template-hash";

/// What sidecars are to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The image.
    pub image: String,
    /// The hash of what any pod of the resource gets.
    pub template: String,
    /// What they are made from.
    pub resource: Resource,
}

impl Target {
    /// What pods of the resource get now.
    #[must_use]
    pub fn of(resource: Resource, default_image: &str) -> Self {
        let template = inject::template(&resource, default_image);
        let image = resource.image.clone().unwrap_or_else(|| default_image.to_owned());
        Self { image, template, resource }
    }

    /// The same for pods of other namespaces that may use the resource.
    #[must_use]
    pub fn granted(&self) -> Self {
        Self::of(self.resource.granted(), &self.image)
    }

    /// Whether each agent's memory lies in its pod alone, and ends with it. Beside a server a pod has a journal, which is brought there.
    #[must_use]
    pub const fn keeps_memory_in_pods(&self) -> bool {
        matches!(self.resource.storage, Storage::EmptyDir { .. }) && self.resource.store_secret.is_none()
    }

    /// How far a pod is from it. One without a sidecar has everything to get.
    #[must_use]
    pub fn standing(&self, pod: &Pod) -> Standing {
        if pods::used_from(pod).is_some() && !self.resource.granted {
            return self.granted().standing(pod);
        }
        let image = pods::sidecar(pod).and_then(|sidecar| sidecar.image.as_deref()).unwrap_or_default();
        match pod.annotations().get(names::INJECTED_TEMPLATE) {
            Some(template) if *template == self.template => Standing::Current,
            Some(template) if *template == self.template_with(image) => Standing::OtherImage,
            Some(_) | None => Standing::OtherSettings,
        }
    }

    /// What a pod would have got if only the image had been another one.
    fn template_with(&self, image: &str) -> String {
        inject::template(&Resource { image: Some(image.to_owned()), ..self.resource.clone() }, image)
    }
}

/// How far a pod is from what it would get now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Standing {
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
pub struct Note {
    /// The image before.
    pub from: String,
    /// The template before.
    pub from_template: String,
    /// The image after.
    pub to: String,
    /// When it was replaced.
    pub at: Timestamp,
    /// How often the sidecar will have been restarted when the kubelet has done its part.
    pub restarts: i32,
    /// Whether the sidecar was ready before.
    pub was_ready: bool,
    /// How it went.
    pub outcome: Outcome,
}

/// How an upgrade in place went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was begun; the pod's status says the rest.
    Begun,
    /// The image before is there again.
    Restored,
}

impl Note {
    /// What stands on a pod. What somebody made unreadable counts as not said.
    #[must_use]
    pub fn of(pod: &Pod) -> Option<Self> {
        serde_json::from_str(pod.annotations().get(names::UPGRADE)?).ok()
    }
}

/// One upgrade that a person asked for, as the annotation [`names::UPGRADE_SIDECARS`] of the resource. It is in force for what pods get
/// now: another image, or another spec, is another upgrade, and that one is the spec's choice again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// What is to be done with a pod that is outdated.
    pub strategy: UpgradeStrategy,
    /// The image that pods are to have.
    pub image: String,
    /// The generation of the resource.
    pub generation: i64,
    /// The failure of the image that is not to count any more, by its time: it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<Time>,
}

impl Request {
    /// What stands on a resource, if it is about its generation. What somebody made unreadable counts as not said.
    #[must_use]
    pub fn of(resource: &ObjectMeta) -> Option<Self> {
        let text = resource.annotations.as_ref()?.get(names::UPGRADE_SIDECARS)?;
        let request: Self = serde_json::from_str(text).ok()?;
        (Some(request.generation) == resource.generation).then_some(request)
    }

    /// Up to when failures of this image do not count, if it was asked for again.
    #[must_use]
    pub fn forgives(&self, image: &str) -> Option<Timestamp> {
        self.again.as_ref().filter(|_| self.image == image).map(|Time(at)| *at)
    }

    /// The strategy, if it was asked for this image.
    #[must_use]
    pub fn strategy_for(&self, image: &str) -> Option<UpgradeStrategy> {
        (self.image == image).then_some(self.strategy)
    }
}

/// The controller that makes another pod in place of one that is evicted, if there is one.
#[must_use]
pub fn replacer(pod: &ObjectMeta) -> Option<&OwnerReference> {
    pods::controller_of(pod).filter(|owner| MAKE_ANOTHER.contains(&owner.kind.as_str()))
}

/// What makes another pod in place of one that is evicted: its namespace, kind and name. That of a `ReplicaSet` is without the hash that a
/// Deployment, or a Rollout of Argo, gives each of its revisions, so it stays the same in a rollout.
#[must_use]
pub fn workload(pod: &Pod) -> Option<String> {
    let owner = replacer(&pod.metadata)?;
    let without = |label: &str| owner.name.strip_suffix(pod.labels().get(label)?.as_str())?.strip_suffix('-');
    let revision = [TEMPLATE_HASH, ROLLOUT_HASH].into_iter().find_map(without);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    Some(format!("{namespace}/{}/{}", owner.kind, revision.unwrap_or(&owner.name)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_request_is_in_force_for_its_image_and_its_generation_alone() {
        let asked = |value: &str, generation: i64| {
            let metadata = json!({"generation": generation, "annotations": {names::UPGRADE_SIDECARS: value}});
            Request::of(&serde_json::from_value(metadata).expect("metadata"))
        };
        let again = Some(Time(Timestamp::from_second(1_000_000).expect("a time")));
        let request =
            Request { strategy: UpgradeStrategy::InPlace, image: "sidecar:2".to_owned(), generation: 3, again };
        let text = json!(request).to_string();
        assert_eq!(asked(&text, 3), Some(request.clone()));
        assert_eq!(asked(&text, 4), None);
        assert_eq!(asked("InPlace", 3), None);
        assert_eq!(request.strategy_for("sidecar:2"), Some(UpgradeStrategy::InPlace));
        assert_eq!(request.strategy_for("sidecar:3"), None);
        assert_eq!(request.forgives("sidecar:2"), Timestamp::from_second(1_000_000).ok());
        assert_eq!(request.forgives("sidecar:3"), None);
        // As earlier versions wrote it.
        let plain = asked(r#"{"strategy":"InPlace","image":"sidecar:2","generation":3}"#, 3).expect("a request");
        assert_eq!(plain.forgives("sidecar:2"), None);
    }
    #[test]
    fn revisions_of_a_deployment_are_one_workload() {
        let by = |label: &str, kind: &str, name: &str, hash: Option<&str>| {
            let pod = json!({"metadata": {
                "namespace": "team", "name": "x", "labels": hash.map(|hash| json!({label: hash})),
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "u", "controller": true}],
            }});
            workload(&serde_json::from_value(pod).expect("a pod"))
        };
        let of = |kind: &str, name: &str, hash: Option<&str>| by(TEMPLATE_HASH, kind, name, hash);
        let deployment = Some("team/ReplicaSet/agent".to_owned());
        assert_eq!(by(ROLLOUT_HASH, "ReplicaSet", "agent-5c9", Some("5c9")), deployment);
        assert_eq!(of("ReplicaSet", "agent-5c9", Some("5c9")), deployment);
        assert_eq!(of("ReplicaSet", "agent-7d2", Some("7d2")), deployment);
        assert_eq!(of("ReplicaSet", "agent-5c9", None).as_deref(), Some("team/ReplicaSet/agent-5c9"));
        assert_eq!(of("StatefulSet", "agent", None).as_deref(), Some("team/StatefulSet/agent"));
        assert_eq!(of("Job", "agent", None), None, "it would begin its work anew");
    }
}
