//! How the collection is made, and whether one that is there is the same.

use std::collections::HashMap;

use context_manager_memory::store::{
    DenseNames, Model, OnModelChange,
    schema::{self, Index},
};
use qdrant_client::qdrant::{
    CollectionConfig, CollectionInfo, CreateCollection, CreateFieldIndexCollection, Distance, FieldType,
    IntegerIndexParams, KeywordIndexParams, Modifier, PayloadIndexParams, SparseVectorConfig, SparseVectorParams,
    Value, VectorParams, VectorParamsMap, VectorsConfig, payload_index_params::IndexParams, value::Kind,
    vectors_config::Config,
};

use crate::{Error, Options};

/// Keys of the collection's own metadata.
const SCHEMA: &str = "context_manager_schema";
/// The model of the vectors with the plain names.
const MODEL: &str = "context_manager_model";
/// The version of the layout of `context_manager_memory::store::schema`.
const VERSION: i64 = 1;

const DENSE: [&str; 2] = [schema::DENSE_SELF, schema::DENSE_CTX];
const SPARSE: [&str; 2] = [schema::SPARSE_SELF, schema::SPARSE_CTX];

pub(crate) fn new_collection(options: &Options) -> CreateCollection {
    let dense = VectorParams {
        size: options.model.dimensions as u64,
        distance: Distance::Cosine.into(),
        ..VectorParams::default()
    };
    let sparse = SparseVectorParams { modifier: Some(Modifier::Idf.into()), ..SparseVectorParams::default() };
    CreateCollection {
        collection_name: options.collection.clone(),
        vectors_config: Some(VectorsConfig {
            config: Some(Config::ParamsMap(VectorParamsMap {
                map: DENSE.into_iter().map(|name| (name.to_owned(), dense)).collect(),
            })),
        }),
        sparse_vectors_config: Some(SparseVectorConfig {
            map: SPARSE.into_iter().map(|name| (name.to_owned(), sparse)).collect(),
        }),
        shard_number: options.sizing.shards,
        replication_factor: options.sizing.replication_factor,
        write_consistency_factor: options.sizing.write_consistency,
        metadata: HashMap::from([
            (SCHEMA.to_owned(), Value { kind: Some(Kind::IntegerValue(VERSION)) }),
            (MODEL.to_owned(), text(&options.model.name)),
        ]),
        ..CreateCollection::default()
    }
}

/// Where a collection has the dense vectors of the wanted model.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Under these names.
    There(DenseNames),
    /// Nowhere yet; they belong under these names.
    Missing(DenseNames),
}

/// Whether a collection is what [`new_collection`] would have made, for this model or for another one.
pub(crate) fn check(options: &Options, config: Option<&CollectionConfig>) -> Result<Place, Error> {
    let differs = |setting, stored: String, wanted: String| Error::Incompatible {
        collection: options.collection.clone(),
        setting,
        stored,
        wanted,
    };
    let metadata = |key: &str| config.and_then(|config| config.metadata.get(key)).and_then(|value| value.kind.as_ref());
    match metadata(SCHEMA) {
        Some(Kind::IntegerValue(VERSION)) => {}
        Some(Kind::IntegerValue(other)) => {
            return Err(differs("schema version", other.to_string(), VERSION.to_string()));
        }
        _ => {
            let stored = "none (it was not made by Context Manager)".to_owned();
            return Err(differs("schema version", stored, VERSION.to_string()));
        }
    }
    let wanted = &options.model;
    let Some(Kind::StringValue(first)) = metadata(MODEL) else {
        return Err(differs("embedding model", "none".to_owned(), wanted.name.clone()));
    };
    let params = config.and_then(|config| config.params.as_ref());
    let sparse = params.and_then(|params| params.sparse_vectors_config.as_ref());
    for name in SPARSE {
        let modifier = sparse.and_then(|sparse| sparse.map.get(name)).map(|vector| vector.modifier);
        if modifier != Some(Some(Modifier::Idf.into())) {
            return Err(differs("sparse vectors", format!("no {name} with IDF"), SPARSE.join(" and ")));
        }
    }
    let vectors = params.and_then(|params| params.vectors_config.as_ref()).and_then(|vectors| vectors.config.as_ref());
    let Some(Config::ParamsMap(VectorParamsMap { map: vectors })) = vectors else {
        return Err(differs("vectors", "no named ones".to_owned(), DENSE.join(" and ")));
    };
    let plain = DenseNames::default();
    let Some(first_size) = vectors.get(&plain.own).map(|vector| vector.size) else {
        return Err(differs("vectors", format!("no {}", plain.own), DENSE.join(" and ")));
    };
    let fit = |dense: &DenseNames, size: u64| {
        for name in dense.both() {
            let Some(VectorParams { size: stored, distance, .. }) = vectors.get(name) else {
                return Err(differs("vectors", format!("no {name}"), dense.both().join(" and ")));
            };
            if *stored != size {
                return Err(differs("dimensions", format!("{stored} of {name}"), size.to_string()));
            }
            if *distance != i32::from(Distance::Cosine) {
                let stored = Distance::try_from(*distance).map_or("an unknown one", |distance| distance.as_str_name());
                return Err(differs("distance", stored.to_owned(), Distance::Cosine.as_str_name().to_owned()));
            }
        }
        Ok(())
    };
    // Whoever uses the first model must find it as it was, so it is checked for every model.
    fit(&plain, first_size)?;
    let size = wanted.dimensions as u64;
    if (first, first_size) == (&wanted.name, size) {
        return Ok(Place::There(plain));
    }
    let own = DenseNames::of(wanted);
    if own.both().into_iter().all(|name| vectors.contains_key(name)) {
        return fit(&own, size).map(|()| Place::There(own));
    }
    match options.on_model_change {
        OnModelChange::ReEmbed => Ok(Place::Missing(own)),
        OnModelChange::Refuse if *first != wanted.name => {
            Err(differs("embedding model", first.clone(), wanted.name.clone()))
        }
        OnModelChange::Refuse => Err(differs("dimensions", first_size.to_string(), size.to_string())),
    }
}

/// The entry of a collection's metadata that says whose vectors the tagged names are.
pub(crate) fn model_metadata(model: &Model) -> (String, Value) {
    (format!("{MODEL}_{}", model.tag()), text(&model.to_string()))
}

fn text(text: &str) -> Value {
    Value { kind: Some(Kind::StringValue(text.to_owned())) }
}

/// The indexes that a collection does not have yet.
pub(crate) fn missing_indexes(options: &Options, info: &CollectionInfo) -> Vec<CreateFieldIndexCollection> {
    let missing = schema::INDEXES.into_iter().filter(|(name, _)| !info.payload_schema.contains_key(*name));
    missing.map(|(name, index)| field_index(options, name, index)).collect()
}

fn field_index(options: &Options, name: &str, index: Index) -> CreateFieldIndexCollection {
    let (field_type, params) = match index {
        Index::Tenant => {
            let params = KeywordIndexParams { is_tenant: Some(true), ..KeywordIndexParams::default() };
            (FieldType::Keyword, IndexParams::KeywordIndexParams(params))
        }
        Index::Keyword => (FieldType::Keyword, IndexParams::KeywordIndexParams(KeywordIndexParams::default())),
        Index::Range => {
            let params = IntegerIndexParams { lookup: Some(false), range: Some(true), ..IntegerIndexParams::default() };
            (FieldType::Integer, IndexParams::IntegerIndexParams(params))
        }
    };
    CreateFieldIndexCollection {
        collection_name: options.collection.clone(),
        wait: Some(true),
        field_name: name.to_owned(),
        field_type: Some(field_type.into()),
        field_index_params: Some(PayloadIndexParams { index_params: Some(params) }),
        ..CreateFieldIndexCollection::default()
    }
}
