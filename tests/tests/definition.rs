//! The definition of `ContextManager` in a real API server: each rule one by one, what is accepted, what is shown.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use context_manager_crds::{
    ContextManager,
    validate::{validate, validate_update},
};
use context_manager_test_crds::{BrokenChange, BrokenSpec, broken_changes, broken_specs};
use context_manager_tests::cluster::{self, Namespace, definition, refusal, resource_type};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

async fn namespace(what: &str) -> Result<(Client, Namespace)> {
    let client = cluster::client().await?;
    cluster::install_definition(&client).await?;
    let namespace = Namespace::create(&client, what, &[]).await?;
    Ok((client, namespace))
}

fn object(name: &str, spec: &Value) -> DynamicObject {
    let mut object = DynamicObject::new(name, &resource_type()).data(json!({"spec": spec}));
    object.metadata.namespace = None;
    object
}

fn dry_run() -> PostParams {
    PostParams { dry_run: true, ..PostParams::default() }
}

/// What `kubectl apply` does: an unknown field is an error.
async fn apply_strictly(namespace: &Namespace, name: &str, spec: &Value) -> kube::Result<DynamicObject> {
    let params = PatchParams { dry_run: true, ..PatchParams::apply(cluster::FIELD_MANAGER).validation_strict() };
    namespace.resources().patch(name, &params, &Patch::Apply(&object(name, spec))).await
}

#[tokio::test]
async fn every_broken_rule_is_refused_in_the_words_of_the_rule() -> Result<()> {
    let (_, namespace) = namespace("rules").await?;
    let mut wrong = Vec::new();
    for BrokenSpec { case, name, spec, message } in broken_specs() {
        match refusal(namespace.resources().create(&dry_run(), &object(&name, &spec)).await) {
            Ok(said) if said.contains(message) => {}
            Ok(said) => wrong.push(format!("{case}: the API server says {said:?}, and not {message:?}")),
            Err(error) => wrong.push(format!("{case}: {error:#}")),
        }
        let twin = validate(&ContextManager::new(&name, serde_json::from_value(spec)?));
        if !twin.iter().any(|problem| problem.to_string().contains(message)) {
            wrong.push(format!("{case}: the operator says {twin:?}, and not {message:?}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[tokio::test]
async fn every_forbidden_change_is_refused_in_the_words_of_the_rule() -> Result<()> {
    let (_, namespace) = namespace("changes").await?;
    let mut wrong = Vec::new();
    for (index, BrokenChange { case, old, new, message }) in broken_changes().into_iter().enumerate() {
        let name = format!("memory-{index}");
        let before = namespace.resources().create(&PostParams::default(), &object(&name, &old)).await;
        let mut after = before.with_context(|| format!("{case}: the API server refuses what was before"))?;
        after.data["spec"] = new.clone();
        match refusal(namespace.resources().replace(&name, &dry_run(), &after).await) {
            Ok(said) if said.contains(message) => {}
            Ok(said) => wrong.push(format!("{case}: the API server says {said:?}, and not {message:?}")),
            Err(error) => wrong.push(format!("{case}: {error:#}")),
        }
        let twin = validate_update(&serde_json::from_value(old)?, &serde_json::from_value(new)?);
        if !twin.iter().any(|problem| problem.to_string().contains(message)) {
            wrong.push(format!("{case}: the operator says {twin:?}, and not {message:?}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Specs that use every field that there is, so that no rule refuses what it should not.
#[expect(clippy::too_many_lines, reason = "a table, with a line for each shape")]
fn good_specs() -> Vec<(&'static str, Value)> {
    vec![
        ("nothing", json!({})),
        ("the embedded store, said aloud", json!({"vectorStore": {"embedded": {}}})),
        (
            "a limited emptyDir and the strong durability",
            json!({"vectorStore": {"embedded": {"storage": {"emptyDir": {"sizeLimit": "1Gi"}}, "durability": "Node"}}}),
        ),
        (
            "a claim",
            json!({"vectorStore": {"embedded": {"storage": {"volumeClaimTemplate": {
                "storageClassName": "", "accessModes": ["ReadWriteOnce"], "volumeName": "disk",
                "resources": {"requests": {"storage": "1Gi"}},
            }}}}}),
        ),
        ("a Qdrant server", json!({"vectorStore": {"qdrant": {"url": "http://qdrant:6334"}}})),
        (
            "a Qdrant server with everything",
            json!({"vectorStore": {"qdrant": {
                "url": "https://[::1]:6334/", "apiKeySecretRef": {"name": "qdrant", "key": "key"},
                "token": {"policy": "PerResource", "lifetime": "1h"},
                "tls": {"caSecretRef": {"name": "qdrant", "key": "ca.crt"}, "verify": true}, "collection": "Shared_memory-2",
                "shards": 3, "replicationFactor": 2, "writeConsistency": 2, "timeout": "10s",
            }}}),
        ),
        (
            "a CA from a ConfigMap",
            json!({"vectorStore": {"qdrant": {
                "url": "https://qdrant", "tls": {"caConfigMapRef": {"name": "qdrant", "key": "ca.crt"}},
            }}}),
        ),
        (
            "a server that nobody vouches for",
            json!({"vectorStore": {"qdrant": {"url": "https://qdrant", "tls": {"verify": false}}}}),
        ),
        ("a managed Qdrant", json!({"vectorStore": {"managed": {}}})),
        (
            "a managed Qdrant with everything",
            json!({"vectorStore": {"managed": {
                "replicas": 3, "image": "registry.example.com/qdrant:v1.19.1", "timeout": "10s",
                "storage": {"storageClassName": "fast", "size": "100Gi"},
                "resources": {"requests": {"cpu": 1, "memory": "4Gi"}, "limits": {"memory": "4Gi"}},
                "tls": {"enabled": true}, "shards": 6, "replicationFactor": 3, "writeConsistency": 2,
                "snapshots": {
                    "every": "24h", "keep": 14, "storage": {"volume": {"size": "100Gi", "storageClassName": "shared"}},
                },
                "scheduling": {
                    "nodeSelector": {"disk": "nvme"}, "priorityClassName": "stores", "spread": "Required",
                    "tolerations": [
                        {"key": "stores", "operator": "Equal", "value": "yes", "effect": "NoExecute", "tolerationSeconds": 60},
                        {"operator": "Exists"},
                    ],
                },
            }}}),
        ),
        (
            "snapshots in a bucket",
            json!({"vectorStore": {"managed": {"snapshots": {"every": "1m", "storage": {"s3": {
                "bucket": "my.snapshots-1", "region": "eu-central-1", "endpointUrl": "https://minio.storage.svc:9000",
                "prefix": "blue/cluster_1.x", "accessKeyIdSecretRef": {"name": "s3", "key": "id"},
                "caConfigMapRef": {"name": "minio", "key": "ca.crt"},
                "secretAccessKeySecretRef": {"name": "s3", "key": "secret"},
            }}}}}}),
        ),
        (
            "snapshots on a claim that is there, when they are asked for, and one to begin with",
            json!({"vectorStore": {"managed": {
                "snapshots": {"storage": {"volume": {"claimName": "mine"}}},
                "restoreFrom": {"snapshot": "2026-11-27T03-26-40Z"},
            }}}),
        ),
        (
            "another resource's snapshot to begin with",
            json!({"vectorStore": {"managed": {
                "snapshots": {"storage": {"volume": {"claimName": "mine"}}},
                "restoreFrom": {"snapshot": "latest", "name": "memory-1", "namespace": "1st-team"},
            }}}),
        ),
        (
            "an HTTP embedder",
            json!({"embedding": {
                "provider": "openAI", "url": "https://api.example.com/v1/embeddings", "model": "m", "dimensions": 1536,
                "apiKeySecretRef": {"name": "embedding", "key": "key"}, "batchSize": 16, "timeout": "5s",
                "tls": {"caSecretRef": {"name": "embedding", "key": "ca.crt"}},
                "cache": {"capacity": "8Mi", "ttl": "30m"},
                "retry": {"maxAttempts": 5, "initialDelay": "100ms", "maxDelay": "10s", "jitter": 0.1},
                "queryPrefix": "query: ", "documentPrefix": "passage: ",
            }}),
        ),
        (
            "an HTTP embedder with a CA in a ConfigMap",
            json!({"embedding": {
                "provider": "openAI", "url": "https://api.example.com/v1/embeddings", "model": "m", "dimensions": 1536,
                "tls": {"caConfigMapRef": {"name": "embedding", "key": "ca.crt"}},
            }}),
        ),
        ("a builtin embedder of another length", json!({"embedding": {"provider": "builtin", "dimensions": 256}})),
        ("no cache", json!({"embedding": {"cache": {"capacity": 0}}})),
        (
            "levels and collection",
            json!({
                "levels": {
                    "immediate": {"capacity": 20, "ttl": "30m"}, "shortTerm": {"capacity": 200, "ttl": "2h"},
                    "longTerm": {"ttl": "720h"}, "promotion": {"minAccesses": 5},
                },
                "gc": {"interval": "30s", "batchSize": 100},
            }),
        ),
        (
            "retrieval",
            json!({"retrieval": {
                "legs": {"dense": 0.5, "denseWithPrevious": 0, "sparse": 0.5, "sparseWithPrevious": 0},
                "nudges": {"recency": 0.1, "frequency": 0.05, "level": 0}, "recencyHalfLife": "12h",
                "levels": {
                    "immediate": {"floor": 0.2, "cap": 0.5}, "shortTerm": {"floor": 0.3}, "longTerm": {"cap": 1},
                },
                "defaultTokenBudget": 4000, "minScore": 0.1, "tokenizer": "cl100k_base",
            }}),
        ),
        (
            "an own key ring",
            json!({"auth": {
                "secretPolicy": "UseExisting", "secretRef": {"name": "ring", "key": "keys.json"}, "timestampWindow": "1m",
            }}),
        ),
        ("certificates", json!({"tls": {"issuer": "SelfManaged", "duration": "24h", "renewBefore": "8h"}})),
        (
            "a sidecar with everything",
            json!({"sidecar": {
                "image": "registry.example.com/sidecar:2", "mode": "Native", "protocolPort": 9000, "adminPort": 9001,
                "maxMessageSize": "1Mi", "maxBytesInFlight": "1024Ki", "logLevel": "info,context_manager=debug",
                "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": 1, "memory": "1Gi"}},
            }}),
        ),
        ("injection", json!({"injection": {"onMissing": "Deny", "containers": ["agent", "tools"]}})),
        ("the rest", json!({"reclaimPolicy": "Delete", "suspend": true})),
    ]
}

#[tokio::test]
async fn every_documented_shape_is_accepted_and_stays_as_it_was_written() -> Result<()> {
    let (_, namespace) = namespace("shapes").await?;
    for (case, spec) in good_specs() {
        let accepted = apply_strictly(&namespace, "memory", &spec).await.with_context(|| case.to_owned())?;
        // The schema has no defaults, so what was not written is not there; and nothing that was written is pruned.
        ensure!(accepted.data["spec"] == spec, "{case}: {} became {}", spec, accepted.data["spec"]);
        let problems = validate(&ContextManager::new("memory", serde_json::from_value(spec)?));
        ensure!(problems.is_empty(), "{case}: the operator refuses it: {problems:?}");
    }
    Ok(())
}

#[tokio::test]
async fn every_example_is_accepted() -> Result<()> {
    let (_, namespace) = namespace("examples").await?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut seen = 0;
    for file in fs::read_dir(&folder)? {
        let path = file?.path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        for document in fs::read_to_string(&path)?.split("\n---") {
            let object: Value = serde_saphyr::from_str(document).with_context(|| path.display().to_string())?;
            if object["kind"] == "ContextManager" {
                let accepted = apply_strictly(&namespace, "memory", &object["spec"]).await;
                accepted.with_context(|| path.display().to_string())?;
                seen += 1;
            }
        }
    }
    ensure!(seen > 0, "no file of {} has a ContextManager", folder.display());
    Ok(())
}

#[tokio::test]
async fn what_the_schema_does_not_know_is_refused() -> Result<()> {
    let (_, namespace) = namespace("schema").await?;
    for (case, spec, hint) in [
        ("a misspelt field", json!({"vectorstore": {}}), "spec.vectorstore"),
        ("a misspelt field deep inside", json!({"levels": {"shortTerm": {"tll": "1h"}}}), "tll"),
        ("an unknown provider", json!({"embedding": {"provider": "magic"}}), "\"builtin\", \"openAI\""),
        ("an unknown policy", json!({"reclaimPolicy": "Recycle"}), "\"Retain\", \"Delete\""),
        ("an unknown mode", json!({"sidecar": {"mode": "Ambient"}}), "\"Native\", \"Classic\""),
        ("a low port", json!({"sidecar": {"protocolPort": 80}}), "1024"),
        ("a large nudge", json!({"retrieval": {"nudges": {"recency": 0.5}}}), "0.1"),
        ("a duration without unit", json!({"gc": {"interval": "30"}}), "spec.gc.interval"),
        ("a negative duration", json!({"gc": {"interval": "-30s"}}), "spec.gc.interval"),
        ("a size of letters", json!({"sidecar": {"maxMessageSize": "many"}}), "spec.sidecar.maxMessageSize"),
        (
            "a negative amount",
            json!({"sidecar": {"resources": {"limits": {"cpu": -1}}}}),
            "cpu in body should be greater than or equal to 0",
        ),
        (
            "a negative capacity",
            json!({"embedding": {"cache": {"capacity": -1}}}),
            "capacity in body should be greater than or equal to 0",
        ),
        (
            "a label's value of 64 characters",
            json!({"vectorStore": {"managed": {"scheduling": {"nodeSelector": {"disk": "x".repeat(64)}}}}}),
            "spec.vectorStore.managed.scheduling.nodeSelector.disk",
        ),
        (
            "a taint's key of 318 characters",
            json!({"vectorStore": {"managed": {"scheduling": {"tolerations": [{"key": "x".repeat(318)}]}}}}),
            "spec.vectorStore.managed.scheduling.tolerations[0].key",
        ),
        ("no container at all", json!({"injection": {"containers": []}}), "spec.injection.containers"),
        ("a container twice", json!({"injection": {"containers": ["a", "a"]}}), "duplicate"),
        ("a batch of nothing", json!({"gc": {"batchSize": 0}}), "spec.gc.batchSize"),
        ("text for a number", json!({"embedding": {"dimensions": "384"}}), "spec.embedding.dimensions"),
    ] {
        let said = refusal(apply_strictly(&namespace, "memory", &spec).await).with_context(|| case.to_owned())?;
        ensure!(said.contains(hint), "{case}: {said:?} does not say {hint:?}");
    }
    Ok(())
}

#[tokio::test]
async fn only_a_change_of_the_spec_makes_a_new_generation_and_only_the_subresource_writes_status() -> Result<()> {
    let (_, namespace) = namespace("status").await?;
    let created = namespace.make_resource("memory", json!({})).await?;
    ensure!(created.metadata.generation == Some(1));
    let observed = |found: &ContextManager| found.status.as_ref().and_then(|status| status.observed_generation);
    ensure!(observed(&created) == Some(-1), "what nobody has looked at has the status {:?}", created.status);
    let api = namespace.api::<ContextManager>();
    let merge = PatchParams::default();
    let by_the_wrong_way =
        api.patch("memory", &merge, &Patch::Merge(json!({"status": {"store": "elsewhere"}}))).await?;
    let store = by_the_wrong_way.status.as_ref().and_then(|status| status.store.as_ref());
    ensure!(store.is_none(), "the resource itself takes a status: {by_the_wrong_way:?}");
    let status = json!({"status": {"store": "embedded"}, "spec": {"suspend": true}});
    let written = api.patch_status("memory", &merge, &Patch::Merge(status)).await?;
    ensure!(written.status.and_then(|status| status.store).as_deref() == Some("embedded"));
    ensure!(written.spec.suspend.is_none(), "the status subresource takes a spec");
    ensure!(written.metadata.generation == Some(1), "a status makes a generation");
    let changed = api.patch("memory", &merge, &Patch::Merge(json!({"spec": {"suspend": true}}))).await?;
    ensure!(changed.metadata.generation == Some(2) && changed.status.is_some());
    Ok(())
}

#[tokio::test]
async fn the_table_shows_readiness_reason_store_pods_and_ages() -> Result<()> {
    let (client, namespace) = namespace("columns").await?;
    namespace.make_resource("memory", json!({})).await?;
    let time = "2026-01-02T03:04:05Z";
    let status = json!({"status": {
        "conditions": [{"type": "Ready", "status": "False", "reason": "SecretMissing", "message": "", "lastTransitionTime": time}],
        "store": "embedded", "pods": {"injected": 3, "ready": 2}, "keys": {"active": "k1", "rotatedAt": time},
    }});
    namespace.api::<ContextManager>().patch_status("memory", &PatchParams::default(), &Patch::Merge(status)).await?;
    let request =
        http::Request::get(format!("/apis/contextmanager.dev/v1alpha1/namespaces/{}/contextmanagers", namespace.name))
            .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
            .body(Vec::new())?;
    let table: Value = client.request(request).await?;
    let columns = table["columnDefinitions"].as_array().context("a table has columns")?;
    let names: Vec<_> = columns.iter().filter_map(|column| column["name"].as_str()).collect();
    ensure!(
        names
            == [
                "Name", "Ready", "Reason", "Store", "Pods", "Injected", "Outdated", "Missing", "Key-Age", "Class",
                "Age"
            ],
        "{names:?}"
    );
    let cells = &table["rows"][0]["cells"];
    ensure!(
        cells[0] == "memory" && cells[1] == "False" && cells[2] == "SecretMissing" && cells[3] == "embedded",
        "{cells}"
    );
    ensure!(cells[4] == 2 && cells[5] == 3, "{cells}");
    ensure!(cells[8].as_str().is_some_and(|age| age.ends_with(['d', 'y'])), "{cells}");
    Ok(())
}

#[tokio::test]
async fn the_resource_has_a_short_name_and_a_category() -> Result<()> {
    let (client, _namespace) = namespace("discovery").await?;
    let request = http::Request::get("/apis/contextmanager.dev/v1alpha1").body(Vec::new())?;
    let found: Value = client.request(request).await?;
    let resources = found["resources"].as_array().context("the group has resources")?;
    let ours = resources.iter().find(|resource| resource["name"] == "contextmanagers").context("it is served")?;
    ensure!(ours["shortNames"] == json!(["ctxm"]) && ours["categories"] == json!(["context"]), "{ours}");
    ensure!(resources.iter().any(|resource| resource["name"] == "contextmanagers/status"));
    Ok(())
}

#[tokio::test]
async fn the_definition_is_accepted_without_warnings() -> Result<()> {
    let (client, _namespace) = namespace("warnings").await?;
    let name = "contextmanagers.contextmanager.dev";
    let request = http::Request::patch(format!(
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}?fieldManager=suites&force=true&fieldValidation=Strict&dryRun=All"
    ))
    .header("content-type", "application/apply-patch+yaml")
    .body(serde_json::to_vec(&definition()?)?.into())?;
    let answer = client.send(request).await?;
    ensure!(answer.status().is_success(), "{}", answer.status());
    let warnings: Vec<_> = answer.headers().get_all("warning").iter().collect();
    ensure!(warnings.is_empty(), "{warnings:?}");
    let found = Api::<CustomResourceDefinition>::all(client).get(name).await?;
    let conditions = found.status.and_then(|status| status.conditions).unwrap_or_default();
    let structural = conditions.iter().all(|condition| condition.type_ != "NonStructuralSchema");
    ensure!(structural, "{conditions:?}");
    Ok(())
}
