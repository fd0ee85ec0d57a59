//! How the collection is made, and whether one that is there is the same.

use std::collections::HashMap;

use context_manager_memory::store::schema::{self, Index};
use qdrant_client::qdrant::{
    CollectionConfig, CollectionInfo, CreateCollection, CreateFieldIndexCollection, Distance, FieldType,
    IntegerIndexParams, KeywordIndexParams, Modifier, PayloadIndexParams, SparseVectorConfig, SparseVectorParams,
    Value, VectorParams, VectorParamsMap, VectorsConfig, payload_index_params::IndexParams, value::Kind,
    vectors_config::Config,
};

use crate::{Error, Options};

/// Keys of the collection's own metadata.
const SCHEMA: &str = "context_manager_schema";
const MODEL: &str = "context_manager_model";
/// The version of the layout of `context_manager_memory::store::schema`.
const VERSION: i64 = 1;

const DENSE: [&str; 2] = [schema::DENSE_SELF, schema::DENSE_CTX];
const SPARSE: [&str; 2] = [schema::SPARSE_SELF, schema::SPARSE_CTX];

pub(crate) fn new_collection(options: &Options) -> CreateCollection {
    let dense =
        VectorParams { size: options.dimensions as u64, distance: Distance::Cosine.into(), ..VectorParams::default() };
    let sparse = SparseVectorParams { modifier: Some(Modifier::Idf.into()), ..SparseVectorParams::default() };
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
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
            (MODEL.to_owned(), text(&options.model)),
        ]),
        ..CreateCollection::default()
    }
}

/// Whether a collection is what [`new_collection`] would have made.
pub(crate) fn check(options: &Options, config: Option<&CollectionConfig>) -> Result<(), Error> {
    let differs = |setting, stored: String, wanted: String| {
        Err(Error::Incompatible { collection: options.collection.clone(), setting, stored, wanted })
    };
    let metadata = |key: &str| config.and_then(|config| config.metadata.get(key)).and_then(|value| value.kind.as_ref());
    match metadata(SCHEMA) {
        Some(Kind::IntegerValue(VERSION)) => {}
        Some(Kind::IntegerValue(other)) => return differs("schema version", other.to_string(), VERSION.to_string()),
        _ => {
            return differs(
                "schema version",
                "none (it was not made by Context Manager)".to_owned(),
                VERSION.to_string(),
            );
        }
    }
    match metadata(MODEL) {
        Some(Kind::StringValue(model)) if *model == options.model => {}
        Some(Kind::StringValue(model)) => return differs("embedding model", model.clone(), options.model.clone()),
        _ => return differs("embedding model", "none".to_owned(), options.model.clone()),
    }
    let params = config.and_then(|config| config.params.as_ref());
    let vectors = params.and_then(|params| params.vectors_config.as_ref()).and_then(|vectors| vectors.config.as_ref());
    for name in DENSE {
        let Some(Config::ParamsMap(VectorParamsMap { map })) = vectors else {
            return differs("vectors", "no named ones".to_owned(), DENSE.join(" and "));
        };
        let Some(VectorParams { size, distance, .. }) = map.get(name) else {
            return differs("vectors", format!("no {name}"), DENSE.join(" and "));
        };
        if *size != options.dimensions as u64 {
            return differs("dimensions", size.to_string(), options.dimensions.to_string());
        }
        if *distance != i32::from(Distance::Cosine) {
            let stored = Distance::try_from(*distance).map_or("an unknown one", |distance| distance.as_str_name());
            return differs("distance", stored.to_owned(), Distance::Cosine.as_str_name().to_owned());
        }
    }
    let sparse = params.and_then(|params| params.sparse_vectors_config.as_ref());
    for name in SPARSE {
        let modifier = sparse.and_then(|sparse| sparse.map.get(name)).map(|vector| vector.modifier);
        if modifier != Some(Some(Modifier::Idf.into())) {
            return differs("sparse vectors", format!("no {name} with IDF"), SPARSE.join(" and "));
        }
    }
    Ok(())
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
