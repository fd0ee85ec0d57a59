//! The `ContextManager`s: ready, with certificates that last.

use jiff::Timestamp;

use super::finding::Findings;
use crate::{
    cluster::Visible,
    error::Error,
    status::{Summary, first_end, summary, until},
};

const READY: &str = "context-managers";
const PODS: &str = "pods";
const CERTIFICATES: &str = "certificates";

/// Looks at all that may be seen.
pub(super) fn check(visible: &Result<Visible, Error>, findings: &mut Findings) {
    let visible = match visible {
        Ok(visible) => visible,
        Err(error) => return findings.unknown(READY, error),
    };
    let only = visible.only.as_ref().map(|only| format!(" of namespace {only:?}, the only one you may see"));
    let summaries: Vec<_> = visible.found.iter().map(summary).collect();
    judge(&summaries, &only.unwrap_or_default(), Timestamp::now(), findings);
}

fn judge(summaries: &[Summary], where_: &str, now: Timestamp, findings: &mut Findings) {
    let bad: Vec<_> = summaries.iter().filter(|summary| !summary.is_ready()).collect();
    if bad.is_empty() {
        findings.fine(READY, format!("all {}{where_} are ready", summaries.len()));
    }
    for Summary { namespace, name, reason, message, .. } in bad {
        let message = format!("{namespace}/{name} is not ready: {reason}: {}", message.as_deref().unwrap_or_default());
        findings.problem(
            READY,
            message,
            format!(
                "look at `kubectl context status {name} -n {namespace}` and the table of reasons in docs/resource.md"
            ),
        );
    }
    for Summary { namespace, name, status, .. } in summaries {
        let pods = status.pods.unwrap_or_default();
        if pods.missing > 0 || pods.outdated > 0 {
            let message = format!(
                "{namespace}/{name}: {} ask for a sidecar and have none, {} have an old one",
                pods.missing, pods.outdated
            );
            let remedy = format!(
                "recreate them, as by `kubectl rollout restart`; old ones `kubectl context upgrade-sidecars {name} -n {namespace}` upgrades"
            );
            findings.warning(PODS, message, remedy);
        }
        if let Some(end) = first_end(status).filter(|end| *end < now) {
            let message = format!("{namespace}/{name}: a certificate ended {}", until(end, now));
            findings.problem(CERTIFICATES, message, "look whether the controller leads, and at its log");
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::{super::finding::Level, *};

    fn seen(ready: &str, end: &str, missing: i32) -> Summary {
        summary(
            &serde_json::from_value(json!({
                "apiVersion": "contextmanager.dev/v1alpha1", "kind": "ContextManager",
                "metadata": {"name": "memory", "namespace": "team"},
                "status": {
                    "conditions": [{"type": "Ready", "status": ready, "reason": "R", "message": "why", "lastTransitionTime": end}],
                    "certificates": [{"name": "client", "notAfter": end, "fingerprint": "aa"}],
                    "pods": {"injected": 1, "ready": 1, "outdated": 0, "missing": missing},
                },
            }))
            .unwrap(),
        )
    }

    fn levels(summaries: &[Summary]) -> Vec<(&'static str, Level)> {
        let mut findings = Findings::default();
        judge(summaries, "", "2030-01-01T00:00:00Z".parse().unwrap(), &mut findings);
        findings.0.iter().map(|finding| (finding.check, finding.level)).collect()
    }

    #[test]
    fn each_resource_that_is_not_well_is_a_finding() {
        assert_eq!(levels(&[]), [(READY, Level::Fine)]);
        assert_eq!(levels(&[seen("True", "2031-01-01T00:00:00Z", 0)]), [(READY, Level::Fine)]);
        assert_eq!(levels(&[seen("False", "2031-01-01T00:00:00Z", 0)]), [(READY, Level::Problem)]);
        assert_eq!(
            levels(&[seen("True", "2029-01-01T00:00:00Z", 0)]),
            [(READY, Level::Fine), (CERTIFICATES, Level::Problem)]
        );
        assert_eq!(levels(&[seen("True", "2031-01-01T00:00:00Z", 2)]), [(READY, Level::Fine), (PODS, Level::Warning)]);
    }
}
