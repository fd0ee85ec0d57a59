//! The collection: reached, made if it is not there, and checked.

use std::{
    future::Future,
    sync::{Arc, LazyLock, OnceLock},
};

use context_manager_memory::store::{DenseNames, Model, OnModelChange};
use qdrant_client::qdrant::{
    CollectionExistsRequest, GetCollectionInfoRequest, collections_client::CollectionsClient,
    points_client::PointsClient,
};
use tonic::{Code, Response, Status};

use crate::{
    Error, Options,
    channel::{self, ApiKey, Authenticated},
    schema,
    together::Together,
    welcome::Welcome,
};

/// Largest answer; contexts have at most 80 KiB of texts and metadata each, and as much of vectors, and nobody reads more than 128 at once.
const LARGEST_ANSWER: usize = 64 << 20;

/// A collection of a Qdrant server.
///
/// ```no_run
/// # async fn example() -> Result<(), context_manager_qdrant::Error> {
/// use context_manager_qdrant::{Collection, Options};
///
/// let collection = Collection::connect(Options::new("http://localhost:6334", "memory", 384, "all-MiniLM-L6-v2"))?;
/// collection.open().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Collection {
    pub(crate) points: PointsClient<Authenticated>,
    pub(crate) collections: CollectionsClient<Authenticated>,
    pub(crate) options: Options,
    /// What the current model's dense vectors are called in it; known once it is open.
    dense: Arc<OnceLock<DenseNames>>,
    /// Where those meet who store contexts at the same time.
    pub(crate) together: Arc<Together>,
    key: ApiKey,
    welcome: Arc<Welcome>,
}

impl std::fmt::Debug for Collection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collection").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Collection {
    /// Prepares the channel; nothing is sent yet. Needs an async runtime.
    ///
    /// # Errors
    /// When the endpoint or the CA bundle cannot be used.
    pub fn connect(options: Options) -> Result<Self, Error> {
        let (key, welcome) = (ApiKey::default(), Arc::default());
        let channel = channel::connect(&options, key.clone(), &welcome)?;
        let points = PointsClient::new(channel.clone()).max_decoding_message_size(LARGEST_ANSWER);
        let collections = CollectionsClient::new(channel);
        Ok(Self { points, collections, options, dense: Arc::default(), together: Arc::default(), key, welcome })
    }

    /// The same collection, over the same connection, with the vectors of another model; to be opened before it is used.
    #[must_use]
    pub fn for_model(&self, model: Model, on_model_change: OnModelChange) -> Self {
        let options = Options { model, on_model_change, ..self.options.clone() };
        Self { options, dense: Arc::default(), ..self.clone() }
    }

    /// The same collection, over the same connection; to be opened before it is used.
    #[must_use]
    pub fn unopened(&self) -> Self {
        self.for_model(self.options.model.clone(), self.options.on_model_change)
    }

    /// Sets what later calls prove themselves by: an API key or a JSON Web Token, or nothing.
    ///
    /// # Errors
    /// When a header cannot carry it; the former one stays.
    pub fn set_api_key(&self, key: Option<&str>) -> Result<(), Error> {
        self.key.set(key)
    }

    /// Makes the collection if it is not there, else checks that it is ours and fits, and gives it a place for the model's vectors
    /// if it has none and may get one. Repeating it changes nothing.
    ///
    /// # Errors
    /// [`Error::Incompatible`] when it was made for something else; it is left as it is then.
    pub async fn open(&self) -> Result<(), Error> {
        self.open_or_make().await.map(|_made| ())
    }

    /// The same; says whether this call has made the collection.
    ///
    /// # Errors
    /// The same.
    pub async fn open_or_make(&self) -> Result<bool, Error> {
        let mut is_made = false;
        if !self.is_there().await? {
            let mut collections = self.collections.clone();
            let made = collections.create(schema::new_collection(&self.options));
            match self.call("make the collection", made).await {
                Ok(_) => {
                    tracing::info!(collection = self.options.collection, "Made the collection");
                    is_made = true;
                }
                // Somebody else made it in between; it is checked like any other.
                Err(Error::Server { source, .. }) if source.code() == Code::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        self.check().await?;
        Ok(is_made)
    }

    /// Whether the server has a collection of this name, whatever it was made for.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn is_there(&self) -> Result<bool, Error> {
        let request = CollectionExistsRequest { collection_name: self.options.collection.clone() };
        let exists = self.call("look for the collection", self.collections.clone().collection_exists(request)).await?;
        Ok(exists.result.is_some_and(|result| result.exists))
    }

    /// Checks the collection's vectors and identity, and makes the indexes that are missing.
    async fn check(&self) -> Result<(), Error> {
        let request = GetCollectionInfoRequest { collection_name: self.options.collection.clone() };
        let info = self.call("describe the collection", self.collections.clone().get(request)).await?;
        let info = info.result.unwrap_or_default();
        let dense = match schema::check(&self.options, info.config.as_ref())? {
            schema::Place::There(dense) => dense,
            schema::Place::Missing(dense) => {
                Box::pin(self.make_place(&dense)).await?;
                dense
            }
        };
        // Opened twice at once, both find the same.
        let _ = self.dense.set(dense);
        for index in schema::missing_indexes(&self.options, &info) {
            self.call("make an index", self.points.clone().create_field_index(index)).await?;
        }
        Ok(())
    }

    /// What the current model's dense vectors are called.
    pub(crate) fn dense(&self) -> &DenseNames {
        static PLAIN: LazyLock<DenseNames> = LazyLock::new(DenseNames::default);
        self.dense.get().unwrap_or(&PLAIN)
    }

    /// Makes a call within the deadline.
    pub(crate) async fn call<T>(
        &self,
        action: &'static str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Error> {
        let answered = tokio::time::timeout(self.options.timeout, call).await;
        let answered = answered.map_err(|_| Error::Deadline { action })?.map(Response::into_inner);
        answered.map_err(|status| match self.welcome.refusal() {
            Some(refusal) => Error::Unwelcome { refusal, source: Box::new(status) },
            None => Error::server(action)(status),
        })
    }

    /// How it is reached and made.
    #[must_use]
    pub const fn options(&self) -> &Options {
        &self.options
    }
}
