//! What goes into a bundle. Whatever cannot be read is listed in it, and ends nothing.

use std::collections::BTreeSet;

use context_manager_operator::pods;
use context_manager_protocol::names;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod, Secret},
    events::v1::Event,
};
use kube::{
    ResourceExt as _,
    api::{ListParams, LogParams},
};
use serde::Serialize;
use serde_json::json;

use super::{
    Files,
    events::{self, Ours},
    redact::{self, Scrubber},
};
use crate::{
    answer::yaml,
    check::definition,
    cluster::{Cluster, call},
    error::Error,
    operator,
};

/// Port of metrics of controller and webhook.
const OPERATOR_ADMIN: u16 = 8081;

/// A bundle in the making.
pub(super) struct Collector<'a> {
    cluster: &'a Cluster,
    log_lines: i64,
    files: Files,
    scrubber: Scrubber,
    not_read: Vec<String>,
}

impl<'a> Collector<'a> {
    pub(super) fn new(cluster: &'a Cluster, log_lines: i64) -> Self {
        Self { cluster, log_lines, files: Files::new(), scrubber: Scrubber::default(), not_read: Vec::new() }
    }

    /// The files, what must not stand in them, and what could not be read.
    pub(super) fn finish(mut self) -> (Files, Scrubber, Vec<String>) {
        self.put("not-read.yaml", &self.not_read.clone());
        (self.files, self.scrubber, self.not_read)
    }

    /// The cluster and the operator. Without an API server there is no report.
    pub(super) async fn installation(&mut self) -> Result<(), Error> {
        let server =
            call("read the API server's version", "get /version", self.cluster.client.apiserver_version()).await?;
        let versions = json!({"kubectlContext": env!("CARGO_PKG_VERSION"), "apiServer": server.git_version, "platform": server.platform});
        self.put("versions.yaml", &versions);
        let registrations = operator::registrations(self.cluster).await;
        if let Some(found) = self.read(registrations) {
            let all: Vec<_> = found.iter().map(|one| redact::metadata(json!(one))).collect();
            self.put("webhook-configurations.yaml", &all);
        }
        let found = definition::fetch(self.cluster).await;
        if let Some(Some(found)) = self.read(found) {
            let versions: Vec<_> = found.spec.versions.iter().map(|version| &version.name).collect();
            let definition = json!({"metadata": redact::metadata(json!(found))["metadata"], "versions": versions, "status": found.status});
            self.put("definition.yaml", &definition);
        }
        let home = self.cluster.operator_namespace.clone();
        let api = self.cluster.of::<Deployment>(&home);
        let found = call(
            "list the operator's Deployments",
            "list deployments.apps",
            api.list(&ListParams::default().labels(operator::PART)),
        )
        .await;
        let deployments = self.read(found).map(|found| found.items);
        if let Some(found) = &deployments {
            let all: Vec<_> = found.iter().map(|one| redact::resource(json!(one))).collect();
            self.put("operator/deployments.yaml", &all);
        }
        let api = self.cluster.of::<Pod>(&home);
        let found =
            call("list the operator's pods", "list pods", api.list(&ListParams::default().labels(operator::PART)))
                .await;
        for pod in self.read(found).into_iter().flat_map(|found| found.items) {
            let name = pod.name_any();
            self.put(&format!("operator/{name}/pod.yaml"), &redact::resource(json!(pod)));
            self.pod(&home, &pod, "operator", operator::container(&pod), OPERATOR_ADMIN).await;
        }
        let deployed = deployments.iter().flatten().map(kube::ResourceExt::name_any);
        self.events(&home, "operator", &Ours { names: deployed.collect(), ..Ours::default() }).await;
        self.secrets(&home, "operator", &operator::authorities(&deployments.unwrap_or_default())).await;
        Ok(())
    }

    /// A namespace with resources and agents.
    pub(super) async fn namespace(&mut self, namespace: &str) {
        let folder = format!("namespaces/{namespace}");
        let resources = self.cluster.resources(Some(namespace)).await;
        let (mut secrets, mut ours) = (BTreeSet::new(), Ours::default());
        for resource in self.read(resources).unwrap_or_default() {
            let name = resource.name_any();
            ours.resource(&name);
            self.put(&format!("{folder}/contextmanagers/{name}.yaml"), &redact::resource(json!(resource)));
            let config = names::config_map(&name);
            let api = self.cluster.of::<ConfigMap>(namespace);
            let found = call(&format!("read the ConfigMap {config:?}"), "get configmaps", api.get_opt(&config)).await;
            if let Some(Some(found)) = self.read(found) {
                self.put(&format!("{folder}/configmaps/{config}.yaml"), &redact::resource(json!(found)));
            }
            secrets.extend(
                [names::keys_secret, names::tls_secret, names::store_secret, names::qdrant].map(|of| of(&name)),
            );
            redact::references(&resource.data["spec"], &mut secrets);
        }
        self.secrets(namespace, &folder, &secrets).await;
        let api = self.cluster.of::<Pod>(namespace);
        let action = format!("list the pods of namespace {namespace:?}");
        let found = call(&action, "list pods", api.list(&ListParams::default().labels(names::INJECTED))).await;
        for pod in self.read(found).into_iter().flat_map(|found| found.items) {
            let name = pod.name_any();
            self.put(&format!("{folder}/pods/{name}/pod.yaml"), &redact::agent(json!(pod)));
            self.pod(namespace, &pod, &format!("{folder}/pods"), Some(names::CONTAINER), names::DEFAULT_ADMIN_PORT)
                .await;
            ours.agents.insert(name);
        }
        self.events(namespace, &folder, &ours).await;
    }

    /// Log, health and metrics of a running pod, by the container that is ours: agents and service meshes have others in it.
    async fn pod(&mut self, namespace: &str, pod: &Pod, folder: &str, container: Option<&str>, admin: u16) {
        let name = pod.name_any();
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
        if phase == "Pending" {
            return;
        }
        let params = LogParams {
            container: container.map(str::to_owned),
            tail_lines: Some(self.log_lines),
            timestamps: true,
            ..LogParams::default()
        };
        let api = self.cluster.of::<Pod>(namespace);
        let action = format!("read the log of the pod {name:?}");
        if let Some(log) = self.read(call(&action, "get pods/log", api.logs(&name, &params)).await) {
            self.files.insert(format!("{folder}/{name}/log.txt"), log);
        }
        if pods::is_closed(pod) {
            self.not_read.push(format!("health and metrics of pod {name}: its sidecar listens on no port, because the pod uses the node's network"));
            return;
        }
        let is_sidecar = container == Some(names::CONTAINER);
        let pages: &[&str] = if is_sidecar { &["health", "metrics"] } else { &["readyz", "metrics"] };
        for page in pages.iter().filter(|_| phase == "Running") {
            let path = format!(
                "/api/v1/namespaces/{namespace}/pods/{name}:{}/proxy/{page}",
                pods::sidecar_port(pod, names::ENV_ADMIN_PORT).unwrap_or(admin)
            );
            let request = match http::Request::get(path).body(Vec::new()) {
                Ok(request) => request,
                Err(error) => {
                    self.not_read.push(format!("{page} of pod {name}: {error}"));
                    continue;
                }
            };
            let action = format!("read {page} of the pod {name:?}");
            if let Some(text) =
                self.read(call(&action, "get pods/proxy", self.cluster.client.request_text(request)).await)
            {
                self.files.insert(format!("{folder}/{name}/{page}.txt"), text);
            }
        }
    }

    /// Events about what is ours, and of whom they are.
    async fn events(&mut self, namespace: &str, folder: &str, ours: &Ours) {
        let api = self.cluster.of::<Event>(namespace);
        let action = format!("list the events of namespace {namespace:?}");
        let found = call(&action, "list events.events.k8s.io", api.list(&ListParams::default())).await;
        let Some(found) = self.read(found) else { return };
        let lines: Vec<_> = found.iter().filter(|event| ours.tell(event)).map(events::line).collect();
        self.put(&format!("{folder}/events.yaml"), &lines);
    }

    /// Names and lengths of the Secrets of these names. They are read one by one, and their values are looked for in all files.
    async fn secrets(&mut self, namespace: &str, folder: &str, wanted: &BTreeSet<String>) {
        let api = self.cluster.of::<Secret>(namespace);
        let mut shown = Vec::new();
        for name in wanted {
            let action = format!("read the Secret {name:?} of namespace {namespace:?}");
            let found = call(&action, "get secrets", api.get_opt(name)).await;
            let Some(found) = self.read(found) else { continue };
            shown.push(found.as_ref().map_or_else(|| json!({"name": name, "exists": false}), redact::secret));
            if let Some(secret) = &found {
                self.scrubber.learn(secret);
            }
        }
        self.put(&format!("{folder}/secrets.yaml"), &shown);
    }

    fn read<T>(&mut self, outcome: Result<T, Error>) -> Option<T> {
        outcome.map_err(|error| self.not_read.push(error.to_string())).ok()
    }

    fn put(&mut self, path: &str, value: &impl Serialize) {
        match yaml(value) {
            Ok(text) => {
                self.files.insert(path.to_owned(), text);
            }
            Err(error) => self.not_read.push(format!("{path}: {error}")),
        }
    }
}
