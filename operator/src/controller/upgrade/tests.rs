//! Upgrades step by step, on pods that behave as those of a kubelet do.

use std::time::Duration;

use context_manager_crds::context_manager::sidecar::UpgradeStrategy;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    decide::{Act, DEADLINE, STOPPED, Verdict, decide},
    seen::Seen,
};
use crate::{
    controller::{fleet, plan, plan::UpgradePlan},
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
        uid: None,
        granted: false,
        list: "initContainers",
        index: 0,
        image: OLD.to_owned(),
        template: Some("old".to_owned()),
        standing: Standing::OtherImage,
        ready: true,
        restarts: 0,
        ran: true,
        stuck: None,
        leaving: false,
        replaceable: true,
        created: Timestamp::UNIX_EPOCH,
        note: None,
    }
}

/// A cluster with a clock; what the operator decides is carried out as it would be, and sidecars need a while to start.
struct World {
    pods: Vec<Seen>,
    now: Timestamp,
    plan: UpgradePlan,
    /// Whether the new image starts.
    works: bool,
    /// Pods that ever had the new image.
    touched: Vec<String>,
    born: usize,
}

impl World {
    fn new(pods: usize, plan: UpgradePlan, works: bool) -> Self {
        let now = Timestamp::from_second(1_000_000).expect("a time");
        Self { pods: (0..pods).map(pod).collect(), now, plan, works, touched: Vec::new(), born: pods }
    }

    /// One second: sidecars start or fail, then the operator looks.
    fn tick(&mut self) -> Verdict {
        self.now = self.now.checked_add(jiff::SignedDuration::from_secs(1)).expect("a time");
        let now = self.now;
        self.pods.retain(|pod| !pod.leaving);
        for pod in &mut self.pods {
            let since = pod.note.as_ref().map_or(pod.created, |note| note.at);
            let started = now.duration_since(since) >= jiff::SignedDuration::from_secs(3);
            let good = pod.image == OLD || self.works;
            pod.ready = started && good;
            pod.stuck = (started && !good).then(|| "ImagePullBackOff".to_owned());
            if let Some(note) = &pod.note
                && started
                && good
                && note.outcome == Outcome::Begun
            {
                pod.restarts = note.restarts;
            }
        }
        let verdict = decide(&self.pods, NEW, &self.plan, now).expect("an upgrade was asked for");
        for act in &verdict.acts {
            self.carry_out(act);
        }
        verdict
    }

    fn carry_out(&mut self, act: &Act) {
        let (Act::Replace(name) | Act::Restore(name, _) | Act::Evict(name)) = act;
        let now = self.now;
        let place = self.pods.iter().position(|pod| pod.name == *name).expect("the pod is there");
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
            Act::Evict(_) => {
                pod.leaving = true;
                let mut another = super::tests::pod(self.born);
                self.born += 1;
                another.image = NEW.to_owned();
                another.standing = Standing::Current;
                another.created = now;
                another.ready = false;
                self.touched.push(another.name.clone());
                self.pods.push(another);
            }
        }
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
    let verdict = decide(&world.pods, "sidecar:3", &world.plan, world.now).expect("a verdict");
    assert_eq!(verdict.acts.len(), 2);
}

#[test]
fn a_restart_goes_no_further_when_new_pods_do_not_become_ready() {
    let mut world = World::new(20, plan(UpgradeStrategy::RollingRestart, 10), false);
    let last = (0..600).map(|_| world.tick()).last().and_then(|verdict| verdict.finding.err()).expect("it says so");
    assert_eq!((last.reason, world.touched.len()), (STOPPED, 2));
    assert_eq!(world.pods.iter().filter(|pod| pod.ready).count(), 18);
}

#[test]
fn a_sidecar_that_restarts_more_than_once_is_a_failure() {
    let mut world = World::new(3, plan(UpgradeStrategy::InPlace, 10), true);
    for _ in 0..6 {
        world.tick();
    }
    world.pods[0].restarts += 1;
    let verdict = decide(&world.pods, NEW, &world.plan, world.now).expect("a verdict");
    assert_eq!(verdict.acts, [Act::Restore("pod-00".to_owned(), "1 restarts".to_owned())]);
}

#[test]
fn what_happens_long_after_an_upgrade_does_not_undo_it() {
    let mut world = World::new(1, plan(UpgradeStrategy::InPlace, 10), true);
    while world.tick().finding.is_err() {}
    let late = world.now.checked_add(DEADLINE + OBSERVE).expect("a time");
    let sidecar = world.pods.get_mut(0).expect("a pod");
    (sidecar.restarts, sidecar.ready, sidecar.stuck) = (7, false, Some("CrashLoopBackOff".to_owned()));
    let verdict = decide(&world.pods, NEW, &world.plan, late).expect("a verdict");
    assert_eq!(verdict.acts, []);
}

#[test]
fn what_takes_a_new_pod_is_named_and_left_to_people() {
    let mut pods = [pod(0), pod(1)];
    pods[1].standing = Standing::OtherSettings;
    pods[1].replaceable = false;
    pods[0].standing = Standing::Current;
    for strategy in [UpgradeStrategy::InPlace, UpgradeStrategy::RollingRestart] {
        let verdict = decide(&pods, NEW, &plan(strategy, 10), Timestamp::now()).expect("a verdict");
        let said = verdict.finding.expect_err("it is not up to date");
        assert_eq!((verdict.acts.len(), said.reason), (0, "NeedNewPods"), "{strategy:?}");
        assert!(said.message.contains("pod-01"), "{}", said.message);
    }
    assert!(decide(&pods, NEW, &plan(UpgradeStrategy::OnRecreate, 10), Timestamp::now()).is_none());
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
    let Seen { index, restarts, ran, stuck, replaceable, .. } = seen(&after);
    assert_eq!((index, restarts, ran, replaceable), (1, 2, true, true));
    assert_eq!(stuck.as_deref(), Some("CrashLoopBackOff"));
}
