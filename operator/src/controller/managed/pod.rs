//! The pod of a node: under Pod Security `restricted`, on a machine of its own where there are enough, and never injected.

use context_manager_crds::context_manager::managed::{Scheduling, Spread};
use context_manager_protocol::names;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    config::{
        self, CONFIG_DIRECTORY, DATA_DIRECTORY, S3_DIRECTORY, SNAPSHOTS_DIRECTORY, START_DIRECTORY, TLS_DIRECTORY,
    },
    secret::API_KEY,
};
use crate::controller::plan::{CaSource, ManagedPlan, Plan, SnapshotPlace, Source};
use context_manager_protocol::hexadecimal::hexadecimal;

/// The volume with the data; also the claim's name.
pub(super) const VOLUME_DATA: &str = "data";
/// Annotation: what a node read when it started. Another value makes it start anew.
const STARTED_WITH: &str = "contextmanager.dev/started-with";
/// Time to write everything to the volume at the end.
const ENDING_SECONDS: i64 = 120;
/// The user of the image that runs without rights.
const USER: i64 = 1000;

/// The template. `labels` are the pod's, `selector` those by which nodes are told from other pods. While nodes bring the snapshots of
/// another resource back, `source` is this one.
pub(super) fn template(
    plan: &Plan,
    wanted: &ManagedPlan,
    (mut labels, selector): (Value, Value),
    fingerprint: &str,
    source: Option<&Source>,
) -> Value {
    // A namespace that opts in does not inject its own store.
    labels[names::INJECT] = json!("false");
    let read = [config::yaml(plan, wanted), config::start(plan, wanted), fingerprint.to_owned()].concat();
    let mut spec = json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": ENDING_SECONDS,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
        },
        "affinity": {"podAntiAffinity": apart(wanted, &selector)},
        "topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector},
        }],
        "containers": [container(plan, wanted, source)],
        "volumes": volumes(plan, wanted),
    });
    let Scheduling { node_selector, tolerations, priority_class_name, spread: _ } = &wanted.scheduling;
    if let Some(labels) = node_selector {
        spec["nodeSelector"] = json!(labels);
    }
    if let Some(tolerations) = tolerations {
        spec["tolerations"] = json!(tolerations);
    }
    if let Some(class) = priority_class_name {
        spec["priorityClassName"] = json!(class);
    }
    let annotations = json!({STARTED_WITH: hexadecimal(&Sha256::digest(read)[..8])});
    json!({"metadata": {"labels": labels, "annotations": annotations}, "spec": spec})
}

fn apart(wanted: &ManagedPlan, selector: &Value) -> Value {
    let machine = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": selector}});
    match wanted.scheduling.spread.unwrap_or_default() {
        Spread::Preferred => {
            json!({"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": machine}]})
        }
        Spread::Required => json!({"requiredDuringSchedulingIgnoredDuringExecution": [machine]}),
    }
}

fn container(plan: &Plan, wanted: &ManagedPlan, source: Option<&Source>) -> Value {
    let scheme = if wanted.encrypted { "HTTPS" } else { "HTTP" };
    let probe = |path: &str, period: i32, failures: i32| {
        let get = json!({"path": path, "port": "rest", "scheme": scheme});
        json!({"httpGet": get, "periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": 3})
    };
    let port = |name: &str, port: u16| json!({"name": name, "containerPort": port, "protocol": "TCP"});
    let mut mounts = vec![
        json!({"name": VOLUME_DATA, "mountPath": DATA_DIRECTORY}),
        json!({"name": "config", "mountPath": CONFIG_DIRECTORY, "readOnly": true}),
        json!({"name": "start", "mountPath": START_DIRECTORY}),
    ];
    if wanted.encrypted {
        mounts.push(json!({"name": "tls", "mountPath": TLS_DIRECTORY, "readOnly": true}));
    }
    if wanted.snapshots.is_some() {
        mounts.push(json!({"name": "snapshots", "mountPath": SNAPSHOTS_DIRECTORY}));
    }
    if authority(wanted).is_some() {
        mounts.push(json!({"name": "s3", "mountPath": S3_DIRECTORY, "readOnly": true}));
    }
    let mut resources = json!({"requests": wanted.requests});
    if !wanted.limits.is_empty() {
        resources["limits"] = json!(wanted.limits);
    }
    let mut env = vec![
        json!({"name": "POD_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}),
        from_secret("QDRANT__SERVICE__API_KEY", &names::qdrant(&plan.name), API_KEY),
        // The image's folder cannot be written to.
        json!({"name": "QDRANT_INIT_FILE_PATH", "value": format!("{START_DIRECTORY}/initialized")}),
    ];
    if let Some(SnapshotPlace::Bucket(bucket)) = wanted.snapshots.as_ref().map(|snapshots| &snapshots.place) {
        // By Qdrant's own variables, a key of digits would be taken for a number.
        let (id, key) = (&bucket.access_key_id_secret_ref, &bucket.secret_access_key_secret_ref);
        env.push(from_secret("AWS_ACCESS_KEY_ID", &id.name, &id.key));
        env.push(from_secret("AWS_SECRET_ACCESS_KEY", &key.name, &key.key));
        if authority(wanted).is_some() {
            // Qdrant has no setting for it. Its S3 client takes the roots of the system, and this variable takes their place. What nodes
            // trust of each other is a setting, and not touched by it.
            env.push(json!({"name": "SSL_CERT_FILE", "value": format!("{S3_DIRECTORY}/{}", names::CA_FILE)}));
        }
    }
    if let Some(snapshots) = &wanted.snapshots {
        env.extend(source.into_iter().flat_map(|source| foreign(&snapshots.place, source)));
    }
    json!({
        "name": "qdrant",
        "image": wanted.image,
        "workingDir": "/qdrant",
        "command": ["/bin/sh", format!("{CONFIG_DIRECTORY}/{}", config::START_FILE)],
        "env": env,
        "ports": [port("rest", config::REST), port("grpc", config::GRPC), port("peer", config::PEER)],
        // Collections are loaded before anything is served, which takes its time when there is much.
        "startupProbe": probe("/livez", 5, 720),
        "livenessProbe": probe("/livez", 10, 6),
        "readinessProbe": probe("/readyz", 5, 3),
        "resources": resources,
        "securityContext": {
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
    })
}

/// What lets nodes read the snapshots of another resource. A file is found by the name of its collection alone, which here is
/// another one, so a node hands it to the other as if from elsewhere. It stands in the template and not in the file of the
/// configuration, so that a node that was made without it never has it.
fn foreign(place: &SnapshotPlace, Source { namespace, name }: &Source) -> [Value; 2] {
    let folder = config::folder_of(place, namespace, name);
    [
        json!({"name": "QDRANT__STORAGE__SNAPSHOTS_PATH", "value": folder}),
        json!({"name": "QDRANT__SERVICE__ENABLE_SNAPSHOT_URL_RECOVERY", "value": "true"}),
    ]
}

fn from_secret(variable: &str, name: &str, key: &str) -> Value {
    json!({"name": variable, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}})
}

fn volumes(plan: &Plan, wanted: &ManagedPlan) -> Vec<Value> {
    let name = names::qdrant(&plan.name);
    let mut volumes =
        vec![json!({"name": "config", "configMap": {"name": name}}), json!({"name": "start", "emptyDir": {}})];
    if wanted.encrypted {
        let files = [names::CA_FILE, names::CERTIFICATE_FILE, names::PRIVATE_KEY_FILE];
        let items: Vec<Value> = files.into_iter().map(|file| json!({"key": file, "path": file})).collect();
        volumes.push(json!({"name": "tls", "secret": {"secretName": name, "items": items, "defaultMode": 0o440}}));
    }
    if let Some(snapshots) = &wanted.snapshots {
        volumes.push(match snapshots.place.claim() {
            Some(claim) => json!({"name": "snapshots", "persistentVolumeClaim": {"claimName": claim}}),
            // Also for a bucket, Qdrant makes folders, which stay empty.
            None => json!({"name": "snapshots", "emptyDir": {}}),
        });
    }
    if let Some(source) = authority(wanted) {
        let items = |key: &str| json!([{"key": key, "path": names::CA_FILE}]);
        volumes.push(match source {
            CaSource::Secret(secret) => {
                json!({"name": "s3", "secret": {"secretName": secret.name, "items": items(&secret.key), "defaultMode": 0o440}})
            }
            CaSource::ConfigMap(map) => json!({"name": "s3", "configMap": {"name": map.name, "items": items(&map.key)}}),
        });
    }
    volumes
}

/// Who vouches for the endpoint of the bucket, if not the roots of the image.
fn authority(wanted: &ManagedPlan) -> Option<CaSource> {
    wanted.snapshots.as_ref()?.place.ca()
}
