//! Names that two processes must agree on: label and annotation keys, children's names, files, ports, environment variables.

use sha2::{Digest as _, Sha256};

use crate::hexadecimal::hexadecimal;

/// API group of the resource, and prefix of every label and annotation key.
pub const GROUP: &str = "contextmanager.dev";

/// The class of a `ContextManager` that names none, and of an operator that is told none.
pub const DEFAULT_CLASS: &str = "default";

/// Label or annotation `"true"`/`"false"` on a pod, or label on a namespace: whether pods get a sidecar.
pub const INJECT: &str = "contextmanager.dev/inject";
/// Annotation on a pod, or label on a namespace: which `ContextManager` of the pod's namespace to use. The annotation may also name one
/// of another namespace, as `namespace/name`.
pub const NAME: &str = "contextmanager.dev/name";
/// Annotation on a pod: the agent's id; by default the name of the owning workload.
pub const AGENT_ID: &str = "contextmanager.dev/agent-id";
/// Annotation on a pod: comma-separated names of the containers that get access; by default all of them.
pub const CONTAINERS: &str = "contextmanager.dev/containers";
/// Annotation on a pod: port of the protocol listener.
pub const PROTOCOL_PORT: &str = "contextmanager.dev/protocol-port";
/// Annotation on a pod: port of the admin listener.
pub const ADMIN_PORT: &str = "contextmanager.dev/admin-port";
/// Annotation on a pod: `Native` or `Classic`.
pub const MODE: &str = "contextmanager.dev/mode";
/// Annotation on a pod: log level of its sidecar.
pub const LOG_LEVEL: &str = "contextmanager.dev/log-level";
/// Annotation on a pod: CPU request of its sidecar.
pub const SIDECAR_CPU_REQUEST: &str = "contextmanager.dev/sidecar-resources-requests-cpu";
/// Annotation on a pod: memory request of its sidecar.
pub const SIDECAR_MEMORY_REQUEST: &str = "contextmanager.dev/sidecar-resources-requests-memory";
/// Annotation on a pod: CPU limit of its sidecar.
pub const SIDECAR_CPU_LIMIT: &str = "contextmanager.dev/sidecar-resources-limits-cpu";
/// Annotation on a pod: memory limit of its sidecar.
pub const SIDECAR_MEMORY_LIMIT: &str = "contextmanager.dev/sidecar-resources-limits-memory";

/// Label that injection puts on a pod: the name of the `ContextManager` it uses.
pub const INJECTED: &str = "contextmanager.dev/context-manager";
/// Label that injection puts on a pod that uses a `ContextManager` of another namespace: that namespace.
pub const INJECTED_FROM: &str = "contextmanager.dev/context-manager-namespace";
/// Annotation that injection puts on a pod: a hash of what was injected, to recognise its own work and outdated pods.
pub const INJECTED_HASH: &str = "contextmanager.dev/injected-hash";

/// Annotation that injection puts on a pod: a hash of what any pod of the resource gets, without what is the pod's own.
pub const INJECTED_TEMPLATE: &str = "contextmanager.dev/injected-template";

/// Annotation that injection puts on a pod when a container had a port of the sidecar: the ports that it has instead.
pub const INJECTED_PORTS: &str = "contextmanager.dev/injected-ports";

/// Annotation that an upgrade in place puts on a pod: the image before and after, when, and how it went.
pub const UPGRADE: &str = "contextmanager.dev/upgrade";
/// Annotation on a `ContextManager`: each new value asks for a new key, at once.
pub const ROTATE: &str = "contextmanager.dev/rotate";
/// Annotation on a `ContextManager`: each new value asks for a snapshot of its managed Qdrant, at once.
pub const SNAPSHOT: &str = "contextmanager.dev/snapshot";
/// Annotation on a `ContextManager`: asks for one upgrade of the sidecars that run, whatever its spec says of upgrades.
pub const UPGRADE_SIDECARS: &str = "contextmanager.dev/upgrade-sidecars";

/// Name of the injected container.
pub const CONTAINER: &str = "context-manager";
/// The sidecar's program in its image, which probes and hooks run.
pub const PROGRAM: &str = "/context-manager-sidecar";
/// Volume with the sidecar's configuration, key ring and certificates.
pub const VOLUME_CONFIG: &str = "context-manager-config";
/// Volume with the embedded store's data.
pub const VOLUME_DATA: &str = "context-manager-data";
/// Volume with the key ring, for the agent's containers.
pub const VOLUME_KEYS: &str = "context-manager-keys";
/// Volume with the protocol's Unix socket, which the sidecar and the agent's containers share.
pub const VOLUME_SOCKET: &str = "context-manager-socket";
/// Volume that hides the service account's token from the sidecar.
pub const VOLUME_NO_TOKEN: &str = "context-manager-no-token";

/// Default port of the protocol listener, on loopback only.
pub const DEFAULT_PROTOCOL_PORT: u16 = 7419;
/// Default port of the admin listener, on the pod's address.
pub const DEFAULT_ADMIN_PORT: u16 = 7420;
/// Admin port of a sidecar that runs outside Kubernetes.
pub const STANDALONE_ADMIN_PORT: u16 = 8080;

/// Name of the admin port in the sidecar's container.
pub const ADMIN_PORT_NAME: &str = "ctx-admin";

/// Where the sidecar's configuration volume is mounted.
pub const CONFIG_DIRECTORY: &str = "/etc/context-manager";
/// File name of the configuration, and its key in the `ConfigMap`.
pub const CONFIG_FILE: &str = "config.toml";
/// File name of the key ring, and its key in the `Secret`.
pub const KEYS_FILE: &str = "keys.json";
/// File name of the CA bundle, and its key in the TLS `Secret`.
pub const CA_FILE: &str = "ca.crt";
/// File name of the sidecar's client certificate, and its key in the TLS `Secret`.
pub const CERTIFICATE_FILE: &str = "tls.crt";
/// File name of the sidecar's client key, and its key in the TLS `Secret`.
pub const PRIVATE_KEY_FILE: &str = "tls.key";
/// File name of the embedding API key in the configuration volume.
pub const EMBEDDING_API_KEY_FILE: &str = "embedding-api-key";
/// File name of what is sent to a Qdrant server as `api-key`, and its key in the store's `Secret`.
pub const QDRANT_API_KEY_FILE: &str = "qdrant-api-key";
/// File name of the CA bundle of a Qdrant server, and its key in the store's `Secret`.
pub const QDRANT_CA_FILE: &str = "qdrant-ca.crt";
/// File name of the headers of exports of traces in the configuration volume.
pub const OTLP_HEADERS_FILE: &str = "otlp-headers";
/// File name of the CA bundle of the trace collector in the configuration volume.
pub const OTLP_CA_FILE: &str = "otlp-ca.crt";
/// Where the data volume is mounted: the embedded store's, or the journal's beside a Qdrant server.
pub const DATA_DIRECTORY: &str = "/var/lib/context-manager";
/// The journal's directory beside a Qdrant server.
pub const JOURNAL_DIRECTORY: &str = "/var/lib/context-manager/journal";
/// Where the volume of the Unix socket is mounted, in the sidecar and in the agent's containers.
pub const SOCKET_DIRECTORY: &str = "/var/run/contextmanager.dev";
/// The protocol's Unix socket in a pod.
pub const SOCKET_FILE: &str = "/var/run/contextmanager.dev/protocol.sock";
/// The same as a URL.
pub const SOCKET_URL: &str = "unix:///var/run/contextmanager.dev/protocol.sock";
/// The Unix socket of probes and metrics in a pod whose sidecar listens on no port.
pub const ADMIN_SOCKET_FILE: &str = "/var/run/contextmanager.dev/admin.sock";
/// Where the key ring is mounted in the agent's containers.
pub const AGENT_KEYS_DIRECTORY: &str = "/var/run/secrets/contextmanager.dev";

/// Environment variable of the agent: the sidecar's base URL; [`SOCKET_URL`] where it listens on no port.
pub const ENV_URL: &str = "CONTEXT_MANAGER_URL";
/// Environment variable of the agent: path of the key ring file.
pub const ENV_KEYS: &str = "CONTEXT_MANAGER_KEYS";
/// Environment variable of the agent and of the sidecar: path of the protocol's Unix socket, where there is one. The sidecar's wins over
/// the configuration.
pub const ENV_SOCKET: &str = "CONTEXT_MANAGER_SOCKET";
/// Environment variable of the sidecar: `true` where it listens on no port, because the pod shares the node's network.
pub const ENV_SOCKET_ONLY: &str = "CONTEXT_MANAGER_SOCKET_ONLY";
/// Environment variable of the sidecar: path of a Unix socket for probes and metrics.
pub const ENV_ADMIN_SOCKET: &str = "CONTEXT_MANAGER_ADMIN_SOCKET";
/// Environment variable of the sidecar: its tenant (the namespace).
pub const ENV_TENANT: &str = "CONTEXT_MANAGER_TENANT";
/// Environment variable of the sidecar: its agent's id.
pub const ENV_AGENT: &str = "CONTEXT_MANAGER_AGENT";
/// Environment variable of the sidecar: its pod's name.
pub const ENV_POD: &str = "CONTEXT_MANAGER_POD";
/// Environment variable of the sidecar: the protocol's port; wins over the configuration.
pub const ENV_PROTOCOL_PORT: &str = "CONTEXT_MANAGER_PROTOCOL_PORT";
/// Environment variable of the sidecar: the port of probes and metrics; wins over the configuration.
pub const ENV_ADMIN_PORT: &str = "CONTEXT_MANAGER_ADMIN_PORT";
/// Environment variable of the sidecar: its log filter; wins over the configuration.
pub const ENV_LOG_LEVEL: &str = "CONTEXT_MANAGER_LOG_LEVEL";

/// Name of the key ring `Secret` of the `ContextManager` called `name`.
#[must_use]
pub fn keys_secret(name: &str) -> String {
    format!("{name}-context-keys")
}

/// Name of the TLS `Secret` of the `ContextManager` called `name`.
#[must_use]
pub fn tls_secret(name: &str) -> String {
    format!("{name}-context-tls")
}

/// Name of the `Secret` that cert-manager writes for the `ContextManager` called `name`; the operator copies what is good of it.
#[must_use]
pub fn issued_secret(name: &str) -> String {
    format!("{name}-context-issued")
}

/// Name of the `Secret` with what the sidecars of the `ContextManager` called `name` show to and ask of a Qdrant server.
#[must_use]
pub fn store_secret(name: &str) -> String {
    format!("{name}-context-store")
}

/// Name of the `Secret` and of the `ConfigMap` that pods of other namespaces mount for the `ContextManager` called `name` of `namespace`,
/// in their own namespace. Nothing else that the operator makes there can have it, whatever the resources of that namespace are called.
///
/// ```
/// use context_manager_protocol::names::granted;
///
/// assert_eq!(granted("team-a", "memory"), "memory-f41d24480e-context-granted");
/// assert_ne!(granted("team-b", "memory"), granted("team-a", "memory"));
/// ```
#[must_use]
pub fn granted(namespace: &str, name: &str) -> String {
    // Neither part of the text can have a slash.
    let digest = Sha256::digest(format!("{namespace}/{name}"));
    format!("{name}-{}-context-granted", hexadecimal(&digest[..5]))
}

/// Name of what makes up the managed Qdrant of the `ContextManager` called `name`: `StatefulSet`, `Service`, `Secret` and the rest.
#[must_use]
pub fn qdrant(name: &str) -> String {
    format!("{name}-context-qdrant")
}

/// Name of the `Service` by which the nodes of a managed Qdrant find each other.
#[must_use]
pub fn qdrant_peers(name: &str) -> String {
    format!("{name}-context-qdrant-peers")
}

/// Name of the claim with the snapshots of the managed Qdrant of the `ContextManager` called `name`.
#[must_use]
pub fn qdrant_snapshots(name: &str) -> String {
    format!("{name}-context-qdrant-snapshots")
}

/// Name of the configuration `ConfigMap` of the `ContextManager` called `name`.
#[must_use]
pub fn config_map(name: &str) -> String {
    format!("{name}-context-config")
}

/// Name of the data `PersistentVolumeClaim` of the `ContextManager` called `name`.
#[must_use]
pub fn data_claim(name: &str) -> String {
    format!("{name}-context-data")
}
