//! Upgrades step by step, on pods that behave as those of a kubelet do.

mod away;
mod held;
mod missing;

use std::time::Duration;

use context_manager_crds::{
    ContextManagerStatus,
    context_manager::{
        sidecar::UpgradeStrategy,
        status::{Eviction, Pods as Counted, Upgrade},
    },
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::{
    decide::{Act, DEADLINE, STAY_OUTDATED, STOPPED, Verdict, Wish, decide},
    is_quiet, memory,
    rests::Rests,
    seen::Seen,
};
use crate::{
    controller::{evict::refused, fleet, plan, plan::UpgradePlan},
    upgrade::{Note, Outcome, Standing, Target},
};

const OLD: &str = "sidecar:1";
const NEW: &str = "sidecar:2";
const OBSERVE: Duration = Duration::from_secs(30);

fn plan(strategy: UpgradeStrategy, batch_percent: usize) -> UpgradePlan {
    UpgradePlan { strategy, batch_percent, observe: OBSERVE }
}

fn pod(number: usize) -> Seen {
    Seen {
        name: format!("pod-{number:02}"),
        place: ("team".to_owned(), format!("pod-{number:02}")),
        uid: Some(format!("uid-{number:02}")),
        granted: false,
        list: "initContainers",
        index: 0,
        image: OLD.to_owned(),
        template: Some("old".to_owned()),
        standing: Standing::OtherImage,
        ready: true,
        restarts: 0,
        ran: true,
        running: Some(Timestamp::UNIX_EPOCH),
        stuck: None,
        leaving: false,
        ended: false,
        workload: Some("team/ReplicaSet/agent".to_owned()),
        created: Timestamp::UNIX_EPOCH,
        note: None,
        rest: None,
    }
}

/// What pods are to have.
fn target(image: &str) -> Target {
    Target::of(fleet::view(&plan::tests::resource(&json!({}))).expect("a view"), image)
}

/// What is decided when nothing is known from before.
fn first(pods: &[Seen], image: &str, plan: UpgradePlan, now: Timestamp) -> Option<Verdict> {
    let wish = Wish { image, plan, forgiven: None };
    decide(pods, &wish, &memory::recall(None, &target(image), None, now), now)
}

/// What a controller makes in place of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Webhook {
    /// What is wanted.
    Current,
    /// What was wanted before.
    Outdated,
    /// Nothing: the pod is refused.
    Refuses,
}

/// A cluster with a clock; what the operator decides is carried out as it would be, and sidecars need a while to start.
#[expect(clippy::struct_excessive_bools, reason = "each is a way of its own in which things may go")]
struct World {
    pods: Vec<Seen>,
    now: Timestamp,
    plan: UpgradePlan,
    /// Whether the new image starts.
    works: bool,
    /// How many seconds a sidecar takes to start.
    start: i64,
    /// Whether the new image is started again and again, and is ready each time.
    starts_again: bool,
    webhook: Webhook,
    /// Whether the controller ends after each eviction, before it writes the status.
    is_killed: bool,
    target: Target,
    /// What stands in the status.
    memory: Option<Upgrade>,
    forgiven: Option<Timestamp>,
    /// What the process knows of pods that had to stay.
    rests: Rests,
    /// Pods that a policy or a budget keeps as they are.
    kept: Vec<String>,
    /// Pods whose sidecar is not ready, whatever its image.
    never_ready: Vec<String>,
    /// Whether the new image starts in other namespaces too.
    works_for_guests: bool,
    /// Pods that ever had the new image.
    touched: Vec<String>,
    evicted: usize,
    born: usize,
}

impl World {
    fn new(pods: usize, plan: UpgradePlan, works: bool) -> Self {
        let now = Timestamp::from_second(1_000_000).expect("a time");
        Self {
            pods: (0..pods).map(pod).collect(),
            now,
            plan,
            works,
            start: 3,
            starts_again: false,
            webhook: Webhook::Current,
            is_killed: false,
            target: target(NEW),
            memory: None,
            forgiven: None,
            rests: Rests::default(),
            kept: Vec::new(),
            never_ready: Vec::new(),
            works_for_guests: true,
            touched: Vec::new(),
            evicted: 0,
            born: pods,
        }
    }

    /// Several seconds; what was said last.
    fn run(&mut self, seconds: usize) -> Verdict {
        (0..seconds).map(|_| self.tick()).last().expect("a second")
    }

    /// What is the matter after these seconds.
    fn trouble(&mut self, seconds: usize) -> crate::controller::status::Trouble {
        self.run(seconds).finding.expect_err("something is the matter")
    }

    /// One second: sidecars start or fail, then the operator looks.
    fn tick(&mut self) -> Verdict {
        self.now = self.now.checked_add(jiff::SignedDuration::from_secs(1)).expect("a time");
        let now = self.now;
        self.pods.retain(|pod| !pod.leaving);
        for pod in &mut self.pods {
            let since = pod.note.as_ref().map_or(pod.created, |note| note.at);
            let start = since.checked_add(jiff::SignedDuration::from_secs(self.start)).expect("a time");
            let started = now >= start;
            let good = pod.image == OLD || self.works && (self.works_for_guests || !pod.granted);
            pod.ready = started && good && !self.never_ready.contains(&pod.name);
            pod.rest = self.rests.of(pod);
            let since = if self.starts_again && pod.image == NEW { now } else { start };
            pod.running = pod.ready.then_some(since);
            pod.stuck = (started && !good).then(|| "ImagePullBackOff".to_owned());
            if let Some(note) = &pod.note
                && started
                && good
                && note.outcome == Outcome::Begun
            {
                pod.restarts = note.restarts;
            }
        }
        let wish = Wish { image: NEW, plan: self.plan, forgiven: self.forgiven };
        // As a controller reads it that has taken over just now.
        let status = json!(self.memory);
        let known: Option<Upgrade> = serde_json::from_value(status).expect("what was written can be read");
        let known = memory::recall(known.as_ref(), &self.target, self.forgiven, now);
        let verdict = decide(&self.pods, &wish, &known, now).expect("an upgrade was asked for");
        let (mut memory, seen) = (verdict.memory.clone(), self.pods.clone());
        for act in &verdict.acts {
            let pod = seen.iter().find(|pod| pod.name == act.pod()).expect("the pod is there");
            let stands = |one: &Eviction| Some(&one.uid) == pod.uid.as_ref();
            assert!(!act.evicts() || known.evicted.iter().any(stands), "{} was not written down before", pod.name);
            if self.kept.contains(&pod.name) {
                self.rests.hold(pod, refused(&pod.name), now);
                continue;
            }
            self.rests.forget(pod);
            if act.evicts() {
                memory = memory::with_eviction(&memory, &seen, pod, now);
            }
            self.carry_out(act);
            if self.is_killed {
                continue;
            }
            if let Act::Try(_, trials) = act {
                memory = memory::with_trial(&memory, *trials, now);
            }
        }
        if !self.is_killed || verdict.acts.is_empty() {
            self.memory = Some(memory);
        }
        verdict
    }

    fn carry_out(&mut self, act: &Act) {
        let now = self.now;
        let place = self.pods.iter().position(|pod| pod.name == act.pod()).expect("the pod is there");
        let pod = &mut self.pods[place];
        match act {
            Act::Replace(name) => {
                self.touched.push(name.clone());
                let note = Note {
                    from: pod.image.clone(),
                    from_template: "old".to_owned(),
                    to: NEW.to_owned(),
                    at: now,
                    restarts: pod.restarts + 1,
                    was_ready: pod.ready,
                    outcome: Outcome::Begun,
                };
                pod.image = NEW.to_owned();
                pod.standing = Standing::Current;
                pod.ready = false;
                pod.note = Some(note);
            }
            Act::Restore(..) => {
                pod.image = OLD.to_owned();
                pod.standing = Standing::OtherImage;
                pod.note.as_mut().expect("a note").outcome = Outcome::Restored;
            }
            Act::Evict(_) | Act::Try(..) => {
                pod.leaving = true;
                let evicted = pod.clone();
                self.evicted += 1;
                let before = self.pods.len();
                self.bear();
                for another in &mut self.pods[before..] {
                    another.granted = evicted.granted;
                    another.place.0.clone_from(&evicted.place.0);
                    another.workload.clone_from(&evicted.workload);
                }
            }
        }
    }

    /// A controller makes a pod, as the webhook will have it.
    fn bear(&mut self) {
        if self.webhook == Webhook::Refuses {
            return;
        }
        let mut another = pod(self.born);
        self.born += 1;
        another.created = self.now;
        another.ready = false;
        if self.webhook == Webhook::Current {
            another.image = NEW.to_owned();
            another.standing = Standing::Current;
            self.touched.push(another.name.clone());
        }
        self.pods.push(another);
    }

    fn down(&self) -> usize {
        self.pods.iter().filter(|pod| !pod.ready && !pod.leaving).count()
    }
}

#[test]
fn a_good_image_reaches_every_pod_a_batch_at_a_time() {
    for strategy in [UpgradeStrategy::InPlace, UpgradeStrategy::RollingRestart] {
        for (pods, percent, batch) in [(1, 10, 1), (7, 10, 1), (10, 25, 3), (20, 100, 20)] {
            let mut world = World::new(pods, plan(strategy, percent), true);
            let mut seconds = 0;
            while world.tick().finding.is_err() {
                assert!(world.down() <= batch, "{strategy:?}: {} of {pods} are down at once", world.down());
                seconds += 1;
                assert!(seconds < 2_000, "{strategy:?}: {pods} pods, {percent} %, are never done");
            }
            assert!(world.pods.iter().all(|pod| pod.image == NEW), "{strategy:?}");
            let batches = pods.div_ceil(batch) as u64;
            assert!(seconds >= (batches - 1) * OBSERVE.as_secs(), "{strategy:?}: each batch is watched");
        }
    }
}

#[test]
fn an_image_that_does_not_start_stays_with_the_canaries_and_leaves_them_again() {
    let mut world = World::new(20, plan(UpgradeStrategy::InPlace, 10), false);
    let verdicts: Vec<_> = (0..600).map(|_| world.tick()).collect();
    assert_eq!(world.touched, ["pod-00", "pod-01"], "the canaries alone");
    assert!(world.pods.iter().all(|pod| pod.image == OLD && pod.ready), "all have the image before");
    let last = verdicts.last().and_then(|verdict| verdict.finding.clone().err()).expect("it says so");
    assert_eq!(last.reason, STOPPED);
    assert!(last.message.contains("pod-00, pod-01") && last.message.contains(NEW), "{}", last.message);
    // Another image is another upgrade.
    let known = memory::recall(world.memory.as_ref(), &target("sidecar:3"), None, world.now);
    assert_eq!(known.failed, None);
    let wish = Wish { image: "sidecar:3", plan: world.plan, forgiven: None };
    let verdict = decide(&world.pods, &wish, &known, world.now).expect("a verdict");
    assert_eq!(verdict.acts.len(), 2);
}

#[test]
fn an_image_that_failed_is_given_to_no_other_pod_when_the_canaries_are_gone() {
    let mut world = World::new(20, plan(UpgradeStrategy::InPlace, 10), false);
    world.run(60);
    world.pods.retain(|pod| !world.touched.contains(&pod.name));
    let said = world.trouble(600);
    assert_eq!((said.reason, world.touched.len()), (STOPPED, 2), "{}", said.message);
    assert!(said.message.contains("pod-00, pod-01") && said.message.contains("--retry"), "{}", said.message);
    // A person asks for it again, and by now it works.
    let failed = world.memory.as_ref().and_then(|memory| memory.failed.clone()).expect("a failure");
    (world.forgiven, world.works) = (Some(failed.at.0), true);
    let mut seconds = 0;
    while world.tick().finding.is_err() {
        seconds += 1;
        assert!(seconds < 2_000, "it is never done");
    }
    assert!(world.pods.iter().all(|pod| pod.image == NEW));
}

#[test]
fn a_retry_that_fails_stops_with_its_own_canaries() {
    let mut world = World::new(20, plan(UpgradeStrategy::InPlace, 10), false);
    world.run(60);
    let failed = |world: &World| world.memory.as_ref().and_then(|memory| memory.failed.clone()).expect("a failure");
    let before = failed(&world);
    world.forgiven = Some(before.at.0);
    let said = world.trouble(600);
    assert_eq!(said.reason, STOPPED);
    assert_eq!(world.touched, ["pod-00", "pod-01", "pod-00", "pod-01"], "the canaries alone");
    assert!(failed(&world).at > before.at);
    assert!(world.pods.iter().all(|pod| pod.image == OLD && pod.ready));
}

#[test]
fn a_restart_goes_no_further_when_new_pods_do_not_become_ready() {
    let mut world = World::new(20, plan(UpgradeStrategy::RollingRestart, 10), false);
    let last = (0..600).map(|_| world.tick()).last().and_then(|verdict| verdict.finding.err()).expect("it says so");
    assert_eq!((last.reason, world.touched.len()), (STOPPED, 2));
    assert_eq!(world.pods.iter().filter(|pod| pod.ready).count(), 18);
}

#[test]
fn a_restart_stays_where_it_stopped_when_the_new_pods_are_gone_and_goes_on_with_one_that_works() {
    let mut world = World::new(20, plan(UpgradeStrategy::RollingRestart, 10), false);
    world.run(300);
    world.pods.retain(|pod| !world.touched.contains(&pod.name));
    let said = world.trouble(600);
    assert_eq!((said.reason, world.evicted), (STOPPED, 2), "{}", said.message);
    world.works = true;
    world.bear();
    world.run(2_000).finding.expect("it goes on");
    assert!(world.pods.iter().all(|pod| pod.image == NEW));
}

#[test]
fn new_pods_that_are_outdated_too_stop_a_restart() {
    for pods in [1, 20] {
        let mut world = World::new(pods, plan(UpgradeStrategy::RollingRestart, 10), true);
        world.webhook = Webhook::Outdated;
        let batch = pods.div_ceil(10);
        let said = world.trouble(60);
        assert_eq!((said.reason, world.evicted), (STAY_OUTDATED, batch), "{}", said.message);
        assert!(said.message.contains(&format!("pod-{pods:02}")) && said.message.contains(NEW), "{}", said.message);
        // It is tried again, and not for ever.
        let said = world.trouble(3_000);
        assert_eq!((said.reason, world.evicted), (STAY_OUTDATED, batch + 3), "three times an hour");
        world.run(2 * 3_600);
        assert!(world.evicted <= batch + 3 * 3, "{} evictions in less than three hours", world.evicted);
        // What is made when the webhook is well again shows it.
        world.webhook = Webhook::Current;
        world.run(2 * 3_600).finding.expect("it goes on");
        assert!(world.pods.iter().all(|pod| pod.image == NEW));
    }
}

#[test]
fn a_pod_that_nobody_replaces_stops_a_restart_for_a_while_and_not_for_ever() {
    let mut world = World::new(20, plan(UpgradeStrategy::RollingRestart, 10), true);
    world.tick();
    let mut bare = pod(99);
    bare.workload = None;
    bare.created = world.now.checked_add(jiff::SignedDuration::from_secs(1)).expect("a time");
    world.pods.push(bare);
    let said = world.trouble(1);
    assert_eq!(said.reason, STAY_OUTDATED, "{}", said.message);
    // The webhook is well; the trial of another pod shows it.
    let Verdict { next, .. } = world.run(3_600);
    let left = world.pods.iter().filter(|pod| pod.image != NEW).map(|pod| pod.name.as_str());
    assert_eq!(left.collect::<Vec<_>>(), ["pod-99"]);
    assert!(next.is_none_or(|next| next >= OBSERVE), "nothing is looked at again and again: {next:?}");
}

#[test]
fn a_trial_waits_for_the_pod_that_takes_the_place() {
    let mut world = World::new(20, plan(UpgradeStrategy::RollingRestart, 10), true);
    world.webhook = Webhook::Outdated;
    while !matches!(world.tick().acts.as_slice(), [Act::Try(..)]) {}
    // The one that was evicted is gone, and none that was made since is there yet.
    let since = world.memory.as_ref().map(|memory| memory.since.0).expect("a memory");
    world.pods.retain(|pod| pod.created <= since);
    let evicted = world.evicted;
    assert_eq!(world.trouble(10).reason, STAY_OUTDATED);
    assert_eq!(world.evicted, evicted);
}

#[test]
fn a_pod_that_was_made_before_the_upgrade_is_no_sign_however_young_it_is() {
    let mut world = World::new(3, plan(UpgradeStrategy::RollingRestart, 10), true);
    // In the very second in which the upgrade begins.
    world.pods[1].created = world.now.checked_add(jiff::SignedDuration::from_secs(1)).expect("a time");
    world.run(2_000).finding.expect("it is done");
    assert_eq!(world.evicted, 3);
}

#[test]
fn a_sidecar_that_restarts_more_than_once_is_a_failure() {
    let mut world = World::new(3, plan(UpgradeStrategy::InPlace, 10), true);
    for _ in 0..6 {
        world.tick();
    }
    world.pods[0].restarts += 1;
    let verdict = first(&world.pods, NEW, world.plan, world.now).expect("a verdict");
    assert_eq!(verdict.acts, [Act::Restore("pod-00".to_owned(), "1 restarts".to_owned())]);
}

#[test]
fn a_sidecar_is_watched_from_its_start_on_however_late_that_was() {
    for strategy in [UpgradeStrategy::InPlace, UpgradeStrategy::RollingRestart] {
        let mut world = World::new(4, plan(strategy, 25), true);
        world.start = 60;
        while !world.pods.iter().any(|pod| pod.image == NEW && pod.ready) {
            world.tick();
        }
        assert_eq!(world.touched.len(), 1, "{strategy:?}");
        world.run(20);
        assert_eq!(world.touched.len(), 1, "{strategy:?}: the next one follows a canary that was not watched");
        if strategy == UpgradeStrategy::InPlace {
            let mut crashed = world.pods.clone();
            crashed[0].restarts += 1;
            let verdict = first(&crashed, NEW, world.plan, world.now).expect("a verdict");
            assert_eq!(verdict.acts, [Act::Restore("pod-00".to_owned(), "1 restarts".to_owned())]);
        }
        world.run(20);
        assert_eq!(world.touched.len(), 2, "{strategy:?}: the canary has been watched");
    }
}

#[test]
fn a_new_pod_whose_sidecar_starts_again_and_again_lets_no_other_one_go() {
    let mut world = World::new(4, plan(UpgradeStrategy::RollingRestart, 25), true);
    world.starts_again = true;
    world.run(300);
    assert_eq!(world.evicted, 1, "the next one follows a pod whose sidecar was started just now");
    world.starts_again = false;
    world.run(60);
    assert!(world.evicted > 1, "it runs, and has been watched");
}

#[test]
fn what_happens_long_after_an_upgrade_does_not_undo_it() {
    let mut world = World::new(1, plan(UpgradeStrategy::InPlace, 10), true);
    while world.tick().finding.is_err() {}
    let late = world.now.checked_add(DEADLINE + OBSERVE).expect("a time");
    let sidecar = world.pods.get_mut(0).expect("a pod");
    (sidecar.restarts, sidecar.ready, sidecar.stuck) = (7, false, Some("CrashLoopBackOff".to_owned()));
    let verdict = first(&world.pods, NEW, world.plan, late).expect("a verdict");
    assert_eq!(verdict.acts, []);
}

#[test]
fn what_takes_a_new_pod_is_named_and_left_to_people() {
    let mut pods = [pod(0), pod(1)];
    pods[1].standing = Standing::OtherSettings;
    pods[1].workload = None;
    pods[0].standing = Standing::Current;
    for strategy in [UpgradeStrategy::InPlace, UpgradeStrategy::RollingRestart] {
        let verdict = first(&pods, NEW, plan(strategy, 10), Timestamp::now()).expect("a verdict");
        let said = verdict.finding.expect_err("it is not up to date");
        assert_eq!((verdict.acts.len(), said.reason), (0, "NeedNewPods"), "{strategy:?}");
        assert!(said.message.contains("pod-01"), "{}", said.message);
        let names_mirrors = said.message.contains("images come from a mirror");
        assert_eq!(names_mirrors, strategy == UpgradeStrategy::InPlace, "{}", said.message);
    }
    assert!(first(&pods, NEW, plan(UpgradeStrategy::OnRecreate, 10), Timestamp::now()).is_none());
}

#[test]
fn pods_are_not_listed_while_all_are_up_to_date_and_nothing_is_watched() {
    let now = Timestamp::from_second(1_000_000).expect("a time");
    let past = |seconds| Time(now.checked_sub(jiff::SignedDuration::from_secs(seconds)).expect("a time"));
    let status = |template: &str, reason: &str, seconds| {
        let status = json!({
            "conditions": [{"type": "SidecarsCurrent", "status": "True", "reason": reason, "message": "", "lastTransitionTime": past(seconds)}],
            "upgrade": {"template": template, "since": past(seconds)},
        });
        serde_json::from_value::<ContextManagerStatus>(status).expect("a status")
    };
    let (target, none) = (target(NEW), Counted { injected: 3, ready: 1, outdated: 0, missing: 0 });
    let quiet = |status: &ContextManagerStatus, counted| is_quiet(Some(status), &target, &counted, OBSERVE, now);
    let settled = status(&target.template, "UpToDate", 200);
    assert!(quiet(&settled, none));
    assert!(!quiet(&settled, Counted { outdated: 1, ..none }), "a pod is outdated");
    assert!(!quiet(&status("another", "UpToDate", 200), none), "they would get something else");
    assert!(!quiet(&status(&target.template, "Upgrading", 200), none), "it goes on");
    assert!(!quiet(&status(&target.template, "UpToDate", 140), none), "the last ones may still fail");
    let mut missing = settled.clone();
    let evicted =
        json!({"pod": "a", "uid": "a", "workload": "team/ReplicaSet/agent", "at": past(9), "newest": past(9)});
    missing.upgrade.as_mut().expect("a memory").evicted = vec![serde_json::from_value(evicted).expect("an eviction")];
    assert!(!quiet(&missing, none), "one is missing");
    assert!(!is_quiet(None, &target, &none, OBSERVE, now), "nothing is known");
}

#[test]
fn a_pod_is_seen_with_what_its_kubelet_says() {
    let resource = |spec: Value| fleet::view(&plan::tests::resource(&spec)).expect("a view");
    let before = Target::of(resource(json!({})), OLD);
    let after = Target::of(resource(json!({})), NEW);
    let other = Target::of(resource(json!({"sidecar": {"adminPort": 9001}})), NEW);
    let pod: k8s_openapi::api::core::v1::Pod = serde_json::from_value(json!({
        "metadata": {
            "name": "a",
            "annotations": {"contextmanager.dev/injected-template": before.template},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", "controller": true}],
        },
        "spec": {
            "containers": [{"name": "agent"}],
            "initContainers": [{"name": "first"}, {"name": "context-manager", "image": OLD}],
        },
        "status": {"phase": "Running", "initContainerStatuses": [{
            "name": "context-manager", "ready": false, "image": OLD, "imageID": "", "restartCount": 2,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 1}},
        }]},
    }))
    .expect("a pod");
    let seen = |target| Seen::of(&pod, target).expect("it has a sidecar");
    let mut classic = pod.clone();
    if let Some(spec) = &mut classic.spec {
        spec.containers.extend(spec.init_containers.take().into_iter().flatten());
    }
    let place = |pod| Seen::of(pod, &after).map(|seen| (seen.list, seen.index));
    assert_eq!((place(&pod), place(&classic)), (Some(("initContainers", 1)), Some(("containers", 2))));
    assert_eq!(seen(&before).standing, Standing::Current);
    assert_eq!(seen(&after).standing, Standing::OtherImage);
    assert_eq!(seen(&other).standing, Standing::OtherSettings);
    let mut mirrored = pod.clone();
    let list = mirrored.spec.as_mut().and_then(|spec| spec.init_containers.as_mut()).expect("a list");
    list[1].image = Some(format!("mirror/{OLD}"));
    let standing = |target| Seen::of(&mirrored, target).map(|seen| seen.standing);
    assert_eq!(standing(&before), Some(Standing::Current), "what was injected counts");
    assert_eq!(standing(&after), Some(Standing::OtherSettings), "nobody knows what its image was");
    let Seen { index, restarts, ran, stuck, workload, .. } = seen(&after);
    assert_eq!((index, restarts, ran, workload.as_deref()), (1, 2, true, Some("/ReplicaSet/r")));
    assert_eq!(stuck.as_deref(), Some("CrashLoopBackOff"));
    let mut running = pod.clone();
    let status = running.status.as_mut().and_then(|status| status.init_container_statuses.as_mut()).expect("a status");
    status[0].state =
        serde_json::from_value(json!({"running": {"startedAt": "1970-01-01T00:00:07Z"}})).expect("a state");
    let since = |pod| Seen::of(pod, &after).and_then(|seen| seen.running);
    assert_eq!((since(&pod), since(&running)), (None, Timestamp::from_second(7).ok()));
}
