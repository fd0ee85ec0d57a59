//! Sidecars of running pods are upgraded, and pods without one are found, on a real kubelet.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use context_manager_crds::ContextManager;
use context_manager_operator::pods::is_ready;
use context_manager_protocol::names;
use context_manager_tests::{
    cluster::{self, Namespace, eventually},
    objects::INJECT,
    operator::{Operator, RESYNC, condition, provision, wait_within},
    plugin::run,
    pods::{self, START, container},
    webhook::{crashing_sidecar_image, next_sidecar_image, sidecar_image},
};
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::{Pod, ResourceQuota},
    events::v1::Event,
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

/// How long a whole upgrade may take.
const UPGRADE: Duration = Duration::from_mins(3);

async fn namespace(operator: &Operator, what: &str, strategy: &str) -> Result<(Client, Namespace)> {
    let client = cluster::client().await?;
    let namespace = operator.namespace(&client, what, &[("pod-security.kubernetes.io/enforce", "restricted")]).await?;
    pods::make_document(&namespace).await?;
    let upgrade = json!({"strategy": strategy, "batchPercent": 10, "observe": "2s"});
    provision(&namespace, "memory", json!({"sidecar": {"upgrade": upgrade}})).await?;
    Ok((client, namespace))
}

async fn change(namespace: &Namespace, sidecar: Value) -> Result<()> {
    let patch = Patch::Merge(json!({"spec": {"sidecar": sidecar}}));
    namespace.api::<ContextManager>().patch("memory", &PatchParams::default(), &patch).await?;
    Ok(())
}

/// Waits until the condition of the current generation has that reason.
async fn says(namespace: &Namespace, kind: &str, reason: &str) -> Result<ContextManager> {
    wait_within(UPGRADE, namespace, "memory", kind, |said| said.reason == reason).await
}

fn restarts(pod: &Pod, name: &str) -> Result<i32> {
    Ok(container(pod, name).with_context(|| format!("the container {name}"))?.restart_count)
}

#[tokio::test]
async fn an_image_is_replaced_in_running_pods_and_their_agents_go_on() -> Result<()> {
    let operator = Operator::shared().await?;
    let (_, namespace) = namespace(&operator, "in-place", "InPlace").await?;
    let agents = ["a", "b", "c"];
    for agent in &agents[1..] {
        pods::start(&namespace, agent).await?;
    }
    // An ordinary container is upgraded in the same way.
    namespace.make::<Pod>(&pods::classic(pods::agent(agents[0], pods::STAYING))).await?;
    pods::ready(&namespace, agents[0]).await?;
    says(&namespace, "SidecarsCurrent", "UpToDate").await?;
    change(&namespace, json!({"image": next_sidecar_image()})).await?;
    let resource = says(&namespace, "SidecarsCurrent", "UpToDate").await?;
    let counted = resource.status.and_then(|status| status.pods).context("pods are counted")?;
    ensure!((counted.injected, counted.outdated) == (3, 0), "{counted:?}");
    for agent in agents {
        let pod = pods::ready(&namespace, agent).await?;
        ensure!(pods::sidecar_image(&pod) == Some(next_sidecar_image()), "{agent} has {:?}", pods::sidecar_image(&pod));
        ensure!((restarts(&pod, names::CONTAINER)?, restarts(&pod, "agent")?) == (1, 0), "{:?}", pod.status);
        let kept: usize = pods::stats(&namespace, agent).await?.contexts.values().sum();
        ensure!(kept == 3, "{agent} remembers {kept} contexts");
    }
    // What is not the image takes a new pod, and that is said.
    change(&namespace, json!({"image": sidecar_image(), "adminPort": 9_001})).await?;
    let resource = says(&namespace, "SidecarsCurrent", "NeedNewPods").await?;
    ensure!(condition(&resource, "Ready").is_some_and(|ready| ready.status == "True"), "the memory is not concerned");
    Ok(())
}

#[tokio::test]
async fn an_image_that_does_not_start_is_taken_back_and_stays_with_the_canary() -> Result<()> {
    let operator = Operator::shared().await?;
    let (_, namespace) = namespace(&operator, "canary", "InPlace").await?;
    for agent in ["a", "b"] {
        pods::start(&namespace, agent).await?;
    }
    change(&namespace, json!({"image": "localhost/context-manager-sidecar:nowhere"})).await?;
    let resource = says(&namespace, "SidecarsCurrent", "UpgradeStopped").await?;
    let said = condition(&resource, "SidecarsCurrent").context("a condition")?.message;
    ensure!(said.contains('a') && said.contains("nowhere"), "{said}");
    for agent in ["a", "b"] {
        let pod = pods::ready(&namespace, agent).await?;
        ensure!(pods::sidecar_image(&pod) == Some(sidecar_image()), "{agent} has {:?}", pods::sidecar_image(&pod));
        let tried = pod.annotations().contains_key(names::UPGRADE);
        ensure!(tried == (agent == "a"), "{agent} was tried: {tried}");
        let kept: usize = pods::stats(&namespace, agent).await?.contexts.values().sum();
        ensure!(kept == 3 && restarts(&pod, "agent")? == 0, "{agent} remembers {kept} contexts");
    }
    let metrics = operator.metrics().await?;
    let line = format!(
        "context_manager_sidecar_upgrade_stopped{{resource=\"memory\",resource_namespace=\"{}\"}} 1",
        namespace.name
    );
    ensure!(metrics.contains(&line), "no {line:?}");
    // The canary goes, and what it showed stays.
    namespace.api::<Pod>().delete("a", &DeleteParams::default().grace_period(0)).await?;
    tokio::time::sleep(2 * RESYNC).await;
    let resource = says(&namespace, "SidecarsCurrent", "UpgradeStopped").await?;
    let failed = resource.status.and_then(|status| status.upgrade?.failed).context("a failure")?;
    ensure!(failed.pods == ["a"] && failed.image.ends_with(":nowhere"), "{failed:?}");
    let spared = pods::ready(&namespace, "b").await?;
    ensure!(!spared.annotations().contains_key(names::UPGRADE), "another pod got the image that failed");
    // A person has it tried again.
    let image = sidecar_image();
    let retry = ["upgrade-sidecars", "memory", "-n", &namespace.name, "--sidecar-image", &image, "--retry"];
    run(&retry).await?.expect(0)?;
    eventually("the second try", UPGRADE, || async {
        let found = namespace.api::<ContextManager>().get("memory").await?;
        let again = found.status.and_then(|status| status.upgrade?.failed).context("no failure")?;
        ensure!(again.at > failed.at && again.pods == ["b"], "{again:?}");
        Ok(())
    })
    .await?;
    // An image that is there is another upgrade.
    change(&namespace, json!({"image": next_sidecar_image()})).await?;
    says(&namespace, "SidecarsCurrent", "UpToDate").await?;
    ensure!(pods::sidecar_image(&pods::ready(&namespace, "b").await?) == Some(next_sidecar_image()));
    Ok(())
}

#[tokio::test]
async fn an_image_that_crashes_some_time_after_its_start_stays_with_the_canaries() -> Result<()> {
    let operator = Operator::shared().await?;
    let (_, namespace) = namespace(&operator, "late-crash", "InPlace").await?;
    let agents = ["a", "b", "c", "d", "e"];
    for agent in agents {
        namespace.make::<Pod>(&pods::agent(agent, pods::STAYING)).await?;
    }
    for agent in agents {
        pods::ready(&namespace, agent).await?;
    }
    let crashing = crashing_sidecar_image();
    change(&namespace, json!({"image": crashing, "upgrade": {"batchPercent": 40, "observe": "30s"}})).await?;
    // It starts, and is ready.
    for canary in &agents[..2] {
        eventually(&format!("the new sidecar of {canary}"), START, || async {
            let pod = namespace.api::<Pod>().get(canary).await?;
            let sidecar = container(&pod, names::CONTAINER).context("a sidecar")?;
            let is_new = pods::sidecar_image(&pod).as_ref() == Some(&crashing);
            ensure!(is_new && sidecar.ready && sidecar.restart_count == 1, "{sidecar:?}");
            Ok::<_, anyhow::Error>(())
        })
        .await?;
    }
    // It crashes in both, and nobody else gets it.
    let resource = says(&namespace, "SidecarsCurrent", "UpgradeStopped").await?;
    for canary in &agents[..2] {
        eventually(&format!("the image before in {canary}"), START, || async {
            let pod = namespace.api::<Pod>().get(canary).await?;
            ensure!(pods::sidecar_image(&pod) == Some(sidecar_image()), "{:?}", pods::sidecar_image(&pod));
            Ok::<_, anyhow::Error>(())
        })
        .await?;
    }
    tokio::time::sleep(2 * RESYNC).await;
    for (place, agent) in agents.iter().enumerate() {
        let pod = pods::ready(&namespace, agent).await?;
        ensure!(pods::sidecar_image(&pod) == Some(sidecar_image()), "{agent} has {:?}", pods::sidecar_image(&pod));
        let tried = pod.annotations().contains_key(names::UPGRADE);
        ensure!(tried == (place < 2), "{agent} was tried: {tried}");
        ensure!(tried == (restarts(&pod, names::CONTAINER)? > 0), "{:?}", pod.status);
        let kept: usize = pods::stats(&namespace, agent).await?.contexts.values().sum();
        ensure!(kept == 3 && restarts(&pod, "agent")? == 0, "{agent} remembers {kept} contexts");
    }
    let said = condition(&resource, "SidecarsCurrent").context("a condition")?;
    ensure!(said.status == "False" && said.message.contains(&format!("{crashing} failed in ")), "{said:?}");
    ensure!(condition(&resource, "Ready").is_some_and(|ready| ready.status == "True"), "the memory is not concerned");
    let resource = says(&namespace, "SidecarsCurrent", "UpgradeStopped").await?;
    let failed = resource.status.and_then(|status| status.upgrade?.failed).context("a failure")?;
    ensure!(failed.image == crashing, "{failed:?}");
    ensure!(!failed.pods.is_empty() && failed.pods.iter().all(|pod| ["a", "b"].contains(&pod.as_str())), "{failed:?}");
    let events = namespace.api::<Event>().list(&ListParams::default()).await?;
    let warned = events.items.iter().filter(|event| event.reason.as_deref() == Some("UpgradeStopped"));
    let notes: Vec<_> = warned.filter_map(|event| event.note.as_deref()).collect();
    // The other one gets its image back before it crashes, if this one crashes sooner.
    let is_named = |canary: &String| notes.iter().any(|note| note.contains(&format!("{canary} (")));
    ensure!(failed.pods.iter().any(is_named), "nothing is said of {:?}: {notes:?}", failed.pods);
    Ok(())
}

#[tokio::test]
async fn the_command_line_asks_for_one_upgrade_and_follows_it_to_its_end() -> Result<()> {
    let operator = Operator::shared().await?;
    let (_, namespace) = namespace(&operator, "asked", "OnRecreate").await?;
    for agent in ["a", "b"] {
        pods::start(&namespace, agent).await?;
    }
    let image = sidecar_image();
    let upgrade = ["upgrade-sidecars", "memory", "-n", &namespace.name, "--sidecar-image", &image];
    let ask = [&upgrade[..], &["--strategy", "in-place", "--wait", "--timeout", "180", "-o", "json"]].concat();
    change(&namespace, json!({"image": next_sidecar_image()})).await?;
    let said = run(&ask).await?.expect(0)?;
    let upgraded = said.json()?;
    ensure!(upgraded[0]["state"] == "UpToDate" && upgraded[0]["outdated"] == 0, "{upgraded}");
    ensure!(said.notes.contains("Upgrading: "), "the steps are told: {said:?}");
    for agent in ["a", "b"] {
        let pod = pods::ready(&namespace, agent).await?;
        ensure!(pods::sidecar_image(&pod) == Some(next_sidecar_image()), "{agent} has {:?}", pods::sidecar_image(&pod));
        ensure!((restarts(&pod, names::CONTAINER)?, restarts(&pod, "agent")?) == (1, 0), "{:?}", pod.status);
    }
    // One that does not start is taken back, and that ends the wait.
    change(&namespace, json!({"image": "localhost/context-manager-sidecar:nowhere"})).await?;
    let stopped = run(&ask).await?.expect(3)?.json()?;
    ensure!(stopped[0]["state"] == "Stopped", "{stopped}");
    ensure!(stopped[0]["message"].as_str().is_some_and(|said| said.contains("nowhere failed in a")), "{stopped}");
    ensure!(stopped[0]["pods"][0]["step"] == "TakenBack" && stopped[0]["pods"][1]["step"] == "Remain", "{stopped}");
    let resource = namespace.resources().get("memory").await?;
    ensure!(resource.data["spec"]["sidecar"]["upgrade"]["strategy"] == "OnRecreate", "the spec is the user's");
    Ok(())
}

/// An agent that stays, as a Deployment.
fn deployment(replicas: i32) -> Value {
    let mut pod = pods::agent("agent", pods::STAYING);
    pod["metadata"] = json!({"labels": {"app": "agent", INJECT: "true"}});
    pod["spec"]["restartPolicy"] = json!("Always");
    pod["spec"]["terminationGracePeriodSeconds"] = json!(3);
    json!({
        "metadata": {"name": "agent"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "agent"}}, "template": pod},
    })
}

async fn pods_of(namespace: &Namespace) -> Result<Vec<Pod>> {
    let mut pods = namespace.api::<Pod>().list(&ListParams::default().labels("app=agent")).await?.items;
    pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
    Ok(pods)
}

async fn ready(namespace: &Namespace, count: usize) -> Result<BTreeSet<String>> {
    eventually(&format!("{count} pods of the Deployment"), START, || async {
        let pods = pods_of(namespace).await?;
        // No budget guards a pod whose agent has not started yet, so the whole pod is meant.
        let ready: BTreeSet<_> = pods.iter().filter(|pod| is_ready(pod)).map(ResourceExt::name_any).collect();
        ensure!(ready.len() == count && pods.len() == count, "{ready:?} of {} pods are ready", pods.len());
        Ok::<_, anyhow::Error>(ready)
    })
    .await
}

#[tokio::test]
async fn pods_are_evicted_within_their_budget_for_what_takes_new_ones() -> Result<()> {
    let operator = Operator::shared().await?;
    let (_, namespace) = namespace(&operator, "restart", "RollingRestart").await?;
    namespace.make::<Deployment>(&deployment(2)).await?;
    let budget = json!({
        "metadata": {"name": "agent"},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "agent"}}},
    });
    namespace.make::<PodDisruptionBudget>(&budget).await?;
    let before = ready(&namespace, 2).await?;
    eventually("the budget's count", START, || async {
        let budget = namespace.api::<PodDisruptionBudget>().get("agent").await?;
        let counts = budget
            .status
            .as_ref()
            .is_some_and(|status| status.current_healthy == Some(2) && status.expected_pods == Some(2));
        ensure!(counts, "{:?}", budget.status);
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    // The API server evicts no pod that has two budgets, and answers 500.
    let mut second = budget.clone();
    second["metadata"]["name"] = json!("again");
    namespace.make::<PodDisruptionBudget>(&second).await?;
    change(&namespace, json!({"adminPort": 9_001})).await?;
    let message =
        |found: &ContextManager| condition(found, "SidecarsCurrent").map(|said| said.message).unwrap_or_default();
    let found = says(&namespace, "SidecarsCurrent", "DisruptionBudget").await?;
    ensure!(message(&found).contains("several PodDisruptionBudgets"), "{}", message(&found));
    ensure!(condition(&found, "Ready").is_some_and(|ready| ready.status == "True"), "one pod holds up the resource");
    namespace.api::<PodDisruptionBudget>().delete("again", &DeleteParams::default()).await?;
    eventually("the budget's own word", START, || async {
        let found = says(&namespace, "SidecarsCurrent", "DisruptionBudget").await?;
        ensure!(message(&found).contains("does not permit"), "{}", message(&found));
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    ensure!(ready(&namespace, 2).await? == before, "a pod went in spite of its budget");
    let permit = Patch::Merge(json!({"spec": {"minAvailable": 1}}));
    namespace.api::<PodDisruptionBudget>().patch("agent", &PatchParams::default(), &permit).await?;
    says(&namespace, "SidecarsCurrent", "UpToDate").await?;
    let after = ready(&namespace, 2).await?;
    ensure!(before.is_disjoint(&after), "{before:?} became {after:?}");
    Ok(())
}

#[tokio::test]
async fn a_pod_that_its_budget_keeps_lets_all_others_go() -> Result<()> {
    let operator = Operator::shared().await?;
    let (_, namespace) = namespace(&operator, "kept", "RollingRestart").await?;
    // By its name it is the first.
    let mut single = deployment(1);
    single["metadata"]["name"] = json!("a-single");
    single["spec"]["selector"] = json!({"matchLabels": {"app": "a-single"}});
    single["spec"]["template"]["metadata"]["labels"] = json!({"app": "a-single", INJECT: "true"});
    namespace.make::<Deployment>(&single).await?;
    let budget = json!({
        "metadata": {"name": "a-single"},
        "spec": {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "a-single"}}},
    });
    namespace.make::<PodDisruptionBudget>(&budget).await?;
    namespace.make::<Deployment>(&deployment(2)).await?;
    let before = ready(&namespace, 2).await?;
    let running = || async {
        let pods = namespace.api::<Pod>().list(&ListParams::default().labels("app=a-single")).await?.items;
        let ready = pods.iter().find(|pod| is_ready(pod)).map(ResourceExt::name_any);
        ready.with_context(|| format!("none of {} pods is ready", pods.len()))
    };
    let kept = eventually("the pod that stays", START, running).await?;
    change(&namespace, json!({"adminPort": 9_001})).await?;
    eventually("the other pods", UPGRADE, || async {
        let after = ready(&namespace, 2).await?;
        ensure!(before.is_disjoint(&after), "{before:?} became {after:?}");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    let found = says(&namespace, "SidecarsCurrent", "DisruptionBudget").await?;
    let said = condition(&found, "SidecarsCurrent").context("a condition")?.message;
    ensure!(said.contains(&format!("the PodDisruptionBudget of {kept} ")), "{said}");
    ensure!(running().await? == kept, "a pod went in spite of its budget");
    namespace.api::<PodDisruptionBudget>().delete("a-single", &DeleteParams::default()).await?;
    says(&namespace, "SidecarsCurrent", "UpToDate").await?;
    // What is up to date are those that stay; the one that goes may still be ready.
    eventually("another pod alone", START, || async {
        ensure!(running().await? != kept, "it is the same pod");
        Ok::<_, anyhow::Error>(())
    })
    .await
}

#[tokio::test]
async fn a_restart_whose_new_pods_are_refused_loses_one_batch_and_goes_on_when_they_come() -> Result<()> {
    let operator = Operator::shared().await?;
    let (client, namespace) = namespace(&operator, "refused", "RollingRestart").await?;
    namespace.make::<Deployment>(&deployment(4)).await?;
    let before = ready(&namespace, 4).await?;
    let quota = json!({"metadata": {"name": "no-more"}, "spec": {"hard": {"pods": "0"}}});
    namespace.make::<ResourceQuota>(&quota).await?;
    eventually("the quota's count", START, || async {
        let quota = namespace.api::<ResourceQuota>().get("no-more").await?;
        ensure!(quota.status.as_ref().is_some_and(|status| status.used.is_some()), "{:?}", quota.status);
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    change(&namespace, json!({"adminPort": 9_001})).await?;
    let found = says(&namespace, "SidecarsCurrent", "UpgradeStopped").await?;
    let said = condition(&found, "SidecarsCurrent").context("a condition")?.message;
    let evicted = found.status.and_then(|status| status.upgrade).context("a memory")?.evicted;
    ensure!(evicted.len() == 1 && said.starts_with(&evicted[0].pod), "{evicted:?}: {said}");
    ensure!(said.contains(&format!("{}/ReplicaSet/agent", namespace.name)) && said.contains("FailedCreate"), "{said}");
    let left = async || -> Result<BTreeSet<String>> {
        Ok(pods_of(&namespace).await?.iter().map(ResourceExt::name_any).collect())
    };
    tokio::time::sleep(5 * RESYNC).await;
    let kept = left().await?;
    ensure!(kept.len() == 3 && kept.is_subset(&before), "{kept:?} of {before:?} are left");
    let events = Api::<Event>::namespaced(client, &namespace.name).list(&ListParams::default()).await?;
    ensure!(events.iter().any(|event| event.reason.as_deref() == Some("UpgradeStopped")), "nobody is told");

    namespace.api::<ResourceQuota>().delete("no-more", &DeleteParams::default()).await?;
    // By itself its controller tries again after a pause that has grown to minutes.
    let sets = namespace.api::<ReplicaSet>();
    let again = Patch::Merge(json!({"metadata": {"annotations": {"again": "1"}}}));
    for set in sets.list(&ListParams::default()).await? {
        sets.patch(&set.name_any(), &PatchParams::default(), &again).await?;
    }
    let found = says(&namespace, "SidecarsCurrent", "UpToDate").await?;
    ensure!(found.status.and_then(|status| status.upgrade).is_some_and(|upgrade| upgrade.evicted.is_empty()));
    let after = ready(&namespace, 4).await?;
    ensure!(before.is_disjoint(&after), "{before:?} became {after:?}");
    Ok(())
}

#[tokio::test]
async fn a_pod_that_was_made_without_the_webhook_is_reported_and_replaced() -> Result<()> {
    let operator = Operator::shared().await?;
    let client = cluster::client().await?;
    // No webhook looks at this namespace yet.
    let namespace = Namespace::create(&client, "missed", &[]).await?;
    pods::make_document(&namespace).await?;
    namespace.make::<Deployment>(&deployment(1)).await?;
    // Nobody would make this one again.
    let mut alone = pods::agent("alone", pods::STAYING);
    alone["metadata"] = json!({"name": "alone", "labels": {INJECT: "true"}});
    namespace.make::<Pod>(&alone).await?;
    let first = eventually("a pod", START, || async {
        pods_of(&namespace).await?.first().map(ResourceExt::name_any).context("there is none")
    })
    .await?;
    operator.webhook.adopt(&client, &namespace).await?;
    provision(&namespace, "memory", json!({})).await?;
    let resource = says(&namespace, "PodsInjected", "SidecarMissing").await?;
    let said = condition(&resource, "PodsInjected").context("a condition")?.message;
    ensure!(said.contains("alone"), "{said}");
    eventually("a pod with a sidecar", START, || async {
        let pods = pods_of(&namespace).await?;
        let pod = pods.iter().find(|pod| pod.name_any() != first).context("the first pod is still there")?;
        ensure!(pods::sidecar_image(pod).is_some(), "{} has no sidecar", pod.name_any());
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    ensure!(namespace.api::<Pod>().get("alone").await?.metadata.deletion_timestamp.is_none(), "it was evicted");
    eventually("one pod without a sidecar", START, || async {
        let resource = namespace.api::<ContextManager>().get("memory").await?;
        let counted = resource.status.and_then(|status| status.pods).context("pods are counted")?;
        ensure!((counted.injected, counted.missing) == (1, 1), "{counted:?}");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    namespace.api::<Pod>().delete("alone", &DeleteParams::default()).await?;
    says(&namespace, "PodsInjected", "AllInjected").await?;
    Ok(())
}
