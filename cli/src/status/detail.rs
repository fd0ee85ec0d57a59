//! One `ContextManager` with all of its conditions, keys, certificates and pods.

use context_manager_crds::context_manager::status::{Certificate, Keys};
use context_manager_operator::{
    inject::Resource,
    pods::{self, sidecar_status},
    upgrade::{Standing, Target},
    webhook::view,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use serde::Serialize;

use super::{Summary, age, summary, until};
use crate::{
    answer::{Answer, Exit, Health, Output},
    cluster::{Cluster, call},
    error::Error,
    operator::{self, Component},
    table::{list, pairs, table},
};

/// All that is known.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Detail {
    #[serde(flatten)]
    summary: Summary,
    /// Nothing when pods may not be listed.
    pods: Option<Vec<Line>>,
}

/// A line about a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) phase: String,
    pub(crate) sidecar_ready: bool,
    pub(crate) restarts: i32,
    pub(crate) image: String,
    /// Nothing when the image that it would get today is not known.
    pub(crate) outdated: Option<bool>,
    pub(crate) since: Option<Timestamp>,
}

/// Shows one.
pub(super) async fn run(cluster: &Cluster, name: &str, output: Output) -> Result<Answer, Error> {
    let object = cluster.resource(name).await?;
    let summary = summary(&object);
    let mut notes = Vec::new();
    let resource = view::resource(&object);
    let image = match &resource {
        Some(resource) => match image(cluster, resource).await {
            Ok(image) => Some(image),
            Err(why) => {
                notes.push(format!("{why}; so it is not known which pods are outdated"));
                None
            }
        },
        None => None,
    };
    let granted = resource.as_ref().map(|resource| resource.allowed_namespaces.clone()).unwrap_or_default();
    let target = resource.zip(image).map(|(resource, image)| Target::of(resource, &image));
    let mut found = pods(cluster, &cluster.namespace, name, &granted).await;
    if let (Err(error), false) = (&found, granted.is_empty()) {
        notes.push(format!("{error}; so only pods of namespace {:?} are shown", cluster.namespace));
        found = pods(cluster, &cluster.namespace, name, &[]).await;
    }
    let pods = match found {
        Ok(pods) => Some(pods.iter().map(|pod| line(pod, target.as_ref())).collect()),
        Err(error) => {
            notes.push(error.to_string());
            None
        }
    };
    let exit = Exit::unless(Health::all(std::iter::once(summary.is_ready())));
    let text = output.write(&Detail { summary, pods }, |detail| page(detail, Timestamp::now()))?;
    Ok(Answer::new(text, exit).noting(notes))
}

/// The image that pods of a resource get today; why it is not known, otherwise.
async fn image(cluster: &Cluster, resource: &Resource) -> Result<String, String> {
    if let Some(image) = &resource.image {
        return Ok(image.clone());
    }
    let webhooks = operator::deployments(cluster, Component::Webhook).await;
    let image = webhooks.and_then(|webhooks| operator::image_for(&webhooks, resource));
    image.map_err(|error| error.to_string())?.ok_or_else(|| operator::nobody_serves(cluster, resource))
}

/// The pods with a sidecar of a resource, in its own namespace and in these others that may use it.
pub(crate) async fn pods(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    granted: &[String],
) -> Result<Vec<Pod>, Error> {
    let mut found = pods_in(cluster, namespace, &pods::selector(name, None)).await?;
    for other in granted.iter().filter(|other| *other != namespace) {
        found.extend(pods_in(cluster, other, &pods::selector(name, Some(namespace))).await?);
    }
    Ok(found)
}

async fn pods_in(cluster: &Cluster, namespace: &str, selector: &str) -> Result<Vec<Pod>, Error> {
    let action = format!("list the pods of namespace {namespace:?}");
    let params = ListParams::default().labels(selector);
    Ok(call(&action, "list pods", cluster.of::<Pod>(namespace).list(&params)).await?.items)
}

/// What is to be said of a pod.
pub(crate) fn line(pod: &Pod, target: Option<&Target>) -> Line {
    let status = pod.status.as_ref();
    let sidecar = sidecar_status(pod);
    let image = pods::sidecar(pod).and_then(|sidecar| sidecar.image.clone());
    Line {
        name: pods::title(pod),
        phase: status.and_then(|status| status.phase.clone()).unwrap_or_else(|| "Unknown".to_owned()),
        sidecar_ready: sidecar.is_some_and(|sidecar| sidecar.ready),
        restarts: sidecar.map_or(0, |sidecar| sidecar.restart_count),
        image: image.unwrap_or_default(),
        outdated: target.map(|target| target.standing(pod) != Standing::Current),
        since: pod.metadata.creation_timestamp.as_ref().map(|at| at.0),
    }
}

fn page(Detail { summary, pods }: &Detail, now: Timestamp) -> String {
    let Summary { namespace, name, ready, reason, message, status } = summary;
    let mut rows = vec![
        ("Name", format!("{namespace}/{name}")),
        ("Ready", format!("{ready} ({reason})")),
        ("Store", status.store.clone().unwrap_or_else(|| "-".to_owned())),
    ];
    rows.extend(message.clone().map(|message| ("Why", message)));
    if let Some(Keys { active, previous, next, rotated_at, next_rotation }) = &status.keys {
        let since = rotated_at.as_ref().map(|at| format!(", since {}", age(at.0, now))).unwrap_or_default();
        rows.push(("Key", format!("{active}{since}")));
        rows.extend(next.clone().map(|next| ("Next key", next)));
        if !previous.is_empty() {
            rows.push(("Old keys", list(previous)));
        }
        rows.extend(next_rotation.as_ref().map(|at| ("Next rotation", format!("in {}", until(at.0, now)))));
    }
    for Certificate { name, not_after, fingerprint } in &status.certificates {
        let short: String = fingerprint.chars().take(16).collect();
        rows.push(("Certificate", format!("{name}, ends in {}, SHA-256 {short}…", until(not_after.0, now))));
    }
    let mut text = pairs(&rows);
    let conditions: Vec<_> = status
        .conditions
        .iter()
        .map(|said| {
            let since = age(said.last_transition_time.0, now);
            [said.type_.clone(), said.status.clone(), said.reason.clone(), since, said.message.clone()]
        })
        .collect();
    text.push('\n');
    text.push_str(&table(["CONDITION", "STATUS", "REASON", "SINCE", "MESSAGE"], &conditions));
    text.push('\n');
    match pods.as_deref() {
        None => text.push_str("The pods are not known.\n"),
        Some([]) => text.push_str("No pod has a sidecar of it.\n"),
        Some(pods) => text.push_str(&pod_table(pods, now)),
    }
    text
}

fn pod_table(pods: &[Line], now: Timestamp) -> String {
    let rows: Vec<_> = pods
        .iter()
        .map(|Line { name, phase, sidecar_ready, restarts, image, outdated, since }| {
            let outdated = outdated.map_or("not known", |outdated| if outdated { "yes" } else { "no" });
            let ready = if *sidecar_ready { "yes" } else { "no" };
            let age = since.map_or_else(|| "-".to_owned(), |since| age(since, now));
            [
                name.clone(),
                phase.clone(),
                ready.to_owned(),
                restarts.to_string(),
                outdated.to_owned(),
                image.clone(),
                age,
            ]
        })
        .collect();
    table(["POD", "PHASE", "SIDECAR-READY", "RESTARTS", "OUTDATED", "IMAGE", "AGE"], &rows)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use context_manager_protocol::names;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_outdated_when_its_template_is_another_one() {
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "a"},
            "spec": {"initContainers": [{"name": "context-manager", "image": "sidecar:1"}], "containers": [{"name": "agent"}]},
            "status": {"phase": "Running", "initContainerStatuses": [
                {"name": "context-manager", "ready": true, "restartCount": 2, "image": "", "imageID": ""}]},
        }))
        .unwrap();
        let target = |image: &str| {
            let resource = json!({"apiVersion": "contextmanager.dev/v1alpha1", "kind": "ContextManager",
                "metadata": {"name": "memory", "namespace": "team"}, "spec": {}});
            Target::of(view::resource(&serde_json::from_value(resource).unwrap()).unwrap(), image)
        };
        let templates = [(names::INJECTED_TEMPLATE.to_owned(), target("sidecar:1").template)];
        pod.metadata.annotations = Some(templates.into());
        let seen = line(&pod, Some(&target("sidecar:1")));
        assert_eq!(
            (seen.outdated, seen.sidecar_ready, seen.restarts, seen.image.as_str()),
            (Some(false), true, 2, "sidecar:1")
        );
        assert_eq!(line(&pod, Some(&target("other"))).outdated, Some(true));
        let labels = [(names::INJECTED_FROM.to_owned(), "team".to_owned())];
        pod.metadata.labels = Some(labels.into());
        pod.metadata.namespace = Some("guests".to_owned());
        let seen = line(&pod, Some(&target("sidecar:1")));
        assert_eq!((seen.name, seen.outdated), ("guests/a".to_owned(), Some(true)), "it would mount copies");
        assert_eq!(line(&pod, None).outdated, None);
    }
}
