//! What injection has to know of a `ContextManager`: a slim view, so that decisions do not depend on the rest of it.

use serde_json::Value;

/// A `ContextManager` as injection sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// Its name.
    pub name: String,
    /// The class of the operator that it belongs to.
    pub class: String,
    /// The sidecar's image; the operator's default when absent.
    pub image: Option<String>,
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
    /// The `Secret` that holds the key ring.
    pub keys_secret: String,
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
