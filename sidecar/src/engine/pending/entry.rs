//! A write that waits, in the form that the journal's records have.

use context_manager_memory::{
    Context, ContextId, Holder, Metadata, SessionId, Timestamp, Ttl, alike::values_alike, update,
};
use context_manager_protocol::message::ContextDelete;
use serde::{Deserialize, Serialize};

use super::Unreadable;
use crate::engine::within::Within;

/// A write that waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::engine) enum Entry {
    /// New contexts.
    Store {
        /// The contexts; their numbers within the session are provisional.
        contexts: Vec<Context>,
    },
    /// A change of one context.
    Update(Update),
    /// The end of one context.
    Delete(Delete),
    /// The end of a session's contexts.
    Clear(Clear),
    /// The end of the contexts that match.
    DeleteMatching(DeleteMatching),
}

/// A write that waits and brings no new contexts; as a record of the journal it is the same.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::engine) enum Change {
    /// A change of one context.
    Update(Update),
    /// The end of one context.
    Delete(Delete),
    /// The end of a session's contexts.
    Clear(Clear),
    /// The end of the contexts that match.
    DeleteMatching(DeleteMatching),
}

/// What is to be brought to the store first.
#[derive(Debug)]
pub(in crate::engine) enum Oldest {
    /// New contexts, of one or several writes.
    Contexts(Vec<Context>),
    /// A change or a deletion.
    Change(Box<Change>),
    /// What cannot be brought.
    Unreadable(Unreadable),
}

/// A change of one context.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::engine) struct Update {
    /// Which one.
    pub(in crate::engine) id: ContextId,
    /// Whose; the agent's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::engine) holder: Option<Holder>,
    /// The version it had when the change was taken.
    pub(in crate::engine) expected: i64,
    /// What it must still be, if the caller named a version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::engine) if_version: Option<Seen>,
    /// The new text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::engine) text: Option<String>,
    /// Values to merge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::engine) metadata: Option<Metadata>,
    /// A new time to live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::engine) ttl: Option<Ttl>,
    /// When the change was taken.
    pub(in crate::engine) at: Timestamp,
}

/// A version of a context that a caller has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::engine) struct Seen {
    /// Its number, which the caller named.
    pub(in crate::engine) version: i64,
    /// Since when the context says what it says. The number alone would not tell: what waits before may get another one in the store, as a
    /// move to another level takes one, and what another sidecar wrote meanwhile may have this one.
    pub(in crate::engine) since: Timestamp,
}

/// The end of one context.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::engine) struct Delete {
    /// Which one.
    pub(in crate::engine) id: ContextId,
    /// Whose; the agent's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::engine) holder: Option<Holder>,
    /// When.
    pub(in crate::engine) at: Timestamp,
}

/// The end of a session's contexts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::engine) struct Clear {
    /// Which one.
    pub(in crate::engine) session: SessionId,
    /// Where; in the agent's own memory when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::engine) within: Option<Within>,
    /// When.
    pub(in crate::engine) at: Timestamp,
}

/// The end of the contexts that match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::engine) struct DeleteMatching {
    /// Which ones.
    pub(in crate::engine) message: ContextDelete,
    /// Where; in the agent's own memory when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::engine) within: Option<Within>,
    /// When; nothing that was stored later is meant.
    pub(in crate::engine) at: Timestamp,
}

impl Update {
    /// Whether a version of the context is what this change made of it. What says the same since another time is somebody else's; a time to live
    /// would be counted from then.
    pub(in crate::engine) fn is_made_in(&self, context: &Context) -> bool {
        context.version > self.expected && context.updated_at == self.at && self.can_be_seen_in(context)
    }

    /// Whether the context is another one than the caller of the change has named.
    pub(in crate::engine) fn is_outdated_by(&self, context: &Context) -> bool {
        self.if_version.is_some_and(|seen| seen.since != context.updated_at)
    }

    /// What it makes of a context, whatever the caller has named.
    pub(in crate::engine) fn made_of(&self, context: &Context) -> Result<Context, update::VersionConflict> {
        let Self { id: _, holder: _, expected: _, if_version: _, text, metadata, ttl, at } = self;
        let (text, metadata) = (text.clone(), metadata.clone());
        update::apply(context, update::Change { text, metadata, ttl: *ttl, if_version: None }, *at)
    }

    fn can_be_seen_in(&self, context: &Context) -> bool {
        self.text.as_ref().is_none_or(|text| *text == context.text)
            && self.ttl.is_none_or(|ttl| context.ttl == Some(ttl))
            && self.metadata.iter().flatten().all(|(key, value)| {
                if value.is_null() {
                    !context.metadata.contains_key(key)
                } else {
                    context.metadata.get(key).is_some_and(|there| values_alike(there, value))
                }
            })
    }
}

impl Entry {
    pub(super) fn decode(record: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(record)
    }

    /// How many contexts it brings; another write counts as one.
    pub(super) fn contexts(&self) -> usize {
        match self {
            Self::Store { contexts } => contexts.len(),
            Self::Update(_) | Self::Delete(_) | Self::Clear(_) | Self::DeleteMatching(_) => 1,
        }
    }

    /// When it was taken.
    pub(super) fn at(&self) -> Option<Timestamp> {
        match self {
            Self::Store { contexts } => contexts.first().map(|context| context.created_at),
            Self::Update(Update { at, .. })
            | Self::Delete(Delete { at, .. })
            | Self::Clear(Clear { at, .. })
            | Self::DeleteMatching(DeleteMatching { at, .. }) => Some(*at),
        }
    }
}

impl From<Entry> for Oldest {
    fn from(entry: Entry) -> Self {
        let change = match entry {
            Entry::Store { contexts } => return Self::Contexts(contexts),
            Entry::Update(update) => Change::Update(update),
            Entry::Delete(delete) => Change::Delete(delete),
            Entry::Clear(clear) => Change::Clear(clear),
            Entry::DeleteMatching(matching) => Change::DeleteMatching(matching),
        };
        Self::Change(Box::new(change))
    }
}

impl Change {
    /// The context that it names.
    pub(in crate::engine) const fn context(&self) -> Option<ContextId> {
        match self {
            Self::Update(Update { id, .. }) | Self::Delete(Delete { id, .. }) => Some(*id),
            Self::Clear(_) | Self::DeleteMatching(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What earlier versions have written, and what a person reads of what was set aside.
    #[test]
    fn the_form_of_a_record_stays() {
        let id = "\"0191e7f0-0000-7000-8000-000000000001\"";
        for record in [
            format!(r#"{{"update":{{"id":{id},"expected":1,"text":"tea","at":5}}}}"#),
            format!(
                r#"{{"update":{{"id":{id},"expected":2,"if_version":{{"version":2,"since":3}},"text":"tea","at":5}}}}"#
            ),
            format!(r#"{{"delete":{{"id":{id},"holder":{{"space":"kitchen"}},"at":5}}}}"#),
            r#"{"clear":{"session":"s","at":5}}"#.to_owned(),
        ] {
            let entry = Entry::decode(record.as_bytes()).expect("an entry");
            assert_eq!(serde_json::to_string(&entry).expect("JSON"), record);
            let Oldest::Change(change) = entry.into() else { unreachable!("it is a change") };
            assert_eq!(serde_json::to_string(&change).expect("JSON"), record);
        }
    }
}
