//! Pods are evicted, and their controllers make others.
//!
//! What a controller makes may be outdated as well: an old webhook serves because the new one does not start, or two places name two
//! images. Then evictions bring nothing and cost restarts, so no other pod is evicted but for a trial now and then. Or nothing comes at all,
//! and then there is none.
//!
//! A pod is chosen, which is written down, and evicted at the next look that reads so: a controller that ends in between forgets nothing.

use std::time::Duration;

use context_manager_crds::context_manager::status::{Eviction, FailedImage, Upgrade};
use jiff::Timestamp;

use super::{Act, DEADLINE, SOONEST, STOPPED, Seen, Step, Verdict, evictions::MOST, names, watched_since};
use crate::{
    controller::{
        status::{Trouble, listed},
        upgrade::memory::{with_chosen, with_failure},
    },
    upgrade::Standing,
};

/// The reason of an upgrade whose new pods are outdated as well.
pub(in crate::controller::upgrade) const STAY_OUTDATED: &str = "PodsStayOutdated";
/// Least time between such a pod, or a trial, and the next trial.
const PAUSE: Duration = DEADLINE;
/// Most trials until the pods have been left alone for a while.
const TRIALS: i32 = 3;
/// The clock of what is made: within one of these, a pod of before the upgrade is not told from one that was made for it.
const TICK: Duration = Duration::from_secs(1);
/// How long they are left alone then.
const LEFT_ALONE: Duration = Duration::from_hours(1);

impl<'s> Step<'s> {
    pub(super) fn restart(&self) -> Verdict {
        let mut outdated = self.standing(Standing::OtherImage);
        outdated.extend(self.standing(Standing::OtherSettings));
        let mut memory = self.memory.clone();
        if outdated.is_empty() {
            return self.done();
        }
        let failed = self.fresh().filter(|pod| self.is_late(pod) && self.is_tried(pod));
        let (guests, own): (Vec<_>, Vec<_>) = failed.partition(|pod| self.is_guest(pod));
        if !own.is_empty() {
            let own = names(&own);
            return self.stop(&own, &own);
        }
        let overdue = self.overdue();
        if !overdue.is_empty() {
            return self.stay_missing(&overdue);
        }
        if let Some(failed) = memory.failed.take().filter(|failed| !self.is_refuted(failed)) {
            return self.stop(&failed.pods, &[]);
        }
        let vain = self.in_vain();
        if !vain.is_empty() || self.awaits_trial() {
            return self.stay_outdated(&vain, &memory);
        }
        let watched: Vec<_> = self.fresh().filter(|pod| !self.is_settled(pod) && !self.is_late(pod)).collect();
        let leaving = self.there().filter(|pod| pod.leaving).count();
        let begun = self.is_over(self.memory.since.0, TICK);
        let under_way = watched.len() + leaving + self.without_fresh();
        let room = if begun { self.batch().min(MOST).saturating_sub(under_way) } else { 0 };
        let replaceable = self.replaceable();
        let candidates = Self::in_turn(replaceable.iter().copied().filter(|pod| has_started(pod)), &guests);
        let due = candidates.iter().copied().filter(|pod| !pod.rests(self.now));
        let (chosen, others): (Vec<_>, Vec<_>) = due.partition(|pod| self.is_chosen(pod));
        let acts: Vec<_> = chosen.into_iter().take(room).map(|pod| Act::Evict(pod.name.clone())).collect();
        let left = room - acts.len();
        let others: Vec<_> = others.into_iter().take(left).collect();
        let rested = self.next_rest(&candidates).filter(|_| others.len() < left);
        memory = with_chosen(&memory, self.pods, &others, self.now);
        let chose = memory.evicted.len() > self.memory.evicted.len();
        let times = [(!begun).then_some(TICK), chose.then_some(SOONEST), self.next_overdue(), rested];
        let next = watched
            .iter()
            .map(|pod| self.look(watched_since(pod, pod.created)))
            .chain(times.into_iter().flatten())
            .min();
        let finding = if replaceable.is_empty() {
            Err(Trouble::passing(
                "NeedNewPods",
                format!("no controller would make another pod in place of {}; delete them yourself", listed(&outdated)),
            ))
        } else if candidates.is_empty() && under_way == 0 {
            Err(if guests.is_empty() { not_started(&replaceable) } else { self.guests_failed(&guests) })
        } else {
            let progress = self.progress(&outdated, &names(&watched)).map_err(|trouble| self.waiting(trouble));
            self.held_up(progress, &candidates, under_way)
        };
        Verdict { acts, finding, next, memory }
    }

    /// No pod is outdated. One that is missing is named for a while; nobody else goes because of it.
    fn done(&self) -> Verdict {
        let is_past = |one: &&Eviction| one.gone_at.as_ref().is_some_and(|gone| self.is_over(gone.0, LEFT_ALONE));
        if self.missing().iter().all(is_past) {
            let memory = Upgrade { evicted: Vec::new(), ..self.memory.clone() };
            return Verdict { acts: Vec::new(), finding: Ok(self.up_to_date()), next: None, memory };
        }
        let overdue = self.overdue();
        if !overdue.is_empty() {
            return Verdict { memory: self.memory.clone(), next: Some(LEFT_ALONE), ..self.stay_missing(&overdue) };
        }
        let finding = Err(self.waiting(self.under_way(&[])));
        Verdict { acts: Vec::new(), finding, next: self.next_overdue(), memory: self.memory.clone() }
    }

    /// The same, with the pods in whose place there is none yet.
    fn waiting(&self, trouble: Trouble) -> Trouble {
        let missing: Vec<_> = self.missing().iter().map(|one| one.pod.clone()).collect();
        if missing.is_empty() {
            return trouble;
        }
        let message = format!("{}; waiting for pods in place of {}", trouble.message, listed(&missing));
        Trouble { message, ..trouble }
    }

    /// Those that should be there by now.
    fn overdue(&self) -> Vec<&'s Eviction> {
        self.missing().into_iter().filter(|one| self.is_overdue(one)).collect()
    }

    /// Nothing came in place of pods that were evicted, so no other pod is.
    fn stay_missing(&self, missing: &[&Eviction]) -> Verdict {
        let mut pods: Vec<_> = missing.iter().map(|one| one.pod.clone()).collect();
        pods.sort_unstable();
        let mut workloads: Vec<_> = missing.iter().map(|one| one.workload.clone()).collect();
        workloads.sort_unstable();
        workloads.dedup();
        let message = format!(
            "{} made way for {} and no other pod took the place, so no other one is evicted. {} could not make it, for a quota, a limit \
             or a webhook that refuses it (kubectl get events -A --field-selector reason=FailedCreate), or was scaled down. It goes on \
             when a pod of it that was made since is ready. If none is wanted: kubectl context upgrade-sidecars --retry",
            listed(&pods),
            self.image,
            listed(&workloads)
        );
        let memory = with_failure(self.memory, self.image, &pods, self.now);
        Verdict { acts: Vec::new(), finding: Err(Trouble::stalled(STOPPED, message)), next: None, memory }
    }

    /// Evictions in whose place there is no pod that is up to date; those that are watched are counted by themselves.
    fn without_fresh(&self) -> usize {
        let is_fresh = |uid: &String| self.fresh().any(|pod| pod.uid.as_ref() == Some(uid));
        let waits =
            |one: &&Eviction| !one.settled && one.gone_at.is_some() && !one.successor.as_ref().is_some_and(is_fresh);
        self.memory.evicted.iter().filter(waits).count()
    }

    /// When the next pod that is missing should be there.
    fn next_overdue(&self) -> Option<Duration> {
        let missing = self.missing();
        missing.iter().filter_map(|one| Some(left(self.now, one.gone_at.as_ref()?.0, DEADLINE))).min()
    }

    fn is_chosen(&self, pod: &Seen) -> bool {
        self.memory.evicted.iter().any(|one| pod.uid.as_ref() == Some(&one.uid))
    }

    /// Pods that have not ended.
    fn there(&self) -> impl Iterator<Item = &'s Seen> {
        self.pods.iter().filter(|pod| !pod.ended)
    }

    /// Whether a new pod should be ready by now.
    fn is_late(&self, pod: &Seen) -> bool {
        !pod.ready && self.is_over(pod.created, DEADLINE)
    }

    /// Whether a new pod shows what the image is worth. One that is in place of an evicted one is missed even if it has not started.
    fn is_tried(&self, pod: &Seen) -> bool {
        let in_place_of = |one: &Eviction| one.successor.is_some() && one.successor == pod.uid;
        has_started(pod) || self.memory.evicted.iter().any(in_place_of)
    }

    /// Whether a new pod has been ready for long enough.
    fn is_settled(&self, pod: &Seen) -> bool {
        pod.ready && self.is_over(watched_since(pod, pod.created), self.plan.observe)
    }

    /// Outdated pods that another one would take the place of.
    fn replaceable(&self) -> Vec<&'s Seen> {
        let is_outdated = |pod: &&Seen| pod.standing != Standing::Current && pod.workload.is_some();
        let mut outdated: Vec<_> = self.alive().filter(is_outdated).collect();
        outdated.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        outdated
    }

    /// Whether the image works after all: in one of the pods in which it failed, or in one that was made since.
    fn is_refuted(&self, failed: &FailedImage) -> bool {
        let mut settled = self.fresh().filter(|pod| self.is_settled(pod));
        settled.any(|pod| failed.pods.contains(&pod.name) || pod.created > failed.at.0)
    }

    /// Pods that were made since the upgrade began and are outdated, if none that is newer is up to date.
    fn in_vain(&self) -> Vec<&'s Seen> {
        let newest = self.there().filter(|pod| pod.standing == Standing::Current).map(|pod| pod.created).max();
        let is_vain = |pod: &&Seen| {
            let is_new = pod.created > self.memory.since.0 && newest.is_none_or(|newest| pod.created >= newest);
            is_new && pod.standing != Standing::Current
        };
        self.there().filter(is_vain).collect()
    }

    /// Whether a pod was evicted for a trial, and the next one is not there yet.
    fn awaits_trial(&self) -> bool {
        let tried = self.memory.tried_at.as_ref().map(|at| at.0);
        let tried = tried.filter(|at| !self.is_over(*at, PAUSE) || !self.missing().is_empty());
        tried.is_some_and(|at| self.there().all(|pod| pod.created < at))
    }

    /// Says that evictions are in vain, and tries one of these pods again if it is time.
    fn stay_outdated(&self, vain: &[&'s Seen], memory: &Upgrade) -> Verdict {
        let mut names: Vec<_> = vain.iter().map(|pod| pod.name.clone()).collect();
        names.sort_unstable();
        let who = if names.is_empty() { "pods".to_owned() } else { listed(&names) };
        let message = format!(
            "{who} came after the upgrade to {} had begun and are outdated all the same, so no other pod is evicted. The webhook gives \
             pods something else: look whether all its pods are ready and of the controller's release (kubectl get pods -A -l \
             app.kubernetes.io/part-of=context-manager), and whether both are told the same image of the sidecar. One pod is tried \
             again after a few minutes, {TRIALS} times an hour at most",
            self.image
        );
        let tried = self.memory.tried_at.as_ref().map(|at| at.0);
        let trials = match tried {
            Some(at) if !self.is_over(at, LEFT_ALONE) => self.memory.trials.unwrap_or_default(),
            Some(_) | None => 0,
        };
        let newest = vain.iter().map(|pod| pod.created).chain(tried).max().unwrap_or(self.now);
        let (since, pause) = if trials < TRIALS { (newest, PAUSE) } else { (tried.unwrap_or(newest), LEFT_ALONE) };
        let is_due = self.is_over(since, pause);
        // One of those that came in vain, or any other if nobody would make another one in their place.
        let may_go = |pod: &&'s Seen| pod.workload.is_some() && !pod.rests(self.now);
        let first = vain.iter().copied().filter(may_go).min_by(|a, b| a.name.cmp(&b.name));
        let first = first.or_else(|| self.replaceable().into_iter().find(may_go));
        let alone = self.there().all(|pod| !pod.leaving) && self.missing().is_empty();
        let first = first.filter(|_| is_due && alone);
        let (tried, chosen): (Vec<_>, Vec<_>) = first.into_iter().partition(|pod| self.is_chosen(pod));
        let next = match (is_due, first) {
            (false, _) => Some(left(self.now, since, pause)),
            (true, Some(_)) if tried.is_empty() => Some(SOONEST),
            (true, Some(_)) => Some(PAUSE),
            // It waits for a pod that goes or comes, or may be evicted again.
            (true, None) => self.next_rest(&self.pods.iter().collect::<Vec<_>>()).filter(|_| alone),
        };
        Verdict {
            acts: tried.into_iter().map(|pod| Act::Try(pod.name.clone(), trials)).collect(),
            finding: Err(Trouble::stalled(STAY_OUTDATED, message)),
            next,
            memory: with_chosen(memory, self.pods, &chosen, self.now),
        }
    }
}

/// Whether the kubelet came to the sidecar at all. What keeps a pod from that, as a place on a node, has nothing to do with the image.
const fn has_started(pod: &Seen) -> bool {
    pod.ran || pod.stuck.is_some()
}

/// Nothing is left but pods that have not started.
fn not_started(waiting: &[&Seen]) -> Trouble {
    let waiting = listed(&names(waiting));
    Trouble::passing(
        "NeedNewPods",
        format!(
            "{waiting} have not started, and are not evicted before they have; see what keeps them, or delete them"
        ),
    )
}

/// What is left of a pause.
fn left(now: Timestamp, since: Timestamp, pause: Duration) -> Duration {
    let elapsed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    pause.saturating_sub(elapsed).max(SOONEST)
}
