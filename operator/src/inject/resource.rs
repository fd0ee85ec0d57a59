//! What injection has to know of a `ContextManager`: a slim view, so that decisions do not depend on the rest of it.

use context_manager_crds::context_manager::sidecar::Mode;
use context_manager_protocol::names;
use serde_json::Value;

/// A `ContextManager` as injection sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Other namespaces whose pods may use it.
    pub allowed_namespaces: Vec<String>,
    /// Whether this is what pods of those namespaces see of it: all that they mount is a copy in their own namespace.
    pub granted: bool,
    /// The class of the operator that it belongs to.
    pub class: String,
    /// The sidecar's image; the operator's default when absent.
    pub image: Option<String>,
    /// How the sidecar is injected.
    pub mode: Mode,
    /// Port of the protocol listener.
    pub protocol_port: u16,
    /// Whether there is a Unix socket beside it.
    pub socket: bool,
    /// Port of the admin listener.
    pub admin_port: u16,
    /// The sidecar's `ResourceRequirements`.
    pub resources: Option<Value>,
    /// Where the embedded store's data lies, or the journal beside a Qdrant server.
    pub storage: Storage,
    /// The `ConfigMap` that holds the configuration.
    pub config_map: String,
    /// The `Secret` that holds the key ring.
    pub keys_secret: String,
    /// The `Secret` that holds CA bundle and client certificate.
    pub tls_secret: String,
    /// Where the embedding API's key is, if there is one.
    pub embedding_key: Option<SecretKey>,
    /// The `Secret` with what the sidecar shows to and asks of a Qdrant server, if that is the store.
    pub store_secret: Option<String>,
    /// Where the headers of exports of traces are, if there are any.
    pub otlp_headers: Option<SecretKey>,
    /// Where the CA bundle of the trace collector is, if it has one of its own.
    pub otlp_ca: Option<ConfigMapKey>,
    /// Names of the containers that get access; all of them when empty.
    pub containers: Vec<String>,
    /// What happens to a pod of an opted-in namespace for which no resource can be chosen.
    pub on_missing: OnMissing,
}

impl Resource {
    /// What pods of other namespaces see of it. They mount one `Secret` and one `ConfigMap` of their own namespace, in which the operator
    /// keeps copies of all that pods of the resource's namespace mount.
    #[must_use]
    pub fn granted(&self) -> Self {
        let copy = names::granted(&self.namespace, &self.name);
        Self {
            granted: true,
            config_map: copy.clone(),
            keys_secret: copy.clone(),
            tls_secret: copy.clone(),
            store_secret: Some(copy),
            embedding_key: None,
            otlp_headers: None,
            otlp_ca: None,
            ..self.clone()
        }
    }

    /// Whether pods of a namespace may use it.
    #[must_use]
    pub fn serves(&self, namespace: &str) -> bool {
        self.namespace == namespace || self.allowed_namespaces.iter().any(|allowed| allowed == namespace)
    }

    /// What a person calls it in another namespace, and the pod's annotation.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// Where the embedded store's data lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In the pod: it ends with the pod.
    EmptyDir {
        /// Most it may hold, as a quantity.
        size_limit: Option<String>,
    },
    /// In the resource's claim, which outlives pods; each agent has its own directory inside.
    Claim {
        /// Name of the claim.
        name: String,
    },
}

/// A key of a `Secret`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretKey {
    /// Name of the `Secret`.
    pub secret: String,
    /// Key inside.
    pub key: String,
}

/// A key of a `ConfigMap`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigMapKey {
    /// Name of the `ConfigMap`.
    pub config_map: String,
    /// Key inside.
    pub key: String,
}

/// What happens to a pod of an opted-in namespace for which no resource can be chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnMissing {
    /// It is refused.
    Deny,
    /// It is admitted with a warning and an event.
    #[default]
    Skip,
}
