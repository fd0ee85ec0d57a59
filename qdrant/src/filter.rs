//! Clauses as the server's filter.

use context_manager_memory::{
    ContextId,
    store::{Bounds, Clause, Clauses},
};
use qdrant_client::qdrant::{
    Condition, FieldCondition, Filter, HasIdCondition, HasVectorCondition, IsEmptyCondition, Match, PointId, Range,
    RepeatedStrings, condition::ConditionOneOf, r#match::MatchValue,
};

/// The server's filter for these clauses.
pub(crate) fn of(clauses: &Clauses) -> Filter {
    let all = |clauses: &[Clause]| clauses.iter().map(condition).collect();
    Filter { must: all(&clauses.must), must_not: all(&clauses.must_not), ..Filter::default() }
}

pub(crate) fn point_id(id: ContextId) -> PointId {
    PointId::from(id.to_string())
}

fn condition(clause: &Clause) -> Condition {
    let one = match clause {
        Clause::Keyword(key, value) => matches(key, MatchValue::Keyword(value.clone())),
        Clause::AnyKeyword(key, values) => {
            matches(key, MatchValue::Keywords(RepeatedStrings { strings: values.clone() }))
        }
        Clause::Flag(key, flag) => matches(key, MatchValue::Boolean(*flag)),
        Clause::Range(key, Bounds { gte, lte, lt }) => {
            let range = Range { gte: *gte, lte: *lte, lt: *lt, gt: None };
            ConditionOneOf::Field(FieldCondition { key: key.clone(), range: Some(range), ..FieldCondition::default() })
        }
        Clause::Empty(key) => ConditionOneOf::IsEmpty(IsEmptyCondition { key: key.clone() }),
        Clause::HasVector(name) => ConditionOneOf::HasVector(HasVectorCondition { has_vector: name.clone() }),
        Clause::HasId(ids) => {
            ConditionOneOf::HasId(HasIdCondition { has_id: ids.iter().copied().map(point_id).collect() })
        }
        Clause::Any(clauses) => {
            let should = clauses.iter().map(condition).collect();
            ConditionOneOf::Filter(Filter { should, ..Filter::default() })
        }
        Clause::All(clauses) => {
            let must = clauses.iter().map(condition).collect();
            ConditionOneOf::Filter(Filter { must, ..Filter::default() })
        }
    };
    Condition { condition_one_of: Some(one) }
}

fn matches(key: &str, value: MatchValue) -> ConditionOneOf {
    let matching = Match { match_value: Some(value) };
    ConditionOneOf::Field(FieldCondition { key: key.to_owned(), r#match: Some(matching), ..FieldCondition::default() })
}
