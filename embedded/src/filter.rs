//! Clauses as the engine's filter, which has the JSON form of Qdrant's REST interface.

use context_manager_memory::{
    ContextId,
    store::{Bounds, Clause, Clauses},
};
use qdrant_edge::{Filter, PointId};
use serde_json::{Value, json};

use crate::Error;

/// The engine's filter for these clauses.
pub(crate) fn of(clauses: &Clauses) -> Result<Filter, Error> {
    let all = |clauses: &[Clause]| clauses.iter().map(condition).collect::<Vec<_>>();
    serde_json::from_value(json!({"must": all(&clauses.must), "must_not": all(&clauses.must_not)}))
        .map_err(|error| Error::Engine { action: "understand a filter", source: Box::new(error) })
}

pub(crate) fn point_id(id: ContextId) -> PointId {
    PointId::Uuid(id.as_uuid())
}

fn condition(clause: &Clause) -> Value {
    match clause {
        Clause::Keyword(key, value) => json!({"key": key, "match": {"value": value}}),
        Clause::AnyKeyword(key, values) => json!({"key": key, "match": {"any": values}}),
        Clause::Flag(key, flag) => json!({"key": key, "match": {"value": flag}}),
        Clause::Range(key, Bounds { gte, lte, lt }) => json!({"key": key, "range": {"gte": gte, "lte": lte, "lt": lt}}),
        Clause::Empty(key) => json!({"is_empty": {"key": key}}),
        Clause::HasVector(name) => json!({"has_vector": name}),
        Clause::HasId(ids) => json!({"has_id": ids.iter().map(ToString::to_string).collect::<Vec<_>>()}),
        Clause::Any(clauses) => json!({"should": clauses.iter().map(condition).collect::<Vec<_>>()}),
        Clause::All(clauses) => json!({"must": clauses.iter().map(condition).collect::<Vec<_>>()}),
    }
}
