//! What the next step of an upgrade is: pure, so that every state can be tried.
//!
//! At most a batch of pods is under way at a time, and a pod is under way until its sidecar has been ready for a while. The first batch
//! are the canaries: when one of them fails, no other pod follows, and that is remembered ([`super::memory`]). What one pod has by itself
//! holds up no other: that it may not be changed ([`super::rests`]), that it was not ready before, or what fails in another namespace.

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
/// How long all pods that are left have to stay, or say nothing of the image, until a person is called.
const HELD_UP: Duration = Duration::from_mins(10);
/// Most pods that get an image of which nothing is known after the first batch, one each time that the last has had it for [`HELD_UP`].
const MORE: usize = 3;
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
        let regressed: Vec<_> = self.upgraded().filter_map(|pod| Some((pod, self.regression(pod)?))).collect();
        let is_restored =
            |pod: &&Seen| !pod.ended && self.began(pod, Outcome::Restored) && pod.standing != Standing::Current;
        let restored = self.pods.iter().filter(is_restored);
        let failed: Vec<_> = restored.chain(regressed.iter().map(|(pod, _)| *pod)).collect();
        let lost = self.upgraded().filter(|pod| self.is_lost(pod) && self.is_bad_for(pod, &failed));
        let lost = lost.map(|pod| (pod, pod.stuck.clone().unwrap_or_else(|| "is not ready with it".to_owned())));
        let restorations = regressed.iter().cloned().chain(lost);
        let restorations: Vec<_> = restorations.map(|(pod, why)| Act::Restore(pod.name.clone(), why)).collect();
        if regressed.iter().any(|(pod, _)| !self.is_guest(pod)) {
            let named: Vec<_> = regressed.iter().map(|(pod, why)| format!("{} ({why})", pod.name)).collect();
            let failed: Vec<_> = regressed.iter().map(|(pod, _)| pod.name.clone()).collect();
            return Verdict { acts: restorations, ..self.stop(&named, &failed) };
        }
        let own: Vec<_> = failed.iter().copied().filter(|pod| !self.is_guest(pod)).collect();
        if !own.is_empty() {
            let own = names(&own);
            return Verdict { acts: restorations, ..self.stop(&own, &own) };
        }
        let waiting = self.standing(Standing::OtherImage);
        let is_left = !waiting.is_empty() || !restorations.is_empty();
        if let Some(known) = self.memory.failed.as_ref().filter(|_| is_left) {
            return Verdict { acts: restorations, ..self.stop(&known.pods, &[]) };
        }
        let unproven = self.upgraded().filter(|pod| !self.is_proven(pod));
        let (unknown, watched): (Vec<_>, Vec<_>) = unproven.partition(|pod| self.says_nothing(pod));
        // Where no pod says that the image is good, no other one gets it that would say nothing either.
        let is_known = unknown.is_empty() || self.fresh().any(|pod| pod.ready && self.is_proven(pod));
        let outdated = |all: bool| {
            let is_next = |pod: &&Seen| pod.standing == Standing::OtherImage && (pod.ready || all);
            Self::in_turn(self.alive().filter(is_next), &failed)
        };
        let candidates = outdated(is_known);
        // What keeps those that have it from being ready may be their own, and it may be what the others need: so one more gets it now and
        // then. Not all do, for what keeps them from being ready may pass, and the image may be bad.
        let tried = unknown.iter().filter_map(|pod| Some(pod.note.as_ref()?.at)).max();
        let is_long = tried.is_none_or(|at| self.is_over(at, HELD_UP));
        let is_stuck = !is_known && candidates.is_empty() && watched.is_empty();
        let (candidates, room) = if is_stuck && is_long && unknown.len() < self.batch() + MORE {
            (outdated(true), 1)
        } else {
            (candidates, self.batch().saturating_sub(watched.len()))
        };
        let chosen: Vec<_> = candidates.iter().filter(|pod| !pod.rests(self.now)).take(room).collect();
        let rested = self.next_rest(&candidates).filter(|_| chosen.len() < room);
        let next = watched.iter().filter_map(|pod| Some(self.look(watched_since(pod, pod.note.as_ref()?.at))));
        let next = next.chain(rested).min();
        let is_idle = candidates.is_empty() && watched.is_empty();
        let finding = if is_idle && !is_known && (is_left || unknown.iter().any(|pod| self.is_lost(pod))) {
            Err(self.nothing_known(&unknown, &failed, is_long))
        } else if is_idle && !waiting.is_empty() {
            Err(self.guests_failed(&failed))
        } else {
            self.held_up(self.progress(&waiting, &names(&watched)), &candidates, watched.len())
        };
        let replacements = chosen.into_iter().map(|pod| Act::Replace(pod.name.clone()));
        let acts = restorations.into_iter().chain(replacements).collect();
        Verdict { acts, finding, next, memory: self.memory.clone() }
    }

    /// Those of these pods that may be changed, in their turn: those that had to stay come last, and those that are ready first, because they
    /// show whether the image is good. Pods of other namespaces wait for the resource's own, and for nothing where the image `failed` in
    /// another pod of theirs.
    fn in_turn(pods: impl Iterator<Item = &'s Seen>, failed: &[&Seen]) -> Vec<&'s Seen> {
        let is_spared = |pod: &&Seen| failed.iter().any(|failed| failed.place.0 == pod.place.0);
        let mut pods: Vec<_> = pods.filter(|pod| !is_spared(pod)).collect();
        let turn = |pod: &&'s Seen| {
            (pod.rest.as_ref().map(|rest| rest.until), !pod.ready, pod.granted, !pod.ran, pod.name.as_str())
        };
        pods.sort_unstable_by(|a, b| turn(a).cmp(&turn(b)));
        pods
    }

    /// When the first of those that rest may be tried again.
    fn next_rest(&self, candidates: &[&Seen]) -> Option<Duration> {
        let rests =
            candidates.iter().filter_map(|pod| Some(pod.rest.as_ref()?.until)).filter(|until| *until > self.now);
        let next = rests.min()?;
        Some(Duration::try_from(next.duration_since(self.now)).unwrap_or_default().max(SOONEST))
    }

    /// The same with what holds up the pods that had to stay. Where there are no others, and so many are `under_way`, it may be that only a
    /// person can change it.
    fn held_up(&self, finding: Finding, candidates: &[&Seen], under_way: usize) -> Finding {
        let progress = match finding {
            Err(trouble) if !trouble.stalled => trouble,
            Ok(_) | Err(_) => return finding,
        };
        let mut held: Vec<_> =
            candidates.iter().filter_map(|pod| Some((pod.rest.as_ref()?, pod.name.clone()))).collect();
        held.sort_unstable_by(|(a, one), (b, other)| (a.since, one).cmp(&(b.since, other)));
        let Some(((rest, _), others)) = held.split_first() else { return Err(progress) };
        let is_long = held.iter().all(|(rest, _)| self.is_over(rest.since, HELD_UP));
        let is_alone = under_way == 0 && held.len() == candidates.len();
        let mut message = rest.why.message.clone();
        if !others.is_empty() {
            let others: Vec<_> = others.iter().map(|(_, name)| name.clone()).collect();
            message = format!("{message}; also held up: {}", listed(&others));
        }
        let message = format!("{message}; {}", progress.message);
        Err(Trouble { reason: rest.why.reason, message, stalled: is_alone && (is_long || rest.why.stalled) })
    }

    /// Nothing is known of the image, because these pods are not ready with it, maybe for another reason. It may also have `failed` in pods of
    /// other namespaces. After a long time a person is called.
    fn nothing_known(&self, unknown: &[&Seen], failed: &[&Seen], is_long: bool) -> Trouble {
        let progress = self.under_way(&[]);
        let others = if self.standing(Standing::OtherImage).is_empty() {
            String::new()
        } else {
            format!("; others that are not ready wait for one that is, but for one every ten minutes, {MORE} at most")
        };
        let message = format!(
            "{}; not ready with it, maybe for another reason: {}{others}; make one of them ready, or delete it",
            progress.message,
            listed(&names(unknown))
        );
        if failed.is_empty() {
            return Trouble { message, stalled: is_long, ..progress };
        }
        let failed = self.guests_failed(failed);
        Trouble { message: format!("{}; {message}", failed.message), ..failed }
    }

    /// The image failed in these pods, as they are `named`, and no other pod gets it.
    fn stop(&self, named: &[String], failed: &[String]) -> Verdict {
        let message = format!("{} failed in {}; {}", self.image, listed(named), self.remedy());
        let memory = with_failure(self.memory, self.image, failed, self.now);
        Verdict { acts: Vec::new(), finding: Err(Trouble::stalled(STOPPED, message)), next: None, memory }
    }

    /// The image failed in pods of other namespaces alone, and they are all that is left.
    fn guests_failed(&self, failed: &[&Seen]) -> Trouble {
        let message = format!(
            "{} failed in {}, so no other pod of their namespaces gets it; {}",
            self.image,
            listed(&names(failed)),
            self.remedy()
        );
        Trouble::stalled(STOPPED, message)
    }

    /// What becomes of pods in which the image failed, and what a person can do.
    const fn remedy(&self) -> &'static str {
        match self.plan.strategy {
            UpgradeStrategy::InPlace => {
                "those that are there have the image before again. Name another image, or have the same one tried again: kubectl context \
                 upgrade-sidecars --retry"
            }
            UpgradeStrategy::RollingRestart | UpgradeStrategy::OnRecreate => {
                "it goes on when they are ready, or pods that took their place. Or name another image, or have the same one tried again: \
                 kubectl context upgrade-sidecars --retry"
            }
        }
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
                    "more than the image has changed for {}, or something else than the webhook gave them their image, as one that has \
                     images come from a mirror; they are up to date when they are made again",
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
        names(&self.alive().filter(|pod| pod.standing == standing).collect::<Vec<_>>())
    }

    /// Pods that have what they are to have.
    fn fresh(&self) -> impl Iterator<Item = &'s Seen> {
        self.alive().filter(|pod| pod.standing == Standing::Current)
    }

    /// Whether a pod is of another namespace, and there are others of the resource's own. Where the image fails for reasons of that namespace,
    /// it must not stop those.
    fn is_guest(&self, pod: &Seen) -> bool {
        pod.granted && self.alive().any(|pod| !pod.granted)
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
        // What keeps one from being ready that was not so before may be what kept it then.
        let note = pod.note.as_ref().filter(|note| note.was_ready)?;
        // Much later it is another matter.
        if self.is_proven(pod) || self.is_past(pod) {
            return None;
        }
        if pod.restarts > note.restarts {
            return Some(format!("{} restarts", pod.restarts - note.restarts));
        }
        if let Some(stuck) = &pod.stuck {
            return Some(stuck.clone());
        }
        (!pod.ready && self.is_over(note.at, DEADLINE)).then(|| "is not ready in time".to_owned())
    }

    /// Whether an upgraded pod speaks neither for the new image nor against it, so that nobody waits for it.
    fn says_nothing(&self, pod: &Seen) -> bool {
        let is_late = |note: &Note| !note.was_ready && self.is_over(note.at, DEADLINE);
        !pod.ready && (self.is_past(pod) || pod.note.as_ref().is_some_and(is_late))
    }

    /// Whether it may be the new image that keeps such a pod from being ready. One that was ready before and only is not so much later has
    /// another reason, as a store that is away.
    fn is_lost(&self, pod: &Seen) -> bool {
        let was_ready = pod.note.as_ref().is_some_and(|note| note.was_ready);
        self.says_nothing(pod) && (pod.stuck.is_some() || !was_ready)
    }

    /// Whether the new image counts as bad for a pod, because it `failed` in these or before. What failed in another namespace says nothing
    /// outside of it.
    fn is_bad_for(&self, pod: &Seen, failed: &[&Seen]) -> bool {
        let counts = |failed: &&Seen| !self.is_guest(failed) || failed.place.0 == pod.place.0;
        self.memory.failed.is_some() || failed.iter().any(counts)
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

/// What pods are called, in order.
fn names(pods: &[&Seen]) -> Vec<String> {
    let mut names: Vec<_> = pods.iter().map(|pod| pod.name.clone()).collect();
    names.sort_unstable();
    names
}

/// From when on a sidecar is watched that was changed then: a slow pull may start it much later, and each start begins anew.
fn watched_since(pod: &Seen, change: Timestamp) -> Timestamp {
    pod.running.map_or(change, |started| started.max(change))
}
