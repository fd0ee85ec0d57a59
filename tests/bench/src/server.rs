//! A Qdrant server by qdrant-client alone: what the sidecar beside a server is compared with.
//!
//! The server is the one of `tests/qdrant`, or a real one whose program `CONTEXT_MANAGER_TEST_QDRANT_PROGRAM` names. It is asked exactly what
//! the sidecar asks it: a batch of the four legs, then a batch of their union's exact scores and payloads.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use context_manager_memory::store::schema;
use qdrant_client::{
    Payload, Qdrant,
    qdrant::{
        Condition, DenseVector, Filter, IdfParams, NamedVectors, PointId, PointStruct, Query as Scoring,
        QueryBatchPoints, QueryPoints, Range, ScoredPoint, SearchParams, SparseVector, UpsertPoints, Vector,
        VectorInput, point_id::PointIdOptions, query, vector, vector_input, vectors::VectorsOptions,
    },
};
use qdrant_edge::{Record, VectorInternal, VectorStructInternal};

use crate::{
    engine::{Engine, now_millis},
    query::{AGENT, DENSE, LEVELS, PER_LEG, Query, SPARSE, TENANT},
};

/// Many clients on a slow machine wait long for each other; the sidecar beside the server is given as much.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Points of an upsert while the server is filled.
const BATCH: usize = 500;

/// A collection.
#[derive(Clone)]
pub struct Server {
    client: Qdrant,
    collection: String,
}

impl Server {
    /// A client of a collection that a sidecar has made.
    pub fn new(url: &str, collection: &str) -> Result<Self> {
        let client = Qdrant::from_url(url).timeout(TIMEOUT).skip_compatibility_check().build()?;
        Ok(Self { client, collection: collection.to_owned() })
    }

    /// Brings everything that the engine has and the server has not; `there` are the points that it has.
    pub async fn fill(&self, engine: &Engine, there: &mut BTreeSet<qdrant_edge::PointId>) -> Result<()> {
        let mut from = None;
        loop {
            let (records, next) = engine.page(from, BATCH)?;
            let new = records.iter().filter(|record| there.insert(record.id));
            let points = new.map(|record| point(record, &record.id.to_string())).collect::<Result<Vec<_>>>()?;
            if !points.is_empty() {
                self.upsert(points).await?;
            }
            match next {
                Some(next) => from = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Stores a point like the one `like` under another id, and waits until it is applied.
    pub async fn upsert_like(&self, like: &Record, id: uuid::Uuid) -> Result<()> {
        self.upsert(vec![point(like, &id.to_string())?]).await
    }

    async fn upsert(&self, points: Vec<PointStruct>) -> Result<()> {
        let collection_name = self.collection.clone();
        let request = UpsertPoints { collection_name, wait: Some(true), points, ..UpsertPoints::default() };
        self.client.upsert_points(request).await?;
        Ok(())
    }

    /// The number of points whose payload came back.
    pub async fn search(&self, query: &Query) -> Result<usize> {
        let first = self.legs(query, &filter(now_millis()), PER_LEG, false);
        let best = self.batch(first).await?;
        let union: BTreeSet<String> = best.into_iter().flatten().filter_map(|point| id(point.id)).collect();
        let has_id = Filter::must([Condition::has_id(union.iter().map(|id| PointId::from(id.as_str())))]);
        let mut second = self.legs(query, &has_id, union.len().max(1), true);
        second.push(QueryPoints {
            collection_name: self.collection.clone(),
            filter: Some(has_id),
            limit: Some(union.len().max(1) as u64),
            with_payload: Some(true.into()),
            ..QueryPoints::default()
        });
        let exact = self.batch(second).await?;
        Ok(exact.last().map_or(0, Vec::len))
    }

    fn legs(&self, query: &Query, filter: &Filter, limit: usize, exact: bool) -> Vec<QueryPoints> {
        let dense = DenseVector { data: query.dense.clone() };
        let terms = SparseVector { indices: query.terms.indices().to_vec(), values: query.terms.values().to_vec() };
        let idf = IdfParams { corpus: Some(corpus()) };
        let dense = DENSE.map(|name| (name, vector_input::Variant::Dense(dense.clone()), None));
        let sparse = SPARSE.map(|name| (name, vector_input::Variant::Sparse(terms.clone()), Some(idf.clone())));
        let legs = dense.into_iter().chain(sparse).map(|(name, variant, idf)| {
            let nearest = VectorInput { variant: Some(variant) };
            QueryPoints {
                collection_name: self.collection.clone(),
                query: Some(Scoring { variant: Some(query::Variant::Nearest(nearest)) }),
                using: Some(name.to_owned()),
                filter: Some(filter.clone()),
                params: Some(SearchParams { exact: Some(exact), idf, ..SearchParams::default() }),
                limit: Some(limit as u64),
                with_payload: Some(false.into()),
                ..QueryPoints::default()
            }
        });
        legs.collect()
    }

    async fn batch(&self, query_points: Vec<QueryPoints>) -> Result<Vec<Vec<ScoredPoint>>> {
        let collection_name = self.collection.clone();
        let request = QueryBatchPoints { collection_name, query_points, ..QueryBatchPoints::default() };
        let answer = self.client.query_batch(request).await.context("the server refuses the query")?;
        Ok(answer.result.into_iter().map(|batch| batch.result).collect())
    }
}

fn id(id: Option<PointId>) -> Option<String> {
    match id?.point_id_options? {
        PointIdOptions::Uuid(id) => Some(id),
        PointIdOptions::Num(_) => None,
    }
}

fn corpus() -> Filter {
    Filter { must: owner(), must_not: vec![closed()], ..Filter::default() }
}

#[expect(clippy::cast_precision_loss, reason = "times are far below 2^53 milliseconds")]
fn filter(now: u64) -> Filter {
    let levels: Vec<String> = LEVELS.map(str::to_owned).into();
    let expired = Range { lte: Some(now as f64), ..Range::default() };
    let must = owner().into_iter().chain([Condition::matches(schema::LEVEL, levels)]);
    let must_not = vec![Condition::range(schema::EXPIRES_AT, expired), closed()];
    Filter { must: must.collect(), must_not, ..Filter::default() }
}

fn owner() -> Vec<Condition> {
    let keyword = |key: &str, value: &str| Condition::matches(key, value.to_owned());
    vec![keyword(schema::TENANT, TENANT), keyword(schema::AGENT, AGENT)]
}

fn closed() -> Condition {
    Condition::range(schema::VALID_UNTIL, Range { gte: Some(f64::MIN), ..Range::default() })
}

fn point(record: &Record, id: &str) -> Result<PointStruct> {
    let Some(VectorStructInternal::Named(named)) = &record.vector else {
        return Err(anyhow!("a point without named vectors"));
    };
    let mut vectors = HashMap::new();
    for (name, stored) in named {
        let kind = match stored {
            VectorInternal::Dense(data) => vector::Vector::Dense(DenseVector { data: data.clone() }),
            VectorInternal::Sparse(terms) => {
                vector::Vector::Sparse(SparseVector { indices: terms.indices.clone(), values: terms.values.clone() })
            }
            VectorInternal::MultiDense(_) => return Err(anyhow!("a vector that is not the product's")),
        };
        vectors.insert(name.clone(), Vector { vector: Some(kind), ..Vector::default() });
    }
    let fields = record.payload.clone().map(|payload| payload.0).unwrap_or_default();
    Ok(PointStruct {
        id: Some(PointId::from(id)),
        payload: Payload::from(fields).into(),
        vectors: Some(VectorsOptions::Vectors(NamedVectors { vectors }).into()),
    })
}
