//! Which contexts a call is about.
//!
//! Owns the selection in the product's terms and its translation to the engine's filter. A selection always names tenant and
//! agent: there is no way to ask for everybody's contexts.

use context_manager_memory::{AgentId, Context, ContextId, Level, SessionId, TenantId, Timestamp};
use qdrant_edge::{Filter, PointId};
use serde_json::{Value, json};

use crate::{Error, schema};

/// Whose contexts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The tenant.
    pub tenant: TenantId,
    /// The agent.
    pub agent: AgentId,
}

impl Owner {
    /// The owner of a context.
    #[must_use]
    pub fn of(context: &Context) -> Self {
        Self { tenant: context.tenant.clone(), agent: context.agent.clone() }
    }

    pub(crate) fn owns(&self, context: &Context) -> bool {
        self.tenant == context.tenant && self.agent == context.agent
    }

    pub(crate) fn conditions(&self) -> Vec<Value> {
        vec![equals(schema::TENANT, self.tenant.as_str()), equals(schema::AGENT, self.agent.as_str())]
    }
}

/// Contexts of which sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sessions {
    /// Of all, and those without one.
    #[default]
    All,
    /// Of one.
    Only(SessionId),
    /// Those without one.
    Without,
}

/// Contexts in which state of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Not expired at this time.
    AliveAt(Timestamp),
    /// Expired at this time.
    ExpiredAt(Timestamp),
    /// Both; only for deleting.
    Any,
}

/// Contexts with which vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dense {
    /// With or without dense vectors.
    #[default]
    Any,
    /// Without: they were stored while the embedding was down.
    Missing,
}

/// Which contexts a call is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// Whose.
    pub owner: Owner,
    /// Alive or expired.
    pub expiry: Expiry,
    /// Of which sessions.
    pub sessions: Sessions,
    /// On which levels; `None` is all of them, an empty list none.
    pub levels: Option<Vec<Level>>,
    /// Stored at this time or later.
    pub created_since: Option<Timestamp>,
    /// Stored before this time.
    pub created_before: Option<Timestamp>,
    /// Returned at least so often.
    pub min_accesses: Option<i64>,
    /// With or without dense vectors.
    pub dense: Dense,
    /// What the caller's metadata must be; all have to hold.
    pub metadata: Vec<Condition>,
}

impl Selection {
    /// All contexts of an owner that are alive at `now`.
    #[must_use]
    pub const fn alive(owner: Owner, now: Timestamp) -> Self {
        Self {
            owner,
            expiry: Expiry::AliveAt(now),
            sessions: Sessions::All,
            levels: None,
            created_since: None,
            created_before: None,
            min_accesses: None,
            dense: Dense::Any,
            metadata: Vec::new(),
        }
    }
}

/// A condition on the caller's metadata.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// The key, or the keys that lead into nested objects.
    pub path: Vec<String>,
    /// What the value must be. A list meets it if one of its entries does.
    pub operator: Operator,
}

/// What a metadata value must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Operator {
    /// This value.
    Equals(Scalar),
    /// One of these values.
    AnyOf(Vec<Scalar>),
    /// None of these values; an absent key has none of them.
    NoneOf(Vec<Scalar>),
    /// A number in this range; a bound that is `None` is open.
    Range {
        /// At least.
        from: Option<f64>,
        /// Less than.
        below: Option<f64>,
    },
    /// There, and neither `null` nor an empty list.
    Exists,
    /// Not there, `null` or an empty list.
    Absent,
}

/// A value that metadata can be compared with.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// A string.
    Text(String),
    /// A number.
    Number(f64),
    /// A truth value.
    Flag(bool),
}

/// The engine's filter for a selection.
pub(crate) fn of(selection: &Selection) -> Result<Filter, Error> {
    let Selection { owner, expiry, sessions, levels, created_since, created_before, min_accesses, dense, metadata } =
        selection;
    let mut must = owner.conditions();
    let mut must_not = Vec::new();
    match expiry {
        Expiry::AliveAt(now) => must_not.push(expired(*now)),
        Expiry::ExpiredAt(now) => must.push(expired(*now)),
        Expiry::Any => {}
    }
    match sessions {
        Sessions::All => {}
        Sessions::Only(session) => must.push(equals(schema::SESSION, session.as_str())),
        Sessions::Without => must.push(empty(schema::SESSION)),
    }
    if let Some(levels) = levels {
        let names: Vec<_> = levels.iter().map(|level| level.as_str()).collect();
        must.push(json!({"key": schema::LEVEL, "match": {"any": names}}));
    }
    if let Some(since) = created_since {
        must.push(json!({"key": schema::CREATED_AT, "range": {"gte": since.as_millis()}}));
    }
    if let Some(before) = created_before {
        must.push(json!({"key": schema::CREATED_AT, "range": {"lt": before.as_millis()}}));
    }
    if let Some(least) = min_accesses {
        must.push(json!({"key": schema::ACCESS_COUNT, "range": {"gte": least}}));
    }
    match dense {
        Dense::Any => {}
        Dense::Missing => must_not.push(json!({"has_vector": schema::DENSE_SELF})),
    }
    for condition in metadata {
        translate(condition, &mut must, &mut must_not)?;
    }
    parse(json!({"must": must, "must_not": must_not}))
}

/// Every context that is expired at `now`, whoever owns it: for the collector of garbage only.
pub(crate) fn expired_of_all(now: Timestamp) -> Result<Filter, Error> {
    parse(json!({"must": [expired(now)]}))
}

/// The owner's contexts among `ids`.
pub(crate) fn owned(owner: &Owner, ids: &[ContextId]) -> Result<Filter, Error> {
    let mut filter = of_owner(owner)?;
    filter.must.get_or_insert_default().push(has_id(ids));
    Ok(filter)
}

/// All contexts of an owner, alive or not.
pub(crate) fn of_owner(owner: &Owner) -> Result<Filter, Error> {
    parse(json!({"must": owner.conditions()}))
}

/// The contexts with these ids.
pub(crate) fn ids(ids: &[ContextId]) -> Filter {
    Filter { must: Some(vec![has_id(ids)]), ..Filter::default() }
}

pub(crate) fn point_id(id: ContextId) -> PointId {
    PointId::Uuid(id.as_uuid())
}

fn has_id(ids: &[ContextId]) -> qdrant_edge::Condition {
    qdrant_edge::Condition::HasId(ids.iter().copied().map(point_id).collect())
}

fn translate(condition: &Condition, must: &mut Vec<Value>, must_not: &mut Vec<Value>) -> Result<(), Error> {
    let key = metadata_key(&condition.path)?;
    let any =
        |values: &[Scalar]| json!({"should": values.iter().map(|value| matches(&key, value)).collect::<Vec<_>>()});
    match &condition.operator {
        Operator::Equals(value) => must.push(matches(&key, value)),
        // "One of nothing" holds for no context, but an empty `should` would hold for all.
        Operator::AnyOf(values) if values.is_empty() => must.push(json!({"has_id": []})),
        Operator::AnyOf(values) => must.push(any(values)),
        Operator::NoneOf(values) if values.is_empty() => {}
        Operator::NoneOf(values) => must_not.push(any(values)),
        Operator::Range { from, below } => must.push(json!({"key": key, "range": {"gte": from, "lt": below}})),
        Operator::Exists => must_not.push(empty(&key)),
        Operator::Absent => must.push(empty(&key)),
    }
    Ok(())
}

/// A number is compared by range, because the engine's equality knows whole numbers only.
fn matches(key: &str, value: &Scalar) -> Value {
    match value {
        Scalar::Text(text) => equals(key, text),
        Scalar::Flag(flag) => json!({"key": key, "match": {"value": flag}}),
        Scalar::Number(number) => json!({"key": key, "range": {"gte": number, "lte": number}}),
    }
}

/// The engine's path of a metadata key; every part is quoted, so that dots and brackets in it mean nothing.
fn metadata_key(path: &[String]) -> Result<String, Error> {
    let unusable = |part: &String| part.is_empty() || part.contains(['"', '\\']);
    if path.is_empty() || path.iter().any(unusable) {
        return Err(Error::MetadataKey { key: path.join(".") });
    }
    Ok(path.iter().fold(schema::METADATA.to_owned(), |key, part| format!("{key}.\"{part}\"")))
}

fn equals(key: &str, value: &str) -> Value {
    json!({"key": key, "match": {"value": value}})
}

fn expired(now: Timestamp) -> Value {
    json!({"key": schema::EXPIRES_AT, "range": {"lte": now.as_millis()}})
}

fn empty(key: &str) -> Value {
    json!({"is_empty": {"key": key}})
}

/// The engine's filters have the JSON form of its REST interface.
fn parse(filter: Value) -> Result<Filter, Error> {
    serde_json::from_value(filter)
        .map_err(|error| Error::Engine { action: "understand a filter", source: Box::new(error) })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
mod tests {
    use super::*;

    #[test]
    fn metadata_keys_are_quoted_and_unusable_ones_refused() {
        assert_eq!(metadata_key(&["a.b[]".to_owned(), "c d".to_owned()]).unwrap(), r#"metadata."a.b[]"."c d""#);
        for path in [vec![], vec![String::new()], vec!["a\"b".to_owned()], vec!["a\\b".to_owned()]] {
            assert!(matches!(metadata_key(&path), Err(Error::MetadataKey { .. })), "{path:?}");
        }
    }
}
