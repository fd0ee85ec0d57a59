//! The calls about collections.

#![expect(clippy::needless_pass_by_value, reason = "each call takes its message, like the service")]

use qdrant_client::qdrant::{
    CollectionConfig, CollectionExists, CollectionExistsRequest, CollectionExistsResponse, CollectionInfo,
    CollectionOperationResponse, CollectionParams, CollectionStatus, CreateCollection, DeleteCollection,
    GetCollectionInfoRequest, GetCollectionInfoResponse, PayloadSchemaInfo, UpdateCollection,
};
use tonic::Status;

use crate::{
    convert,
    store::{Store, failed},
    strict,
};

#[expect(clippy::unnecessary_wraps, reason = "each call may refuse, this one does not")]
pub(crate) fn collection_exists(
    store: &Store,
    request: CollectionExistsRequest,
) -> Result<CollectionExistsResponse, Status> {
    let exists = store.exists(&request.collection_name);
    Ok(CollectionExistsResponse { result: Some(CollectionExists { exists }), time: 0.0 })
}

pub(crate) fn create(store: &Store, request: CreateCollection) -> Result<CollectionOperationResponse, Status> {
    store.create(request)?;
    Ok(CollectionOperationResponse { result: true, time: 0.0 })
}

pub(crate) fn delete(store: &Store, request: DeleteCollection) -> Result<CollectionOperationResponse, Status> {
    Ok(CollectionOperationResponse { result: store.remove(&request.collection_name)?, time: 0.0 })
}

/// Metadata are merged, and limits of strict mode; nothing else of a collection can be changed here.
pub(crate) fn update(store: &Store, request: UpdateCollection) -> Result<CollectionOperationResponse, Status> {
    let UpdateCollection { collection_name, metadata, strict_mode_config, .. } = request.clone();
    let known = UpdateCollection {
        collection_name: collection_name.clone(),
        metadata,
        strict_mode_config,
        ..UpdateCollection::default()
    };
    if request != known {
        return Err(convert::unknown("a change of anything but a collection's metadata and strict mode"));
    }
    let merge = |made: &mut qdrant_client::qdrant::CreateCollection| {
        made.metadata.extend(known.metadata);
        known.strict_mode_config.map_or(Ok(()), |limits| strict::change(made, limits))
    };
    store.collection(&collection_name)?.redefine(merge)?;
    Ok(CollectionOperationResponse { result: true, time: 0.0 })
}

pub(crate) fn get(store: &Store, request: GetCollectionInfoRequest) -> Result<GetCollectionInfoResponse, Status> {
    let collection = store.collection(&request.collection_name)?;
    let info = collection.engine.info().map_err(failed)?;
    let points = info.points_count as u64;
    let payload_schema = info.payload_schema.into_iter().map(|(field, index)| {
        let data_type = convert::schema_type(index.data_type).into();
        (field.to_string(), PayloadSchemaInfo { data_type, params: None, points: Some(index.points as u64) })
    });
    let made = collection.definition();
    let params = CollectionParams {
        shard_number: made.shard_number.unwrap_or(1),
        vectors_config: made.vectors_config,
        sparse_vectors_config: made.sparse_vectors_config,
        replication_factor: made.replication_factor,
        write_consistency_factor: made.write_consistency_factor,
        ..CollectionParams::default()
    };
    let result = CollectionInfo {
        status: CollectionStatus::Green.into(),
        segments_count: info.segments_count as u64,
        config: Some(CollectionConfig { params: Some(params), metadata: made.metadata, ..CollectionConfig::default() }),
        payload_schema: payload_schema.collect(),
        points_count: Some(points),
        ..CollectionInfo::default()
    };
    Ok(GetCollectionInfoResponse { result: Some(result), time: 0.0 })
}
