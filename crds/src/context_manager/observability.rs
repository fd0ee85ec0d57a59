//! `spec.observability`: what can be seen of the sidecars from outside.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{embedding::SecretKeyRef, qdrant::ConfigMapKeyRef};
use crate::{duration::Duration, rules};

/// What can be seen of the sidecars from outside.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Observability {
    /// Where traces go. Default: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,
}

/// Export of traces by OTLP over HTTP.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tracing {
    /// The collector's base URL, as `http://otel-collector.observability:4318`; `/v1/traces` is appended.
    #[x_kube(validation = rules::OTLP_ENDPOINT)]
    #[schemars(length(min = 1, max = 2048))]
    pub otlp_endpoint: String,
    /// Share of the requests whose caller brings no trace that are traced; who brings one has decided. Default: 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling: Option<f64>,
    /// Share of the work beside the requests that is traced. Default: 0.05.
    #[schemars(range(min = 0.0, max = 1.0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub background_sampling: Option<f64>,
    /// Headers of each export, `name: value` in each line, such as a token; in a Secret of this namespace. Pods start without it, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers_secret_ref: Option<SecretKeyRef>,
    /// The CA bundle in PEM that the collector's certificate is checked against, in a ConfigMap of this namespace. Default: the roots
    /// of the web. Pods start without it, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_config_map_ref: Option<ConfigMapKeyRef>,
    /// Longest time of one attempt of an export. Default: 5s.
    #[x_kube(validation = rules::OTLP_TIMEOUT)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Most spans that wait for the collector; further ones are dropped and counted. Default: 2048.
    #[schemars(range(min = 1, max = 65536))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<i32>,
}
