//! A server of this process that can be stopped and started again, and what lies in it.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};
use context_manager_crds::ContextManager;
use context_manager_memory::{
    AgentId, Context, ContextId, Level, TenantId, Timestamp, Vectors, builtin, lexical, store::Point,
};
use context_manager_protocol::names;
use context_manager_qdrant::{Collection, Options};
use context_manager_test_qdrant::Server;
use context_manager_tests::{
    cluster::{self, Namespace, eventually},
    operator::{Operator, PATIENCE},
};
use k8s_openapi::{
    ByteString,
    api::{core::v1::Secret, events::v1::Event},
};
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use uuid::Uuid;

/// The API key of all servers here.
pub const KEY: &str = "the-admin-key";
/// Length of the vectors that a resource has unless it says otherwise.
const DIMENSIONS: usize = 384;

type Change = fn(Server) -> Server;

/// A server; it ends when dropped.
pub struct Qdrant {
    folder: TempDir,
    address: SocketAddr,
    change: Change,
    running: Option<(oneshot::Sender<()>, JoinHandle<Result<()>>)>,
}

impl Qdrant {
    /// Starts one with these settings.
    pub async fn start(change: Change) -> Result<Self> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?.local_addr()?;
        let mut server = Self { folder: TempDir::new()?, address, change, running: None };
        server.restart().await?;
        Ok(server)
    }

    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        let server = (self.change)(Server::open(self.folder.path().to_owned())?);
        let listener = TcpListener::bind(self.address).await?;
        let (end, ended) = oneshot::channel();
        let running = tokio::spawn(server.serve(listener, async move { drop(ended.await) }));
        self.running = Some((end, running));
        Ok(())
    }

    /// Ends it; the data stays.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some((end, running)) = self.running.take() {
            drop(end);
            running.abort();
            let _ = running.await;
        }
        Ok(())
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub const fn port(&self) -> u16 {
        self.address.port()
    }

    /// A spec with this server and the Secret `qdrant`.
    pub fn spec(&self, mut more: Value) -> Value {
        more["url"] = json!(self.url());
        more["apiKeySecretRef"] = json!({"name": "qdrant", "key": "api-key"});
        json!({"vectorStore": {"qdrant": more}})
    }

    /// The collection of a namespace's resource `memory`.
    pub fn collection(&self, namespace: &Namespace) -> Result<Collection> {
        self.named(&format!("ctx_{}_memory", namespace.name))
    }

    pub fn named(&self, collection: &str) -> Result<Collection> {
        self.reach(collection, Some(KEY))
    }

    pub fn reach(&self, collection: &str, key: Option<&str>) -> Result<Collection> {
        let collection = Collection::connect(Options::new(self.url(), collection, DIMENSIONS, builtin::MODEL))?;
        collection.set_api_key(key)?;
        Ok(collection)
    }
}

/// With the API key alone.
pub fn with_key(server: Server) -> Server {
    server.with_api_key(KEY.to_owned())
}

/// With the API key, and tokens.
pub fn with_tokens(server: Server) -> Server {
    with_key(server).with_jwt_rbac()
}

/// A namespace with the Secret `qdrant`.
pub async fn namespace(operator: &Operator, what: &str) -> Result<Namespace> {
    let namespace = operator.namespace(&cluster::client().await?, what, &[]).await?;
    make_key(&namespace, KEY).await?;
    Ok(namespace)
}

pub async fn make_key(namespace: &Namespace, key: &str) -> Result<()> {
    let object = json!({"metadata": {"name": "qdrant"}, "stringData": {"api-key": format!("{key}\n")}});
    namespace.make::<Secret>(&object).await.map(drop)
}

pub async fn change_key(namespace: &Namespace, key: &str) -> Result<()> {
    merge::<Secret>(namespace, "qdrant", json!({"stringData": {"api-key": key}})).await
}

pub async fn change(namespace: &Namespace, patch: Value) -> Result<()> {
    merge::<ContextManager>(namespace, "memory", patch).await
}

pub async fn merge<K>(namespace: &Namespace, name: &str, patch: Value) -> Result<()>
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    namespace.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// A file of what sidecars mount.
pub async fn mounted(namespace: &Namespace, file: &str) -> Result<String> {
    let secret = namespace.api::<Secret>().get(&names::store_secret("memory")).await?;
    let ByteString(bytes) = secret.data.unwrap_or_default().remove(file).with_context(|| format!("no {file}"))?;
    Ok(String::from_utf8(bytes)?)
}

/// An event with this reason, and what it says.
pub async fn event(namespace: &Namespace, reason: &str) -> Result<String> {
    eventually(reason, PATIENCE, || async {
        let events = namespace.api::<Event>().list(&ListParams::default()).await?;
        let reasons: Vec<_> = events.iter().filter_map(|event| event.reason.clone()).collect();
        let found = events.into_iter().find(|event| event.reason.as_deref() == Some(reason));
        found.with_context(|| format!("there are {reasons:?}"))?.note.context("it says something")
    })
    .await
}

/// Stores a context of an agent that expired `ago` milliseconds ago, or never expires.
pub async fn store(collection: &Collection, tenant: &str, agent: &str, ago: Option<i64>) -> Result<()> {
    let now = Timestamp::from_millis(jiff::Timestamp::now().as_millisecond());
    let id = ContextId::new(Uuid::new_v4());
    let (tenant, agent) = (TenantId::new(tenant)?, AgentId::new(agent)?);
    let mut context = Context::new(id, tenant, agent, Level::ShortTerm, "a text", now);
    context.expires_at = ago.map(|ago| Timestamp::from_millis(now.as_millis() - ago));
    let terms = lexical::Bm25::default().document("a text");
    let vectors = Vectors { dense_self: None, dense_ctx: None, sparse_self: terms.clone(), sparse_ctx: terms };
    Ok(collection.upsert(&[Point { context, vectors }]).await?)
}

pub async fn count(collection: &Collection) -> Result<usize> {
    Ok(collection.stats().await?.points)
}
