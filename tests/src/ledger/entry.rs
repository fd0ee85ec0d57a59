//! What should be so of a context.

use std::collections::BTreeMap;

use context_manager_protocol::{level::Level, message::Context};

use super::operation::Stored;

/// What should be so of a context.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) text: String,
    pub(super) session: String,
    pub(super) group: String,
    pub(super) superseded: bool,
    /// The sidecar moves it to the next level when the session has too many, as another version.
    pub(super) is_immediate: bool,
    pub(super) life: Life,
    /// From when on it is not there.
    pub(super) expires_at: Option<i64>,
    /// The write that stored it, if that can be sent again without making anything else.
    pub(super) sent: Option<Stored>,
    /// The other sidecar stored it.
    pub(super) is_elsewheres: bool,
    pub(super) version: Version,
    /// Metadata that changes without a version have set.
    pub(super) marks: BTreeMap<String, u64>,
}

/// How long a context should live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// Longer than the suite.
    Long,
    /// It was given little time, and no more since.
    Brief,
    /// The same; but once more was asked for, and not answered before it was over.
    Uncertain,
}

/// Which version a context should have.
#[derive(Clone, Copy, Debug)]
pub(super) enum Version {
    /// This one: each change named the one before, or there was none.
    Exactly(i64),
    /// One for each change that was acknowledged since `first`, and no more than one for each that was sent.
    Counted { first: i64, acknowledged: i64, sent: i64 },
}

impl Entry {
    /// A context as it was stored.
    pub(super) fn new(text: &str, session: &str, group: &str, expires_at: Option<i64>, version: i64) -> Self {
        Self {
            text: text.to_owned(),
            session: session.to_owned(),
            group: group.to_owned(),
            superseded: false,
            is_immediate: false,
            life: Life::Long,
            expires_at,
            sent: None,
            is_elsewheres: false,
            version: Version::Exactly(version),
            marks: BTreeMap::new(),
        }
    }

    /// Whether it can be relied on to be there until it is deleted.
    pub(super) fn lasts(&self) -> bool {
        self.life == Life::Long
    }

    pub(super) fn has_expired(&self, now: i64) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Whether it can be changed with the version that it has.
    pub(super) const fn known_version(&self) -> Option<i64> {
        match self.version {
            Version::Exactly(version) if !self.is_immediate => Some(version),
            Version::Exactly(_) | Version::Counted { .. } => None,
        }
    }

    /// Whether a change was sent since it was stored.
    pub(super) const fn was_changed(&self) -> bool {
        match self.version {
            Version::Exactly(version) => version > 1,
            Version::Counted { .. } => true,
        }
    }

    /// Whether it can be changed without naming a version. Another sidecar's change in between would be a conflict for one that names it.
    pub(super) const fn takes_any_change(&self) -> bool {
        match self.version {
            Version::Exactly(version) => version == 1,
            Version::Counted { .. } => true,
        }
    }

    /// A change that names no version is sent.
    pub(super) fn count_sent(&mut self) {
        if let Version::Exactly(first) = self.version {
            self.version = Version::Counted { first, acknowledged: 0, sent: 0 };
        }
        if let Version::Counted { sent, .. } = &mut self.version {
            *sent += 1;
        }
    }

    /// It was acknowledged.
    pub(super) const fn count_acknowledged(&mut self) {
        if let Version::Counted { acknowledged, .. } = &mut self.version {
            *acknowledged += 1;
        }
    }

    /// What is not so of a context that is there; nothing if all is.
    pub(super) fn difference(&self, found: &Context) -> Option<&'static str> {
        let was_moved = self.is_immediate && found.level != Level::Immediate;
        let is_version = match self.version {
            Version::Exactly(version) => found.version == version || self.is_immediate,
            Version::Counted { first, acknowledged, sent } => {
                let most = first + sent + i64::from(was_moved);
                (first + acknowledged..=most).contains(&found.version)
            }
        };
        let has_marks = self
            .marks
            .iter()
            .all(|(key, mark)| found.metadata.get(key).and_then(serde_json::Value::as_u64) == Some(*mark));
        let ends = match (self.expires_at, found.expires_at) {
            (Some(least), Some(at)) => at >= least,
            (_, None) | (None, Some(_)) => true,
        };
        if found.text != self.text {
            Some("says something else")
        } else if !has_marks {
            Some("lacks metadata")
        } else if !ends {
            Some("ends too soon")
        } else if !is_version {
            Some("has another version")
        } else {
            None
        }
    }
}
