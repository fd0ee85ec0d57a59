//! Pods that use a resource of another namespace, on a real API server: who may, what they are given, and when it is taken away.

#[path = "grants/refused.rs"]
mod refused;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use context_manager_crds::ContextManager;
use context_manager_operator::controller::COPIES_FINALIZER;
use context_manager_protocol::{config::SidecarConfig, keyring::KeyRing, names};
use context_manager_tests::{
    cluster::{self, Namespace, eventually, refusal},
    objects::{annotated, asking},
    operator::{HOME, Operator, PATIENCE, RESYNC, condition, provision, wait_for},
    plugin,
    pods::sidecar_image,
    rotation::FakePod,
};
use k8s_openapi::{
    ByteString,
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Namespace as NamespaceObject, Pod, Secret},
        events::v1::Event,
    },
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

/// How long a rotation may take on a machine that is busy with other suites.
const ROTATION: Duration = Duration::from_mins(1);
/// How long a namespace may take to go.
const END: Duration = Duration::from_mins(2);

/// The operator with a namespace that has a resource, and one that may use it.
struct Stage {
    operator: std::sync::Arc<Operator>,
    client: Client,
    owner: Namespace,
    guest: Namespace,
}

impl Stage {
    async fn set(what: &str) -> Result<Self> {
        let operator = Operator::shared().await?;
        let client = cluster::client().await?;
        let owner = operator.namespace(&client, &format!("{what}-owner"), &[]).await?;
        let guest = operator.namespace(&client, &format!("{what}-guest"), &[]).await?;
        Ok(Self { operator, client, owner, guest })
    }

    /// The resource, which allows the guest.
    async fn provision(&self, mut spec: Value) -> Result<ContextManager> {
        spec["allowedNamespaces"] = json!([self.guest.name]);
        provision(&self.owner, "memory", spec).await?;
        wait_for(&self.owner, "memory", "GrantsReady", "True", Some("Copied")).await
    }

    async fn resource(&self) -> Result<ContextManager> {
        Ok(self.owner.api::<ContextManager>().get("memory").await?)
    }

    /// What pods of other namespaces call it.
    fn full_name(&self) -> String {
        format!("{}/memory", self.owner.name)
    }

    /// The name of the copies.
    fn copy(&self) -> String {
        names::granted(&self.owner.name, "memory")
    }

    /// A pod that asks for it by its full name.
    fn asking(&self) -> Value {
        annotated(asking("agent"), names::NAME, &self.full_name())
    }

    /// Waits until the copies have what the originals have.
    async fn in_step(&self) -> Result<()> {
        eventually("copies that are in step", PATIENCE, || async {
            let (secrets, maps) = (self.owner.api::<Secret>(), self.owner.api::<ConfigMap>());
            let copy = self.guest.api::<Secret>().get(&self.copy()).await?.data.unwrap_or_default();
            let keys = file(&secrets.get(&names::keys_secret("memory")).await?, names::KEYS_FILE)?;
            ensure!(copy.get(names::KEYS_FILE) == Some(&keys), "another key ring");
            let tls = secrets.get(&names::tls_secret("memory")).await?;
            for name in [names::CA_FILE, names::CERTIFICATE_FILE, names::PRIVATE_KEY_FILE] {
                ensure!(copy.get(name) == Some(&file(&tls, name)?), "another {name}");
            }
            let original = maps.get(&names::config_map("memory")).await?.data;
            let copied = self.guest.api::<ConfigMap>().get(&self.copy()).await?.data;
            ensure!(original.is_some() && original == copied, "another configuration");
            Ok::<_, anyhow::Error>(())
        })
        .await
    }

    /// Waits until the resource says in a condition why it is not as it should be.
    async fn says(&self, kind: &str, reason: &str) -> Result<String> {
        let resource = wait_for(&self.owner, "memory", kind, "False", Some(reason)).await?;
        Ok(condition(&resource, kind).context("the condition")?.message)
    }

    /// Waits until there is no copy any more.
    async fn gone(&self) -> Result<()> {
        eventually("the end of the copies", PATIENCE, || async {
            let secret = self.guest.api::<Secret>().get_opt(&self.copy()).await?;
            let map = self.guest.api::<ConfigMap>().get_opt(&self.copy()).await?;
            ensure!(secret.is_none() && map.is_none(), "there are {secret:?} and {map:?}");
            Ok::<_, anyhow::Error>(())
        })
        .await
    }

    async fn spec(&self, spec: Value) -> Result<()> {
        merge(&self.owner.api::<ContextManager>(), "memory", json!({ "spec": spec })).await
    }

    /// Waits until pods of the guest are refused.
    async fn refused(&self) -> Result<()> {
        let said =
            eventually("the refusal", PATIENCE, || async { refusal(self.guest.try_pod(&self.asking()).await) }).await?;
        ensure!(said.contains("spec.allowedNamespaces must list") && said.contains(&self.guest.name), "{said}");
        Ok(())
    }
}

async fn merge<K>(api: &Api<K>, name: &str, patch: Value) -> Result<()>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

fn file(secret: &Secret, name: &str) -> Result<ByteString> {
    secret.data.as_ref().and_then(|data| data.get(name)).cloned().with_context(|| format!("{name} is missing"))
}

/// The names of what a pod mounts, but for what every pod does.
fn mounted(pod: &Pod) -> Vec<String> {
    let json = json!(pod.spec.as_ref().map(|spec| &spec.volumes));
    let mut found = Vec::new();
    collect(&json, &mut found);
    found.retain(|name| name != "kube-root-ca.crt");
    found
}

fn collect(json: &Value, found: &mut Vec<String>) {
    for (key, value) in json.as_object().into_iter().flatten() {
        match (key.as_str(), value.get("name").or_else(|| value.get("secretName"))) {
            ("secret" | "configMap", Some(Value::String(name))) => found.push(name.clone()),
            _ => collect(value, found),
        }
    }
    json.as_array().into_iter().flatten().for_each(|value| collect(value, found));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_is_allowed_has_copies_in_step_until_it_is_not() -> Result<()> {
    let stage = Stage::set("grant").await?;
    let stranger = stage.operator.namespace(&stage.client, "grant-stranger", &[]).await?;
    let resource = stage.provision(json!({})).await?;
    ensure!(resource.finalizers().iter().any(|held| held == COPIES_FINALIZER), "nothing holds the resource");
    stage.in_step().await?;

    // Who is allowed and asks for it gets it, and nobody else learns that it is there.
    let pod = stage.guest.try_pod(&stage.asking()).await?;
    let labels = pod.labels();
    ensure!(labels.get(names::INJECTED).map(String::as_str) == Some("memory"), "{labels:?}");
    ensure!(labels.get(names::INJECTED_FROM) == Some(&stage.owner.name), "{labels:?}");
    let names_there = mounted(&pod);
    ensure!(names_there.len() == 3 && names_there.iter().all(|name| *name == stage.copy()), "{names_there:?}");
    let sidecar = context_manager_operator::pods::sidecar(&pod).context("a sidecar")?;
    let tenant = sidecar.env.iter().flatten().find(|variable| variable.name == names::ENV_TENANT);
    ensure!(tenant.and_then(|tenant| tenant.value.as_ref()) == Some(&stage.guest.name), "{tenant:?}");
    let said = refusal(stage.guest.try_pod(&asking("agent")).await)?;
    ensure!(said.contains("has no ContextManager; apply one there"), "{said}");
    let there = refusal(stranger.try_pod(&stage.asking()).await)?;
    let nowhere = refusal(stranger.try_pod(&annotated(asking("agent"), names::NAME, "elsewhere/memory")).await)?;
    ensure!(there == nowhere.replace("elsewhere/memory", &stage.full_name()), "{there} is not {nowhere}");
    ensure!(there.contains("spec.allowedNamespaces must list"), "{there}");

    // What somebody changes or takes away comes back.
    let (secrets, maps) = (stage.guest.api::<Secret>(), stage.guest.api::<ConfigMap>());
    merge(&secrets, &stage.copy(), json!({"stringData": {names::KEYS_FILE: "{}", names::CA_FILE: "mine"}})).await?;
    merge(&maps, &stage.copy(), json!({"data": {names::CONFIG_FILE: "mine"}})).await?;
    stage.in_step().await?;
    secrets.delete(&stage.copy(), &DeleteParams::default()).await?;
    stage.in_step().await?;
    maps.delete(&stage.copy(), &DeleteParams::default()).await?;
    stage.in_step().await?;

    // What the owner changes arrives.
    stage.spec(json!({"gc": {"interval": "7s"}})).await?;
    eventually("the changed configuration", PATIENCE, || async {
        let text = maps.get(&stage.copy()).await?.data.and_then(|mut data| data.remove(names::CONFIG_FILE));
        let config = SidecarConfig::from_toml(&text.context("a configuration")?)?;
        ensure!(config.gc.interval.to_string() == "7s", "{:?}", config.gc);
        Ok::<_, anyhow::Error>(())
    })
    .await?;

    // Without the grant all of it goes, and its own namespace does not notice.
    stage.spec(json!({"allowedNamespaces": null})).await?;
    stage.gone().await?;
    stage.refused().await?;
    ensure!(stage.owner.try_pod(&asking("agent")).await.is_ok(), "its own pods are refused");
    eventually("a resource that nothing holds", PATIENCE, || async {
        let resource = stage.resource().await?;
        ensure!(resource.finalizers().is_empty(), "{:?}", resource.finalizers());
        ensure!(condition(&resource, "GrantsReady").is_none() && condition(&resource, "Ready").is_some());
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    let events = stage.owner.api::<Event>().list(&ListParams::default()).await?;
    ensure!(events.iter().any(|event| event.reason.as_deref() == Some("GrantWithdrawn")), "no event says so");

    // And with the resource.
    stage.spec(json!({"allowedNamespaces": [stage.guest.name]})).await?;
    stage.in_step().await?;
    stage.owner.api::<ContextManager>().delete("memory", &DeleteParams::default()).await?;
    stage.gone().await?;
    eventually("the end of the resource", PATIENCE, || async {
        let left = stage.owner.api::<ContextManager>().get_opt("memory").await?;
        ensure!(left.is_none(), "{:?}", left.map(|left| left.finalizers().to_vec()));
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    stage.refused().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_waits_for_pods_of_other_namespaces_and_none_of_their_requests_fails() -> Result<()> {
    let stage = Stage::set("turn").await?;
    stage.provision(json!({"auth": {"rotation": {"overlap": "1s"}}})).await?;
    stage.in_step().await?;
    let (folder, full) = (tempfile::tempdir()?, stage.full_name());
    let here = FakePod::start(&stage.owner, "memory", "here", folder.path()).await?;
    let there = FakePod::start(&stage.guest, &full, "there", folder.path()).await?;
    eventually("the count of pods", PATIENCE, || async {
        let pods = stage.resource().await?.status.and_then(|status| status.pods).context("pods")?;
        ensure!(pods.injected == 2, "{pods:?}");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    there.detach();
    let keys = async || -> Result<_> { stage.resource().await?.status.and_then(|status| status.keys).context("keys") };
    let first = keys().await?.active;
    let ask = json!({"metadata": {"annotations": {names::ROTATE: "now"}}});
    merge(&stage.owner.api::<ContextManager>(), "memory", ask).await?;
    // Up to a bound, which one of its own namespace has not.
    let named = format!("{}/there (has not loaded it)", stage.guest.name);
    eventually("the pod that has not loaded it", PATIENCE, || async {
        let said = condition(&stage.resource().await?, "KeysRotated").context("the condition")?;
        ensure!(said.reason == "Publishing" && said.message.contains(&named), "{said:?}");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    ensure!(keys().await?.active == first, "it signs although a sidecar would refuse it");
    let copy = stage.guest.api::<Secret>().get(&stage.copy()).await?;
    let ring = KeyRing::from_json(&file(&copy, names::KEYS_FILE)?.0)?;
    ensure!(ring.active().id() == first && ring.next().is_some(), "the copy does not announce the next key");
    eventually("the next key alone", ROTATION, || async {
        there.sync(&stage.guest, &full).await?;
        let keys = keys().await?;
        ensure!(keys.active != first && keys.previous.is_empty() && keys.next.is_none(), "{keys:?}");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    stage.in_step().await?;
    for pod in [here, there] {
        let count = pod.stop()?;
        println!("{} requests, {} failed, {} keys", count.sent, count.failed, count.keys.len());
        ensure!(count.failed == 0 && count.keys.len() == 2, "{count:?}");
    }
    Ok(())
}

/// What brings the sidecar of a guest's pod to another image: in place, or by another pod.
#[tokio::test(flavor = "multi_thread")]
async fn sidecars_of_a_namespace_that_is_allowed_are_upgraded_with_the_others() -> Result<()> {
    let stage = Stage::set("upgrade").await?;
    let image = |number: u8| format!("localhost/another-sidecar:{number}");
    let upgrade = |strategy: &str, number: u8| {
        let strategy = json!({"strategy": strategy, "observe": "1s", "batchPercent": 100});
        json!({"sidecar": {"image": image(number), "upgrade": strategy}})
    };
    stage.provision(upgrade("OnRecreate", 1)).await?;
    let pods = stage.guest.api::<Pod>();
    let made = stage.guest.make::<Pod>(&stage.asking()).await?;
    ensure!(sidecar_image(&made) == Some(image(1)), "{:?}", sidecar_image(&made));
    let counted = async |injected: i32, outdated: i32| {
        eventually(&format!("{outdated} outdated pods of {injected}"), PATIENCE, || async {
            let pods = stage.resource().await?.status.and_then(|status| status.pods).context("pods")?;
            ensure!((pods.injected, pods.outdated) == (injected, outdated), "{pods:?}");
            Ok::<_, anyhow::Error>(())
        })
        .await
    };
    counted(1, 0).await?;
    stage.spec(upgrade("OnRecreate", 2)).await?;
    counted(1, 1).await?;
    stage.spec(upgrade("InPlace", 2)).await?;
    eventually("the new image in place", PATIENCE, || async {
        let pod = pods.get("agent").await?;
        ensure!(sidecar_image(&pod) == Some(image(2)) && pod.uid() == made.uid(), "{:?}", sidecar_image(&pod));
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    // What a new pod of the guest would get is not what one of the owner would.
    counted(1, 0).await?;
    let said = wait_for(&stage.owner, "memory", "SidecarsCurrent", "False", None).await?;
    let message = condition(&said, "SidecarsCurrent").context("the condition")?.message;
    ensure!(message.contains(&format!("{}/agent", stage.guest.name)), "{message}");

    pods.delete("agent", &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }).await?;
    let mut template = stage.asking();
    template["metadata"] = json!({"labels": {"app": "agent"}, "annotations": template["metadata"]["annotations"]});
    // Evicted is what a kubelet has come to, even if it cannot have that image.
    template["spec"]["nodeSelector"] = Value::Null;
    let deployment = json!({
        "metadata": {"name": "agent"},
        "spec": {"selector": {"matchLabels": {"app": "agent"}}, "template": template},
    });
    stage.guest.make::<Deployment>(&deployment).await?;
    counted(1, 0).await?;
    stage.spec(upgrade("RollingRestart", 3)).await?;
    eventually("another pod", PATIENCE, || async {
        let found = pods.list(&ListParams::default().labels("app=agent")).await?;
        let images: Vec<_> = found.iter().filter_map(sidecar_image).collect();
        ensure!(images == [image(3)], "{images:?}");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    counted(1, 0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_made_is_left_alone_and_named() -> Result<()> {
    let stage = Stage::set("taken").await?;
    let foreign = json!({"metadata": {"name": stage.copy()}, "stringData": {names::KEYS_FILE: "theirs"}});
    stage.guest.make::<Secret>(&foreign).await?;
    provision(&stage.owner, "memory", json!({"allowedNamespaces": [stage.guest.name]})).await?;
    let resource = wait_for(&stage.owner, "memory", "GrantsReady", "False", Some("NameTaken")).await?;
    let message = condition(&resource, "GrantsReady").context("the condition")?.message;
    ensure!(message.contains(&stage.copy()) && message.contains(&stage.guest.name), "{message}");
    ensure!(condition(&resource, "Ready").is_some_and(|ready| ready.status == "True"), "its own pods can use it");
    let secrets = stage.guest.api::<Secret>();
    let untouched = async || -> Result<()> {
        let found = secrets.get(&stage.copy()).await?;
        let theirs = ByteString(b"theirs".to_vec());
        ensure!(file(&found, names::KEYS_FILE)? == theirs && found.labels().is_empty(), "{found:?}");
        Ok(())
    };
    untouched().await?;
    stage.spec(json!({"allowedNamespaces": []})).await?;
    tokio::time::sleep(3 * RESYNC).await;
    untouched().await?;
    stage.spec(json!({"allowedNamespaces": [stage.guest.name]})).await?;
    secrets.delete(&stage.copy(), &DeleteParams::default()).await?;
    wait_for(&stage.owner, "memory", "GrantsReady", "True", Some("Copied")).await?;
    stage.in_step().await
}

/// Their pods are never injected, whatever they ask for.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_copied_to_namespaces_of_the_cluster_or_of_the_operator() -> Result<()> {
    let stage = Stage::set("closed").await?;
    let closed = ["kube-system", "kube-public", "kube-node-lease", HOME];
    let mut allowed = closed.to_vec();
    allowed.push(&stage.guest.name);
    provision(&stage.owner, "memory", json!({"allowedNamespaces": allowed})).await?;
    let message = stage.says("GrantsReady", "NamespaceClosed").await?;
    for namespace in closed {
        ensure!(message.contains(&format!("namespace {namespace}: pods of it never get a sidecar")), "{message}");
        let map = Api::<ConfigMap>::namespaced(stage.client.clone(), namespace).get_opt(&stage.copy()).await?;
        let secret = Api::<Secret>::namespaced(stage.client.clone(), namespace).get_opt(&stage.copy()).await?;
        ensure!(map.is_none() && secret.is_none(), "{namespace} has a copy");
    }
    let said = condition(&stage.resource().await?, "InjectionReady").context("the condition is missing")?;
    ensure!(said.status == "True" && closed.iter().all(|left_out| said.message.contains(left_out)), "{said:?}");
    stage.in_step().await?;
    stage.spec(json!({"allowedNamespaces": [stage.guest.name]})).await?;
    wait_for(&stage.owner, "memory", "GrantsReady", "True", Some("Copied")).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_come_and_go() -> Result<()> {
    let stage = Stage::set("comes").await?;
    let later = format!("{}-later", stage.guest.name);
    stage.provision(json!({})).await?;
    stage.spec(json!({"allowedNamespaces": [stage.guest.name, later]})).await?;
    let resource = wait_for(&stage.owner, "memory", "GrantsReady", "False", Some("NamespaceMissing")).await?;
    ensure!(condition(&resource, "Ready").is_some_and(|ready| ready.status == "True"), "its own pods can use it");
    stage.in_step().await?;
    let namespaces = Api::<NamespaceObject>::all(stage.client.clone());
    let object = serde_json::from_value(json!({"metadata": {"name": later}}))?;
    namespaces.create(&PostParams::default(), &object).await?;
    wait_for(&stage.owner, "memory", "GrantsReady", "True", Some("Copied")).await?;
    let copies = Api::<Secret>::namespaced(stage.client.clone(), &later);
    ensure!(copies.get_opt(&stage.copy()).await?.is_some(), "it has no copy");
    namespaces.delete(&later, &DeleteParams::default()).await?;
    eventually("the end of a namespace", END, || async {
        ensure!(namespaces.get_opt(&later).await?.is_none(), "it is still there");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    wait_for(&stage.owner, "memory", "GrantsReady", "False", Some("NamespaceMissing")).await?;
    stage.in_step().await?;
    stage.spec(json!({"allowedNamespaces": [stage.guest.name]})).await?;
    wait_for(&stage.owner, "memory", "GrantsReady", "True", Some("Copied")).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_pods_need_of_the_owners_secrets_is_copied_and_waited_for() -> Result<()> {
    let stage = Stage::set("needs").await?;
    let key = |value: &str| json!({"metadata": {"name": "provider"}, "stringData": {"token": value}});
    let spec = json!({
        "allowedNamespaces": [stage.guest.name],
        "vectorStore": {"qdrant": {"url": "http://127.0.0.1:1", "apiKeySecretRef": {"name": "provider", "key": "token"}}},
        "embedding": {
            "provider": "openAI", "url": "https://127.0.0.1:1/v1/embeddings", "model": "m", "dimensions": 8,
            "apiKeySecretRef": {"name": "embedder", "key": "token"},
            "tls": {"caConfigMapRef": {"name": "embedder-ca", "key": "ca.crt"}},
        },
    });
    stage.owner.make::<Secret>(&key("store-key")).await?;
    let ca = CertificateParams::default().self_signed(&KeyPair::generate()?)?.pem();
    let map = json!({"metadata": {"name": "embedder-ca"}, "data": {"ca.crt": ca}});
    stage.owner.make::<ConfigMap>(&map).await?;
    stage.owner.make_resource("memory", spec).await?;
    let waits = wait_for(&stage.owner, "memory", "GrantsReady", "False", Some("SecretNotFound")).await?;
    let message = condition(&waits, "GrantsReady").context("the condition")?.message;
    ensure!(message.contains("\"embedder\""), "{message}");
    let (secrets, maps) = (stage.guest.api::<Secret>(), stage.guest.api::<ConfigMap>());
    ensure!(maps.get(&stage.copy()).await?.data.is_none(), "a pod would start without the key");
    let mut embedder = key("first");
    embedder["metadata"]["name"] = json!("embedder");
    stage.owner.make::<Secret>(&embedder).await?;
    wait_for(&stage.owner, "memory", "GrantsReady", "True", Some("Copied")).await?;
    stage.in_step().await?;
    let copy = secrets.get(&stage.copy()).await?;
    ensure!(file(&copy, names::EMBEDDING_API_KEY_FILE)?.0 == b"first");
    let text = maps.get(&stage.copy()).await?.data.and_then(|mut data| data.remove(names::CONFIG_FILE));
    let config = SidecarConfig::from_toml(&text.context("no configuration")?)?;
    ensure!(config.embedding.ca == Some(ca), "{:?}", config.embedding);
    let store = stage.owner.api::<Secret>().get(&names::store_secret("memory")).await?;
    let token = file(&store, names::QDRANT_API_KEY_FILE)?;
    ensure!(file(&copy, names::QDRANT_API_KEY_FILE)? == token && token.0 != b"store-key", "pods get a token");
    merge(&stage.owner.api::<Secret>(), "embedder", json!({"stringData": {"token": "second"}})).await?;
    eventually("the new key", PATIENCE, || async {
        let copy = secrets.get(&stage.copy()).await?;
        ensure!(file(&copy, names::EMBEDDING_API_KEY_FILE)?.0 == b"second", "the old one");
        Ok::<_, anyhow::Error>(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_resource_writes_nothing_elsewhere() -> Result<()> {
    let stage = Stage::set("rests").await?;
    stage.provision(json!({})).await?;
    stage.in_step().await?;
    stage.spec(json!({"suspend": true, "allowedNamespaces": null})).await?;
    wait_for(&stage.owner, "memory", "GrantsReady", "False", Some("Suspended")).await?;
    tokio::time::sleep(3 * RESYNC).await;
    stage.in_step().await?;
    stage.spec(json!({"suspend": false})).await?;
    stage.gone().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_decides_as_the_webhook_does() -> Result<()> {
    let stage = Stage::set("asks").await?;
    stage.provision(json!({})).await?;
    stage.guest.make::<Pod>(&stage.asking()).await?;
    let (name, guest) = (stage.full_name(), stage.guest.name.as_str());
    let explain = async || -> Result<Value> {
        let said = plugin::run(&["explain", "pod/agent", "-n", guest, "-o", "json"]).await?;
        said.json()
    };
    let explained = explain().await?;
    ensure!(explained["contextManager"] == name.as_str() && explained["reason"] == "Injected", "{explained}");
    let detail = plugin::run(&["status", "memory", "-n", &stage.owner.name]).await?;
    ensure!(detail.text.contains(&format!("{guest}/agent")) && detail.text.contains("GrantsReady"), "{detail:?}");
    stage.spec(json!({"allowedNamespaces": null})).await?;
    stage.gone().await?;
    let explained = explain().await?;
    ensure!(explained["reason"] == "NotGranted" && explained["state"] == "Unexpected", "{explained}");
    Ok(())
}
