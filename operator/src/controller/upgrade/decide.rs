//! What the next step of an upgrade is: pure, so that every state can be tried.
//!
//! At most a batch of pods is under way at a time, and a pod is under way until its sidecar has been ready for a while. The first batch
//! are the canaries: when one of them fails, no other pod follows.

use std::time::Duration;

use context_manager_crds::context_manager::sidecar::UpgradeStrategy;
use jiff::Timestamp;

use super::seen::Seen;
use crate::{
    controller::{
        plan::UpgradePlan,
        status::{Finding, Good, Trouble, listed},
    },
    upgrade::{Outcome, Standing},
};

/// How long an upgraded sidecar may take to become ready.
pub(super) const DEADLINE: Duration = Duration::from_mins(2);
/// Least pause before another look.
const SOONEST: Duration = Duration::from_millis(500);

/// The reason of an upgrade that goes no further.
pub(super) const STOPPED: &str = "UpgradeStopped";

/// Something to be done with a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// It gets the new image.
    Replace(String),
    /// It gets the image before, for this reason.
    Restore(String, String),
    /// It is evicted.
    Evict(String),
}

/// What is to be done, and what is said.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Verdict {
    pub(super) acts: Vec<Act>,
    pub(super) finding: Finding,
    /// When something may have changed of which no pod tells.
    pub(super) next: Option<Duration>,
}

/// The next step; nothing is said where nothing was asked for. `image` is the one that sidecars are to have.
pub(super) fn decide(pods: &[Seen], image: &str, plan: &UpgradePlan, now: Timestamp) -> Option<Verdict> {
    let step = Step { pods, image, plan, now };
    match plan.strategy {
        UpgradeStrategy::OnRecreate => None,
        UpgradeStrategy::InPlace => Some(step.in_place()),
        UpgradeStrategy::RollingRestart => Some(step.restart()),
    }
}

struct Step<'s> {
    pods: &'s [Seen],
    image: &'s str,
    plan: &'s UpgradePlan,
    now: Timestamp,
}

impl<'s> Step<'s> {
    fn in_place(&self) -> Verdict {
        let regressed: Vec<_> =
            self.upgraded().filter_map(|pod| self.regression(pod).map(|why| (pod.name.clone(), why))).collect();
        if !regressed.is_empty() {
            let named: Vec<_> = regressed.iter().map(|(pod, why)| format!("{pod} ({why})")).collect();
            let acts = regressed.into_iter().map(|(pod, why)| Act::Restore(pod, why)).collect();
            return Verdict { acts, finding: Err(self.stopped(&named)), next: None };
        }
        let restored: Vec<_> = self
            .pods
            .iter()
            .filter(|pod| self.began(pod, Outcome::Restored) && pod.standing != Standing::Current)
            .map(|pod| pod.name.clone())
            .collect();
        if !restored.is_empty() {
            return Verdict { acts: Vec::new(), finding: Err(self.stopped(&restored)), next: None };
        }
        let watched: Vec<_> = self.upgraded().filter(|pod| !self.is_proven(pod)).collect();
        let waiting = self.standing(Standing::OtherImage);
        let room = self.batch().saturating_sub(watched.len());
        let acts = waiting.iter().take(room).map(|name| Act::Replace(name.clone())).collect();
        let next = watched.iter().filter_map(|pod| Some(self.look(pod.note.as_ref()?.at))).min();
        let watched: Vec<_> = watched.iter().map(|pod| pod.name.clone()).collect();
        Verdict { acts, finding: self.progress(&waiting, &watched), next }
    }

    fn restart(&self) -> Verdict {
        let mut outdated = self.standing(Standing::OtherImage);
        outdated.extend(self.standing(Standing::OtherSettings));
        let fresh = || self.alive().filter(|pod| pod.standing == Standing::Current);
        let late = fresh().filter(|pod| !pod.ready && self.is_over(pod.created, DEADLINE)).map(|pod| pod.name.clone());
        let late: Vec<_> = late.collect();
        if !outdated.is_empty() && !late.is_empty() {
            return Verdict { acts: Vec::new(), finding: Err(self.stopped(&late)), next: None };
        }
        let watched: Vec<_> =
            fresh().filter(|pod| !pod.ready || !self.is_over(pod.created, self.plan.observe)).collect();
        let leaving = self.pods.iter().filter(|pod| pod.leaving).count();
        let room = self.batch().saturating_sub(watched.len() + leaving);
        let mut replaceable: Vec<_> = self
            .alive()
            .filter(|pod| pod.standing != Standing::Current && pod.replaceable)
            .map(|pod| pod.name.clone())
            .collect();
        replaceable.sort_unstable();
        let acts = replaceable.iter().take(room).map(|name| Act::Evict(name.clone())).collect();
        let next = if outdated.is_empty() { None } else { watched.iter().map(|pod| self.look(pod.created)).min() };
        let watched: Vec<_> = watched.iter().map(|pod| pod.name.clone()).collect();
        let finding = if replaceable.is_empty() && !outdated.is_empty() {
            Err(Trouble::passing(
                "NeedNewPods",
                format!("no controller would make another pod in place of {}; delete them yourself", listed(&outdated)),
            ))
        } else if outdated.is_empty() {
            Ok(self.up_to_date())
        } else {
            self.progress(&outdated, &watched)
        };
        Verdict { acts, finding, next }
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
        let total = self.alive().count();
        let done = self.alive().filter(|pod| pod.standing == Standing::Current).count() - watched.len();
        let watching = if watched.is_empty() { String::new() } else { format!("; watching {}", listed(watched)) };
        Err(Trouble::passing(
            "Upgrading",
            format!("{done} of {total} sidecars are up to date, with {}{watching}", self.image),
        ))
    }

    fn up_to_date(&self) -> Good {
        Good("UpToDate", format!("every sidecar is what a new pod would get, with {}", self.image))
    }

    fn stopped(&self, pods: &[String]) -> Trouble {
        let remedy = match self.plan.strategy {
            UpgradeStrategy::InPlace => {
                "they have the image before again. Name another image, or delete these pods to try the same one again"
            }
            UpgradeStrategy::RollingRestart | UpgradeStrategy::OnRecreate => {
                "it goes on when they are ready, or when another image is named"
            }
        };
        Trouble::stalled(STOPPED, format!("{} failed in {}; {remedy}", self.image, listed(pods)))
    }

    fn alive(&self) -> impl Iterator<Item = &'s Seen> {
        self.pods.iter().filter(|pod| !pod.leaving)
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

    fn began(&self, pod: &Seen, outcome: Outcome) -> bool {
        pod.note.as_ref().is_some_and(|note| note.to == self.image && note.outcome == outcome)
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
        let ran_well = pod.restarts == note.restarts && self.is_over(note.at, self.plan.observe);
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
