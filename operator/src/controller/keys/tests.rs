//! The ring in its Secret, and every step of a rotation by a clock and a fleet of the test's own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use serde_json::json;

use super::{fleet::Waiting, step::Question, *};
use crate::controller::{context::tests::context_with, objects::Objects, plan::tests::resource};

const SECOND: Duration = Duration::from_secs(1);
const TIMES: Times = Times {
    overlap: Duration::from_secs(20),
    settle: SECOND,
    patience: Duration::from_mins(1),
    delivery: Duration::from_secs(30),
    copied: None,
};

fn secret(json: &str) -> Secret {
    let data = [("keys.json".to_owned(), ByteString(json.as_bytes().to_vec()))].into();
    Secret { data: Some(data), ..Secret::default() }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn key(id: &str) -> Key {
    let material: Vec<u8> = id.bytes().cycle().take(32).collect();
    Key::new(id, material).unwrap()
}

fn ring(active: &str, next: Option<&str>, previous: &[&str]) -> KeyRing {
    KeyRing::with(key(active), next.map(key), previous.iter().map(|id| key(id)).collect()).unwrap()
}

fn made(request: Option<&str>) -> Wish<'_> {
    Wish::Made { every: None, request }
}

fn given(ring: &KeyRing) -> Wish<'_> {
    Wish::Given { ring, request: None }
}

fn ids(state: &State) -> String {
    let previous: Vec<_> = state.ring.previous().iter().map(Key::id).collect();
    format!("{} {} {}", state.ring.active().id(), state.ring.next().map_or("-", Key::id), previous.join("+"))
}

/// What the next controller reads of what this one wrote.
fn reread(state: &State, now: Timestamp) -> State {
    let secret = with_state(secret(std::str::from_utf8(&state.ring.to_json()).unwrap()), state);
    State::read(ring_in(&secret, "keys.json").unwrap(), &secret, now)
}

fn silent(pod: &str) -> Waiting {
    Waiting { asked: 1, silent: vec![(pod.to_owned(), "cannot be reached")], ..Waiting::default() }
}

fn lagging(pod: &str) -> Waiting {
    Waiting { asked: 1, lagging: vec![(pod.to_owned(), "has not loaded it")], ..Waiting::default() }
}

fn closed(pod: &str) -> Waiting {
    Waiting { asked: 1, closed: vec![pod.to_owned()], ..Waiting::default() }
}

/// The step, with what it writes read again by a controller that knows nothing else.
fn next(state: &State, wish: &Wish<'_>, waiting: Waiting, now: Timestamp) -> Result<(State, Change), Phase> {
    match step::step(state, wish, Some(waiting), &TIMES, now).unwrap() {
        Step::Rest(phase) => Err(phase),
        Step::Write(new, change) => Ok((reread(&new, now), change)),
        Step::Make(request) => {
            let new = state.publish(key(&format!("k{}", now.as_second() - at(0).as_second())), now).unwrap();
            Ok((reread(&State { rotated_for: request, ..new }, now), Change::Published))
        }
    }
}

fn written(state: &State, wish: &Wish<'_>, now: Timestamp) -> State {
    next(state, wish, Waiting::default(), now).unwrap_or_else(|phase| unreachable!("{phase:?}")).0
}

#[test]
fn new_keys_are_valid_and_differ() {
    let keys = [new_key(Timestamp::now()).unwrap(), new_key(Timestamp::now()).unwrap()];
    assert_ne!(keys[0].material(), keys[1].material());
    assert_ne!(keys[0].id(), keys[1].id());
}

#[test]
fn a_complaint_about_a_ring_never_quotes_it() {
    for json in [r#"{"active": {"id": "k", "key": "c2VjcmV0"}}"#, r#""c2VjcmV0""#, "c2VjcmV0", r#"{"c2VjcmV0": 1}"#] {
        let what = ring_in(&secret(json), "keys.json").unwrap_err();
        assert!(!what.contains("c2VjcmV0") && !what.contains("secret"), "{what}");
    }
    assert!(ring_in(&secret("{}"), "other").unwrap_err().contains("missing"));
}

#[tokio::test]
async fn a_ring_that_the_api_server_does_not_take_is_said_and_the_one_in_force_goes_on() {
    let objects = Objects::default();
    let context = context_with(&objects.client(), |settings| settings);
    let plan = |request: Option<&str>| {
        let mut resource = resource(&json!({}));
        let asked = request.map(|request| (names::ROTATE.to_owned(), request.to_owned()));
        resource.metadata.annotations = Some(asked.into_iter().collect());
        Plan::of(&resource).unwrap()
    };
    let look = async |plan: &Plan| ensure(&context, plan, None, &mut Grants::default()).await.unwrap();
    let is_refused = |trouble: &Trouble| {
        assert_eq!((trouble.reason, trouble.stalled), ("ObjectRefused", true));
        assert!(trouble.message.contains("Secret memory-context-keys (exceeded quota: small)"), "{}", trouble.message);
    };
    objects.refuse(true);
    is_refused(&look(&plan(None)).await.ring.unwrap_err());
    objects.refuse(false);
    let (made, _) = look(&plan(None)).await.ring.unwrap();
    objects.refuse(true);
    let found = look(&plan(Some("now"))).await;
    is_refused(found.trouble.as_ref().unwrap());
    is_refused(found.rotation.as_ref().unwrap().as_ref().unwrap_err());
    assert_eq!(found.next, None, "it is not tried again and again");
    let (kept, _) = found.ring.unwrap();
    assert_eq!((kept.active, kept.next), (made.active, None));
}

#[test]
fn a_missing_source_says_what_to_create() {
    let trouble = existing(None, "mine", "keys.json").unwrap_err();
    assert!(trouble.stalled && trouble.message.contains("\"mine\"") && trouble.message.contains("create it"));
}

#[test]
fn what_others_wrote_into_the_secret_stays_and_old_annotations_go() {
    let live: Secret = serde_json::from_value(json!({
        "metadata": {"annotations": {"theirs": "1", "contextmanager.dev/next-since": "x"}, "labels": {"theirs": "2"}, "resourceVersion": "7"},
        "data": {"theirs": "eA=="}, "type": "Theirs",
    }))
    .unwrap();
    let plan = Plan::of(&crate::controller::plan::tests::resource(&json!({}))).unwrap();
    let state = State::new(ring("k1", None, &[]), at(0), None);
    let desired = with_state(merged(live, build::keys_secret(&plan, Some(&state.ring))), &state);
    let annotations = desired.metadata.annotations.unwrap();
    assert!(annotations.contains_key("theirs") && !annotations.contains_key("contextmanager.dev/next-since"));
    assert_eq!((desired.metadata.resource_version.as_deref(), desired.type_.as_deref()), (Some("7"), Some("Theirs")));
    assert_eq!(desired.data.unwrap().into_keys().collect::<Vec<_>>(), ["keys.json", "theirs"]);
    assert_eq!(desired.metadata.owner_references.unwrap().len(), 1);
    assert!(desired.metadata.labels.unwrap().contains_key("theirs"));
}

#[test]
fn a_request_is_carried_out_once_step_by_step() {
    let wish = made(Some("now"));
    let state = State::new(ring("k0", None, &[]), at(0), None);
    let state = written(&state, &wish, at(10));
    assert_eq!(ids(&state), "k0 k10 ");
    // It does not sign before the pods have it, however long that takes.
    for second in [11, 1_000] {
        let phase = next(&state, &wish, lagging("a"), at(second)).unwrap_err();
        assert_eq!(phase, Phase::Published(lagging("a")));
    }
    assert!(matches!(next(&state, &wish, Waiting::default(), at(10)).unwrap_err(), Phase::Published(_)), "it settles");
    let state = written(&state, &wish, at(11));
    assert_eq!((ids(&state).as_str(), state.rotated_at), ("k10 - k0", at(11)));
    // The overlap begins when the pods know it.
    assert_eq!(step::question(&state, &wish), Some(Question::Signs("k10".to_owned())));
    assert_eq!(next(&state, &wish, lagging("a"), at(12)).unwrap_err(), Phase::Activated(lagging("a")));
    let state = written(&state, &wish, at(15));
    assert_eq!(next(&state, &wish, Waiting::default(), at(34)).unwrap_err(), Phase::Overlap { until: at(35) });
    let (state, change) = next(&state, &wish, Waiting::default(), at(35)).unwrap();
    assert_eq!((ids(&state).as_str(), change), ("k10 - ", Change::Retired(vec!["k0".to_owned()])));
    // GitOps keeps the annotation: nothing more comes of it, ever.
    assert_eq!(next(&state, &wish, Waiting::default(), at(1_000_000)).unwrap_err(), Phase::Settled);
    // Another value asks again, and so does the same one after it was taken away.
    assert_eq!(ids(&written(&state, &made(Some("again")), at(99))), "k10 k99 ");
    let forgotten = written(&state, &made(None), at(99));
    assert_eq!(ids(&written(&forgotten, &wish, at(100))), "k10 k100 ");
}

#[test]
fn a_request_during_a_rotation_is_carried_out_after_it() {
    let state = State::new(ring("k0", None, &[]), at(0), None);
    let state = written(&state, &made(Some("one")), at(1));
    let other = made(Some("two"));
    let state = written(&state, &other, at(3));
    assert_eq!(ids(&state), "k1 - k0", "the one that is published comes first");
    let state = written(&state, &other, at(4));
    let state = written(&state, &other, at(5));
    assert_eq!(ids(&state), "k1 k5 k0", "and then another, with two that overlap");
}

#[test]
fn a_pod_that_cannot_be_asked_is_waited_for_up_to_a_bound_and_then_named() {
    let wish = made(Some("now"));
    let state = written(&State::new(ring("k0", None, &[]), at(0), None), &wish, at(1));
    assert_eq!(next(&state, &wish, silent("a"), at(60)).unwrap_err(), Phase::Published(silent("a")));
    let both = Waiting { lagging: vec![("b".to_owned(), "has not loaded it")], ..silent("a") };
    assert!(next(&state, &wish, both, at(500)).is_err(), "one that answers would refuse requests");
    let (state, _) = next(&state, &wish, silent("a"), at(61)).unwrap();
    assert_eq!((ids(&state).as_str(), state.passed_over.as_slice()), ("k1 - k0", &["a".to_owned()][..]));
    let said =
        report::found(&state, &wish, &Phase::Overlap { until: at(90) }, &TIMES, at(62)).rotation.unwrap().unwrap();
    assert!(said.1.contains("without waiting longer for a"), "{}", said.1);
    assert!(next(&state, &wish, silent("a"), at(100)).is_err());
    let (state, _) = next(&state, &wish, silent("a"), at(121)).unwrap();
    let (state, _) = next(&state, &wish, Waiting::default(), at(141)).unwrap();
    assert_eq!((ids(&state).as_str(), state.passed_over.len()), ("k1 - ", 0));
}

#[test]
fn a_pod_that_can_never_be_asked_is_given_the_time_of_a_delivery_and_no_more() {
    let wish = made(Some("now"));
    let state = written(&State::new(ring("k0", None, &[]), at(0), None), &wish, at(1));
    assert_eq!(next(&state, &wish, closed("a"), at(30)).unwrap_err(), Phase::Published(closed("a")));
    let both = Waiting { closed: vec!["b".to_owned()], ..silent("a") };
    assert!(next(&state, &wish, both, at(31)).is_err(), "the other one may answer yet");
    let (state, _) = next(&state, &wish, closed("a"), at(31)).unwrap();
    assert_eq!((ids(&state).as_str(), state.passed_over.as_slice()), ("k1 - k0", &["a".to_owned()][..]));
    assert_eq!(next(&state, &wish, closed("a"), at(60)).unwrap_err(), Phase::Activated(closed("a")));
    let (state, _) = next(&state, &wish, closed("a"), at(61)).unwrap();
    let (state, _) = next(&state, &wish, Waiting::default(), at(81)).unwrap();
    assert_eq!((ids(&state).as_str(), state.passed_over.len()), ("k1 - ", 0));
}

#[test]
fn pods_of_other_namespaces_hold_a_key_no_longer_than_one_that_cannot_be_asked() {
    let wish = made(Some("now"));
    let state = written(&State::new(ring("k0", None, &[]), at(0), None), &wish, at(1));
    let guests =
        || Waiting { asked: 1, guests: vec![("guest/a".to_owned(), "has not loaded it")], ..Waiting::default() };
    assert_eq!(next(&state, &wish, guests(), at(60)).unwrap_err(), Phase::Published(guests()));
    let said = report::found(&state, &wish, &Phase::Published(guests()), &TIMES, at(60)).rotation.unwrap().unwrap_err();
    assert!(said.message.contains("guest/a (has not loaded it)"), "{}", said.message);
    let both = Waiting { lagging: vec![("own".to_owned(), "has not loaded it")], ..guests() };
    assert!(next(&state, &wish, both, at(500)).is_err(), "the resource's own are waited for all the same");
    let (new, _) = next(&state, &wish, guests(), at(61)).unwrap();
    assert_eq!((ids(&new).as_str(), new.passed_over.as_slice()), ("k1 - k0", &["guest/a".to_owned()][..]));
    // A copy that was made late has time to arrive; one that somebody spoils again and again puts nothing off for ever.
    let copied = |second| Times { copied: Some(at(second)), ..TIMES };
    let stepped = |copied: &Times, waiting, second| {
        matches!(step::step(&state, &wish, Some(waiting), copied, at(second)).unwrap(), Step::Write(..))
    };
    assert!(!stepped(&copied(30), guests(), 89) && stepped(&copied(30), guests(), 90));
    assert!(!stepped(&copied(10), Waiting::default(), 10) && stepped(&copied(10), Waiting::default(), 11));
    assert!(stepped(&copied(500), Waiting::default(), 500) && stepped(&copied(500), guests(), 500));
    // However many they are, they fit in an annotation.
    let many: Vec<_> = (0..10_000).map(|pod| (format!("guest/pod-{pod}"), "cannot be reached")).collect();
    let many = Waiting { asked: many.len(), silent: many, ..Waiting::default() };
    let (new, _) = next(&state, &wish, many, at(61)).unwrap();
    assert_eq!(new.passed_over.len(), 100);
}

#[test]
fn a_condition_names_the_step_and_who_is_waited_for() {
    let wish = made(Some("now"));
    let state = written(&State::new(ring("k0", None, &[]), at(0), None), &wish, at(1));
    let said = |waiting: Waiting, second: i64| {
        report::found(&state, &wish, &Phase::Published(waiting), &TIMES, at(second)).rotation.unwrap().unwrap_err()
    };
    let early = said(lagging("pod-a"), 2);
    assert_eq!(early.reason, "Publishing");
    assert!(early.message.contains("key k1 is published") && early.message.contains("1 of 1 pods: pod-a"), "{early:?}");
    assert_eq!(said(lagging("pod-a"), 90).reason, report::PODS_LAG);
    assert!(said(silent("pod-b"), 2).message.contains("pod-b (cannot be reached)"));
    assert!(said(closed("pod-c"), 2).message.contains("pod-c (listens on no port)"));
}

#[test]
fn a_key_is_replaced_when_its_time_is_over() {
    let wish = Wish::Made { every: Some(Duration::from_secs(100)), request: None };
    let state = State::new(ring("k0", None, &[]), at(0), None);
    assert_eq!(next(&state, &wish, Waiting::default(), at(99)).unwrap_err(), Phase::Settled);
    let found = report::found(&state, &wish, &Phase::Settled, &TIMES, at(99));
    assert_eq!(found.next, Some(SECOND));
    assert_eq!(found.ring.unwrap().0.next_rotation.unwrap().0, at(100));
    assert_eq!(ids(&written(&state, &wish, at(100))), "k0 k100 ");
}

#[test]
fn there_are_never_more_replaced_keys_than_a_few() {
    let previous: Vec<String> = (0..8).map(|number| format!("p{number}")).collect();
    let previous: Vec<&str> = previous.iter().map(String::as_str).collect();
    let state = State::new(ring("k0", None, &previous), at(0), None).consistent(true, at(0)).overlap(Vec::new(), at(0));
    assert_eq!(
        next(&state, &made(Some("now")), Waiting::default(), at(5)).unwrap_err(),
        Phase::Crowded { until: at(20) }
    );
    let retired = written(&state, &made(Some("now")), at(20));
    assert_eq!(ids(&written(&retired, &made(Some("now")), at(21))), "k0 k21 ");
}

#[test]
fn the_users_new_key_is_published_first_and_the_old_one_kept() {
    let state = State::new(ring("u0", None, &[]), at(0), None);
    let wanted = ring("u1", None, &[]);
    let state = written(&state, &given(&wanted), at(1));
    assert_eq!(ids(&state), "u0 u1 ");
    assert!(next(&state, &given(&wanted), lagging("a"), at(9)).is_err());
    let state = written(&state, &given(&wanted), at(9));
    let state = written(&state, &given(&wanted), at(10));
    assert_eq!(ids(&state), "u1 - u0");
    let state = written(&state, &given(&wanted), at(30));
    assert_eq!(ids(&state), "u1 - ");
    // Second thoughts in the middle.
    let back = written(&written(&state, &given(&ring("u2", None, &[])), at(31)), &given(&wanted), at(32));
    assert_eq!(ids(&back), "u1 - ");
    // Back to a key that still verifies.
    let state = State::new(ring("u1", None, &["u0"]), at(0), None);
    assert_eq!(ids(&written(&state, &given(&ring("u0", None, &[])), at(1))), "u1 u0 ");
}

#[test]
fn what_the_users_ring_lists_is_the_users_to_retire() {
    let state = State::new(ring("u0", None, &[]), at(0), None);
    let state = written(&state, &given(&ring("u0", Some("u1"), &[])), at(1));
    assert_eq!(ids(&state), "u0 u1 ");
    assert_eq!(
        next(&state, &given(&ring("u0", Some("u1"), &[])), lagging("a"), at(99)).unwrap_err(),
        Phase::NextPublished
    );
    let turned = ring("u1", Some("u2"), &["u0"]);
    assert!(next(&state, &given(&turned), lagging("a"), at(100)).is_err(), "its pods are waited for all the same");
    let state = written(&state, &given(&turned), at(100));
    assert_eq!(ids(&state), "u1 u2 u0");
    assert_eq!(next(&state, &given(&turned), Waiting::default(), at(10_000)).unwrap_err(), Phase::NextPublished);
    assert_eq!(ids(&written(&state, &given(&ring("u1", None, &[])), at(10_001))), "u1 - ");
}

#[test]
fn without_the_users_ring_what_is_replaced_is_retired_and_nothing_new_signs() {
    let wanted = ring("u1", None, &["mine"]);
    let state = State::new(ring("u0", None, &["mine"]), at(0), None);
    let state = written(&state, &given(&wanted), at(1));
    let known = state.taken_over().unwrap();
    assert_eq!(next(&state, &given(&known), Waiting::default(), at(9)).unwrap_err(), Phase::NextPublished);
    let state = written(&state, &given(&wanted), at(9));
    assert_eq!(ids(&state), "u1 - mine+u0");
    // From here on it is gone.
    let known = state.taken_over().unwrap();
    assert_eq!(next(&state, &given(&known), lagging("a"), at(10)).unwrap_err(), Phase::Activated(lagging("a")));
    let state = written(&state, &given(&known), at(10));
    let known = state.taken_over().unwrap();
    assert_eq!(next(&state, &given(&known), Waiting::default(), at(29)).unwrap_err(), Phase::Overlap { until: at(30) });
    let (state, change) = next(&state, &given(&known), Waiting::default(), at(30)).unwrap();
    assert_eq!((ids(&state).as_str(), change), ("u1 - mine", Change::Retired(vec!["u0".to_owned()])));
    // The next step of the same look has the ring of its beginning.
    assert_eq!(next(&state, &given(&known), Waiting::default(), at(31)).unwrap_err(), Phase::Settled);
}

#[test]
fn another_key_of_the_same_id_is_refused() {
    let state = State::new(ring("u0", None, &["u9"]), at(0), None);
    let other = KeyRing::with(key("u1"), None, vec![Key::new("u9", vec![1; 32]).unwrap()]).unwrap();
    assert_eq!(step::same_id_other_key(&state, &other).as_deref(), Some("u9"));
    assert_eq!(step::same_id_other_key(&state, &ring("u9", None, &["u0"])), None);
}

#[test]
fn the_operator_makes_no_key_for_the_user_and_says_so_once() {
    let ring = ring("u0", None, &[]);
    let wish = Wish::Given { ring: &ring, request: Some("now") };
    let (state, change) = next(&State::new(ring.clone(), at(0), None), &wish, Waiting::default(), at(1)).unwrap();
    assert_eq!((ids(&state).as_str(), change), ("u0 - ", Change::Refused));
    assert_eq!(next(&state, &wish, Waiting::default(), at(2)).unwrap_err(), Phase::Settled);
}

#[test]
fn a_ring_without_its_annotations_or_with_times_to_come_goes_on() {
    let mut state = State::new(ring("k0", Some("k1"), &["p"]), at(0), None);
    state.next_since = Some(at(9_999));
    let state = written(&state, &made(None), at(10));
    assert_eq!((state.next_since, state.retiring.get("p")), (Some(at(10)), Some(&None)));
    let state = written(&state, &made(None), at(11));
    assert_eq!(ids(&state), "k1 - k0+p");
}

/// A pod, whose sidecar and agent see a new ring each at its own time.
#[derive(Clone, Debug)]
struct Seen {
    sidecar: KeyRing,
    agent: KeyRing,
    /// Since when the agent is behind its sidecar.
    behind: Option<i64>,
}

/// What happens in a second.
#[derive(Clone, Debug)]
enum Event {
    Sidecar(usize),
    Agent(usize),
    Asked(u8),
    Pod,
}

fn event() -> impl Strategy<Value = Vec<Event>> {
    let one = prop_oneof![
        6 => (0..4_usize).prop_map(Event::Sidecar),
        6 => (0..4_usize).prop_map(Event::Agent),
        1 => any::<u8>().prop_map(Event::Asked),
        1 => Just(Event::Pod),
    ];
    proptest::collection::vec(one, 0..3)
}

proptest! {
    /// Whatever sidecars and agents see when, and whoever asks for what, no agent signs with a key that its sidecar refuses. The
    /// only condition is that an agent is not longer behind its sidecar than the overlap.
    #[test]
    fn no_agent_ever_signs_with_a_key_that_its_sidecar_refuses(
        seconds in proptest::collection::vec(event(), 1..300), by_hand in any::<bool>(),
    ) {
        let first = ring("k0", None, &[]);
        let mut users = first.clone();
        let mut state = State::new(first.clone(), at(0), None);
        let mut request = None;
        let mut pods = vec![Seen { sidecar: first.clone(), agent: first, behind: None }; 3];
        for (second, events) in seconds.into_iter().enumerate() {
            let second = i64::try_from(second).unwrap();
            for event in events {
                let count = pods.len();
                match event {
                    Event::Sidecar(pod) => pods[pod % count].sidecar = state.ring.clone(),
                    Event::Agent(pod) => pods[pod % count].agent = state.ring.clone(),
                    Event::Asked(value) if by_hand => users = ring(&format!("u{value}"), None, &[]),
                    Event::Asked(value) => request = Some(format!("{value}")),
                    Event::Pod => pods.push(Seen { sidecar: state.ring.clone(), agent: state.ring.clone(), behind: None }),
                }
            }
            for pod in &mut pods {
                let same = pod.sidecar.to_json() == pod.agent.to_json();
                pod.behind = if same { None } else { pod.behind.or(Some(second)) };
                if pod.behind.is_some_and(|since| second - since >= 20) {
                    (pod.agent, pod.behind) = (pod.sidecar.clone(), None);
                }
                let signs = pod.agent.active().id();
                prop_assert!(pod.sidecar.find(signs).is_some(), "second {second}: {signs} is refused by {:?}", pod.sidecar);
            }
            let wish = if by_hand { given(&users) } else { made(request.as_deref()) };
            let lags = |pod: &Seen| match step::question(&state, &wish) {
                Some(Question::Verifies(id)) => pod.sidecar.find(&id).is_none(),
                Some(Question::Signs(id)) => pod.sidecar.active().id() != id,
                None => false,
            };
            let lagging = pods.iter().filter(|pod| lags(pod)).map(|_| ("p".to_owned(), "has not loaded it")).collect();
            let waiting = Waiting { asked: pods.len(), lagging, ..Waiting::default() };
            let times = Times { patience: Duration::from_secs(100_000), ..TIMES };
            let now = at(second);
            state = match step::step(&state, &wish, Some(waiting), &times, now).unwrap() {
                Step::Rest(_) => state,
                Step::Write(new, _) => reread(&new, now),
                Step::Make(request) => {
                    let new = state.publish(key(&format!("made-{second}")), now).unwrap();
                    reread(&State { rotated_for: request, ..new }, now)
                }
            };
        }
    }
}
