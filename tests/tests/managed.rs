//! `spec.vectorStore.managed` on a real API server: the objects are whole and accepted, a pod of them passes `restricted`, what changes
//! converges, nothing is written without a reason, and volumes end as `reclaimPolicy` says. No node starts here: the suites have no
//! image of Qdrant.

use anyhow::{Context as _, Result, ensure};
use context_manager_crds::ContextManager;
use context_manager_protocol::{
    config::{SidecarConfig, Store},
    names,
};
use context_manager_tests::{
    cluster::{self, Namespace, eventually},
    operator::{Operator, PATIENCE, RESYNC, condition, wait_for},
};
use k8s_openapi::{
    ByteString,
    api::{
        apps::v1::StatefulSet,
        core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service},
        events::v1::Event,
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
    },
};
use kube::{
    Api, Resource, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const NAME: &str = "memory-context-qdrant";
const PEERS: &str = "memory-context-qdrant-peers";

/// Under Pod Security `restricted`, and with every pod opted in to injection.
const LABELS: [(&str, &str); 2] = [("pod-security.kubernetes.io/enforce", "restricted"), (names::INJECT, "true")];

async fn namespace(operator: &Operator, what: &str) -> Result<Namespace> {
    operator.namespace(&cluster::client().await?, what, &LABELS).await
}

/// A managed Qdrant whose pods no machine takes.
fn spec(mut managed: Value) -> Value {
    managed["scheduling"]["nodeSelector"] = json!({"nowhere": "true"});
    managed["storage"] = json!({"storageClassName": "", "size": "1Gi"});
    json!({"vectorStore": {"managed": managed}})
}

async fn provisioning(namespace: &Namespace) -> Result<ContextManager> {
    wait_for(namespace, "memory", "StoreReady", "False", Some("Provisioning")).await
}

async fn merge<K>(api: &Api<K>, name: &str, patch: Value) -> Result<()>
where
    K: Clone + std::fmt::Debug + DeserializeOwned,
{
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

fn text(secret: &Secret, file: &str) -> Result<String> {
    let ByteString(bytes) = secret.data.as_ref().and_then(|data| data.get(file)).context("the file is missing")?;
    Ok(String::from_utf8(bytes.clone())?)
}

async fn set(namespace: &Namespace) -> Result<Value> {
    Ok(serde_json::to_value(namespace.api::<StatefulSet>().get(NAME).await?)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_made_whole_and_the_status_says_what_it_waits_for() -> Result<()> {
    let operator = Operator::shared().await?;
    let namespace = namespace(&operator, "managed").await?;
    namespace.make_resource("memory", spec(json!({"replicas": 3}))).await?;
    let resource = provisioning(&namespace).await?;
    let said = condition(&resource, "StoreReady").context("a condition")?.message;
    ensure!(said.starts_with("0 of 3 nodes") && said.contains("kubectl describe pods"), "{said}");
    ensure!(resource.status.as_ref().and_then(|status| status.store.as_deref()) == Some("Managed"));
    let certificates = resource.status.iter().flat_map(|status| &status.certificates);
    let certificates: Vec<_> = certificates.map(|certificate| &*certificate.name).collect();
    ensure!(certificates == ["client", "nodes"], "{certificates:?}");
    ensure!(resource.finalizers().is_empty(), "nothing has to be deleted but what belongs to the resource");

    let found = set(&namespace).await?;
    let (spec, pod) = (&found["spec"], &found["spec"]["template"]["spec"]);
    ensure!(spec["replicas"] == 3 && spec["serviceName"] == PEERS && spec["podManagementPolicy"] == "Parallel");
    ensure!(spec["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Retain", "{spec}");
    ensure!(pod["containers"][0]["readinessProbe"]["httpGet"]["scheme"] == "HTTPS", "{pod}");
    let services = namespace.api::<Service>();
    let peers = services.get(PEERS).await?.spec.context("a spec")?;
    ensure!(peers.cluster_ip.as_deref() == Some("None") && peers.publish_not_ready_addresses == Some(true));
    ensure!(services.get(NAME).await?.spec.context("a spec")?.ports.unwrap_or_default().len() == 2);
    let budget = serde_json::to_value(namespace.api::<PodDisruptionBudget>().get(NAME).await?)?;
    ensure!(budget["spec"]["maxUnavailable"] == 1, "{budget}");
    namespace.api::<NetworkPolicy>().get(NAME).await?;
    let map = namespace.api::<ConfigMap>().get(NAME).await?.data.unwrap_or_default();
    ensure!(map["config.yaml"].contains("telemetry_disabled: true") && !map.contains_key("formed"), "{map:?}");

    // Sidecars get a token of the key and the CA, and never the key.
    let own = namespace.api::<Secret>().get(NAME).await?;
    let (key, bundle) = (text(&own, "api-key")?, text(&own, names::CA_FILE)?);
    ensure!(key.len() == 64 && text(&own, names::CERTIFICATE_FILE)?.starts_with("-----BEGIN CERTIFICATE"));
    let mounted = namespace.api::<Secret>().get(&names::store_secret("memory")).await?;
    let token = text(&mounted, names::QDRANT_API_KEY_FILE)?;
    ensure!(token.matches('.').count() == 2 && token != key, "a token");
    ensure!(text(&mounted, names::QDRANT_CA_FILE)? == bundle);
    ensure!(!found.to_string().contains(&key) && !json!(resource).to_string().contains(&key), "the key is in Secrets");
    let config = namespace.api::<ConfigMap>().get(&names::config_map("memory")).await?.data.unwrap_or_default();
    let Store::Qdrant(store) = SidecarConfig::from_toml(&config[names::CONFIG_FILE])?.store else {
        anyhow::bail!("the sidecar has another store")
    };
    ensure!(store.url == format!("https://{NAME}.{}.svc:6334", namespace.name) && store.replication_factor == Some(2));

    // The cluster's own controller makes pods that Pod Security and the webhook let through as they are, and their claims.
    let pods = namespace.api::<Pod>();
    eventually("three pods and claims", PATIENCE, || async {
        let found = pods.list(&ListParams::default()).await?.items;
        ensure!(found.len() == 3, "there are {} pods", found.len());
        for pod in found {
            let containers = pod.spec.context("a spec")?;
            ensure!(containers.init_containers.is_none() && containers.containers.len() == 1, "a node was injected");
        }
        for index in 0..3 {
            namespace.api::<PersistentVolumeClaim>().get(&format!("data-{NAME}-{index}")).await?;
        }
        Ok(())
    })
    .await
}

async fn version<K>(namespace: &Namespace, name: &str) -> Result<Option<String>>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    Ok(namespace.api::<K>().get(name).await?.resource_version())
}

#[tokio::test(flavor = "multi_thread")]
async fn more_reconciles_write_nothing_whatever_the_words_of_the_spec() -> Result<()> {
    let operator = Operator::shared().await?;
    let namespace = namespace(&operator, "managed-stable").await?;
    let managed = json!({
        "replicas": 2, "resources": {"requests": {"cpu": "0.5", "memory": "1024Mi"}, "limits": {"cpu": "1000m"}},
        "scheduling": {"spread": "Required", "tolerations": [{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}]},
    });
    namespace.make_resource("memory", spec(managed)).await?;
    provisioning(&namespace).await?;
    let versions = async || -> Result<Vec<Option<String>>> {
        Ok(vec![
            version::<ContextManager>(&namespace, "memory").await?,
            version::<StatefulSet>(&namespace, NAME).await?,
            version::<Service>(&namespace, NAME).await?,
            version::<Service>(&namespace, PEERS).await?,
            version::<ConfigMap>(&namespace, NAME).await?,
            version::<Secret>(&namespace, NAME).await?,
            version::<Secret>(&namespace, &names::store_secret("memory")).await?,
            version::<PodDisruptionBudget>(&namespace, NAME).await?,
            version::<NetworkPolicy>(&namespace, NAME).await?,
        ])
    };
    // The cluster's controllers write the status of the set and of the budget once the pods are made.
    eventually("the pods", PATIENCE, || async {
        let status = set(&namespace).await?["status"].clone();
        ensure!(status["replicas"] == 2 && status["observedGeneration"] == 1, "{status}");
        Ok(())
    })
    .await?;
    tokio::time::sleep(3 * RESYNC).await;
    let (before, reconciles) = (versions().await?, operator.reconciles().await?);
    tokio::time::sleep(RESYNC.mul_f64(8.0)).await;
    ensure!(before == versions().await?, "{before:?} became {:?}", versions().await?);
    let more = operator.reconciles().await? - reconciles;
    ensure!(more >= 5, "the controller reconciled {more} times only");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_converges_and_the_key_stays() -> Result<()> {
    let operator = Operator::shared().await?;
    let namespace = namespace(&operator, "managed-changes").await?;
    namespace.make_resource("memory", spec(json!({"resources": {"limits": {"memory": "2Gi"}}}))).await?;
    provisioning(&namespace).await?;
    let key = text(&namespace.api::<Secret>().get(NAME).await?, "api-key")?;
    let resources = namespace.api::<ContextManager>();
    let managed = json!({"image": "registry.example.com/qdrant:v1.19.1", "resources": {"limits": null}});
    merge(&resources, "memory", json!({"spec": {"vectorStore": {"managed": managed}}})).await?;
    let container =
        async || -> Result<Value> { Ok(set(&namespace).await?["spec"]["template"]["spec"]["containers"][0].clone()) };
    eventually("another image, and no limit", PATIENCE, || async {
        let found = container().await?;
        let image = found["image"] == "registry.example.com/qdrant:v1.19.1";
        ensure!(image && found["resources"].get("limits").is_none(), "{found}");
        Ok(())
    })
    .await?;

    // By hand: an edit is undone, and what is deleted comes back.
    let edit = json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}});
    merge(&namespace.api::<StatefulSet>(), NAME, edit).await?;
    namespace.api::<Service>().delete(NAME, &DeleteParams::default()).await?;
    namespace.api::<NetworkPolicy>().delete(NAME, &DeleteParams::default()).await?;
    merge(&namespace.api::<ConfigMap>(), NAME, json!({"data": {"config.yaml": "broken"}})).await?;
    eventually("what was done by hand to be undone", PATIENCE, || async {
        let found = set(&namespace).await?;
        ensure!(found["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 120, "{found}");
        namespace.api::<Service>().get(NAME).await?;
        namespace.api::<NetworkPolicy>().get(NAME).await?;
        let map = namespace.api::<ConfigMap>().get(NAME).await?.data.unwrap_or_default();
        ensure!(map["config.yaml"].contains("telemetry_disabled"), "{map:?}");
        Ok(())
    })
    .await?;
    let secrets = namespace.api::<Secret>();
    ensure!(text(&secrets.get(NAME).await?, "api-key")? == key, "the key was made anew");

    // A key that is lost is another one, and the nodes start anew with it.
    let started = async || -> Result<Value> { Ok(set(&namespace).await?["spec"]["template"]["metadata"].clone()) };
    let before = started().await?;
    merge(&secrets, NAME, json!({"data": {"api-key": null}})).await?;
    eventually("another key", PATIENCE, || async {
        ensure!(text(&secrets.get(NAME).await?, "api-key")? != key);
        ensure!(started().await? != before, "the nodes keep the old key");
        let events = namespace.api::<Event>().list(&ListParams::default()).await?;
        ensure!(events.iter().any(|event| event.reason.as_deref() == Some("StoreKeyReplaced")), "nobody is told");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_stay_or_go_with_the_resource() -> Result<()> {
    let operator = Operator::shared().await?;
    for policy in ["Retain", "Delete"] {
        let namespace = namespace(&operator, "managed-end").await?;
        let mut spec = spec(json!({}));
        spec["reclaimPolicy"] = json!(policy);
        namespace.make_resource("memory", spec).await?;
        provisioning(&namespace).await?;
        let claims = namespace.api::<PersistentVolumeClaim>();
        let claim = format!("data-{NAME}-0");
        // The set's controller marks the claim with its owner before the set can be deleted with it.
        eventually("the claim", PATIENCE, || async {
            let owners = claims.get(&claim).await?.owner_references().len();
            ensure!(owners == usize::from(policy == "Delete"), "{owners} owners");
            Ok(())
        })
        .await?;
        namespace.api::<ContextManager>().delete("memory", &DeleteParams::default()).await?;
        eventually("the end of the nodes", 3 * PATIENCE, || async {
            ensure!(namespace.api::<StatefulSet>().get_opt(NAME).await?.is_none(), "the set is there");
            ensure!(namespace.api::<Secret>().get_opt(NAME).await?.is_none(), "the Secret is there");
            ensure!(namespace.api::<Pod>().list(&ListParams::default()).await?.items.is_empty(), "pods are there");
            let kept = claims.get_opt(&claim).await?.is_some();
            ensure!(kept == (policy == "Retain"), "{policy}: the claim is there: {kept}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_the_api_server_refuses_holds_up_nothing_else() -> Result<()> {
    let operator = Operator::shared().await?;
    let namespace = namespace(&operator, "managed-refused").await?;
    // Kubernetes knows seconds of the effect NoExecute alone.
    let wrong = json!([{"key": "a", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 5}]);
    namespace.make_resource("memory", spec(json!({"scheduling": {"tolerations": wrong}}))).await?;
    let found = wait_for(&namespace, "memory", "StoreReady", "False", Some("ObjectRefused")).await?;
    let said = condition(&found, "StoreReady").context("a condition")?.message;
    let words = ["spec.vectorStore.managed", "StatefulSet", NAME, "tolerations[0]"];
    ensure!(words.iter().all(|word| said.contains(word)), "{said}");
    ensure!(condition(&found, "Stalled").is_some_and(|stalled| stalled.status == "True"));
    for kind in ["SecretsReady", "TLSReady", "ConfigReady"] {
        ensure!(condition(&found, kind).is_some_and(|said| said.status == "True"), "{kind}");
    }
    namespace.api::<Secret>().get(&names::keys_secret("memory")).await?;
    // Corrected, it is taken.
    let right = json!({"spec": {"vectorStore": {"managed": {"scheduling": {"tolerations": null}}}}});
    merge(&namespace.api::<ContextManager>(), "memory", right).await?;
    provisioning(&namespace).await?;
    set(&namespace).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_made_is_left_alone() -> Result<()> {
    let operator = Operator::shared().await?;
    let namespace = namespace(&operator, "managed-taken").await?;
    let ports = json!([{"port": 6334}]);
    let theirs = namespace.make::<Service>(&json!({"metadata": {"name": NAME}, "spec": {"ports": ports}})).await?;
    namespace.make_resource("memory", spec(json!({}))).await?;
    let found = wait_for(&namespace, "memory", "StoreReady", "False", Some("NameTaken")).await?;
    let said = condition(&found, "StoreReady").context("a condition")?.message;
    ensure!(said.contains("Service") && said.contains(NAME), "{said}");
    let now = namespace.api::<Service>().get(NAME).await?;
    ensure!(now.resource_version() == theirs.resource_version(), "it was written");
    Ok(())
}
