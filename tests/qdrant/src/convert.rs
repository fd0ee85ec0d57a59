//! Messages as the engine's types, and back.

use std::collections::HashMap;

use qdrant_client::qdrant::{
    self, CreateCollection, DenseVector, NamedVectorsOutput, PointId, PointStruct, Value, VectorOutput, VectorsOutput,
    WithPayloadSelector, WithVectorsSelector, point_id::PointIdOptions, vector, vector_output, vectors::VectorsOptions,
    vectors_config, vectors_output, with_payload_selector, with_vectors_selector,
};
use qdrant_edge::{
    Distance, EdgeConfig, EdgeOptimizersConfig, EdgeSparseVectorParams, EdgeVectorParams, Modifier, Payload,
    PayloadSchemaType, PointStructPersisted, SparseVector, VectorInternal, VectorPersisted, VectorStructInternal,
    VectorStructPersisted, WithVector,
};
use tonic::Status;

pub(crate) fn unknown(what: &str) -> Status {
    Status::unimplemented(format!("this server does not know {what}"))
}

fn wrong(what: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("Wrong input: {what}"))
}

/// The engine's settings for a collection.
pub(crate) fn engine_config(made: &CreateCollection) -> Result<EdgeConfig, Status> {
    let mut config = EdgeConfig::builder();
    let dense = made.vectors_config.as_ref().and_then(|vectors| vectors.config.as_ref());
    let Some(vectors_config::Config::ParamsMap(dense)) = dense else {
        return Err(unknown("a collection without named vectors"));
    };
    for (name, params) in &dense.map {
        let size = usize::try_from(params.size).map_err(wrong)?;
        config = config.vector(name, EdgeVectorParams::builder(size, distance(params.distance)?).build());
    }
    for (name, params) in made.sparse_vectors_config.iter().flat_map(|vectors| &vectors.map) {
        let params = match params.modifier {
            Some(modifier) if modifier == i32::from(qdrant::Modifier::Idf) => {
                EdgeSparseVectorParams::builder().modifier(Modifier::Idf).build()
            }
            Some(_) | None => EdgeSparseVectorParams::builder().build(),
        };
        config = config.sparse_vector(name, params);
    }
    // Without an approximate index every search is exact, which a suite can rely on.
    let optimizers = EdgeOptimizersConfig { indexing_threshold: Some(0), ..EdgeOptimizersConfig::default() };
    Ok(config.wal_enabled(true).optimizers(optimizers).build())
}

pub(crate) fn distance(number: i32) -> Result<Distance, Status> {
    match qdrant::Distance::try_from(number).map_err(wrong)? {
        qdrant::Distance::Cosine => Ok(Distance::Cosine),
        qdrant::Distance::Dot => Ok(Distance::Dot),
        qdrant::Distance::Euclid => Ok(Distance::Euclid),
        qdrant::Distance::Manhattan => Ok(Distance::Manhattan),
        qdrant::Distance::UnknownDistance => Err(wrong("unknown distance")),
    }
}

pub(crate) fn schema_type(kind: PayloadSchemaType) -> qdrant::PayloadSchemaType {
    match kind {
        PayloadSchemaType::Keyword => qdrant::PayloadSchemaType::Keyword,
        PayloadSchemaType::Integer => qdrant::PayloadSchemaType::Integer,
        PayloadSchemaType::Float => qdrant::PayloadSchemaType::Float,
        PayloadSchemaType::Geo => qdrant::PayloadSchemaType::Geo,
        PayloadSchemaType::Text => qdrant::PayloadSchemaType::Text,
        PayloadSchemaType::Bool => qdrant::PayloadSchemaType::Bool,
        PayloadSchemaType::Datetime => qdrant::PayloadSchemaType::Datetime,
        PayloadSchemaType::Uuid => qdrant::PayloadSchemaType::Uuid,
    }
}

pub(crate) fn point_id(id: Option<PointId>) -> Result<qdrant_edge::PointId, Status> {
    match id.and_then(|id| id.point_id_options) {
        Some(PointIdOptions::Uuid(id)) => Ok(qdrant_edge::PointId::Uuid(id.parse().map_err(wrong)?)),
        Some(PointIdOptions::Num(number)) => Ok(qdrant_edge::PointId::NumId(number)),
        None => Err(wrong("a point id is empty")),
    }
}

pub(crate) fn id_message(id: qdrant_edge::PointId) -> PointId {
    let options = match id {
        qdrant_edge::PointId::Uuid(id) => PointIdOptions::Uuid(id.to_string()),
        qdrant_edge::PointId::NumId(number) => PointIdOptions::Num(number),
    };
    PointId { point_id_options: Some(options) }
}

pub(crate) fn payload(fields: HashMap<String, Value>) -> Payload {
    Payload(fields.into_iter().map(|(key, value)| (key, serde_json::Value::from(value))).collect())
}

pub(crate) fn payload_message(payload: Option<Payload>) -> HashMap<String, Value> {
    let fields = payload.map(|Payload(fields)| fields).unwrap_or_default();
    fields.into_iter().map(|(key, value)| (key, Value::from(value))).collect()
}

pub(crate) fn sparse(vector: qdrant::SparseVector) -> Result<SparseVector, Status> {
    SparseVector::new(vector.indices, vector.values).map_err(wrong)
}

pub(crate) fn row(point: PointStruct) -> Result<PointStructPersisted, Status> {
    let vector = named_vectors(point.vectors)?;
    Ok(PointStructPersisted { id: point_id(point.id)?, vector, payload: Some(payload(point.payload)) })
}

pub(crate) fn named_vectors(vectors: Option<qdrant::Vectors>) -> Result<VectorStructPersisted, Status> {
    let named = match vectors.and_then(|vectors| vectors.vectors_options) {
        Some(VectorsOptions::Vectors(named)) => named.vectors,
        Some(VectorsOptions::Vector(_)) => return Err(unknown("points without named vectors")),
        None => HashMap::new(),
    };
    let mut vectors = HashMap::new();
    for (name, vector) in named {
        let vector = match vector.vector {
            Some(vector::Vector::Dense(DenseVector { data })) => VectorPersisted::Dense(data),
            Some(vector::Vector::Sparse(terms)) => VectorPersisted::Sparse(sparse(terms)?),
            Some(_) | None => return Err(unknown("a vector of this kind")),
        };
        vectors.insert(name, vector);
    }
    Ok(VectorStructPersisted::Named(vectors))
}

pub(crate) fn vectors_message(stored: Option<VectorStructInternal>) -> Option<VectorsOutput> {
    let VectorStructInternal::Named(named) = stored? else { return None };
    let vectors = named.into_iter().filter_map(|(name, vector)| {
        let vector = match vector {
            VectorInternal::Dense(data) => vector_output::Vector::Dense(DenseVector { data }),
            VectorInternal::Sparse(SparseVector { indices, values }) => {
                vector_output::Vector::Sparse(qdrant::SparseVector { values, indices })
            }
            VectorInternal::MultiDense(_) => return None,
        };
        Some((name, VectorOutput { vector: Some(vector), ..VectorOutput::default() }))
    });
    let named = NamedVectorsOutput { vectors: vectors.collect() };
    Some(VectorsOutput { vectors_options: Some(vectors_output::VectorsOptions::Vectors(named)) })
}

/// Whether payloads are asked for; `default` where the protocol leaves it open.
pub(crate) fn with_payload(selector: Option<WithPayloadSelector>, default: bool) -> Result<bool, Status> {
    match selector.and_then(|selector| selector.selector_options) {
        Some(with_payload_selector::SelectorOptions::Enable(enabled)) => Ok(enabled),
        Some(_) => Err(unknown("a selection of payload fields")),
        None => Ok(default),
    }
}

/// Which vectors are asked for.
pub(crate) fn with_vectors(selector: Option<WithVectorsSelector>) -> WithVector {
    match selector.and_then(|selector| selector.selector_options) {
        Some(with_vectors_selector::SelectorOptions::Enable(enabled)) => WithVector::Bool(enabled),
        Some(with_vectors_selector::SelectorOptions::Include(vectors)) => WithVector::Selector(vectors.names),
        None => WithVector::Bool(false),
    }
}
