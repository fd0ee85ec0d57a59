//! What an API server asks an injector about a pod, and what it must answer.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use context_manager_tests::cluster::eventually;
use json_patch::Patch;
use serde_json::{Value, json};
use uuid::Uuid;

use super::server::Server;

/// How long an injector may take until it answers the first time.
const START: Duration = Duration::from_mins(1);

/// An `AdmissionReview` of a pod's creation, which is asked again and again under another id.
pub struct Review {
    pod: Value,
    before_id: String,
    after_id: String,
}

impl Review {
    /// That of a pod. After a dry run nothing must remain, so nothing is told by an event either.
    pub fn new(pod: &Value, namespace: &str, dry_run: bool) -> Result<Self> {
        let kind = json!({"group": "", "version": "v1", "kind": "Pod"});
        let resource = json!({"group": "", "version": "v1", "resource": "pods"});
        let id = Uuid::nil().to_string();
        let review = json!({
            "kind": "AdmissionReview",
            "apiVersion": "admission.k8s.io/v1",
            "request": {
                "uid": id,
                "kind": kind,
                "resource": resource,
                "requestKind": kind,
                "requestResource": resource,
                "namespace": namespace,
                "operation": "CREATE",
                "userInfo": {
                    "username": "system:serviceaccount:kube-system:replicaset-controller",
                    "uid": Uuid::new_v4().to_string(),
                    "groups": ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"],
                },
                "object": pod,
                "oldObject": null,
                "dryRun": dry_run,
                "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
            },
        })
        .to_string();
        let (before_id, after_id) = review.split_once(&id).context("the review has an id")?;
        Ok(Self { pod: pod.clone(), before_id: before_id.to_owned(), after_id: after_id.to_owned() })
    }

    /// The review under a new id.
    pub fn body(&self) -> String {
        [&self.before_id, Uuid::new_v4().to_string().as_str(), &self.after_id].concat()
    }

    /// Waits until the injector answers, and makes sure that its answer is a patch that adds this container.
    pub async fn check(&self, server: &Server, adds: &str) -> Result<()> {
        let client = client()?;
        let answer = eventually(server.name, START, || async { ask(&client, &server.url, self.body()).await }).await?;
        let answer: Value = serde_json::from_str(&answer)?;
        let patch = answer.pointer("/response/patch").and_then(Value::as_str).context("the answer has no patch")?;
        let patch: Patch = serde_json::from_slice(&BASE64_STANDARD.decode(patch)?)?;
        let mut patched = self.pod.clone();
        json_patch::patch(&mut patched, &patch).context("the patch does not fit the pod")?;
        let lists = ["containers", "initContainers"].map(|list| &patched["spec"][list]);
        let mut containers = lists.into_iter().filter_map(Value::as_array).flatten();
        ensure!(containers.any(|container| container["name"] == adds), "{} added no container {adds}", server.name);
        Ok(())
    }
}

/// A client with a connection of its own, which it keeps. What is measured is the server, so it is not asked who it is.
pub fn client() -> Result<reqwest::Client> {
    context_manager_tests::cluster::install_tls();
    let client = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).no_proxy();
    Ok(client.http1_only().tcp_nodelay(true).timeout(Duration::from_secs(10)).build()?)
}

/// Sends a review; the pod must be admitted with a patch.
pub async fn ask(client: &reqwest::Client, url: &str, body: String) -> Result<String> {
    let request = client.post(url).header("content-type", "application/json").body(body);
    let answer = request.send().await?;
    let (status, text) = (answer.status(), answer.text().await?);
    let injected = text.contains("\"allowed\":true") && text.contains("\"patch\":\"");
    ensure!(status.is_success() && injected, "{url} did not inject: {status}: {text}");
    Ok(text)
}
