//! Stores to test, and what is stored in them.

use std::{env, sync::Arc};

use context_manager_memory::{
    AgentId, Context, ContextId, Level, SessionId, SpaceId, TenantId, Timestamp, Vectors, lexical,
    store::{Owner, Point},
};
use context_manager_protocol::config::{CircuitBreaker, Durability, EmbeddedStore, SidecarConfig, Store};
use context_manager_sidecar::{
    adapters::{embedded::Embedded, qdrant::Qdrant},
    breaker::Breaker,
    metrics::{Metrics, Neighbour},
    ports::vector_store::{Error, Model, OnModelChange, VectorStore},
};
use context_manager_test_qdrant::Server;
use tempfile::TempDir;
use tokio::net::TcpListener;
use uuid::Uuid;

use super::docker;

pub const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
pub const LATER: Timestamp = Timestamp::from_millis(1_700_000_000_010);
pub const DIMENSIONS: usize = 4;
pub const MODEL: &str = "model";

/// Which adapter.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Embedded,
    Qdrant,
}

/// A place for contexts that can be opened again and again.
pub struct Place {
    kind: Kind,
    directory: TempDir,
    url: String,
    collection: String,
}

impl Place {
    pub async fn new(kind: Kind) -> Self {
        let directory = TempDir::new().expect("a directory");
        let url = match kind {
            Kind::Embedded => String::new(),
            Kind::Qdrant => server(&directory).await,
        };
        Self { kind, directory, url, collection: format!("contract-{}", Uuid::new_v4().simple()) }
    }

    pub const fn kind(&self) -> Kind {
        self.kind
    }

    pub async fn open(&self) -> Arc<dyn VectorStore> {
        self.open_as(DIMENSIONS, MODEL).await.expect("a store")
    }

    /// Opens it for vectors of a model, if it has a place for them.
    pub async fn open_as(&self, dimensions: usize, name: &str) -> Result<Arc<dyn VectorStore>, Error> {
        self.open_for(model(name, dimensions), OnModelChange::Refuse).await
    }

    /// Opens it for vectors of a model, for which it may get a place.
    pub async fn open_for(&self, model: Model, on_model_change: OnModelChange) -> Result<Arc<dyn VectorStore>, Error> {
        let metrics = Arc::new(Metrics::new());
        Ok(match self.kind {
            Kind::Embedded => {
                let config =
                    EmbeddedStore { path: self.directory.path().join("data"), durability: Durability::Process };
                Arc::new(Embedded::open(&config, model, on_model_change, metrics).await?)
            }
            Kind::Qdrant => {
                let toml = format!(
                    "[store.qdrant]\nurl = \"{}\"\ncollection = \"{}\"\ntimeout = \"30s\"\n",
                    self.url, self.collection
                );
                let config = SidecarConfig::from_toml(&toml).expect("a configuration");
                let Store::Qdrant(config) = config.store else { unreachable!("it names a Qdrant server") };
                let breaker = Breaker::new(Neighbour::Store, &CircuitBreaker::default(), Arc::clone(&metrics));
                let opening = Qdrant::open(&config, None, model, on_model_change, breaker, metrics);
                Arc::new(Box::pin(opening).await?)
            }
        })
    }
}

/// The server that the environment asks for.
async fn server(directory: &TempDir) -> String {
    match (env::var("CONTEXT_MANAGER_TEST_QDRANT_URL"), env::var_os("CONTEXT_MANAGER_TEST_QDRANT")) {
        (Ok(url), _) => url,
        (Err(_), Some(_)) => docker::url().await,
        (Err(_), None) => serve(directory).await,
    }
}

/// A server of this process; it ends with the test's runtime.
async fn serve(directory: &TempDir) -> String {
    let server = Server::open(directory.path().join("server")).expect("a server");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(server.serve(listener, std::future::pending()));
    url
}

pub fn model(name: &str, dimensions: usize) -> Model {
    Model { name: name.to_owned(), dimensions }
}

pub fn owner(tenant: &str) -> Owner {
    Owner::new(TenantId::new(tenant).expect("a name"), agent("agent"))
}

pub fn in_space(tenant: &str, space: &str) -> Owner {
    Owner::new(TenantId::new(tenant).expect("a name"), SpaceId::new(space).expect("a name"))
}

pub fn agent(name: &str) -> AgentId {
    AgentId::new(name).expect("a name")
}

pub fn session(name: &str) -> SessionId {
    SessionId::new(name).expect("a name")
}

pub fn id(number: u32) -> ContextId {
    ContextId::new(Uuid::from_u128(u128::from(number) + 1))
}

/// A context of session `s` whose dense vector leans with its number.
pub fn point(tenant: &str, number: u16, text: &str) -> Point {
    let Owner { tenant, holder } = owner(tenant);
    let mut context = Context::new(id(number.into()), tenant, holder, Level::LongTerm, text, NOW);
    context.session = Some(session("s"));
    context.sequence = number.into();
    let terms = lexical::Bm25::default().document(text);
    let dense = Some(vec![1.0, f32::from(number), 0.0, 0.0]);
    let vectors =
        Vectors { dense_self: dense.clone(), dense_ctx: dense, sparse_self: terms.clone(), sparse_ctx: terms };
    Point { context, vectors }
}
