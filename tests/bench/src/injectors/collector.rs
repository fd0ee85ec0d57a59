//! The OpenTelemetry operator, whose webhook injects a collector. Like ours it looks the pod's resource up in what it watches.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use context_manager_tests::{
    cluster::{self, FIELD_MANAGER},
    webhook::dead_address,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt as _,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    runtime::{conditions, wait::await_condition},
};
use serde_json::{Value, json};

use super::{server::Server, site::Site};

/// The container that it adds.
pub const ADDS: &str = "otc-container";
/// Environment variables with the paths of the program and of the folder of its definitions; `cargo xtask bench` sets them.
const PROGRAM: &str = "CONTEXT_MANAGER_BENCH_OPENTELEMETRY_OPERATOR";
const DEFINITIONS: &str = "CONTEXT_MANAGER_BENCH_OPENTELEMETRY_DEFINITIONS";
const RESOURCE: &str = "collector";
const SERVED: Duration = Duration::from_secs(30);

/// Asks for it.
pub fn annotations() -> Value {
    json!({"sidecar.opentelemetry.io/inject": RESOURCE})
}

/// Its definitions; they are gone when dropped.
pub struct Definitions(Vec<String>);

/// Makes its definitions and its resource, and starts it.
pub async fn start(site: &Site) -> Result<(Server, Definitions)> {
    let program =
        std::env::var_os(PROGRAM).with_context(|| format!("{PROGRAM} is not set; run `cargo xtask bench`"))?;
    let definitions = Definitions::apply(&site.client).await?;
    make_resource(site).await?;
    let (address, probes) = (dead_address()?, dead_address()?);
    let mut command = Command::new(program);
    command
        .args(["--webhook-port", &address.port().to_string(), "--health-probe-addr", &probes.to_string()])
        .args(["--metrics-addr", "0"])
        .env("KUBECONFIG", cluster::kubeconfig()?)
        // Where it looks for its certificate.
        .env("TMPDIR", site.folder.path());
    let url = format!("https://{address}/mutate-v1-pod");
    Ok((Server::start("opentelemetry-operator", url, &mut command, site.folder.path())?, definitions))
}

/// A collector that is configured as its documentation shows it. The operator need not make anything for it.
async fn make_resource(site: &Site) -> Result<()> {
    let kind = ApiResource {
        group: "opentelemetry.io".to_owned(),
        version: "v1beta1".to_owned(),
        api_version: "opentelemetry.io/v1beta1".to_owned(),
        kind: "OpenTelemetryCollector".to_owned(),
        plural: "opentelemetrycollectors".to_owned(),
    };
    let pipeline = json!({"receivers": ["otlp"], "processors": ["memory_limiter", "batch"], "exporters": ["otlp"]});
    let resource: DynamicObject = serde_json::from_value(json!({
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {"name": RESOURCE},
        "spec": {
            "mode": "sidecar",
            "managementState": "unmanaged",
            "image": "localhost/collector:1",
            "resources": {"limits": {"memory": "128Mi"}},
            "config": {
                "receivers": {"otlp": {"protocols": {
                    "grpc": {"endpoint": "127.0.0.1:4317"},
                    "http": {"endpoint": "127.0.0.1:4318"},
                }}},
                "processors": {
                    "memory_limiter": {"check_interval": "1s", "limit_percentage": 75, "spike_limit_percentage": 15},
                    "batch": {"send_batch_size": 10_000, "timeout": "10s"},
                },
                "exporters": {"otlp": {"endpoint": "collector.observability:4317"}},
                "service": {"pipelines": {"traces": pipeline, "metrics": pipeline}},
            },
        },
    }))?;
    let api = Api::<DynamicObject>::namespaced_with(site.client.clone(), &site.namespace.name, &kind);
    api.create(&PostParams::default(), &resource).await.context("failed to make a collector")?;
    Ok(())
}

impl Definitions {
    async fn apply(client: &Client) -> Result<Self> {
        let folder = std::env::var_os(DEFINITIONS)
            .with_context(|| format!("{DEFINITIONS} is not set; run `cargo xtask bench`"))?;
        let api = Api::<CustomResourceDefinition>::all(client.clone());
        let mut made = Self(Vec::new());
        for entry in fs::read_dir(folder)? {
            let definition: CustomResourceDefinition = serde_saphyr::from_str(&fs::read_to_string(entry?.path())?)?;
            let name = definition.name_any();
            let params = PatchParams::apply(FIELD_MANAGER).force();
            api.patch(&name, &params, &Patch::Apply(&definition)).await?;
            made.0.push(name);
        }
        for name in &made.0 {
            let served = await_condition(api.clone(), name, conditions::is_crd_established());
            tokio::time::timeout(SERVED, served).await.with_context(|| format!("{name} is not served"))??;
        }
        Ok(made)
    }
}

impl Drop for Definitions {
    fn drop(&mut self) {
        let names = std::mem::take(&mut self.0);
        cluster::clean_up("the definitions of the other injector", async move |client| {
            let api = Api::<CustomResourceDefinition>::all(client);
            for name in names {
                api.delete(&name, &DeleteParams::default()).await?;
            }
            Ok(())
        });
    }
}
