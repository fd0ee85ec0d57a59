//! Vectors of several models in one collection: a place for a new model's, filled beside the former ones, which go at the end.
//!
//! The names of former vectors stay in the collection's schema, because others may still write them; an empty one costs nothing.

use std::collections::{BTreeMap, HashMap};

use context_manager_memory::{
    ContextId,
    store::{Clauses, DenseNames, NewDense, Owner},
};
use qdrant_client::qdrant::{
    CreateVectorNameRequest, DeletePointVectors, DenseVectorCreationConfig, Distance, GetCollectionInfoRequest,
    NamedVectors, PointVectors, PointsIdsList, PointsSelector, ScrollPoints, UpdateCollection, UpdatePointVectors,
    VectorsSelector, create_vector_name_request::VectorConfig, points_selector::PointsSelectorOneOf,
    vectors::VectorsOptions, vectors_config::Config,
};
use tonic::Code;

use crate::{Collection, Error, convert, filter, read::limit_of, schema, write::medium};

impl Collection {
    /// Gives an owner's contexts their vectors of the current model, if they still have the version that is named. Other models'
    /// vectors and everything else stay. What is not there any more is left out.
    ///
    /// # Errors
    /// When a vector has the wrong length or a value that is no number, or when the server fails; some may have theirs then.
    pub async fn set_vectors(&self, owner: &Owner, vectors: &[NewDense]) -> Result<(), Error> {
        let mut by_version: BTreeMap<i64, Vec<&NewDense>> = BTreeMap::new();
        for new in vectors {
            for vector in [&new.own, &new.with_previous] {
                convert::check_dense(Some(new.id), vector, self.options.model.dimensions)?;
            }
            by_version.entry(new.version).or_default().push(new);
        }
        for (version, new) in by_version {
            let ids: Vec<ContextId> = new.iter().map(|new| new.id).collect();
            // A point that is gone would fail the whole call, and the filter does not make up for it.
            let there = self.find(&ids).await?;
            let is_there = |id| there.iter().any(|context| context.id == id && owner.owns(context));
            let points: Vec<_> =
                new.into_iter().filter(|new| is_there(new.id)).map(|new| self.vectors_of(new)).collect();
            if points.is_empty() {
                continue;
            }
            let request = UpdatePointVectors {
                collection_name: self.options.collection.clone(),
                wait: Some(true),
                points,
                ordering: Some(medium()),
                update_filter: Some(filter::of(&Clauses::at_version(owner, &ids, version))),
                ..UpdatePointVectors::default()
            };
            self.call("add vectors", self.points.clone().update_vectors(request)).await?;
        }
        Ok(())
    }

    /// Drops what other models' vectors at most `limit` of an owner's contexts have, and says how many had some; fewer than `limit`
    /// were all of them.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn drop_former_vectors(&self, owner: &Owner, limit: usize) -> Result<usize, Error> {
        let names = self.former_names().await?;
        if names.is_empty() || limit == 0 {
            return Ok(0);
        }
        let request = ScrollPoints {
            filter: Some(filter::of(&Clauses::having_any_of(owner, &names))),
            limit: Some(limit_of(limit)),
            with_payload: Some(false.into()),
            ..self.scroll_request()
        };
        let found = self.call("look for former vectors", self.points.clone().scroll(request)).await?.result;
        let ids: Vec<_> = found.into_iter().filter_map(|record| record.id).collect();
        if ids.is_empty() {
            return Ok(0);
        }
        let count = ids.len();
        let selected = PointsSelectorOneOf::Points(PointsIdsList { ids });
        let request = DeletePointVectors {
            collection_name: self.options.collection.clone(),
            wait: Some(true),
            points_selector: Some(PointsSelector { points_selector_one_of: Some(selected) }),
            vectors: Some(VectorsSelector { names }),
            ..DeletePointVectors::default()
        };
        self.call("drop former vectors", self.points.clone().delete_vectors(request)).await?;
        Ok(count)
    }

    /// Makes a place for the model's vectors. Begun and interrupted, it is finished by the next call.
    pub(crate) async fn make_place(&self, dense: &DenseNames) -> Result<(), Error> {
        let (collection_name, model) = (self.options.collection.clone(), &self.options.model);
        for name in dense.both() {
            let config = DenseVectorCreationConfig {
                size: model.dimensions as u64,
                distance: Distance::Cosine.into(),
                ..DenseVectorCreationConfig::default()
            };
            let request = CreateVectorNameRequest {
                collection_name: collection_name.clone(),
                wait: Some(true),
                vector_name: name.to_owned(),
                vector_config: Some(VectorConfig::DenseConfig(config)),
                ..CreateVectorNameRequest::default()
            };
            let made = self.call("make a place for vectors", self.points.clone().create_vector_name(request)).await;
            let is_unknown =
                |error: &Error| matches!(error, Error::Server { source, .. } if source.code() == Code::Unimplemented);
            if made.as_ref().is_err_and(is_unknown)
                && let Err(Error::Server { source, .. }) = made
            {
                return Err(Error::NoNewVectors { collection: collection_name, model: model.clone(), source });
            }
            made?;
        }
        self.note_model(collection_name.clone()).await?;
        tracing::info!(collection = collection_name, %model, "Made a place for the vectors of another model");
        Ok(())
    }

    /// Says in the collection's metadata whose the vectors are. It is for people: a key that may not change the collection makes the
    /// vectors all the same.
    async fn note_model(&self, collection_name: String) -> Result<(), Error> {
        let request = UpdateCollection {
            collection_name,
            metadata: HashMap::from([schema::model_metadata(&self.options.model)]),
            ..UpdateCollection::default()
        };
        let mut collections = self.collections.clone();
        match self.call("note a model in the collection's metadata", collections.update(request)).await {
            Err(Error::Server { source, .. }) if source.code() == Code::PermissionDenied => {
                tracing::debug!("The key may not note the model in the collection's metadata");
                Ok(())
            }
            noted => noted.map(drop),
        }
    }

    async fn former_names(&self) -> Result<Vec<String>, Error> {
        let request = GetCollectionInfoRequest { collection_name: self.options.collection.clone() };
        let info = self.call("describe the collection", self.collections.clone().get(request)).await?;
        let params = info.result.and_then(|info| info.config).and_then(|config| config.params);
        let Some(Config::ParamsMap(vectors)) = params.and_then(|params| params.vectors_config?.config) else {
            return Ok(Vec::new());
        };
        let is_former = |name: &String| DenseNames::are_any(name) && !self.dense().both().contains(&name.as_str());
        Ok(vectors.map.into_keys().filter(is_former).collect())
    }

    fn vectors_of(&self, new: &NewDense) -> PointVectors {
        let dense = self.dense();
        let vectors = [(&dense.own, &new.own), (&dense.with_previous, &new.with_previous)]
            .map(|(name, vector)| (name.clone(), convert::dense_vector(vector)))
            .into();
        PointVectors {
            id: Some(filter::point_id(new.id)),
            vectors: Some(VectorsOptions::Vectors(NamedVectors { vectors }).into()),
        }
    }
}
