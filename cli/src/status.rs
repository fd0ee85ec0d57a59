//! `status`: all `ContextManager`s with what their conditions say, or one in detail with its pods.

pub(crate) mod detail;

use std::fmt::Write as _;

use context_manager_crds::ContextManagerStatus;
use jiff::Timestamp;
use kube::{ResourceExt as _, api::DynamicObject};
use serde::Serialize;

use crate::{
    answer::{Answer, Exit, Health, Output},
    cluster::Cluster,
    error::Error,
    table::table,
};

/// Arguments of `status`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Show this one in detail
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

/// A line about a `ContextManager`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Summary {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) ready: String,
    pub(crate) reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
    pub(crate) status: ContextManagerStatus,
}

/// Shows.
pub(crate) async fn run(cluster: &Cluster, args: &Args, output: Output) -> Result<Answer, Error> {
    match &args.name {
        Some(name) => detail::run(cluster, name, output).await,
        None => all(cluster, output).await,
    }
}

async fn all(cluster: &Cluster, output: Output) -> Result<Answer, Error> {
    let visible = cluster.visible().await?;
    let mut notes: Vec<_> = visible.note().into_iter().collect();
    let mut summaries: Vec<_> = visible.found.iter().map(summary).collect();
    summaries.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    if summaries.is_empty() {
        notes.push("there is no ContextManager; examples/contextmanager.yaml is one".to_owned());
    }
    let exit = Exit::unless(Health::all(summaries.iter().map(Summary::is_ready)));
    let now = Timestamp::now();
    let text = output.write(&summaries, |summaries| rows(summaries, now))?;
    Ok(Answer::new(text, exit).noting(notes))
}

/// What a resource says of itself. A status that this version cannot read is one that says nothing.
pub(crate) fn summary(object: &DynamicObject) -> Summary {
    let status = object.data.get("status").cloned().unwrap_or_default();
    let (status, unread) = match serde_json::from_value::<Option<ContextManagerStatus>>(status) {
        Ok(status) => (status.unwrap_or_default(), None),
        Err(error) => (ContextManagerStatus::default(), Some(format!("the status is of another version: {error}"))),
    };
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
    let current = ready.is_none_or(|ready| ready.observed_generation == object.metadata.generation);
    let (word, reason, message) = match ready {
        Some(ready) if current => (ready.status.clone(), ready.reason.clone(), ready.message.clone()),
        Some(_) => (
            "Unknown".to_owned(),
            "Outdated".to_owned(),
            "the controller has not seen the last change yet; does it run?".to_owned(),
        ),
        None => {
            ("Unknown".to_owned(), "NotSeen".to_owned(), "the controller has not seen it yet; does it run?".to_owned())
        }
    };
    let message = unread.or_else(|| (word != "True").then_some(message));
    Summary {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        ready: word,
        reason,
        message,
        status,
    }
}

impl Summary {
    pub(crate) fn is_ready(&self) -> bool {
        self.ready == "True"
    }
}

fn rows(summaries: &[Summary], now: Timestamp) -> String {
    let row = |summary: &Summary| {
        let Summary { namespace, name, ready, reason, status, .. } = summary;
        let pods = status.pods.unwrap_or_default();
        let keys = status.keys.as_ref();
        [
            namespace.clone(),
            name.clone(),
            ready.clone(),
            reason.clone(),
            status.store.clone().unwrap_or_else(|| "-".to_owned()),
            format!("{}/{}", pods.ready, pods.injected),
            pods.outdated.to_string(),
            pods.missing.to_string(),
            keys.and_then(|keys| keys.rotated_at.as_ref()).map_or_else(|| "-".to_owned(), |at| age(at.0, now)),
            first_end(status).map_or_else(|| "-".to_owned(), |end| until(end, now)),
        ]
    };
    let heading =
        ["NAMESPACE", "NAME", "READY", "REASON", "STORE", "PODS", "OUTDATED", "MISSING", "KEY-AGE", "CERTIFICATE-ENDS"];
    let mut text = if summaries.is_empty() {
        String::new()
    } else {
        table(heading, &summaries.iter().map(row).collect::<Vec<_>>())
    };
    for Summary { namespace, name, message, .. } in summaries.iter().filter(|summary| summary.message.is_some()) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{namespace}/{name}: {}", message.as_deref().unwrap_or_default());
    }
    text
}

/// When the first certificate ends.
pub(crate) fn first_end(status: &ContextManagerStatus) -> Option<Timestamp> {
    status.certificates.iter().map(|certificate| certificate.not_after.0).min()
}

/// How long ago, in the largest unit that says something.
pub(crate) fn age(at: Timestamp, now: Timestamp) -> String {
    span(now.as_second() - at.as_second())
}

/// How long until then, or that it is over.
pub(crate) fn until(at: Timestamp, now: Timestamp) -> String {
    let left = at.as_second() - now.as_second();
    if left < 0 { format!("{} ago", span(-left)) } else { span(left) }
}

fn span(seconds: i64) -> String {
    match seconds.max(0) {
        seconds if seconds >= 2 * 86_400 => format!("{}d", seconds / 86_400),
        seconds if seconds >= 2 * 3_600 => format!("{}h", seconds / 3_600),
        seconds if seconds >= 2 * 60 => format!("{}m", seconds / 60),
        seconds => format!("{seconds}s"),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(generation: i64, status: &Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "contextmanager.dev/v1alpha1", "kind": "ContextManager",
            "metadata": {"name": "memory", "namespace": "team", "generation": generation}, "spec": {}, "status": status,
        }))
        .unwrap()
    }

    fn ready(status: &str, observed: i64) -> Value {
        json!({"conditions": [{"type": "Ready", "status": status, "reason": "R", "message": "why", "observedGeneration": observed,
            "lastTransitionTime": "2030-01-01T00:00:00Z"}], "store": "Qdrant", "pods": {"injected": 3, "ready": 2}})
    }

    #[test]
    fn a_summary_says_what_the_condition_says_of_this_generation() {
        let good = summary(&object(2, &ready("True", 2)));
        assert_eq!((good.ready.as_str(), good.message.as_deref(), good.is_ready()), ("True", None, true));
        let bad = summary(&object(2, &ready("False", 2)));
        assert_eq!((bad.reason.as_str(), bad.message.as_deref(), bad.is_ready()), ("R", Some("why"), false));
        let old = summary(&object(3, &ready("True", 2)));
        assert_eq!((old.ready.as_str(), old.reason.as_str()), ("Unknown", "Outdated"));
        let new = summary(&object(1, &Value::Null));
        assert_eq!((new.ready.as_str(), new.reason.as_str()), ("Unknown", "NotSeen"));
    }

    #[test]
    fn a_status_of_another_version_is_said_and_not_fatal() {
        let strange = summary(&object(1, &json!({"conditions": "none"})));
        assert!(!strange.is_ready() && strange.message.unwrap().contains("another version"));
    }

    #[test]
    fn lines_show_pods_and_what_is_not_well() {
        let text = rows(&[summary(&object(2, &ready("False", 2)))], Timestamp::from_second(0).unwrap());
        assert!(text.contains("Qdrant") && text.contains("2/3"), "{text}");
        assert!(text.ends_with("team/memory: why\n"), "{text}");
    }

    #[test]
    fn times_are_short() {
        let at = |second| Timestamp::from_second(second).unwrap();
        for (seconds, expected) in [(5, "5s"), (150, "2m"), (7300, "2h"), (400_000, "4d")] {
            assert_eq!(age(at(0), at(seconds)), expected);
            assert_eq!(until(at(seconds), at(0)), expected);
        }
        assert_eq!(until(at(0), at(5)), "5s ago");
    }
}
