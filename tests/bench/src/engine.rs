//! The engine alone, in this process, on a copy of what a sidecar has stored: what the embedded store is compared with.
//!
//! It is asked what the sidecar's answer needs, as a program would that has nothing else: the four legs in one batch with the
//! filter and the document frequencies of the agent's own contexts, then the exact scores of their union, then the payloads.

use std::{
    collections::BTreeSet,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use context_manager_memory::store::schema;
use qdrant_edge::{
    EdgeShard, Filter, IdfCorpusParams, IdfParams, NamedQuery, PointId, PointInsertOperations, PointOperations,
    PointStructPersisted, QueryBatchRequest, QueryEnum, QueryRequest, Record, RetrieveRequest, ScoringQuery,
    ScrollRequest, SearchParams, SparseVector, UpdateOperation, VectorInternal, VectorPersisted, VectorStructPersisted,
    WithPayloadInterface, WithVector,
};
use serde_json::{Value, json};

use crate::query::{AGENT, DENSE, LEVELS, PER_LEG, Query, SPARSE, TENANT};

/// The engine.
#[derive(Clone)]
pub struct Engine(Arc<EdgeShard>);

impl Engine {
    /// Copies the files of a sidecar that has ended, and opens the copy with the settings that are in it.
    pub fn copy_of(data: &Path, copy: &Path) -> Result<Self> {
        let status = Command::new("cp").args(["-a", "--sparse=always"]).arg(data.join("engine")).arg(copy).status()?;
        ensure!(status.success(), "failed to copy {} to {}", data.display(), copy.display());
        EdgeShard::load(copy, None).map(|shard| Self(Arc::new(shard))).context("failed to open the copy")
    }

    /// The number of points whose payload came back.
    pub fn search(&self, query: &Query) -> Result<usize> {
        let filter: Filter = serde_json::from_value(filter(now_millis()))?;
        let best = self.legs(query, &filter, PER_LEG)?;
        let union: BTreeSet<PointId> = best.into_iter().flatten().collect();
        let ids: Vec<PointId> = union.into_iter().collect();
        let has_id: Filter = serde_json::from_value(json!({"must": [{"has_id": ids}]}))?;
        self.legs(query, &has_id, ids.len().max(1))?;
        let request = RetrieveRequest {
            point_ids: ids,
            with_payload: Some(WithPayloadInterface::Bool(true)),
            with_vector: Some(WithVector::Bool(false)),
        };
        Ok(self.0.retrieve(request)?.len())
    }

    fn legs(&self, query: &Query, filter: &Filter, limit: usize) -> Result<Vec<Vec<PointId>>> {
        let corpus: Filter = serde_json::from_value(corpus())?;
        let terms = SparseVector { indices: query.terms.indices().to_vec(), values: query.terms.values().to_vec() };
        let dense = DENSE.map(|name| (name, VectorInternal::Dense(query.dense.clone()), None));
        let idf = || Some(IdfParams::Corpus(IdfCorpusParams { corpus: corpus.clone() }));
        let sparse = SPARSE.map(|name| (name, VectorInternal::Sparse(terms.clone()), idf()));
        let requests = dense.into_iter().chain(sparse).map(|(name, vector, idf)| QueryRequest {
            query: Some(ScoringQuery::Vector(QueryEnum::Nearest(NamedQuery::new(vector, name)))),
            filter: Some(filter.clone()),
            params: Some(SearchParams { exact: true, idf, ..SearchParams::default() }),
            ..QueryRequest::new(limit)
        });
        let found = self.0.query_batch(QueryBatchRequest::new(requests.collect()))?;
        Ok(found.into_iter().map(|points| points.into_iter().map(|point| point.id).collect()).collect())
    }

    /// Stores a point like the one `like`, under another id.
    pub fn upsert(&self, like: &Record, id: uuid::Uuid) -> Result<()> {
        let row = PointStructPersisted {
            id: PointId::Uuid(id),
            vector: VectorStructPersisted::Named(named(like)?),
            payload: like.payload.clone(),
        };
        let insert = PointOperations::UpsertPoints(PointInsertOperations::PointsList(vec![row]));
        Ok(self.0.update(UpdateOperation::PointOperation(insert))?)
    }

    /// A page of points with payload and vectors, and where the next begins.
    pub fn page(&self, from: Option<PointId>, limit: usize) -> Result<(Vec<Record>, Option<PointId>)> {
        let request = ScrollRequest {
            offset: from,
            limit: Some(limit),
            with_payload: Some(WithPayloadInterface::Bool(true)),
            with_vector: WithVector::Bool(true),
            ..ScrollRequest::new()
        };
        Ok(self.0.scroll(request)?)
    }
}

/// The vectors of a point.
fn named(record: &Record) -> Result<std::collections::HashMap<String, VectorPersisted>> {
    let Some(qdrant_edge::VectorStructInternal::Named(named)) = &record.vector else {
        return Err(anyhow!("a point without named vectors"));
    };
    let persisted = |vector: &VectorInternal| match vector {
        VectorInternal::Dense(values) => Ok(VectorPersisted::Dense(values.clone())),
        VectorInternal::Sparse(terms) => Ok(VectorPersisted::Sparse(terms.clone())),
        VectorInternal::MultiDense(_) => Err(anyhow!("a vector that is not the product's")),
    };
    named.iter().map(|(name, vector)| Ok((name.clone(), persisted(vector)?))).collect()
}

fn corpus() -> Value {
    json!({"must": owner(), "must_not": [closed()]})
}

fn filter(now: u64) -> Value {
    let mut must = owner();
    must.push(json!({"key": schema::LEVEL, "match": {"any": LEVELS}}));
    let expired = json!({"key": schema::EXPIRES_AT, "range": {"lte": now}});
    json!({"must": must, "must_not": [expired, closed()]})
}

fn owner() -> Vec<Value> {
    let keyword = |key, value| json!({"key": key, "match": {"value": value}});
    vec![keyword(schema::TENANT, TENANT), keyword(schema::AGENT, AGENT)]
}

fn closed() -> Value {
    json!({"key": schema::VALID_UNTIL, "range": {"gte": f64::MIN}})
}

pub fn now_millis() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
