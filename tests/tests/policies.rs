//! What `examples/policy.yaml` lets a `ContextManager` name, on a real API server.

use anyhow::{Context as _, Result, ensure};
use context_manager_crds::ContextManager;
use context_manager_tests::{
    cluster::{self, Namespace, eventually, refusal},
    operator::{Operator, PATIENCE, provision},
    policy::Policy,
};
use k8s_openapi::api::core::v1::Namespace as NamespaceObject;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

/// Namespaces that it is about.
const RESTRICTED: (&str, &str) = ("example.com/memory-policy", "restricted");
const MAY_SHARE: &str = "example.com/may-share-memory";

async fn refused(namespace: &Namespace, spec: &Value) -> Result<Option<String>> {
    let object = serde_json::from_value::<ContextManager>(json!({
        "apiVersion": "contextmanager.dev/v1alpha1", "kind": "ContextManager", "metadata": {"name": "tried"}, "spec": spec,
    }))?;
    let params = PostParams { dry_run: true, ..PostParams::default() };
    match namespace.api::<ContextManager>().create(&params, &object).await {
        Ok(_) => Ok(None),
        refused => refusal(refused).map(Some),
    }
}

fn key(name: &str) -> Value {
    json!({"name": name, "key": "token"})
}

fn embedding(url: &str, secret: &str) -> Value {
    json!({"embedding": {"provider": "openAI", "url": url, "model": "m", "dimensions": 8, "apiKeySecretRef": key(secret)}})
}

fn qdrant(url: &str, secret: &str) -> Value {
    json!({"vectorStore": {"qdrant": {"url": url, "apiKeySecretRef": key(secret)}}})
}

fn managed(more: &Value) -> Value {
    let mut managed = json!({"replicas": 1, "storage": {"size": "1Gi"}});
    for (field, value) in more.as_object().into_iter().flatten() {
        managed[field] = value.clone();
    }
    json!({"vectorStore": {"managed": managed}})
}

fn bucket(secret: &str) -> Value {
    let s3 = json!({"bucket": "snapshots", "endpointUrl": "https://minio.stores.svc",
        "accessKeyIdSecretRef": key("memory-s3"), "secretAccessKeySecretRef": key(secret)});
    managed(&json!({"snapshots": {"keep": 1, "storage": {"s3": s3}}}))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_of_the_examples_refuses_what_would_give_secrets_away() -> Result<()> {
    let operator = Operator::shared().await?;
    let client = cluster::client().await?;
    let namespace = operator.namespace(&client, "policy", &[RESTRICTED]).await?;
    let foreign = embedding("https://embeddings.svc.evil.example/v1", "memory-key");
    // One that was there before is not kept from its end.
    let before = operator.namespace(&client, "policy-before", &[]).await?;
    provision(&before, "memory", json!({"allowedNamespaces": [namespace.name]})).await?;
    let _policy = Policy::of_file("examples/policy.yaml").await?;
    eventually("the policy", PATIENCE, || async {
        refused(&namespace, &foreign).await?.context("nothing is refused yet").map(drop)
    })
    .await?;
    let label = Patch::Merge(json!({"metadata": {"labels": {RESTRICTED.0: RESTRICTED.1}}}));
    let namespaces = Api::<NamespaceObject>::all(client);
    namespaces.patch(&before.name, &PatchParams::default(), &label).await?;

    for spec in [
        json!({}),
        embedding("https://embeddings.example.com/v1/embeddings", "memory-key"),
        embedding("http://tei.models.svc:8080/v1/embeddings", "memory-key"),
        qdrant("https://qdrant.stores.svc:6334", "memory-qdrant"),
        bucket("memory-s3"),
        managed(&json!({"image": "registry.example.com/qdrant/qdrant:v1.19.0"})),
    ] {
        let said = refused(&namespace, &spec).await?;
        ensure!(said.is_none(), "{spec} is refused: {said:?}");
    }
    let mut with_ca = embedding("https://embeddings.example.com/v1", "memory-key");
    with_ca["embedding"]["tls"] = json!({"caSecretRef": key("database")});
    let (secrets, urls, images) = ("begin with \"memory-\"", "Services of the cluster", "registry.example.com alone");
    for (spec, words) in [
        (embedding("https://embeddings.example.com/v1", "database"), secrets),
        (with_ca, secrets),
        (qdrant("https://qdrant.stores.svc:6334", "database"), secrets),
        (json!({"auth": {"secretPolicy": "UseExisting", "secretRef": {"name": "database"}}}), secrets),
        (bucket("database"), secrets),
        (foreign, urls),
        (embedding("https://embeddings.example.com@evil.example/v1", "memory-key"), urls),
        (embedding("https://evil.example/x.svc", "memory-key"), urls),
        (qdrant("https://evil.example:6334", "memory-qdrant"), urls),
        (managed(&json!({"image": "evil.example/qdrant:v1.19.0"})), images),
        (json!({"sidecar": {"image": "evil.example/sidecar:1"}}), images),
        (json!({"allowedNamespaces": [before.name]}), MAY_SHARE),
    ] {
        let said = refused(&namespace, &spec).await?.with_context(|| format!("{spec} is let in"))?;
        ensure!(said.contains(words), "{spec}: {said}");
    }
    let label = Patch::Merge(json!({"metadata": {"labels": {MAY_SHARE: "true"}}}));
    namespaces.patch(&namespace.name, &PatchParams::default(), &label).await?;
    eventually("the right to share", PATIENCE, || async {
        let said = refused(&namespace, &json!({"allowedNamespaces": [before.name]})).await?;
        ensure!(said.is_none(), "{said:?}");
        Ok(())
    })
    .await?;

    let resources = before.api::<ContextManager>();
    ensure!(!resources.get("memory").await?.finalizers().is_empty(), "nothing holds it");
    resources.delete("memory", &DeleteParams::default()).await?;
    eventually("the end of a resource of before", PATIENCE, || async {
        let left = resources.get_opt("memory").await?;
        ensure!(left.is_none(), "{:?}", left.map(|left| left.status));
        Ok(())
    })
    .await
}
