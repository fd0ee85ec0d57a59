//! `spec.embedding`: what makes vectors of texts.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::qdrant::ConfigMapKeyRef;
use crate::{duration::Duration, quantity::Quantity, rules};

/// What makes vectors of texts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = rules::OPEN_AI_IS_COMPLETE,
    validation = rules::BUILTIN_IS_PLAIN,
    validation = rules::EMBEDDING_TLS_NEEDS_HTTPS
)]
#[serde(rename_all = "camelCase")]
pub struct Embedding {
    /// Which kind of provider. Default: builtin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<Provider>,
    /// The full URL of the embeddings API, as `https://api.example.com/v1/embeddings`.
    #[x_kube(validation = rules::URL)]
    #[schemars(length(min = 1, max = 2048))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The model's name.
    #[schemars(length(min = 1, max = 256))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Length of a vector. Default: 384.
    #[schemars(range(min = 1, max = 8192))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<i32>,
    /// The API key, in a Secret of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_secret_ref: Option<SecretKeyRef>,
    /// How the API proves who it is. Default: by a certificate that the roots of the web vouch for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<EmbeddingTls>,
    /// Most texts of one call. Default: 32.
    #[schemars(range(min = 1, max = 2048))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<i32>,
    /// Deadline of one embedding, retries included. Default: 10s.
    #[x_kube(validation = rules::EMBEDDING_TIMEOUT)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Cache of vectors by text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,
    /// What is tried again, and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Put before a query's text.
    #[schemars(length(max = 1024))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_prefix: Option<String>,
    /// Put before a stored text.
    #[schemars(length(max = 1024))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document_prefix: Option<String>,
    /// What becomes of contexts when provider, model or dimensions change. Default: ReEmbed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_model_change: Option<OnModelChange>,
}

/// How the API proves who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::ONE_EMBEDDING_CA)]
#[serde(rename_all = "camelCase")]
pub struct EmbeddingTls {
    /// The CA certificates in PEM, in a Secret of this namespace. Then only they are trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,
    /// The same, in a ConfigMap of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_config_map_ref: Option<ConfigMapKeyRef>,
}

/// What becomes of contexts when provider, model or dimensions change. Default: ReEmbed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum OnModelChange {
    /// They get vectors of the new model in the background, and are found by their words until then.
    #[default]
    ReEmbed,
    /// The change is refused.
    Refuse,
}

/// Which kind of embedding provider. Default: builtin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Provider {
    /// In the sidecar's own process; no download, no network.
    #[default]
    #[serde(rename = "builtin")]
    Builtin,
    /// Any OpenAI-compatible HTTP API.
    #[serde(rename = "openAI")]
    OpenAi,
}

/// One key of a Secret of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key inside.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// Cache of vectors by text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cache {
    /// Most bytes of vectors; 0 switches the cache off. Default: 4Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Quantity>,
    /// How long a vector stays. Default: 1h.
    #[x_kube(validation = rules::CACHE_TTL)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Duration>,
}

/// Exponential backoff with jitter.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::RETRY_DELAYS)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// Most attempts, the first included. Default: 3.
    #[schemars(range(min = 1, max = 20))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<i32>,
    /// Delay after the first failure; doubled after each further one. Default: 200ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_delay: Option<Duration>,
    /// Longest delay. Default: 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_delay: Option<Duration>,
    /// Each delay varies by this share, either way. Default: 0.25.
    #[schemars(range(min = 0.0, max = 1.0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<f64>,
}
