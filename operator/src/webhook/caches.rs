//! What the webhook knows of the cluster: the labels of namespaces, and the `ContextManager`s.
//!
//! Both are watched. A namespace is only seen as metadata, and a `ContextManager` only through the slim view of injection,
//! read from its raw JSON: so an object that an older or newer version wrote can never stall the watch.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use context_manager_protocol::names;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, ListParams, ObjectMeta, PartialObjectMeta},
    runtime::{
        WatchStreamExt,
        reflector::{ObjectRef, Store, store::Writer},
        watcher,
    },
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::view;
use crate::inject::{NamespaceFacts, Resource};

/// Longest wait for an answer of the API server while somebody waits for an admission.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

type NamespaceMeta = PartialObjectMeta<Namespace>;

/// The caches. Cheap to clone.
#[derive(Clone)]
pub(super) struct Caches {
    namespaces: Store<NamespaceMeta>,
    resources: Store<DynamicObject>,
    writers: Arc<std::sync::Mutex<Option<Writers>>>,
    synced: Arc<Synced>,
}

struct Writers {
    namespaces: Writer<NamespaceMeta>,
    resources: Writer<DynamicObject>,
}

#[derive(Default)]
struct Synced {
    namespaces: AtomicBool,
    resources: AtomicBool,
}

/// Why a fact is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the API server did not answer within {} s when asked for {what}", CALL_TIMEOUT.as_secs())]
    Timeout { what: String },
    #[error("failed to read {what}")]
    Api { what: String, source: Box<kube::Error> },
}

/// The type of `ContextManager`.
pub(super) fn api_resource() -> ApiResource {
    ApiResource {
        group: names::GROUP.to_owned(),
        version: "v1alpha1".to_owned(),
        api_version: format!("{}/v1alpha1", names::GROUP),
        kind: "ContextManager".to_owned(),
        plural: "contextmanagers".to_owned(),
    }
}

impl Default for Caches {
    fn default() -> Self {
        let namespaces = Writer::default();
        let resources = Writer::new(api_resource());
        Self {
            namespaces: namespaces.as_reader(),
            resources: resources.as_reader(),
            writers: Arc::new(std::sync::Mutex::new(Some(Writers { namespaces, resources }))),
            synced: Arc::default(),
        }
    }
}

impl Caches {
    /// Follows the cluster until `shutdown`.
    pub(super) async fn follow(self, client: Client, shutdown: CancellationToken) {
        let taken = self.writers.lock().ok().and_then(|mut writers| writers.take());
        let Some(Writers { namespaces, resources }) = taken else { return };
        let config = watcher::Config::default;
        let all_namespaces = Api::<NamespaceMeta>::all(client.clone());
        let all_resources = Api::<DynamicObject>::all_with(client, &api_resource());
        let namespaces = watcher(all_namespaces, config())
            .default_backoff()
            .modify(|namespace| trim(&mut namespace.metadata))
            .reflect(namespaces)
            .for_each(|event| async { complain("namespaces", event.err()) });
        let resources = watcher(all_resources, config())
            .default_backoff()
            .modify(|resource| trim(&mut resource.metadata))
            .reflect(resources)
            .for_each(|event| async { complain("contextmanagers", event.err()) });
        tokio::select! {
            () = shutdown.cancelled() => {}
            ((), (), ()) = async { tokio::join!(namespaces, resources, self.note_when_synced()) } => {}
        }
    }

    async fn note_when_synced(&self) {
        let namespaces = async {
            if self.namespaces.wait_until_ready().await.is_ok() {
                self.synced.namespaces.store(true, Ordering::Release);
                info!(count = self.namespaces.len(), "Namespaces are known");
            }
        };
        let resources = async {
            if self.resources.wait_until_ready().await.is_ok() {
                self.synced.resources.store(true, Ordering::Release);
                info!(count = self.resources.len(), "ContextManagers are known");
            }
        };
        tokio::join!(namespaces, resources);
    }

    /// What is still missing; nothing when both caches are filled.
    pub(super) fn missing(&self) -> Option<&'static str> {
        match (self.synced.namespaces.load(Ordering::Acquire), self.synced.resources.load(Ordering::Acquire)) {
            (true, true) => None,
            (false, _) => Some("the namespaces have not been listed yet"),
            (true, false) => Some("the contextmanagers have not been listed yet; is their CRD installed?"),
        }
    }

    /// The namespace's labels; a namespace that is too young for the cache is asked for.
    pub(super) async fn namespace(&self, client: &Client, name: &str) -> Result<NamespaceFacts, Error> {
        let facts = |metadata: &ObjectMeta| NamespaceFacts {
            name: name.to_owned(),
            labels: metadata.labels.clone().unwrap_or_default(),
        };
        if let Some(found) = self.namespaces.get(&ObjectRef::new(name)) {
            return Ok(facts(&found.metadata));
        }
        let api = Api::<Namespace>::all(client.clone());
        let found = bounded(format!("namespace {name:?}"), api.get_metadata(name)).await?;
        Ok(facts(&found.metadata))
    }

    /// The `ContextManager`s of a namespace, as far as the cache knows.
    pub(super) fn resources(&self, namespace: &str) -> Vec<Resource> {
        let here = self.resources.state_filter(|found| found.namespace().as_deref() == Some(namespace));
        here.iter().filter_map(|found| view::resource(found)).collect()
    }

    /// The `ContextManager`s of a namespace, asked for anew: a resource and its pods are often applied in one go, and the
    /// cache is always a moment behind.
    pub(super) async fn fresh_resources(&self, client: &Client, namespace: &str) -> Result<Vec<Resource>, Error> {
        let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &api_resource());
        let what = format!("the contextmanagers of namespace {namespace:?}");
        let found = bounded(what, api.list(&ListParams::default())).await?;
        Ok(found.items.iter().filter_map(view::resource).collect())
    }
}

async fn bounded<T>(what: String, call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Error> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(answer) => answer.map_err(|source| Error::Api { what, source: Box::new(source) }),
        Err(_) => Err(Error::Timeout { what }),
    }
}

/// Drops what is large and never looked at.
fn trim(metadata: &mut ObjectMeta) {
    metadata.managed_fields = None;
    metadata.annotations = None;
}

fn complain(what: &str, error: Option<watcher::Error>) {
    if let Some(error) = error {
        warn!(error = %error, "The watch of {what} was interrupted; it goes on");
    }
}
