//! The status: what the parts found, as conditions that people, `kubectl wait` and kstatus understand. Pure.

use context_manager_crds::{
    ContextManagerStatus,
    context_manager::status::{Certificate, Keys, Pods, Snapshots, Upgrade},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Longest message that the API accepts in a condition.
const MAX_MESSAGE: usize = 32_768;
/// Names that a message lists before it counts.
const NAMED: usize = 5;

/// Something is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// One word in `CamelCase`.
    pub reason: &'static str,
    /// What is the matter and what to do.
    pub message: String,
    /// Whether only a person can change it.
    pub stalled: bool,
}

impl Trouble {
    /// Only a person can change it.
    pub(super) fn stalled(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), stalled: true }
    }

    /// It passes by itself.
    pub(super) fn passing(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), stalled: false }
    }
}

/// The first of many names, and the number of the others.
pub(super) fn listed(names: &[String]) -> String {
    let first = names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// A part that is as it should be: reason and message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Good(pub &'static str, pub String);

/// What a part found.
pub type Finding = Result<Good, Trouble>;

/// What all parts found.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The key ring, and the Secrets that the user makes.
    pub secrets: Finding,
    /// The certificate.
    pub tls: Finding,
    /// The configuration.
    pub config: Finding,
    /// Where contexts are kept: the volume, or the server.
    pub store: Finding,
    /// What is said beside of a store that the operator runs, by the conditions' types.
    pub store_beside: Vec<(&'static str, Finding)>,
    /// The webhook.
    pub injection: Finding,
    /// Ids of the keys.
    pub keys: Option<Keys>,
    /// Certificates in use.
    pub certificates: Vec<Certificate>,
    /// Where contexts are kept, in a word.
    pub store_kind: String,
    /// Pods with a sidecar.
    pub pods: Pods,
    /// Snapshots of the store.
    pub snapshots: Option<Snapshots>,
    /// How far the rotation of the key is, if there is a ring. It says nothing of whether the resource can be used.
    pub rotation: Option<Finding>,
    /// How far the upgrade of the sidecars is, if one was asked for.
    pub upgrade: Option<Finding>,
    /// What is to be remembered of that upgrade.
    pub remembered: Option<Upgrade>,
    /// Whether every pod that asks for a sidecar has one.
    pub injected: Finding,
    /// Whether other namespaces have what their pods need, if any is allowed. It says nothing of the resource's own.
    pub grants: Option<Finding>,
    /// Whether the operator only observes.
    pub suspended: bool,
}

impl Report {
    fn parts(&self) -> [(&'static str, &Finding); 5] {
        [
            ("SecretsReady", &self.secrets),
            ("TLSReady", &self.tls),
            ("ConfigReady", &self.config),
            ("StoreReady", &self.store),
            ("InjectionReady", &self.injection),
        ]
    }

    /// The first thing that is not as it should be; what a person must change comes first.
    #[must_use]
    pub fn trouble(&self) -> Option<&Trouble> {
        let troubles = || self.parts().into_iter().filter_map(|(_, finding)| finding.as_ref().err());
        troubles().find(|trouble| trouble.stalled).or_else(|| troubles().next())
    }

    /// The status that says so. Times of conditions that stay the same are kept from the `current` one.
    #[must_use]
    pub fn status(
        self,
        generation: Option<i64>,
        current: Option<&ContextManagerStatus>,
        now: Timestamp,
    ) -> ContextManagerStatus {
        let rotation = self.rotation.iter().map(|finding| ("KeysRotated", finding));
        let upgrade = self.upgrade.iter().map(|finding| ("SidecarsCurrent", finding));
        let grants = self.grants.iter().map(|finding| ("GrantsReady", finding));
        let store = self.store_beside.iter().map(|(kind, finding)| (*kind, finding));
        let beside = rotation.chain(upgrade).chain([("PodsInjected", &self.injected)]).chain(grants).chain(store);
        let parts = self.parts().into_iter().chain(beside).map(|(kind, finding)| match finding {
            Ok(Good(reason, message)) => (kind, true, *reason, message.clone()),
            Err(trouble) => (kind, false, trouble.reason, trouble.message.clone()),
        });
        let ready = match (self.trouble(), self.suspended) {
            (Some(trouble), _) => ("Ready", false, trouble.reason, trouble.message.clone()),
            (None, true) => {
                ("Ready", true, "Suspended", "all is there; nothing is changed while spec.suspend is true".to_owned())
            }
            (None, false) => ("Ready", true, "Provisioned", "pods that opt in get a sidecar".to_owned()),
        };
        let conditions = progress(ready, self.trouble()).into_iter().chain(parts);
        ContextManagerStatus {
            observed_generation: generation,
            conditions: conditions.map(|condition| dated(condition, generation, current, now)).collect(),
            store: Some(self.store_kind),
            keys: self.keys,
            certificates: self.certificates,
            pods: Some(self.pods),
            snapshots: self.snapshots,
            upgrade: self.remembered,
        }
    }
}

/// The status of a resource that cannot be understood or breaks a rule.
#[must_use]
pub fn invalid(
    message: &str,
    generation: Option<i64>,
    current: Option<&ContextManagerStatus>,
    now: Timestamp,
) -> ContextManagerStatus {
    troubled(&Trouble::stalled("InvalidSpec", message), generation, current, now)
}

/// The status of a resource whose reconciliation fails again and again.
#[must_use]
pub fn failing(
    message: &str,
    generation: Option<i64>,
    current: Option<&ContextManagerStatus>,
    now: Timestamp,
) -> ContextManagerStatus {
    troubled(&Trouble::passing("ReconcileError", message), generation, current, now)
}

/// The status of a resource whose deletion waits.
#[must_use]
pub fn ending(
    trouble: &Trouble,
    generation: Option<i64>,
    current: Option<&ContextManagerStatus>,
    now: Timestamp,
) -> ContextManagerStatus {
    troubled(trouble, generation, current, now)
}

/// The current status with this trouble. What is known of the children stays as it was.
fn troubled(
    trouble: &Trouble,
    generation: Option<i64>,
    current: Option<&ContextManagerStatus>,
    now: Timestamp,
) -> ContextManagerStatus {
    let ready = ("Ready", false, trouble.reason, trouble.message.clone());
    let mut status = current.cloned().unwrap_or_default();
    let changed: Vec<Condition> = progress(ready, Some(trouble))
        .into_iter()
        .map(|condition| dated(condition, generation, current, now))
        .collect();
    status.conditions.retain(|old| changed.iter().all(|new| new.type_ != old.type_));
    status.conditions.splice(0..0, changed);
    status.observed_generation = generation;
    status
}

type Undated = (&'static str, bool, &'static str, String);

/// `Ready` with the two conditions of kstatus that say why it is not.
fn progress(ready: Undated, trouble: Option<&Trouble>) -> [Undated; 3] {
    let stalled = trouble.is_some_and(|trouble| trouble.stalled);
    let reconciling = trouble.is_some_and(|trouble| !trouble.stalled);
    let say = |holds: bool, otherwise: &'static str| match trouble {
        Some(trouble) if holds => (trouble.reason, trouble.message.clone()),
        Some(_) | None => (otherwise, String::new()),
    };
    let (reconciling_reason, reconciling_message) = say(reconciling, "Settled");
    let (stalled_reason, stalled_message) = say(stalled, "NotStalled");
    [
        ready,
        ("Reconciling", reconciling, reconciling_reason, reconciling_message),
        ("Stalled", stalled, stalled_reason, stalled_message),
    ]
}

fn dated(
    (kind, holds, reason, mut message): Undated,
    generation: Option<i64>,
    current: Option<&ContextManagerStatus>,
    now: Timestamp,
) -> Condition {
    let status = if holds { "True" } else { "False" };
    let before = current.and_then(|current| current.conditions.iter().find(|condition| condition.type_ == kind));
    let since = before.filter(|before| before.status == status).map(|before| before.last_transition_time.clone());
    if message.len() > MAX_MESSAGE {
        message.truncate((0..=MAX_MESSAGE).rev().find(|&at| message.is_char_boundary(at)).unwrap_or(0));
    }
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: generation,
        last_transition_time: since.unwrap_or(Time(seconds(now))),
    }
}

/// The API keeps whole seconds; anything finer would look like a change at each comparison.
pub(super) fn seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[expect(clippy::unnecessary_wraps, reason = "it stands for what a part found")]
    fn good() -> Finding {
        Ok(Good("Fine", String::new()))
    }

    fn report() -> Report {
        Report {
            secrets: good(),
            tls: good(),
            config: good(),
            store: good(),
            store_beside: Vec::new(),
            injection: good(),
            keys: None,
            certificates: Vec::new(),
            store_kind: "embedded".to_owned(),
            pods: Pods::default(),
            snapshots: None,
            rotation: None,
            upgrade: None,
            remembered: None,
            grants: None,
            injected: good(),
            suspended: false,
        }
    }

    fn condition<'a>(status: &'a ContextManagerStatus, kind: &str) -> &'a Condition {
        status.conditions.iter().find(|condition| condition.type_ == kind).unwrap()
    }

    #[test]
    fn ready_is_the_sum_of_the_parts() {
        let status = report().status(Some(1), None, at(1));
        assert_eq!(condition(&status, "Ready").status, "True");
        let waiting = Report { injection: Err(Trouble::passing("WebhookMissing", "not yet")), ..report() };
        let status = waiting.clone().status(Some(1), None, at(1));
        let state = |status: &ContextManagerStatus| {
            ["Ready", "Reconciling", "Stalled"].map(|kind| condition(status, kind).status.clone())
        };
        assert_eq!(state(&status), ["False", "True", "False"]);
        let stalled = Report { secrets: Err(Trouble::stalled("SecretNotFound", "make it")), ..waiting };
        let status = stalled.status(Some(1), None, at(1));
        assert_eq!(state(&status), ["False", "False", "True"]);
        assert_eq!(condition(&status, "Ready").reason, "SecretNotFound", "what a person must change comes first");
    }

    #[test]
    fn a_rotation_that_waits_leaves_the_resource_ready() {
        let waiting = Report { rotation: Some(Err(Trouble::passing("Publishing", "for a"))), ..report() };
        let status = waiting.status(Some(1), None, at(1));
        assert_eq!(condition(&status, "KeysRotated").status, "False");
        let state = ["Ready", "Reconciling", "Stalled"].map(|kind| condition(&status, kind).status.clone());
        assert_eq!(state, ["True", "False", "False"]);
        assert!(report().status(Some(1), None, at(1)).conditions.iter().all(|said| said.type_ != "KeysRotated"));
    }

    #[test]
    fn a_condition_keeps_its_time_until_it_changes() {
        let first = report().status(Some(1), None, at(1));
        let second = report().status(Some(1), Some(&first), at(2));
        assert_eq!(first, second, "nothing changed, so there is nothing to write");
        let broken =
            Report { tls: Err(Trouble::passing("Renewing", "")), ..report() }.status(Some(2), Some(&second), at(3));
        assert_eq!(condition(&broken, "TLSReady").last_transition_time, Time(at(3)));
        assert_eq!(condition(&broken, "StoreReady").last_transition_time, Time(at(1)));
        assert!(broken.conditions.iter().all(|condition| condition.observed_generation == Some(2)));
    }

    #[test]
    fn an_invalid_spec_keeps_what_is_known_of_the_children() {
        let before = report().status(Some(1), None, at(1));
        let status = invalid("spec.gc: too short", Some(2), Some(&before), at(2));
        assert_eq!(
            (condition(&status, "Ready").status.as_str(), condition(&status, "Stalled").status.as_str()),
            ("False", "True")
        );
        assert!(condition(&status, "Ready").message.contains("spec.gc"));
        assert_eq!(condition(&status, "StoreReady"), condition(&before, "StoreReady"));
        assert_eq!(status.conditions.len(), before.conditions.len());
    }

    #[test]
    fn a_message_is_cut_to_what_the_api_accepts() {
        let status = invalid(&"é".repeat(MAX_MESSAGE), None, None, at(1));
        assert!(condition(&status, "Ready").message.len() <= MAX_MESSAGE);
    }
}
