//! `spec.tls`: the certificates of the sidecars.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{duration::Duration, rules};

/// The certificates of the sidecars.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::RENEW_BEFORE)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Who signs. Default: SelfManaged, the operator's own CA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<Issuer>,
    /// How long a certificate lives. Default: 2160h (90 days).
    #[x_kube(validation = rules::CERTIFICATE_DURATION)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<Duration>,
    /// How long before its end a certificate is renewed. Default: a third of duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew_before: Option<Duration>,
}

/// Who signs certificates. Default: SelfManaged, the operator's own CA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Issuer {
    /// The operator's own CA.
    #[default]
    SelfManaged,
}
