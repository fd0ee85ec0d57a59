//! The context: one remembered text with everything the product knows about it.
//!
//! Owns the shape of a stored memory. A `Context` is complete and valid; what a caller sends is a protocol message and
//! becomes a `Context` only after [`crate::limits`] has passed it.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Actor, AgentId, Holder, Level, SessionId, TenantId, Timestamp, Ttl};

/// What a caller attaches to a context: a JSON object.
pub type Metadata = serde_json::Map<String, serde_json::Value>;

/// The identity of a context. Made by the client or by the sidecar before the first attempt to store it, so that
/// storing it twice is storing it once.
///
/// ```
/// use context_manager_memory::ContextId;
///
/// let id: ContextId = "0191e7f0-0000-7000-8000-000000000001".parse().unwrap();
/// assert_eq!(id.to_string(), "0191e7f0-0000-7000-8000-000000000001");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContextId(Uuid);

impl ContextId {
    /// Takes a UUID as an identity.
    #[must_use]
    pub const fn new(id: Uuid) -> Self {
        Self(id)
    }

    /// The identity as a UUID.
    #[must_use]
    pub const fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for ContextId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Uuid> for ContextId {
    fn from(id: Uuid) -> Self {
        Self(id)
    }
}

/// A text that is no context id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not a context id; use the UUID that storing the context returned")]
pub struct InvalidContextId {
    /// What was given, cut to a printable length.
    pub given: String,
}

impl std::str::FromStr for ContextId {
    type Err = InvalidContextId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::try_parse(text).map(Self).map_err(|_| InvalidContextId { given: text.chars().take(64).collect() })
    }
}

/// One remembered text.
///
/// ```
/// use context_manager_memory::{AgentId, Context, ContextId, Level, TenantId, Timestamp};
///
/// let now = Timestamp::from_millis(1_700_000_000_000);
/// let id = ContextId::new(uuid::Uuid::from_u128(1));
/// let context = Context::new(id, TenantId::new("team-a")?, AgentId::new("support")?, Level::LongTerm, "Tea, not coffee.", now);
/// assert_eq!(context.version, 1);
/// assert_eq!(context.event_time(), now);
/// # Ok::<(), context_manager_memory::name::InvalidName>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Context {
    /// The identity; kept by every update.
    pub id: ContextId,
    /// Whose memory it is; set from the sidecar's own identity, never from a request.
    pub tenant: TenantId,
    /// Who in the tenant holds it.
    #[serde(flatten)]
    pub holder: Holder,
    /// The agent that wrote what it says; absent when that is the holder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_by: Option<AgentId>,
    /// The conversation or task it belongs to, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// How long it is meant to matter.
    pub level: Level,
    /// Who said or did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<Actor>,
    /// The text as it was stored, verbatim.
    pub text: String,
    /// What the caller attached.
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    pub metadata: Metadata,
    /// Its place in the order of its session, counted from 0 without holes when nothing was deleted.
    pub sequence: i64,
    /// The length of the text in tokens.
    pub tokens: u32,
    /// When it was stored.
    pub created_at: Timestamp,
    /// When text, metadata or TTL were last changed: since then it is what it says. Reading and moving to another level do not count.
    pub updated_at: Timestamp,
    /// When it happened, if that is not when it was stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occurred_at: Option<Timestamp>,
    /// From when on it is never returned; `None` is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// The time to live the caller asked for. It outranks the level's, and such a context is never promoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Ttl>,
    /// The contexts whose place it takes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub supersedes: Vec<ContextId>,
    /// The context that took its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded_by: Option<ContextId>,
    /// Until when it was what it says, if it is not any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<Timestamp>,
    /// The context that this is an earlier version of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_of: Option<ContextId>,
    /// Counts the changes of text, metadata, level or expiry, from 1 on.
    pub version: i64,
    /// How often it was returned by a retrieval.
    #[serde(default)]
    pub access_count: i64,
    /// When it was last returned by a retrieval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accessed_at: Option<Timestamp>,
}

impl Context {
    /// Bytes of what a caller wrote: the text, the metadata as JSON, and the ids of the contexts whose place it takes.
    #[must_use]
    pub fn written_bytes(&self) -> usize {
        let metadata = serde_json::to_vec(&self.metadata).map_or(0, |written| written.len());
        self.text.len() + metadata + self.supersedes.len() * uuid::fmt::Hyphenated::LENGTH
    }

    /// A new context with the least that every context has: version 1, no session, no metadata, never read, kept, and
    /// counted by the default token estimate. Set the other fields before storing it.
    #[must_use]
    pub fn new(
        id: ContextId,
        tenant: TenantId,
        holder: impl Into<Holder>,
        level: Level,
        text: impl Into<String>,
        now: Timestamp,
    ) -> Self {
        let text = text.into();
        Self {
            id,
            tenant,
            holder: holder.into(),
            written_by: None,
            session: None,
            level,
            actor: None,
            tokens: crate::tokens::estimate(&text),
            text,
            metadata: Metadata::new(),
            sequence: 0,
            created_at: now,
            updated_at: now,
            occurred_at: None,
            expires_at: None,
            ttl: None,
            supersedes: Vec::new(),
            superseded_by: None,
            valid_until: None,
            version_of: None,
            version: 1,
            access_count: 0,
            accessed_at: None,
        }
    }

    /// The same context, written by `agent`: that is noted unless it is the holder.
    #[must_use]
    pub fn by(self, agent: &AgentId) -> Self {
        let written_by = (!self.holder.is_agent(agent)).then(|| agent.clone());
        Self { written_by, ..self }
    }

    /// When it happened: the time the caller named, else when it was stored.
    #[must_use]
    pub fn event_time(&self) -> Timestamp {
        self.occurred_at.unwrap_or(self.created_at)
    }

    /// Whether it is what it says now: neither an earlier version nor superseded.
    #[must_use]
    pub const fn is_current(&self) -> bool {
        self.valid_until.is_none()
    }

    /// Whether it was what it says at a time.
    #[must_use]
    pub fn is_valid_at(&self, at: Timestamp) -> bool {
        self.updated_at <= at && self.valid_until.is_none_or(|until| at < until)
    }

    /// The same with the accesses that `stored` counts: they are added beside every other change, and none of those takes them back.
    #[must_use]
    pub fn with_accesses_of(self, stored: &Self) -> Self {
        Self { access_count: stored.access_count, accessed_at: stored.accessed_at, ..self }
    }

    /// Whether it may no longer be returned; see [`crate::expiry::is_expired`].
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        crate::expiry::is_expired(self.expires_at, now)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
pub(crate) mod tests {
    use super::*;

    /// A context for tests: `number` makes its id.
    pub(crate) fn sample(number: u128, level: Level, text: &str) -> Context {
        Context::new(
            ContextId::new(Uuid::from_u128(number)),
            TenantId::new("tenant").unwrap(),
            AgentId::new("agent").unwrap(),
            level,
            text,
            Timestamp::from_millis(1_700_000_000_000),
        )
    }

    #[test]
    fn json_round_trip_keeps_every_field() {
        let mut context = sample(7, Level::ShortTerm, "Buy tea.");
        context.session = Some(SessionId::new("s").unwrap());
        context.actor = Some(Actor::new("Ann").unwrap());
        context.metadata.insert("topic".to_owned(), serde_json::json!({"deep": [1, null]}));
        context.occurred_at = Some(Timestamp::from_millis(1));
        context.expires_at = Some(Timestamp::from_millis(2));
        context.ttl = Ttl::try_from(5).ok();
        context.accessed_at = Some(Timestamp::from_millis(3));
        let json = serde_json::to_string(&context).unwrap();
        assert_eq!(serde_json::from_str::<Context>(&json).unwrap(), context);
    }

    #[test]
    fn the_holder_is_one_field_and_the_author_is_noted_when_it_is_another() {
        let own = sample(7, Level::LongTerm, "x");
        let mut shared = own.clone();
        shared.holder = crate::SpaceId::new("team").unwrap().into();
        let (planner, agent) = (AgentId::new("planner").unwrap(), AgentId::new("agent").unwrap());
        let json = serde_json::to_value(shared.by(&planner)).unwrap();
        assert_eq!((&json["space"], &json["written_by"]), (&"team".into(), &"planner".into()));
        assert!(json.get("agent").is_none(), "who looks for an agent's contexts must not find a space's");
        assert_eq!(own.clone().by(&planner).written_by, Some(planner));
        assert_eq!(own.by(&agent).written_by, None);
    }

    #[test]
    fn absent_options_do_not_appear_in_json() {
        let json = serde_json::to_value(sample(7, Level::LongTerm, "x")).unwrap();
        for key in ["session", "actor", "metadata", "occurred_at", "expires_at", "ttl", "accessed_at", "written_by"] {
            assert!(json.get(key).is_none(), "{key}");
        }
    }

    #[test]
    fn text_metadata_and_superseded_ids_count_as_written() {
        let mut context = sample(7, Level::LongTerm, "tea");
        context.metadata.insert("a".to_owned(), serde_json::json!(1));
        let before = context.written_bytes();
        assert_eq!(before, r#"tea{"a":1}"#.len());
        context.supersedes = vec![context.id; 3];
        assert_eq!(context.written_bytes(), before + 3 * context.id.to_string().len());
    }

    #[test]
    fn id_that_is_no_uuid_is_refused_with_the_remedy() {
        let message = "42".parse::<ContextId>().unwrap_err().to_string();
        assert!(message.contains("42") && message.contains("UUID"), "{message}");
    }
}
