//! Rotation of keys on a real API server, with real sidecars and agents that send a signed request each millisecond.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use context_manager_crds::{ContextManager, context_manager::status::Keys};
use context_manager_protocol::{keyring::KeyRing, names};
use context_manager_tests::{
    cluster::{self, Namespace, eventually},
    operator::{KEYS, Operator, condition, provision, wait_for},
    rotation::{FakePod, make},
};
use k8s_openapi::{
    ByteString,
    api::{core::v1::Secret, events::v1::Event},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

/// Least requests of an agent a second, so that every moment of a rotation meets some. It tries 1,000, which it prints; how many it gets
/// is up to what else the machine does.
const LEAST_RATE: f64 = 50.0;
/// How long a rotation may take on a machine that is busy with other suites.
const PATIENCE: Duration = Duration::from_mins(1);

async fn namespace(operator: &Operator, what: &str) -> Result<Namespace> {
    operator.namespace(&cluster::client().await?, what, &[]).await
}

async fn merge<K>(api: &Api<K>, name: &str, patch: Value) -> Result<K>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    Ok(api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?)
}

async fn ask(namespace: &Namespace, value: &str) -> Result<()> {
    let annotation = json!({"metadata": {"annotations": {names::ROTATE: value}}});
    merge(&namespace.api::<ContextManager>(), "memory", annotation).await.map(drop)
}

async fn keys(namespace: &Namespace) -> Result<Keys> {
    let found = namespace.api::<ContextManager>().get("memory").await?;
    found.status.and_then(|status| status.keys).context("the status has no keys")
}

async fn ring(namespace: &Namespace) -> Result<KeyRing> {
    let secret = namespace.api::<Secret>().get("memory-context-keys").await?;
    let ByteString(json) = secret.data.unwrap_or_default().remove(names::KEYS_FILE).context("a ring")?;
    Ok(KeyRing::from_json(&json)?)
}

/// Waits until `KeysRotated` says so.
async fn said(namespace: &Namespace, reason: &str) -> Result<String> {
    eventually(reason, PATIENCE, || async {
        let found = namespace.api::<ContextManager>().get("memory").await?;
        let said = condition(&found, "KeysRotated").context("the condition is missing")?;
        ensure!(said.reason == reason, "{said:?}");
        // What a rotation waits for is no fault of the memory.
        ensure!(condition(&found, "Ready").is_some_and(|ready| ready.status == "True"), "it is not ready");
        Ok(said.message)
    })
    .await
}

/// Waits until another key signs and the old ones are gone.
async fn rotated(namespace: &Namespace, old: &str) -> Result<Keys> {
    eventually("another key alone", PATIENCE, || async {
        let keys = keys(namespace).await?;
        ensure!(keys.active != old && keys.previous.is_empty() && keys.next.is_none(), "{keys:?}");
        Ok(keys)
    })
    .await
}

async fn event(namespace: &Namespace, reason: &str) -> Result<Event> {
    eventually(reason, PATIENCE, || async {
        let events = namespace.api::<Event>().list(&ListParams::default()).await?;
        let reasons: Vec<_> = events.iter().filter_map(|event| event.reason.clone()).collect();
        events.into_iter().find(|event| event.reason.as_deref() == Some(reason)).with_context(|| format!("{reasons:?}"))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_through_many_rotations() -> Result<()> {
    let operator = Operator::shared().await?;
    let namespace = namespace(&operator, "rotate").await?;
    provision(&namespace, "memory", json!({"auth": {"rotation": {"overlap": "2s"}}})).await?;
    let folder = tempfile::tempdir()?;
    let mut pods = Vec::new();
    for name in ["a", "b"] {
        pods.push(FakePod::start(&namespace, "memory", name, folder.path()).await?);
    }
    let first = keys(&namespace).await?.active;
    // Asked for, twice in the same words, which is once.
    ask(&namespace, "now").await?;
    ask(&namespace, "now").await?;
    let second = rotated(&namespace, &first).await?.active;
    // Then by time.
    let every = json!({"spec": {"auth": {"rotation": {"every": "10s"}}}});
    merge(&namespace.api::<ContextManager>(), "memory", every).await?;
    let mut seen = vec![first.clone(), second];
    let started = tokio::time::Instant::now();
    while started.elapsed() < Duration::from_secs(45) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let keys = keys(&namespace).await?;
        if seen.last() != Some(&keys.active) {
            let due = keys.next_rotation.context("the next rotation has a time")?.0;
            ensure!(due.duration_since(keys.rotated_at.context("a time")?.0).as_secs() == 10, "{due}");
            seen.push(keys.active);
        }
    }
    ensure!(seen.len() >= 5, "only {seen:?} signed in 45 s");
    for mut pod in pods {
        // Nobody starts one again here, so a restart would be an end.
        let ended = pod.sidecar.ended()?;
        ensure!(ended.is_none(), "a sidecar ended: {ended:?}: {}", pod.sidecar.log()?);
        let count = pod.stop()?;
        #[expect(clippy::cast_precision_loss, reason = "it is far below 2^52")]
        let rate = count.sent as f64 / count.seconds;
        println!("{} requests, {rate:.0} a second, {} failed, {} keys", count.sent, count.failed, count.keys.len());
        ensure!(rate >= LEAST_RATE, "{rate:.0} requests a second are too few to prove anything");
        ensure!(count.failed == 0, "{} of {} requests failed: {:?}", count.failed, count.sent, count.error);
        ensure!(count.keys.len() >= seen.len() - 1 && count.sent > 1_000, "{count:?}");
    }
    let metrics = operator.metrics().await?;
    let line = format!(
        "context_manager_key_active_since_timestamp_seconds{{resource=\"memory\",resource_namespace=\"{}\"}}",
        namespace.name
    );
    ensure!(metrics.contains(&line) && metrics.contains("context_manager_key_rotations_total{loaded_by=\"all\"}"));
    for reason in ["KeyPublished", "KeyActivated", "KeyRetired"] {
        event(&namespace, reason).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_has_not_loaded_the_new_key_is_waited_for_and_named() -> Result<()> {
    let operator = Operator::shared().await?;
    let namespace = namespace(&operator, "lags").await?;
    provision(&namespace, "memory", json!({"auth": {"rotation": {"overlap": "1s"}}})).await?;
    let folder = tempfile::tempdir()?;
    let pod = FakePod::start(&namespace, "memory", "slow", folder.path()).await?;
    let first = keys(&namespace).await?.active;
    pod.detach();
    ask(&namespace, "now").await?;
    let message = said(&namespace, "PodsLag").await?;
    ensure!(message.contains("slow (has not loaded it)"), "{message}");
    let told = event(&namespace, "KeyRotationWaits").await?;
    ensure!(told.type_.as_deref() == Some("Warning"), "{told:?}");
    let waits = format!(
        "context_manager_key_rotation_waits_for_pods{{resource=\"memory\",resource_namespace=\"{}\"}} 1",
        namespace.name
    );
    ensure!(operator.metrics().await?.contains(&waits), "{waits}");
    // A request meanwhile waits for its turn, and then the same annotation makes no third key.
    ask(&namespace, "again").await?;
    tokio::time::sleep(KEYS.patience).await;
    ensure!(keys(&namespace).await?.active == first, "it signs although the sidecar would refuse it");
    pod.sync(&namespace, "memory").await?;
    let second = eventually("the second key", PATIENCE, || async {
        let active = keys(&namespace).await?.active;
        ensure!(active != first, "{active}");
        Ok::<_, anyhow::Error>(active)
    })
    .await?;
    pod.sync(&namespace, "memory").await?;
    eventually("the third key", PATIENCE, || async {
        pod.sync(&namespace, "memory").await?;
        let keys = keys(&namespace).await?;
        ensure!(keys.active != second && keys.active != first && keys.previous.is_empty(), "{keys:?}");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    let third = keys(&namespace).await?.active;
    tokio::time::sleep(Duration::from_secs(4)).await;
    ensure!(keys(&namespace).await?.active == third, "the annotation that stays asked again");
    let count = pod.stop()?;
    ensure!(count.failed == 0 && count.keys.len() == 3, "{count:?}");
    Ok(())
}

#[tokio::test]
async fn a_pod_that_cannot_be_reached_is_waited_for_up_to_a_bound_and_then_named() -> Result<()> {
    let operator = Operator::shared().await?;
    let namespace = namespace(&operator, "away").await?;
    provision(&namespace, "memory", json!({})).await?;
    // Nobody listens on this port.
    make(&namespace, "memory", "lost", 1).await?;
    let first = keys(&namespace).await?.active;
    let asked = tokio::time::Instant::now();
    ask(&namespace, "now").await?;
    let message = said(&namespace, "Publishing").await?;
    ensure!(message.contains("1 of 1 pods: lost (cannot be reached)"), "{message}");
    let message = said(&namespace, "Overlap").await?;
    ensure!(asked.elapsed() >= KEYS.patience, "only {:?}", asked.elapsed());
    ensure!(message.contains("without waiting longer for lost") && message.contains(&first), "{message}");
    let told = event(&namespace, "KeyActivated").await?;
    ensure!(told.type_.as_deref() == Some("Warning") && told.note.as_deref().unwrap_or_default().contains("lost"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_key_in_the_users_secret_is_published_first_and_the_old_one_kept() -> Result<()> {
    let operator = Operator::shared().await?;
    let namespace = namespace(&operator, "own").await?;
    let content = |id: &str, letters: &str| json!({"keys.json": json!({"active": {"id": id, "key": letters.repeat(12)}}).to_string()});
    let _: Secret =
        namespace.make(&json!({"metadata": {"name": "mine"}, "stringData": content("one", "QUJD")})).await?;
    let auth = json!({"secretPolicy": "UseExisting", "secretRef": {"name": "mine"}, "rotation": {"overlap": "3s"}});
    provision(&namespace, "memory", json!({"auth": auth})).await?;
    let folder = tempfile::tempdir()?;
    let pod = FakePod::start(&namespace, "memory", "a", folder.path()).await?;
    let mine = namespace.api::<Secret>();
    merge(&mine, "mine", json!({"stringData": content("two", "REVG")})).await?;
    eventually("the published key", PATIENCE, || async {
        let ring = ring(&namespace).await?;
        ensure!(ring.active().id() == "one" && ring.next().is_some_and(|next| next.id() == "two"), "{ring:?}");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    let message = said(&namespace, "Overlap").await?;
    ensure!(message.starts_with("key two signs; one verifies, the oldest until "), "{message}");
    rotated(&namespace, "one").await?;
    // The same id for another key is refused, and what is in force stays.
    merge(&mine, "mine", json!({"stringData": content("two", "R0hJ")})).await?;
    let refused = eventually("the refusal", PATIENCE, || async {
        let found = namespace.api::<ContextManager>().get("memory").await?;
        let ready = condition(&found, "Ready").context("a condition")?;
        ensure!(ready.reason == "SecretInvalid", "{ready:?}");
        Ok::<_, anyhow::Error>(ready.message)
    });
    ensure!(refused.await?.contains("give a new key a new id"));
    merge(&mine, "mine", json!({"stringData": content("two", "REVG")})).await?;
    // The operator makes no key here, and says so.
    ask(&namespace, "now").await?;
    event(&namespace, "KeyRotationRefused").await?;
    // From the user's keys to the operator's, and not one request fails.
    merge(
        &namespace.api::<ContextManager>(),
        "memory",
        json!({"spec": {"auth": {"secretPolicy": null, "secretRef": null}}}),
    )
    .await?;
    ask(&namespace, "another").await?;
    let keys = rotated(&namespace, "two").await?;
    ensure!(keys.active.starts_with("k-"), "{keys:?}");
    let count = pod.stop()?;
    ensure!(count.failed == 0 && count.keys.len() == 3, "{count:?}");
    Ok(())
}

#[tokio::test]
async fn a_rotation_goes_on_when_the_users_secret_is_gone() -> Result<()> {
    let operator = Operator::shared().await?;
    let (namespace, guest) = (namespace(&operator, "gone").await?, namespace(&operator, "gone-guest").await?);
    let content = |id: &str, letters: &str| json!({"keys.json": json!({"active": {"id": id, "key": letters.repeat(12)}}).to_string()});
    let _: Secret =
        namespace.make(&json!({"metadata": {"name": "mine"}, "stringData": content("one", "QUJD")})).await?;
    let auth = json!({"secretPolicy": "UseExisting", "secretRef": {"name": "mine"}, "rotation": {"overlap": "10s"}});
    provision(&namespace, "memory", json!({"auth": auth})).await?;
    let mine = namespace.api::<Secret>();
    merge(&mine, "mine", json!({"stringData": content("two", "REVG")})).await?;
    said(&namespace, "Overlap").await?;
    mine.delete("mine", &DeleteParams::default()).await?;
    let resource = wait_for(&namespace, "memory", "SecretsReady", "False", Some("SecretNotFound")).await?;
    ensure!(condition(&resource, "KeysRotated").is_some_and(|said| said.status == "True"), "{:?}", resource.status);
    // A namespace that is allowed meanwhile has the ring in force.
    merge(&namespace.api::<ContextManager>(), "memory", json!({"spec": {"allowedNamespaces": [guest.name]}})).await?;
    let (copies, copy) = (guest.api::<Secret>(), names::granted(&namespace.name, "memory"));
    eventually("the copy", PATIENCE, || copies.get(&copy)).await?;
    let keys = rotated(&namespace, "one").await?;
    ensure!(keys.active == "two" && ring(&namespace).await?.find("one").is_none(), "{keys:?}");
    Ok(())
}

#[tokio::test]
async fn a_suspended_resource_does_not_rotate_and_says_so() -> Result<()> {
    let operator = Operator::shared().await?;
    let namespace = namespace(&operator, "idle").await?;
    provision(&namespace, "memory", json!({})).await?;
    let resources = namespace.api::<ContextManager>();
    let before = namespace.api::<Secret>().get("memory-context-keys").await?;
    merge(&resources, "memory", json!({"spec": {"suspend": true}})).await?;
    ask(&namespace, "now").await?;
    let message = said(&namespace, "Suspended").await?;
    ensure!(message.contains("a new key is due") && message.contains("spec.suspend"), "{message}");
    let after = namespace.api::<Secret>().get("memory-context-keys").await?;
    ensure!(before.resource_version() == after.resource_version(), "it was written");
    let first = keys(&namespace).await?.active;
    merge(&resources, "memory", json!({"spec": {"suspend": null}})).await?;
    eventually("the new key", PATIENCE, || async {
        let active = keys(&namespace).await?.active;
        ensure!(active != first, "{active}");
        Ok(())
    })
    .await
}
