//! How a context lies in a Qdrant collection: vector names, payload fields, indexes, point ids.
//!
//! A remote Qdrant keeps contexts in the same way, so that moving from one to the other is reading and writing.
//!
//! - The **point id** is the context's id, a UUID. Writing a context twice writes one point.
//! - The **payload** is the context's JSON form without its id. What the caller attached lies in the object
//!   [`METADATA`], so no key of a caller can shadow a field of ours. Absent values have no field.
//! - **Times** are integers, Unix milliseconds in UTC: exact, ordered, and comparable without a parser.
//! - The **vectors** are named: two dense ones compared by cosine, two sparse ones whose inverse document frequency the engine
//!   applies. A context without a dense vector (the embedding was down) or without a term has no such vector.

use serde_json::{Map, Value};

use super::InvalidCall;
use crate::{Context, ContextId};

/// Dense vector of the context's own text.
pub const DENSE_SELF: &str = "dense_self";
/// Dense vector of the previous context's text and its own.
pub const DENSE_CTX: &str = "dense_ctx";
/// Sparse vector of the context's own text.
pub const SPARSE_SELF: &str = "sparse_self";
/// Sparse vector of the previous context's text and its own.
pub const SPARSE_CTX: &str = "sparse_ctx";

/// Whose memory it is.
pub const TENANT: &str = "tenant";
/// Which agent's memory it is; absent in a space's.
pub const AGENT: &str = "agent";
/// Which shared space's memory it is; absent in an agent's.
pub const SPACE: &str = "space";
/// The agent that wrote it, if that is not the holder.
pub const WRITTEN_BY: &str = "written_by";
/// The session, if any.
pub const SESSION: &str = "session";
/// The level's name.
pub const LEVEL: &str = "level";
/// The place in the session's order.
pub const SEQUENCE: &str = "sequence";
/// When it was stored.
pub const CREATED_AT: &str = "created_at";
/// When it expires, if ever.
pub const EXPIRES_AT: &str = "expires_at";
/// Since when it is what it says.
pub const UPDATED_AT: &str = "updated_at";
/// Until when it was, if it is not any more.
pub const VALID_UNTIL: &str = "valid_until";
/// How often it was returned.
pub const ACCESS_COUNT: &str = "access_count";
/// When it was last returned.
pub const ACCESSED_AT: &str = "accessed_at";
/// Marks of those who added to the count last, on a server to which several do. No field of a context.
pub const ACCESS_MARKS: &str = "access_marks";
/// How often it was changed, from 1.
pub const VERSION: &str = "version";
/// The context that it is an earlier version of, if it is one.
pub const VERSION_OF: &str = "version_of";
/// What the caller attached.
pub const METADATA: &str = "metadata";

const ID: &str = "id";

/// How a payload field is indexed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Index {
    /// The keyword that keeps tenants apart; points of one tenant lie together.
    Tenant,
    /// Equality of keywords.
    Keyword,
    /// Ranges and order of integers.
    Range,
}

/// The fields that have an index: those that filters and orders of the product use. Each costs time in every flush.
pub const INDEXES: [(&str, Index); 9] = [
    (TENANT, Index::Tenant),
    (AGENT, Index::Keyword),
    (SPACE, Index::Keyword),
    (SESSION, Index::Keyword),
    (LEVEL, Index::Keyword),
    (SEQUENCE, Index::Range),
    (CREATED_AT, Index::Range),
    (EXPIRES_AT, Index::Range),
    (VALID_UNTIL, Index::Range),
];

/// The payload of a context.
///
/// # Errors
/// When the context has no JSON form, which takes a metadata number that JSON does not know.
pub fn payload(context: &Context) -> Result<Map<String, Value>, InvalidCall> {
    // A struct's JSON form is an object; were it another one, this says so without showing it.
    let mut fields: Map<String, Value> = serde_json::to_value(context)
        .and_then(serde_json::from_value)
        .map_err(|source| InvalidCall::Encode { id: context.id, source: source.into() })?;
    fields.remove(ID);
    Ok(fields)
}

/// The context of a payload.
///
/// # Errors
/// When a field is missing or is not what it should be: something else has written to the store.
pub fn context(id: ContextId, mut payload: Map<String, Value>) -> Result<Context, serde_json::Error> {
    payload.insert(ID.to_owned(), Value::String(id.to_string()));
    serde_json::from_value(Value::Object(payload))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
mod tests {
    use super::*;
    use crate::{AgentId, Level, SessionId, SpaceId, TenantId, Timestamp};

    fn sample() -> Context {
        let id = "0191e7f0-0000-7000-8000-000000000001".parse().unwrap();
        let (tenant, agent) = (TenantId::new("t").unwrap(), AgentId::new("a").unwrap());
        let mut context = Context::new(id, tenant, agent, Level::ShortTerm, "tea", Timestamp::from_millis(5));
        context.session = SessionId::new("s").ok();
        context.expires_at = Some(Timestamp::from_millis(9));
        context.accessed_at = Some(Timestamp::from_millis(7));
        context.valid_until = Some(Timestamp::from_millis(8));
        context.version_of = Some(context.id);
        context.metadata = serde_json::from_str(r#"{"tenant": "evil", "deep": {"a": [1, null]}}"#).unwrap();
        context
    }

    #[test]
    fn every_field_that_is_named_here_is_one_of_the_payload() {
        let payload = payload(&sample()).unwrap();
        let indexed = INDEXES.iter().map(|(name, _)| *name).filter(|name| *name != SPACE);
        for name in indexed.chain([ACCESS_COUNT, ACCESSED_AT, UPDATED_AT, VERSION, VERSION_OF, METADATA]) {
            assert!(payload.contains_key(name), "{name}");
        }
        let mut shared = sample();
        shared.holder = SpaceId::new("team").unwrap().into();
        let shared = super::payload(&shared.by(&AgentId::new("a").unwrap())).unwrap();
        assert!(shared.contains_key(SPACE) && shared.contains_key(WRITTEN_BY) && !shared.contains_key(AGENT));
    }

    #[test]
    fn payload_and_context_are_the_same_thing() {
        let context = sample();
        let payload = payload(&context).unwrap();
        assert_eq!(payload[TENANT], "t", "metadata cannot shadow a field");
        assert!(!payload.contains_key("id"));
        assert_eq!(super::context(context.id, payload).unwrap(), context);
    }

    #[test]
    fn foreign_payload_is_an_error_and_not_a_panic() {
        let id = sample().id;
        assert!(super::context(id, Map::new()).is_err());
    }
}
