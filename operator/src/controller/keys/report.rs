//! What is said of a rotation: ids for the status, a condition that names the step and who is waited for, and when to look again.

use std::time::Duration;

use context_manager_crds::context_manager::status::Keys;
use context_manager_protocol::keyring::Key;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    Found,
    fleet::Waiting,
    state::State,
    step::{Change, Phase, Times, Wish, later},
};
use crate::controller::status::{Finding, Good, Trouble, listed, seconds};

/// The reason of a rotation that waits for pods that would refuse the new key.
pub(super) const PODS_LAG: &str = "PodsLag";
/// Pauses between two looks at pods: an eighth of the time that they were waited for, between these.
const FIRST_LOOK: Duration = Duration::from_millis(500);
const LAST_LOOK: Duration = Duration::from_secs(15);

impl Phase {
    /// How many pods are waited for.
    pub(super) const fn waits_for(&self) -> usize {
        match self {
            Self::Published(waiting) | Self::Activated(waiting) => waiting.len(),
            Self::Settled | Self::NextPublished | Self::Overlap { .. } | Self::Crowded { .. } => 0,
        }
    }
}

impl Found {
    /// The same, to be looked at again at once.
    pub(super) fn again(self) -> Self {
        Self { next: Some(Duration::ZERO), ..self }
    }
}

/// What is said when nothing can be done before some time has passed.
pub(super) fn found(state: &State, wish: &Wish<'_>, phase: &Phase, times: &Times, now: Timestamp) -> Found {
    let until = |time: Timestamp| Duration::try_from(time.duration_since(now)).unwrap_or_default();
    let look = |since: Timestamp| {
        let waited = Duration::try_from(now.duration_since(since)).unwrap_or_default();
        (waited / 8).clamp(FIRST_LOOK, LAST_LOOK)
    };
    let published = times.published(state).unwrap_or(now);
    let next = match phase {
        Phase::Published(waiting) if waiting.is_empty() => Some(until(later(published, times.settle))),
        Phase::Published(_) => Some(look(published)),
        Phase::Activated(_) => Some(look(state.rotated_at)),
        Phase::Overlap { until: end } | Phase::Crowded { until: end } => {
            Some(next_rotation(state, wish).map_or_else(|| until(*end), |due| until(due.min(*end))))
        }
        Phase::Settled | Phase::NextPublished => next_rotation(state, wish).map(until),
    };
    let is_late = |since: Timestamp| now >= later(since, times.patience);
    let rotation = match phase {
        Phase::Published(waiting) => Err(published_waits(state, waiting, is_late(published))),
        Phase::Activated(waiting) => Err(Trouble::passing(
            "Activated",
            format!(
                "key {} signs; before the overlap begins, the sidecars have to know it; waiting for {waiting}{}",
                state.ring.active().id(),
                passed_over(state)
            ),
        )),
        Phase::Crowded { .. } => Err(Trouble::passing(
            "TooManyKeys",
            format!(
                "{} replaced keys still verify; a new key is made when one of them is retired",
                state.ring.previous().len()
            ),
        )),
        Phase::NextPublished => {
            let next = state.ring.next().map_or("", Key::id);
            Ok(Good(
                "NextPublished",
                format!("{}, and key {next} verifies; it signs when your Secret says so", signs(state)),
            ))
        }
        Phase::Overlap { until } => {
            let (previous, until) = (ids(state.ring.previous()).join(", "), seconds(*until));
            Ok(Good(
                "Overlap",
                format!("{}; {previous} verifies, the oldest until {until}{}", signs(state), passed_over(state)),
            ))
        }
        Phase::Settled => Ok(Good("Settled", signs(state))),
    };
    Found { ring: Ok(ring(state, wish)), trouble: None, rotation: Some(rotation), next }
}

/// What is said when something could be done and must not be.
pub(super) fn held(state: &State, wish: &Wish<'_>, change: Option<&Change>) -> Found {
    let what = match change {
        Some(Change::Noted | Change::Refused) => return quiet(state, wish),
        Some(Change::Retired(ids)) => format!("the overlap of {} is over", ids.join(", ")),
        Some(Change::Activated) => format!("key {} could sign", state.ring.next().map_or("", Key::id)),
        Some(Change::Published | Change::Followed) => "your Secret has another key ring".to_owned(),
        None => "a new key is due".to_owned(),
    };
    let trouble = super::suspended(&what);
    // The copy of the user's ring is what the user looks at; a rotation that waits is no fault of the ring in force.
    let is_copy = matches!(change, Some(Change::Published | Change::Followed));
    let ring = if is_copy {
        Err(super::suspended("The copy of the key ring is not up to date"))
    } else {
        Ok(ring(state, wish))
    };
    Found { ring, trouble: None, rotation: Some(Err(trouble)), next: None }
}

fn quiet(state: &State, wish: &Wish<'_>) -> Found {
    let rotation: Finding = Ok(Good("Settled", signs(state)));
    Found { ring: Ok(ring(state, wish)), trouble: None, rotation: Some(rotation), next: None }
}

/// Ids for the status.
fn ring(state: &State, wish: &Wish<'_>) -> (Keys, Good) {
    let keys = Keys {
        active: state.ring.active().id().to_owned(),
        previous: ids(state.ring.previous()),
        next: state.ring.next().map(|key| key.id().to_owned()),
        rotated_at: Some(Time(seconds(state.rotated_at))),
        next_rotation: next_rotation(state, wish).map(|due| Time(seconds(due))),
    };
    (keys, Good("Provisioned", signs(state)))
}

/// When the next rotation is due.
fn next_rotation(state: &State, wish: &Wish<'_>) -> Option<Timestamp> {
    match wish {
        Wish::Made { every, .. } => every.map(|every| later(state.rotated_at, every)),
        Wish::Given { .. } => None,
    }
}

fn published_waits(state: &State, waiting: &Waiting, late: bool) -> Trouble {
    let next = state.ring.next().map_or("", Key::id);
    if waiting.is_empty() {
        return Trouble::passing("Publishing", format!("key {next} is published, and signs in a moment"));
    }
    let message = format!("key {next} is published; it signs when the sidecars have loaded it; waiting for {waiting}");
    if late && !waiting.lagging.is_empty() {
        let remedy = "those that answer would refuse requests signed with it: see their /health, or delete the pods";
        return Trouble::passing(PODS_LAG, format!("{message}; {remedy}"));
    }
    Trouble::passing("Publishing", message)
}

fn signs(state: &State) -> String {
    format!("key {} signs", state.ring.active().id())
}

fn passed_over(state: &State) -> String {
    match state.passed_over.as_slice() {
        [] => String::new(),
        pods => format!("; it began to without waiting longer for {}", listed(pods)),
    }
}

fn ids(keys: &[Key]) -> Vec<String> {
    keys.iter().map(|key| key.id().to_owned()).collect()
}
