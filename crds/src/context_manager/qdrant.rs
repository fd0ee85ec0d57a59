//! `spec.vectorStore.qdrant`: a collection of a Qdrant server.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::embedding::SecretKeyRef;
use crate::{duration::Duration, rules};

/// A collection of a Qdrant server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = rules::TLS_NEEDS_HTTPS,
    validation = rules::TOKEN_NEEDS_KEY,
    validation = rules::CONSISTENCY_FITS,
    validation = rules::COLLECTION_IS_FIXED
)]
#[serde(rename_all = "camelCase")]
pub struct Qdrant {
    /// The gRPC endpoint, as `https://qdrant.example.com:6334`. The port is 6334 when left out.
    #[x_kube(validation = rules::QDRANT_URL)]
    #[schemars(length(min = 1, max = 2048))]
    pub url: String,
    /// The API key, in a Secret of this namespace. Default: none is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_secret_ref: Option<SecretKeyRef>,
    /// What sidecars prove themselves by. Default: a token of the resource's own where the server takes one, else the API key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// How the server proves who it is. Default: by a certificate that the roots of the web vouch for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<QdrantTls>,
    /// The collection; made if it is missing. It cannot be changed. Default: `ctx_<namespace>_<name>`, with `__` for each dot.
    /// Resources may share one; each namespace sees its own contexts alone.
    #[x_kube(validation = rules::COLLECTION_NAME)]
    #[schemars(length(min = 1, max = 200))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collection: Option<String>,
    /// Shards of a collection that is made. Default: the server's.
    #[schemars(range(min = 1, max = 1000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards: Option<i32>,
    /// Replicas of each shard of a collection that is made. Default: the server's.
    #[schemars(range(min = 1, max = 1000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication_factor: Option<i32>,
    /// Replicas that must have a write before it is acknowledged, of a collection that is made. Default: the server's.
    #[schemars(range(min = 1, max = 1000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_consistency: Option<i32>,
    /// Longest time of one call. Default: 5s.
    #[x_kube(validation = rules::QDRANT_TIMEOUT)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
}

/// What sidecars prove themselves by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Token {
    /// When sidecars get tokens instead of the API key. Default: Auto.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<TokenPolicy>,
    /// How long a token is valid. It is renewed at about half of that, so sidecars outlast an operator that is away for a third.
    /// Default: 24h.
    #[x_kube(validation = rules::TOKEN_LIFETIME)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<Duration>,
}

/// When sidecars get tokens instead of the API key. Default: Auto.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum TokenPolicy {
    /// Where the server takes them (`service.jwt_rbac`). The condition StoreReady says what they got.
    #[default]
    Auto,
    /// Always; a server that takes none is not used.
    PerResource,
    /// Never.
    Never,
}

/// How the server proves who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::ONE_CA, validation = rules::CA_IS_USED)]
#[serde(rename_all = "camelCase")]
pub struct QdrantTls {
    /// The CA certificates in PEM, in a Secret of this namespace. Then only they are trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,
    /// The same, in a ConfigMap of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_config_map_ref: Option<ConfigMapKeyRef>,
    /// Whether the server must prove who it is. Without that, whoever is on the way can read and change everything. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<bool>,
}

/// One key of a ConfigMap of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapKeyRef {
    /// Name of the ConfigMap.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key inside.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

impl Qdrant {
    /// The collection of the resource `name` of `namespace`.
    ///
    /// No two resources of a cluster have the same unless they name it: a namespace has no dot, and neither part an underscore.
    ///
    /// ```
    /// use context_manager_crds::context_manager::qdrant::Qdrant;
    ///
    /// assert_eq!(Qdrant::default().collection("team-a", "memory.v2"), "ctx_team-a_memory__v2");
    /// ```
    #[must_use]
    pub fn collection(&self, namespace: &str, name: &str) -> String {
        self.collection.clone().unwrap_or_else(|| format!("ctx_{namespace}_{}", name.replace('.', "__")))
    }
}
