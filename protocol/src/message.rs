//! The messages, in JSON or `MessagePack` by content type. Both write maps with field names, so a field can be added.
//!
//! Requests refuse unknown fields, so that a misspelt one is an error and not a silent default; responses may grow fields.
//! Who asks is never a field of a request: tenant, agent and pod come from the sidecar's own identity. A [`Scope`] says in whose memory
//! the request wants to work.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{duration::HumanDuration, integer, level::Level, problem::Code};

/// Whose memory a request is about. `{}` is the agent's own; another one takes an access rule. The tenant is always the sidecar's.
///
/// ```
/// use context_manager_protocol::message::Scope;
///
/// let space: Scope = serde_json::from_str(r#"{"space": "team"}"#)?;
/// assert_eq!(space.space.as_deref(), Some("team"));
/// assert!(serde_json::from_str::<Scope>(r#"{"tenant": "other"}"#).is_err());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// The memory of this agent of the tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// This shared space of the tenant, a memory that no agent owns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub space: Option<String>,
    /// Only this session of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
}

/// Store one context (`POST /v1/contexts`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ContextStore {
    /// The id; made by the sidecar (UUID version 7) when absent. Storing the same content under the same id again is harmless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    /// What to remember: UTF-8 text, not empty.
    pub text: String,
    /// The level; short-term when absent.
    #[serde(default = "default_level")]
    pub level: Level,
    /// The session it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Who said or did it, such as `user`, `assistant` or a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Free-form values, returned as they are and usable in filters.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
    /// How long it lives; the level's TTL when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<HumanDuration>,
    /// When it happened, as Unix time in milliseconds; now when absent.
    #[serde(default, deserialize_with = "integer::optional", skip_serializing_if = "Option::is_none")]
    pub occurred_at: Option<i64>,
    /// Contexts whose place it takes: they are not found any more, but by their ids and by `as_of`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub supersedes: Vec<Uuid>,
    /// Whose memory; the agent's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
}

const fn default_level() -> Level {
    Level::ShortTerm
}

/// Store several contexts in their order (`POST /v1/contexts/batch`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ContextStoreBatch {
    /// The contexts; all are stored, or none. When another sidecar stores other content under one of their ids in the same moment, that one is
    /// refused (`id-conflict`) and the others may be stored; sending the batch again without it does no harm.
    pub contexts: Vec<ContextStore>,
}

/// What became of one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AckStatus {
    /// Written to the store.
    Stored,
    /// Written to the local journal; it will reach the store.
    Journaled,
    /// Changed.
    Updated,
    /// Gone.
    Deleted,
}

/// The answer to a write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Acknowledgment {
    /// The context's id.
    pub id: Uuid,
    /// What became of the write.
    pub status: AckStatus,
    /// The context's version after it: 1 when new, 0 when a deletion waits in the journal and the sidecar does not know the context.
    pub version: i64,
    /// Its length in tokens.
    pub tokens: usize,
    /// When it expires, as Unix time in milliseconds; absent when it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
}

/// The answer to a batch, in the order of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AcknowledgmentBatch {
    /// One for each context.
    pub acknowledgments: Vec<Acknowledgment>,
}

/// Retrieve within a token budget (`POST /v1/contexts/search`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ContextRequest {
    /// What to look for, in natural language.
    pub query: String,
    /// Most tokens of the answer; the configured default when absent. Signed, so that a negative one gets a clear error.
    #[serde(default, deserialize_with = "integer::optional", skip_serializing_if = "Option::is_none")]
    pub token_budget: Option<i64>,
    /// Most contexts of the answer.
    #[serde(default, deserialize_with = "integer::optional", skip_serializing_if = "Option::is_none")]
    pub limit: Option<i64>,
    /// The levels to search; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub levels: Option<Vec<Level>>,
    /// Only contexts of this session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Only contexts whose metadata match.
    #[serde(default, skip_serializing_if = "Filter::is_empty")]
    pub filter: Filter,
    /// Least score of a returned context; the configured one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_score: Option<f64>,
    /// Search what was so at this time, as Unix time in milliseconds, as far as it was kept.
    #[serde(default, deserialize_with = "integer::optional", skip_serializing_if = "Option::is_none")]
    pub as_of: Option<i64>,
    /// Whose memory; the agent's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// Several memories that are searched together and ranked as one, instead of `scope`; `{}` is the agent's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<Scope>,
    /// Whether each context shows the parts of its score.
    #[serde(default)]
    pub explain: bool,
}

/// Conditions on metadata; all must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Filter(pub BTreeMap<String, Condition>);

impl Filter {
    /// Whether there is no condition.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A condition on one metadata key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Condition {
    /// Equal to this string, number or boolean.
    Eq(Value),
    /// Equal to one of these.
    Any(Vec<Value>),
    /// A number within bounds.
    Range(Range),
}

/// Bounds of a number; at least one must be given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// Greater than.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gt: Option<f64>,
    /// Greater than or equal to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gte: Option<f64>,
    /// Less than.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lt: Option<f64>,
    /// Less than or equal to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lte: Option<f64>,
}

/// The answer to a search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ContextResponse {
    /// The contexts, best first.
    pub contexts: Vec<Retrieved>,
    /// Tokens of all returned contexts; at most `token_budget`.
    pub tokens_used: usize,
    /// The budget that was applied.
    pub token_budget: usize,
    /// Tokens of the returned contexts by level.
    pub tokens_by_level: BTreeMap<Level, usize>,
    /// Contexts that ranked but did not fit.
    pub left_out: Vec<LeftOut>,
    /// What could not take part, such as `embedding`; empty when all did.
    pub degraded: Vec<String>,
}

/// A context with its score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Retrieved {
    /// The context.
    #[serde(flatten)]
    pub context: Context,
    /// Its score; comparable within one answer only.
    pub score: f64,
    /// Whether the text was shortened to fit the budget.
    #[serde(default)]
    pub truncated: bool,
    /// Contexts that say the same and are not shown for it, best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub folded: Vec<Uuid>,
    /// The parts of the score by name, when asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explanation: Option<BTreeMap<String, f64>>,
}

/// A context that ranked but did not fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeftOut {
    /// Its id.
    pub id: Uuid,
    /// Its length in tokens.
    pub tokens: usize,
    /// Its place in the ranking, from 1.
    pub rank: usize,
}

/// A stored context (`GET /v1/contexts/{id}`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Context {
    /// The id.
    pub id: Uuid,
    /// The text.
    pub text: String,
    /// The level.
    pub level: Level,
    /// Whose memory it is of, if it is another agent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The shared space it is of, if it is one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub space: Option<String>,
    /// The agent that wrote what it says, if that is not the one whose memory it is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_by: Option<String>,
    /// The session it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Who said or did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Free-form values.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
    /// Its length in tokens.
    pub tokens: usize,
    /// Counts the changes: 1 when new.
    pub version: i64,
    /// When it happened, as Unix time in milliseconds.
    pub occurred_at: i64,
    /// When it was stored, likewise.
    pub created_at: i64,
    /// When it was last changed, likewise.
    pub updated_at: i64,
    /// When it expires, likewise; absent when it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    /// The contexts whose place it took.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub supersedes: Vec<Uuid>,
    /// The context that took its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded_by: Option<Uuid>,
    /// Until when it was so, as Unix time in milliseconds, if it is not any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<i64>,
    /// The context that this is an earlier version of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_of: Option<Uuid>,
}

/// A page of stored contexts (`GET /v1/contexts`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ContextList {
    /// The contexts, oldest first.
    pub contexts: Vec<Context>,
    /// Where the next page starts; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// What could not take part, such as `store`: only what the sidecar has in memory is listed then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<String>,
}

/// Change a context (`PATCH /v1/contexts/{id}`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ContextUpdate {
    /// The new text; unchanged when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Values to merge; `null` removes a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Map<String, Value>>,
    /// A new TTL, counted from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<HumanDuration>,
    /// Change only if the context has this version.
    #[serde(default, deserialize_with = "integer::optional", skip_serializing_if = "Option::is_none")]
    pub if_version: Option<i64>,
    /// Whose memory; the agent's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
}

/// Delete the contexts that match (`POST /v1/contexts/delete`). All conditions must hold, and there must be at least one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ContextDelete {
    /// Only contexts of this session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Only contexts on these levels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub levels: Option<Vec<Level>>,
    /// Only contexts whose metadata match.
    #[serde(default, skip_serializing_if = "Filter::is_empty")]
    pub filter: Filter,
    /// Only contexts that were stored before this time, as Unix time in milliseconds.
    #[serde(default, deserialize_with = "integer::optional", skip_serializing_if = "Option::is_none")]
    pub created_before: Option<i64>,
    /// Whose memory; the agent's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// Only count what would be deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// The answer to deleting contexts by session (`DELETE /v1/contexts?session=S`) or by conditions (`POST /v1/contexts/delete`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cleared {
    /// How many contexts were deleted, or would be in a dry run; while the deletion waits in the journal, how many of them the sidecar knows itself.
    pub deleted: usize,
    /// Whether the deletion waits in the local journal; it will reach the store.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub journaled: bool,
}

/// A context in an export (`GET /v1/contexts/export`, `GET /v1/tenant/export`), one on each line, with all that makes it the same context
/// elsewhere. Whose it is comes from the import: that of a memory (`POST /v1/contexts/import`) takes all lines for its own, that of a tenant
/// (`POST /v1/tenant/import`) takes each to the memory that the line names. The tenant is always the importing sidecar's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportedContext {
    /// The id.
    pub id: Uuid,
    /// The text.
    pub text: String,
    /// The level.
    pub level: Level,
    /// The agent in whose memory it is; only in the export of a tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The shared space in which it is, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub space: Option<String>,
    /// The agent that wrote what it says, if that is not the one whose memory it is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_by: Option<String>,
    /// The session it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Its place in the session's order.
    #[serde(default)]
    pub sequence: i64,
    /// Who said or did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Free-form values.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
    /// Counts the changes, from 1 on.
    pub version: i64,
    /// When it was stored, as Unix time in milliseconds.
    pub created_at: i64,
    /// When it was last changed, likewise.
    pub updated_at: i64,
    /// When it happened, if that is not when it was stored, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occurred_at: Option<i64>,
    /// When it expires, likewise; absent when it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    /// The contexts whose place it took.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub supersedes: Vec<Uuid>,
    /// The context that took its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded_by: Option<Uuid>,
    /// Until when it was so, as Unix time in milliseconds, if it is not any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<i64>,
    /// The context that this is an earlier version of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_of: Option<Uuid>,
    /// The TTL that was asked for; it outranks the level's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<HumanDuration>,
    /// How often it was returned by a search.
    #[serde(default)]
    pub access_count: i64,
    /// When it was last returned by a search, as Unix time in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accessed_at: Option<i64>,
}

/// The last line of an export. An export without it is not whole; go on after the last context that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExportEnd {
    /// How many contexts came before.
    pub exported: usize,
}

/// The answer to an import (`POST /v1/contexts/import`, `POST /v1/tenant/import`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Imported {
    /// How many lines were dealt with, from the first one on. It is fewer than were sent if there was no time for more: send those
    /// that follow in another request.
    #[serde(default)]
    pub lines_taken: usize,
    /// Contexts that are new.
    pub imported: usize,
    /// Contexts that are there already, perhaps in a later version.
    pub unchanged: usize,
    /// Contexts that have expired since they were exported.
    pub expired: usize,
    /// The first lines that were refused, at most 100; the others were imported.
    pub refused: Vec<RefusedLine>,
    /// How many lines were refused, with those that `refused` does not name.
    #[serde(default)]
    pub refused_total: usize,
}

impl Imported {
    /// Most refused lines that an answer names: a body of ten megabytes has room for millions.
    pub const MOST_NAMED: usize = 100;

    /// Counts a refused line, and names it unless enough lines before it are named.
    ///
    /// ```
    /// use context_manager_protocol::{message::{Imported, RefusedLine}, problem::Code};
    ///
    /// let mut imported = Imported::default();
    /// for line in (1..=1_000).rev() {
    ///     imported.refuse(RefusedLine { line, code: Code::BodyMalformed, detail: String::new() });
    /// }
    /// assert_eq!((imported.refused_total, imported.refused.len(), imported.refused[99].line), (1_000, 100, 100));
    /// ```
    pub fn refuse(&mut self, line: RefusedLine) {
        self.refused_total += 1;
        self.name(line);
    }

    /// Both together.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        let Self { lines_taken, imported, unchanged, expired, refused, refused_total } = other;
        self.lines_taken = self.lines_taken.max(lines_taken);
        self.imported += imported;
        self.unchanged += unchanged;
        self.expired += expired;
        self.refused_total += refused_total;
        for line in refused {
            self.name(line);
        }
        self
    }

    fn name(&mut self, line: RefusedLine) {
        let place = self.refused.partition_point(|named| named.line < line.line);
        if place < Self::MOST_NAMED {
            self.refused.insert(place, line);
            self.refused.truncate(Self::MOST_NAMED);
        }
    }
}

/// A line that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RefusedLine {
    /// Its number, from 1.
    pub line: usize,
    /// The stable code.
    pub code: Code,
    /// What is wrong with it.
    pub detail: String,
}

/// Figures of the caller's memory (`GET /v1/contexts/stats`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Stats {
    /// Contexts that are not expired, by level.
    pub contexts: BTreeMap<Level, usize>,
    /// Bytes of the embedded store's directory; absent for a remote store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// Writes that wait in the local journal for the store.
    #[serde(default)]
    pub journaled_writes: usize,
    /// The embedding model.
    pub embedding_model: String,
    /// Its dimensions.
    pub dimensions: usize,
    /// Contexts that get vectors of this model; absent when all are known to have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub re_embedding: Option<ReEmbedding>,
    /// Seconds since the sidecar started.
    pub uptime_seconds: u64,
}

/// How far contexts have got vectors of the current model. Those without are found by their words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReEmbedding {
    /// What happens at the moment.
    pub state: ReEmbeddingState,
    /// Contexts that are to have them, earlier versions included.
    pub contexts: usize,
    /// Contexts that have them.
    pub done: usize,
    /// Contexts whose text the embedding API refuses.
    pub refused: usize,
}

/// What happens to contexts without vectors of the current model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReEmbeddingState {
    /// The model has just changed, or the store was away at the start: it is not known yet how many lack them, and the numbers say nothing.
    Unknown,
    /// They get them.
    Running,
    /// The embedding API or the store fails; it is tried again.
    Waiting,
    /// All that can have them do.
    Complete,
}
