//! What is remembered of an upgrade in the resource's status, because the pods that showed it may be gone: pure.
//!
//! An image that failed in a canary is not given to another pod when the canary is drained or scaled away, and a pod that was evicted is
//! missing until another one is there. A controller that takes over knows it as well.

use context_manager_crds::context_manager::status::{Eviction, FailedImage, Upgrade};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::seen::Seen;
use crate::{controller::status::seconds, upgrade::Target};

/// Most pods that are remembered by name.
const NAMED: usize = 50;

/// What is remembered at this look, of what the status has. `forgiven` is up to when failures do not count, if a person asked for the image
/// again.
pub(super) fn recall(
    current: Option<&Upgrade>,
    target: &Target,
    forgiven: Option<Timestamp>,
    now: Timestamp,
) -> Upgrade {
    let failed = current.and_then(|known| known.failed.clone());
    let counts =
        |failed: &FailedImage| failed.image == target.image && forgiven.is_none_or(|until| failed.at.0 > until);
    let failed = failed.filter(counts);
    // A pod that is gone is missing whatever comes next, unless a person knows better.
    let evicted = current.map(|known| known.evicted.clone()).unwrap_or_default();
    let evicted = evicted.into_iter().filter(|one| forgiven.is_none_or(|until| one.at.0 > until)).collect();
    match current {
        Some(known) if known.template == target.template => Upgrade { failed, evicted, ..known.clone() },
        Some(_) | None => Upgrade {
            template: target.template.clone(),
            since: Time(seconds(now)),
            failed,
            trials: None,
            tried_at: None,
            evicted,
        },
    }
}

/// The memory with an image that failed in these pods. The first time counts.
pub(super) fn with_failure(memory: &Upgrade, image: &str, pods: &[String], now: Timestamp) -> Upgrade {
    let at = memory.failed.as_ref().map_or(Time(seconds(now)), |failed| failed.at.clone());
    let mut pods = pods.to_vec();
    pods.extend(memory.failed.iter().flat_map(|failed| failed.pods.clone()));
    pods.sort_unstable();
    pods.dedup();
    pods.truncate(NAMED);
    Upgrade { failed: Some(FailedImage { image: image.to_owned(), pods, at }), ..memory.clone() }
}

/// The memory with one more trial; `trials` were before it.
pub(super) fn with_trial(memory: &Upgrade, trials: i32, now: Timestamp) -> Upgrade {
    Upgrade { trials: Some(trials.saturating_add(1)), tried_at: Some(Time(seconds(now))), ..memory.clone() }
}

/// The memory with those of all these pods that are to be evicted.
pub(super) fn with_chosen(memory: &Upgrade, all: &[Seen], chosen: &[&Seen], now: Timestamp) -> Upgrade {
    let chosen = chosen.iter().filter_map(|pod| {
        let workload = pod.workload.clone()?;
        Some(Eviction {
            pod: pod.name.clone(),
            uid: pod.uid.clone()?,
            newest: newest(memory, all, &workload),
            workload,
            at: Time(seconds(now)),
            gone_at: None,
            successor: None,
            settled: false,
        })
    });
    let evicted = memory.evicted.iter().cloned().chain(chosen).collect();
    Upgrade { evicted, ..memory.clone() }
}

/// The memory when one of them was evicted.
pub(super) fn with_eviction(memory: &Upgrade, all: &[Seen], pod: &Seen, now: Timestamp) -> Upgrade {
    let changed =
        |one: &Eviction| Eviction { at: Time(seconds(now)), newest: newest(memory, all, &one.workload), ..one.clone() };
    let is_it = |one: &Eviction| pod.uid.as_ref() == Some(&one.uid);
    let evicted = memory.evicted.iter().map(|one| if is_it(one) { changed(one) } else { one.clone() }).collect();
    Upgrade { evicted, ..memory.clone() }
}

/// When the newest pod of a workload was made, by the clock that will say so of the next one. Those that took the place of others may have been
/// made in this very second.
fn newest(memory: &Upgrade, all: &[Seen], workload: &str) -> Time {
    let is_successor = |pod: &Seen| memory.evicted.iter().any(|one| one.successor == pod.uid);
    let of_workload = all.iter().filter(|pod| pod.workload.as_deref() == Some(workload) && !is_successor(pod));
    Time(of_workload.map(|pod| pod.created).max().unwrap_or(Timestamp::UNIX_EPOCH))
}
