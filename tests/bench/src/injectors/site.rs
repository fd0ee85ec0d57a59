//! What the injectors find in the cluster, and the pod they are asked about.

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use context_manager_protocol::names;
use context_manager_tests::{
    cluster::{self, Namespace, eventually},
    webhook::{Registration, dead_address},
};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::{Client, ResourceExt as _, api::ListParams};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{collector, vault};

const PATIENCE: Duration = Duration::from_secs(30);
const RESOURCE: &str = "memory";

/// The cluster's side of the three.
pub struct Site {
    /// A client of the cluster.
    pub client: Client,
    /// Where the pod would be.
    pub namespace: Namespace,
    /// Where the injectors would be.
    pub home: Namespace,
    /// Where the API server would call our webhook.
    pub address: SocketAddr,
    /// Files of the injectors.
    pub folder: TempDir,
    /// What the other injectors serve; ours has its own.
    pub certificate: Certificate,
    _registration: Registration,
}

/// Files of a certificate.
pub struct Certificate {
    /// With the certificate.
    pub chain: PathBuf,
    /// With its key.
    pub key: PathBuf,
}

impl Site {
    /// Makes it.
    pub async fn make() -> Result<Self> {
        let client = cluster::client().await?;
        cluster::install_definition(&client).await?;
        let home = Namespace::create(&client, "injectors", &[]).await?;
        let address = dead_address()?;
        let registration = Registration::create(&client, &[&home.name], address).await?;
        let namespace = Namespace::create(&client, "injected", &[]).await?;
        namespace.make_resource(RESOURCE, json!({})).await?;
        let folder = tempfile::tempdir()?;
        let certificate = certificate(&folder)?;
        Ok(Self { client, namespace, home, address, folder, certificate, _registration: registration })
    }

    /// A pod as the API server shows it to a webhook: one of a Deployment's, with its account and defaults, but without a name. No
    /// webhook looks at this namespace, so a dry run shows what the API server itself adds.
    pub async fn pod(&self) -> Result<Value> {
        let template = template();
        let deployment = json!({
            "metadata": {"name": "agent"},
            "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "agent"}}, "template": template},
        });
        self.namespace.make::<Deployment>(&deployment).await?;
        let set = eventually("the Deployment's ReplicaSet", PATIENCE, || async {
            let sets = self.namespace.api::<ReplicaSet>().list(&ListParams::default()).await?;
            sets.items.into_iter().next().context("it is not there")
        })
        .await?;
        let mut pod = json!(set.spec)["template"].take();
        pod["metadata"]["generateName"] = json!(format!("{}-", set.name_any()));
        pod["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "name": set.name_any(),
            "uid": set.uid(),
            "controller": true,
            "blockOwnerDeletion": true,
        }]);
        let mut pod = json!(self.namespace.try_pod(&pod).await?);
        let metadata = pod["metadata"].as_object_mut().context("a pod has metadata")?;
        // These come after the webhooks.
        for later in ["name", "uid", "creationTimestamp", "resourceVersion", "generation"] {
            metadata.remove(later);
        }
        ensure!(pod["spec"]["volumes"].as_array().is_some_and(|volumes| volumes.len() > 1), "the pod has no account");
        Ok(pod)
    }
}

/// A service with a proxy beside it, which asks all three injectors.
fn template() -> Value {
    let mut annotations = json!({names::INJECT: "true", names::NAME: RESOURCE, "prometheus.io/scrape": "true"});
    for others in [vault::annotations(), collector::annotations()] {
        if let (Some(annotations), Value::Object(others)) = (annotations.as_object_mut(), others) {
            annotations.extend(others);
        }
    }
    let probe = |path: &str| json!({"httpGet": {"path": path, "port": "http"}, "periodSeconds": 10});
    let from_field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let restricted = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    json!({
        "metadata": {"labels": {"app": "agent", "team": "checkout", "tier": "backend"}, "annotations": annotations},
        "spec": {
            "nodeSelector": {"suite": "nowhere"},
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "agent",
                "image": "localhost/agent:1",
                "args": ["--listen", "0.0.0.0:8080", "--model", "small"],
                "env": [
                    {"name": "LOG_LEVEL", "value": "info"},
                    {"name": "UPSTREAM", "value": "http://orders.checkout.svc.cluster.local:8080"},
                    {"name": "POD_NAME", "valueFrom": from_field("metadata.name")},
                    {"name": "POD_IP", "valueFrom": from_field("status.podIP")},
                    {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "agent", "key": "token"}}},
                ],
                "ports": [{"name": "http", "containerPort": 8080}, {"name": "metrics", "containerPort": 9090}],
                "readinessProbe": probe("/ready"),
                "livenessProbe": probe("/live"),
                "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}},
                "volumeMounts": [{"name": "settings", "mountPath": "/etc/agent"}, {"name": "cache", "mountPath": "/cache"}],
                "securityContext": restricted,
            }, {
                "name": "proxy",
                "image": "localhost/proxy:1",
                "ports": [{"name": "https", "containerPort": 8443}],
                "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
                "volumeMounts": [{"name": "tls", "mountPath": "/etc/tls", "readOnly": true}],
                "securityContext": restricted,
            }],
            "volumes": [
                {"name": "settings", "configMap": {"name": "agent"}},
                {"name": "cache", "emptyDir": {"sizeLimit": "1Gi"}},
                {"name": "tls", "secret": {"secretName": "agent-tls"}},
            ],
        },
    })
}

/// Writes a certificate where the other injectors look for it.
fn certificate(folder: &TempDir) -> Result<Certificate> {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
    let folder = folder.path().join("k8s-webhook-server/serving-certs");
    fs::create_dir_all(&folder)?;
    let files = Certificate { chain: folder.join("tls.crt"), key: folder.join("tls.key") };
    fs::write(&files.chain, made.cert.pem())?;
    fs::write(&files.key, made.signing_key.serialize_pem())?;
    Ok(files)
}
