//! The pods of the nodes, as far as it matters for what is done with them.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use context_manager_protocol::names;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, PodCondition};
use kube::{Api, ResourceExt as _, api::ListParams};

use super::{build, config};
use crate::controller::{
    context::Context,
    error::{Error, call},
    plan::Plan,
};

/// Label by which the controller of a `StatefulSet` says from which template it made a pod.
const REVISION: &str = "controller-revision-hash";
/// How long a node may be on its way without being taken for broken.
const STARTING: Duration = Duration::from_mins(1);

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    /// Its place in the set.
    pub(super) ordinal: i32,
    /// Its pod.
    pub(super) name: String,
    /// Tells the pod from another one of the same name.
    pub(super) uid: String,
    /// The name that its certificate is for.
    pub(super) host: String,
    /// Where it is asked.
    pub(super) address: Option<SocketAddr>,
    /// The template that it was made from.
    pub(super) revision: String,
    /// Whether it takes part.
    pub(super) is_ready: bool,
    /// Whether it is ending.
    pub(super) is_leaving: bool,
    /// Why it cannot run, if the cluster says so.
    pub(super) fault: Option<String>,
    /// Since when it is or is not ready.
    pub(super) since: Option<Timestamp>,
}

impl Node {
    /// The node of a pod.
    pub(super) fn of(pod: &Pod, plan: &Plan) -> Option<Self> {
        let name = pod.metadata.name.clone()?;
        let ordinal = name.strip_prefix(&names::qdrant(&plan.name))?.strip_prefix('-')?.parse().ok()?;
        let status = pod.status.clone().unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let said = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind);
        let ready = said("Ready");
        let address = status.pod_ip.as_deref().and_then(|address| address.parse::<IpAddr>().ok());
        let containers = status.container_statuses.unwrap_or_default();
        Some(Self {
            ordinal,
            host: format!("{name}.{}.{}.svc", names::qdrant_peers(&plan.name), plan.namespace),
            name,
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            address: address.map(|address| SocketAddr::new(address, config::REST)),
            revision: pod.labels().get(REVISION).cloned().unwrap_or_default(),
            is_ready: ready.is_some_and(|ready| ready.status == "True"),
            is_leaving: pod.metadata.deletion_timestamp.is_some(),
            fault: fault(said("PodScheduled"), &containers),
            since: ready
                .and_then(|ready| ready.last_transition_time.clone())
                .or_else(|| pod.metadata.creation_timestamp.clone())
                .map(|time| time.0),
        })
    }

    /// Whether it is of no use and will hardly become so by itself.
    pub(super) fn is_broken(&self, now: Timestamp) -> bool {
        !self.is_ready && !self.is_leaving && (self.fault.is_some() || self.has_been_so(STARTING, now))
    }

    /// Whether it has been ready or not for so long.
    pub(super) fn has_been_so(&self, long: Duration, now: Timestamp) -> bool {
        let passed = self.since.and_then(|since| Duration::try_from(now.duration_since(since)).ok());
        passed.is_some_and(|passed| passed >= long)
    }
}

/// Why a pod cannot run.
fn fault(scheduled: Option<&PodCondition>, containers: &[ContainerStatus]) -> Option<String> {
    if let Some(refused) = scheduled.filter(|scheduled| scheduled.status == "False") {
        return Some(refused.reason.clone().unwrap_or_else(|| "Unschedulable".to_owned()));
    }
    let ContainerState { running: _, terminated, waiting } = containers.first()?.state.clone()?;
    let waits = waiting.and_then(|waiting| waiting.reason).filter(|reason| reason != "ContainerCreating");
    waits.or_else(|| terminated.map(|ended| format!("ended with code {}", ended.exit_code)))
}

/// The nodes that have a pod, in order.
pub(super) async fn fetch(context: &Context, plan: &Plan) -> Result<Vec<Node>, Error> {
    let api = Api::<Pod>::namespaced(context.client.clone(), &plan.namespace);
    let ours = ListParams::default().labels(&build::node_selector(plan));
    let pods = call("list the pods of the managed Qdrant", api.list(&ours)).await?;
    let mut nodes: Vec<_> = pods.items.iter().filter_map(|pod| Node::of(pod, plan)).collect();
    nodes.sort_by_key(|node| node.ordinal);
    Ok(nodes)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::controller::plan::tests::resource;

    fn node(status: &Value) -> Node {
        let plan = Plan::of(&resource(&json!({"vectorStore": {"managed": {}}}))).unwrap();
        let metadata = json!({
            "name": "memory-context-qdrant-2", "uid": "u", "labels": {"controller-revision-hash": "r"},
            "creationTimestamp": "2026-11-26T10:00:00Z",
        });
        let pod = serde_json::from_value(json!({"metadata": metadata, "status": status})).unwrap();
        Node::of(&pod, &plan).unwrap()
    }

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    #[test]
    fn a_node_is_where_its_pod_is_under_the_name_of_its_certificate() {
        let found = node(&json!({
            "podIP": "10.1.2.3",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-26T10:01:00Z"}],
            "containerStatuses": [{"name": "qdrant", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                                   "state": {"running": {}}}],
        }));
        assert_eq!((found.ordinal, found.revision.as_str(), found.is_ready), (2, "r", true));
        assert_eq!(found.host, "memory-context-qdrant-2.memory-context-qdrant-peers.team.svc");
        assert_eq!(found.address, Some("10.1.2.3:6333".parse().unwrap()));
        assert!(!found.is_broken(at("2026-11-26T12:00:00Z")));
    }

    #[test]
    fn a_node_is_broken_when_it_cannot_run_or_has_not_been_ready_for_long() {
        let now = at("2026-11-26T10:00:30Z");
        assert!(!node(&json!({})).is_broken(now) && node(&json!({})).is_broken(at("2026-11-26T10:01:00Z")));
        let waiting = |reason: &str| {
            let state = json!({"waiting": {"reason": reason}});
            let status = json!({"name": "qdrant", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
            node(&json!({"containerStatuses": [status]}))
        };
        assert!(!waiting("ContainerCreating").is_broken(now));
        assert!(waiting("ErrImagePull").is_broken(now));
        let nowhere =
            node(&json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}));
        assert_eq!(nowhere.fault.as_deref(), Some("Unschedulable"));
        assert!(nowhere.is_broken(now));
    }
}
