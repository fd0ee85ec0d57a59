//! Namespaces that refuse what the operator does there: it is their own trouble, and not that of the resource.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use context_manager_crds::ContextManager;
use context_manager_operator::controller::ABANDON_COPIES;
use context_manager_protocol::names;
use context_manager_tests::{
    cluster::{eventually, refusal},
    objects::{INJECT, asking, pod},
    operator::{PATIENCE, condition, provision, wait_for},
    pods::sidecar_image,
    policy::Policy,
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Namespace as NamespaceObject, Pod, Secret},
    events::v1::Event,
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::task::JoinSet;

use super::{ROTATION, Stage, file, merge};

/// How long the eviction of a pod is awaited that could not be evicted for a while: the pauses between two tries grow.
const EVICTED: Duration = Duration::from_mins(3);

impl Stage {
    /// Asks for another key, and waits until it alone is in force; what else the operator does for the owner happens meanwhile.
    async fn goes_on(&self, turn: &str) -> Result<()> {
        let keys =
            async || -> Result<_> { self.resource().await?.status.and_then(|status| status.keys).context("keys") };
        let first = keys().await?.active;
        let tls = names::tls_secret("memory");
        let certificate = async || file(&self.owner.api::<Secret>().get(&tls).await?, names::CERTIFICATE_FILE);
        let before = certificate().await?;
        self.owner.api::<Secret>().delete(&tls, &DeleteParams::default()).await?;
        let ask = json!({
            "metadata": {"annotations": {names::ROTATE: turn}},
            "spec": {"gc": {"interval": format!("{}s", 5 + turn.len())}},
        });
        merge(&self.owner.api::<ContextManager>(), "memory", ask).await?;
        eventually("another key", ROTATION, || async {
            let keys = keys().await?;
            ensure!(keys.active != first && keys.previous.is_empty() && keys.next.is_none(), "{keys:?}");
            Ok::<_, anyhow::Error>(())
        })
        .await?;
        let resource = wait_for(&self.owner, "memory", "Ready", "True", None).await?;
        ensure!(certificate().await? != before, "the certificate is the old one");
        let generation = format!("generation {}", resource.metadata.generation.context("a generation")?);
        let config = condition(&resource, "ConfigReady").context("the condition")?;
        ensure!(config.message.contains(&generation), "{config:?} is not of {generation}");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_refuses_its_copies_holds_up_neither_the_owner_nor_the_others() -> Result<()> {
    let stage = Stage::set("refused").await?;
    let other = stage.operator.namespace(&stage.client, "refused-other", &[]).await?;
    stage.provision(json!({"auth": {"rotation": {"overlap": "1s"}}})).await?;
    stage.spec(json!({"allowedNamespaces": [stage.guest.name, other.name]})).await?;
    wait_for(&stage.owner, "memory", "GrantsReady", "True", Some("Copied")).await?;
    let there = stage.guest.api::<Secret>().get(&stage.copy()).await?;

    // By a policy (422), and by a webhook that does not answer (500).
    for (turn, reason) in [("policy", "NamespaceRefuses"), ("webhook", "NamespaceFails")] {
        let policy = match turn {
            "policy" => Policy::refuse(&stage.guest, &["CREATE", "UPDATE"], &["secrets", "configmaps"]).await?,
            _ => Policy::nobody_to_ask(&stage.guest).await?,
        };
        stage.goes_on(turn).await?;
        let message = stage.says("GrantsReady", reason).await?;
        println!("{turn}: {message}");
        ensure!(message.contains(&stage.guest.name) && !message.contains(&other.name), "{message}");
        let keys = stage.owner.api::<Secret>().get(&names::keys_secret("memory")).await?;
        let ring = file(&keys, names::KEYS_FILE)?;
        let copied = file(&other.api::<Secret>().get(&stage.copy()).await?, names::KEYS_FILE)?;
        ensure!(copied == ring, "{} was held up", other.name);
        drop(policy);
        wait_for(&stage.owner, "memory", "GrantsReady", "True", Some("Copied")).await?;
        stage.in_step().await?;
    }
    let now = stage.guest.api::<Secret>().get(&stage.copy()).await?;
    ensure!(now.metadata.uid == there.metadata.uid && now.data != there.data, "it was not brought up to date in place");

    // The same from the beginning, and at the end of a grant.
    let policy = Policy::refuse(&stage.guest, &["CREATE", "DELETE"], &["secrets", "configmaps"]).await?;
    provision(&stage.owner, "second", json!({"allowedNamespaces": [stage.guest.name, other.name]})).await?;
    wait_for(&stage.owner, "second", "GrantsReady", "False", Some("NamespaceRefuses")).await?;
    let second = names::granted(&stage.owner.name, "second");
    eventually("the other namespace's copies", PATIENCE, || async {
        let map = other.api::<ConfigMap>().get(&second).await?;
        ensure!(map.data.is_some(), "its configuration is missing");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    stage.spec(json!({"allowedNamespaces": [other.name]})).await?;
    let message = stage.says("GrantsReady", "NamespaceRefuses").await?;
    ensure!(message.contains("the copies are to be removed"), "{message}");
    stage.goes_on("withdrawn").await?;
    drop(policy);
    stage.gone().await?;
    wait_for(&stage.owner, "memory", "GrantsReady", "True", Some("Copied")).await?;
    wait_for(&stage.owner, "second", "GrantsReady", "True", Some("Copied")).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_may_not_be_changed_holds_up_its_upgrade_alone() -> Result<()> {
    let stage = Stage::set("unchanged").await?;
    let image = |number: u8| format!("localhost/another-sidecar:{number}");
    let spec = |number: u8| {
        let sidecar = json!({"image": image(number), "upgrade": {"strategy": "InPlace", "observe": "1s"}});
        json!({"sidecar": sidecar, "auth": {"rotation": {"overlap": "1s"}}})
    };
    stage.provision(spec(1)).await?;
    stage.guest.make::<Pod>(&stage.asking()).await?;
    let pods = stage.guest.api::<Pod>();
    // By a webhook that does not answer (500), and by a policy (422), as an API server answers whose pod is another one by now.
    for (turn, number) in [("webhook", 2), ("policy", 3)] {
        let policy = match turn {
            "policy" => Policy::refuse(&stage.guest, &["UPDATE"], &["pods"]).await?,
            _ => Policy::nobody_to_ask(&stage.guest).await?,
        };
        stage.spec(spec(number)).await?;
        let message = stage.says("SidecarsCurrent", "PodRefused").await?;
        ensure!(message.contains(&format!("{}/agent", stage.guest.name)), "{message}");
        stage.goes_on(turn).await?;
        ensure!(sidecar_image(&pods.get("agent").await?) == Some(image(number - 1)), "it was changed");
        drop(policy);
        // By now it may be tried once a minute.
        eventually("the new image", 2 * PATIENCE, || async {
            let found = sidecar_image(&pods.get("agent").await?);
            ensure!(found == Some(image(number)), "{found:?}");
            Ok::<_, anyhow::Error>(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_pod_security_keeps_lets_the_next_one_be_upgraded() -> Result<()> {
    let stage = Stage::set("restricted").await?;
    let image = |number: u8| format!("localhost/another-sidecar:{number}");
    let spec = |number: u8| {
        let upgrade = json!({"strategy": "InPlace", "batchPercent": 10, "observe": "1s"});
        json!({"sidecar": {"image": image(number), "upgrade": upgrade}})
    };
    stage.provision(spec(1)).await?;
    // By its name it is the first.
    let mut lax = asking("a-lax");
    lax["spec"]["containers"][0]["securityContext"] = json!({});
    stage.owner.make::<Pod>(&lax).await?;
    stage.owner.make::<Pod>(&asking("strict")).await?;
    let namespaces = Api::<NamespaceObject>::all(stage.client.clone());
    let enforce = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    merge(&namespaces, &stage.owner.name, enforce).await?;
    lax["metadata"]["name"] = json!("probe");
    eventually("Pod Security", PATIENCE, || async {
        let said = refusal(stage.owner.try_pod(&lax).await)?;
        ensure!(said.contains("violates PodSecurity"), "{said}");
        Ok::<_, anyhow::Error>(())
    })
    .await?;

    stage.spec(spec(2)).await?;
    let pods = stage.owner.api::<Pod>();
    eventually("the new image of the next one", PATIENCE, || async {
        let found = sidecar_image(&pods.get("strict").await?);
        ensure!(found == Some(image(2)), "{found:?}");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    let message = stage.says("SidecarsCurrent", "PodRefused").await?;
    ensure!(message.contains("a change of a-lax, "), "{message}");
    ensure!(sidecar_image(&pods.get("a-lax").await?) == Some(image(1)), "it was changed");
    Ok(())
}

/// Waits for the event of a deletion that waits.
async fn event(stage: &Stage, words: &str) -> Result<()> {
    eventually("the event", PATIENCE, || async {
        let events = stage.owner.api::<Event>().list(&ListParams::default()).await?;
        let mut told = events.iter().filter(|event| event.reason.as_deref() == Some("DeletionWaits"));
        ensure!(told.any(|event| event.note.as_ref().is_some_and(|note| note.contains(words))), "none says {words:?}");
        Ok(())
    })
    .await
}

async fn end_of_the_resource(stage: &Stage) -> Result<()> {
    eventually("the end of the resource", PATIENCE, || async {
        let left = stage.owner.api::<ContextManager>().get_opt("memory").await?;
        ensure!(left.is_none(), "{:?}", left.map(|left| left.status));
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_a_namespace_refuses_says_so_until_a_person_gives_up() -> Result<()> {
    let stage = Stage::set("kept").await?;
    stage.provision(json!({})).await?;
    let policy = Policy::refuse(&stage.guest, &["DELETE"], &["secrets"]).await?;
    let resources = stage.owner.api::<ContextManager>();
    resources.delete("memory", &DeleteParams::default()).await?;
    let message = stage.says("Ready", "CopiesRemain").await?;
    println!("{message}");
    let command = format!("kubectl annotate contextmanager/memory -n {} {ABANDON_COPIES}=true", stage.owner.name);
    for part in ["the deletion waits", stage.guest.name.as_str(), "422", command.as_str()] {
        ensure!(message.contains(part), "{part:?} is not in {message:?}");
    }
    event(&stage, &stage.guest.name).await?;
    // The sign stays with what it is a sign of.
    let (secrets, maps) = (stage.guest.api::<Secret>(), stage.guest.api::<ConfigMap>());
    ensure!(secrets.get_opt(&stage.copy()).await?.is_some() && maps.get_opt(&stage.copy()).await?.is_some());
    merge(&resources, "memory", json!({"metadata": {"annotations": {ABANDON_COPIES: "true"}}})).await?;
    end_of_the_resource(&stage).await?;
    ensure!(secrets.get_opt(&stage.copy()).await?.is_some(), "abandoned is not removed");

    // Who comes after it with its name takes them over, and may remove them when nobody refuses it any more.
    stage.provision(json!({})).await?;
    stage.in_step().await?;
    resources.delete("memory", &DeleteParams::default()).await?;
    stage.says("Ready", "CopiesRemain").await?;
    drop(policy);
    stage.gone().await?;
    end_of_the_resource(&stage).await
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_that_somebody_keeps_changing_go_all_the_same() -> Result<()> {
    let stage = Stage::set("changed").await?;
    stage.provision(json!({})).await?;
    let mut changing = JoinSet::new();
    for writer in 0..4 {
        let (secrets, name) = (stage.guest.api::<Secret>(), stage.copy());
        changing.spawn(async move {
            let mut changes = 0;
            loop {
                let patch = json!({"metadata": {"annotations": {format!("writer-{writer}"): changes.to_string()}}});
                match secrets.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
                    Ok(_) => changes += 1,
                    Err(kube::Error::Api(status)) if status.code == 404 => return changes,
                    // They are in each other's way.
                    Err(_) => {}
                }
            }
        });
    }
    stage.owner.api::<ContextManager>().delete("memory", &DeleteParams::default()).await?;
    stage.gone().await?;
    end_of_the_resource(&stage).await?;
    let changes: u64 = changing.join_all().await.into_iter().sum();
    println!("{changes} changes meanwhile");
    ensure!(changes > 0, "nobody changed anything");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_fails_says_so() -> Result<()> {
    let stage = Stage::set("fails").await?;
    stage.provision(json!({})).await?;
    let policy = Policy::refuse(&stage.owner, &["UPDATE"], &["contextmanagers"]).await?;
    stage.owner.api::<ContextManager>().delete("memory", &DeleteParams::default()).await?;
    let message = stage.says("Ready", "ReconcileError").await?;
    let words = "the deletion waits: failed to write the finalizers";
    ensure!(message.contains(words) && message.contains("the controller's log says more"), "{message}");
    event(&stage, words).await?;
    drop(policy);
    end_of_the_resource(&stage).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_a_policy_forbids_to_evict_holds_up_nothing_else() -> Result<()> {
    let stage = Stage::set("unevicted").await?;
    stage.provision(json!({"auth": {"rotation": {"overlap": "1s"}}})).await?;
    let policy = Policy::forbid_evictions(&stage.guest).await?;
    // It asks only when it is there, so the webhook was not asked about it.
    let mut template = pod("agent");
    template["metadata"] = json!({"labels": {"app": "agent"}});
    let deployment = json!({
        "metadata": {"name": "agent"},
        "spec": {"selector": {"matchLabels": {"app": "agent"}}, "template": template},
    });
    stage.guest.make::<Deployment>(&deployment).await?;
    let pods = stage.guest.api::<Pod>();
    let made = eventually("the pod", PATIENCE, || async {
        let found = pods.list(&ListParams::default().labels("app=agent")).await?;
        found.items.into_iter().next().context("there is none")
    })
    .await?;
    let asks = json!({"labels": {INJECT: "true"}, "annotations": {names::NAME: stage.full_name()}});
    merge(&pods, &made.name_any(), json!({"metadata": asks})).await?;
    let message = stage.says("PodsInjected", "SidecarMissing").await?;
    ensure!(message.contains(&format!("{}/{}", stage.guest.name, made.name_any())), "{message}");
    stage.goes_on("eviction").await?;
    let there = pods.get(&made.name_any()).await?;
    ensure!(there.uid() == made.uid() && there.metadata.deletion_timestamp.is_none(), "it was evicted");
    // Nothing but the policy kept it.
    drop(policy);
    eventually("its end", EVICTED, || async {
        let left = pods.get_opt(&made.name_any()).await?;
        ensure!(left.is_none_or(|left| left.metadata.deletion_timestamp.is_some()), "it is there");
        Ok::<_, anyhow::Error>(())
    })
    .await
}
