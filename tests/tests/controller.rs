//! The controller on a real API server: what it provisions, repairs, leaves alone and says.

use anyhow::{Context as _, Result, ensure};
use context_manager_crds::ContextManager;
use context_manager_protocol::{config::SidecarConfig, keyring::KeyRing, names};
use context_manager_tests::{
    cluster::{self, Namespace, eventually, resource_type},
    objects::{INJECT, annotated, asking, labelled, pod},
    operator::{Operator, PATIENCE, RESYNC, condition, provision, wait_for},
};
use k8s_openapi::{
    ByteString,
    api::{
        core::v1::{ConfigMap, LimitRange, PersistentVolumeClaim, Pod, Secret},
        events::v1::Event,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

const KEYS: &str = "memory-context-keys";
const TLS: &str = "memory-context-tls";
const CONFIG: &str = "memory-context-config";
const CLAIM: &str = "memory-context-data";

async fn namespace(operator: &Operator, what: &str) -> Result<(Client, Namespace)> {
    let client = cluster::client().await?;
    let namespace = operator.namespace(&client, what, &[]).await?;
    Ok((client, namespace))
}

fn claim() -> Value {
    json!({"vectorStore": {"embedded": {"storage": {"volumeClaimTemplate": {
        "storageClassName": "", "resources": {"requests": {"storage": "64Mi"}},
    }}}}})
}

fn file(secret: &Secret, name: &str) -> Result<Vec<u8>> {
    let ByteString(bytes) = secret.data.as_ref().and_then(|data| data.get(name)).context("the file is missing")?;
    Ok(bytes.clone())
}

async fn ring(namespace: &Namespace) -> Result<KeyRing> {
    Ok(KeyRing::from_json(&file(&namespace.api::<Secret>().get(KEYS).await?, names::KEYS_FILE)?)?)
}

async fn merge<K>(api: &Api<K>, name: &str, patch: Value) -> Result<K>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    Ok(api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?)
}

async fn event(namespace: &Namespace, reason: &str) -> Result<Event> {
    eventually(reason, PATIENCE, || async {
        let events = namespace.api::<Event>().list(&ListParams::default()).await?;
        let reasons: Vec<_> = events.iter().filter_map(|event| event.reason.clone()).collect();
        let found = events.into_iter().find(|event| event.reason.as_deref() == Some(reason));
        found.with_context(|| format!("there are {reasons:?}"))
    })
    .await
}

#[tokio::test]
async fn a_resource_gets_its_children_and_says_so() -> Result<()> {
    let operator = Operator::shared().await?;
    let (_, namespace) = namespace(&operator, "children").await?;
    let resource =
        provision(&namespace, "memory", json!({"sidecar": {"adminPort": 9001}, "gc": {"interval": "30s"}})).await?;
    let status = resource.status.clone().context("a ready resource has a status")?;
    ensure!(status.observed_generation == resource.metadata.generation);
    for kind in ["SecretsReady", "TLSReady", "ConfigReady", "StoreReady", "InjectionReady"] {
        let said = condition(&resource, kind).with_context(|| kind.to_owned())?;
        ensure!(said.status == "True" && said.observed_generation == resource.metadata.generation, "{said:?}");
    }
    // What kstatus reads: a settled resource is neither reconciling nor stalled.
    for kind in ["Reconciling", "Stalled"] {
        ensure!(condition(&resource, kind).context("kstatus")?.status == "False", "{kind}");
    }
    let keys = namespace.api::<Secret>().get(KEYS).await?;
    let ring = KeyRing::from_json(&file(&keys, names::KEYS_FILE)?)?;
    ensure!(ring.active().material().len() >= 32);
    ensure!(status.keys.context("the status has key ids")?.active == ring.active().id());
    let tls = namespace.api::<Secret>().get(TLS).await?;
    for name in [names::CA_FILE, names::CERTIFICATE_FILE, names::PRIVATE_KEY_FILE] {
        ensure!(String::from_utf8(file(&tls, name)?)?.starts_with("-----BEGIN "), "{name}");
    }
    ensure!(status.certificates.len() == 1 && status.certificates[0].fingerprint.len() == 64);
    let config = namespace.api::<ConfigMap>().get(CONFIG).await?;
    let text = config.data.as_ref().and_then(|data| data.get(names::CONFIG_FILE)).context("config.toml")?;
    let config_read = SidecarConfig::from_toml(text)?;
    ensure!(config_read.admin.port == 9001 && config_read.generation == 1, "{text}");
    let uid = resource.metadata.uid.clone();
    for child in [&keys.metadata, &tls.metadata, &config.metadata] {
        let owners = child.owner_references.clone().unwrap_or_default();
        let ours = owners.first().context("a child has an owner")?;
        ensure!(owners.len() == 1 && Some(&ours.uid) == uid.as_ref() && ours.controller == Some(true), "{owners:?}");
    }
    // Key material stands in the Secret alone.
    let secret = file(&keys, names::KEYS_FILE)?;
    let encoded = serde_json::from_slice::<Value>(&secret)?["active"]["key"].as_str().unwrap_or_default().to_owned();
    ensure!(encoded.len() > 40 && !json!(resource).to_string().contains(&encoded) && !text.contains(&encoded));
    event(&namespace, "KeysGenerated").await?;
    Ok(())
}

#[tokio::test]
async fn ten_more_reconciles_write_nothing() -> Result<()> {
    let operator = Operator::shared().await?;
    let (_, namespace) = namespace(&operator, "stable").await?;
    provision(&namespace, "memory", claim()).await?;
    let versions = async || -> Result<Vec<(String, Option<String>)>> {
        Ok(vec![
            ("memory".to_owned(), namespace.api::<ContextManager>().get("memory").await?.resource_version()),
            (KEYS.to_owned(), namespace.api::<Secret>().get(KEYS).await?.resource_version()),
            (TLS.to_owned(), namespace.api::<Secret>().get(TLS).await?.resource_version()),
            (CONFIG.to_owned(), namespace.api::<ConfigMap>().get(CONFIG).await?.resource_version()),
            (CLAIM.to_owned(), namespace.api::<PersistentVolumeClaim>().get(CLAIM).await?.resource_version()),
        ])
    };
    // The claim's controller writes to the claim once after it was made.
    tokio::time::sleep(2 * RESYNC).await;
    let before = versions().await?;
    let reconciles = operator.reconciles().await?;
    // Each resync is a reconciliation; its pause varies by a quarter.
    tokio::time::sleep(RESYNC.mul_f64(12.6)).await;
    ensure!(before == versions().await?, "{before:?} became {:?}", versions().await?);
    let more = operator.reconciles().await? - reconciles;
    ensure!(more >= 10, "the controller reconciled {more} times only");
    // The controller is not asleep: the next drift is repaired.
    let configs = namespace.api::<ConfigMap>();
    configs.delete(CONFIG, &DeleteParams::default()).await?;
    eventually("the configuration", PATIENCE, || configs.get_metadata(CONFIG)).await?;
    Ok(())
}

#[tokio::test]
async fn what_is_edited_by_hand_is_put_right_and_what_is_added_stays() -> Result<()> {
    let operator = Operator::shared().await?;
    let (_, namespace) = namespace(&operator, "edited").await?;
    provision(&namespace, "memory", json!({})).await?;
    let (configs, secrets) = (namespace.api::<ConfigMap>(), namespace.api::<Secret>());
    let good = configs.get(CONFIG).await?.data;
    let keys = ring(&namespace).await?.active().id().to_owned();

    let edit = json!({
        "data": {"config.toml": "broken", "theirs": "stays"},
        "metadata": {"labels": {"app.kubernetes.io/managed-by": "somebody", "theirs": "stays"}},
    });
    merge(&configs, CONFIG, edit.clone()).await?;
    let no_owner = json!({"metadata": {"labels": {"contextmanager.dev/owned-by": null, "theirs": "stays"}, "ownerReferences": null}});
    merge(&secrets, KEYS, no_owner).await?;
    merge(&secrets, TLS, json!({"data": {"tls.crt": "YnJva2Vu"}})).await?;

    eventually("the configuration", PATIENCE, || async {
        let found = configs.get(CONFIG).await?;
        let labels = found.labels();
        let right = labels.get("app.kubernetes.io/managed-by").is_some_and(|by| by == "context-manager");
        let data = found.data.clone().unwrap_or_default();
        ensure!(
            right && data.get("config.toml") == good.as_ref().and_then(|good| good.get("config.toml")),
            "{labels:?}"
        );
        ensure!(labels.contains_key("theirs") && data.contains_key("theirs"), "what others added is gone");
        Ok(())
    })
    .await?;
    eventually("the key ring's labels", PATIENCE, || async {
        let found = secrets.get(KEYS).await?;
        ensure!(found.labels().contains_key("contextmanager.dev/owned-by") && found.owner_references().len() == 1);
        ensure!(found.labels().contains_key("theirs"));
        Ok(())
    })
    .await?;
    ensure!(ring(&namespace).await?.active().id() == keys, "the key was made anew");
    eventually("the certificate", PATIENCE, || async {
        let found = file(&secrets.get(TLS).await?, names::CERTIFICATE_FILE)?;
        ensure!(found.starts_with(b"-----BEGIN CERTIFICATE-----"), "{}", String::from_utf8_lossy(&found));
        Ok(())
    })
    .await?;
    wait_for(&namespace, "memory", "Ready", "True", None).await?;
    Ok(())
}

#[tokio::test]
async fn what_is_deleted_comes_back_and_a_lost_key_is_announced() -> Result<()> {
    let operator = Operator::shared().await?;
    let (_, namespace) = namespace(&operator, "deleted").await?;
    provision(&namespace, "memory", claim()).await?;
    let before = ring(&namespace).await?.active().id().to_owned();
    let gone = DeleteParams::default();
    let (configs, secrets) = (namespace.api::<ConfigMap>(), namespace.api::<Secret>());
    let claims = namespace.api::<PersistentVolumeClaim>();
    let old = claims.get(CLAIM).await?.uid();
    configs.delete(CONFIG, &gone).await?;
    secrets.delete(KEYS, &gone).await?;
    secrets.delete(TLS, &gone).await?;
    claims.delete(CLAIM, &gone).await?;
    eventually("all children", PATIENCE, || async {
        configs.get(CONFIG).await?;
        secrets.get(TLS).await?;
        secrets.get(KEYS).await?;
        ensure!(claims.get(CLAIM).await?.uid() != old, "the old claim is still there");
        Ok(())
    })
    .await?;
    let after = ring(&namespace).await?.active().id().to_owned();
    ensure!(before != after, "a deleted key cannot come back");
    eventually("the new key's id in the status", PATIENCE, || async {
        let found = namespace.api::<ContextManager>().get("memory").await?;
        let active = found.status.and_then(|status| status.keys).map(|keys| keys.active);
        ensure!(active.as_ref() == Some(&after), "{active:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_damaged_key_ring_is_replaced_and_a_warning_says_so() -> Result<()> {
    let operator = Operator::shared().await?;
    let (_, namespace) = namespace(&operator, "damaged").await?;
    provision(&namespace, "memory", json!({})).await?;
    let secrets = namespace.api::<Secret>();
    // "secret-word" must not be quoted anywhere.
    merge(&secrets, KEYS, json!({"data": {"keys.json": "eyJhY3RpdmUiOiAic2VjcmV0LXdvcmQifQ=="}})).await?;
    let told = event(&namespace, "KeysReplaced").await?;
    ensure!(told.type_.as_deref() == Some("Warning"), "{told:?}");
    ensure!(told.note.as_deref().is_some_and(|note| !note.contains("secret-word")), "{told:?}");
    ring(&namespace).await?;
    Ok(())
}

#[tokio::test]
async fn a_suspended_resource_is_observed_and_not_touched() -> Result<()> {
    let operator = Operator::shared().await?;
    let (_, namespace) = namespace(&operator, "suspended").await?;
    provision(&namespace, "memory", json!({})).await?;
    let resources = namespace.api::<ContextManager>();
    merge(&resources, "memory", json!({"spec": {"suspend": true}})).await?;
    eventually("the suspension", PATIENCE, || async {
        let found = resources.get("memory").await?;
        let observed = found.status.as_ref().and_then(|status| status.observed_generation);
        ensure!(observed == found.metadata.generation, "{observed:?}");
        Ok(())
    })
    .await?;
    let configs = namespace.api::<ConfigMap>();
    configs.delete(CONFIG, &DeleteParams::default()).await?;
    let found = wait_for(&namespace, "memory", "Ready", "False", Some("Suspended")).await?;
    ensure!(condition(&found, "Ready").is_some_and(|said| said.message.contains("spec.suspend")));
    tokio::time::sleep(3 * RESYNC).await;
    ensure!(configs.get_opt(CONFIG).await?.is_none(), "a suspended resource was written for");
    merge(&resources, "memory", json!({"spec": {"suspend": null}})).await?;
    wait_for(&namespace, "memory", "Ready", "True", None).await?;
    configs.get(CONFIG).await?;
    Ok(())
}

#[tokio::test]
async fn suspending_a_settled_resource_keeps_it_ready() -> Result<()> {
    let operator = Operator::shared().await?;
    let (_, namespace) = namespace(&operator, "paused").await?;
    provision(&namespace, "memory", json!({})).await?;
    merge(&namespace.api::<ContextManager>(), "memory", json!({"spec": {"suspend": true}})).await?;
    wait_for(&namespace, "memory", "Ready", "True", Some("Suspended")).await.map(drop)
}

#[tokio::test]
async fn an_own_key_ring_is_missed_then_copied_then_followed() -> Result<()> {
    let operator = Operator::shared().await?;
    let (_, namespace) = namespace(&operator, "existing").await?;
    let spec = json!({"auth": {"secretPolicy": "UseExisting", "secretRef": {"name": "mine"}}});
    namespace.make_resource("memory", spec).await?;
    let missing = wait_for(&namespace, "memory", "Ready", "False", Some("SecretNotFound")).await?;
    let stalled = condition(&missing, "Stalled").context("a person must act")?;
    ensure!(stalled.status == "True" && stalled.message.contains("\"mine\""), "{stalled:?}");
    let content =
        |id: &str| json!({"keys.json": format!(r#"{{"active": {{"id": "{id}", "key": "{}"}}}}"#, "QUJD".repeat(12))});
    let _: Secret = namespace.make(&json!({"metadata": {"name": "mine"}, "stringData": content("first")})).await?;
    wait_for(&namespace, "memory", "Ready", "True", None).await?;
    ensure!(ring(&namespace).await?.active().id() == "first");
    merge(&namespace.api::<Secret>(), "mine", json!({"stringData": content("second")})).await?;
    eventually("the second key", PATIENCE, || async {
        let id = ring(&namespace).await?.active().id().to_owned();
        ensure!(id == "second", "{id}");
        Ok(())
    })
    .await?;
    merge(&namespace.api::<Secret>(), "mine", json!({"stringData": {"keys.json": "nonsense"}})).await?;
    let invalid = wait_for(&namespace, "memory", "Ready", "False", Some("SecretInvalid")).await?;
    ensure!(condition(&invalid, "Ready").is_some_and(|said| !said.message.contains("nonsense")));
    ensure!(ring(&namespace).await?.active().id() == "second", "the last good ring stays");
    Ok(())
}

#[tokio::test]
async fn an_object_of_somebody_else_is_not_taken_over() -> Result<()> {
    let operator = Operator::shared().await?;
    let (_, namespace) = namespace(&operator, "foreign").await?;
    let _: ConfigMap = namespace.make(&json!({"metadata": {"name": CONFIG}, "data": {"theirs": "1"}})).await?;
    namespace.make_resource("memory", json!({})).await?;
    let found = wait_for(&namespace, "memory", "Ready", "False", Some("NameTaken")).await?;
    ensure!(condition(&found, "Ready").is_some_and(|said| said.message.contains(CONFIG)));
    let theirs = namespace.api::<ConfigMap>().get(CONFIG).await?;
    ensure!(
        theirs.data == Some([("theirs".to_owned(), "1".to_owned())].into()) && theirs.owner_references().is_empty()
    );
    namespace.api::<ConfigMap>().delete(CONFIG, &DeleteParams::default()).await?;
    wait_for(&namespace, "memory", "Ready", "True", None).await?;
    Ok(())
}

#[tokio::test]
async fn a_claim_that_the_api_server_refuses_holds_up_nothing_else() -> Result<()> {
    let operator = Operator::shared().await?;
    let (_, namespace) = namespace(&operator, "claim-refused").await?;
    provision(&namespace, "memory", claim()).await?;
    // No pod uses the claim, so it is not bound, and the API server lets none grow that is not.
    let larger = json!({"volumeClaimTemplate": {"resources": {"requests": {"storage": "128Mi"}}}});
    let spec = json!({"vectorStore": {"embedded": {"storage": larger}}, "gc": {"interval": "7s"}});
    merge(&namespace.api::<ContextManager>(), "memory", json!({"spec": spec})).await?;
    let found = wait_for(&namespace, "memory", "Ready", "False", Some("ClaimRefused")).await?;
    let said = condition(&found, "StoreReady").context("a condition")?.message;
    ensure!(
        ["volumeClaimTemplate", CLAIM, "allowVolumeExpansion"].iter().all(|word| said.contains(word)),
        "what to do: {said}"
    );
    ensure!(condition(&found, "Stalled").is_some_and(|stalled| stalled.status == "True"));
    let config = namespace.api::<ConfigMap>().get(CONFIG).await?.data.unwrap_or_default();
    ensure!(config[names::CONFIG_FILE].contains("7s"), "{config:?}");
    let live = namespace.api::<PersistentVolumeClaim>().get(CLAIM).await?;
    let size = live.spec.and_then(|spec| spec.resources?.requests?.remove("storage"));
    ensure!(size.is_some_and(|size| size.0 == "64Mi"), "the claim is another one");
    // It is a matter of the claim alone, also from the next look on.
    let secrets = namespace.api::<Secret>();
    secrets.delete(KEYS, &DeleteParams::default()).await?;
    eventually("the key ring", PATIENCE, || secrets.get(KEYS)).await?;

    // Where none can be made, there is all but the claim.
    let client = cluster::client().await?;
    let narrow = operator.namespace(&client, "claim-too-large", &[]).await?;
    let bounds = json!({"limits": [{"type": "PersistentVolumeClaim", "max": {"storage": "32Mi"}}]});
    narrow.make::<LimitRange>(&json!({"metadata": {"name": "bounds"}, "spec": bounds})).await?;
    narrow.make_resource("memory", claim()).await?;
    let found = wait_for(&narrow, "memory", "Ready", "False", Some("ClaimRefused")).await?;
    for kind in ["SecretsReady", "TLSReady", "ConfigReady"] {
        ensure!(condition(&found, kind).is_some_and(|said| said.status == "True"), "{kind}");
    }
    ring(&narrow).await.map(drop)
}

#[tokio::test]
async fn a_changed_spec_reaches_the_configuration_with_its_generation() -> Result<()> {
    let operator = Operator::shared().await?;
    let (_, namespace) = namespace(&operator, "changed").await?;
    provision(&namespace, "memory", json!({})).await?;
    merge(&namespace.api::<ContextManager>(), "memory", json!({"spec": {"gc": {"interval": "7s"}}})).await?;
    let found = wait_for(&namespace, "memory", "Ready", "True", None).await?;
    ensure!(found.status.as_ref().and_then(|status| status.observed_generation) == Some(2));
    let config = namespace.api::<ConfigMap>().get(CONFIG).await?;
    let text = config.data.as_ref().and_then(|data| data.get(names::CONFIG_FILE)).context("config.toml")?;
    ensure!(SidecarConfig::from_toml(text)?.generation == 2 && text.contains("7s"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_certificate_that_may_live_too_long_is_made_anew() -> Result<()> {
    let operator = Operator::shared().await?;
    let (_, namespace) = namespace(&operator, "renew").await?;
    let before = provision(&namespace, "memory", json!({})).await?;
    merge(&namespace.api::<ContextManager>(), "memory", json!({"spec": {"tls": {"duration": "1h"}}})).await?;
    let after = wait_for(&namespace, "memory", "TLSReady", "True", None).await?;
    let print =
        |resource: &ContextManager| resource.status.as_ref().map(|status| status.certificates[0].fingerprint.clone());
    ensure!(print(&before) != print(&after), "the certificate of 90 days is still in use");
    event(&namespace, "CertificateRenewed").await?;
    // The metrics tell the same as the status.
    let ends = after.status.context("a status")?.certificates[0].not_after.0.as_second();
    let metrics = operator.metrics().await?;
    let shown = |what: &str| {
        let labels = format!("{{resource=\"memory\",resource_namespace=\"{}\"}} ", namespace.name);
        let name = format!("context_manager_client_certificate_{what}_timestamp_seconds{labels}");
        metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse::<i64>().ok())
    };
    ensure!(shown("not_after") == Some(ends), "{metrics}");
    ensure!(shown("renewal").is_some_and(|renewal| renewal < ends), "{metrics}");
    Ok(())
}

#[tokio::test]
async fn children_go_with_their_resource_and_a_retained_claim_stays() -> Result<()> {
    let operator = Operator::shared().await?;
    let (_, namespace) = namespace(&operator, "reclaim").await?;
    provision(&namespace, "memory", claim()).await?;
    let mut drop = claim();
    drop["reclaimPolicy"] = json!("Delete");
    provision(&namespace, "scratch", drop).await?;
    for name in ["memory", "scratch"] {
        namespace.api::<ContextManager>().delete(name, &DeleteParams::default()).await?;
    }
    eventually("the end of the children", 2 * PATIENCE, || async {
        let secrets = namespace.api::<Secret>().list(&ListParams::default()).await?.items.len();
        let claims = namespace.api::<PersistentVolumeClaim>().list(&ListParams::default()).await?;
        let claims: Vec<_> = claims.iter().map(kube::ResourceExt::name_any).collect();
        ensure!(secrets == 0 && claims == [CLAIM], "{secrets} Secrets and {claims:?} are there");
        Ok(())
    })
    .await?;
    // A resource of the same name finds its data again.
    provision(&namespace, "memory", claim()).await?;
    Ok(())
}

#[tokio::test]
async fn a_retained_claim_of_an_earlier_version_loses_the_label_by_which_argo_cd_would_prune_it() -> Result<()> {
    const INSTANCE: &str = "app.kubernetes.io/instance";
    let operator = Operator::shared().await?;
    let (_, namespace) = namespace(&operator, "tracked").await?;
    provision(&namespace, "memory", claim()).await?;
    let claims = namespace.api::<PersistentVolumeClaim>();
    let live = claims.get(CLAIM).await?;
    ensure!(!live.labels().contains_key(INSTANCE), "{:?}", live.labels());
    let mut managers = live.managed_fields().iter().filter_map(|entry| entry.manager.clone());
    let manager = managers.find(|name| name.starts_with("context-manager-storage")).context("a manager")?;
    let mut labels = live.labels().clone();
    labels.insert(INSTANCE.to_owned(), "memory".to_owned());
    let spec = live.spec.context("a claim has a spec")?;
    let earlier = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM, "labels": labels},
        "spec": {
            "accessModes": spec.access_modes, "resources": spec.resources, "storageClassName": spec.storage_class_name,
        },
    });
    claims.patch(CLAIM, &PatchParams::apply(&manager).force(), &Patch::Apply(earlier)).await?;
    eventually("the end of the label", PATIENCE, || async {
        let live = claims.get(CLAIM).await?;
        ensure!(!live.labels().contains_key(INSTANCE), "{:?}", live.labels());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_resource_from_before_a_rule_is_named_invalid_and_its_children_are_left_alone() -> Result<()> {
    let operator = Operator::shared().await?;
    let (client, namespace) = namespace(&operator, "older").await?;
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    let name = "contextmanagers.contextmanager.dev";
    let path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/gc/properties/interval/x-kubernetes-validations";
    let remove: json_patch::Patch = serde_json::from_value(json!([{"op": "remove", "path": path}]))?;
    definitions.patch(name, &PatchParams::default(), &Patch::<()>::Json(remove)).await?;
    let mut old = DynamicObject::new("memory", &resource_type()).data(json!({"spec": {"gc": {"interval": "10ms"}}}));
    old.metadata.namespace = Some(namespace.name.clone());
    let admitted = eventually("the older definition", PATIENCE, || async {
        namespace.resources().create(&PostParams::default(), &old).await
    })
    .await;
    cluster::install_definition(&client).await?;
    admitted?;
    let found = wait_for(&namespace, "memory", "Ready", "False", Some("InvalidSpec")).await?;
    let said = condition(&found, "Ready").context("it is said")?;
    ensure!(said.message.contains("spec.gc.interval"), "{said:?}");
    ensure!(condition(&found, "Stalled").is_some_and(|stalled| stalled.status == "True"));
    ensure!(namespace.api::<ConfigMap>().get_opt(CONFIG).await?.is_none(), "an invalid resource was provisioned");
    // Corrected, it works.
    merge(&namespace.api::<ContextManager>(), "memory", json!({"spec": {"gc": {"interval": "10s"}}})).await?;
    wait_for(&namespace, "memory", "Ready", "True", None).await?;
    Ok(())
}

#[tokio::test]
async fn ready_is_what_kubectl_waits_for() -> Result<()> {
    let operator = Operator::shared().await?;
    let (_, namespace) = namespace(&operator, "wait").await?;
    namespace.make_resource("memory", json!({})).await?;
    let wait = ["wait", "--for=condition=Ready", "contextmanager/memory", "--timeout=20s", "-n", &namespace.name];
    let said = cluster::kubectl(&wait).await?;
    ensure!(said.contains("condition met"), "{said}");
    let shown = cluster::kubectl(&["get", "ctxm", "-n", &namespace.name]).await?;
    ensure!(shown.contains("True") && shown.contains("Provisioned"), "{shown}");
    Ok(())
}

async fn counted(namespace: &Namespace, wanted: [i32; 3]) -> Result<()> {
    eventually(&format!("{wanted:?} injected, outdated and missing"), PATIENCE, || async {
        let found = namespace.api::<ContextManager>().get("memory").await?;
        let pods = found.status.and_then(|status| status.pods).context("the pods are counted")?;
        ensure!([pods.injected, pods.outdated, pods.missing] == wanted, "{pods:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn pods_are_counted_that_are_outdated_or_have_no_sidecar() -> Result<()> {
    let operator = Operator::shared().await?;
    let (client, namespace) = namespace(&operator, "fleet").await?;
    provision(&namespace, "memory", json!({})).await?;
    let _: Pod = namespace.make(&asking("agent")).await?;
    counted(&namespace, [1, 0, 0]).await?;
    let resources = namespace.api::<ContextManager>();
    // What sidecars reload is nothing to be outdated by.
    merge(&resources, "memory", json!({"spec": {"gc": {"interval": "7s"}}})).await?;
    wait_for(&namespace, "memory", "Ready", "True", None).await?;
    counted(&namespace, [1, 0, 0]).await?;
    merge(&resources, "memory", json!({"spec": {"sidecar": {"image": "localhost/sidecar:2"}}})).await?;
    counted(&namespace, [1, 1, 0]).await?;
    let _: Pod = namespace.make(&asking("newer")).await?;
    counted(&namespace, [2, 1, 0]).await?;
    let shown = cluster::kubectl(&["get", "ctxm", "-n", &namespace.name]).await?;
    ensure!(shown.contains("OUTDATED") && shown.contains("KEY-AGE"), "{shown}");
    // A namespace whose pods the webhook does not see, as if it were away.
    let unseen = Namespace::create(&client, "unseen", &[]).await?;
    provision(&unseen, "memory", json!({})).await?;
    let _: Pod = unseen.make(&labelled(pod("bare"), INJECT, "true")).await?;
    let _: Pod = unseen.make(&annotated(labelled(pod("other"), INJECT, "true"), names::NAME, "another")).await?;
    counted(&unseen, [0, 0, 1]).await
}

#[tokio::test]
async fn reconciles_and_writes_are_counted() -> Result<()> {
    let operator = Operator::shared().await?;
    let (_, namespace) = namespace(&operator, "metrics").await?;
    provision(&namespace, "memory", json!({})).await?;
    let metrics = operator.metrics().await?;
    let value = |name: &str| -> Result<f64> {
        let line =
            metrics.lines().find(|line| line.starts_with(name)).with_context(|| format!("no {name} in {metrics}"))?;
        Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
    };
    ensure!(value("context_manager_reconciles_total{outcome=\"ready\"}")? >= 1.0);
    ensure!(value("context_manager_writes_total{object=\"keys_secret\"}")? >= 1.0);
    ensure!(value("context_manager_reconcile_duration_seconds_count")? >= 1.0);
    Ok(())
}
