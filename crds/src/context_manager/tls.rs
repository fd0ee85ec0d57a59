//! `spec.tls`: the certificates of the sidecars.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{duration::Duration, rules};

/// The certificates of the sidecars.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = rules::CERTIFICATE_IS_GIVEN,
    validation = rules::CERTIFICATE_IS_USED,
    validation = rules::DURATION_IS_MADE,
    validation = rules::ISSUER_IS_GIVEN,
    validation = rules::ISSUER_IS_USED,
    validation = rules::RENEWAL_ARRIVES,
    validation = rules::RENEW_BEFORE
)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Who makes them. Default: SelfManaged, the operator's own CA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<Issuer>,
    /// Your Secret of this namespace with the certificate, for issuer Existing. The operator verifies it and copies it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<CertificateRef>,
    /// The issuer of cert-manager, for issuer CertManager. It has to make certificates for clients and to write its CA to ca.crt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_ref: Option<IssuerRef>,
    /// How long a certificate lives. Not for issuer Existing. Default: 2160h (90 days).
    #[x_kube(validation = rules::CERTIFICATE_DURATION)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<Duration>,
    /// How long before its end a certificate is renewed, or, with issuer Existing, is said to end soon. Default: a third of its life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew_before: Option<Duration>,
}

/// Who makes certificates. Default: SelfManaged, the operator's own CA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Issuer {
    /// The operator's own CA.
    #[default]
    SelfManaged,
    /// You: secretRef names a Secret with it.
    Existing,
    /// cert-manager: issuerRef names its issuer.
    CertManager,
}

/// A Secret of the same namespace with a client certificate: `tls.crt` (with what stands between it and its CA), `tls.key` and `ca.crt`,
/// all in PEM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificateRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// An issuer of cert-manager.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct IssuerRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its kind: Issuer, of this namespace, ClusterIssuer, or one of another group. Default: Issuer.
    #[schemars(length(min = 1, max = 63))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its API group. Default: cert-manager.io.
    #[schemars(length(min = 1, max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}
