//! A key ring and how far its rotation is. All of it stands in the ring's Secret, in the file and in annotations, so that whoever
//! leads after a crash goes on where it stopped. Pure.

use std::collections::BTreeMap;

use context_manager_protocol::keyring::{Error, Key, KeyRing};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

use crate::controller::build;

/// Annotation of the key ring: since when its `next` key is published.
const NEXT_SINCE: &str = "contextmanager.dev/next-since";
/// Annotation of the key ring: its `previous` keys that the operator retires, each with the beginning of its overlap.
const RETIRING: &str = "contextmanager.dev/retiring";
/// Annotation of the key ring: the value of the annotation `rotate` that was carried out.
const ROTATED_FOR: &str = "contextmanager.dev/rotated-for";
/// Annotation of the key ring: pods that could not be asked when the active key began to sign.
const PASSED_OVER: &str = "contextmanager.dev/passed-over";
/// Clocks of two replicas may differ by so much.
const SKEW_SECONDS: i64 = 30;

/// A key ring and how far its rotation is.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// The keys.
    pub(super) ring: KeyRing,
    /// Since when the active key signs.
    pub(super) rotated_at: Timestamp,
    /// Since when the next key is published.
    pub(super) next_since: Option<Timestamp>,
    /// Previous keys that the operator retires, each with the beginning of its overlap: `None` until the sidecars know that it is
    /// replaced. Previous keys that are not here belong to the user, who retires them.
    pub(super) retiring: BTreeMap<String, Option<Timestamp>>,
    /// The request that was carried out.
    pub(super) rotated_for: Option<String>,
    /// Pods that could not be asked when the active key began to sign.
    pub(super) passed_over: Vec<String>,
}

impl State {
    /// All annotations that say how far a rotation is.
    pub(super) const ANNOTATIONS: [&str; 5] = [build::ROTATED_AT, NEXT_SINCE, RETIRING, ROTATED_FOR, PASSED_OVER];

    /// A ring that nobody has used yet.
    pub(super) const fn new(ring: KeyRing, now: Timestamp, request: Option<String>) -> Self {
        Self {
            ring,
            rotated_at: now,
            next_since: None,
            retiring: BTreeMap::new(),
            rotated_for: request,
            passed_over: Vec::new(),
        }
    }

    /// What the Secret says of its ring. What somebody made unreadable counts as not said.
    pub(super) fn read(ring: KeyRing, secret: &Secret, now: Timestamp) -> Self {
        let annotation = |name: &str| secret.metadata.annotations.as_ref()?.get(name).map(String::as_str);
        let time = |name: &str| annotation(name).and_then(|text| text.parse::<Timestamp>().ok());
        let made = secret.metadata.creation_timestamp.as_ref().map(|made| made.0);
        Self {
            ring,
            rotated_at: time(build::ROTATED_AT).or(made).unwrap_or(now),
            next_since: time(NEXT_SINCE),
            retiring: annotation(RETIRING).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default(),
            rotated_for: annotation(ROTATED_FOR).map(str::to_owned),
            passed_over: annotation(PASSED_OVER)
                .map_or_else(Vec::new, |text| text.split(',').map(str::to_owned).collect()),
        }
    }

    /// The annotations of the Secret.
    pub(super) fn annotations(&self) -> BTreeMap<String, String> {
        let Self { ring: _, rotated_at, next_since, retiring, rotated_for, passed_over } = self;
        let retiring = (!retiring.is_empty()).then(|| serde_json::json!(retiring).to_string());
        let passed_over = (!passed_over.is_empty()).then(|| passed_over.join(","));
        let all = [
            (build::ROTATED_AT, Some(rotated_at.to_string())),
            (NEXT_SINCE, next_since.map(|since| since.to_string())),
            (RETIRING, retiring),
            (ROTATED_FOR, rotated_for.clone()),
            (PASSED_OVER, passed_over),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }

    /// The same with what contradicts itself put right, whoever did it: a hand, an older version, a clock that was set back.
    /// `ours` says whether the operator retires every previous key.
    pub(super) fn consistent(&self, ours: bool, now: Timestamp) -> Self {
        let soon = now.as_second().saturating_add(SKEW_SECONDS);
        let past = |time: Timestamp| if time.as_second() > soon { now } else { time };
        let previous = || self.ring.previous().iter().map(Key::id);
        let retiring = previous().filter_map(|id| match self.retiring.get(id) {
            Some(since) => Some((id.to_owned(), since.map(past))),
            None => ours.then(|| (id.to_owned(), None)),
        });
        Self {
            ring: self.ring.clone(),
            rotated_at: past(self.rotated_at),
            next_since: self.ring.next().map(|_| self.next_since.map_or(now, past)),
            retiring: retiring.collect(),
            rotated_for: self.rotated_for.clone(),
            passed_over: self.passed_over.clone(),
        }
    }

    /// Whether both say the same.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.annotations() == other.annotations() && self.ring.to_json() == other.ring.to_json()
    }

    /// With a key that verifies from now on and does not sign yet.
    pub(super) fn publish(&self, key: Key, now: Timestamp) -> Result<Self, Error> {
        let others = self.ring.previous().iter().filter(|previous| previous.id() != key.id()).cloned().collect();
        let retiring = self.retiring.iter().filter(|(id, _)| id.as_str() != key.id());
        Ok(Self {
            retiring: retiring.map(|(id, since)| (id.clone(), *since)).collect(),
            ring: KeyRing::with(self.ring.active().clone(), Some(key), others)?,
            next_since: Some(now),
            ..self.clone()
        })
    }

    /// With the next key as the one that signs, beside what the user's ring says, if it is the user's.
    pub(super) fn activate(
        &self,
        given: Option<&KeyRing>,
        passed_over: Vec<String>,
        now: Timestamp,
    ) -> Result<Self, Error> {
        let Some(active) = self.ring.next().cloned() else { return Ok(self.clone()) };
        let replaced = self.ring.active();
        let given_keys: Vec<&str> = given.into_iter().flat_map(KeyRing::keys).map(Key::id).collect();
        let mut retiring = self.retiring.clone();
        retiring.insert(replaced.id().to_owned(), None);
        retiring.retain(|id, _| !given_keys.contains(&id.as_str()));
        let kept = std::iter::once(replaced).chain(self.ring.previous()).filter(|key| retiring.contains_key(key.id()));
        let (next, listed) = given.map_or((None, &[][..]), |given| (given.next().cloned(), given.previous()));
        let previous = listed.iter().chain(kept).cloned().collect();
        let next_since = next.is_some().then_some(now);
        let ring = KeyRing::with(active, next, previous)?;
        Ok(Self { ring, rotated_at: now, next_since, retiring, rotated_for: self.rotated_for.clone(), passed_over })
    }

    /// With the rest of the user's ring, whose active key signs already. Keys that it does not list and that are being replaced stay
    /// for their overlap.
    pub(super) fn follow(&self, given: &KeyRing, now: Timestamp) -> Result<Self, Error> {
        let listed = |key: &Key| given.find(key.id()).is_some();
        let kept = self.ring.previous().iter().filter(|key| self.retiring.contains_key(key.id()) && !listed(key));
        let previous = given.previous().iter().chain(kept).cloned().collect();
        let ring = KeyRing::with(self.ring.active().clone(), given.next().cloned(), previous)?;
        let same = ring.next().map(Key::id) == self.ring.next().map(Key::id);
        let next_since = ring.next().map(|_| self.next_since.filter(|_| same).unwrap_or(now));
        let retiring = self.retiring.iter().filter(|(id, _)| given.find(id).is_none());
        let retiring = retiring.map(|(id, since)| (id.clone(), *since)).collect();
        Ok(Self { ring, next_since, retiring, ..self.clone() })
    }

    /// The ring without the keys that the operator retires: what a user's ring says of which no more is known.
    pub(super) fn taken_over(&self) -> Result<KeyRing, Error> {
        let listed = self.ring.previous().iter().filter(|key| !self.retiring.contains_key(key.id())).cloned().collect();
        KeyRing::with(self.ring.active().clone(), self.ring.next().cloned(), listed)
    }

    /// With the overlap of every replaced key begun.
    pub(super) fn overlap(&self, passed_over: Vec<String>, now: Timestamp) -> Self {
        let retiring = self.retiring.iter().map(|(id, since)| (id.clone(), Some(since.unwrap_or(now)))).collect();
        Self { retiring, passed_over, ..self.clone() }
    }

    /// Without these keys.
    pub(super) fn retire(&self, ids: &[String]) -> Result<Self, Error> {
        let stays = |id: &str| !ids.iter().any(|gone| gone == id);
        let previous = self.ring.previous().iter().filter(|key| stays(key.id())).cloned().collect();
        let retiring: BTreeMap<_, _> =
            self.retiring.iter().filter(|(id, _)| stays(id)).map(|(id, since)| (id.clone(), *since)).collect();
        let passed_over = if retiring.is_empty() { Vec::new() } else { self.passed_over.clone() };
        let ring = KeyRing::with(self.ring.active().clone(), self.ring.next().cloned(), previous)?;
        Ok(Self { ring, retiring, passed_over, ..self.clone() })
    }
}
