//! What is decoded of a pod: what the controller reads, and no more. Whoever may create pods decides how large they are, and as objects
//! they take many times what they take as text.

use std::{borrow::Cow, collections::BTreeMap, fmt, marker::PhantomData};

use context_manager_protocol::names;
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Container, ContainerPort, ContainerStatus, EnvVar, Pod, PodSpec, PodStatus},
    apimachinery::pkg::apis::meta::v1::{OwnerReference, Time},
};
use kube::{Resource, api::ObjectMeta};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};

use crate::{
    inject::MIRROR,
    upgrade::{ROLLOUT_HASH, TEMPLATE_HASH},
};

/// Most items of a list that are kept, and the place by which a sidecar stands: injection makes it the first of its list.
const MOST: usize = 64;

/// Bytes of an annotation that are kept. None that means something is as long.
const LONGEST: usize = 4 << 10;
/// Labels and annotations that are read; whoever makes a pod may give it many others.
const READ: [&str; 9] = [
    MIRROR,
    ROLLOUT_HASH,
    TEMPLATE_HASH,
    names::INJECT,
    names::INJECTED,
    names::INJECTED_FROM,
    names::INJECTED_TEMPLATE,
    names::NAME,
    names::UPGRADE,
];

/// A pod, with its sidecar alone and of its metadata what somebody reads; `METADATA` if the API server is asked for no more.
#[derive(Clone, Debug)]
pub(in crate::controller) struct Lean<const METADATA: bool>(Pod);

/// A pod of which all is asked for.
pub(in crate::controller) type Whole = Lean<false>;
/// A pod of which the metadata alone are asked for.
pub(in crate::controller) type Metadata = Lean<true>;

impl<const METADATA: bool> Lean<METADATA> {
    /// What is known of it.
    pub(in crate::controller) const fn pod(&self) -> &Pod {
        &self.0
    }
}

impl<const METADATA: bool> Resource for Lean<METADATA> {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind(kind: &()) -> Cow<'_, str> {
        <Pod as Resource>::kind(kind)
    }

    fn group(kind: &()) -> Cow<'_, str> {
        <Pod as Resource>::group(kind)
    }

    fn version(kind: &()) -> Cow<'_, str> {
        <Pod as Resource>::version(kind)
    }

    fn plural(kind: &()) -> Cow<'_, str> {
        <Pod as Resource>::plural(kind)
    }

    fn metadata_api() -> bool {
        METADATA
    }

    fn meta(&self) -> &ObjectMeta {
        &self.0.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.0.metadata
    }
}

impl<'de, const METADATA: bool> Deserialize<'de> for Lean<METADATA> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Read { metadata, spec, status } = Read::deserialize(deserializer)?;
        Ok(Self(Pod { metadata: metadata.into(), spec: spec.map(Into::into), status: status.map(Into::into) }))
    }
}

#[derive(Deserialize)]
struct Read {
    #[serde(default)]
    metadata: Meta,
    spec: Option<Spec>,
    status: Option<Status>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    #[serde(default)]
    labels: Known,
    #[serde(default)]
    annotations: Known,
    #[serde(default)]
    owner_references: Few<OwnerReference>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
    #[serde(default)]
    init_containers: Few<Sidecar>,
    #[serde(default)]
    containers: Few<Sidecar>,
}

#[derive(Deserialize)]
struct Sidecar {
    #[serde(default)]
    name: String,
    image: Option<String>,
    #[serde(default)]
    env: Few<EnvVar>,
    #[serde(default)]
    ports: Few<ContainerPort>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(default)]
    init_container_statuses: Few<ContainerStatus>,
    #[serde(default)]
    container_statuses: Few<ContainerStatus>,
}

impl From<Meta> for ObjectMeta {
    fn from(
        Meta {
            name,
            namespace,
            uid,
            resource_version,
            creation_timestamp,
            deletion_timestamp,
            labels: Known(labels),
            annotations: Known(annotations),
            owner_references,
        }: Meta,
    ) -> Self {
        Self {
            name,
            namespace,
            uid,
            resource_version,
            creation_timestamp,
            deletion_timestamp,
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(owner_references.items()),
            ..Self::default()
        }
    }
}

impl From<Spec> for PodSpec {
    fn from(Spec { node_name, init_containers, containers }: Spec) -> Self {
        let (init_containers, containers) = (Some(placed(init_containers)), placed(containers));
        Self { node_name, init_containers, containers, ..Self::default() }
    }
}

/// The sidecar at its place, behind others of which nothing is known.
fn placed(Few(sidecars): Few<Sidecar>) -> Vec<Container> {
    let Some((place, Sidecar { name, image, env, ports })) = sidecars.into_iter().next() else { return Vec::new() };
    if place >= MOST {
        return Vec::new();
    }
    let mut containers = vec![Container::default(); place];
    let (env, ports) = (Some(env.items()), Some(ports.items()));
    containers.push(Container { name, image, env, ports, ..Container::default() });
    containers
}

impl From<Status> for PodStatus {
    fn from(Status { phase, pod_ip, init_container_statuses, container_statuses }: Status) -> Self {
        let init_container_statuses = Some(init_container_statuses.items());
        let container_statuses = Some(container_statuses.items());
        Self { phase, pod_ip, init_container_statuses, container_statuses, ..Self::default() }
    }
}

/// Whether an item of a list is read.
trait Item {
    fn is_read(&self) -> bool;
}

impl Item for OwnerReference {
    fn is_read(&self) -> bool {
        self.controller == Some(true)
    }
}

impl Item for Sidecar {
    fn is_read(&self) -> bool {
        self.name == names::CONTAINER
    }
}

impl Item for EnvVar {
    fn is_read(&self) -> bool {
        self.name.starts_with("CONTEXT_MANAGER_")
    }
}

impl Item for ContainerPort {
    fn is_read(&self) -> bool {
        self.name.as_deref() == Some(names::ADMIN_PORT_NAME)
    }
}

impl Item for ContainerStatus {
    fn is_read(&self) -> bool {
        self.name == names::CONTAINER
    }
}

/// The items of a list that are read, each with its place. Each of the others is forgotten before the next is decoded.
struct Few<T>(Vec<(usize, T)>);

impl<T> Few<T> {
    fn items(self) -> Vec<T> {
        self.0.into_iter().map(|(_, item)| item).collect()
    }
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de> + Item> Deserialize<'de> for Few<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Items(PhantomData))
    }
}

struct Items<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de> + Item> Visitor<'de> for Items<T> {
    type Value = Few<T>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a list")
    }

    fn visit_unit<E>(self) -> Result<Few<T>, E> {
        Ok(Few::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Few<T>, A::Error> {
        let (mut few, mut place) = (Vec::new(), 0_usize);
        while let Some(item) = list.next_element::<T>()? {
            if item.is_read() && few.len() < MOST {
                few.push((place, item));
            }
            place += 1;
        }
        Ok(Few(few))
    }
}

/// Labels or annotations, those of [`READ`].
#[derive(Default)]
struct Known(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Known {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Entries)
    }
}

struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Known;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("texts by name")
    }

    fn visit_unit<E>(self) -> Result<Known, E> {
        Ok(Known::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Known, A::Error> {
        let mut known = BTreeMap::new();
        while let Some((name, mut text)) = entries.next_entry::<String, String>()? {
            if READ.contains(&name.as_str()) {
                text.truncate(text.floor_char_boundary(LONGEST));
                text.shrink_to_fit();
                known.insert(name, text);
            }
        }
        Ok(Known(known))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{pods, upgrade};

    #[test]
    fn of_a_large_pod_what_is_read_alone_is_there() {
        let many = |name: &str| (0..1000).map(|number| json!({"name": format!("{name}-{number}")})).collect::<Vec<_>>();
        let mut env = many("E");
        env.push(json!({"name": names::ENV_PROTOCOL_PORT, "value": "7421"}));
        let sidecar = json!({
            "name": names::CONTAINER, "image": "sidecar:1", "args": ["a"], "env": env,
            "ports": [{"name": "http", "containerPort": 1}, {"name": names::ADMIN_PORT_NAME, "containerPort": 9001}],
        });
        let owner = |name: &str, controller: bool| json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": name, "controller": controller});
        let read: Whole = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "agent-5c9-x", "namespace": "team", "uid": "u", "creationTimestamp": "2026-11-26T00:00:00Z",
                "labels": {
                    "app": "agent", TEMPLATE_HASH: "5c9", names::INJECTED: "memory", names::INJECTED_FROM: "platform",
                },
                "annotations": {"note": "n", MIRROR: "m", names::NAME: "n".repeat(2 * LONGEST)},
                "managedFields": [{"manager": "kubectl"}],
                "ownerReferences": [owner("other", false), owner("agent-5c9", true)],
            },
            "spec": {
                "nodeName": "n",
                "initContainers": [{"name": "first", "env": many("E")}, sidecar, {"name": "last"}],
                "containers": many("agent"),
            },
            "status": {
                "phase": "Running", "podIP": "10.0.0.1", "containerStatuses": null,
                "initContainerStatuses": [
                    {"name": "first", "ready": true}, {"name": names::CONTAINER, "ready": true, "restartCount": 2},
                ],
            },
        }))
        .unwrap();
        let pod = read.pod();
        assert_eq!((pods::title(pod).as_str(), pods::used_from(pod)), ("team/agent-5c9-x", Some("platform")));
        assert_eq!(upgrade::workload(pod).as_deref(), Some("team/ReplicaSet/agent"));
        assert_eq!(pods::sidecar_place(pod), Some(("initContainers", 1)));
        assert_eq!(pods::sidecar_port(pod, names::ENV_PROTOCOL_PORT), Some(7421));
        assert_eq!(pods::sidecar_status(pod).map(|status| (status.ready, status.restart_count)), Some((true, 2)));
        let sidecar = pods::sidecar(pod).unwrap();
        let counts = [sidecar.env.as_ref().map(Vec::len), sidecar.ports.as_ref().map(Vec::len)];
        assert_eq!((sidecar.image.as_deref(), counts), (Some("sidecar:1"), [Some(1), Some(1)]));
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!((spec.node_name.as_deref(), spec.containers.len()), (Some("n"), 0));
        let metadata = &pod.metadata;
        assert_eq!(metadata.labels.as_ref().map(BTreeMap::len), Some(3));
        let lengths = metadata.annotations.iter().flatten().map(|(_, text)| text.len());
        assert_eq!(lengths.collect::<Vec<_>>(), [LONGEST, 1]);
        assert_eq!(metadata.owner_references.as_ref().map(Vec::len), Some(1));
        assert_eq!(metadata.managed_fields, None);
    }

    #[test]
    fn the_metadata_alone_are_asked_for_where_nothing_else_is_read() {
        assert!(Metadata::metadata_api() && !Whole::metadata_api());
        let read: Metadata = serde_json::from_value(json!({"metadata": {"name": "a", "annotations": null}})).unwrap();
        assert_eq!((read.pod().metadata.name.as_deref(), &read.pod().spec), (Some("a"), &None));
    }
}
