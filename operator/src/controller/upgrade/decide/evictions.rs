//! An eviction is under way until another pod is ready in its place. Pure.
//!
//! What takes the place may never come: a quota, a limit or a webhook refuses it. Then nothing shows that a pod is missing but what was
//! written down before it was evicted. One pod in its place counts for one eviction, whoever made it, so that a quota that has room for some
//! does not let a restart go on.
//!
//! A workload that was scaled down wants no other pod, and its owner is not read: the controller has no right to. Of a `ReplicaSet` it is
//! known all the same where the new pod was there and was taken away, as it takes those first that are not ready.

use std::collections::HashSet;

use context_manager_crds::context_manager::status::Eviction;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{DEADLINE, Seen, Step};
use crate::{controller::status::seconds, upgrade::Standing};

/// Most evictions that are under way at once: each stands in the status of the resource.
pub(super) const MOST: usize = 100;

/// What is known of the evictions at this look.
pub(super) fn follow(pods: &[Seen], known: &[Eviction], now: Timestamp) -> Vec<Eviction> {
    let mut evictions: Vec<_> = known.iter().filter(|one| is_wanted(pods, one, now)).cloned().collect();
    // A later one has fewer pods that may be in its place, so it comes first.
    evictions.sort_by_key(|one| std::cmp::Reverse(one.at.0));
    let mut taken: HashSet<_> = evictions.iter().filter_map(|one| one.successor.clone()).collect();
    for one in evictions.iter_mut().filter(|one| !one.settled && chosen(pods, one).is_none()) {
        let is_gone = !pods.iter().any(|pod| is(pod, one) && !pod.ended);
        one.gone_at = one.gone_at.take().or_else(|| is_gone.then(|| Time(seconds(now))));
        if successor(pods, one).is_none() {
            let may_be = |pod: &&Seen| {
                pod.is_alive()
                    && pod.workload.as_ref() == Some(&one.workload)
                    && pod.created > one.newest.0
                    && pod.uid.as_ref().is_some_and(|uid| !taken.contains(uid))
            };
            let found = pods.iter().filter(may_be).max_by_key(|pod| pod.ready);
            if let Some(uid) = found.and_then(|pod| pod.uid.clone()) {
                taken.insert(uid.clone());
                one.successor = Some(uid);
            }
        }
        one.settled = match successor(pods, one) {
            Some(successor) => successor.ready,
            None => is_overdue(one, now) && is_unwanted(pods, one),
        };
    }
    // One that is settled is remembered while its pod could be taken for that of another one.
    let open: HashSet<_> = evictions.iter().filter(|one| !one.settled).map(|one| one.workload.clone()).collect();
    evictions.retain(|one| open.contains(&one.workload));
    evictions
}

impl<'s> Step<'s> {
    /// Evictions in whose place there is no pod.
    pub(super) fn missing(&self) -> Vec<&'s Eviction> {
        let is_missing =
            |one: &&Eviction| !one.settled && chosen(self.pods, one).is_none() && successor(self.pods, one).is_none();
        self.memory.evicted.iter().filter(is_missing).collect()
    }

    /// Whether one that is missing should be there by now.
    pub(super) fn is_overdue(&self, missing: &Eviction) -> bool {
        is_overdue(missing, self.now)
    }
}

fn is(pod: &Seen, eviction: &Eviction) -> bool {
    pod.uid.as_ref() == Some(&eviction.uid)
}

/// The pod, if it is still to be evicted.
fn chosen<'s>(pods: &'s [Seen], eviction: &Eviction) -> Option<&'s Seen> {
    pods.iter().find(|pod| is(pod, eviction) && pod.is_alive())
}

/// Whether it was evicted, or is still to be. One that had to stay is chosen again when its turn comes.
fn is_wanted(pods: &[Seen], eviction: &Eviction, now: Timestamp) -> bool {
    chosen(pods, eviction).is_none_or(|pod| pod.standing != Standing::Current && !pod.rests(now))
}

/// The pod in its place, if it is there.
fn successor<'s>(pods: &'s [Seen], eviction: &Eviction) -> Option<&'s Seen> {
    let uid = eviction.successor.as_ref()?;
    pods.iter().find(|pod| pod.uid.as_ref() == Some(uid) && pod.is_alive())
}

fn is_overdue(eviction: &Eviction, now: Timestamp) -> bool {
    let elapsed = eviction.gone_at.as_ref().map(|gone| now.duration_since(gone.0));
    elapsed.is_some_and(|elapsed| elapsed.unsigned_abs() >= DEADLINE)
}

/// Whether the pod in its place was taken away, and did not fail.
fn is_unwanted(pods: &[Seen], eviction: &Eviction) -> bool {
    let of_replica_set = eviction.workload.split('/').nth(1) == Some("ReplicaSet");
    let failed =
        |pod: &Seen| pod.ended && pod.workload.as_ref() == Some(&eviction.workload) && pod.created > eviction.newest.0;
    of_replica_set && eviction.successor.is_some() && !pods.iter().any(failed)
}
