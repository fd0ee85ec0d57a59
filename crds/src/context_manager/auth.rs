//! `spec.auth`: the keys that requests are signed with, and what agents may do.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::access::AccessRule;
use crate::{duration::Duration, rules};

/// The keys that requests are signed with, and what agents may do outside their own memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = rules::SECRET_REF_IS_GIVEN,
    validation = rules::SECRET_REF_IS_USED,
    validation = rules::OWN_KEYS_ARE_ROTATED_BY_HAND
)]
#[serde(rename_all = "camelCase")]
pub struct Auth {
    /// Where the key ring comes from. Default: Generate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_policy: Option<SecretPolicy>,
    /// Your Secret of this namespace with a key ring, for secretPolicy UseExisting. The operator copies it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<KeyRingRef>,
    /// How far the time of a signature may lie from now, either way. Default: 5m.
    #[x_kube(validation = rules::WINDOW)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp_window: Option<Duration>,
    /// When the key that signs is replaced, without a restart. Default: only when asked for by the annotation contextmanager.dev/rotate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
    /// What agents may do outside their own memory. Default: nothing.
    #[schemars(length(min = 1, max = 64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Vec<AccessRule>>,
}

/// When the key that signs is replaced, without a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::OVERLAP_FITS)]
#[serde(rename_all = "camelCase")]
pub struct Rotation {
    /// How long a key signs. Default: until a rotation is asked for.
    #[x_kube(validation = rules::ROTATION_EVERY)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Duration>,
    /// How long a replaced key still verifies, from when all sidecars know that it is replaced. An agent that holds a key in memory
    /// must read the key file more often than that. Default: 1h.
    #[x_kube(validation = rules::ROTATION_OVERLAP)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<Duration>,
}

/// Where the key ring comes from. Default: Generate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum SecretPolicy {
    /// The operator makes it once.
    #[default]
    Generate,
    /// You make it.
    UseExisting,
}

/// A Secret of the same namespace with a key ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyRingRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key inside, with `{"active": {"id": ..., "key": <Base64 of at least 32 bytes>}}`. Default: keys.json.
    #[schemars(length(min = 1, max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}
