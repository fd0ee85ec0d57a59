//! Writing by server-side apply, and only what differs.
//!
//! The API server would take an apply that changes nothing as it is, but asking it costs it work, and a person who reads the
//! audit log would wonder. So what is there is compared first.

use std::fmt::Debug;

use context_manager_crds::quantity::Amount;
use context_manager_protocol::names;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::error::{Error, call};

/// Who owns a field: one manager for each concern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manager {
    /// Key rings.
    Keys,
    /// Certificates.
    Tls,
    /// Configurations.
    Config,
    /// Claims.
    Storage,
    /// What sidecars need to reach a Qdrant server.
    Store,
    /// Copies in other namespaces.
    Grants,
    /// Sidecars of running pods.
    Upgrade,
    /// The status.
    Status,
}

impl Manager {
    /// The name in `metadata.managedFields`, which tells operators of different classes apart.
    ///
    /// ```
    /// use context_manager_operator::controller::apply::Manager;
    ///
    /// assert_eq!(Manager::Keys.of_class("default"), "context-manager-keys");
    /// assert_eq!(Manager::Keys.of_class("blue"), "context-manager-keys-blue");
    /// ```
    #[must_use]
    pub fn of_class(self, class: &str) -> String {
        let concern = match self {
            Self::Keys => "keys",
            Self::Tls => "tls",
            Self::Config => "config",
            Self::Storage => "storage",
            Self::Store => "store",
            Self::Grants => "grants",
            Self::Upgrade => "upgrade",
            Self::Status => "status",
        };
        if class == names::DEFAULT_CLASS {
            format!("context-manager-{concern}")
        } else {
            format!("context-manager-{concern}-{class}")
        }
    }
}

/// Whether an object has everything that is desired of it; what it has beside does not matter. A list of owners must have
/// each desired one, every other list must have the same items in the same order, each with all that is desired of it.
#[must_use]
pub fn covers(live: &impl Serialize, desired: &impl Serialize) -> bool {
    match (serde_json::to_value(live), serde_json::to_value(desired)) {
        (Ok(live), Ok(desired)) => covered(&live, &desired, ""),
        (Err(_), _) | (_, Err(_)) => false,
    }
}

fn covered(live: &Value, desired: &Value, key: &str) -> bool {
    match (live, desired) {
        // The API server writes an amount in its own way: 1024Mi as 1Gi.
        (Value::Object(live), Value::Object(desired)) if matches!(key, "requests" | "limits") => {
            let amount = |value: &Value| value.as_str()?.parse::<Amount>().ok();
            let same = |live: &Value, desired: &Value| match (amount(live), amount(desired)) {
                (Some(has), Some(wanted)) => has == wanted,
                (Some(_) | None, _) => live == desired,
            };
            desired.iter().all(|(key, desired)| live.get(key).is_some_and(|live| same(live, desired)))
        }
        (Value::Object(live), Value::Object(desired)) => {
            desired.iter().all(|(key, desired)| live.get(key).is_some_and(|live| covered(live, desired, key)))
        }
        (Value::Array(live), Value::Array(desired)) if key == "ownerReferences" => {
            desired.iter().all(|desired| live.iter().any(|live| covered(live, desired, "")))
        }
        (Value::Array(live), Value::Array(desired)) => {
            live.len() == desired.len() && live.iter().zip(desired).all(|(live, desired)| covered(live, desired, ""))
        }
        (live, desired) => live == desired,
    }
}

/// Applies an object.
pub(super) async fn apply<K>(
    api: &Api<K>,
    name: &str,
    desired: &K,
    manager: &str,
    action: &'static str,
) -> Result<K, Error>
where
    K: Clone + Debug + DeserializeOwned + Serialize,
{
    let params = PatchParams::apply(manager).force();
    call(action, api.patch(name, &params, &Patch::Apply(desired))).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_others_add_is_no_difference_and_what_they_change_is() {
        let live = json!({"data": {"a": "1", "theirs": "x"}, "ownerReferences": [{"uid": "1"}, {"uid": "2", "controller": true}]});
        assert!(covers(&live, &json!({"data": {"a": "1"}})));
        assert!(covers(&live, &json!({"ownerReferences": [{"uid": "2"}]})));
        assert!(!covers(&live, &json!({"ownerReferences": [{"uid": "3"}]})));
        assert!(!covers(&live, &json!({"data": {"a": "2"}})));
        assert!(!covers(&live, &json!({"data": {"b": "1"}})));
        let live = json!({"ports": [{"port": 1, "protocol": "TCP"}], "requests": {"memory": "1Gi"}});
        assert!(covers(&live, &json!({"ports": [{"port": 1}], "requests": {"memory": "1024Mi"}})));
        let large = json!({"requests": {"storage": "1E"}});
        assert!(covers(&large, &json!({"requests": {"storage": "1000P"}})), "the API server's words for it");
        assert!(!covers(&live, &json!({"ports": [{"port": 2}]})));
        assert!(!covers(&live, &json!({"requests": {"memory": "2Gi"}})));
        assert!(!covers(&json!({"modes": ["a", "b"]}), &json!({"modes": ["a"]})));
    }
}
