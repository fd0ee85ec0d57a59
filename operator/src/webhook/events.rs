//! Events on the workload that owns a pod: `Injected`, `InjectionSkipped`, `InjectionDenied`.
//!
//! They are published by one task behind a bounded queue. An admission never waits for it: when the queue is full the
//! event is dropped and counted.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::{apps::v1::ReplicaSet, batch::v1::Job, core::v1::ObjectReference},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PartialObjectMeta},
    core::NamespaceResourceScope,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::metrics::Metrics;
use crate::{
    inject::{Owner, owner},
    pods,
};

const QUEUE: usize = 256;
/// Events after which repetitions are counted anew. A recorder remembers each event for minutes, and looks through all with each further one.
const REMEMBERED: u32 = 256;
/// Longest time for one event, reading the owner included.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);
/// The API takes notes below 1024 bytes.
const MAX_NOTE_BYTES: usize = 1000;
/// No name, kind or id in the API is longer. A review that is none of an API server may have any.
const MAX_NAME_BYTES: usize = 400;

/// What became of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Injected { resource: String, agent: String },
    Skipped { message: String },
    Denied { message: String },
}

struct Report {
    regarding: ObjectReference,
    event: Event,
}

/// The way to the task. Cheap to clone.
#[derive(Clone)]
pub(super) struct Events {
    queue: mpsc::Sender<Report>,
    metrics: Arc<Metrics>,
}

impl Events {
    /// Starts the task; it ends with `shutdown`.
    pub(super) fn start(client: Client, instance: String, metrics: Arc<Metrics>, shutdown: CancellationToken) -> Self {
        let (queue, reports) = mpsc::channel(QUEUE);
        let reporter = Reporter { controller: "context-manager-webhook".to_owned(), instance: Some(instance) };
        tokio::spawn(publish_all(client, reporter, reports, Arc::clone(&metrics), shutdown));
        Self { queue, metrics }
    }

    /// Hands an outcome over, and returns at once.
    pub(super) fn tell(&self, namespace: &str, pod: &Value, outcome: Outcome) {
        let Some(regarding) = regarding(namespace, pod) else {
            debug!(namespace, outcome = ?outcome, "A pod without owner and name has nothing an event could be put on");
            return;
        };
        if self.queue.try_send(Report { regarding, event: event(outcome) }).is_err() {
            self.metrics.events_failed.inc();
        }
    }
}

/// The pod's controller, or the pod itself, which has no unique id yet.
fn regarding(namespace: &str, pod: &Value) -> Option<ObjectReference> {
    let namespace = Some(namespace.to_owned());
    let is_short = |text: &&str| text.len() <= MAX_NAME_BYTES;
    if let Some(Owner { api_version, kind, name, uid }) = owner(pod) {
        if ![&*api_version, &*kind, &*name, &*uid].iter().all(is_short) {
            return None;
        }
        return Some(ObjectReference {
            api_version: Some(api_version),
            kind: Some(kind),
            name: Some(name),
            uid: Some(uid),
            namespace,
            ..ObjectReference::default()
        });
    }
    let name =
        pod.pointer("/metadata/name").and_then(Value::as_str).filter(|name| !name.is_empty()).filter(is_short)?;
    Some(ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(name.to_owned()),
        namespace,
        ..ObjectReference::default()
    })
}

async fn publish_all(
    client: Client,
    reporter: Reporter,
    mut reports: mpsc::Receiver<Report>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) {
    let fresh = || Recorder::new(client.clone(), reporter.clone());
    let (mut recorder, mut remembered) = (fresh(), 0);
    while let Some(Some(report)) = shutdown.run_until_cancelled(reports.recv()).await {
        if remembered == REMEMBERED {
            (recorder, remembered) = (fresh(), 0);
        }
        remembered += 1;
        let published = tokio::time::timeout(PUBLISH_TIMEOUT, publish(&client, &recorder, report)).await;
        match published {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                metrics.events_failed.inc();
                warn!(error = &error as &dyn std::error::Error, "An event was not published");
            }
            Err(_) => {
                metrics.events_failed.inc();
                warn!("An event was not published in {} s", PUBLISH_TIMEOUT.as_secs());
            }
        }
    }
}

async fn publish(client: &Client, recorder: &Recorder, report: Report) -> Result<(), kube::Error> {
    let Report { regarding, event } = report;
    let Some(workload) = workload(client, regarding).await else {
        debug!(reason = event.reason, note = event.note, "The owner that the pod names is none, so nobody is told");
        return Ok(());
    };
    recorder.publish(&event, &workload).await
}

fn event(outcome: Outcome) -> Event {
    let (type_, reason, note) = match outcome {
        Outcome::Injected { resource, agent } => {
            let note = format!("Injected the sidecar of ContextManager {resource:?} for agent {agent:?}");
            (EventType::Normal, "Injected", note)
        }
        Outcome::Skipped { message } => (EventType::Warning, "InjectionSkipped", message),
        Outcome::Denied { message } => (EventType::Warning, "InjectionDenied", message),
    };
    // As a text of its own: what waits in the queue is no longer than this.
    let end = note.floor_char_boundary(MAX_NOTE_BYTES);
    Event {
        type_,
        reason: reason.to_owned(),
        note: Some(note[..end].to_owned()),
        action: "Inject".to_owned(),
        secondary: None,
    }
}

/// The object a person looks at: the Deployment of a `ReplicaSet`, the `CronJob` of a Job. If it cannot be read, the
/// `ReplicaSet` or Job has to do. Nothing if there is no such `ReplicaSet` or Job: pods of it cannot be made, and whoever asks as if one
/// were is no API server.
async fn workload(client: &Client, regarding: ObjectReference) -> Option<ObjectReference> {
    let (Some(namespace), Some(name)) = (&regarding.namespace, &regarding.name) else { return Some(regarding) };
    let found = match regarding.kind.as_deref() {
        Some("ReplicaSet") => metadata::<ReplicaSet>(client, namespace, name).await,
        Some("Job") => metadata::<Job>(client, namespace, name).await,
        Some(_) | None => return Some(regarding),
    };
    let above = match found {
        Ok(Some(found)) if found.uid == regarding.uid => pods::controller_of(&found).cloned(),
        Ok(_) => return None,
        Err(error) => {
            debug!(error = %error, name, "The owner could not be read");
            None
        }
    };
    let Some(OwnerReference { api_version, kind, name, uid, .. }) = above else { return Some(regarding) };
    let (api_version, kind, name, uid) = (Some(api_version), Some(kind), Some(name), Some(uid));
    Some(ObjectReference { api_version, kind, name, uid, ..regarding })
}

async fn metadata<K>(client: &Client, namespace: &str, name: &str) -> Result<Option<ObjectMeta>, kube::Error>
where
    K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + std::fmt::Debug,
    K: serde::de::DeserializeOwned,
{
    let found = Api::<K>::namespaced(client.clone(), namespace).get_metadata_opt(name).await?;
    Ok(found.map(|found: PartialObjectMeta<K>| found.metadata))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_put_on_the_controller_or_else_on_the_pod() {
        let references = json!([
            {"apiVersion": "v1", "kind": "Other", "name": "x", "uid": "1"},
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "agent-abc", "uid": "2", "controller": true},
        ]);
        let owned = regarding("team", &json!({"metadata": {"ownerReferences": references}})).unwrap_or_default();
        assert_eq!((owned.kind.as_deref(), owned.uid.as_deref()), (Some("ReplicaSet"), Some("2")));
        let bare = regarding("team", &json!({"metadata": {"name": "agent"}})).unwrap_or_default();
        assert_eq!((bare.kind.as_deref(), bare.name.as_deref()), (Some("Pod"), Some("agent")));
        assert_eq!(regarding("team", &json!({"metadata": {"generateName": "agent-"}})), None);
        let long = "a".repeat(1 << 20);
        assert_eq!(regarding("team", &json!({"metadata": {"name": long}})), None);
        let mut owned = json!({"metadata": {"ownerReferences": references}});
        owned["metadata"]["ownerReferences"][1]["kind"] = json!(long);
        assert_eq!(regarding("team", &owned), None, "what waits for its event is small");
    }

    /// What becomes of an owner of that uid, when the API server has a Job of `uid` or none.
    async fn owner_with(uid: Option<&str>) -> Option<ObjectReference> {
        let body = match uid {
            Some(uid) => json!({
                "apiVersion": "meta.k8s.io/v1",
                "kind": "PartialObjectMetadata",
                "metadata": {"name": "nightly-1", "uid": uid, "ownerReferences": [
                    {"apiVersion": "batch/v1", "kind": "CronJob", "name": "nightly", "uid": "7", "controller": true},
                ]},
            }),
            None => {
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404})
            }
        };
        let status = if uid.is_some() { 200 } else { 404 };
        let server = tower::service_fn(move |_: http::Request<kube::client::Body>| {
            let body = kube::client::Body::from(body.to_string().into_bytes());
            async move { http::Response::builder().status(status).body(body) }
        });
        let named = ObjectReference {
            kind: Some("Job".to_owned()),
            name: Some("nightly-1".to_owned()),
            namespace: Some("team".to_owned()),
            uid: Some("6".to_owned()),
            ..ObjectReference::default()
        };
        workload(&Client::new(server, "default"), named).await
    }

    #[tokio::test]
    async fn an_owner_that_does_not_exist_is_told_nothing() {
        let told = owner_with(Some("6")).await.unwrap_or_default();
        assert_eq!((told.kind.as_deref(), told.uid.as_deref()), (Some("CronJob"), Some("7")));
        assert_eq!(owner_with(Some("another")).await, None);
        assert_eq!(owner_with(None).await, None);
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let message = "ä".repeat(2000);
        let note = event(Outcome::Denied { message }).note.unwrap_or_default();
        assert!(note.len() <= MAX_NOTE_BYTES && note.chars().all(|character| character == 'ä'));
    }
}
