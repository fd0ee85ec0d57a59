//! Read-only access to a pod's raw JSON; what is missing or of another type reads as absent.

use context_manager_protocol::names;
use serde_json::Value;

/// Which list of containers one stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    Init,
    Main,
}

impl List {
    pub(super) const fn key(self) -> &'static str {
        match self {
            Self::Init => "initContainers",
            Self::Main => "containers",
        }
    }
}

/// A container with its place in the pod.
#[derive(Clone, Copy, Debug)]
pub(super) struct Container<'a> {
    pub(super) list: List,
    pub(super) index: usize,
    pub(super) name: &'a str,
    pub(super) json: &'a Value,
}

/// A pod's raw JSON.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pod<'a>(&'a Value);

impl<'a> Pod<'a> {
    pub(super) const fn new(json: &'a Value) -> Self {
        Self(json)
    }

    pub(super) fn metadata(self, key: &str) -> Option<&'a Value> {
        self.0.get("metadata")?.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn spec(self, key: &str) -> Option<&'a Value> {
        self.0.get("spec")?.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn annotation(self, key: &str) -> Option<&'a str> {
        self.metadata("annotations")?.get(key)?.as_str()
    }

    pub(super) fn label(self, key: &str) -> Option<&'a str> {
        self.metadata("labels")?.get(key)?.as_str()
    }

    pub(super) fn annotation_keys(self) -> impl Iterator<Item = &'a str> {
        self.metadata("annotations").and_then(Value::as_object).into_iter().flatten().map(|(key, _)| key.as_str())
    }

    pub(super) fn host_network(self) -> bool {
        self.spec("hostNetwork").and_then(Value::as_bool).unwrap_or(false)
    }

    /// Whether it says so, or can be on no other node.
    pub(super) fn is_for_windows(self) -> bool {
        let os = self.spec("os").and_then(|os| os.get("name"));
        let node = self.spec("nodeSelector").and_then(|labels| labels.get("kubernetes.io/os"));
        os.or(node).is_some_and(|name| name == "windows")
    }

    /// Whether the pod ends when its containers have done their work.
    pub(super) fn runs_to_completion(self) -> bool {
        self.spec("restartPolicy").and_then(Value::as_str).is_some_and(|policy| policy != "Always")
    }

    /// Whether containers that say nothing else run as root.
    pub(super) fn runs_as_root(self) -> bool {
        self.spec("securityContext").and_then(|context| context.get("runAsUser")).is_some_and(|user| *user == 0)
    }

    /// Whether the files of a volume belong to a group that all containers are in.
    pub(super) fn shares_a_group(self) -> bool {
        self.spec("securityContext").and_then(|context| context.get("fsGroup")).is_some_and(Value::is_number)
    }

    /// Containers of both lists, ours included.
    pub(super) fn containers(self) -> impl Iterator<Item = Container<'a>> {
        [List::Init, List::Main].into_iter().flat_map(move |list| {
            let items = self.spec(list.key()).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            items.iter().enumerate().map(move |(index, json)| Container {
                list,
                index,
                name: json.get("name").and_then(Value::as_str).unwrap_or_default(),
                json,
            })
        })
    }

    /// Containers of both lists but the sidecar of an earlier injection.
    pub(super) fn others(self) -> impl Iterator<Item = Container<'a>> {
        let injected = self.injected();
        self.containers().filter(move |container| !(injected && is_sidecar(container)))
    }

    /// The sidecar of an earlier injection.
    pub(super) fn sidecar(self) -> Option<Container<'a>> {
        self.containers().find(is_sidecar).filter(|_| self.injected())
    }

    pub(super) fn volumes(self) -> &'a [Value] {
        self.spec("volumes").and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    pub(super) fn has_volume(self, name: &str) -> bool {
        self.volumes().iter().any(|volume| volume.get("name").and_then(Value::as_str) == Some(name))
    }

    /// Whether the sidecar in this pod is the work of an earlier injection. The annotation tells it from a container that
    /// only happens to have the name.
    pub(super) fn injected(self) -> bool {
        self.annotation(names::INJECTED_HASH).is_some() && self.containers().any(|container| is_sidecar(&container))
    }
}

/// In whichever list: the mode decides about that.
fn is_sidecar(container: &Container<'_>) -> bool {
    container.name == names::CONTAINER
}
