//! Evictions: a pod is taken away by the API that keeps `PodDisruptionBudget`s, and only the pod that was looked at.

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, EvictParams, Preconditions},
};

use super::{
    context::Context,
    error::{Error, call},
    status::Trouble,
};

/// What became of an eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evicted {
    /// The pod is ending.
    Yes,
    /// It is gone, or another one by now: the next look sees it.
    Gone,
    /// It stays for now.
    Held(Held),
}

/// Why a pod stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// Its `PodDisruptionBudget` does not permit it now.
    Budget,
    /// The API server cannot say whether it may go; kube-apiserver answers so where a pod has several budgets.
    Unclear,
    /// An admission policy or webhook of its namespace is against it.
    Refused,
    /// The operator has not the right to evict pods there.
    Forbidden,
}

impl Held {
    /// What it means to a person. `pod` is what the person calls it.
    pub(super) fn trouble(self, pod: &str) -> Trouble {
        let why = match self {
            Self::Budget => format!("the PodDisruptionBudget of {pod} does not permit to evict it now"),
            Self::Unclear => format!(
                "the API server failed to evict {pod}; if several PodDisruptionBudgets select it, let one alone do so, and see whether \
                 the admission webhooks of its namespace answer"
            ),
            Self::Refused => return refused(pod),
            Self::Forbidden => return forbidden(pod),
        };
        Trouble::passing("DisruptionBudget", why + "; it is tried again")
    }
}

/// What a policy that is against a change of a pod means to a person.
pub(super) fn refused(pod: &str) -> Trouble {
    let message = format!(
        "an admission policy or webhook of its namespace is against a change of {pod}, or does not answer; it is tried again"
    );
    Trouble::passing("PodRefused", message)
}

/// What a want of rights means to a person.
fn forbidden(pod: &str) -> Trouble {
    let message = format!(
        "the operator may not evict {pod}; the chart gives it the right with controller.managedQdrant=true, \
         controller.upgradeSidecars=true or controller.watchdog=evict"
    );
    Trouble::stalled("Forbidden", message)
}

/// Evicts the pod of this name if it is still the one with this uid. `action` says what for.
pub(super) async fn evict(
    context: &Context,
    action: &'static str,
    (namespace, name): (&str, &str),
    uid: Option<&str>,
) -> Result<Evicted, Error> {
    let this = Preconditions { uid: uid.map(str::to_owned), resource_version: None };
    let options = DeleteParams { preconditions: Some(this), ..DeleteParams::default() };
    let params = EvictParams { delete_options: Some(options), ..EvictParams::default() };
    let api = Api::<Pod>::namespaced(context.evicting.clone(), namespace);
    outcome(call(action, api.evict(name, &params)).await.map(drop))
}

/// What an answer means. Whatever may be the matter with this pod alone is no error, because nothing else has to wait for it; what is left are
/// errors of the cluster.
fn outcome(answer: Result<(), Error>) -> Result<Evicted, Error> {
    let Err(error) = answer else { return Ok(Evicted::Yes) };
    if matches!(error, Error::Timeout { .. }) {
        return Ok(Evicted::Held(Held::Unclear));
    }
    match error.status().map(|status| status.code) {
        Some(404 | 409) => Ok(Evicted::Gone),
        Some(403) if error.lacks_right("create") => Ok(Evicted::Held(Held::Forbidden)),
        Some(400 | 403 | 422) => Ok(Evicted::Held(Held::Refused)),
        Some(429) => Ok(Evicted::Held(Held::Budget)),
        Some(500 | 503 | 504) => Ok(Evicted::Held(Held::Unclear)),
        Some(_) | None => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(code: u16, message: &str) -> Result<Evicted, Error> {
        let status = kube::core::Status { code, message: message.to_owned(), ..kube::core::Status::default() };
        outcome(Err(Error::Api { action: "evict", source: Box::new(kube::Error::Api(Box::new(status))) }))
    }

    #[test]
    fn an_answer_that_keeps_a_pod_is_no_error() {
        assert_eq!(outcome(Ok(())).ok(), Some(Evicted::Yes));
        for code in [404, 409] {
            assert_eq!(answered(code, "").ok(), Some(Evicted::Gone), "{code}");
        }
        for code in [400, 422] {
            assert_eq!(answered(code, "").ok(), Some(Evicted::Held(Held::Refused)), "{code}");
        }
        assert_eq!(answered(429, "").ok(), Some(Evicted::Held(Held::Budget)));
        for code in [500, 503, 504] {
            assert_eq!(answered(code, "").ok(), Some(Evicted::Held(Held::Unclear)), "{code}");
        }
        assert_eq!(outcome(Err(Error::Timeout { action: "evict" })).ok(), Some(Evicted::Held(Held::Unclear)));
        assert!(answered(401, "").is_err(), "it is not the pod's");
    }

    #[test]
    fn a_policy_that_forbids_is_told_from_a_right_that_is_missing() {
        let policy = r#"pods "agent" is forbidden: ValidatingAdmissionPolicy 'calm' denied request: not now"#;
        assert_eq!(answered(403, policy).ok(), Some(Evicted::Held(Held::Refused)));
        let rights =
            r#"pods "agent" is forbidden: User "operator" cannot create resource "pods/eviction" in API group """#;
        assert_eq!(answered(403, rights).ok(), Some(Evicted::Held(Held::Forbidden)));
        assert!(!Held::Refused.trouble("agent").stalled, "it may pass by itself");
        let trouble = Held::Forbidden.trouble("agent");
        assert!(trouble.stalled && trouble.message.contains("controller.watchdog=evict"), "{trouble:?}");
    }
}
