//! Pods that had to stay as they are: a budget, a policy or a want of rights is against a change for now. Each rests for a while, ever longer,
//! and others go first meanwhile.
//!
//! Nothing but the process knows of it. Who takes over tries each of them once more, and nothing is lost by that.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;

use super::seen::Seen;
use crate::controller::status::Trouble;

/// Pause after the first time.
const PAUSE: Duration = Duration::from_secs(5);
/// Longest pause. It is short, for a budget lets the next pod go as soon as the one before is back.
const LONGEST: Duration = Duration::from_mins(1);
/// How long a pod is known that was not tried again: it is gone, or up to date by now.
const FORGOTTEN: Duration = Duration::from_hours(1);
/// Most pods that are known. One too many is tried as if it were the first time.
const MOST: usize = 10_000;

/// What is known of a pod that had to stay.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rest {
    /// Why.
    pub(super) why: Trouble,
    /// When it was so first.
    pub(super) since: Timestamp,
    /// Until when it is left alone.
    pub(super) until: Timestamp,
    /// How often in a row.
    times: u32,
}

/// All such pods, by their uids.
#[derive(Debug, Default)]
pub(in crate::controller) struct Rests(HashMap<String, Rest>);

impl Rests {
    /// What is known of a pod.
    pub(super) fn of(&self, pod: &Seen) -> Option<Rest> {
        self.0.get(pod.uid.as_ref()?).cloned()
    }

    /// Lets a pod rest that had to stay.
    pub(super) fn hold(&mut self, pod: &Seen, why: Trouble, now: Timestamp) {
        let Some(uid) = &pod.uid else { return };
        self.0.retain(|_, rest| Duration::try_from(now.duration_since(rest.until)).unwrap_or_default() < FORGOTTEN);
        let before = self.0.get(uid);
        if before.is_none() && self.0.len() >= MOST {
            return;
        }
        let (since, times) = before.map_or((now, 0), |rest| (rest.since, rest.times));
        let pause = PAUSE.saturating_mul(1 << times.min(16)).min(LONGEST);
        let until = now.checked_add(pause).unwrap_or(now);
        self.0.insert(uid.clone(), Rest { why, since, until, times: times.saturating_add(1) });
    }

    /// Forgets a pod that was changed.
    pub(super) fn forget(&mut self, pod: &Seen) {
        if let Some(uid) = &pod.uid {
            self.0.remove(uid);
        }
    }
}
