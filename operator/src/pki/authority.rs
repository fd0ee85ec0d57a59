//! The rotation of the CA as a state and its steps; pure but for the making of keys.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    Error, Lifetimes, Validity,
    certificate::{Authority, bundle, earlier, later, not_after},
};

/// Keys of the `Secret`.
mod key {
    /// All certificates to be trusted: what `caBundle` becomes.
    pub(super) const BUNDLE: &str = "ca.crt";
    pub(super) const SIGNING: &str = "tls.crt";
    pub(super) const SIGNING_KEY: &str = "tls.key";
    pub(super) const NEXT: &str = "next.crt";
    pub(super) const NEXT_KEY: &str = "next.key";
    pub(super) const NEXT_SINCE: &str = "next.since";
    pub(super) const PREVIOUS: &str = "previous.crt";
    pub(super) const PREVIOUS_SINCE: &str = "previous.since";
}

/// The CAs there are. The one that signs is always there; a successor that is not yet used, and a predecessor that is not
/// used any more, come and go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Authorities {
    pub(super) signing: Authority,
    pub(super) next: Option<Next>,
    pub(super) previous: Option<Previous>,
}

/// A CA that is trusted and does not sign yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) authority: Authority,
    pub(super) since: Timestamp,
}

/// CAs that are trusted and do not sign any more; their keys are gone. There is more than one when a rotation follows another before the
/// last leaf of the first has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Previous {
    /// The certificates, the newest first.
    pub(super) certificates: String,
    /// Since when the newest of them signs no more.
    pub(super) since: Timestamp,
}

/// So many CAs are trusted at most after they were replaced; another one signs when they are forgotten.
const MOST_PREVIOUS: usize = 4;

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    Keep,
    /// Make a successor and publish it.
    Prepare,
    /// Let the successor sign.
    Promote,
    /// Drop the predecessor.
    Forget,
    /// The CA is not in force, nor is a successor: start again.
    Replace,
}

/// Whether all entries of the configuration are seen to trust the successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Published {
    Everywhere,
    NotYet,
}

impl Previous {
    fn has_room(&self) -> bool {
        bundle(self.certificates.as_bytes()).len() < MOST_PREVIOUS
    }

    /// One more; those before it stay, because leaves of theirs may still live.
    fn with(before: Option<Self>, certificate: &str, since: Timestamp) -> Self {
        let before = before.map(|before| before.certificates).unwrap_or_default();
        let certificates = [certificate, &before].into_iter().map(str::trim_end).filter(|pem| !pem.is_empty());
        Self { certificates: certificates.flat_map(|pem| [pem, "\n"]).collect(), since }
    }
}

impl Authorities {
    pub(super) fn start(now: Timestamp, lifetimes: &Lifetimes) -> Result<Self, Error> {
        let signing = Authority::generate(now, lifetimes.authority)?;
        Ok(Self { signing, next: None, previous: None })
    }

    /// The dates of the one that signs. Its successor is made before `renew_at`, which is when it should sign.
    pub(super) fn validity(&self, lifetimes: &Lifetimes) -> Validity {
        let not_after = self.signing.not_after;
        let prepared = earlier(not_after, lifetimes.renew_before);
        Validity { not_after, renew_at: later(prepared, lifetimes.grace) }
    }

    /// The step that is due.
    pub(super) fn due(&self, now: Timestamp, published: Published, lifetimes: &Lifetimes) -> Step {
        // One that is of the future was made by a replica whose clock ran ahead: the API server trusts nothing that it signs.
        let in_force = self.signing.is_in_force(now);
        match (&self.next, &self.previous) {
            (Some(next), _) if !in_force && next.authority.is_in_force(now) => Step::Promote,
            (Some(_) | None, _) if !in_force => Step::Replace,
            (Some(next), previous)
                if published == Published::Everywhere
                    && now >= later(next.since, lifetimes.grace)
                    && previous.as_ref().is_none_or(Previous::has_room) =>
            {
                Step::Promote
            }
            // Twice the lifetime: a replica may sign with the old one until it has seen the new.
            (_, Some(previous)) if now >= later(previous.since, lifetimes.leaf * 2) => Step::Forget,
            (None, _) if now >= earlier(self.signing.not_after, lifetimes.renew_before) => Step::Prepare,
            (Some(_) | None, _) => Step::Keep,
        }
    }

    /// The step when somebody asks for a new CA: its making comes before all else that is due. A rotation that goes on already is the
    /// answer.
    pub(super) const fn asked(&self, due: Step) -> Step {
        match (&self.next, due) {
            (None, Step::Keep | Step::Forget | Step::Prepare) => Step::Prepare,
            (Some(_), _) | (None, Step::Promote | Step::Replace) => due,
        }
    }

    /// Does a step.
    pub(super) fn advance(self, step: Step, now: Timestamp, lifetimes: &Lifetimes) -> Result<Self, Error> {
        let Self { signing, next, previous } = self;
        Ok(match (step, next) {
            (Step::Prepare, None) => {
                let authority = Authority::generate(now, lifetimes.authority)?;
                Self { signing, next: Some(Next { authority, since: now }), previous }
            }
            (Step::Promote, Some(Next { authority, .. })) => Self {
                signing: authority,
                next: None,
                previous: Some(Previous::with(previous, &signing.certificate, now)),
            },
            (Step::Forget, next) => Self { signing, next, previous: None },
            (Step::Replace, _) => Self::start(now, lifetimes)?,
            (Step::Keep | Step::Prepare | Step::Promote, next) => Self { signing, next, previous },
        })
    }

    /// All certificates to be trusted, the signing one first.
    pub(super) fn bundle(&self) -> String {
        let next = self.next.as_ref().map(|next| next.authority.certificate.as_str());
        let previous = self.previous.as_ref().map(|previous| previous.certificates.as_str());
        let all = [Some(self.signing.certificate.as_str()), next, previous];
        all.into_iter().flatten().flat_map(|pem| [pem.trim_end(), "\n"]).collect()
    }

    /// The CAs after their `Secret` has vanished or was damaged, or has one that is not in force: whoever remembers them keeps them, so that
    /// what is served stays trusted, and lets a successor sign after the usual while. There is nothing to keep of CAs that are not in force.
    pub(super) fn restore(remembered: Option<Self>, now: Timestamp, lifetimes: &Lifetimes) -> Result<Self, Error> {
        match remembered.filter(|found| found.signing.is_in_force(now)) {
            Some(mut found) => {
                found.next = found.next.filter(|next| next.authority.is_in_force(now));
                let step = found.asked(Step::Keep);
                found.advance(step, now, lifetimes)
            }
            None => Self::start(now, lifetimes),
        }
    }

    /// The content of the `Secret`.
    pub(super) fn to_secret(&self) -> BTreeMap<String, String> {
        let Self { signing, next, previous } = self;
        let mut secret = vec![
            (key::BUNDLE, self.bundle()),
            (key::SIGNING, signing.certificate.clone()),
            (key::SIGNING_KEY, signing.key.clone()),
        ];
        if let Some(Next { authority, since }) = next {
            secret.push((key::NEXT, authority.certificate.clone()));
            secret.push((key::NEXT_KEY, authority.key.clone()));
            secret.push((key::NEXT_SINCE, since.to_string()));
        }
        if let Some(Previous { certificates, since }) = previous {
            secret.push((key::PREVIOUS, certificates.clone()));
            secret.push((key::PREVIOUS_SINCE, since.to_string()));
        }
        secret.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// Reads the `Secret` back; an error says what is wrong in words.
    pub(super) fn from_secret(secret: &BTreeMap<String, String>) -> Result<Self, String> {
        let text = |key: &str| secret.get(key).map(String::as_str);
        let since = |key: &str| {
            let value = text(key).ok_or_else(|| format!("{key} is missing"))?;
            value.parse::<Timestamp>().map_err(|error| format!("{key} is not a time ({error})"))
        };
        let pair = |certificate: &str, private: &str| {
            let read = text(certificate).zip(text(private)).map(|(pem, key)| Authority::read(pem, key));
            read.transpose().map_err(|what| format!("{certificate}: {what}"))
        };
        let signing = pair(key::SIGNING, key::SIGNING_KEY)?
            .ok_or_else(|| format!("{} or {} is missing", key::SIGNING, key::SIGNING_KEY))?;
        let next = match pair(key::NEXT, key::NEXT_KEY)? {
            Some(authority) => Some(Next { authority, since: since(key::NEXT_SINCE)? }),
            None => None,
        };
        let previous = match text(key::PREVIOUS) {
            Some(pem) => {
                not_after(pem).map_err(|what| format!("{}: {what}", key::PREVIOUS))?;
                Some(Previous { certificates: pem.to_owned(), since: since(key::PREVIOUS_SINCE)? })
            }
            None => None,
        };
        Ok(Self { signing, next, previous })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pki::certificate::BACKDATED;

    const DAY: Duration = Duration::from_hours(24);

    fn at(days: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + days * 86_400).unwrap()
    }

    fn lifetimes() -> Lifetimes {
        Lifetimes { authority: 100 * DAY, renew_before: 20 * DAY, leaf: DAY, grace: DAY }
    }

    #[test]
    fn who_asks_gets_a_successor_at_once_unless_there_is_one() {
        let lifetimes = lifetimes();
        let state = Authorities::start(at(0), &lifetimes).unwrap();
        for due in [Step::Keep, Step::Forget] {
            assert_eq!(state.asked(due), Step::Prepare);
        }
        assert_eq!(state.asked(Step::Replace), Step::Replace, "there is nothing left to succeed");
        let prepared = state.advance(Step::Prepare, at(1), &lifetimes).unwrap();
        for due in [Step::Keep, Step::Promote] {
            assert_eq!(prepared.asked(due), due);
        }
    }

    #[test]
    fn a_rotation_publishes_before_it_signs_and_forgets_after_the_last_leaf() {
        let lifetimes = lifetimes();
        let mut state = Authorities::start(at(0), &lifetimes).unwrap();
        let first = state.signing.certificate.clone();
        assert_eq!(state.due(at(79), Published::Everywhere, &lifetimes), Step::Keep);
        assert_eq!(state.due(at(80), Published::Everywhere, &lifetimes), Step::Prepare);

        state = state.advance(Step::Prepare, at(80), &lifetimes).unwrap();
        let second = state.next.clone().unwrap().authority.certificate;
        assert_eq!(state.signing.certificate, first, "the new one does not sign yet");
        assert!(state.bundle().contains(first.trim_end()) && state.bundle().contains(second.trim_end()));
        assert_eq!(state.due(at(90), Published::NotYet, &lifetimes), Step::Keep, "not while somebody would refuse it");
        assert_eq!(state.due(at(80), Published::Everywhere, &lifetimes), Step::Keep, "not before the grace is over");
        assert_eq!(state.validity(&lifetimes), Validity { not_after: at(100), renew_at: at(81) });
        assert_eq!(state.due(at(81), Published::Everywhere, &lifetimes), Step::Promote);

        state = state.advance(Step::Promote, at(81), &lifetimes).unwrap();
        assert_eq!(state.signing.certificate, second);
        assert_eq!(state.validity(&lifetimes).renew_at, at(161), "nothing is overdue any more");
        assert!(state.bundle().contains(first.trim_end()), "leaves of the first one still live");
        assert_eq!(state.due(at(82), Published::Everywhere, &lifetimes), Step::Keep);
        assert_eq!(state.due(at(83), Published::Everywhere, &lifetimes), Step::Forget);

        state = state.advance(Step::Forget, at(83), &lifetimes).unwrap();
        assert!(!state.bundle().contains(first.trim_end()));
        assert_eq!(state.due(at(83), Published::Everywhere, &lifetimes), Step::Keep);
    }

    #[test]
    fn an_ended_authority_is_replaced_at_once() {
        let lifetimes = lifetimes();
        let state = Authorities::start(at(0), &lifetimes).unwrap();
        assert_eq!(state.due(at(101), Published::NotYet, &lifetimes), Step::Replace);
        let prepared = state.advance(Step::Prepare, at(85), &lifetimes).unwrap();
        assert_eq!(prepared.due(at(101), Published::NotYet, &lifetimes), Step::Promote);
    }

    #[test]
    fn an_authority_of_the_future_neither_signs_nor_stays() {
        let lifetimes = lifetimes();
        let good = Authorities::start(at(0), &lifetimes).unwrap();
        assert_eq!(good.signing.not_before, earlier(at(0), BACKDATED));
        // By a clock that is two hundred days ahead the CA has ended.
        let ahead = good.clone().advance(Step::Replace, at(200), &lifetimes).unwrap();
        assert_eq!(ahead.due(at(200), Published::NotYet, &lifetimes), Step::Keep);
        assert_eq!(ahead.due(at(1), Published::NotYet, &lifetimes), Step::Replace);
        let restored = Authorities::restore(Some(good.clone()), at(1), &lifetimes).unwrap();
        assert_eq!(restored.signing, good.signing, "a replica that remembers it keeps what is served trusted");
        let anew = Authorities::restore(Some(ahead), at(1), &lifetimes).unwrap();
        assert_eq!(anew.due(at(1), Published::NotYet, &lifetimes), Step::Keep);
        // A successor of that clock does not sign when the CA ends, either.
        let prepared = good.advance(Step::Prepare, at(200), &lifetimes).unwrap();
        assert_eq!(prepared.due(at(101), Published::Everywhere, &lifetimes), Step::Replace);
        assert_eq!(prepared.due(at(200), Published::Everywhere, &lifetimes), Step::Promote);
        let next = Authorities::restore(Some(prepared), at(1), &lifetimes).unwrap().next.unwrap();
        assert!(next.authority.is_in_force(at(1)));
    }

    #[test]
    fn a_rotation_that_follows_another_drops_no_authority_whose_leaves_may_live() {
        let lifetimes = lifetimes();
        let mut state = Authorities::start(at(0), &lifetimes).unwrap();
        let mut replaced = Vec::new();
        let last = i64::try_from(MOST_PREVIOUS).unwrap();
        for day in 0..last {
            replaced.push(state.signing.certificate.clone());
            state = state.advance(Step::Prepare, at(day), &lifetimes).unwrap();
            assert_eq!(state.due(at(day + 1), Published::Everywhere, &lifetimes), Step::Promote);
            state = state.advance(Step::Promote, at(day + 1), &lifetimes).unwrap();
            assert_eq!(Authorities::from_secret(&state.to_secret()).unwrap(), state);
            for certificate in &replaced {
                assert!(state.bundle().contains(certificate.trim_end()), "day {day}");
            }
        }
        state = state.advance(Step::Prepare, at(last), &lifetimes).unwrap();
        assert_eq!(state.due(at(last + 1), Published::Everywhere, &lifetimes), Step::Keep, "the bundle has an end");
        assert_eq!(state.due(at(last + 2), Published::Everywhere, &lifetimes), Step::Forget);
        state = state.advance(Step::Forget, at(last + 2), &lifetimes).unwrap();
        assert_eq!(state.due(at(last + 2), Published::Everywhere, &lifetimes), Step::Promote);
    }

    #[test]
    fn remembered_authorities_outlive_their_secret_and_get_a_successor() {
        let lifetimes = lifetimes();
        let state = Authorities::start(at(0), &lifetimes).unwrap();
        let restored = Authorities::restore(Some(state.clone()), at(1), &lifetimes).unwrap();
        assert!(restored.signing == state.signing && restored.next.is_some());
        assert_eq!(Authorities::restore(Some(restored.clone()), at(2), &lifetimes).unwrap(), restored);
        let after_its_end = Authorities::restore(Some(restored), at(100), &lifetimes).unwrap();
        assert!(after_its_end.signing != state.signing && after_its_end.next.is_none());
    }

    #[test]
    fn every_state_survives_the_way_through_the_secret() {
        let lifetimes = lifetimes();
        let start = Authorities::start(at(0), &lifetimes).unwrap();
        let prepared = start.clone().advance(Step::Prepare, at(80), &lifetimes).unwrap();
        let promoted = prepared.clone().advance(Step::Promote, at(81), &lifetimes).unwrap();
        for state in [start, prepared, promoted] {
            assert_eq!(Authorities::from_secret(&state.to_secret()).unwrap(), state);
        }
    }

    #[test]
    fn a_secret_with_something_else_in_it_is_refused_with_a_reason() {
        let lifetimes = lifetimes();
        let good = Authorities::start(at(0), &lifetimes).unwrap().to_secret();
        let other = Authorities::start(at(0), &lifetimes).unwrap().to_secret();
        let changed = |key: &str, value: Option<&str>| {
            let mut secret = good.clone();
            match value {
                Some(value) => secret.insert(key.to_owned(), value.to_owned()),
                None => secret.remove(key),
            };
            Authorities::from_secret(&secret).unwrap_err()
        };
        assert!(changed("tls.key", None).contains("missing"));
        assert!(changed("tls.crt", Some("hello")).contains("not PEM"));
        assert!(changed("tls.key", Some("hello")).contains("not a private key"));
        assert!(changed("tls.key", Some(&other["tls.key"])).contains("do not belong together"));
    }
}
