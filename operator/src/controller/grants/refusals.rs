//! What becomes of a write into another namespace that fails: it is a trouble of that namespace and of nothing else, and is made again with
//! growing pauses. Whoever rules that namespace decides what may be written there, and must not hold up the resource with it.
//!
//! What the API server answered goes to the log alone: the owner of the resource need not know the policies of another namespace.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::warn;

use super::Owner;
use crate::controller::{
    error::Error,
    reconcile::{LONGEST_WAIT, backoff, jittered},
    status::Trouble,
};

/// What the API server calls the cause of a refusal in a namespace that is being deleted.
const ENDING: &str = "NamespaceTerminating";

/// Why a namespace has not what it should have.
#[derive(Debug)]
pub(super) enum Failure {
    /// Something of that namespace: the others go on.
    There(Refused),
    /// Something that concerns all.
    Everywhere(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Everywhere(error)
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        Self::There(Refused { trouble, again: None })
    }
}

/// A trouble of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// What is the matter.
    pub(super) trouble: Trouble,
    /// When it is tried again, if not with the next look at the resource.
    pub(super) again: Option<Duration>,
}

/// Tells troubles of a namespace from errors that concern all.
pub(super) fn sorted<T>(result: Result<T, Failure>) -> Result<Result<T, Refused>, Error> {
    match result {
        Ok(done) => Ok(Ok(done)),
        Err(Failure::There(refused)) => Ok(Err(refused)),
        Err(Failure::Everywhere(error)) => Err(error),
    }
}

/// What is read in a namespace. No policy and no webhook is asked about that, so only a right can be missing there.
pub(super) fn readable<T>(read: Result<T, Error>) -> Result<T, Failure> {
    read.map_err(|error| match error.status() {
        Some(status) if status.code == 403 => refused(403).into(),
        Some(_) | None => error.into(),
    })
}

/// Writes that failed: by the uid of the resource and the namespace.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<HashMap<(String, String), Pause>>);

/// Until when a namespace is left alone.
#[derive(Clone, Debug)]
struct Pause {
    failures: u32,
    until: Instant,
    trouble: Trouble,
}

impl Refusals {
    /// Makes a write, unless the last one failed a short time ago.
    pub(super) async fn attempt<T>(
        &self,
        owner: Owner<'_>,
        namespace: &str,
        write: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Failure> {
        let key = (owner.uid.to_owned(), namespace.to_owned());
        if let Some(refused) = self.rests(&key, Instant::now()) {
            return Err(Failure::There(refused));
        }
        let error = match write.await {
            Ok(written) => {
                self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
                return Ok(written);
            }
            Err(error) => error,
        };
        let refused = match diagnosis(&error) {
            Diagnosis::Elsewhere => return Err(Failure::Everywhere(error)),
            Diagnosis::Gone(trouble) => return Err(trouble.into()),
            Diagnosis::Refused(trouble) => self.failed(key, trouble, Instant::now()),
        };
        let Owner { namespace: of, name, .. } = owner;
        let (pause_ms, error): (_, &dyn std::error::Error) = (refused.again.map(|pause| pause.as_millis()), &error);
        warn!(namespace = of, name, granted.namespace = namespace, pause_ms, error, "A copy could not be written");
        Err(Failure::There(refused))
    }

    /// Forgets all resources but these.
    pub(in crate::controller) fn keep(&self, is_there: impl Fn(&str) -> bool) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(of, _), _| is_there(of));
    }

    /// Forgets the namespaces of a resource that do not matter any more.
    pub(super) fn keep_namespaces(&self, uid: &str, matters: impl Fn(&str) -> bool) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(of, namespace), _| of != uid || matters(namespace));
    }

    fn rests(&self, key: &(String, String), now: Instant) -> Option<Refused> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Pause { until, trouble, .. } = all.get(key)?;
        let left = until.checked_duration_since(now).filter(|left| !left.is_zero())?;
        Some(Refused { trouble: trouble.clone(), again: Some(left) })
    }

    fn failed(&self, key: (String, String), trouble: Trouble, now: Instant) -> Refused {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let failures = all.get(&key).map_or(0, |pause| pause.failures).saturating_add(1);
        let again = jittered(backoff(failures).min(LONGEST_WAIT), rand::random());
        all.insert(key, Pause { failures, until: now + again, trouble: trouble.clone() });
        Refused { trouble, again: Some(again) }
    }
}

/// What a failed write says of the namespace.
#[derive(Debug, PartialEq, Eq)]
enum Diagnosis {
    /// Nothing: the API server is away, or this replica does not lead any more.
    Elsewhere,
    /// It is not there, or not for long. That is no fault of anybody, and costs no webhook a call.
    Gone(Trouble),
    /// It does not take the write.
    Refused(Trouble),
}

fn diagnosis(error: &Error) -> Diagnosis {
    if matches!(error, Error::Timeout { .. }) {
        return Diagnosis::Refused(failing("is not answered in time"));
    }
    let Some(status) = error.status() else { return Diagnosis::Elsewhere };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    match status.code {
        404 => {
            let message = "it does not exist; pods there can use this when it does";
            Diagnosis::Gone(Trouble::passing("NamespaceMissing", message))
        }
        403 if causes.map(|cause| &cause.reason).any(|reason| reason == ENDING) => {
            Diagnosis::Gone(Trouble::passing("NamespaceRefuses", "it is being deleted"))
        }
        code @ (429 | 500..) => Diagnosis::Refused(failing(&format!("fails ({code})"))),
        code => Diagnosis::Refused(refused(code)),
    }
}

fn failing(how: &str) -> Trouble {
    let message = format!(
        "what the operator writes there {how}: an admission webhook that is called for it may not answer; the \
         controller's log says more"
    );
    Trouble::passing("NamespaceFails", message)
}

fn refused(code: u16) -> Trouble {
    let message = format!(
        "what the operator does there is refused ({code}): by an admission policy, a webhook or a quota, or because the \
         operator lacks the right; the controller's log says more"
    );
    Trouble::passing("NamespaceRefuses", message)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use kube::core::Status;
    use serde_json::json;

    use super::*;

    fn answer(status: Status) -> Error {
        Error::Api { action: "write a copy", source: Box::new(kube::Error::Api(status.boxed())) }
    }

    fn code(code: u16) -> Error {
        answer(Status { code, ..Status::default() })
    }

    fn reason(error: &Error) -> &'static str {
        match diagnosis(error) {
            Diagnosis::Elsewhere => "Elsewhere",
            Diagnosis::Gone(trouble) | Diagnosis::Refused(trouble) => trouble.reason,
        }
    }

    #[test]
    fn whatever_is_answered_is_a_trouble_of_that_namespace_alone() {
        for refusing in [400, 401, 403, 409, 413, 422] {
            assert_eq!(reason(&code(refusing)), "NamespaceRefuses", "{refusing}");
        }
        for failing in [429, 500, 503, 504] {
            assert_eq!(reason(&code(failing)), "NamespaceFails", "{failing}");
        }
        assert_eq!(reason(&Error::Timeout { action: "write a copy" }), "NamespaceFails");
        assert_eq!(reason(&code(404)), "NamespaceMissing");
        let ending = json!({"code": 403, "details": {"causes": [{"reason": ENDING}]}});
        let ending = answer(serde_json::from_value(ending).unwrap());
        assert!(matches!(diagnosis(&ending), Diagnosis::Gone(_)), "{ending:?}");
        let away = kube::Error::Service("connection refused".into());
        assert_eq!(reason(&Error::Api { action: "write a copy", source: Box::new(away) }), "Elsewhere");
    }

    #[tokio::test]
    async fn a_namespace_that_refuses_is_left_alone_for_growing_pauses() {
        let owner = Owner { uid: "1", namespace: "team", name: "memory" };
        let refusals = Refusals::default();
        let attempt = async |at: &str, outcome: Result<(), Error>| {
            sorted(refusals.attempt(owner, at, async { outcome }).await).unwrap().err()
        };
        let refused = attempt("guest", Err(code(422))).await.unwrap();
        assert!(refused.trouble.message.contains("refused (422)") && refused.again.is_some(), "{refused:?}");
        assert_eq!(attempt("gone", Err(code(404))).await.unwrap().again, None, "no webhook is asked about it");
        assert_eq!(attempt("gone", Ok(())).await, None);

        // The clock of the next ones is an hour ahead, so that none of them ends meanwhile.
        let key = (owner.uid.to_owned(), "guest".to_owned());
        let later = Instant::now() + Duration::from_hours(1);
        let fail = || refusals.failed(key.clone(), failing("fails (500)"), later).again.unwrap();
        let pauses: Vec<_> = (0..12).map(|_| fail()).collect();
        assert!(pauses[4] > 2 * pauses[0] && pauses[11] <= LONGEST_WAIT.mul_f64(1.26), "{pauses:?}");
        let write = async { unreachable!("it is written although it has a pause") };
        let refused = sorted(refusals.attempt::<()>(owner, "guest", write).await).unwrap().unwrap_err();
        assert_eq!(refused.trouble.reason, "NamespaceFails");
        assert_eq!(attempt("other", Ok(())).await, None, "another namespace is none of its business");
        refusals.keep_namespaces(owner.uid, |namespace| namespace != "guest");
        assert_eq!(attempt("guest", Ok(())).await, None, "what is allowed anew begins anew");
    }
}
