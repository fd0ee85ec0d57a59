//! Pods are evicted, and their controllers make others.
//!
//! What a controller makes may be outdated as well: an old webhook serves because the new one does not start, or two places name two
//! images. Then evictions bring nothing and cost restarts, so no other pod is evicted but for a trial now and then.

use std::time::Duration;

use context_manager_crds::context_manager::status::FailedImage;
use jiff::Timestamp;

use super::{Act, DEADLINE, SOONEST, Seen, Step, Verdict};
use crate::{
    controller::status::{Trouble, listed},
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
            return Verdict { acts: Vec::new(), finding: Ok(self.up_to_date()), next: None, memory };
        }
        let is_late = |pod: &&Seen| !pod.ready && self.is_over(pod.created, DEADLINE);
        let late: Vec<_> = self.fresh().filter(is_late).map(|pod| pod.name.clone()).collect();
        if !late.is_empty() {
            return self.stop(&late, &late);
        }
        if let Some(failed) = memory.failed.take().filter(|failed| !self.is_refuted(failed)) {
            return self.stop(&failed.pods, &[]);
        }
        let vain = self.in_vain();
        if !vain.is_empty() || self.awaits_trial() {
            return Verdict { memory, ..self.stay_outdated(&vain) };
        }
        let watched: Vec<_> = self.fresh().filter(|pod| !self.is_settled(pod)).collect();
        let leaving = self.pods.iter().filter(|pod| pod.leaving).count();
        let begun = self.is_over(self.memory.since.0, TICK);
        let room = if begun { self.batch().saturating_sub(watched.len() + leaving) } else { 0 };
        let replaceable = self.replaceable();
        let acts = replaceable.iter().take(room).map(|name| Act::Evict(name.clone())).collect();
        let next = watched.iter().map(|pod| self.look(pod.created)).chain((!begun).then_some(TICK)).min();
        let watched: Vec<_> = watched.iter().map(|pod| pod.name.clone()).collect();
        let finding = if replaceable.is_empty() {
            Err(Trouble::passing(
                "NeedNewPods",
                format!("no controller would make another pod in place of {}; delete them yourself", listed(&outdated)),
            ))
        } else {
            self.progress(&outdated, &watched)
        };
        Verdict { acts, finding, next, memory }
    }

    /// Pods that have what they are to have.
    fn fresh(&self) -> impl Iterator<Item = &'s Seen> {
        self.alive().filter(|pod| pod.standing == Standing::Current)
    }

    /// Whether a new pod has been ready for long enough.
    fn is_settled(&self, pod: &Seen) -> bool {
        pod.ready && self.is_over(pod.created, self.plan.observe)
    }

    /// Outdated pods that another one would take the place of.
    fn replaceable(&self) -> Vec<String> {
        let outdated = self.alive().filter(|pod| pod.standing != Standing::Current && pod.replaceable);
        let mut names: Vec<_> = outdated.map(|pod| pod.name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// Whether the image works after all: in one of the pods in which it failed, or in one that was made since.
    fn is_refuted(&self, failed: &FailedImage) -> bool {
        let mut settled = self.fresh().filter(|pod| self.is_settled(pod));
        settled.any(|pod| failed.pods.contains(&pod.name) || pod.created > failed.at.0)
    }

    /// Pods that were made since the upgrade began and are outdated, if none that is newer is up to date.
    fn in_vain(&self) -> Vec<&'s Seen> {
        let newest = self.pods.iter().filter(|pod| pod.standing == Standing::Current).map(|pod| pod.created).max();
        let is_vain = |pod: &&Seen| {
            let is_new = pod.created > self.memory.since.0 && newest.is_none_or(|newest| pod.created >= newest);
            is_new && pod.standing != Standing::Current
        };
        self.pods.iter().filter(is_vain).collect()
    }

    /// Whether a pod was evicted for a trial, and the next one is not there yet.
    fn awaits_trial(&self) -> bool {
        let tried = self.memory.tried_at.as_ref().map(|at| at.0).filter(|at| !self.is_over(*at, PAUSE));
        tried.is_some_and(|at| self.pods.iter().all(|pod| pod.created < at))
    }

    /// Says that evictions are in vain, and tries one of these pods again if it is time.
    fn stay_outdated(&self, vain: &[&Seen]) -> Verdict {
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
        let first = vain.iter().filter(|pod| pod.replaceable).map(|pod| pod.name.clone()).min();
        let first = first.or_else(|| self.replaceable().into_iter().next());
        let first = first.filter(|_| is_due && self.pods.iter().all(|pod| !pod.leaving));
        let next = match (is_due, &first) {
            (false, _) => Some(left(self.now, since, pause)),
            (true, Some(_)) => Some(PAUSE),
            // It waits for a pod that goes or comes.
            (true, None) => None,
        };
        Verdict {
            acts: first.map(|name| Act::Try(name, trials)).into_iter().collect(),
            finding: Err(Trouble::stalled(STAY_OUTDATED, message)),
            next,
            memory: self.memory.clone(),
        }
    }
}

/// What is left of a pause.
fn left(now: Timestamp, since: Timestamp, pause: Duration) -> Duration {
    let elapsed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    pause.saturating_sub(elapsed).max(SOONEST)
}
