//! What one pod has by itself holds up no other: it may not be changed, was not ready before, or is of another namespace.

use kube::core::Status;

use super::*;
use crate::controller::{error::Error, upgrade::Answer};

const STRATEGIES: [UpgradeStrategy; 2] = [UpgradeStrategy::InPlace, UpgradeStrategy::RollingRestart];

fn named(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| pod(number).name).collect()
}

/// Pods that have the image before.
fn outdated(world: &World) -> Vec<String> {
    world.pods.iter().filter(|pod| pod.image == OLD).map(|pod| pod.name.clone()).collect()
}

/// Pods that stand in the status to be evicted.
fn written_down(world: &World) -> usize {
    world.memory.as_ref().map_or(0, |memory| memory.evicted.len())
}

#[test]
fn pods_that_have_to_stay_hold_up_no_other() {
    for strategy in STRATEGIES {
        for kept in [named(0..1), named(0..9)] {
            let mut world = World::new(10, plan(strategy, 10), true);
            world.kept.clone_from(&kept);
            while outdated(&world) != kept {
                assert!(world.tick().finding.is_err_and(|said| !said.stalled), "{strategy:?}: it is under way");
                assert!(written_down(&world) <= 2, "{strategy:?}: {:?}", world.memory);
                assert!(world.touched.len() <= 10 && world.now.as_second() < 1_002_000, "{strategy:?}: never done");
            }
            let said = world.trouble(30);
            assert_eq!((said.reason, said.stalled), ("PodRefused", false), "{strategy:?}: {}", said.message);
            assert!(said.message.contains("a change of pod-00, "), "{}", said.message);
            assert_eq!(said.message.contains("also held up: pod-01, "), kept.len() > 1, "{}", said.message);
            assert!(said.message.contains("of 10 sidecars are up to date"), "{}", said.message);
            let said = world.trouble(900);
            assert!(said.reason == "PodRefused" && said.stalled, "{strategy:?}: nobody is called: {}", said.message);
            // Who takes over knows nothing of it, and loses nothing.
            world.rests = Rests::default();
            assert_eq!(world.trouble(30).reason, "PodRefused");
            assert_eq!(outdated(&world), kept);
            world.kept.clear();
            world.run(1_000).finding.expect("they may be changed by now");
            assert_eq!(outdated(&world), [""; 0]);
        }
    }
}

#[test]
fn a_pod_that_has_to_stay_is_tried_ever_more_rarely() {
    let (mut rests, mut pod) = (Rests::default(), pod(0));
    let mut tried = Vec::new();
    for seconds in 0..200 {
        let now = Timestamp::from_second(1_000_000 + seconds).expect("a time");
        pod.rest = rests.of(&pod);
        if !pod.rests(now) {
            tried.push(seconds);
            rests.hold(&pod, refused(&pod.name), now);
        }
    }
    assert_eq!(tried, [0, 5, 15, 35, 75, 135, 195]);
    rests.forget(&pod);
    assert_eq!(rests.of(&pod), None);
}

#[test]
fn a_pod_that_was_never_ready_says_nothing_of_the_image() {
    for strategy in STRATEGIES {
        let mut world = World::new(10, plan(strategy, 10), true);
        world.never_ready = named(0..1);
        world.pods[0].ran = false;
        for _ in 0..2_000 {
            let stopped = world.tick().finding.is_err_and(|said| said.reason == STOPPED);
            assert!(!stopped, "{strategy:?}: it stops for pod-00");
        }
        let finding = world.tick().finding;
        if strategy == UpgradeStrategy::InPlace {
            finding.expect("all have it");
            assert_eq!(
                world.touched.last().map(String::as_str),
                Some("pod-00"),
                "those that show something come first"
            );
            assert_eq!(outdated(&world), [""; 0]);
        } else {
            let said = finding.expect_err("one has not started");
            assert!(said.reason == "NeedNewPods" && said.message.contains("pod-00 have not started"), "{said:?}");
            assert_eq!(outdated(&world), ["pod-00"]);
        }
    }
}

#[test]
fn a_new_pod_that_no_node_takes_stops_nobody_unless_another_one_went_for_it() {
    for in_place_of_another in [false, true] {
        let mut world = World::new(10, plan(UpgradeStrategy::RollingRestart, 10), true);
        if in_place_of_another {
            world.never_ready = named(10..11);
            while world.evicted == 0 {
                world.tick();
            }
            world.pods.iter_mut().filter(|pod| pod.image == NEW).for_each(|pod| pod.ran = false);
        } else {
            world.tick();
            world.bear();
            world.never_ready = named(10..11);
            let scaled_up = world.pods.last_mut().expect("a pod");
            (scaled_up.ran, scaled_up.workload) = (false, Some("team/ReplicaSet/other".to_owned()));
        }
        let finding = world.run(1_000).finding;
        assert_eq!(finding.is_err_and(|said| said.reason == STOPPED), in_place_of_another);
        assert_eq!(world.evicted, if in_place_of_another { 1 } else { 10 });
    }
}

#[test]
fn an_image_of_which_nothing_is_known_goes_to_one_batch_of_pods_that_are_not_ready() {
    let mut world = World::new(10, plan(UpgradeStrategy::InPlace, 10), true);
    world.never_ready = named(0..10);
    let said = world.trouble(590);
    assert_eq!((said.reason, said.stalled, world.touched.len()), ("Upgrading", false, 1), "{}", said.message);
    assert!(said.message.contains("not ready with it, maybe for another reason: pod-00;"), "{}", said.message);
    // Then to one more now and then, a few in all.
    world.run(20);
    assert_eq!(world.touched, named(0..2));
    let said = world.trouble(2 * 3_600);
    assert_eq!((said.reason, said.stalled, world.touched.len()), ("Upgrading", true, 4), "{}", said.message);
    // One that is ready shows it.
    world.never_ready.retain(|pod| pod != "pod-05");
    world.run(2_000).finding.expect("it goes on");
    assert_eq!(outdated(&world), [""; 0]);
}

#[test]
fn an_image_that_makes_pods_ready_comes_to_all_past_one_with_a_trouble_of_its_own() {
    let mut world = World::new(10, plan(UpgradeStrategy::InPlace, 10), true);
    world.never_ready = named(0..10);
    for _ in 0..1_500 {
        world.tick();
        let still = outdated(&world);
        world.never_ready.retain(|pod| pod == "pod-00" || still.contains(pod));
    }
    world.tick().finding.expect("all have it");
    assert_eq!((outdated(&world).len(), world.down()), (0, 1));
}

#[test]
fn pods_that_were_not_ready_have_the_image_before_again_when_the_new_one_is_bad() {
    // In the same batch as one that shows it.
    let mut world = World::new(2, plan(UpgradeStrategy::InPlace, 100), false);
    world.never_ready = named(0..1);
    world.tick();
    world.never_ready.clear();
    let said = world.trouble(300);
    assert!(said.reason == STOPPED && said.message.contains("pod-01"), "{}", said.message);
    assert_eq!((world.touched.len(), outdated(&world), world.down()), (2, named(0..2), 0));
    // Long before one that shows it.
    let mut world = World::new(10, plan(UpgradeStrategy::InPlace, 10), false);
    world.never_ready = named(0..10);
    world.run(2 * 3_600);
    world.never_ready.clear();
    assert_eq!(world.trouble(60).reason, STOPPED);
    assert_eq!((world.touched.len(), outdated(&world), world.down()), (5, named(0..10), 0));
}

#[test]
fn a_canary_that_failed_while_nobody_looked_has_the_image_before_again() {
    let mut world = World::new(10, plan(UpgradeStrategy::InPlace, 10), false);
    world.tick();
    world.now = world.now.checked_add(Duration::from_mins(10)).expect("a time");
    assert_eq!(world.trouble(60).reason, STOPPED);
    assert_eq!((world.touched.len(), outdated(&world), world.down()), (2, named(0..10), 0));
}

#[test]
fn pods_that_are_not_ready_long_after_keep_an_image_that_failed_in_another_one() {
    let mut world = World::new(3, plan(UpgradeStrategy::InPlace, 10), true);
    while world.touched.len() < 2 {
        world.tick();
    }
    world.pods[0].note.as_mut().expect("a note").at = Timestamp::UNIX_EPOCH;
    // Its store is away: it runs, and is not ready.
    (world.pods[0].ready, world.pods[0].stuck) = (false, None);
    world.pods[1].stuck = Some("ImagePullBackOff".to_owned());
    let verdict = first(&world.pods, NEW, world.plan, world.now).expect("a verdict");
    assert_eq!(verdict.acts, [Act::Restore("pod-01".to_owned(), "ImagePullBackOff".to_owned())]);
}

#[test]
fn the_only_pod_is_not_said_to_be_up_to_date_with_an_image_of_which_nothing_is_known() {
    let mut world = World::new(1, plan(UpgradeStrategy::InPlace, 10), false);
    world.never_ready = named(0..1);
    let said = world.trouble(300);
    assert_eq!((said.reason, said.stalled), ("Upgrading", false), "{}", said.message);
    let said = world.trouble(600);
    assert_eq!((said.reason, said.stalled), ("Upgrading", true), "{}", said.message);
    assert!(said.message.ends_with(": pod-00; make one of them ready, or delete it"), "{}", said.message);
}

#[test]
fn pods_that_are_not_ready_do_not_hide_that_the_image_failed_in_another_namespace() {
    let mut world = World::new(4, plan(UpgradeStrategy::InPlace, 10), true);
    for guest in &mut world.pods[..2] {
        guest.granted = true;
        guest.place.0 = "guest".to_owned();
    }
    (world.works_for_guests, world.never_ready) = (false, named(2..4));
    let said = world.trouble(300);
    assert!(said.reason == STOPPED && said.stalled, "{}", said.message);
    assert!(said.message.contains("failed in pod-00, so no other pod of their namespaces"), "{}", said.message);
    assert!(said.message.contains("not ready with it, maybe for another reason: pod-02;"), "{}", said.message);
}

#[test]
fn a_failure_is_tried_again_past_pods_that_have_to_stay_and_pods_that_are_not_ready() {
    for strategy in STRATEGIES {
        let mut world = World::new(10, plan(strategy, 10), false);
        (world.never_ready, world.kept) = (named(0..1), named(1..2));
        world.pods[0].ran = false;
        let said = world.trouble(600);
        assert_eq!((said.reason, world.touched.len()), (STOPPED, 1), "{strategy:?}: {}", said.message);
        let failed = world.memory.as_ref().and_then(|memory| memory.failed.clone()).expect("a failure");
        // Another controller tries it again.
        (world.forgiven, world.works, world.rests) = (Some(failed.at.0), true, Rests::default());
        let said = world.trouble(2_000);
        assert!(said.reason == "PodRefused" && said.message.contains("pod-01"), "{strategy:?}: {}", said.message);
        let left = named(if strategy == UpgradeStrategy::InPlace { 1..2 } else { 0..2 });
        assert_eq!(outdated(&world), left, "{strategy:?}");
        assert_eq!(world.memory.as_ref().and_then(|memory| memory.failed.clone()), None);
    }
}

#[test]
fn what_fails_in_another_namespace_stops_the_pods_there_alone() {
    for strategy in STRATEGIES {
        let mut world = World::new(10, plan(strategy, 10), true);
        for guest in &mut world.pods[..8] {
            guest.granted = true;
            guest.place.0 = "guest".to_owned();
            guest.workload = Some("guest/ReplicaSet/agent".to_owned());
        }
        // The resource's own pods, which would come first, have to stay for a while.
        (world.works_for_guests, world.kept) = (false, named(8..10));
        world.run(400);
        assert_eq!(world.touched.len(), 1, "{strategy:?}: one guest shows it");
        world.kept.clear();
        let said = world.trouble(600);
        assert_eq!(said.reason, STOPPED, "{strategy:?}: {}", said.message);
        assert!(said.message.contains("no other pod of their namespaces gets it"), "{}", said.message);
        assert!(world.pods.iter().all(|pod| pod.granted || pod.image == NEW), "{strategy:?}: the own pods wait");
        assert_eq!(world.touched.len(), 3, "{strategy:?}: no other guest gets it");
        assert_eq!(world.memory.as_ref().and_then(|memory| memory.failed.clone()), None);
        // It works there as well by now.
        (world.works_for_guests, world.forgiven) = (true, Some(world.now));
        world.run(2_000).finding.expect("it goes on");
        assert_eq!(outdated(&world), [""; 0]);
    }
}

#[test]
fn what_fails_where_there_are_pods_of_other_namespaces_alone_stops_all() {
    let mut world = World::new(10, plan(UpgradeStrategy::InPlace, 10), false);
    for (number, guest) in world.pods.iter_mut().enumerate() {
        guest.granted = true;
        guest.place.0 = format!("guest-{number}");
    }
    assert_eq!((world.trouble(600).reason, world.touched.len()), (STOPPED, 1));
    assert!(world.memory.is_some_and(|memory| memory.failed.is_some()));
}

#[test]
fn a_policy_is_told_from_a_want_of_rights_and_from_a_change_by_somebody_else() {
    let answer = |code: u16, message: &str| {
        let status = Status { code, message: message.to_owned(), ..Status::default() };
        Answer::of(&Error::Api { action: "patch", source: Box::new(kube::Error::Api(Box::new(status))) })
    };
    let rights = r#"pods "agent" is forbidden: User "operator" cannot patch resource "pods" in API group "" in the namespace "team""#;
    assert_eq!(answer(403, rights), Answer::Forbidden);
    for message in [
        r#"pods "agent" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false"#,
        r#"admission webhook "calm.example.com" denied the request: not now"#,
    ] {
        assert_eq!(answer(403, message), Answer::Refused, "{message}");
    }
    for (code, meaning) in [
        (400, Answer::Refused),
        (500, Answer::Refused),
        (404, Answer::Passing),
        (409, Answer::Passing),
        (429, Answer::Passing),
        (422, Answer::Invalid),
        (401, Answer::Error),
    ] {
        assert_eq!(answer(code, ""), meaning, "{code}");
    }
    assert_eq!(Answer::of(&Error::Timeout { action: "patch" }), Answer::Refused);
}
