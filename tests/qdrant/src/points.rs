//! The calls about points. Every write is applied and in the engine's log when it is answered.

use qdrant_client::qdrant::{
    BatchResult, CountPoints, CountResponse, CountResult, CreateFieldIndexCollection, DeletePoints, FieldType,
    GetPoints, GetResponse, PointsOperationResponse, PointsSelector, QueryBatchPoints, QueryBatchResponse, QueryPoints,
    RetrievedPoint, ScrollPoints, ScrollResponse, SetPayloadPoints, UpdateBatchPoints, UpdateBatchResponse, UpdateMode,
    UpdateResult, UpdateStatus, UpsertPoints,
    payload_index_params::IndexParams,
    points_selector::PointsSelectorOneOf,
    points_update_operation::{Operation, SetPayload},
    query, start_from, vector_input,
};
use qdrant_edge::{
    ConditionalInsertOperation, CountRequest, CreateIndex, Direction, FieldIndexOperations, Filter, IdfCorpusParams,
    IdfParams, IntegerIndexParamsBuilder, KeywordIndexParamsBuilder, NamedQuery, OperationError, OrderBy,
    OrderByInterface, PayloadFieldSchema, PayloadOps, PayloadSchemaParams, PayloadSchemaType, PointId,
    PointInsertOperations, PointOperations, QueryBatchRequest, QueryEnum, QueryRequest, Record, RetrieveRequest,
    ScoredPoint, ScoringQuery, ScrollRequest, SearchParams, SetPayloadOp, StartFrom, UpdateOperation, VectorInternal,
    WithPayloadInterface,
};
use tonic::Status;

use crate::{
    convert, filter,
    store::{Collection, Store, failed},
    strict,
};

pub(crate) use crate::vectors::{create_vector_name, delete_vectors, update_vectors};

/// What the protocol returns when a caller names no limit.
const DEFAULT_LIMIT: usize = 10;

pub(crate) fn upsert(store: &Store, request: UpsertPoints) -> Result<PointsOperationResponse, Status> {
    let collection = store.collection(&request.collection_name)?;
    strict::check(&collection, &request)?;
    let rows = request.points.into_iter().map(convert::row).collect::<Result<_, _>>()?;
    let insert = PointInsertOperations::PointsList(rows);
    let update_mode = match request.update_mode.map(UpdateMode::try_from).transpose().map_err(invalid)? {
        Some(UpdateMode::InsertOnly) => qdrant_edge::UpdateMode::InsertOnly,
        Some(UpdateMode::UpdateOnly) => qdrant_edge::UpdateMode::UpdateOnly,
        Some(UpdateMode::Upsert) | None => qdrant_edge::UpdateMode::Upsert,
    };
    let operation = match request.update_filter {
        None if update_mode == qdrant_edge::UpdateMode::Upsert => PointOperations::UpsertPoints(insert),
        condition => PointOperations::UpsertPointsConditional(ConditionalInsertOperation {
            points_op: insert,
            condition: condition.as_ref().map(filter::of).transpose()?.unwrap_or_default(),
            update_mode: Some(update_mode),
        }),
    };
    write(&collection, UpdateOperation::PointOperation(operation))?;
    Ok(operation_response())
}

pub(crate) fn delete(store: &Store, request: DeletePoints) -> Result<PointsOperationResponse, Status> {
    let collection = store.collection(&request.collection_name)?;
    let operation = match selected(request.points)? {
        Selected::Ids(ids) => PointOperations::DeletePoints { ids },
        Selected::Filter(filter) => PointOperations::DeletePointsByFilter(filter),
    };
    write(&collection, UpdateOperation::PointOperation(operation))?;
    Ok(operation_response())
}

pub(crate) fn overwrite_payload(store: &Store, request: SetPayloadPoints) -> Result<PointsOperationResponse, Status> {
    let collection = store.collection(&request.collection_name)?;
    if request.key.is_some() {
        return Err(convert::unknown("payload keys"));
    }
    let operation = PayloadOps::OverwritePayload(payload_operation(request.payload, request.points_selector)?);
    write(&collection, UpdateOperation::PayloadOperation(operation))?;
    Ok(operation_response())
}

pub(crate) fn update_batch(store: &Store, request: UpdateBatchPoints) -> Result<UpdateBatchResponse, Status> {
    let collection = store.collection(&request.collection_name)?;
    let mut result = Vec::with_capacity(request.operations.len());
    for operation in request.operations {
        let Some(Operation::SetPayload(SetPayload { payload, points_selector, key: None, .. })) = operation.operation
        else {
            return Err(convert::unknown("an operation of this kind in a batch"));
        };
        let operation = PayloadOps::SetPayload(payload_operation(payload, points_selector)?);
        write(&collection, UpdateOperation::PayloadOperation(operation))?;
        result.push(applied());
    }
    Ok(UpdateBatchResponse { result, ..UpdateBatchResponse::default() })
}

pub(crate) fn create_field_index(
    store: &Store,
    request: CreateFieldIndexCollection,
) -> Result<PointsOperationResponse, Status> {
    let collection = store.collection(&request.collection_name)?;
    let params = request.field_index_params.and_then(|params| params.index_params);
    let kind = request.field_type.map(FieldType::try_from).transpose().map_err(invalid)?;
    let schema = match (kind, params) {
        (Some(FieldType::Keyword), Some(IndexParams::KeywordIndexParams(params))) => {
            let index = KeywordIndexParamsBuilder::new();
            let index = if params.is_tenant == Some(true) { index.is_tenant(true) } else { index };
            PayloadSchemaParams::Keyword(index.build())
        }
        (Some(FieldType::Integer), Some(IndexParams::IntegerIndexParams(params))) => {
            let (lookup, range) = (params.lookup.unwrap_or(true), params.range.unwrap_or(true));
            PayloadSchemaParams::Integer(IntegerIndexParamsBuilder::new().lookup(lookup).range(range).build())
        }
        (Some(FieldType::Datetime), _) => {
            return create_index(&collection, &request.field_name, PayloadSchemaType::Datetime.into());
        }
        _ => return Err(convert::unknown("an index of this kind")),
    };
    create_index(&collection, &request.field_name, PayloadFieldSchema::FieldParams(schema))
}

fn create_index(
    collection: &Collection,
    field: &str,
    schema: PayloadFieldSchema,
) -> Result<PointsOperationResponse, Status> {
    let index = CreateIndex { field_name: path(field)?, field_schema: Some(schema) };
    write(collection, UpdateOperation::FieldIndexOperation(FieldIndexOperations::CreateIndex(index)))?;
    Ok(operation_response())
}

pub(crate) fn get(store: &Store, request: GetPoints) -> Result<GetResponse, Status> {
    let collection = store.collection(&request.collection_name)?;
    let request = RetrieveRequest {
        point_ids: request.ids.into_iter().map(|id| convert::point_id(Some(id))).collect::<Result<_, _>>()?,
        with_payload: Some(WithPayloadInterface::Bool(convert::with_payload(request.with_payload, true)?)),
        with_vector: Some(convert::with_vectors(request.with_vectors)),
    };
    let records = collection.engine.retrieve(request).map_err(refused)?;
    Ok(GetResponse { result: records.into_iter().map(record).collect(), ..GetResponse::default() })
}

pub(crate) fn scroll(store: &Store, request: ScrollPoints) -> Result<ScrollResponse, Status> {
    let collection = store.collection(&request.collection_name)?;
    let order = request.order_by.map(|order| {
        let descending = order.direction == Some(qdrant_client::qdrant::Direction::Desc.into());
        let start_from = match order.start_from.and_then(|from| from.value) {
            Some(start_from::Value::Integer(number)) => Some(StartFrom::Integer(number)),
            Some(_) => return Err(convert::unknown("a start of this kind")),
            None => None,
        };
        let direction = Some(if descending { Direction::Desc } else { Direction::Asc });
        Ok(OrderByInterface::Struct(OrderBy { key: path(&order.key)?, direction, start_from }))
    });
    let request = ScrollRequest {
        offset: request.offset.map(|id| convert::point_id(Some(id))).transpose()?,
        limit: Some(request.limit.map_or(DEFAULT_LIMIT, |limit| limit as usize)),
        filter: request.filter.as_ref().map(filter::of).transpose()?,
        with_payload: Some(WithPayloadInterface::Bool(convert::with_payload(request.with_payload, true)?)),
        with_vector: convert::with_vectors(request.with_vectors),
        order_by: order.transpose()?,
    };
    let (records, next) = collection.engine.scroll(request).map_err(refused)?;
    Ok(ScrollResponse {
        next_page_offset: next.map(convert::id_message),
        result: records.into_iter().map(record).collect(),
        ..ScrollResponse::default()
    })
}

#[expect(clippy::needless_pass_by_value, reason = "each call takes its message, like the service")]
pub(crate) fn count(store: &Store, request: CountPoints) -> Result<CountResponse, Status> {
    let collection = store.collection(&request.collection_name)?;
    let filter = request.filter.as_ref().map(filter::of).transpose()?;
    let count = collection.engine.count(CountRequest { filter, exact: request.exact.unwrap_or(true) });
    let result = CountResult { count: count.map_err(refused)? as u64 };
    Ok(CountResponse { result: Some(result), ..CountResponse::default() })
}

pub(crate) fn query_batch(store: &Store, request: QueryBatchPoints) -> Result<QueryBatchResponse, Status> {
    let collection = store.collection(&request.collection_name)?;
    let queries = request.query_points.into_iter().map(one_query).collect::<Result<Vec<_>, _>>()?;
    let found = collection.engine.query_batch(QueryBatchRequest::new(queries)).map_err(refused)?;
    let result = found.into_iter().map(|points| BatchResult { result: points.into_iter().map(scored).collect() });
    Ok(QueryBatchResponse { result: result.collect(), ..QueryBatchResponse::default() })
}

fn one_query(request: QueryPoints) -> Result<QueryRequest, Status> {
    if !request.prefetch.is_empty() || request.lookup_from.is_some() || request.score_threshold.is_some() {
        return Err(convert::unknown("a query of this kind"));
    }
    let using = request.using.ok_or(());
    let scoring = match request.query.and_then(|query| query.variant) {
        None => None,
        Some(query::Variant::Nearest(nearest)) => {
            let vector = match nearest.variant {
                Some(vector_input::Variant::Dense(dense)) => VectorInternal::Dense(dense.data),
                Some(vector_input::Variant::Sparse(terms)) => VectorInternal::Sparse(convert::sparse(terms)?),
                Some(_) | None => return Err(convert::unknown("a query vector of this kind")),
            };
            let using = using.map_err(|()| convert::unknown("a query without a vector's name"))?;
            Some(ScoringQuery::Vector(QueryEnum::Nearest(NamedQuery::new(vector, using))))
        }
        Some(_) => return Err(convert::unknown("a query of this kind")),
    };
    let params = request.params.unwrap_or_default();
    let corpus = params.idf.and_then(|idf| idf.corpus);
    let idf = corpus.as_ref().map(filter::of).transpose()?;
    Ok(QueryRequest {
        query: scoring,
        filter: request.filter.as_ref().map(filter::of).transpose()?,
        offset: as_usize(request.offset, 0),
        params: Some(SearchParams {
            exact: true,
            idf: idf.map(|corpus| IdfParams::Corpus(IdfCorpusParams { corpus })),
            ..SearchParams::default()
        }),
        with_vector: convert::with_vectors(request.with_vectors),
        with_payload: WithPayloadInterface::Bool(convert::with_payload(request.with_payload, false)?),
        ..QueryRequest::new(as_usize(request.limit, DEFAULT_LIMIT))
    })
}

fn as_usize(number: Option<u64>, default: usize) -> usize {
    number.map_or(default, |number| usize::try_from(number).unwrap_or(usize::MAX))
}

pub(crate) enum Selected {
    Ids(Vec<PointId>),
    Filter(Filter),
}

pub(crate) fn selected(selector: Option<PointsSelector>) -> Result<Selected, Status> {
    match selector.and_then(|selector| selector.points_selector_one_of) {
        Some(PointsSelectorOneOf::Points(list)) => {
            let ids = list.ids.into_iter().map(|id| convert::point_id(Some(id)));
            Ok(Selected::Ids(ids.collect::<Result<_, _>>()?))
        }
        Some(PointsSelectorOneOf::Filter(filter)) => Ok(Selected::Filter(filter::of(&filter)?)),
        None => Err(Status::invalid_argument("no points are selected")),
    }
}

fn payload_operation(
    payload: std::collections::HashMap<String, qdrant_client::qdrant::Value>,
    selector: Option<PointsSelector>,
) -> Result<SetPayloadOp, Status> {
    let (points, filter) = match selected(selector)? {
        Selected::Ids(ids) => (Some(ids), None),
        Selected::Filter(filter) => (None, Some(filter)),
    };
    Ok(SetPayloadOp { payload: convert::payload(payload), points, filter, key: None })
}

pub(crate) fn write(collection: &Collection, operation: UpdateOperation) -> Result<(), Status> {
    collection.engine.update(operation).map_err(refused)
}

fn record(record: Record) -> RetrievedPoint {
    RetrievedPoint {
        id: Some(convert::id_message(record.id)),
        payload: convert::payload_message(record.payload),
        vectors: convert::vectors_message(record.vector),
        ..RetrievedPoint::default()
    }
}

fn scored(point: ScoredPoint) -> qdrant_client::qdrant::ScoredPoint {
    qdrant_client::qdrant::ScoredPoint {
        id: Some(convert::id_message(point.id)),
        payload: convert::payload_message(point.payload),
        score: point.score,
        version: point.version,
        vectors: convert::vectors_message(point.vector),
        ..qdrant_client::qdrant::ScoredPoint::default()
    }
}

fn applied() -> UpdateResult {
    UpdateResult { operation_id: None, status: UpdateStatus::Completed.into() }
}

pub(crate) fn operation_response() -> PointsOperationResponse {
    PointsOperationResponse { result: Some(applied()), ..PointsOperationResponse::default() }
}

fn path(field: &str) -> Result<qdrant_edge::JsonPath, Status> {
    field.parse().map_err(|()| Status::invalid_argument(format!("{field:?} is no path")))
}

fn invalid(error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("Wrong input: {error}"))
}

/// What the caller did wrong is told from what failed here, as the server does.
fn refused(error: OperationError) -> Status {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the engine has many errors; these are the caller's")]
    match &error {
        OperationError::WrongVectorDimension { .. }
        | OperationError::VectorNameNotExists { .. }
        | OperationError::ValidationError { .. }
        | OperationError::WrongSparse
        | OperationError::WrongMulti
        | OperationError::MissingRangeIndexForOrderBy { .. } => invalid(error),
        _ => failed(error),
    }
}
