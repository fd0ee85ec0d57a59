//! What is known of all pods, by two watches: of those with a sidecar, and, metadata alone, of those that ask for one in vain.
//!
//! Of each pod a few words are kept and not the pod, so that thousands of them take little memory, and counting them asks the API
//! server nothing. Whatever happens to a pod is a reason to look at its resource.

mod lean;

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use context_manager_crds::context_manager::status::Pods as Counted;
use context_manager_protocol::names;
use futures::{
    Stream, StreamExt as _,
    channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded},
    future::ready,
};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::ObjectMeta,
    runtime::{
        reflector::{ObjectRef, Store},
        watcher,
        watcher::Event,
    },
};
use tokio::{sync::watch as channel, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{Object, error::Error, watch};
use crate::{
    inject::MIRROR,
    pods::{has_ended, sidecar_status, used_from},
    scope::Scope,
    upgrade::replacer,
};
use lean::Metadata;
pub(super) use lean::Whole;

/// How long a reconciliation waits for the first list; then it is tried again.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pods of one page of a first list. Whoever makes them decides how large they are, up to 1.5 MiB, which may be 9 as JSON, and a page is in
/// memory twice as text: 180 MiB at the worst. Each page takes the API server about as long, however few they are.
const PAGE: u32 = 10;
/// Longest name of a resource with its namespace.
const LONGEST: usize = 63 + 1 + 253;
/// Digits of a template's fingerprint.
const DIGITS: usize = 16;

/// Who makes another pod in place of one that goes: a hash of its uid, because there is one for each pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Owner(u64);

impl Owner {
    /// That of a pod, if it has one.
    pub(super) fn of(pod: &ObjectMeta) -> Option<Self> {
        Some(Self(hashed(&replacer(pod)?.uid)))
    }
}

/// A pod among those of its owner, also among those of the same name: a hash of its uid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity(u64);

fn hashed(uid: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    uid.hash(&mut hasher);
    hasher.finish()
}

/// Which pod it is, and who made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Origin {
    pod: Identity,
    owner: Option<Owner>,
}

impl Origin {
    fn of(pod: &ObjectMeta) -> Self {
        Self { pod: Identity(hashed(pod.uid.as_deref().unwrap_or_default())), owner: Owner::of(pod) }
    }
}

/// A pod with a sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Injected {
    origin: Origin,
    /// The namespace of the resource, if it is another one than the pod's.
    from: Option<String>,
    resource: String,
    /// The fingerprint of what it got.
    template: Option<String>,
    ready: bool,
    has_ended: bool,
}

/// A pod that asks for a sidecar and has none.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Missing {
    origin: Origin,
    /// The resource that it names.
    resource: Option<String>,
    is_leaving: bool,
}

/// Where to say that a resource is to be looked at: each place has a controller of its own, which knows the resources of that place.
#[derive(Clone, Debug, Default)]
pub(super) struct Concerned(Arc<HashMap<Option<String>, UnboundedSender<ObjectRef<Object>>>>);

impl Concerned {
    /// One for each place, and what each of them is told.
    pub(super) fn of(scope: &Scope) -> (Self, Vec<UnboundedReceiver<ObjectRef<Object>>>) {
        let pairs = scope.places().into_iter().map(|place| {
            let (sender, receiver) = unbounded();
            ((place.map(str::to_owned), sender), receiver)
        });
        let (senders, receivers): (HashMap<_, _>, Vec<_>) = pairs.unzip();
        (Self(Arc::new(senders)), receivers)
    }

    /// Says so; in vain if nobody looks there.
    pub(super) fn tell(&self, namespace: &str, name: &str) {
        if let Some(sender) = self.0.get(&None).or_else(|| self.0.get(&Some(namespace.to_owned()))) {
            let _ = sender.unbounded_send(ObjectRef::new(name).within(namespace));
        }
    }
}

/// The pods of the cluster, or of a namespace.
#[derive(Debug, Default)]
pub(super) struct Pods {
    injected: Index<Injected>,
    missing: Index<Missing>,
}

/// Pods by namespace and name, as a watch tells of them.
#[derive(Debug)]
struct Index<T> {
    pods: Mutex<HashMap<String, HashMap<String, T>>>,
    is_listed: channel::Sender<bool>,
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self { pods: Mutex::default(), is_listed: channel::Sender::new(false) }
    }
}

impl Injected {
    fn of(pod: &Pod) -> Option<Self> {
        Some(Self {
            origin: Origin::of(&pod.metadata),
            from: used_from(pod).map(str::to_owned),
            resource: pod.labels().get(names::INJECTED)?.clone(),
            // Whatever else somebody wrote there is no template of ours.
            template: pod.annotations().get(names::INJECTED_TEMPLATE).filter(|text| is_template(text)).cloned(),
            ready: sidecar_status(pod).is_some_and(|sidecar| sidecar.ready),
            has_ended: has_ended(pod),
        })
    }
}

fn is_template(text: &str) -> bool {
    text.len() == DIGITS && text.bytes().all(|digit| digit.is_ascii_hexdigit())
}

impl Missing {
    /// Nothing of a pod that gets no sidecar though it has the label: the annotation wins over that, and of a static pod the kubelet runs
    /// its own copy.
    fn of(pod: &impl ResourceExt) -> Option<Self> {
        let annotations = pod.annotations();
        if annotations.contains_key(MIRROR) || annotations.get(names::INJECT).is_some_and(|word| word != "true") {
            return None;
        }
        // A text that is longer is no resource's name, and neither is an empty one.
        let named = |name: &String| if name.len() <= LONGEST { name.clone() } else { String::new() };
        let resource = annotations.get(names::NAME).map(named);
        let origin = Origin::of(pod.meta());
        Some(Self { origin, resource, is_leaving: pod.meta().deletion_timestamp.is_some() })
    }
}

impl Pods {
    /// Waits until all pods have been listed once.
    pub(super) async fn listed(&self) -> Result<(), Error> {
        let both = async {
            self.injected.listed().await;
            self.missing.listed().await;
        };
        timeout(PATIENCE, both).await.map_err(|_| Error::Timeout { action: "list the pods" })
    }

    /// Counts the pods of a namespace that have a sidecar of a resource and have not ended; `from` is the resource's namespace, if that is
    /// another one. `template` is what they would get now, if it is known.
    pub(super) fn count(
        &self,
        namespace: &str,
        (from, resource): (Option<&str>, &str),
        template: Option<&str>,
    ) -> Counted {
        let mut counted = Counted::default();
        self.injected.each(namespace, |_, pod| {
            if pod.resource != resource || pod.from.as_deref() != from || pod.has_ended {
                return;
            }
            counted.injected += 1;
            counted.ready += i32::from(pod.ready);
            // A pod of an earlier version has no such annotation, and other things than today.
            counted.outdated += i32::from(template.is_some_and(|template| pod.template.as_deref() != Some(template)));
        });
        counted
    }

    /// The pods of an owner that have a sidecar, or ask for one. Their times would not tell which of them are new: they have whole seconds.
    pub(super) fn made_by(&self, namespace: &str, owner: Owner) -> HashSet<Identity> {
        let mut made = HashSet::new();
        let mut see = |origin: Origin| {
            if origin.owner == Some(owner) {
                made.insert(origin.pod);
            }
        };
        self.injected.each(namespace, |_, pod| see(pod.origin));
        self.missing.each(namespace, |_, pod| see(pod.origin));
        made
    }

    /// The pods of a namespace that ask for a sidecar in vain, with their owners, and the resource that each names, if it names one.
    pub(super) fn missing(&self, namespace: &str) -> Vec<(String, Option<Owner>, Option<String>)> {
        let mut missing = Vec::new();
        self.missing.each(namespace, |name, pod| {
            if !pod.is_leaving {
                missing.push((name.to_owned(), pod.origin.owner, pod.resource.clone()));
            }
        });
        missing.sort_unstable();
        missing
    }

    /// Lists a pod called `agent` in each of these namespaces, which asks in vain for a sidecar of that resource, and no other one.
    #[cfg(test)]
    pub(super) fn list_missing(&self, namespaces: &[&str], resource: &str) {
        let pod = Pod {
            metadata: ObjectMeta {
                annotations: Some([(names::NAME.to_owned(), resource.to_owned())].into()),
                ..ObjectMeta::default()
            },
            ..Pod::default()
        };
        let one = || {
            let missing = Missing::of(&pod).map(|missing| ("agent".to_owned(), missing));
            missing.into_iter().collect::<HashMap<_, _>>()
        };
        self.injected.replace(HashMap::new(), |_, _| {});
        self.missing.replace(namespaces.iter().map(|&namespace| (namespace.to_owned(), one())).collect(), |_, _| {});
    }

    /// Follows the pods of a place until `stop`, and sends the resources that they concern.
    pub(super) async fn follow(
        &self,
        pods: Api<Whole>,
        metadata: Api<Metadata>,
        resources: Store<Object>,
        concerned: Concerned,
        stop: CancellationToken,
    ) {
        let config = || watcher::Config::default().page_size(PAGE);
        let with = watch::events("pods with a sidecar", pods, config().labels(names::INJECTED));
        let asking = format!("{}=true,!{}", names::INJECT, names::INJECTED);
        // One that has ended needs no sidecar any more.
        let asking = config().labels(&asking).fields("status.phase!=Succeeded,status.phase!=Failed");
        let without = watch::events("pods without a sidecar", metadata, asking);
        let with = self.injected.follow(
            with,
            |pod: &Whole| Injected::of(pod.pod()),
            |namespace, pod| {
                concerned.tell(pod.from.as_deref().unwrap_or(namespace), &pod.resource);
            },
        );
        let without = self.missing.follow(without, Missing::of, |namespace, pod| {
            if let Some((namespace, name)) = pod.resource.as_ref().and_then(|named| named.split_once('/')) {
                concerned.tell(namespace, name);
                return;
            }
            let meant = |reference: &ObjectRef<Object>| match &pod.resource {
                Some(name) => reference.name == *name,
                None => true,
            };
            let all = resources.state();
            let here = all.iter().map(|object| ObjectRef::from_obj(&**object));
            let here = here.filter(|reference| reference.namespace.as_deref() == Some(namespace));
            for reference in here.filter(meant) {
                concerned.tell(namespace, &reference.name);
            }
        });
        let (with, without) = (Box::pin(with), Box::pin(without));
        stop.run_until_cancelled(async { tokio::join!(with, without) }).await;
    }
}

impl<T: PartialEq> Index<T> {
    async fn listed(&self) {
        // The sender lives as long as this.
        let _ = self.is_listed.subscribe().wait_for(|is_listed| *is_listed).await;
    }

    fn each(&self, namespace: &str, mut visit: impl FnMut(&str, &T)) {
        let pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, pod) in pods.get(namespace).into_iter().flatten() {
            visit(name, pod);
        }
    }

    async fn follow<K: ResourceExt>(
        &self,
        events: impl Stream<Item = Result<Event<K>, watcher::Error>>,
        of: impl Fn(&K) -> Option<T>,
        concerns: impl Fn(&str, &T),
    ) {
        // A new list takes the place of what is known when it is complete.
        let mut list = HashMap::<String, HashMap<String, T>>::new();
        // Failures are logged by the watch, which goes on after them.
        let mut events = pin!(events.filter_map(|event| ready(event.ok())));
        while let Some(event) = events.next().await {
            match event {
                Event::Init => list.clear(),
                Event::InitApply(pod) => {
                    if let (Some(namespace), Some(known)) = (pod.namespace(), of(&pod)) {
                        list.entry(namespace).or_default().insert(pod.name_any(), known);
                    }
                }
                Event::InitDone => self.replace(std::mem::take(&mut list), &concerns),
                Event::Apply(pod) => self.put(&pod, of(&pod), &concerns),
                Event::Delete(pod) => self.put(&pod, None, &concerns),
            }
        }
    }

    fn replace(&self, list: HashMap<String, HashMap<String, T>>, concerns: impl Fn(&str, &T)) {
        let visit = |pods: &HashMap<String, HashMap<String, T>>| {
            for (namespace, pods) in pods {
                for pod in pods.values() {
                    concerns(namespace, pod);
                }
            }
        };
        visit(&list);
        let before = std::mem::replace(&mut *self.pods.lock().unwrap_or_else(PoisonError::into_inner), list);
        visit(&before);
        self.is_listed.send_replace(true);
    }

    fn put<K: ResourceExt>(&self, pod: &K, known: Option<T>, concerns: impl Fn(&str, &T)) {
        let Some(namespace) = pod.namespace() else { return };
        let name = pod.name_any();
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let here = pods.entry(namespace.clone()).or_default();
        let before = here.remove(&name);
        // The resource that it belonged to has to know as well.
        if let Some(before) = before.filter(|before| known.as_ref() != Some(before)) {
            concerns(&namespace, &before);
        }
        if let Some(known) = known {
            concerns(&namespace, &known);
            here.insert(name, known);
        }
        if here.is_empty() {
            pods.remove(&namespace);
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::cell::RefCell;

    use futures::stream;
    use serde_json::json;

    use super::*;

    fn pod(name: &str, resource: &str, phase: &str, ready: bool, template: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "namespace": "n",
                "name": name,
                "labels": {names::INJECTED: resource},
                "annotations": {names::INJECTED_TEMPLATE: template.repeat(DIGITS)},
            },
            "status": {"phase": phase, "initContainerStatuses": [
                {"name": names::CONTAINER, "ready": ready, "image": "i", "imageID": "i", "restartCount": 0}]},
        }))
        .unwrap()
    }

    /// What a watch told of; the resources that were concerned, in order.
    async fn told(pods: &Pods, events: Vec<Event<Pod>>) -> Vec<String> {
        let concerned = RefCell::new(Vec::new());
        let events = stream::iter(events.into_iter().map(Ok));
        pods.injected.follow(events, Injected::of, |_, pod| concerned.borrow_mut().push(pod.resource.clone())).await;
        let mut concerned = concerned.into_inner();
        concerned.sort_unstable();
        concerned
    }

    #[tokio::test]
    async fn pods_that_live_are_counted_by_what_they_are() {
        let pods = Pods::default();
        let old = Pod { status: None, ..pod("d", "m", "Pending", false, "") };
        let events = [pod("a", "m", "Running", true, "a"), pod("b", "m", "Running", false, "b"), old]
            .into_iter()
            .chain([pod("c", "m", "Failed", false, "b"), pod("e", "other", "Running", true, "a")]);
        told(&pods, events.map(Event::Apply).collect()).await;
        let template = "a".repeat(DIGITS);
        assert_eq!(
            pods.count("n", (None, "m"), Some(template.as_str())),
            Counted { injected: 3, ready: 1, outdated: 2, missing: 0 }
        );
        assert_eq!(pods.count("n", (None, "m"), None).outdated, 0, "nothing is known of what they would get");
        assert_eq!(
            pods.count("n", (Some("other"), "m"), None),
            Counted::default(),
            "they use one of their own namespace"
        );
        assert_eq!(pods.count("elsewhere", (None, "m"), None), Counted::default());
    }

    #[tokio::test]
    async fn a_new_list_takes_the_place_of_what_was_known_once_it_is_complete() {
        let pods = Pods::default();
        let begun = vec![Event::Init, Event::InitApply(pod("a", "m", "Running", true, "a"))];
        assert_eq!(told(&pods, begun).await, Vec::<String>::new());
        assert!(!*pods.injected.is_listed.borrow(), "the list has no end yet");
        let listed = vec![Event::Init, Event::InitApply(pod("a", "m", "Running", true, "a")), Event::InitDone];
        assert_eq!(told(&pods, listed).await, ["m"]);
        pods.injected.listed().await;
        let again = vec![Event::Init, Event::InitApply(pod("b", "other", "Running", true, "a")), Event::InitDone];
        assert_eq!(told(&pods, again).await, ["m", "other"], "the one that lost its pod is concerned too");
        assert_eq!(
            (pods.count("n", (None, "m"), None).injected, pods.count("n", (None, "other"), None).injected),
            (0, 1)
        );
    }

    #[tokio::test]
    async fn an_owner_is_known_by_the_pods_it_made() {
        let made_by = |name: &str, owner: &str| {
            let mut pod = pod(name, "m", "Running", true, "a");
            let reference =
                json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": owner, "controller": true});
            pod.metadata.owner_references = Some(vec![serde_json::from_value(reference).unwrap()]);
            pod.metadata.uid = Some(format!("{name} of {owner}"));
            pod
        };
        let (pods, one) = (Pods::default(), made_by("a", "one"));
        let owner = Owner::of(&one.metadata).unwrap();
        told(&pods, vec![Event::Apply(one.clone()), Event::Apply(made_by("b", "two"))]).await;
        let before = pods.made_by("n", owner);
        assert_eq!(before, HashSet::from([Origin::of(&one.metadata).pod]));
        let mut again = one.clone();
        again.metadata.uid = Some("another".to_owned());
        told(&pods, vec![Event::Apply(again)]).await;
        assert!(pods.made_by("n", owner).is_disjoint(&before), "another pod of the same name");
        assert!(pods.made_by("elsewhere", owner).is_empty());
        assert_eq!(Owner::of(&pod("c", "m", "Running", true, "a").metadata), None);
    }

    #[tokio::test]
    async fn whoever_loses_a_pod_is_concerned() {
        let pods = Pods::default();
        let had = pod("a", "m", "Running", true, "a");
        assert_eq!(told(&pods, vec![Event::Apply(had.clone())]).await, ["m"]);
        let moved = pod("a", "other", "Running", true, "a");
        assert_eq!(told(&pods, vec![Event::Apply(moved.clone())]).await, ["m", "other"]);
        assert_eq!(told(&pods, vec![Event::Delete(moved)]).await, ["other"]);
        assert!(pods.injected.pods.lock().unwrap().is_empty(), "nothing is left of a namespace without pods");
    }

    fn asking(annotations: &serde_json::Value) -> Option<Missing> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"annotations": annotations}})).unwrap();
        Missing::of(&pod)
    }

    #[test]
    fn a_pod_that_gets_no_sidecar_is_not_missing_it() {
        for (annotations, is_missing) in [
            (json!({}), true),
            (json!({names::INJECT: "true"}), true),
            (json!({names::INJECT: "false"}), false),
            (json!({names::INJECT: "maybe"}), false),
            (json!({MIRROR: "abc"}), false),
        ] {
            assert_eq!(asking(&annotations).is_some(), is_missing, "{annotations}");
        }
    }

    #[tokio::test]
    async fn a_pod_that_opts_out_is_not_missing_its_sidecar_any_more() {
        let pods = Pods::default();
        let pod = |word: &str| -> Pod {
            let metadata = json!({"namespace": "n", "name": "a", "annotations": {names::INJECT: word}});
            serde_json::from_value(json!({"metadata": metadata})).unwrap()
        };
        for (word, count) in [("true", 1), ("false", 0)] {
            let events = stream::iter([Ok(Event::Apply(pod(word)))]);
            pods.missing.follow(events, Missing::of, |_, _| {}).await;
            assert_eq!(pods.missing("n").len(), count, "{word}");
        }
    }

    #[test]
    fn large_annotations_are_not_kept() {
        let mut pod = pod("a", "m", "Running", true, "a");
        assert_eq!(Injected::of(&pod).unwrap().template, Some("a".repeat(DIGITS)));
        pod.annotations_mut().insert(names::INJECTED_TEMPLATE.to_owned(), "a".repeat(DIGITS + 1));
        assert_eq!(Injected::of(&pod).unwrap().template, None);
        let named = |name: &str| asking(&json!({names::NAME: name})).unwrap().resource;
        assert_eq!(named("platform/memory").as_deref(), Some("platform/memory"));
        assert_eq!(named(&"a".repeat(LONGEST + 1)).as_deref(), Some(""), "it means no resource, and not the only one");
    }
}
