//! Pods that ask for a sidecar and have none: the webhook was away when they were made. They are reported; if the operator may, they
//! are evicted, so that what takes their place gets one.
//!
//! A pod is evicted only if the webhook would inject one like it now, by the same decision, and only if a controller makes another
//! one. And only so often for one owner: what is evicted in vain again and again is not helped by it. Where nothing comes in its place, as
//! new pods are refused, its owner loses no other one, and after a few owners nobody does.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Pod;
use kube::Api;

use super::{
    context::Context,
    error::{Error, call},
    evict::{Evicted, Held, evict},
    fleet::{Fleet, PodName},
    plan::Plan,
    pods::{Identity, Owner},
    status::{Finding, Good, Trouble, listed},
};
use crate::{
    inject::{self, Decision, NamespaceFacts, OnMissing},
    upgrade::Target,
};

/// What is done with a pod that has no sidecar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// A condition, an event and a metric.
    #[default]
    Report,
    /// The same, and it is evicted within its `PodDisruptionBudget`.
    Evict,
}

/// Least time between two evictions.
const PAUSE: Duration = Duration::from_secs(5);
/// Most evictions for one owner until it has been left alone for a while.
const TRIES: u32 = 3;
/// How long an owner is left alone then.
const LEFT_ALONE: Duration = Duration::from_hours(1);
/// Most evictions without another pod in place of the evicted one: if new pods are refused, no more are lost.
const AWAITED: usize = 3;
/// Longest pause of an owner whose pods could not be evicted. The first one is that between two evictions.
const LONGEST: Duration = Duration::from_mins(5);

/// What was evicted.
#[derive(Debug, Default)]
pub(super) struct Evictions {
    last: Option<Instant>,
    /// How often pods of an owner were evicted, and when last.
    tries: HashMap<Owner, (u32, Instant)>,
    /// Owners that have to make another pod first.
    awaited: HashMap<Owner, Awaited>,
    /// How often in a row pods of an owner could not be evicted, and until when it rests.
    held: HashMap<Owner, (u32, Instant)>,
}

/// A pod was evicted, and no other one was seen since.
#[derive(Debug)]
struct Awaited {
    namespace: String,
    /// The pods that its owner had then.
    known: HashSet<Identity>,
    since: Instant,
}

/// The turn to evict a pod: which eviction was the last one before.
struct Turn {
    taken: Instant,
    before: Option<Instant>,
}

impl Evictions {
    /// Takes the turn, if nobody had it a moment ago. `came` says whether an owner made another pod since.
    fn take(&mut self, now: Instant, came: impl Fn(&Owner, &Awaited) -> bool) -> Option<Turn> {
        self.tries.retain(|_, (_, last)| now.duration_since(*last) < LEFT_ALONE);
        self.held.retain(|_, (_, until)| now.saturating_duration_since(*until) < LONGEST);
        self.awaited.retain(|owner, awaited| now.duration_since(awaited.since) < LEFT_ALONE && !came(owner, awaited));
        let is_early = self.last.is_some_and(|last| now.duration_since(last) < PAUSE);
        if is_early || self.awaited.len() >= AWAITED {
            return None;
        }
        Some(Turn { taken: now, before: self.last.replace(now) })
    }

    /// Gives the turn back: no pod was evicted.
    fn give_back(&mut self, turn: &Turn) {
        if self.last == Some(turn.taken) {
            self.last = turn.before;
        }
    }

    /// Whether a pod of this owner may be evicted now.
    fn permits(&self, owner: Owner, now: Instant) -> bool {
        let tired = self.tries.get(&owner).is_some_and(|(tries, _)| *tries >= TRIES);
        let rests = self.held.get(&owner).is_some_and(|(_, until)| *until > now);
        !tired && !rests && !self.awaited.contains_key(&owner)
    }

    /// Counts a pod of this owner that was evicted.
    fn count(&mut self, owner: Owner, namespace: &str, known: HashSet<Identity>, now: Instant) {
        let (tries, last) = self.tries.entry(owner).or_insert((0, now));
        (*tries, *last) = (*tries + 1, now);
        self.held.remove(&owner);
        self.awaited.insert(owner, Awaited { namespace: namespace.to_owned(), known, since: now });
    }

    /// Lets an owner rest whose pod has to stay for now. That is no try: it goes on for as long as the pod has no sidecar.
    fn hold(&mut self, owner: Owner, now: Instant) {
        let (times, until) = self.held.entry(owner).or_insert((0, now));
        *until = now + PAUSE.saturating_mul(1 << (*times).min(16)).min(LONGEST);
        *times += 1;
    }
}

/// What was found, and when to look again.
pub(super) type Found = (Finding, Option<Duration>);

/// Reports pods without a sidecar, and evicts one of them if that helps.
pub(super) async fn watch(
    context: &Context,
    plan: &Plan,
    fleet: &Fleet,
    was: Option<i32>,
    injection: &Finding,
) -> Result<Found, Error> {
    let missing = &fleet.missing;
    if missing.is_empty() {
        return Ok((Ok(all_injected(&fleet.left_out)), None));
    }
    let message = format!(
        "{} asked for a sidecar and got none: the webhook was away when they were made, or skipped them; delete them, and what \
         takes their place gets one",
        listed(&missing.iter().map(|pod| pod.title(plan)).collect::<Vec<_>>())
    );
    if was.unwrap_or_default() < i32::try_from(missing.len()).unwrap_or(i32::MAX) {
        context.warn(plan, "SidecarMissing", &message).await;
    }
    let evicts = context.watchdog == Mode::Evict && !plan.suspended && injection.is_ok();
    let tried = if evicts { evict_one(context, fleet, missing).await? } else { Tried::default() };
    if let Some(pod) = tried.evicted {
        let pod = pod.title(plan);
        context.metrics.pods.evicted();
        context.tell(plan, "PodEvicted", &format!("Evicted {pod}, which had asked for a sidecar and got none")).await;
    }
    let trouble = match tried.forbidden {
        Some(pod) => {
            let Trouble { reason, message: why, stalled } = Held::Forbidden.trouble(&pod.title(plan));
            Trouble { reason, message: format!("{message}; {why}"), stalled }
        }
        None => Trouble::passing("SidecarMissing", message),
    };
    Ok((Err(trouble), evicts.then_some(PAUSE)))
}

/// What is said when nothing can be done for any pod.
fn all_injected(left_out: &[String]) -> Good {
    let mut message = "every pod that asks for a sidecar by its label has one".to_owned();
    if !left_out.is_empty() {
        message = format!("{message}, but for {}, which the webhook is not asked about", listed(left_out));
    }
    Good("AllInjected", message)
}

/// What came of a turn.
#[derive(Default)]
struct Tried<'m> {
    /// The pod that was evicted.
    evicted: Option<&'m PodName>,
    /// One that the operator has not the right to evict.
    forbidden: Option<&'m PodName>,
}

/// Evicts the first that may be.
async fn evict_one<'m>(context: &Context, fleet: &Fleet, missing: &'m [PodName]) -> Result<Tried<'m>, Error> {
    let Some(target) = &fleet.target else { return Ok(Tried::default()) };
    let came = |owner: &Owner, Awaited { namespace, known, .. }: &Awaited| {
        !context.pods_of(namespace).made_by(namespace, *owner).is_subset(known)
    };
    let turn = evictions(context).take(Instant::now(), came);
    let Some(turn) = turn else { return Ok(Tried::default()) };
    let tried = evict_first(context, target, missing).await;
    if !matches!(tried, Ok(Tried { evicted: Some(_), .. })) {
        evictions(context).give_back(&turn);
    }
    tried
}

/// Goes on with the next one where one has to stay.
async fn evict_first<'m>(context: &Context, target: &Target, missing: &'m [PodName]) -> Result<Tried<'m>, Error> {
    let mut tried = Tried::default();
    for found in missing {
        let PodName { namespace, name, owner } = found;
        // Rights are those of a namespace, and its pods stand together.
        if tried.forbidden.is_some_and(|other| other.namespace == *namespace) {
            continue;
        }
        let Some(owner) = owner.filter(|owner| evictions(context).permits(*owner, Instant::now())) else { continue };
        let api = Api::<Pod>::namespaced(context.client.clone(), namespace);
        let Some(pod) = call("read a pod without a sidecar", api.get_opt(name)).await? else { continue };
        if pod.metadata.deletion_timestamp.is_some() || Owner::of(&pod.metadata) != Some(owner) {
            continue;
        }
        if !is_injected_now(&pod, namespace, target) {
            evictions(context).hold(owner, Instant::now());
            continue;
        }
        let (action, uid) = ("evict a pod without a sidecar", pod.metadata.uid.as_deref());
        let known = context.pods_of(namespace).made_by(namespace, owner);
        match evict(context, action, (namespace, name), uid).await? {
            Evicted::Yes => {
                evictions(context).count(owner, namespace, known, Instant::now());
                tried.evicted = Some(found);
                return Ok(tried);
            }
            Evicted::Gone => {}
            // That is no matter of its owner, and shall be said for as long as it is so.
            Evicted::Held(Held::Forbidden) => tried.forbidden = Some(found),
            Evicted::Held(_) => evictions(context).hold(owner, Instant::now()),
        }
    }
    Ok(tried)
}

fn evictions(context: &Context) -> MutexGuard<'_, Evictions> {
    context.evictions.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the webhook would give such a pod a sidecar of this resource.
fn is_injected_now(pod: &Pod, namespace: &str, target: &Target) -> bool {
    let Ok(pod) = serde_json::to_value(pod) else { return false };
    let namespace = NamespaceFacts { name: namespace.to_owned(), ..NamespaceFacts::default() };
    let settings = inject::Settings { sidecar_image: target.image.clone(), on_missing: OnMissing::Skip, class: None };
    matches!(inject::decide(&pod, &namespace, std::slice::from_ref(&target.resource), &settings), Decision::Inject(_))
}

/// The evictions of a process.
pub(super) type Shared = Mutex<Evictions>;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    /// An owner, told from others by a letter.
    fn owner(name: &str) -> Owner {
        let reference =
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": name, "controller": true});
        Owner::of(&serde_json::from_value(json!({"ownerReferences": [reference]})).unwrap()).unwrap()
    }

    /// Evicts a pod of an owner after so many seconds, if it may be.
    fn evict(evictions: &mut Evictions, name: &str, now: Instant, came: bool) -> bool {
        let Some(turn) = evictions.take(now, |_, _| came) else { return false };
        let permitted = evictions.permits(owner(name), now);
        if permitted {
            evictions.count(owner(name), "team", HashSet::new(), now);
        } else {
            evictions.give_back(&turn);
        }
        permitted
    }

    #[test]
    fn where_the_webhook_is_not_asked_no_pod_is_said_to_have_a_sidecar() {
        let Good(reason, message) = all_injected(&["team".to_owned()]);
        assert_eq!(reason, "AllInjected");
        assert!(message.ends_with("but for team, which the webhook is not asked about"), "{message}");
        assert!(all_injected(&[]).1.ends_with("has one"));
    }

    #[test]
    fn evictions_have_pauses_and_an_end() {
        let mut evictions = Evictions::default();
        let start = Instant::now();
        let mut evict = |name, seconds| evict(&mut evictions, name, start + Duration::from_secs(seconds), true);
        assert!(evict("a", 0));
        assert!(!evict("b", 1), "not so soon");
        assert!(evict("b", 5));
        assert!(evict("a", 10) && evict("a", 15));
        assert!(!evict("a", 20), "it did not help three times");
        assert!(evict("b", 20), "others are not held back");
        assert!(evict("a", 15 + 3_600), "after a while it is tried again");
    }

    #[test]
    fn what_nobody_takes_the_place_of_is_lost_once_for_an_owner_and_a_few_times_for_all() {
        let mut evictions = Evictions::default();
        let start = Instant::now();
        let mut evict = |name, seconds, came| evict(&mut evictions, name, start + Duration::from_secs(seconds), came);
        assert!(evict("a", 0, false));
        assert!(!evict("a", 60, false), "its pod did not come");
        assert!(evict("b", 60, false) && evict("c", 65, false));
        for seconds in [70, 600, 3_000] {
            assert!(!evict("d", seconds, false), "new pods are refused: {seconds}");
        }
        assert!(evict("d", 3_010, true) && evict("a", 3_020, true), "by now they come");
    }

    #[test]
    fn a_pod_that_its_budget_keeps_is_tried_ever_more_rarely_and_keeps_no_turn() {
        let mut evictions = Evictions::default();
        let start = Instant::now();
        let (kept, other) = (owner("kept"), owner("other"));
        let mut tried = Vec::new();
        for seconds in 0..1_200 {
            let now = start + Duration::from_secs(seconds);
            let turn = evictions.take(now, |_, _| true).expect("nobody was evicted");
            assert!(evictions.permits(other, now), "{seconds}");
            if evictions.permits(kept, now) {
                tried.push(seconds);
                evictions.hold(kept, now);
            }
            evictions.give_back(&turn);
        }
        assert_eq!(tried, [0, 5, 15, 35, 75, 155, 315, 615, 915]);
        let now = start + Duration::from_secs(1_215);
        assert!(evict(&mut evictions, "kept", now, true), "its budget permits it now");
    }
}
