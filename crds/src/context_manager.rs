//! `ContextManager`, version `v1alpha1`: the root of the resource and its spec.
#![expect(
    clippy::doc_markdown,
    reason = "these texts become descriptions of the schema, which are shown as plain text"
)]

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rules;

pub mod access;
pub mod auth;
pub mod embedding;
pub mod injection;
pub mod levels;
pub mod managed;
pub mod observability;
pub mod qdrant;
pub mod retrieval;
pub mod sidecar;
pub mod snapshots;
pub mod status;
pub mod tls;
pub mod vector_store;

pub use status::ContextManagerStatus;

/// Memory for the agents of a namespace. Every field may be left out: `spec: {}` is a working resource.
///
/// ```
/// use context_manager_crds::ContextManagerSpec;
///
/// let spec: ContextManagerSpec = serde_json::from_str("{}")?;
/// assert_eq!(spec, ContextManagerSpec::default());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "contextmanager.dev",
    version = "v1alpha1",
    kind = "ContextManager",
    plural = "contextmanagers",
    shortname = "ctxm",
    category = "context",
    namespaced,
    status = "ContextManagerStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "Memory for the agents of a namespace: pods that opt in get a sidecar that stores and retrieves contexts.",
    validation = crate::rules::NAME_LENGTH,
    validation = crate::rules::SECRET_IS_NOT_OURS,
    validation = crate::rules::STORE_SECRET_IS_NOT_OURS,
    validation = crate::rules::CERTIFICATE_IS_NOT_OURS,
    validation = crate::rules::MANAGED_NAME,
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Store", type_ = "string", json_path = ".status.store", description = "Where contexts are kept"),
    printcolumn(name = "Pods", type_ = "integer", json_path = ".status.pods.ready", description = "Pods whose sidecar is ready"),
    printcolumn(name = "Injected", type_ = "integer", json_path = ".status.pods.injected", description = "Pods with a sidecar", priority = 1),
    printcolumn(name = "Outdated", type_ = "integer", json_path = ".status.pods.outdated", description = "Pods that would be injected otherwise today"),
    printcolumn(name = "Missing", type_ = "integer", json_path = ".status.pods.missing", description = "Pods that ask for a sidecar by label and have none", priority = 1),
    printcolumn(name = "Key-Age", type_ = "date", json_path = ".status.keys.rotatedAt", description = "Since when the active key signs"),
    printcolumn(name = "Class", type_ = "string", json_path = ".spec.controllerClassName", description = "Which operator it belongs to", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = rules::STORE_IS_FIXED,
    validation = rules::STORAGE_KIND_IS_FIXED,
    validation = rules::MODEL_IS_FIXED,
    validation = rules::ACCESS_NEEDS_A_SERVER,
    validation = rules::GRANTED_STORAGE,
    validation = rules::CLASS_IS_FIXED
)]
#[serde(rename_all = "camelCase")]
pub struct ContextManagerSpec {
    /// Which operator this belongs to, where several are installed: the one that is told this class. It cannot be changed. Default:
    /// `default`, the class of an operator that is told none.
    #[x_kube(validation = rules::CLASS_NAME)]
    #[schemars(length(min = 1, max = 63))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller_class_name: Option<String>,
    /// Where contexts are kept. Default: embedded, on an emptyDir.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vector_store: Option<vector_store::VectorStore>,
    /// What makes vectors of texts. Default: builtin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<embedding::Embedding>,
    /// The three levels of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub levels: Option<levels::Levels>,
    /// How answers are ranked and packed into a token budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<retrieval::Retrieval>,
    /// Garbage collection of expired contexts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gc: Option<levels::Gc>,
    /// The keys that requests are signed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<auth::Auth>,
    /// The certificates of the sidecars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<tls::Tls>,
    /// The injected container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecar: Option<sidecar::Sidecar>,
    /// Which pods and containers get access.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub injection: Option<injection::Injection>,
    /// Other namespaces whose pods may use this resource, by the annotation contextmanager.dev/name: <namespace>/<name>. The operator keeps
    /// a copy of keys, certificate and configuration there, until the namespace is taken from this list. Each namespace is a tenant of
    /// its own. Default: none.
    #[x_kube(validation = rules::ALLOWED_NAMESPACES, merge_strategy = ListMerge::Set)]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_namespaces: Option<Vec<String>>,
    /// What can be seen of the sidecars from outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observability: Option<observability::Observability>,
    /// What happens to the data when this resource is deleted. Default: Retain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reclaim_policy: Option<ReclaimPolicy>,
    /// While true, the operator observes and writes nothing but the status. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
}

impl ContextManagerSpec {
    /// The class of the operator that this belongs to.
    ///
    /// ```
    /// use context_manager_crds::ContextManagerSpec;
    ///
    /// assert_eq!(ContextManagerSpec::default().class(), "default");
    /// ```
    #[must_use]
    pub fn class(&self) -> &str {
        self.controller_class_name.as_deref().unwrap_or(context_manager_protocol::names::DEFAULT_CLASS)
    }

    /// Other namespaces whose pods may use this.
    ///
    /// ```
    /// use context_manager_crds::ContextManagerSpec;
    ///
    /// assert!(ContextManagerSpec::default().allowed_namespaces().is_empty());
    /// ```
    #[must_use]
    pub fn allowed_namespaces(&self) -> &[String] {
        self.allowed_namespaces.as_deref().unwrap_or_default()
    }
}

/// What happens to the data when the resource is deleted. Default: Retain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum ReclaimPolicy {
    /// A PersistentVolumeClaim stays, also those of a managed Qdrant, and so does a Qdrant server's collection.
    #[default]
    Retain,
    /// A PersistentVolumeClaim goes with the resource, also those of a managed Qdrant. On a Qdrant server the resource's collection is dropped; of one that others use
    /// too, only the namespace's contexts are deleted.
    Delete,
}
