//! One `ContextManager` with all of its conditions, keys, certificates and pods.

use context_manager_crds::context_manager::status::{Certificate, Keys};
use context_manager_operator::{
    inject,
    pods::{self, sidecar_status},
    webhook::view,
};
use context_manager_protocol::names;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt as _, api::ListParams};
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
    let wanted = match view::resource(&object) {
        Some(resource) if resource.image.is_some() => Some(inject::template(&resource, "")),
        Some(resource) => match operator::deployment(cluster, Component::Webhook).await {
            Ok(webhook) => {
                webhook.as_ref().and_then(operator::sidecar_image).map(|image| inject::template(&resource, &image))
            }
            Err(error) => {
                notes.push(format!("{error}; so it is not known which pods are outdated"));
                None
            }
        },
        None => None,
    };
    let pods = match pods(cluster, &cluster.namespace, name).await {
        Ok(pods) => Some(pods.iter().map(|pod| line(pod, wanted.as_deref())).collect()),
        Err(error) => {
            notes.push(error.to_string());
            None
        }
    };
    let exit = Exit::unless(Health::all(std::iter::once(summary.is_ready())));
    let text = output.write(&Detail { summary, pods }, |detail| page(detail, Timestamp::now()))?;
    Ok(Answer::new(text, exit).noting(notes))
}

/// The pods with a sidecar of a resource.
pub(crate) async fn pods(cluster: &Cluster, namespace: &str, name: &str) -> Result<Vec<Pod>, Error> {
    let api = cluster.of::<Pod>(namespace);
    let action = format!("list the pods of namespace {namespace:?}");
    let params = ListParams::default().labels(&format!("{}={name}", names::INJECTED));
    Ok(call(&action, "list pods", api.list(&params)).await?.items)
}

/// What is to be said of a pod.
pub(crate) fn line(pod: &Pod, wanted: Option<&str>) -> Line {
    let status = pod.status.as_ref();
    let sidecar = sidecar_status(pod);
    let image = pods::sidecar(pod).and_then(|sidecar| sidecar.image.clone());
    let template = pod.annotations().get(names::INJECTED_TEMPLATE);
    Line {
        name: pod.name_any(),
        phase: status.and_then(|status| status.phase.clone()).unwrap_or_else(|| "Unknown".to_owned()),
        sidecar_ready: sidecar.is_some_and(|sidecar| sidecar.ready),
        restarts: sidecar.map_or(0, |sidecar| sidecar.restart_count),
        image: image.unwrap_or_default(),
        outdated: wanted.map(|wanted| template.map(String::as_str) != Some(wanted)),
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
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_outdated_when_its_template_is_another_one() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "a", "annotations": {names::INJECTED_TEMPLATE: "t"}},
            "spec": {"initContainers": [{"name": "context-manager", "image": "sidecar:1"}], "containers": [{"name": "agent"}]},
            "status": {"phase": "Running", "initContainerStatuses": [
                {"name": "context-manager", "ready": true, "restartCount": 2, "image": "", "imageID": ""}]},
        }))
        .unwrap();
        let seen = line(&pod, Some("t"));
        assert_eq!(
            (seen.outdated, seen.sidecar_ready, seen.restarts, seen.image.as_str()),
            (Some(false), true, 2, "sidecar:1")
        );
        assert_eq!(line(&pod, Some("other")).outdated, Some(true));
        assert_eq!(line(&pod, None).outdated, None);
    }
}
