//! Filters: from the message to the engine's, by way of the JSON form of Qdrant's REST interface, which the engine reads.

use qdrant_client::qdrant::{
    self, Condition, FieldCondition, Match, PointId, condition::ConditionOneOf, r#match::MatchValue,
    point_id::PointIdOptions,
};
use qdrant_edge::Filter;
use serde_json::{Value, json};
use tonic::Status;

use crate::convert;

/// The engine's filter.
pub(crate) fn of(filter: &qdrant::Filter) -> Result<Filter, Status> {
    serde_json::from_value(json_of(filter)?).map_err(|error| Status::invalid_argument(format!("filter: {error}")))
}

fn json_of(filter: &qdrant::Filter) -> Result<Value, Status> {
    let qdrant::Filter { should, must, must_not, min_should } = filter;
    if min_should.is_some() {
        return Err(convert::unknown("filter.min_should"));
    }
    let all = |conditions: &[Condition]| conditions.iter().map(condition).collect::<Result<Vec<_>, _>>();
    let mut fields = serde_json::Map::new();
    for (name, conditions) in [("should", should), ("must", must), ("must_not", must_not)] {
        // An empty list is no condition, as in the protocol, where it cannot be told from an absent one.
        if !conditions.is_empty() {
            fields.insert(name.to_owned(), all(conditions)?.into());
        }
    }
    Ok(Value::Object(fields))
}

fn condition(condition: &Condition) -> Result<Value, Status> {
    let one = condition.condition_one_of.as_ref().ok_or_else(|| convert::unknown("an empty condition"))?;
    Ok(match one {
        ConditionOneOf::Field(field) => field_condition(field)?,
        ConditionOneOf::IsEmpty(empty) => json!({"is_empty": {"key": empty.key}}),
        ConditionOneOf::HasVector(vector) => json!({"has_vector": vector.has_vector}),
        ConditionOneOf::HasId(ids) => {
            let ids = ids.has_id.iter().map(point_id).collect::<Result<Vec<_>, _>>()?;
            json!({"has_id": ids})
        }
        ConditionOneOf::Filter(filter) => json_of(filter)?,
        ConditionOneOf::IsNull(_) | ConditionOneOf::Nested(_) | ConditionOneOf::Slice(_) => {
            return Err(convert::unknown("a condition of this kind"));
        }
    })
}

fn point_id(id: &PointId) -> Result<Value, Status> {
    match &id.point_id_options {
        Some(PointIdOptions::Uuid(id)) => Ok(json!(id)),
        Some(PointIdOptions::Num(number)) => Ok(json!(number)),
        None => Err(Status::invalid_argument("a point id is empty")),
    }
}

fn field_condition(field: &FieldCondition) -> Result<Value, Status> {
    let key = &field.key;
    match field {
        FieldCondition { r#match: Some(Match { match_value: Some(value) }), range: None, .. } => {
            let matching = match value {
                MatchValue::Keyword(keyword) => json!({"value": keyword}),
                MatchValue::Keywords(keywords) => json!({"any": keywords.strings}),
                MatchValue::Boolean(flag) => json!({"value": flag}),
                MatchValue::Integer(number) => json!({"value": number}),
                MatchValue::Text(_)
                | MatchValue::Integers(_)
                | MatchValue::ExceptIntegers(_)
                | MatchValue::ExceptKeywords(_)
                | MatchValue::Phrase(_)
                | MatchValue::TextAny(_)
                | MatchValue::Prefix(_)
                | MatchValue::Substring(_) => return Err(convert::unknown("a match of this kind")),
            };
            Ok(json!({"key": key, "match": matching}))
        }
        FieldCondition { r#match: None, range: Some(range), .. } => {
            let qdrant::Range { lt, gt, gte, lte } = range;
            Ok(json!({"key": key, "range": {"lt": lt, "gt": gt, "gte": gte, "lte": lte}}))
        }
        _ => Err(convert::unknown("a field condition of this kind")),
    }
}
