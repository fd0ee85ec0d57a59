//! Who owns a pod, and the agent's id that follows from it.
//!
//! The id has to be the same for all pods of a workload and over its updates, or the agent would lose its memory with
//! each of them: so it is the name of the workload that a person wrote, found without asking the cluster.

use context_manager_protocol::names;
use serde_json::Value;

use super::pod::Pod;

/// Longest agent id.
pub(super) const MAX_AGENT_ID_BYTES: usize = 253;

/// The label by which a Deployment tells the pods of its revisions apart.
const TEMPLATE_HASH: &str = "pod-template-hash";

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

/// A Deployment names its `ReplicaSet`s by its own name and the hash that is also the pod's label.
fn deployment<'a>(pod: Pod<'_>, replica_set: &'a str) -> Option<&'a str> {
    let hash = pod.label(TEMPLATE_HASH)?;
    replica_set.strip_suffix(hash)?.strip_suffix('-').filter(|name| !name.is_empty())
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
    fn pods_of_all_revisions_of_a_deployment_share_its_name() {
        for hash in ["7c9d8b5f4", "5d6f"] {
            let references = owned("ReplicaSet", &format!("my-agent-{hash}"));
            let metadata = json!({"generateName": format!("my-agent-{hash}-"), "labels": {TEMPLATE_HASH: hash},
                "ownerReferences": references});
            assert_eq!(id(&metadata), "my-agent");
        }
    }

    #[test]
    fn a_replica_set_without_a_deployment_keeps_its_whole_name() {
        assert_eq!(id(&json!({"ownerReferences": owned("ReplicaSet", "agent-7c9d8b5f4")})), "agent-7c9d8b5f4");
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
