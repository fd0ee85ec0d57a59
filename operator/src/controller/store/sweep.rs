//! The sweeper: deletes what expired on a server and nobody collects, because the agent has no pod any more.
//!
//! Sidecars collect what expires while they run, and an expired context is never returned, collected or not. So the sweeper only gives
//! back room. It leaves alone what expired a short time ago and what is of an agent that has a pod: their sidecar may still want it, to
//! keep what was used often.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use context_manager_memory::{AgentId, TenantId, Timestamp};
use context_manager_protocol::names;
use context_manager_qdrant::Orphans;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::Store;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::probe::Target;
use crate::controller::{Object, context::Context, metrics::Swept, pages::each_pod, plan::Plan, reconcile::jittered};

/// Contexts of one deletion.
const BATCH: usize = 500;
/// Deletions of one visit of a resource; what is left is for the next one.
const BATCHES: usize = 20;
/// Pause between two deletions, before the jitter.
const PAUSE: Duration = Duration::from_millis(200);
/// Resources at once.
const CONCURRENCY: usize = 4;

/// What the sweeper does, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What it does.
    pub mode: Mode,
    /// Time between two visits of a resource, before the jitter.
    pub interval: Duration,
    /// How long something must be expired.
    pub grace: Duration,
}

/// What the sweeper does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// It deletes.
    Delete,
    /// It counts what it would delete, in the log and a metric.
    DryRun,
    /// Nothing.
    Off,
}

/// Visits all resources again and again, until `stop`.
pub(in crate::controller) async fn run(
    context: Arc<Context>,
    resources: Vec<Store<Object>>,
    settings: Settings,
    stop: CancellationToken,
) {
    if settings.mode == Mode::Off {
        return;
    }
    loop {
        let pause = tokio::time::sleep(jittered(settings.interval, rand::random()));
        if stop.run_until_cancelled(pause).await.is_none() {
            return;
        }
        let all: Vec<_> = resources.iter().flat_map(Store::state).collect();
        let visits = futures::stream::iter(all).map(|object| visit(&context, object, settings));
        let round = visits.buffer_unordered(CONCURRENCY).collect::<Vec<Option<usize>>>();
        let Some(waiting) = stop.run_until_cancelled(round).await else { return };
        context.metrics.sweepable(waiting.into_iter().flatten().sum());
    }
}

/// One visit; how many orphans were counted and left, if that was asked.
async fn visit(context: &Context, object: Arc<Object>, settings: Settings) -> Option<usize> {
    let resource = object.0.as_ref().ok().filter(|resource| resource.metadata.deletion_timestamp.is_none())?;
    if !context.serves(&object).await.is_ok_and(|ours| ours) {
        return None;
    }
    let plan = Plan::of(resource).ok().filter(|plan| !plan.suspended)?;
    plan.storage.server()?;
    // A server that is away or refuses is the reconciliation's business.
    let target = context.probes.well(&plan.owner.uid)?;
    match sweep(context, &plan, &target, settings).await {
        Ok(waiting) => {
            context.metrics.swept(Swept::Done, 0);
            waiting
        }
        Err(error) => {
            debug!(namespace = plan.namespace, name = plan.name, error = format!("{error:#}"), "Sweeping failed");
            context.metrics.swept(Swept::Failed, 0);
            None
        }
    }
}

async fn sweep(context: &Context, plan: &Plan, target: &Target, settings: Settings) -> anyhow::Result<Option<usize>> {
    let mut waiting = None;
    let granted = plan.grants.namespaces.iter().filter(|namespace| context.scope.contains(namespace));
    for namespace in std::iter::once(&plan.namespace).chain(granted) {
        let found = sweep_tenant(context, plan, target, namespace, settings).await?;
        waiting = found.map(|found| found + waiting.unwrap_or_default()).or(waiting);
    }
    Ok(waiting)
}

/// The same for one namespace.
async fn sweep_tenant(
    context: &Context,
    plan: &Plan,
    target: &Target,
    tenant: &str,
    Settings { mode, interval: _, grace }: Settings,
) -> anyhow::Result<Option<usize>> {
    let now = Timestamp::from_millis(jiff::Timestamp::now().as_millisecond());
    let grace = i64::try_from(grace.as_millis()).unwrap_or(i64::MAX);
    let orphans = Orphans {
        tenant: TenantId::new(tenant)?,
        expired_before: Timestamp::from_millis(now.as_millis().saturating_sub(grace)),
        living: living(context, tenant).await?,
    };
    let collection = target.connect()?;
    let (namespace, name) = (&plan.namespace, &plan.name);
    if mode == Mode::DryRun {
        let count = collection.count_orphans(&orphans).await?;
        if count > 0 {
            info!(namespace, name, count, "The sweeper would delete expired contexts of agents without a pod");
        }
        return Ok(Some(count));
    }
    let mut sum = 0;
    for _ in 0..BATCHES {
        let deleted = collection.delete_orphans(&orphans, BATCH).await?;
        context.metrics.swept(Swept::Batch, deleted);
        sum += deleted;
        if deleted < BATCH {
            break;
        }
        tokio::time::sleep(jittered(PAUSE, rand::random())).await;
    }
    if sum > 0 {
        info!(namespace, name, count = sum, "Deleted expired contexts of agents without a pod");
    }
    Ok(None)
}

/// Agents that have a pod in the namespace, of whichever resource: resources may share a collection.
async fn living(context: &Context, namespace: &str) -> anyhow::Result<Vec<AgentId>> {
    let mut agents = BTreeSet::new();
    each_pod(&context.client, namespace, names::INJECTED, |pod| agents.extend(agent(pod))).await?;
    Ok(agents.into_iter().collect())
}

/// The agent of a pod's sidecar, as the webhook told it.
fn agent(pod: &Pod) -> Option<AgentId> {
    let spec = pod.spec.as_ref()?;
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let sidecar = containers.into_iter().find(|container| container.name == names::CONTAINER)?;
    let agent = sidecar.env.iter().flatten().find(|variable| variable.name == names::ENV_AGENT)?;
    AgentId::new(agent.value.clone()?).ok()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_agent_of_a_pod_is_what_its_sidecar_was_told() {
        let pod = |name: &str| -> Pod {
            let sidecar = json!({"name": name, "env": [{"name": "CONTEXT_MANAGER_AGENT", "value": "researcher"}]});
            serde_json::from_value(json!({"spec": {"initContainers": [sidecar], "containers": []}})).unwrap()
        };
        assert_eq!(agent(&pod("context-manager")), Some(AgentId::new("researcher").unwrap()));
        assert_eq!(agent(&pod("another")), None);
        assert_eq!(agent(&Pod::default()), None);
    }
}
