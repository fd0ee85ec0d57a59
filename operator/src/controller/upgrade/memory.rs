//! What is remembered of an upgrade in the resource's status, because the pods that showed it may be gone: pure.
//!
//! An image that failed in a canary is not given to another pod when the canary is drained or scaled away. A controller that takes over
//! knows it as well.

use context_manager_crds::context_manager::status::{FailedImage, Upgrade};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

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
    match current {
        Some(known) if known.template == target.template => Upgrade { failed, ..known.clone() },
        Some(_) | None => Upgrade {
            template: target.template.clone(),
            since: Time(seconds(now)),
            failed,
            trials: None,
            tried_at: None,
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
