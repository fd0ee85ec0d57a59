//! What the next step of an upgrade is: pure, so that every state can be tried.
//!
//! At most a batch of pods is under way at a time, and a pod is under way until its sidecar has been ready for a while. The first batch
//! are the canaries: when one of them fails, no other pod follows, and that is remembered ([`super::memory`]).

mod evictions;
mod restart;

use std::time::Duration;

use context_manager_crds::context_manager::{sidecar::UpgradeStrategy, status::Upgrade};
use jiff::Timestamp;

use super::{memory::with_failure, seen::Seen};
use crate::{
    controller::{
        plan::UpgradePlan,
        status::{Finding, Good, Trouble, listed, seconds},
    },
    upgrade::{Note, Outcome, Standing},
};

/// How long an upgraded sidecar may take to become ready.
pub(super) const DEADLINE: Duration = Duration::from_mins(2);
/// Least pause before another look.
const SOONEST: Duration = Duration::from_millis(500);

pub(super) use restart::STAY_OUTDATED;

/// The reason of an upgrade that is over.
pub(super) const UP_TO_DATE: &str = "UpToDate";
/// The reason of an upgrade that goes no further.
pub(super) const STOPPED: &str = "UpgradeStopped";

/// Whether a reason is one of an upgrade that stands still until something changes that it waits for.
pub(super) fn stops(reason: &str) -> bool {
    [STOPPED, STAY_OUTDATED].contains(&reason)
}

/// What is said when there is nothing to do.
pub(super) fn up_to_date(image: &str) -> Good {
    Good(UP_TO_DATE, format!("every sidecar is what a new pod would get, with {image}"))
}

/// Something to be done with a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// It gets the new image.
    Replace(String),
    /// It gets the image before, for this reason.
    Restore(String, String),
    /// It is evicted.
    Evict(String),
    /// It is evicted to see whether the next one is up to date; so often that was done before.
    Try(String, i32),
}

impl Act {
    /// What the pod is called.
    pub(super) fn pod(&self) -> &str {
        let (Self::Replace(pod) | Self::Restore(pod, _) | Self::Evict(pod) | Self::Try(pod, _)) = self;
        pod
    }

    /// Whether it takes a pod away.
    pub(super) const fn evicts(&self) -> bool {
        matches!(self, Self::Evict(_) | Self::Try(..))
    }
}

/// What is to be done, and what is said.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Verdict {
    pub(super) acts: Vec<Act>,
    pub(super) finding: Finding,
    /// When something may have changed of which no pod tells.
    pub(super) next: Option<Duration>,
    /// What is to be remembered.
    pub(super) memory: Upgrade,
}

/// What a person wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish<'w> {
    /// The image that sidecars are to have.
    pub(super) image: &'w str,
    /// How they get it.
    pub(super) plan: UpgradePlan,
    /// Up to when failures of the image do not count, if it was asked for again.
    pub(super) forgiven: Option<Timestamp>,
}

/// The next step; nothing is said where nothing was asked for. `memory` is what is known from earlier looks, as the status has it: what does
/// not stand there is not evicted.
pub(super) fn decide(pods: &[Seen], wish: &Wish<'_>, memory: &Upgrade, now: Timestamp) -> Option<Verdict> {
    let Wish { image, ref plan, forgiven } = *wish;
    let step = Step { pods, image, plan, forgiven, memory, now };
    match plan.strategy {
        UpgradeStrategy::OnRecreate => None,
        UpgradeStrategy::InPlace => {
            let memory = &Upgrade { evicted: Vec::new(), ..memory.clone() };
            Some(Step { memory, ..step }.in_place())
        }
        UpgradeStrategy::RollingRestart => {
            let memory = &Upgrade { evicted: evictions::follow(pods, &memory.evicted, now), ..memory.clone() };
            Some(Step { memory, ..step }.restart())
        }
    }
}

struct Step<'s> {
    pods: &'s [Seen],
    image: &'s str,
    plan: &'s UpgradePlan,
    forgiven: Option<Timestamp>,
    memory: &'s Upgrade,
    now: Timestamp,
}

impl<'s> Step<'s> {
    fn in_place(&self) -> Verdict {
        let regressed: Vec<_> =
            self.upgraded().filter_map(|pod| self.regression(pod).map(|why| (pod.name.clone(), why))).collect();
        if !regressed.is_empty() {
            let named: Vec<_> = regressed.iter().map(|(pod, why)| format!("{pod} ({why})")).collect();
            let failed: Vec<_> = regressed.iter().map(|(pod, _)| pod.clone()).collect();
            let acts = regressed.into_iter().map(|(pod, why)| Act::Restore(pod, why)).collect();
            return Verdict { acts, ..self.stop(&named, &failed) };
        }
        let restored: Vec<_> = self
            .pods
            .iter()
            .filter(|pod| !pod.ended && self.began(pod, Outcome::Restored) && pod.standing != Standing::Current)
            .map(|pod| pod.name.clone())
            .collect();
        if !restored.is_empty() {
            return self.stop(&restored, &restored);
        }
        let waiting = self.standing(Standing::OtherImage);
        if let Some(failed) = self.memory.failed.as_ref().filter(|_| !waiting.is_empty()) {
            return self.stop(&failed.pods, &[]);
        }
        let watched: Vec<_> = self.upgraded().filter(|pod| !self.is_proven(pod)).collect();
        let room = self.batch().saturating_sub(watched.len());
        let acts = waiting.iter().take(room).map(|name| Act::Replace(name.clone())).collect();
        let next = watched.iter().filter_map(|pod| Some(self.look(watched_since(pod, pod.note.as_ref()?.at)))).min();
        let watched: Vec<_> = watched.iter().map(|pod| pod.name.clone()).collect();
        Verdict { acts, finding: self.progress(&waiting, &watched), next, memory: self.memory.clone() }
    }

    /// The image failed in these pods, as they are `named`, and no other pod gets it.
    fn stop(&self, named: &[String], failed: &[String]) -> Verdict {
        let remedy = match self.plan.strategy {
            UpgradeStrategy::InPlace => "those that are there have the image before again. Name another image, or have",
            UpgradeStrategy::RollingRestart | UpgradeStrategy::OnRecreate => {
                "it goes on when they are ready, or pods that took their place. Or name another image, or have"
            }
        };
        let message = format!(
            "{} failed in {}; {remedy} the same one tried again: kubectl context upgrade-sidecars --retry",
            self.image,
            listed(named)
        );
        let memory = with_failure(self.memory, self.image, failed, self.now);
        Verdict { acts: Vec::new(), finding: Err(Trouble::stalled(STOPPED, message)), next: None, memory }
    }

    fn progress(&self, waiting: &[String], watched: &[String]) -> Finding {
        let elsewhere = self.standing(Standing::OtherSettings);
        if waiting.is_empty() && watched.is_empty() {
            if elsewhere.is_empty() {
                return Ok(self.up_to_date());
            }
            return Err(Trouble::passing(
                "NeedNewPods",
                format!(
                    "more than the image has changed for {}; they are up to date when they are made again",
                    listed(&elsewhere)
                ),
            ));
        }
        Err(self.under_way(watched))
    }

    fn under_way(&self, watched: &[String]) -> Trouble {
        let total = self.alive().count();
        let done = self.alive().filter(|pod| pod.standing == Standing::Current).count() - watched.len();
        let watching = if watched.is_empty() { String::new() } else { format!("; watching {}", listed(watched)) };
        Trouble::passing(
            "Upgrading",
            format!("{done} of {total} sidecars are up to date, with {}{watching}", self.image),
        )
    }

    fn up_to_date(&self) -> Good {
        up_to_date(self.image)
    }

    fn alive(&self) -> impl Iterator<Item = &'s Seen> {
        self.pods.iter().filter(|pod| pod.is_alive())
    }

    fn standing(&self, standing: Standing) -> Vec<String> {
        let mut names: Vec<_> =
            self.alive().filter(|pod| pod.standing == standing).map(|pod| pod.name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// Pods that have the new image by an upgrade in place.
    fn upgraded(&self) -> impl Iterator<Item = &'s Seen> {
        self.alive().filter(|pod| pod.standing == Standing::Current && self.began(pod, Outcome::Begun))
    }

    /// Whether an upgrade to this image was begun in a pod, and how it stands. What was forgiven counts as never begun.
    fn began(&self, pod: &Seen, outcome: Outcome) -> bool {
        let counts =
            |note: &Note| self.forgiven.is_none_or(|until| note.outcome == Outcome::Begun || seconds(note.at) > until);
        pod.note.as_ref().is_some_and(|note| note.to == self.image && note.outcome == outcome && counts(note))
    }

    /// What speaks against the new image in an upgraded pod.
    fn regression(&self, pod: &Seen) -> Option<String> {
        let note = pod.note.as_ref()?;
        // Much later it is another matter.
        if self.is_proven(pod) || self.is_past(pod) {
            return None;
        }
        if pod.restarts > note.restarts {
            return Some(format!("{} restarts", pod.restarts - note.restarts));
        }
        // One that was not ready before may still say why it was not.
        if let Some(stuck) = pod.stuck.as_ref().filter(|_| note.was_ready) {
            return Some(stuck.clone());
        }
        (!pod.ready && self.is_over(note.at, DEADLINE)).then(|| "is not ready in time".to_owned())
    }

    /// Whether an upgraded sidecar has run well for long enough.
    fn is_proven(&self, pod: &Seen) -> bool {
        let Some(note) = &pod.note else { return true };
        let ran_well = pod.restarts == note.restarts && self.is_over(watched_since(pod, note.at), self.plan.observe);
        pod.ready && (ran_well || self.is_past(pod))
    }

    /// Whether the upgrade was so long ago that what happens now has other causes.
    fn is_past(&self, pod: &Seen) -> bool {
        pod.note.as_ref().is_some_and(|note| self.is_over(note.at, DEADLINE + self.plan.observe))
    }

    /// The number of pods that may be under way.
    fn batch(&self) -> usize {
        (self.alive().count() * self.plan.batch_percent).div_ceil(100).max(1)
    }

    /// Whether so much time has passed. The clock of an earlier leader may have been ahead, but not by much.
    fn is_over(&self, since: Timestamp, time: Duration) -> bool {
        let elapsed = self.now.duration_since(since);
        elapsed.unsigned_abs() >= if elapsed.is_negative() { DEADLINE } else { time }
    }

    /// When the watch of something that began then ends.
    fn look(&self, since: Timestamp) -> Duration {
        let elapsed = Duration::try_from(self.now.duration_since(since)).unwrap_or_default();
        self.plan.observe.saturating_sub(elapsed).max(SOONEST)
    }
}

/// From when on a sidecar is watched that was changed then: a slow pull may start it much later, and each start begins anew.
fn watched_since(pod: &Seen, change: Timestamp) -> Timestamp {
    pod.running.map_or(change, |started| started.max(change))
}
