//! The injected container, its volumes, and what the agent's containers get, as JSON.
//!
//! Nothing here may change between versions without need: on a running pod only an image can be changed, so that a
//! sidecar is upgraded in place only while its arguments and environment stay what they were.

use context_manager_crds::context_manager::sidecar::Mode;
use context_manager_protocol::names;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{ConfigMapKey, Injection, Resource, SecretKey, Storage, options::Options, pod::Pod, ports::Ports};
use context_manager_protocol::hexadecimal::hexadecimal;

const TOKEN_DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Names of all injected volumes.
pub(super) const VOLUMES: &[&str] =
    &[names::VOLUME_CONFIG, names::VOLUME_DATA, names::VOLUME_KEYS, names::VOLUME_NO_TOKEN, names::VOLUME_SOCKET];

/// How long the agent of a classic sidecar is held back. When a hook fails, the kubelet kills its container and goes on with the next
/// one, so this is longer than any start that is still worth waiting for.
const LONGEST_START: &str = "5m";

/// The user that the image names.
const USER: i64 = 65532;

/// Readable for any user: the agent's user is unknown, and without an `fsGroup` the files belong to root.
const FILE_MODE: i32 = 0o444;

pub(super) struct Input<'a> {
    pub(super) tenant: &'a str,
    pub(super) agent: &'a str,
    pub(super) resource: &'a Resource,
    pub(super) options: &'a Options,
    pub(super) ports: Option<Ports>,
    /// The user that the sidecar is told to run as; without it the pod decides, and then the image.
    pub(super) user: Option<i64>,
    pub(super) default_image: &'a str,
    pub(super) containers: Vec<String>,
    pub(super) template: String,
    pub(super) warnings: Vec<String>,
}

impl Input<'_> {
    /// Whether there is a Unix socket.
    const fn has_socket(&self) -> bool {
        self.resource.socket || self.ports.is_none()
    }
}

/// The user that the sidecar has to be told. The kubelet starts no container that must not be root in a pod whose containers are. A pod
/// that names another user, as a range of the namespace may demand it, keeps that one; and every group is the pod's own.
pub(super) fn user(pod: Pod<'_>) -> Option<i64> {
    pod.runs_as_root().then_some(USER)
}

pub(super) fn build(input: &Input<'_>) -> Injection {
    let sidecar = container(input);
    let volumes = volumes(input);
    // Whoever does not know sockets shall fail, and not send a memory to a port where anybody may listen.
    let url = input
        .ports
        .map_or_else(|| names::SOCKET_URL.to_owned(), |ports| format!("http://127.0.0.1:{}", ports.protocol));
    let mut env = vec![
        (names::ENV_URL.to_owned(), url),
        (names::ENV_KEYS.to_owned(), format!("{}/{}", names::AGENT_KEYS_DIRECTORY, names::KEYS_FILE)),
    ];
    let mut mounts =
        vec![json!({"name": names::VOLUME_KEYS, "mountPath": names::AGENT_KEYS_DIRECTORY, "readOnly": true})];
    if input.has_socket() {
        env.push((names::ENV_SOCKET.to_owned(), names::SOCKET_FILE.to_owned()));
        // Whoever may only read the folder can connect, and cannot put another socket in its place.
        mounts.push(json!({"name": names::VOLUME_SOCKET, "mountPath": names::SOCKET_DIRECTORY, "readOnly": true}));
    }
    let name = if input.resource.granted { input.resource.full_name() } else { input.resource.name.clone() };
    let mut content = vec![json!(name), sidecar.clone(), json!(volumes), json!(input.containers), json!(env)];
    content.extend(mounts.iter().cloned());
    let hash = hash(Value::Array(content));
    Injection {
        resource: input.resource.name.clone(),
        from: input.resource.granted.then(|| input.resource.namespace.clone()),
        agent: input.agent.to_owned(),
        mode: input.options.mode,
        sidecar,
        volumes,
        containers: input.containers.clone(),
        env,
        mounts,
        ports: input.ports,
        hash,
        template: input.template.clone(),
        warnings: input.warnings.clone(),
    }
}

/// The first 16 digits of SHA-256: enough to tell one injection from another.
fn hash(mut content: Value) -> String {
    // Whether a map keeps the order of its keys depends on what else is compiled with it.
    content.sort_all_objects();
    let digest = Sha256::digest(content.to_string());
    hexadecimal(&digest[..8])
}

fn container(input: &Input<'_>) -> Value {
    let mut mounts = vec![
        json!({"name": names::VOLUME_CONFIG, "mountPath": names::CONFIG_DIRECTORY, "readOnly": true}),
        json!({"name": names::VOLUME_DATA, "mountPath": names::DATA_DIRECTORY}),
        json!({"name": names::VOLUME_NO_TOKEN, "mountPath": TOKEN_DIRECTORY, "readOnly": true}),
    ];
    if input.has_socket() {
        mounts.push(json!({"name": names::VOLUME_SOCKET, "mountPath": names::SOCKET_DIRECTORY}));
    }
    let mut container = json!({
        "name": names::CONTAINER,
        "image": input.resource.image.as_deref().unwrap_or(input.default_image),
        "args": args(&input.resource.storage),
        "env": env(input),
        "readinessProbe": probe(input, 5, 3),
        // There is no liveness probe: a restart would lose the warm immediate level and heal nothing that the sidecar
        // does not heal itself.
        "resources": input.options.resources,
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    });
    if let Some(user) = input.user {
        container["securityContext"]["runAsUser"] = json!(user);
    }
    if let Some(Ports { admin, .. }) = input.ports {
        container["ports"] = json!([{"name": names::ADMIN_PORT_NAME, "containerPort": admin, "protocol": "TCP"}]);
    }
    match input.options.mode {
        Mode::Native => {
            container["restartPolicy"] = json!("Always");
            // The agent starts when this succeeds, and no later: so it is asked every second.
            container["startupProbe"] = probe(input, 1, 60);
        }
        Mode::Classic => {
            // The kubelet starts the next container when this has ended, and asks no probe before.
            container["lifecycle"] =
                json!({"postStart": {"exec": {"command": [names::PROGRAM, "ask", "--wait", LONGEST_START]}}});
        }
    }
    container
}

fn args(storage: &Storage) -> Vec<String> {
    let mut args = vec!["--config".to_owned(), format!("{}/{}", names::CONFIG_DIRECTORY, names::CONFIG_FILE)];
    match storage {
        Storage::EmptyDir { .. } => {}
        // Agents of one resource share its claim.
        Storage::Claim { .. } => args.push("--data-per-agent".to_owned()),
    }
    args
}

fn env(input: &Input<'_>) -> Vec<Value> {
    let mut env = vec![
        json!({"name": names::ENV_TENANT, "value": input.tenant}),
        json!({"name": names::ENV_AGENT, "value": input.agent}),
        json!({"name": names::ENV_POD, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}),
    ];
    match input.ports {
        Some(Ports { protocol, admin, .. }) => env.extend([
            json!({"name": names::ENV_PROTOCOL_PORT, "value": protocol.to_string()}),
            json!({"name": names::ENV_ADMIN_PORT, "value": admin.to_string()}),
        ]),
        None => env.extend([
            json!({"name": names::ENV_SOCKET_ONLY, "value": "true"}),
            json!({"name": names::ENV_ADMIN_SOCKET, "value": names::ADMIN_SOCKET_FILE}),
        ]),
    }
    // Not in the configuration, which reaches pods that were injected without the folder as well.
    if input.has_socket() {
        env.push(json!({"name": names::ENV_SOCKET, "value": names::SOCKET_FILE}));
    }
    if let Some(level) = &input.options.log_level {
        env.push(json!({"name": names::ENV_LOG_LEVEL, "value": level}));
    }
    env
}

fn probe(input: &Input<'_>, period_seconds: i32, failure_threshold: i32) -> Value {
    let mut probe = json!({"periodSeconds": period_seconds, "failureThreshold": failure_threshold});
    if let Some(Ports { admin, .. }) = input.ports {
        probe["httpGet"] = json!({"path": "/health/readiness", "port": admin});
        probe["timeoutSeconds"] = json!(2.min(period_seconds));
    } else {
        // The kubelet cannot ask a socket. The program does, and takes a while to start on a busy node.
        probe["exec"] = json!({"command": [names::PROGRAM, "ask"]});
        probe["timeoutSeconds"] = json!(5);
    }
    probe
}

fn volumes(input: &Input<'_>) -> Vec<Value> {
    let Resource {
        config_map,
        storage,
        keys_secret,
        tls_secret,
        embedding_key,
        store_secret,
        otlp_headers,
        otlp_ca,
        granted,
        ..
    } = input.resource;
    let mut sources = vec![json!({"configMap": {"name": config_map, "items": items(&[names::CONFIG_FILE])}})];
    // A copy has all of it in one Secret, which is mounted whole, as that of the store.
    if !granted {
        sources.push(json!({"secret": {"name": keys_secret, "items": items(&[names::KEYS_FILE])}}));
        sources.push(json!({"secret": {
            "name": tls_secret,
            "items": items(&[names::CA_FILE, names::CERTIFICATE_FILE, names::PRIVATE_KEY_FILE]),
        }}));
    }
    if let Some(SecretKey { secret, key }) = embedding_key {
        let item = json!({"key": key, "path": names::EMBEDDING_API_KEY_FILE});
        sources.push(json!({"secret": {"name": secret, "items": [item]}}));
    }
    if let Some(secret) = store_secret {
        // Without a list of keys: a CA or an API key that comes later reaches pods that run already.
        sources.push(json!({"secret": {"name": secret}}));
    }
    // Optional: a memory is worth more than its traces, so a pod starts without them.
    if let Some(SecretKey { secret, key }) = otlp_headers {
        let item = json!({"key": key, "path": names::OTLP_HEADERS_FILE});
        sources.push(json!({"secret": {"name": secret, "items": [item], "optional": true}}));
    }
    if let Some(ConfigMapKey { config_map, key }) = otlp_ca {
        let item = json!({"key": key, "path": names::OTLP_CA_FILE});
        sources.push(json!({"configMap": {"name": config_map, "items": [item], "optional": true}}));
    }
    let mut volumes = vec![
        json!({"name": names::VOLUME_CONFIG, "projected": {"defaultMode": FILE_MODE, "sources": sources}}),
        data_volume(storage),
        json!({"name": names::VOLUME_KEYS, "secret": {
            "secretName": keys_secret,
            "items": items(&[names::KEYS_FILE]),
            "defaultMode": FILE_MODE,
        }}),
        json!({"name": names::VOLUME_NO_TOKEN, "emptyDir": {}}),
    ];
    if input.has_socket() {
        volumes.push(json!({"name": names::VOLUME_SOCKET, "emptyDir": {}}));
    }
    volumes
}

fn items(files: &[&str]) -> Vec<Value> {
    files.iter().map(|file| json!({"key": file, "path": file})).collect()
}

fn data_volume(storage: &Storage) -> Value {
    match storage {
        Storage::EmptyDir { size_limit: Some(limit) } => {
            json!({"name": names::VOLUME_DATA, "emptyDir": {"sizeLimit": limit}})
        }
        Storage::EmptyDir { size_limit: None } => json!({"name": names::VOLUME_DATA, "emptyDir": {}}),
        Storage::Claim { name } => {
            json!({"name": names::VOLUME_DATA, "persistentVolumeClaim": {"claimName": name}})
        }
    }
}
