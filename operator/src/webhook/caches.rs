//! What the webhook knows of the cluster: the labels of namespaces, and the `ContextManager`s.
//!
//! Both are watched. A namespace is only seen as metadata, and a `ContextManager` only through the slim view of injection,
//! read from its raw JSON ([`super::known`]): so an object that an older or newer version wrote can never stall the watch. Of that JSON
//! only what the view needs is read ([`crate::slim`]).

use std::{
    pin::pin,
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
    Api, Client,
    api::{ApiResource, ListParams, ObjectMeta, PartialObjectMeta},
    runtime::{
        WatchStreamExt,
        reflector::{ObjectRef, Store, store::Writer},
        watcher::{self, Event, watcher},
    },
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{known, known::Known, view};
use crate::{
    inject::{NamespaceFacts, Resource},
    scope::Scope,
    slim::Slim,
    watches::{PAGE, RESOURCES_PAGE, next_page},
};

/// Longest wait for an answer of the API server while somebody waits for an admission.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Pages of `ContextManager`s that are read at once for admissions, and how many are on each. With what the watch reads
/// ([`RESOURCES_PAGE`]) that is 30 MiB at most, of which the reviews and the connections to their senders leave 34 of the 128 that a
/// replica has.
const FRESH_READS: usize = 3;
const FRESH_PAGE: u32 = 2;

type NamespaceMeta = PartialObjectMeta<Namespace>;

/// The caches. Cheap to clone.
#[derive(Clone)]
pub(super) struct Caches {
    /// One for each place that is watched.
    namespaces: Vec<Store<NamespaceMeta>>,
    resources: Vec<Arc<Known>>,
    writers: Arc<std::sync::Mutex<Vec<Writers>>>,
    scope: Scope,
    namespaces_listed: Arc<AtomicBool>,
    /// Pods that wait for a list are many, and a page is large if somebody wants it to be.
    fresh_reads: Arc<Semaphore>,
}

struct Writers {
    place: Option<String>,
    namespaces: Writer<NamespaceMeta>,
    resources: Arc<Known>,
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

impl Caches {
    /// Empty ones.
    pub(super) fn new(scope: &Scope) -> Self {
        let writers = |place: Option<&str>| Writers {
            place: place.map(str::to_owned),
            namespaces: Writer::default(),
            resources: Arc::default(),
        };
        let writers: Vec<_> = scope.places().into_iter().map(writers).collect();
        Self {
            namespaces: writers.iter().map(|writers| writers.namespaces.as_reader()).collect(),
            resources: writers.iter().map(|writers| Arc::clone(&writers.resources)).collect(),
            writers: Arc::new(std::sync::Mutex::new(writers)),
            scope: scope.clone(),
            namespaces_listed: Arc::default(),
            fresh_reads: Arc::new(Semaphore::new(FRESH_READS)),
        }
    }

    /// Follows the cluster until `shutdown`.
    pub(super) async fn follow(self, client: Client, shutdown: CancellationToken) {
        let writers = self.writers.lock().map(|mut writers| std::mem::take(&mut *writers)).unwrap_or_default();
        let watches = futures::future::join_all(writers.into_iter().map(|writers| follow(client.clone(), writers)));
        tokio::select! {
            () = shutdown.cancelled() => {}
            _ = async { tokio::join!(watches, self.note_when_listed()) } => {}
        }
    }

    async fn note_when_listed(&self) {
        let all = futures::future::join_all(self.namespaces.iter().map(Store::wait_until_ready)).await;
        if all.iter().all(Result::is_ok) {
            self.namespaces_listed.store(true, Ordering::Release);
            info!(count = self.namespaces.iter().map(Store::len).sum::<usize>(), "Namespaces are known");
        }
    }

    /// What is still missing; nothing when both caches are filled.
    pub(super) fn missing(&self) -> Option<&'static str> {
        let resources = self.resources.iter().all(|known| known.is_listed());
        match (self.namespaces_listed.load(Ordering::Acquire), resources) {
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
        if let Some(found) = self.namespaces.iter().find_map(|store| store.get(&ObjectRef::new(name))) {
            return Ok(facts(&found.metadata));
        }
        let api = Api::<Namespace>::all(client.clone());
        let found = bounded(format!("namespace {name:?}"), api.get_metadata(name)).await?;
        Ok(facts(&found.metadata))
    }

    /// The `ContextManager`s of a namespace, and of the other one that a pod names, as far as is known.
    pub(super) fn resources(&self, namespace: &str, foreign: Option<&str>) -> Vec<Resource> {
        let foreign = foreign.filter(|&name| name != namespace);
        let meant = || std::iter::once(namespace).chain(foreign);
        let known =
            self.resources.iter().flat_map(|known| meant().filter_map(|namespace| known.in_namespace(namespace)));
        known.flat_map(|here| here.to_vec()).collect()
    }

    /// The same, asked for anew: a resource and its pods are often applied in one go, and the cache is always a moment behind. A namespace
    /// that is not watched is not asked for.
    pub(super) async fn fresh_resources(
        &self,
        client: &Client,
        namespace: &str,
        foreign: Option<&str>,
    ) -> Result<Vec<Resource>, Error> {
        let foreign = foreign.filter(|name| self.sees(name) && is_namespace(name));
        let mut resources = Vec::new();
        for namespace in std::iter::once(namespace).chain(foreign) {
            let api = Api::<Slim>::namespaced_with(client.clone(), namespace, &api_resource());
            let what = format!("the contextmanagers of namespace {namespace:?}");
            resources.extend(bounded(what, self.list(&api)).await?);
        }
        Ok(resources)
    }

    /// All that there are, page by page: of each page only the views outlive it.
    async fn list(&self, api: &Api<Slim>) -> Result<Vec<Resource>, kube::Error> {
        let (mut found, mut params) = (Vec::new(), ListParams::default().limit(FRESH_PAGE));
        loop {
            // For one page: who reads many waits behind those who read one. It is never closed.
            let _turn = self.fresh_reads.acquire().await;
            let page = api.list(&params).await?;
            found.extend(page.items.iter().filter_map(|resource| view::resource(&resource.0)));
            match next_page(&params, &page.metadata) {
                Some(next) => params = next,
                None => return Ok(found),
            }
        }
    }

    /// Whether the resources of a namespace can be known here.
    pub(super) fn sees(&self, namespace: &str) -> bool {
        self.scope.contains(namespace)
    }
}

/// Watches a place for as long as it is let. One namespace is watched by its name, which needs a right to that one alone.
async fn follow(client: Client, Writers { place, namespaces, resources }: Writers) {
    let named = watcher::Config::default().page_size(PAGE);
    let (named, api) = match &place {
        None => (named, Api::<Slim>::all_with(client.clone(), &api_resource())),
        Some(place) => (
            named.fields(&format!("metadata.name={place}")),
            Api::namespaced_with(client.clone(), place, &api_resource()),
        ),
    };
    let namespaces = watcher(Api::<NamespaceMeta>::all(client), named)
        .default_backoff()
        .modify(|namespace| trim(&mut namespace.metadata))
        .reflect(namespaces)
        .for_each(|event| async { complain("namespaces", event.err()) });
    let resources = async {
        let config = watcher::Config::default().page_size(RESOURCES_PAGE);
        let (mut writer, mut events) =
            (known::Writer::new(Arc::clone(&resources)), pin!(watcher(api, config).default_backoff()));
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    let ends_a_list = matches!(event, Event::InitDone);
                    writer.take(event);
                    if ends_a_list {
                        info!(count = resources.count(), "ContextManagers are known");
                    }
                }
                Err(error) => complain("contextmanagers", Some(error)),
            }
        }
    };
    tokio::join!(namespaces, resources);
}

/// Whether a text can be a namespace's name, and so a part of a path.
pub(super) fn is_namespace(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.len() <= 63 && text.bytes().all(allowed)
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
