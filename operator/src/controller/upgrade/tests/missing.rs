//! Pods that nothing takes the place of.

use super::*;

/// Twenty pods whose successors are refused; two are evicted at a time.
fn refused() -> World {
    let mut world = World::new(20, plan(UpgradeStrategy::RollingRestart, 10), true);
    world.webhook = Webhook::Refuses;
    world
}

#[test]
fn a_restart_whose_new_pods_are_refused_loses_its_first_batch_alone() {
    for is_killed in [false, true] {
        let mut world = refused();
        world.is_killed = is_killed;
        let said = world.trouble(20);
        assert_eq!(said.reason, "Upgrading");
        assert!(said.message.ends_with("; waiting for pods in place of pod-00, pod-01"), "{}", said.message);
        let said = world.trouble(6 * 3_600);
        assert_eq!((said.reason, world.evicted, world.pods.len()), (STOPPED, 2, 18), "{}", said.message);
        assert!(said.message.starts_with("pod-00, pod-01 made way"), "{}", said.message);
        assert!(said.message.contains("team/ReplicaSet/agent could not make it"), "{}", said.message);
        // The quota has room for one, which says nothing of the next.
        world.webhook = Webhook::Current;
        world.bear();
        assert_eq!((world.trouble(3_600).reason, world.evicted), (STOPPED, 2));
        world.bear();
        world.is_killed = false;
        world.run(2_000).finding.expect("it goes on");
        assert!(world.pods.len() == 20 && world.pods.iter().all(|pod| pod.image == NEW));
    }
}

#[test]
fn a_restart_of_pods_that_nobody_wants_back_goes_on_when_a_person_says_so() {
    let mut world = refused();
    assert_eq!(world.trouble(600).reason, STOPPED);
    let failed = world.memory.as_ref().and_then(|memory| memory.failed.clone()).expect("a failure");
    (world.forgiven, world.webhook) = (Some(failed.at.0), Webhook::Current);
    world.run(2_000).finding.expect("it goes on");
    assert!(world.pods.len() == 18 && world.pods.iter().all(|pod| pod.image == NEW));
}

#[test]
fn another_image_does_not_make_a_missing_pod_come() {
    let mut world = refused();
    world.run(600);
    world.target = target("sidecar:3");
    assert_eq!((world.trouble(3_600).reason, world.evicted), (STOPPED, 2));
}

#[test]
fn a_replica_that_is_taken_away_before_it_is_ready_is_not_waited_for() {
    for (kind, failed, goes_on) in
        [("ReplicaSet", false, true), ("ReplicaSet", true, false), ("StatefulSet", false, false)]
    {
        let mut world = World::new(20, plan(UpgradeStrategy::RollingRestart, 10), true);
        for pod in &mut world.pods {
            pod.workload = Some(format!("team/{kind}/agent"));
        }
        while world.evicted == 0 {
            world.tick();
        }
        for pod in &mut world.pods {
            pod.workload = Some(format!("team/{kind}/agent"));
        }
        world.tick();
        // The autoscaler wants two less, or a node does not take them.
        let is_new = |pod: &Seen| pod.image == NEW;
        if failed {
            world.pods.iter_mut().filter(|pod| is_new(pod)).for_each(|pod| pod.ended = true);
        } else {
            world.pods.retain(|pod| !is_new(pod));
        }
        world.run(140);
        assert_eq!(world.evicted > 2, goes_on, "{kind}, failed: {failed}");
        assert_eq!(
            world.tick().finding.is_err_and(|said| said.reason == STOPPED),
            !goes_on,
            "{kind}, failed: {failed}"
        );
    }
}

#[test]
fn the_last_pod_that_is_missing_is_named_for_a_while() {
    let mut world = World::new(1, plan(UpgradeStrategy::RollingRestart, 10), true);
    world.webhook = Webhook::Refuses;
    let said = world.trouble(60);
    assert!(said.reason == "Upgrading" && said.message.contains("in place of pod-00"), "{}", said.message);
    assert_eq!(world.trouble(120).reason, STOPPED);
    world.run(3_600).finding.expect("nobody waits for it any more");
    // One that comes ends it at once.
    let mut world = World::new(1, plan(UpgradeStrategy::RollingRestart, 10), true);
    world.webhook = Webhook::Refuses;
    world.run(180);
    world.webhook = Webhook::Current;
    world.bear();
    world.run(10).finding.expect("it is there");
}

#[test]
fn a_trial_that_is_refused_is_the_last() {
    let mut world = World::new(20, plan(UpgradeStrategy::RollingRestart, 10), true);
    world.webhook = Webhook::Outdated;
    world.run(60);
    world.webhook = Webhook::Refuses;
    assert_eq!(world.trouble(6 * 3_600).reason, STOPPED);
    assert_eq!((world.evicted, world.pods.len()), (3, 19));
}
