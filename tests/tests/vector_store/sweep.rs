//! The sweeper: what dead pods left.

use anyhow::{Context as _, Result, ensure};
use context_manager_protocol::names;
use context_manager_tests::{
    cluster::eventually,
    operator::{Operator, PATIENCE, RESYNC, provision},
};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::server::{Qdrant, count, namespace, store, with_key};

const HOUR: i64 = 3_600_000;

#[tokio::test(flavor = "multi_thread")]
async fn what_expired_of_agents_without_a_pod_is_swept_and_nothing_else() -> Result<()> {
    let (operator, server) = (Operator::shared().await?, Qdrant::start(with_key).await?);
    let (namespace, guest) = (namespace(&operator, "sweep").await?, namespace(&operator, "sweep-guest").await?);
    let sidecar = json!({
        "name": names::CONTAINER, "image": "sidecar:1", "restartPolicy": "Always",
        "env": [{"name": names::ENV_AGENT, "value": "living"}],
    });
    let pod = json!({
        "metadata": {"name": "agent", "labels": {names::INJECTED: "memory"}},
        "spec": {
            "schedulerName": "nobody", "initContainers": [sidecar], "containers": [{"name": "agent", "image": "agent:1"}],
        },
    });
    let _: Pod = namespace.make(&pod).await?;
    let collection = server.named("swept")?;
    collection.open().await?;
    for (tenant, agent, ago) in [
        (namespace.name.as_str(), "dead", Some(HOUR)),
        (namespace.name.as_str(), "dead", Some(HOUR)),
        (namespace.name.as_str(), "dead", None),
        (namespace.name.as_str(), "dead", Some(-HOUR)),
        (namespace.name.as_str(), "living", Some(HOUR)),
        (guest.name.as_str(), "dead", Some(HOUR)),
        ("elsewhere", "dead", Some(HOUR)),
    ] {
        store(&collection, tenant, agent, ago).await?;
    }
    let mut spec = server.spec(json!({"collection": "swept"}));
    spec["allowedNamespaces"] = json!([guest.name]);
    provision(&namespace, "memory", spec).await?;
    eventually("the sweep", PATIENCE, || async {
        let left = count(&collection).await?;
        ensure!(left == 4, "{left} are there");
        Ok(())
    })
    .await?;
    tokio::time::sleep(2 * RESYNC).await;
    ensure!(count(&collection).await? == 4, "more than what nobody collects is gone");
    let metrics = operator.metrics().await?;
    let line = metrics.lines().find_map(|line| line.strip_prefix("context_manager_swept_contexts_total "));
    ensure!(line.context("deletions are counted")?.parse::<f64>()? >= 3.0);
    Ok(())
}
