//! What becomes of injected pods next to everything else that decides about pods: other containers' ports, limit ranges,
//! quotas, generated names, init containers, ephemeral containers; on a real API server.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use context_manager_protocol::names;
use context_manager_tests::{
    cluster::{self, Namespace, eventually, refusal},
    objects::{annotated, asking},
    webhook::Webhook,
};
use k8s_openapi::api::core::v1::{LimitRange, Pod, ResourceQuota};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);

/// A namespace with one resource, and the webhook that looks at it.
async fn namespace(what: &str) -> Result<(std::sync::Arc<Webhook>, Namespace)> {
    let webhook = Webhook::shared().await?;
    let client = cluster::client().await?;
    let namespace = webhook.namespace(&client, what, &[]).await?;
    namespace.make_resource("memory", json!({})).await?;
    Ok((webhook, namespace))
}

async fn tried(namespace: &Namespace, pod: &Value) -> Result<Value> {
    Ok(json!(namespace.try_pod(pod).await?))
}

/// The value of an environment variable of a container.
fn variable<'a>(container: &'a Value, name: &str) -> Result<&'a Value> {
    let entries = container["env"].as_array().map_or(&[][..], Vec::as_slice);
    let entry = entries.iter().find(|entry| entry["name"] == name);
    Ok(&entry.with_context(|| format!("no {name} in {container}"))?["value"])
}

#[tokio::test]
async fn a_port_that_the_agent_has_moves_the_sidecar_and_what_points_at_it() -> Result<()> {
    let (_webhook, namespace) = namespace("ports").await?;
    let mut wanted = asking("asks");
    wanted["spec"]["containers"][0]["ports"] = json!([{"containerPort": 7419}, {"containerPort": 7420}]);
    let found = tried(&namespace, &wanted).await?;
    let (sidecar, agent) = (&found["spec"]["initContainers"][0], &found["spec"]["containers"][0]);
    ensure!(variable(agent, names::ENV_URL)? == "http://127.0.0.1:7421", "{agent}");
    ensure!(variable(sidecar, names::ENV_PROTOCOL_PORT)? == "7421", "{sidecar}");
    ensure!(variable(sidecar, names::ENV_ADMIN_PORT)? == "7422", "{sidecar}");
    ensure!(sidecar["startupProbe"]["httpGet"]["port"] == 7422, "{sidecar}");
    ensure!(sidecar["ports"][0]["containerPort"] == 7422, "{sidecar}");
    ensure!(found["metadata"]["annotations"][names::INJECTED_PORTS] == "protocol=7421,admin=7422", "{found}");
    let demanded = annotated(wanted, names::PROTOCOL_PORT, "7419");
    let said = refusal(namespace.try_pod(&demanded).await)?;
    ensure!(said.contains("\"agent\" uses port 7419") && said.contains(names::PROTOCOL_PORT), "{said}");
    let free = annotated(demanded, names::PROTOCOL_PORT, "9000");
    let found = tried(&namespace, &free).await?;
    ensure!(variable(&found["spec"]["containers"][0], names::ENV_URL)? == "http://127.0.0.1:9000", "{found}");
    Ok(())
}

/// The agent's own container within all bounds of these tests, so that only the sidecar can break them.
fn modest(name: &str) -> Value {
    let mut pod = asking(name);
    let amounts = json!({"cpu": "100m", "memory": "64Mi"});
    pod["spec"]["containers"][0]["resources"] = json!({"requests": amounts, "limits": amounts});
    pod
}

/// Waits until the API server, which reads them through a cache, refuses a pod by a bound that came after it.
async fn refused(namespace: &Namespace, pod: &Value) -> Result<String> {
    eventually("the refusal", PATIENCE, || async { refusal(namespace.try_pod(pod).await) }).await
}

#[tokio::test]
async fn a_limit_range_refuses_the_defaults_by_name_of_the_bound_and_the_annotations_fit_them() -> Result<()> {
    let (_webhook, namespace) = namespace("range").await?;
    let bounds = json!({"type": "Container", "max": {"memory": "128Mi"}, "min": {"cpu": "50m"},
        "maxLimitRequestRatio": {"memory": "2"}});
    namespace.make::<LimitRange>(&json!({"metadata": {"name": "bounds"}, "spec": {"limits": [bounds]}})).await?;
    let said = refused(&namespace, &modest("asks")).await?;
    for part in [
        "minimum cpu usage per Container is 50m, but request is 10m",
        "maximum memory usage per Container is 128Mi, but limit is 256Mi",
        "memory max limit to request ratio per Container is 2",
    ] {
        ensure!(said.contains(part), "{said}");
    }
    let mut fitting = modest("asks");
    for (key, value) in [
        (names::SIDECAR_CPU_REQUEST, "50m"),
        (names::SIDECAR_MEMORY_REQUEST, "64Mi"),
        (names::SIDECAR_MEMORY_LIMIT, "128Mi"),
    ] {
        fitting = annotated(fitting, key, value);
    }
    let found = tried(&namespace, &fitting).await?;
    let expected = json!({"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}});
    ensure!(found["spec"]["initContainers"][0]["resources"] == expected, "{}", found["spec"]["initContainers"][0]);
    Ok(())
}

#[tokio::test]
async fn a_quota_on_cpu_limits_names_the_sidecar_and_an_annotation_or_a_limit_range_gives_it_one() -> Result<()> {
    let (_webhook, namespace) = namespace("quota").await?;
    let hard = json!({"limits.cpu": "2", "limits.memory": "2Gi"});
    namespace.make::<ResourceQuota>(&json!({"metadata": {"name": "all"}, "spec": {"hard": hard}})).await?;
    let said = eventually("the quota's refusal", PATIENCE, || async {
        let said = refusal(namespace.try_pod(&modest("asks")).await)?;
        // Before its first count a quota refuses all pods alike.
        ensure!(said.contains("must specify"), "{said}");
        Ok(said)
    })
    .await?;
    ensure!(said.contains("limits.cpu for: context-manager"), "{said}");
    let limited = annotated(modest("asks"), names::SIDECAR_CPU_LIMIT, "200m");
    let found = tried(&namespace, &limited).await?;
    ensure!(found["spec"]["initContainers"][0]["resources"]["limits"]["cpu"] == "200m", "{found}");
    // What a limit range gives to containers that say nothing, it gives to the sidecar, too.
    let default = json!({"type": "Container", "default": {"cpu": "300m"}});
    namespace.make::<LimitRange>(&json!({"metadata": {"name": "default"}, "spec": {"limits": [default]}})).await?;
    let silent = modest("asks");
    let found = eventually("the default", PATIENCE, || tried(&namespace, &silent)).await?;
    let resources = &found["spec"]["initContainers"][0]["resources"];
    ensure!(resources["limits"] == json!({"cpu": "300m", "memory": "256Mi"}), "{resources}");
    ensure!(resources["requests"] == json!({"cpu": "10m", "memory": "32Mi"}), "{resources}");
    Ok(())
}

#[tokio::test]
async fn a_pod_with_a_generated_name_is_its_prefix_to_the_sidecar() -> Result<()> {
    let (_webhook, namespace) = namespace("generated").await?;
    let mut wanted = asking("unused");
    wanted["metadata"] = json!({"generateName": "crew-", "annotations": wanted["metadata"]["annotations"]});
    let found = json!(namespace.make::<Pod>(&wanted).await?);
    let name = found["metadata"]["name"].as_str().context("a name")?;
    ensure!(name.starts_with("crew-") && name.len() > 5, "{name}");
    ensure!(variable(&found["spec"]["initContainers"][0], names::ENV_AGENT)? == "crew", "{found}");
    Ok(())
}

#[tokio::test]
async fn the_sidecar_stands_before_the_pods_own_init_containers_and_native_sidecars() -> Result<()> {
    let (_webhook, namespace) = namespace("init").await?;
    let mut wanted = annotated(asking("asks"), names::CONTAINERS, "agent,prepare");
    let prepare = json!({"name": "prepare", "image": "localhost/agent:1"});
    wanted["spec"]["initContainers"] =
        json!([{"name": "proxy", "image": "localhost/agent:1", "restartPolicy": "Always"}, prepare]);
    let found = tried(&namespace, &wanted).await?;
    let list = found["spec"]["initContainers"].as_array().context("a list")?;
    let order: Vec<_> = list.iter().map(|container| &container["name"]).collect();
    ensure!(order == ["context-manager", "proxy", "prepare"], "{order:?}");
    ensure!(list[1]["env"].is_null(), "{}", list[1]);
    ensure!(variable(&list[2], names::ENV_URL)? == "http://127.0.0.1:7419");
    Ok(())
}

#[tokio::test]
async fn an_ephemeral_container_comes_into_an_injected_pod_and_changes_nothing_else() -> Result<()> {
    let (_webhook, namespace) = namespace("debug").await?;
    let before = json!(namespace.make::<Pod>(&asking("asks")).await?);
    let debugger = json!({"name": "debugger", "image": "localhost/agent:1", "targetContainerName": "agent",
        "securityContext": before["spec"]["containers"][0]["securityContext"]});
    let patch = Patch::Strategic(json!({"spec": {"ephemeralContainers": [debugger]}}));
    let api = namespace.api::<Pod>();
    let after = json!(api.patch_subresource("ephemeralcontainers", "asks", &PatchParams::default(), &patch).await?);
    ensure!(after["spec"]["ephemeralContainers"][0]["name"] == "debugger", "{after}");
    for list in ["initContainers", "containers", "volumes"] {
        ensure!(after["spec"][list] == before["spec"][list], "{list} changed: {after}");
    }
    ensure!(after["metadata"]["annotations"] == before["metadata"]["annotations"], "{after}");
    Ok(())
}
