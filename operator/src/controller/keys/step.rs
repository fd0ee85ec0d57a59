//! The next step of a rotation: pure, so that every state can be tried.
//!
//! A new key is published, verifying only; when the sidecars have loaded it, it signs; when they know that, the overlap begins; at its
//! end the replaced key is retired. So at no time does an agent sign with a key that its sidecar does not know, whichever of the two
//! sees a new ring first.

use std::time::Duration;

use context_manager_protocol::keyring::{Error, Key, KeyRing};
use jiff::{SignedDuration, Timestamp};

use super::{fleet::Waiting, state::State};

/// Most replaced keys at a time; a rotation waits until one of them is retired.
const MAX_PREVIOUS: usize = 8;

/// Most pods that were not waited for longer that are kept by name: an annotation has room for so many.
const PASSED_OVER: usize = 100;

/// What the ring is to become.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wish<'a> {
    /// Keys are made by the operator.
    Made {
        /// How long a key signs.
        every: Option<Duration>,
        /// The value of the annotation that asks for a new key.
        request: Option<&'a str>,
    },
    /// The user's ring.
    Given {
        /// The ring.
        ring: &'a KeyRing,
        /// The value of the annotation that asks for a new key, which only the user can make.
        request: Option<&'a str>,
    },
}

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// How long a replaced key verifies.
    pub(super) overlap: Duration,
    /// Least time between publishing a key and signing with it, for pods that are just being made.
    pub(super) settle: Duration,
    /// How long a pod that cannot be asked is waited for.
    pub(super) patience: Duration,
    /// How long one is waited for that can never be asked: until its kubelet has brought it the ring.
    pub(super) delivery: Duration,
    /// Since when every copy in another namespace has what is published.
    pub(super) copied: Option<Timestamp>,
}

impl Times {
    /// Since when every pod that is made has the next key, if there is one. Whoever keeps changing a copy in another namespace, so that it
    /// is written anew, puts this off no further than a pod that cannot be asked.
    pub(super) fn published(&self, state: &State) -> Option<Timestamp> {
        let bound = |since| later(since, self.patience);
        state.next_since.map(|since| self.copied.map_or(since, |copied| copied.clamp(since, bound(since))))
    }
}

/// What the sidecars are to be asked before the next step can be known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// Whether they accept requests that are signed with this key.
    Verifies(String),
    /// Whether they know that this key signs.
    Signs(String),
}

/// What is to be done.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A key is to be made, and published for this request.
    Make(Option<String>),
    /// The Secret is to say this.
    Write(Box<State>, Change),
    /// Nothing, for the time being.
    Rest(Phase),
}

/// What a write changes, for the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing that concerns anybody.
    Noted,
    /// A key is published.
    Published,
    /// The published key signs.
    Activated,
    /// The user's ring is copied.
    Followed,
    /// Keys are gone.
    Retired(Vec<String>),
    /// Somebody asked for a key that only the user can make.
    Refused,
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// For nothing but time.
    Settled,
    /// The user's next key is published, and the user says when it signs.
    NextPublished,
    /// For sidecars, until the published key can sign.
    Published(Waiting),
    /// For sidecars, until the overlap begins.
    Activated(Waiting),
    /// For the end of the overlap.
    Overlap {
        /// When it ends.
        until: Timestamp,
    },
    /// For one of too many replaced keys to be retired.
    Crowded {
        /// When it is.
        until: Timestamp,
    },
}

impl Wish<'_> {
    const fn request(&self) -> Option<&str> {
        match self {
            Self::Made { request, .. } | Self::Given { request, .. } => *request,
        }
    }

    /// The user's ring.
    const fn given(&self) -> Option<&KeyRing> {
        match self {
            Self::Made { .. } => None,
            Self::Given { ring, .. } => Some(ring),
        }
    }

    /// Whether the key that is published is the next one to sign.
    fn activates(&self, state: &State) -> bool {
        let Some(next) = state.ring.next() else { return false };
        match self {
            Self::Made { .. } => true,
            Self::Given { ring, .. } => ring.active().id() == next.id(),
        }
    }
}

/// What the sidecars have to be asked.
pub(super) fn question(state: &State, wish: &Wish<'_>) -> Option<Question> {
    if wish.activates(state) {
        return state.ring.next().map(|next| Question::Verifies(next.id().to_owned()));
    }
    let unseen = state.retiring.values().any(Option::is_none);
    unseen.then(|| Question::Signs(state.ring.active().id().to_owned()))
}

/// The next step. `waiting` is what the sidecars said to the question.
pub(super) fn step(
    state: &State,
    wish: &Wish<'_>,
    waiting: Option<Waiting>,
    times: &Times,
    now: Timestamp,
) -> Result<Step, Error> {
    let write = |state: State, change| Ok(Step::Write(Box::new(state), change));
    let consistent = state.consistent(wish.given().is_none(), now);
    if !consistent.is(state) {
        return write(consistent, Change::Noted);
    }
    let ended: Vec<String> = state
        .retiring
        .iter()
        .filter(|(_, since)| is_over(**since, times.overlap, now))
        .map(|(id, _)| id.clone())
        .collect();
    if !ended.is_empty() {
        return write(state.retire(&ended)?, Change::Retired(ended));
    }
    if wish.activates(state) {
        let waiting = waiting.unwrap_or_default();
        let over = |time| is_over(state.next_since, time, now);
        let delivered = || is_over(times.published(state), times.delivery, now);
        // A pod of another namespace may never load it, whatever the reason; its namespace has had the key since then.
        let patient = || is_over(times.published(state), times.patience, now);
        let ready = waiting.lagging.is_empty()
            && (waiting.guests.is_empty() || patient())
            && (waiting.silent.is_empty() || over(times.patience))
            && (waiting.closed.is_empty() || delivered());
        if ready && is_over(times.published(state), times.settle, now) {
            return write(state.activate(wish.given(), some(waiting.bounded()), now)?, Change::Activated);
        }
        return Ok(Step::Rest(Phase::Published(waiting)));
    }
    if let Some(given) = wish.given() {
        if given.active().id() != state.ring.active().id() {
            return write(state.publish(given.active().clone(), now)?, Change::Published);
        }
        let followed = state.follow(given, now)?;
        if !followed.is(state) {
            return write(followed, Change::Followed);
        }
    }
    if state.retiring.values().any(Option::is_none) {
        let waiting = waiting.unwrap_or_default();
        let over = |time| is_over(Some(state.rotated_at), time, now);
        let ready = waiting.answered() && (waiting.closed.is_empty() || over(times.delivery));
        if ready || over(times.patience) {
            let mut passed_over = state.passed_over.clone();
            passed_over.extend(waiting.pods().filter(|pod| !state.passed_over.contains(pod)));
            return write(state.overlap(some(passed_over), now), Change::Noted);
        }
        return Ok(Step::Rest(Phase::Activated(waiting)));
    }
    Ok(asked(state, wish, times, now))
}

/// The step when no rotation goes on: the next one begins, if it is time.
fn asked(state: &State, wish: &Wish<'_>, times: &Times, now: Timestamp) -> Step {
    let until = state.retiring.values().flatten().min().map(|since| later(*since, times.overlap));
    let rest = until.map_or(Phase::Settled, |until| Phase::Overlap { until });
    let request = wish.request();
    let noted = || Box::new(State { rotated_for: request.map(str::to_owned), ..state.clone() });
    let is_new = request.is_some() && request != state.rotated_for.as_deref();
    match (wish, request) {
        // Who takes the annotation away may ask again in the same words.
        (_, None) if state.rotated_for.is_some() => Step::Write(noted(), Change::Noted),
        (Wish::Given { .. }, Some(_)) if is_new => Step::Write(noted(), Change::Refused),
        (Wish::Given { .. }, _) if state.ring.next().is_some() => Step::Rest(Phase::NextPublished),
        (Wish::Given { .. }, _) => Step::Rest(rest),
        (Wish::Made { every, .. }, _) => {
            let due = every.is_some_and(|every| is_over(Some(state.rotated_at), every, now));
            if !is_new && !due {
                return Step::Rest(rest);
            }
            let crowded = until.filter(|_| state.ring.previous().len() >= MAX_PREVIOUS);
            match crowded {
                Some(until) => Step::Rest(Phase::Crowded { until }),
                None => Step::Make(request.map(str::to_owned)),
            }
        }
    }
}

/// As many pods as can be kept by name.
fn some(mut pods: Vec<String>) -> Vec<String> {
    pods.truncate(PASSED_OVER);
    pods
}

/// Whether so much time has passed; never, if it has not begun.
fn is_over(since: Option<Timestamp>, time: Duration, now: Timestamp) -> bool {
    since.is_some_and(|since| now >= later(since, time))
}

/// A point in time and so much.
pub(super) fn later(since: Timestamp, time: Duration) -> Timestamp {
    let time = SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX);
    since.checked_add(time).unwrap_or(Timestamp::MAX)
}

/// The user's key whose id has another material in the ring in force: a ring cannot have both.
pub(super) fn same_id_other_key(state: &State, given: &KeyRing) -> Option<String> {
    let differs = |key: &&Key| state.ring.find(key.id()).is_some_and(|known| known.material() != key.material());
    given.keys().find(differs).map(|key| key.id().to_owned())
}
