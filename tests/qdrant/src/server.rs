//! The services: which calls are served, and by what.

use std::{future::Future, path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result};
use qdrant_client::qdrant::{
    self,
    collections_server::{Collections, CollectionsServer},
    points_server::{Points, PointsServer},
};
use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status,
    transport::{self, Certificate, Identity, ServerTlsConfig, server::TcpIncoming},
};

use crate::{
    access::Granted,
    collections,
    control::{Control, RequiredKey},
    points,
    store::Store,
};

/// As large as the product's largest answer.
const LARGEST_MESSAGE: usize = 256 << 20;

/// What the server shows to prove who it is.
#[derive(Debug)]
pub struct Tls {
    /// Its certificate and those between it and the root, as PEM.
    pub certificate: String,
    /// Its private key, as PEM.
    pub key: String,
    /// The CA of the certificates that callers must show, as PEM; none need be shown without it.
    pub client_ca: Option<String>,
}

/// The server.
#[derive(Debug)]
pub struct Server {
    store: Arc<Store>,
    control: Control,
    tls: Option<Tls>,
}

impl Server {
    /// Opens the collections of a directory, which is made if it is not there.
    ///
    /// # Errors
    /// When a collection cannot be read.
    pub fn open(directory: PathBuf) -> Result<Self> {
        Ok(Self { store: Arc::new(Store::open(directory)?), control: Control::default(), tls: None })
    }

    /// What a suite looks at, and changes, while the server runs.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Serves only callers that send this as `api-key`.
    #[must_use]
    pub fn with_api_key(self, key: String) -> Self {
        self.control.accept_keys([key]);
        self
    }

    /// Takes tokens that are signed with the API key too.
    #[must_use]
    pub fn with_jwt_rbac(self) -> Self {
        self.control.take_tokens();
        self
    }

    /// Serves over TLS.
    #[must_use]
    pub fn with_tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Serves until `end`, then flushes.
    ///
    /// # Errors
    /// When the certificate cannot be used, the listener fails, or a flush does.
    pub async fn serve(self, listener: TcpListener, end: impl Future<Output = ()>) -> Result<()> {
        let Self { store, control, tls } = self;
        let mut server = transport::Server::builder();
        if let Some(Tls { certificate, key, client_ca }) = tls {
            let config = ServerTlsConfig::new().identity(Identity::from_pem(certificate, key));
            let config = match client_ca {
                Some(ca) => config.client_ca_root(Certificate::from_pem(ca)),
                None => config,
            };
            server = server.tls_config(config).context("the certificate is unusable")?;
        }
        let service = Service { store: Arc::clone(&store), control: control.clone() };
        let points = PointsServer::new(service.clone())
            .max_decoding_message_size(LARGEST_MESSAGE)
            .max_encoding_message_size(LARGEST_MESSAGE);
        let collections = CollectionsServer::new(service);
        server
            .layer(tonic::service::InterceptorLayer::new(RequiredKey(control)))
            .add_service(points)
            .add_service(collections)
            .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), end)
            .await?;
        tokio::task::spawn_blocking(move || store.flush()).await?
    }
}

#[derive(Clone)]
struct Service {
    store: Arc<Store>,
    control: Control,
}

impl Service {
    /// Runs a call on a thread where it may block.
    async fn answer<Q, A>(
        &self,
        request: Request<Q>,
        (service, name, collection): (&str, &'static str, fn(&Q) -> &str),
        call: fn(&Store, Q) -> Result<A, Status>,
    ) -> Result<Response<A>, Status>
    where
        Q: Send + 'static,
        A: Send + 'static,
    {
        self.control.admit(name).await?;
        if let Some(granted) = request.extensions().get::<Granted>() {
            granted.check(service, name, collection(request.get_ref()))?;
        }
        let store = Arc::clone(&self.store);
        let request = request.into_inner();
        let answered = tokio::task::spawn_blocking(move || call(&store, request)).await;
        answered.map_err(|error| Status::internal(format!("the call panicked: {error}")))?.map(Response::new)
    }
}

/// A service's calls: those that a function of a module answers, and those that are refused.
macro_rules! service {
    ($service:ident by $module:ident {
        serves { $($call:ident: $request:ident => $response:ident,)* }
        refuses { $($refused:ident: $unread:ident => $unsent:ident,)* }
    }) => {
        #[tonic::async_trait]
        impl $service for Service {
            $(
                async fn $call(
                    &self,
                    request: Request<qdrant::$request>,
                ) -> Result<Response<qdrant::$response>, Status> {
                    let of = (stringify!($service), stringify!($call), (|sent: &qdrant::$request| sent.collection_name.as_str()) as fn(&_) -> &str);
                    self.answer(request, of, $module::$call).await
                }
            )*
            $(
                async fn $refused(
                    &self,
                    _: Request<qdrant::$unread>,
                ) -> Result<Response<qdrant::$unsent>, Status> {
                    Err(Status::unimplemented(concat!("this server does not know ", stringify!($refused))))
                }
            )*
        }
    };
}

service! {
    Collections by collections {
        serves {
            collection_exists: CollectionExistsRequest => CollectionExistsResponse,
            create: CreateCollection => CollectionOperationResponse,
            delete: DeleteCollection => CollectionOperationResponse,
            get: GetCollectionInfoRequest => GetCollectionInfoResponse,
            update: UpdateCollection => CollectionOperationResponse,
        }
        refuses {
            list: ListCollectionsRequest => ListCollectionsResponse,
            update_aliases: ChangeAliases => CollectionOperationResponse,
            list_collection_aliases: ListCollectionAliasesRequest => ListAliasesResponse,
            list_aliases: ListAliasesRequest => ListAliasesResponse,
            collection_cluster_info: CollectionClusterInfoRequest => CollectionClusterInfoResponse,
            update_collection_cluster_setup: UpdateCollectionClusterSetupRequest => UpdateCollectionClusterSetupResponse,
            create_shard_key: CreateShardKeyRequest => CreateShardKeyResponse,
            delete_shard_key: DeleteShardKeyRequest => DeleteShardKeyResponse,
            list_shard_keys: ListShardKeysRequest => ListShardKeysResponse,
        }
    }
}

service! {
    Points by points {
        serves {
            upsert: UpsertPoints => PointsOperationResponse,
            delete: DeletePoints => PointsOperationResponse,
            get: GetPoints => GetResponse,
            update_vectors: UpdatePointVectors => PointsOperationResponse,
            delete_vectors: DeletePointVectors => PointsOperationResponse,
            create_vector_name: CreateVectorNameRequest => PointsOperationResponse,
            overwrite_payload: SetPayloadPoints => PointsOperationResponse,
            update_batch: UpdateBatchPoints => UpdateBatchResponse,
            create_field_index: CreateFieldIndexCollection => PointsOperationResponse,
            scroll: ScrollPoints => ScrollResponse,
            count: CountPoints => CountResponse,
            query_batch: QueryBatchPoints => QueryBatchResponse,
        }
        refuses {
            set_payload: SetPayloadPoints => PointsOperationResponse,
            delete_payload: DeletePayloadPoints => PointsOperationResponse,
            clear_payload: ClearPayloadPoints => PointsOperationResponse,
            delete_field_index: DeleteFieldIndexCollection => PointsOperationResponse,
            delete_vector_name: DeleteVectorNameRequest => PointsOperationResponse,
            search: SearchPoints => SearchResponse,
            search_batch: SearchBatchPoints => SearchBatchResponse,
            search_groups: SearchPointGroups => SearchGroupsResponse,
            recommend: RecommendPoints => RecommendResponse,
            recommend_batch: RecommendBatchPoints => RecommendBatchResponse,
            recommend_groups: RecommendPointGroups => RecommendGroupsResponse,
            discover: DiscoverPoints => DiscoverResponse,
            discover_batch: DiscoverBatchPoints => DiscoverBatchResponse,
            query: QueryPoints => QueryResponse,
            query_groups: QueryPointGroups => QueryGroupsResponse,
            facet: FacetCounts => FacetResponse,
            search_matrix_pairs: SearchMatrixPoints => SearchMatrixPairsResponse,
            search_matrix_offsets: SearchMatrixPoints => SearchMatrixOffsetsResponse,
        }
    }
}
