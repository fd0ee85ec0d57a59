//! A Qdrant server as the store: what the sidecars are told of it, and where the secrets come from.

use std::time::Duration;

use context_manager_crds::{
    ContextManagerSpec,
    context_manager::{
        ReclaimPolicy,
        embedding::SecretKeyRef,
        qdrant::{ConfigMapKeyRef, QdrantTls, TokenPolicy},
    },
    duration::Duration as DurationText,
};
use context_manager_memory::builtin;
use context_manager_protocol::config::{OnModelChange, Provider, QdrantStore, SidecarConfig, Store};

/// How long a token is valid unless the resource says otherwise.
const TOKEN_LIFETIME: Duration = Duration::from_hours(24);

/// A collection of a Qdrant server.
#[derive(Clone, Debug, PartialEq)]
pub struct QdrantPlan {
    /// What the sidecars are told.
    pub store: QdrantStore,
    /// The Secret with the API key; made by the user.
    pub api_key: Option<SecretKeyRef>,
    /// The CA that the server's certificate is checked against; made by the user.
    pub ca: Option<CaSource>,
    /// When sidecars get tokens instead of the API key.
    pub tokens: TokenPolicy,
    /// How long a token is valid.
    pub token_lifetime: Duration,
    /// Length of the dense vectors.
    pub dimensions: usize,
    /// The embedding model.
    pub model: String,
    /// What is done with a collection that has another model's vectors.
    pub on_model_change: OnModelChange,
    /// What happens to the contexts when the resource is deleted.
    pub reclaim: ReclaimPolicy,
    /// Who runs the server.
    pub run_by: RunBy,
}

/// Whether two collections are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// They are.
    Yes,
    /// They have the same name, and their servers have different ones; a server may have several.
    Perhaps,
    /// They are not.
    No,
}

/// Who runs a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunBy {
    /// The user; API key and CA are where the resource says.
    User,
    /// The operator, with a key and a CA of its own.
    Operator,
}

/// Where a CA is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaSource {
    /// In a Secret.
    Secret(SecretKeyRef),
    /// In a `ConfigMap`.
    ConfigMap(ConfigMapKeyRef),
}

impl CaSource {
    /// Where it is, if there is to be one; the resource names at most one place.
    #[must_use]
    pub fn of(secret: Option<&SecretKeyRef>, config_map: Option<&ConfigMapKeyRef>) -> Option<Self> {
        secret.cloned().map(Self::Secret).or_else(|| config_map.cloned().map(Self::ConfigMap))
    }
}

impl QdrantPlan {
    /// The plan, if the resource has a server.
    pub(super) fn of(spec: &ContextManagerSpec, config: &SidecarConfig) -> Option<Self> {
        let Store::Qdrant(store) = &config.store else { return None };
        let given = spec.vector_store.as_ref()?.qdrant.as_ref()?;
        let QdrantTls { ca_secret_ref, ca_config_map_ref, verify: _ } = given.tls.clone().unwrap_or_default();
        let ca = CaSource::of(ca_secret_ref.as_ref(), ca_config_map_ref.as_ref());
        let token = given.token.clone().unwrap_or_default();
        Some(Self {
            store: store.clone(),
            api_key: given.api_key_secret_ref.clone(),
            ca,
            tokens: token.policy.unwrap_or_default(),
            token_lifetime: token.lifetime.map_or(TOKEN_LIFETIME, DurationText::get),
            dimensions: config.embedding.dimensions,
            model: model(config),
            on_model_change: config.embedding.on_model_change,
            reclaim: spec.reclaim_policy.unwrap_or_default(),
            run_by: RunBy::User,
        })
    }

    /// The plan of the server that the operator runs. Sidecars get tokens alone, and nothing is deleted but the server itself.
    pub(super) fn managed(config: &SidecarConfig) -> Option<Self> {
        let Store::Qdrant(store) = &config.store else { return None };
        Some(Self {
            store: store.clone(),
            api_key: None,
            ca: None,
            tokens: TokenPolicy::PerResource,
            token_lifetime: TOKEN_LIFETIME,
            dimensions: config.embedding.dimensions,
            model: model(config),
            on_model_change: config.embedding.on_model_change,
            reclaim: ReclaimPolicy::Retain,
            run_by: RunBy::Operator,
        })
    }

    /// Whether this and another one are the same collection, as far as their endpoints tell.
    #[must_use]
    pub fn overlap(&self, other: &Self) -> Overlap {
        if self.store.collection != other.store.collection {
            Overlap::No
        } else if server(&self.store.url) == server(&other.store.url) {
            Overlap::Yes
        } else {
            Overlap::Perhaps
        }
    }
}

fn model(config: &SidecarConfig) -> String {
    let model = match config.embedding.provider {
        Provider::Builtin => Some(builtin::MODEL.to_owned()),
        Provider::OpenAi => config.embedding.model.clone(),
    };
    model.unwrap_or_default()
}

/// Host and port of an endpoint; the names of a Service in a cluster are one.
fn server(url: &str) -> (String, String) {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest).trim_end_matches('/').to_ascii_lowercase();
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host.to_owned(), port.to_owned()),
        Some(_) | None => (rest.clone(), "6334".to_owned()),
    };
    let host = host.trim_end_matches('.').trim_end_matches(".cluster.local").trim_end_matches(".svc");
    (host.to_owned(), port)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::controller::plan::{Plan, StoragePlan, tests::resource};

    fn plan(qdrant: &serde_json::Value) -> QdrantPlan {
        let spec = json!({"vectorStore": {"qdrant": qdrant}});
        match Plan::of(&resource(&spec)).unwrap().storage {
            StoragePlan::Qdrant(plan) => *plan,
            StoragePlan::EmptyDir | StoragePlan::Claim(_) | StoragePlan::Managed(_) => unreachable!("it has a server"),
        }
    }

    #[test]
    fn a_collection_is_that_of_the_resource_and_of_its_model() {
        let plan = plan(&json!({"url": "https://qdrant"}));
        assert_eq!(plan.store.collection, "ctx_team_memory");
        assert_eq!((plan.model.as_str(), plan.dimensions), (builtin::MODEL, 384));
        assert_eq!((plan.tokens, plan.token_lifetime), (TokenPolicy::Auto, Duration::from_hours(24)));
        assert_eq!(plan.reclaim, ReclaimPolicy::Retain);
    }

    #[test]
    fn a_server_is_known_by_each_of_its_names() {
        let at = |url: &str, collection: &str| plan(&json!({"url": url, "collection": collection}));
        let one = at("https://qdrant.stores.svc", "a");
        for url in
            ["http://qdrant.stores:6334", "https://qdrant.stores.svc.cluster.local:6334/", "https://Qdrant.stores."]
        {
            assert_eq!(one.overlap(&at(url, "a")), Overlap::Yes, "{url}");
        }
        // An address, a name in another zone, the port of a node: nothing says that it is another server.
        for url in ["https://10.96.0.7:6334", "https://qdrant.example.com", "https://qdrant.stores.svc:30334"] {
            assert_eq!(one.overlap(&at(url, "a")), Overlap::Perhaps, "{url}");
            assert_eq!(one.overlap(&at(url, "b")), Overlap::No, "{url}");
        }
        assert_eq!(at("http://[::1]", "a").overlap(&at("http://[::1]:6334", "a")), Overlap::Yes);
    }
}
