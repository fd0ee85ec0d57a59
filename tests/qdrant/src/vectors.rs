//! The calls about vectors alone: a place for new ones, writing and deleting some of a point's.

use qdrant_client::qdrant::{
    CreateCollection, CreateVectorNameRequest, DeletePointVectors, DenseVectorCreationConfig, PointsOperationResponse,
    UpdatePointVectors, VectorParams, VectorParamsMap, create_vector_name_request::VectorConfig as Wanted,
    vectors_config::Config,
};
use qdrant_edge::{
    CreateVectorName, PointVectorsPersisted, UpdateOperation, UpdateVectorsOp, VectorNameOperations, VectorOperations,
};
use serde_json::json;
use tonic::Status;

use crate::{
    convert, filter,
    points::{Selected, operation_response, selected, write},
    store::{Store, failed},
};

pub(crate) fn update_vectors(store: &Store, request: UpdatePointVectors) -> Result<PointsOperationResponse, Status> {
    let collection = store.collection(&request.collection_name)?;
    let points = request.points.into_iter().map(|point| {
        Ok(PointVectorsPersisted { id: convert::point_id(point.id)?, vector: convert::named_vectors(point.vectors)? })
    });
    let operation = VectorOperations::UpdateVectors(UpdateVectorsOp {
        points: points.collect::<Result<_, Status>>()?,
        update_filter: request.update_filter.as_ref().map(filter::of).transpose()?,
    });
    write(&collection, UpdateOperation::VectorOperation(operation))?;
    Ok(operation_response())
}

pub(crate) fn delete_vectors(store: &Store, request: DeletePointVectors) -> Result<PointsOperationResponse, Status> {
    let collection = store.collection(&request.collection_name)?;
    let names = request.vectors.unwrap_or_default().names;
    let operation = match selected(request.points_selector)? {
        Selected::Ids(ids) => VectorOperations::DeleteVectors(ids.into(), names),
        Selected::Filter(filter) => VectorOperations::DeleteVectorsByFilter(filter, names),
    };
    write(&collection, UpdateOperation::VectorOperation(operation))?;
    Ok(operation_response())
}

/// Like the server, it takes the same wish twice and refuses another one under the same name.
pub(crate) fn create_vector_name(
    store: &Store,
    request: CreateVectorNameRequest,
) -> Result<PointsOperationResponse, Status> {
    let collection = store.collection(&request.collection_name)?;
    let name = request.vector_name;
    let Some(Wanted::DenseConfig(DenseVectorCreationConfig { size, distance, .. })) = request.vector_config else {
        return Err(convert::unknown("a new vector that is not dense"));
    };
    let wanted = VectorParams { size, distance, ..VectorParams::default() };
    let is_new = collection.redefine(|made: &mut CreateCollection| {
        let vectors = made.vectors_config.as_mut().and_then(|vectors| vectors.config.as_mut());
        let Some(Config::ParamsMap(VectorParamsMap { map })) = vectors else {
            return Err(convert::unknown("a collection without named vectors"));
        };
        match map.insert(name.clone(), wanted) {
            Some(there) if there != wanted => Err(Status::invalid_argument(format!(
                "Wrong input: Vector `{name}` already exists with a different configuration"
            ))),
            Some(_) | None => Ok(()),
        }
    })?;
    if is_new {
        let config = json!({"dense": {"size": size, "distance": convert::distance(distance)?}});
        let config = serde_json::from_value(config).map_err(failed)?;
        let create = CreateVectorName { vector_name: name, config };
        write(&collection, UpdateOperation::VectorNameOperation(VectorNameOperations::CreateVectorName(create)))?;
    }
    Ok(operation_response())
}
