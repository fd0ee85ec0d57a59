//! A Qdrant server as the store: what the sidecars are told of it, and where the secrets come from.

use context_manager_crds::{
    ContextManagerSpec,
    context_manager::{
        embedding::SecretKeyRef,
        qdrant::{ConfigMapKeyRef, QdrantTls},
    },
};
use context_manager_protocol::config::{QdrantStore, SidecarConfig, Store};

/// A collection of a Qdrant server.
#[derive(Clone, Debug, PartialEq)]
pub struct QdrantPlan {
    /// What the sidecars are told.
    pub store: QdrantStore,
    /// The Secret with the API key; made by the user.
    pub api_key: Option<SecretKeyRef>,
    /// The CA that the server's certificate is checked against; made by the user.
    pub ca: Option<CaSource>,
}

/// Where a CA is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaSource {
    /// In a Secret.
    Secret(SecretKeyRef),
    /// In a `ConfigMap`.
    ConfigMap(ConfigMapKeyRef),
}

impl QdrantPlan {
    /// The plan, if the resource has a server.
    pub(super) fn of(spec: &ContextManagerSpec, config: &SidecarConfig) -> Option<Self> {
        let Store::Qdrant(store) = &config.store else { return None };
        let given = spec.vector_store.as_ref()?.qdrant.as_ref()?;
        let QdrantTls { ca_secret_ref, ca_config_map_ref, verify: _ } = given.tls.clone().unwrap_or_default();
        let ca = ca_secret_ref.map(CaSource::Secret).or(ca_config_map_ref.map(CaSource::ConfigMap));
        Some(Self { store: store.clone(), api_key: given.api_key_secret_ref.clone(), ca })
    }

    /// Whether the connection is encrypted to nobody knows whom.
    #[must_use]
    pub fn is_unverified(&self) -> bool {
        !self.store.verify && self.store.url.starts_with("https://")
    }
}
