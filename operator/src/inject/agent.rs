//! Who owns a pod, and the agent's id that follows from it.
//!
//! The id has to be the same for all pods of a workload and over its updates, or the agent would lose its memory with
//! each of them: so it is the name of the workload that a person wrote, found without asking the cluster.

use context_manager_protocol::names;
use serde_json::Value;

use super::pod::Pod;
use crate::upgrade::{ROLLOUT_HASH, TEMPLATE_HASH};

/// Longest agent id.
pub(super) const MAX_AGENT_ID_BYTES: usize = 253;

/// The label by which a pod of Knative names what a person wrote.
const KNATIVE: &str = "serving.knative.dev/configuration";
/// What Knative adds to the name of a revision to name its Deployment.
const OF_REVISION: &str = "-deployment";
/// The annotation by which a pod of `OpenShift` names its `DeploymentConfig`.
const DEPLOYMENT_CONFIG: &str = "openshift.io/deployment-config.name";

/// The object that controls a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its API version.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its unique id.
    pub uid: String,
}

/// The object that controls the pod, as the pod tells it: of a Deployment's pod this is the `ReplicaSet`.
#[must_use]
pub fn owner(pod: &Value) -> Option<Owner> {
    controller(Pod::new(pod))
}

pub(super) fn controller(pod: Pod<'_>) -> Option<Owner> {
    let references = pod.metadata("ownerReferences")?.as_array()?;
    let is_controller = |reference: &&Value| reference.get("controller").and_then(Value::as_bool) == Some(true);
    let reference = references.iter().find(is_controller)?;
    let text = |key: &str| reference.get(key).and_then(Value::as_str).map(str::to_owned);
    Some(Owner { api_version: text("apiVersion")?, kind: text("kind")?, name: text("name")?, uid: text("uid")? })
}

/// The name of the workload that a person wrote, or of the pod where there is none.
pub(super) fn default_id(pod: Pod<'_>) -> String {
    let id = match controller(pod) {
        Some(Owner { kind, name, .. }) => match kind.as_str() {
            "ReplicaSet" => deployment(pod, &name).unwrap_or(&name).to_owned(),
            "ReplicationController" => deployment_config(pod, &name).unwrap_or(&name).to_owned(),
            "Job" => cron_job(&name).unwrap_or(&name).to_owned(),
            _ => name,
        },
        None => pod
            .metadata("generateName")
            .and_then(Value::as_str)
            .map(|prefix| prefix.trim_end_matches('-'))
            .filter(|prefix| !prefix.is_empty())
            .or_else(|| pod.metadata("name").and_then(Value::as_str))
            .unwrap_or_default()
            .to_owned(),
    };
    // Long generated prefixes may be cut at a dot or a dash, which an id must not end with.
    id.trim_end_matches(['-', '.']).to_owned()
}

/// A Deployment, and a Rollout of Argo, names its `ReplicaSet`s by its own name and the hash that is also the pod's label. Knative makes a
/// Deployment for each revision.
fn deployment<'a>(pod: Pod<'a>, replica_set: &'a str) -> Option<&'a str> {
    let without = |label: &str| replica_set.strip_suffix(pod.label(label)?)?.strip_suffix('-');
    let name = [TEMPLATE_HASH, ROLLOUT_HASH].into_iter().find_map(without).filter(|name| !name.is_empty())?;
    let written = pod.label(KNATIVE).filter(|written| !written.is_empty() && name.ends_with(OF_REVISION));
    Some(written.unwrap_or(name))
}

/// A `DeploymentConfig` names its `ReplicationController`s by its own name and a number.
fn deployment_config<'a>(pod: Pod<'_>, replication_controller: &'a str) -> Option<&'a str> {
    let (name, number) = replication_controller.rsplit_once('-')?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && !name.is_empty() && pod.annotation(DEPLOYMENT_CONFIG) == Some(name)).then_some(name)
}

/// A `CronJob` names its Jobs by its own name and the scheduled time in minutes since 1970: eight digits until 2160.
fn cron_job(job: &str) -> Option<&str> {
    let (name, minutes) = job.rsplit_once('-')?;
    (minutes.len() == 8 && minutes.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty()).then_some(name)
}

/// Checks an agent id that a person wrote: the same rule as the sidecar's.
pub(super) fn check(id: &str) -> Result<(), String> {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/@".contains(&byte);
    let outer = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let bytes = id.as_bytes();
    if bytes.len() > MAX_AGENT_ID_BYTES {
        return Err(format!("it is {} bytes long; shorten it to at most {MAX_AGENT_ID_BYTES}", bytes.len()));
    }
    if !bytes.iter().copied().all(inner) || !outer(bytes.first().copied()) || !outer(bytes.last().copied()) {
        return Err(format!(
            "{id:?} must be letters, digits, '-', '_', '.', ':', '/' and '@', with a letter or digit at both ends \
             (it is what {} becomes)",
            names::ENV_AGENT
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn id(metadata: &Value) -> String {
        default_id(Pod::new(&json!({ "metadata": metadata })))
    }

    fn owned(kind: &str, name: &str) -> Value {
        json!([
            {"apiVersion": "v1", "kind": "Other", "name": "bystander", "uid": "1"},
            {"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "2", "controller": true},
        ])
    }

    #[test]
    fn pods_of_all_revisions_of_a_deployment_or_a_rollout_share_its_name() {
        for (hash, label) in [("7c9d8b5f4", TEMPLATE_HASH), ("5d6f", TEMPLATE_HASH), ("7c9d8b5f4", ROLLOUT_HASH)] {
            let references = owned("ReplicaSet", &format!("my-agent-{hash}"));
            let metadata = json!({"generateName": format!("my-agent-{hash}-"), "labels": {label: hash},
                "ownerReferences": references});
            assert_eq!(id(&metadata), "my-agent", "{label}");
        }
    }

    #[test]
    fn pods_of_all_revisions_of_knative_share_the_name_of_what_a_person_wrote() {
        for (revision, hash) in [("my-agent-00001", "7c9d8b5f4"), ("my-agent-00002", "5d6f"), ("my-agent-v2", "5d6f")] {
            let labels = json!({TEMPLATE_HASH: hash, KNATIVE: "my-agent", "serving.knative.dev/revision": revision});
            let references = owned("ReplicaSet", &format!("{revision}-deployment-{hash}"));
            assert_eq!(id(&json!({"labels": labels, "ownerReferences": references})), "my-agent", "{revision}");
        }
        // The label may have been copied into a Deployment of a person's own.
        let labels = json!({TEMPLATE_HASH: "5d6f", KNATIVE: "my-agent"});
        assert_eq!(id(&json!({"labels": labels, "ownerReferences": owned("ReplicaSet", "other-5d6f")})), "other");
    }

    #[test]
    fn pods_of_all_revisions_of_a_deployment_config_share_its_name() {
        let of = |controller: &str, config: &str| {
            let annotations = json!({DEPLOYMENT_CONFIG: config});
            id(&json!({"annotations": annotations, "ownerReferences": owned("ReplicationController", controller)}))
        };
        assert_eq!([of("my-agent-1", "my-agent"), of("my-agent-12", "my-agent")], ["my-agent"; 2]);
        assert_eq!(of("my-agent-canary", "my-agent"), "my-agent-canary");
        assert_eq!(of("my-agent-1", "another"), "my-agent-1", "the annotation may have been copied");
        assert_eq!(id(&json!({"ownerReferences": owned("ReplicationController", "agent-2")})), "agent-2");
    }

    #[test]
    fn a_replica_set_without_a_deployment_keeps_its_whole_name() {
        let references = owned("ReplicaSet", "agent-7c9d8b5f4");
        assert_eq!(id(&json!({"ownerReferences": references})), "agent-7c9d8b5f4");
        // A label of a person's own is no hash.
        assert_eq!(id(&json!({"labels": {"version": "7c9d8b5f4"}, "ownerReferences": references})), "agent-7c9d8b5f4");
    }

    #[test]
    fn jobs_of_a_cron_job_share_its_name_and_other_jobs_keep_theirs() {
        assert_eq!(id(&json!({"ownerReferences": owned("Job", "nightly-29812345")})), "nightly");
        assert_eq!(id(&json!({"ownerReferences": owned("Job", "import-2026")})), "import-2026");
        assert_eq!(id(&json!({"ownerReferences": owned("Job", "import")})), "import");
    }

    #[test]
    fn other_owners_give_their_name() {
        assert_eq!(id(&json!({"ownerReferences": owned("StatefulSet", "agents")})), "agents");
        assert_eq!(id(&json!({"ownerReferences": owned("Crew", "planners")})), "planners");
    }

    #[test]
    fn a_pod_of_its_own_gives_its_name_or_its_prefix() {
        assert_eq!(id(&json!({"name": "agent"})), "agent");
        assert_eq!(id(&json!({"generateName": "agent-"})), "agent");
        assert_eq!(id(&json!({"generateName": "agent-", "name": "agent-x7abc"})), "agent");
    }

    #[test]
    fn agent_ids_are_checked_at_both_ends_and_inside() {
        for good in ["a", "support/triage@v2", "a.b_c-d:e"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", "a/", "a b", "ä", &"a".repeat(254)] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
