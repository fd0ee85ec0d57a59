//! Contexts and vectors as the server's messages, and back.

use std::collections::HashMap;

use context_manager_memory::{
    Context, ContextId, SparseVector, Vectors,
    store::{DenseNames, InvalidCall, Point, schema},
};
use qdrant_client::{
    Payload,
    qdrant::{
        DenseVector, NamedVectors, PointId, PointStruct, Value, Vector, VectorsOutput, point_id::PointIdOptions,
        vector::Vector as Kind, vector_output::Vector as Output, vectors::VectorsOptions, vectors_output,
    },
};
use serde_json::Map;

use crate::{Error, filter};

pub(crate) fn payload(context: &Context) -> Result<HashMap<String, Value>, Error> {
    Ok(Payload::from(schema::payload(context)?).into())
}

pub(crate) fn row(point: &Point, dense: &DenseNames, dimensions: usize) -> Result<PointStruct, Error> {
    let Point { context, vectors: Vectors { dense_self, dense_ctx, sparse_self, sparse_ctx } } = point;
    let mut vectors = HashMap::new();
    for (name, vector) in [(&dense.own, dense_self), (&dense.with_previous, dense_ctx)] {
        if let Some(vector) = vector {
            check_dense(Some(context.id), vector, dimensions)?;
            vectors.insert(name.clone(), dense_vector(vector));
        }
    }
    for (name, vector) in [(schema::SPARSE_SELF, sparse_self), (schema::SPARSE_CTX, sparse_ctx)] {
        if !vector.is_empty() {
            vectors.insert(name.to_owned(), kind(Kind::Sparse(sparse(Some(context.id), vector)?)));
        }
    }
    Ok(PointStruct {
        id: Some(filter::point_id(context.id)),
        payload: payload(context)?,
        vectors: Some(VectorsOptions::Vectors(NamedVectors { vectors }).into()),
    })
}

pub(crate) fn check_dense(id: Option<ContextId>, vector: &[f32], dimensions: usize) -> Result<(), Error> {
    Ok(InvalidCall::check_dense(id, vector, dimensions, "collection")?)
}

pub(crate) fn sparse(
    id: Option<ContextId>,
    vector: &SparseVector,
) -> Result<qdrant_client::qdrant::SparseVector, Error> {
    InvalidCall::check_sparse(id, vector)?;
    Ok(qdrant_client::qdrant::SparseVector { indices: vector.indices().to_vec(), values: vector.values().to_vec() })
}

/// Points with numbers as ids are not ours.
pub(crate) fn id(id: Option<PointId>) -> Option<ContextId> {
    match id?.point_id_options? {
        PointIdOptions::Uuid(id) => uuid::Uuid::try_parse(&id).ok().map(ContextId::new),
        PointIdOptions::Num(_) => None,
    }
}

/// A payload that is no context must not make the others unreadable, so it is logged and left out.
pub(crate) fn context(point: Option<PointId>, payload: HashMap<String, Value>) -> Option<Context> {
    let id = id(point)?;
    let fields: Map<String, serde_json::Value> =
        payload.into_iter().map(|(key, value)| (key, serde_json::Value::from(value))).collect();
    match schema::context(id, fields) {
        Ok(context) => Some(context),
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            tracing::error!(context.id = %id, error, "A stored payload is not a context");
            None
        }
    }
}

pub(crate) fn vectors(stored: Option<VectorsOutput>, dense: &DenseNames) -> Vectors {
    let mut found = Vectors::default();
    let Some(vectors_output::VectorsOptions::Vectors(named)) = stored.and_then(|stored| stored.vectors_options) else {
        return found;
    };
    for (name, vector) in named.vectors {
        match (name.as_str(), vector.into_vector()) {
            (name, Output::Dense(vector)) if name == dense.own => found.dense_self = Some(vector.data),
            (name, Output::Dense(vector)) if name == dense.with_previous => found.dense_ctx = Some(vector.data),
            (schema::SPARSE_SELF, Output::Sparse(vector)) => found.sparse_self = terms(vector),
            (schema::SPARSE_CTX, Output::Sparse(vector)) => found.sparse_ctx = terms(vector),
            (_, Output::Dense(_) | Output::Sparse(_) | Output::MultiDense(_)) => {}
        }
    }
    found
}

fn terms(vector: qdrant_client::qdrant::SparseVector) -> SparseVector {
    SparseVector::from_pairs(vector.indices.into_iter().zip(vector.values))
}

pub(crate) fn dense_vector(values: &[f32]) -> Vector {
    kind(Kind::Dense(DenseVector { data: values.to_vec() }))
}

fn kind(kind: Kind) -> Vector {
    Vector { vector: Some(kind), ..Vector::default() }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
mod tests {
    use super::*;
    use crate::Failure;

    #[test]
    fn a_vector_of_another_length_is_the_callers_fault_in_the_words_of_a_collection() {
        check_dense(None, &[1.0, 0.0], 2).unwrap();
        let refused = check_dense(None, &[1.0], 2).unwrap_err();
        assert_eq!(refused.to_string(), "a vector of the query has 1 dimensions, but the collection has 2");
        assert!(refused.is_callers() && refused.failure() == Failure::Refused, "{refused:?}");
    }
}
