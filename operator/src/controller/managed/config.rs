//! What a node of a managed Qdrant reads when it starts: its configuration, and how it finds the others.

use context_manager_crds::context_manager::snapshots::SnapshotBucket;
use context_manager_protocol::names;
use serde_json::json;

use crate::controller::plan::{ManagedPlan, Plan, SnapshotPlace, SnapshotPlan};

/// Where the node's files are inside the container.
pub(super) const CONFIG_DIRECTORY: &str = "/etc/qdrant";
pub(super) const TLS_DIRECTORY: &str = "/etc/qdrant-tls";
/// The CA of a bucket's endpoint.
pub(super) const S3_DIRECTORY: &str = "/etc/qdrant-s3";
pub(super) const DATA_DIRECTORY: &str = "/qdrant/data";
pub(super) const START_DIRECTORY: &str = "/qdrant/init";
/// Where the snapshots' volume is. What follows it in a path tells clusters from each other that share one.
pub(super) const SNAPSHOTS_DIRECTORY: &str = "/context-manager";
/// Keys of the `ConfigMap`.
pub(super) const CONFIG_FILE: &str = "config.yaml";
pub(super) const START_FILE: &str = "start.sh";
pub(super) const FORMED_FILE: &str = "formed";
pub(super) const REJOIN_FILE: &str = "rejoin";
/// Of the operator alone: what is restored, and from which snapshot it was.
pub(super) const RESTORE_FILE: &str = "restore";
pub(super) const RESTORED_FILE: &str = "restored";
/// Ports: REST, gRPC, and between nodes.
pub(super) const REST: u16 = 6333;
pub(super) const GRPC: u16 = 6334;
pub(super) const PEER: u16 = 6335;

/// Where the snapshots of a resource are: in a bucket, what the names of its files begin with.
pub(super) fn folder(place: &SnapshotPlace, plan: &Plan) -> String {
    folder_of(place, &plan.namespace, &plan.name)
}

/// The same of another resource at the same place.
pub(super) fn folder_of(place: &SnapshotPlace, namespace: &str, name: &str) -> String {
    let prefix = place.prefix().map(|prefix| format!("/{prefix}")).unwrap_or_default();
    format!("{SNAPSHOTS_DIRECTORY}{prefix}/{namespace}/{name}")
}

/// How nodes reach the bucket, if the snapshots are in one. The credentials are in the environment.
fn bucket(place: &SnapshotPlace) -> String {
    let SnapshotPlace::Bucket(given) = place else { return String::new() };
    let SnapshotBucket { bucket, region, endpoint_url, .. } = &**given;
    let line = |key: &str, value: &Option<String>| {
        // What is a text in JSON is one in YAML.
        value.as_ref().map(|value| format!("\n      {key}: {}", json!(value))).unwrap_or_default()
    };
    let more = [line("region", region), line("endpoint_url", endpoint_url)].concat();
    format!("\n  snapshots_config:\n    snapshots_storage: s3\n    s3_config:\n      bucket: {}{more}", json!(bucket))
}

/// The configuration. Usage is not reported to the makers of Qdrant, and nodes fetch nothing by URLs that a request names.
pub(super) fn yaml(plan: &Plan, wanted: &ManagedPlan) -> String {
    let encrypted = wanted.encrypted;
    let tls = if encrypted {
        format!(
            "tls:\n  cert: {TLS_DIRECTORY}/{}\n  key: {TLS_DIRECTORY}/{}\n  ca_cert: {TLS_DIRECTORY}/{}\n",
            names::CERTIFICATE_FILE,
            names::PRIVATE_KEY_FILE,
            names::CA_FILE
        )
    } else {
        String::new()
    };
    // A node empties the folder of temporary files when it starts, so what is shared is no place for it.
    let snapshots = match &wanted.snapshots {
        Some(SnapshotPlan { place, .. }) => {
            format!("{}\n  temp_path: {DATA_DIRECTORY}/temp{}", folder(place, plan), bucket(place))
        }
        None => format!("{DATA_DIRECTORY}/snapshots"),
    };
    format!(
        "log_level: INFO
telemetry_disabled: true
storage:
  storage_path: {DATA_DIRECTORY}/storage
  snapshots_path: {snapshots}
service:
  host: 0.0.0.0
  http_port: {REST}
  grpc_port: {GRPC}
  enable_tls: {encrypted}
  jwt_rbac: true
  enforce_internal_auth: true
  enable_cors: false
  enable_static_content: false
  enable_snapshot_url_recovery: false
cluster:
  enabled: true
  p2p:
    port: {PEER}
    enable_tls: {encrypted}
{tls}"
    )
}

/// The script that starts a node. The first one begins the cluster, the others join it; a node that belongs to one already takes no notice
/// of whom it is to join. Once a cluster of several was formed the first one joins, too: with an empty volume it would otherwise begin another
/// cluster beside the one that has the data. Qdrant then refuses it as long as the lost one has shards, at each start.
pub(super) fn start(plan: &Plan, wanted: &ManagedPlan) -> String {
    let scheme = if wanted.encrypted { "https" } else { "http" };
    let name = names::qdrant(&plan.name);
    let domain = format!("{}.{}.svc:{PEER}", names::qdrant_peers(&plan.name), plan.namespace);
    format!(
        "set -eu
if [ \"$POD_NAME\" != {name}-0 ]; then
  set -- --bootstrap {scheme}://{name}-0.{domain}
elif [ -e {CONFIG_DIRECTORY}/{REJOIN_FILE} ]; then
  set -- --bootstrap {scheme}://{name}-1.{domain}
fi
exec ./qdrant --config-path {CONFIG_DIRECTORY}/{CONFIG_FILE} --uri {scheme}://$POD_NAME.{domain} \"$@\"
"
    )
}
