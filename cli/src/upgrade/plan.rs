//! What becomes of each pod: pure.

use context_manager_crds::context_manager::sidecar::UpgradeStrategy;
use context_manager_operator::{
    pods::{has_ended, sidecar, sidecar_status, title, used_from},
    upgrade::{Note, Outcome, Standing, Target, replacer},
};
use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time};
use serde::Serialize;

/// What the command line asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) strategy: Option<UpgradeStrategy>,
    /// An image that failed is tried again.
    pub(super) retry: bool,
}

/// Who chose the strategy, and what became of it so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// The resource.
    pub(super) configured: UpgradeStrategy,
    /// A request that is in force.
    pub(super) before: Option<UpgradeStrategy>,
    /// The command line.
    pub(super) wanted: Wanted,
    /// Up to when failures of the image do not count, by a request that is in force.
    pub(super) forgiven: Option<Timestamp>,
    /// When the image failed, as the operator remembers it.
    pub(super) failed: Option<Timestamp>,
}

impl Asked {
    /// The same once it is asked for.
    fn granted(self) -> Self {
        if self.wanted.retry { Self { forgiven: self.forgiven.max(self.failed), ..self } } else { self }
    }

    /// Whether a failure of that time counts.
    fn counts(&self, at: Timestamp) -> bool {
        self.forgiven.is_none_or(|until| at > until)
    }
}

/// The condition `SidecarsCurrent`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) reason: String,
    pub(super) message: String,
}

/// How far an upgrade is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum State {
    /// Every pod has what a new one would get.
    UpToDate,
    /// The operator goes by the strategy of the resource, or of an earlier request, without being asked.
    Upgrading,
    /// It would have to be asked.
    NotRequested,
    /// It was asked just now.
    Requested,
    /// Nobody chose what is to be done with these pods.
    NoStrategy,
    /// The operator only observes.
    Suspended,
    /// The operator says that pods have to stay as they are for now; it goes on when they may be changed.
    HeldUp,
    /// The operator says that it goes no further.
    Stopped,
    /// What is left takes new pods, and nobody makes them.
    NeedNewPods,
}

impl State {
    /// Whether waiting brings nothing more.
    pub(super) const fn is_final(self) -> bool {
        match self {
            Self::UpToDate | Self::NoStrategy | Self::Suspended | Self::Stopped | Self::NeedNewPods => true,
            Self::Upgrading | Self::NotRequested | Self::Requested | Self::HeldUp => false,
        }
    }
}

/// What becomes of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Step {
    /// Nothing: it is up to date.
    None,
    /// Its sidecar gets the new image.
    Replace,
    /// It is evicted, and its controller makes another one.
    Evict,
    /// It stays outdated until it is made anew.
    Remain,
    /// The new image failed in it and was taken back.
    TakenBack,
}

/// A pod that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) image: String,
    pub(super) standing: Standing,
    pub(super) step: Step,
    /// Whether its sidecar runs as it should, also after a replacement.
    pub(super) ready: bool,
}

/// A resource with its pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Upgrade {
    pub(super) namespace: String,
    pub(super) name: String,
    /// What a new pod would get.
    pub(super) image: String,
    pub(super) configured: UpgradeStrategy,
    /// What counts, this once or always.
    pub(super) strategy: UpgradeStrategy,
    pub(super) state: State,
    /// What the operator says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<String>,
    pub(super) outdated: usize,
    pub(super) pods: Vec<Line>,
}

impl Upgrade {
    /// Whether every pod is up to date, or will be without anybody's help.
    pub(super) fn leaves_nothing(&self) -> bool {
        self.pods.iter().all(|pod| matches!(pod.step, Step::None | Step::Replace | Step::Evict))
    }
}

/// The same with what is needed to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) upgrade: Upgrade,
    pub(super) generation: i64,
    pub(super) said: Option<Said>,
    request: bool,
    forgives: Option<Timestamp>,
    /// Whether an eviction ends the memory of the pod's agent.
    loses: bool,
}

impl Plan {
    /// Says what becomes of each pod.
    pub(super) fn new(
        (namespace, name, generation): (String, String, i64),
        target: &Target,
        asked: Asked,
        pods: &[Pod],
    ) -> Self {
        let in_force = asked.before.unwrap_or(asked.configured);
        let strategy = asked.wanted.strategy.unwrap_or(in_force);
        let restored = |pod: &Pod| {
            let failed = |note: &Note| note.to == target.image && note.outcome == Outcome::Restored;
            Note::of(pod).filter(failed).map(|note| whole(note.at))
        };
        // What failed in other namespaces alone stands on the pods there.
        let failed = asked.failed.max(pods.iter().filter_map(restored).max());
        let again = Asked { failed: asked.failed, ..Asked { failed, ..asked }.granted() };
        let alive = || pods.iter().filter(|pod| !has_ended(pod) && pod.metadata.deletion_timestamp.is_none());
        let taken_back =
            |pod: &Pod| restored(pod).is_some_and(|at| again.counts(at)) && target.standing(pod) != Standing::Current;
        let own_taken_back = |pod: &Pod| used_from(pod).is_none() && taken_back(pod);
        let remembered = again.failed.is_some_and(|at| again.counts(at));
        let stopped = remembered || strategy == UpgradeStrategy::InPlace && alive().any(own_taken_back);
        let line = |pod: &Pod| {
            let standing = target.standing(pod);
            let step = match (standing, strategy) {
                (Standing::Current, _) => Step::None,
                (_, UpgradeStrategy::InPlace) if taken_back(pod) => Step::TakenBack,
                (Standing::OtherImage, UpgradeStrategy::InPlace) if !stopped => Step::Replace,
                (_, UpgradeStrategy::RollingRestart) if !stopped && replacer(&pod.metadata).is_some() => Step::Evict,
                (Standing::OtherImage | Standing::OtherSettings, _) => Step::Remain,
            };
            Line { name: title(pod), image: image(pod), standing, step, ready: is_ready(pod) }
        };
        let mut pods: Vec<_> = alive().map(line).collect();
        pods.sort_by(|a, b| a.name.cmp(&b.name));
        let outdated = pods.iter().filter(|pod| pod.standing != Standing::Current).count();
        let acts = pods.iter().any(|pod| matches!(pod.step, Step::Replace | Step::Evict));
        let request = acts && (strategy != in_force || again.forgiven != asked.forgiven);
        let state = match strategy {
            _ if outdated == 0 => State::UpToDate,
            UpgradeStrategy::OnRecreate => State::NoStrategy,
            UpgradeStrategy::InPlace | UpgradeStrategy::RollingRestart => match (acts, request) {
                _ if stopped => State::Stopped,
                (false, _) => State::NeedNewPods,
                (true, true) => State::NotRequested,
                (true, false) => State::Upgrading,
            },
        };
        let image = target.image.clone();
        let configured = asked.configured;
        let upgrade = Upgrade { namespace, name, image, configured, strategy, state, message: None, outdated, pods };
        let loses = target.keeps_memory_in_pods();
        Self { upgrade, generation, said: None, request, forgives: again.forgiven, loses }
    }

    /// Up to when failures of the image are not to count.
    pub(super) fn forgives(&self) -> Option<Time> {
        self.forgives.map(Time)
    }

    /// Whether the operator does nothing of this before it is asked.
    pub(super) const fn needs_request(&self) -> bool {
        self.request
    }

    /// What a person should know before pods are evicted.
    pub(super) fn warning(&self) -> Option<String> {
        let Upgrade { namespace, name, pods, .. } = &self.upgrade;
        let evicts = pods.iter().any(|pod| pod.step == Step::Evict);
        (evicts && self.loses).then(|| {
            format!(
                "warning: {namespace}/{name} keeps memory on an emptyDir of each pod, so a pod that is evicted loses it; --strategy \
                 in-place keeps it"
            )
        })
    }

    /// The operator only observes.
    pub(super) fn suspend(&mut self) {
        self.request = false;
        for pod in self.upgrade.pods.iter_mut().filter(|pod| pod.step != Step::None) {
            pod.step = Step::Remain;
        }
        if self.upgrade.outdated > 0 {
            self.upgrade.state = State::Suspended;
        }
    }

    /// Takes what the operator says into account. What it said before it was asked is no answer.
    pub(super) fn settle(&mut self, answered: bool) {
        let watched = self.said.as_ref().is_some_and(|said| said.reason != "UpToDate");
        let all_ready = self.upgrade.pods.iter().all(|pod| pod.ready);
        let reason = self.said.as_ref().filter(|_| answered).map(|said| said.reason.as_str());
        self.upgrade.state = match (self.upgrade.state, reason) {
            (State::UpToDate, _) if !watched && all_ready => State::UpToDate,
            (State::NoStrategy | State::Suspended, _) => self.upgrade.state,
            (_, Some("UpgradeStopped" | "Forbidden")) => State::Stopped,
            (_, Some("NeedNewPods")) => State::NeedNewPods,
            (_, Some("DisruptionBudget" | "PodRefused" | "StoreNotReady" | "WebhookNotReady")) => State::HeldUp,
            _ => State::Upgrading,
        };
        self.upgrade.message = self.said.as_ref().filter(|_| answered).map(|said| said.message.clone());
    }

    /// How far it is, for people who wait.
    pub(super) fn words(&self) -> String {
        self.said.as_ref().map_or_else(
            || format!("{} of {} pods are outdated", self.upgrade.outdated, self.upgrade.pods.len()),
            |Said { reason, message }| format!("{reason}: {message}"),
        )
    }
}

/// The time in whole seconds, as a status has it.
fn whole(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn image(pod: &Pod) -> String {
    sidecar(pod).and_then(|sidecar| sidecar.image.clone()).unwrap_or_default()
}

/// Whether the sidecar is ready, and has been restarted since its image was replaced.
fn is_ready(pod: &Pod) -> bool {
    let restarts = Note::of(pod).filter(|note| note.outcome == Outcome::Begun).map_or(0, |note| note.restarts);
    sidecar_status(pod).is_some_and(|sidecar| sidecar.ready && sidecar.restart_count >= restarts)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use context_manager_operator::webhook::view;
    use context_manager_protocol::names;
    use kube::ResourceExt as _;
    use serde_json::json;

    use super::*;

    fn target(image: &str) -> Target {
        target_of(&json!({}), image)
    }

    fn target_of(spec: &serde_json::Value, image: &str) -> Target {
        let object = serde_json::from_value(json!({
            "apiVersion": "contextmanager.dev/v1alpha1", "kind": "ContextManager", "metadata": {"name": "memory"}, "spec": spec,
        }))
        .unwrap();
        Target::of(view::resource(&object).unwrap(), image)
    }

    fn pod(name: &str, image: &str, owner: Option<&str>) -> Pod {
        let owners: Vec<_> = owner
            .into_iter()
            .map(|kind| json!({"apiVersion": "apps/v1", "kind": kind, "name": "a", "uid": "u", "controller": true}))
            .collect();
        serde_json::from_value(json!({
            "metadata": {"name": name, "ownerReferences": owners, "annotations": {names::INJECTED_TEMPLATE: target(image).template}},
            "spec": {"initContainers": [{"name": "context-manager", "image": image}], "containers": [{"name": "agent"}]},
            "status": {"phase": "Running", "initContainerStatuses": [
                {"name": "context-manager", "ready": true, "restartCount": 0, "image": "", "imageID": ""}]},
        }))
        .unwrap()
    }

    fn plan(asked: Asked, pods: &[Pod]) -> Plan {
        Plan::new(("team".to_owned(), "memory".to_owned(), 1), &target("sidecar:2"), asked, pods)
    }

    fn wanted(strategy: UpgradeStrategy) -> Wanted {
        Wanted { strategy: Some(strategy), retry: false }
    }

    fn steps(plan: &Plan) -> Vec<Step> {
        plan.upgrade.pods.iter().map(|pod| pod.step).collect()
    }

    #[test]
    fn what_becomes_of_a_pod_depends_on_the_strategy_and_on_who_would_make_another() {
        let pods =
            [pod("a", "sidecar:1", Some("ReplicaSet")), pod("b", "sidecar:1", None), pod("c", "sidecar:2", None)];
        let asked = |strategy| Asked { wanted: wanted(strategy), ..Asked::default() };
        let left = plan(Asked::default(), &pods);
        assert_eq!(
            (steps(&left), left.upgrade.state),
            (vec![Step::Remain, Step::Remain, Step::None], State::NoStrategy)
        );
        assert!(!left.needs_request() && !left.upgrade.leaves_nothing());
        let replaced = plan(asked(UpgradeStrategy::InPlace), &pods);
        assert_eq!(steps(&replaced), [Step::Replace, Step::Replace, Step::None]);
        assert!(replaced.needs_request() && replaced.upgrade.leaves_nothing());
        let evicted = plan(asked(UpgradeStrategy::RollingRestart), &pods);
        assert_eq!(steps(&evicted), [Step::Evict, Step::Remain, Step::None]);
        assert!(evicted.needs_request() && !evicted.upgrade.leaves_nothing());
        let alone = plan(asked(UpgradeStrategy::RollingRestart), &pods[1..]);
        assert!(alone.upgrade.state == State::NeedNewPods && !alone.needs_request());
    }

    #[test]
    fn a_person_is_warned_of_evictions_that_end_memory() {
        let pods = [pod("a", "sidecar:1", Some("ReplicaSet")), pod("b", "sidecar:1", None)];
        let warned =
            |strategy, pods: &[Pod]| plan(Asked { wanted: wanted(strategy), ..Asked::default() }, pods).warning();
        let said = warned(UpgradeStrategy::RollingRestart, &pods).unwrap();
        assert!(said.contains("team/memory") && said.contains("emptyDir"), "{said}");
        assert_eq!(warned(UpgradeStrategy::InPlace, &pods), None);
        assert_eq!(warned(UpgradeStrategy::RollingRestart, &pods[1..]), None, "nobody would make another pod");
        let on_a_server = json!({"vectorStore": {"qdrant": {"url": "http://127.0.0.1:1"}}});
        let asked = Asked { wanted: wanted(UpgradeStrategy::RollingRestart), ..Asked::default() };
        let place = ("team".to_owned(), "memory".to_owned(), 1);
        let plan = Plan::new(place, &target_of(&on_a_server, "sidecar:2"), asked, &pods);
        assert!(steps(&plan).contains(&Step::Evict) && plan.warning().is_none());
    }

    #[test]
    fn what_is_in_force_already_is_not_asked_for_again() {
        let pods = [pod("a", "sidecar:1", None)];
        let (configured, in_place) = (UpgradeStrategy::InPlace, Some(UpgradeStrategy::InPlace));
        for asked in [
            Asked { configured, ..Asked::default() },
            Asked { configured, wanted: wanted(UpgradeStrategy::InPlace), ..Asked::default() },
            Asked { before: in_place, ..Asked::default() },
            Asked { before: in_place, wanted: wanted(UpgradeStrategy::InPlace), ..Asked::default() },
        ] {
            let plan = plan(asked, &pods);
            assert!(!plan.needs_request() && plan.upgrade.state == State::Upgrading, "{asked:?}");
        }
        assert_eq!(plan(Asked::default(), &[]).upgrade.state, State::UpToDate);
    }

    #[test]
    fn a_pod_in_which_the_image_failed_stops_the_others() {
        let note = json!({"from": "sidecar:1", "fromTemplate": "t", "to": "sidecar:2", "at": "2030-01-01T00:00:00Z",
            "restarts": 1, "wasReady": true, "outcome": "Restored"});
        let mut failed = pod("a", "sidecar:1", None);
        failed.annotations_mut().insert(names::UPGRADE.to_owned(), note.to_string());
        let plan = plan(
            Asked { configured: UpgradeStrategy::InPlace, ..Asked::default() },
            &[failed, pod("b", "sidecar:1", None)],
        );
        assert_eq!((steps(&plan), plan.upgrade.state), (vec![Step::TakenBack, Step::Remain], State::Stopped));
    }

    #[test]
    fn a_pod_of_another_namespace_in_which_the_image_failed_stops_no_other_and_is_tried_again_like_any() {
        let note = json!({"from": "sidecar:1", "fromTemplate": "t", "to": "sidecar:2", "at": "2030-01-01T00:00:00Z",
            "restarts": 1, "wasReady": true, "outcome": "Restored"});
        let mut failed = pod("a", "sidecar:1", None);
        failed.annotations_mut().insert(names::UPGRADE.to_owned(), note.to_string());
        failed.labels_mut().insert(names::INJECTED_FROM.to_owned(), "team".to_owned());
        let pods = [failed, pod("b", "sidecar:1", None)];
        let asked = Asked { configured: UpgradeStrategy::InPlace, ..Asked::default() };
        let going_on = plan(asked, &pods);
        assert_eq!(going_on.upgrade.state, State::Upgrading);
        assert!(steps(&going_on).contains(&Step::TakenBack) && steps(&going_on).contains(&Step::Replace));
        let again = plan(Asked { wanted: Wanted { retry: true, ..Wanted::default() }, ..asked }, &pods);
        assert!(again.needs_request() && !steps(&again).contains(&Step::TakenBack));
        assert_eq!(again.forgives().map(|at| at.0), "2030-01-01T00:00:00Z".parse::<Timestamp>().ok());
    }

    #[test]
    fn an_image_that_failed_in_pods_that_are_gone_is_tried_again_when_a_person_says_so() {
        let pods = [pod("a", "sidecar:1", Some("ReplicaSet"))];
        let failed = Timestamp::from_second(1_000_000).ok();
        for configured in [UpgradeStrategy::InPlace, UpgradeStrategy::RollingRestart] {
            let stopped = plan(Asked { configured, failed, ..Asked::default() }, &pods);
            assert_eq!((steps(&stopped), stopped.upgrade.state), (vec![Step::Remain], State::Stopped));
            assert!(!stopped.needs_request());
            let retry = Wanted { retry: true, ..Wanted::default() };
            let again = plan(Asked { configured, failed, wanted: retry, ..Asked::default() }, &pods);
            assert!(again.needs_request() && again.upgrade.state == State::NotRequested);
            assert_eq!(again.forgives().map(|at| at.0), failed);
            let in_force = Asked { configured, failed, forgiven: failed, ..Asked::default() };
            let asked = plan(in_force, &pods);
            assert!(!asked.needs_request() && asked.upgrade.state == State::Upgrading);
        }
    }

    #[test]
    fn what_the_operator_said_before_is_no_answer() {
        let asked = Asked { wanted: wanted(UpgradeStrategy::InPlace), ..Asked::default() };
        let mut waiting = plan(asked, &[pod("a", "sidecar:1", None)]);
        waiting.said = Some(Said { reason: "NeedNewPods".to_owned(), message: "why".to_owned() });
        waiting.settle(false);
        assert_eq!(waiting.upgrade.state, State::Upgrading);
        waiting.settle(true);
        assert_eq!((waiting.upgrade.state, waiting.upgrade.message.as_deref()), (State::NeedNewPods, Some("why")));
        let upgraded = |reason: &str| {
            let mut upgraded = plan(asked, &[pod("a", "sidecar:2", None)]);
            upgraded.said = Some(Said { reason: reason.to_owned(), message: String::new() });
            upgraded.settle(true);
            upgraded.upgrade.state
        };
        assert_eq!(upgraded("Upgrading"), State::Upgrading, "a pod that is watched may still be taken back");
        assert_eq!(upgraded("PodRefused"), State::HeldUp, "another pod may not be changed");
        assert_eq!(upgraded("StoreNotReady"), State::HeldUp, "no pod may be evicted");
        assert_eq!(upgraded("UpToDate"), State::UpToDate);
    }
}
