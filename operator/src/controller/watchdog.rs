//! Pods that ask for a sidecar and have none: the webhook was away when they were made. They are reported; if the operator may, they
//! are evicted, so that what takes their place gets one.
//!
//! A pod is evicted only if the webhook would inject one like it now, by the same decision, and only if a controller makes another
//! one. And only so often for one owner: what is evicted in vain again and again is not helped by it.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Pod;
use kube::Api;

use super::{
    error::{Error, call},
    evict::{Evicted, evict},
    fleet::{Fleet, PodName},
    plan::Plan,
    reconcile::Context,
    status::{Finding, Good, Trouble, listed},
};
use crate::{
    inject::{self, Decision, NamespaceFacts, OnMissing},
    upgrade::{Target, replacer},
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

/// What was evicted.
#[derive(Debug, Default)]
pub(super) struct Evictions {
    last: Option<Instant>,
    /// For each owner, by its uid: how often, and when last.
    owners: HashMap<String, (u32, Instant)>,
}

impl Evictions {
    /// Whether a pod of this owner may be evicted now; if so, the next one has to wait.
    fn permit(&mut self, owner: &str, now: Instant) -> bool {
        self.owners.retain(|_, (_, last)| now.duration_since(*last) < LEFT_ALONE);
        let is_early = self.last.is_some_and(|last| now.duration_since(last) < PAUSE);
        if is_early || self.owners.get(owner).is_some_and(|(tries, _)| *tries >= TRIES) {
            return false;
        }
        self.last = Some(now);
        true
    }

    /// Counts a pod of this owner that was evicted. One whose budget kept it is none: it is tried for as long as it has no sidecar.
    fn count(&mut self, owner: &str, now: Instant) {
        let (tries, last) = self.owners.entry(owner.to_owned()).or_insert((0, now));
        (*tries, *last) = (*tries + 1, now);
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
        return Ok((
            Ok(Good("AllInjected", "every pod that asks for a sidecar by its label has one".to_owned())),
            None,
        ));
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
    if evicts && let Some(pod) = evict_one(context, plan, fleet, missing).await? {
        context.metrics.pods.evicted();
        context.tell(plan, "PodEvicted", &format!("Evicted {pod}, which had asked for a sidecar and got none")).await;
    }
    Ok((Err(Trouble::passing("SidecarMissing", message)), evicts.then_some(PAUSE)))
}

/// Evicts the first that may be, and names it.
async fn evict_one(
    context: &Context,
    plan: &Plan,
    fleet: &Fleet,
    missing: &[PodName],
) -> Result<Option<String>, Error> {
    let Some(target) = &fleet.target else { return Ok(None) };
    for found in missing {
        let PodName { namespace, name } = found;
        let api = Api::<Pod>::namespaced(context.client.clone(), namespace);
        let Some(pod) = call("read a pod without a sidecar", api.get_opt(name)).await? else { continue };
        let Some(owner) = replacer(&pod) else { continue };
        if pod.metadata.deletion_timestamp.is_some() || !is_injected_now(&pod, namespace, target) {
            continue;
        }
        let evictions = || context.evictions.lock().unwrap_or_else(PoisonError::into_inner);
        if !evictions().permit(&owner.uid, Instant::now()) {
            continue;
        }
        let (action, uid) = ("evict a pod without a sidecar", pod.metadata.uid.as_deref());
        return Ok(match evict(context, action, (namespace, name), uid).await? {
            Evicted::Yes => {
                evictions().count(&owner.uid, Instant::now());
                Some(found.title(plan))
            }
            Evicted::Gone | Evicted::Held(_) => None,
        });
    }
    Ok(None)
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
mod tests {
    use super::*;

    #[test]
    fn evictions_have_pauses_and_an_end() {
        let mut evictions = Evictions::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut evict = |owner, seconds| {
            let permitted = evictions.permit(owner, at(seconds));
            if permitted {
                evictions.count(owner, at(seconds));
            }
            permitted
        };
        assert!(evict("a", 0));
        assert!(!evict("b", 1), "not so soon");
        assert!(evict("b", 5));
        assert!(evict("a", 10) && evict("a", 15));
        assert!(!evict("a", 20), "it did not help three times");
        assert!(evict("b", 25), "others are not held back");
        assert!(evict("a", 15 + 3_600), "after a while it is tried again");
    }

    #[test]
    fn a_pod_that_its_budget_keeps_is_tried_until_it_may_go() {
        let mut evictions = Evictions::default();
        let start = Instant::now();
        for seconds in [0, 5, 10, 15, 20] {
            assert!(evictions.permit("kept", start + Duration::from_secs(seconds)), "{seconds}");
        }
        assert!(!evictions.permit("kept", start + Duration::from_secs(21)), "not so soon");
    }
}
