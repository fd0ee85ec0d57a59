#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::controller::managed::view::{ACTIVE, Collection, Replica, View};

fn now() -> Timestamp {
    "2026-11-26T10:00:00Z".parse().unwrap()
}

fn ago(minutes: i64) -> Option<Timestamp> {
    Timestamp::from_second(now().as_second() - 60 * minutes).ok()
}

/// Three nodes, of which those named by `newest` have the newest template.
fn nodes(newest: &[i32]) -> Vec<Node> {
    let node = |ordinal: i32| Node {
        ordinal,
        name: format!("node-{ordinal}"),
        revision: if newest.contains(&ordinal) { "new" } else { "old" }.to_owned(),
        is_ready: true,
        since: ago(60),
        ..Node::default()
    };
    (0..3).map(node).collect()
}

fn set() -> Set {
    Set { wanted: 3, revision: Some("new".to_owned()) }
}

fn whole() -> View {
    let replica = |shard, peer| Replica { shard, peer, state: ACTIVE.to_owned() };
    let contexts = Collection {
        name: "contexts".to_owned(),
        replicas: vec![replica(0, 11), replica(0, 12)],
        ..Collection::default()
    };
    let peers = BTreeMap::from([11, 12, 13].map(|peer| (peer, String::new())));
    View { peers, agrees: true, collections: vec![contexts] }
}

fn opinion(view: &View) -> Opinion {
    Opinion { obstacle: view.obstacle(3), is_moving: view.is_moving() }
}

fn views() -> Vec<Result<Opinion, Silence>> {
    vec![Ok(opinion(&whole())); 3]
}

fn restarted(step: Step) -> String {
    let Step::Restart(node) = step else { unreachable!("{step:?}") };
    node.name
}

fn waits(step: Step) -> (&'static str, String) {
    let Step::Wait(Trouble { reason, message, stalled: false }) = step else { unreachable!("{step:?}") };
    (reason, message)
}

#[test]
fn nodes_go_one_by_one_from_the_last_to_the_first() {
    let mut newest = Vec::new();
    for expected in ["node-2", "node-1", "node-0"] {
        let step = decide(&set(), &nodes(&newest), &views(), now());
        assert_eq!(restarted(step), expected);
        newest.push(2 - i32::try_from(newest.len()).unwrap());
    }
    assert_eq!(decide(&set(), &nodes(&newest), &[], now()), Step::Current);
}

#[test]
fn nothing_is_done_before_the_newest_template_was_seen() {
    let live: StatefulSet = serde_json::from_value(json!({
        "metadata": {"generation": 2}, "spec": {"replicas": 3, "selector": {}, "serviceName": "s", "template": {}},
        "status": {"observedGeneration": 1, "updateRevision": "old", "replicas": 3},
    }))
    .unwrap();
    assert_eq!(waits(decide(&Set::of(&live), &nodes(&[]), &views(), now())).0, "Updating");
}

#[test]
fn the_next_node_waits_for_the_one_before_it() {
    let mut ending = nodes(&[]);
    ending[2].is_leaving = true;
    assert!(waits(decide(&set(), &ending, &views(), now())).1.ends_with("node-2 is ending"));
    let gone = &nodes(&[])[..2];
    assert!(waits(decide(&set(), gone, &views(), now())).1.contains("a pod is not made yet"));
    let mut starting = nodes(&[2]);
    starting[2] = Node { is_ready: false, since: ago(2), ..starting[2].clone() };
    assert_eq!(waits(decide(&set(), &starting, &views(), now())).0, "Updating");
    starting[2].since = ago(5);
    let (reason, said) = waits(decide(&set(), &starting, &views(), now()));
    assert!(reason == "NodeNotReady" && said.contains("1 of 3 nodes") && said.contains("5 minutes"), "{said}");
    starting[2] = Node { fault: Some("ErrImagePull".to_owned()), since: ago(0), ..starting[2].clone() };
    let (reason, said) = waits(decide(&set(), &starting, &views(), now()));
    assert!(reason == "NodeNotReady" && said.contains("node-2 is not ready (ErrImagePull)"), "{said}");
}

#[test]
fn the_next_node_waits_for_each_replica_in_the_eyes_of_each_node() {
    for seer in 0..3 {
        let mut seen = views();
        let mut view = whole();
        view.collections[0].replicas[1].state = "Partial".to_owned();
        seen[seer] = Ok(opinion(&view));
        let (reason, said) = waits(decide(&set(), &nodes(&[2]), &seen, now()));
        assert_eq!(reason, "WaitingForReplicas");
        assert!(said.ends_with(&format!("node-{seer} sees shard 0 of contexts as Partial on peer 12")), "{said}");
    }
    let mut silent = views();
    silent[0] = Err(Silence::Away("does not answer in time".to_owned()));
    assert!(waits(decide(&set(), &nodes(&[2]), &silent, now())).1.ends_with("node-0 does not answer in time"));
}

#[test]
fn a_broken_node_that_has_the_old_template_is_replaced_first_and_one_that_has_the_new_one_stops_all() {
    let broken = |newest: &[i32]| {
        let mut nodes = nodes(newest);
        nodes[1] = Node { is_ready: false, fault: Some("CrashLoopBackOff".to_owned()), ..nodes[1].clone() };
        nodes
    };
    assert_eq!(restarted(decide(&set(), &broken(&[]), &views(), now())), "node-1");
    assert_eq!(restarted(decide(&set(), &broken(&[2]), &[], now())), "node-1");
    assert_eq!(waits(decide(&set(), &broken(&[1, 2]), &views(), now())).0, "NodeNotReady");
}

#[test]
fn nodes_with_an_older_key_are_restarted_without_being_asked_but_one_by_one() {
    let mut seen = views();
    seen[0] = Err(Silence::Refused);
    seen[1] = Err(Silence::Refused);
    assert_eq!(restarted(decide(&set(), &nodes(&[2]), &seen, now())), "node-1");
    let mut starting = nodes(&[2]);
    starting[2] = Node { is_ready: false, since: ago(0), ..starting[2].clone() };
    assert_eq!(waits(decide(&set(), &starting, &seen, now())).0, "Updating");
    // One that has the newest template and refuses the key has been told another one by hand.
    let mut wrong = views();
    wrong[2] = Err(Silence::Refused);
    assert_eq!(waits(decide(&set(), &nodes(&[2]), &wrong, now())).0, "WaitingForReplicas");
}
