//! The Qdrant cluster that the operator runs for a resource: its Secret, configuration, Services, disruption budget, network policy and
//! `StatefulSet`, and how far it is.
//!
//! The collection is made when all nodes are there, so that its shards lie on all of them. From then on the cluster counts as formed,
//! which its `ConfigMap` remembers, and the store is looked at like any other server.

mod build;
mod child;
mod client;
mod config;
mod nodes;
mod pod;
mod rollout;
mod secret;
mod view;

use std::time::Duration;

use context_manager_crds::ContextManagerStatus;
use context_manager_protocol::names;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, Service},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::Api;

use self::{build::Builder, child::bring, client::Client};
use super::{
    error::{Error, call},
    plan::{ManagedPlan, Plan},
    reconcile::Context,
    status::{Good, Trouble},
    store::{self, Found},
};

/// Pause before nodes that are missing are counted again; a change of the `StatefulSet` is noticed at once.
const WAITING: Duration = Duration::from_secs(15);

/// Brings the cluster to what it should be, and looks at it.
pub(super) async fn ensure(
    context: &Context,
    plan: &Plan,
    wanted: &ManagedPlan,
    current: Option<&ContextManagerStatus>,
) -> Result<Found, Error> {
    let settled = |trouble| Ok(Found::of(Err(trouble), None));
    let material = match secret::ensure(context, plan, wanted).await? {
        Ok(material) => material,
        Err(trouble) => return settled(trouble),
    };
    let nodes = match Box::pin(objects(context, plan, wanted, &material.fingerprint)).await? {
        Ok(nodes) => nodes,
        Err(trouble) => return settled(trouble),
    };
    let restarts = restarts(context, plan, &nodes, &material.credentials).await?;
    if !nodes.formed || nodes.ready == 0 {
        if let Err(trouble) = store::publish(context, plan, &wanted.qdrant, &material.credentials).await? {
            return settled(trouble);
        }
        return Ok(Found::of(Err(nodes.trouble(plan)), Some(WAITING)).with(restarts));
    }
    let found = store::follow(context, plan, &wanted.qdrant, &material.credentials, current).await?;
    let mut found = found.with(restarts);
    if let Ok(Good(reason, message)) = &mut found.finding
        && nodes.ready < nodes.wanted
    {
        *reason = store::NODES_MISSING;
        *message = format!("{} of {} nodes are ready; {message}", nodes.ready, nodes.wanted);
    }
    Ok(found)
}

impl Found {
    /// The same with how far restarts are.
    fn with(self, restarts: Option<rollout::Found>) -> Self {
        let Some(rollout::Found { finding, next }) = restarts else { return self };
        let mut beside = self.beside;
        beside.push(("StoreCurrent", finding));
        Self { beside, step: self.step.into_iter().chain(next).min(), ..self }
    }
}

/// Restarts the next node that has not the newest template. Before the cluster is formed there is something to say only while that lasts.
async fn restarts(
    context: &Context,
    plan: &Plan,
    nodes: &Nodes,
    credentials: &store::Credentials,
) -> Result<Option<rollout::Found>, Error> {
    let (Some(live), Some(client)) = (&nodes.live, Client::new(credentials)) else { return Ok(None) };
    let found = rollout::ensure(context, plan, live, &client, nodes.formed).await?;
    Ok(Some(found).filter(|found| nodes.formed || found.next.is_some()))
}

/// How far the nodes are.
struct Nodes {
    /// The set as it was when it was looked at.
    live: Option<StatefulSet>,
    wanted: i32,
    ready: i32,
    /// Whether all of them have been ready at once.
    formed: bool,
}

impl Nodes {
    fn of(live: Option<&StatefulSet>, remembered: bool, wanted: &ManagedPlan) -> Self {
        let ready = live.and_then(|live| live.status.as_ref()?.ready_replicas).unwrap_or_default();
        Self { live: live.cloned(), wanted: wanted.nodes, ready, formed: remembered || ready >= wanted.nodes }
    }

    fn trouble(&self, plan: &Plan) -> Trouble {
        let Self { live: _, wanted, ready, formed } = self;
        let reason = if *formed { "StoreUnreachable" } else { "Provisioning" };
        let describe =
            format!("kubectl describe pods -n {} -l {}={}", plan.namespace, super::build::RESOURCE, plan.name);
        Trouble::passing(
            reason,
            format!("{ready} of {wanted} nodes of the managed Qdrant are ready; what they wait for: {describe}"),
        )
    }
}

/// Brings all objects but the Secret to what they should be.
async fn objects(
    context: &Context,
    plan: &Plan,
    wanted: &ManagedPlan,
    fingerprint: &str,
) -> Result<Result<Nodes, Trouble>, Error> {
    let name = names::qdrant(&plan.name);
    let namespace = &plan.namespace;
    let client = || context.client.clone();
    let sets = Api::<StatefulSet>::namespaced(client(), namespace);
    let maps = Api::<ConfigMap>::namespaced(client(), namespace);
    let live_set = call("read the managed Qdrant's StatefulSet", sets.get_opt(&name)).await?;
    let live_map = call("read the managed Qdrant's ConfigMap", maps.get_opt(&name)).await?;
    let nodes = Nodes::of(live_set.as_ref(), live_map.as_ref().is_some_and(build::is_formed), wanted);

    let builder = Builder::new(plan, wanted, &context.namespace);
    let services = Api::<Service>::namespaced(client(), namespace);
    for desired in [builder.peers(), builder.service()] {
        let name = desired.metadata.name.clone().unwrap_or_default();
        let live = call("read the managed Qdrant's Service", services.get_opt(&name)).await?;
        if let Err(trouble) =
            bring(context, plan, &services, live, desired, "write the managed Qdrant's Service").await?
        {
            return Ok(Err(trouble));
        }
    }
    let map = builder.config_map(nodes.formed);
    let budgets = Api::<PodDisruptionBudget>::namespaced(client(), namespace);
    let budget = call("read the managed Qdrant's PodDisruptionBudget", budgets.get_opt(&name)).await?;
    let policies = Api::<NetworkPolicy>::namespaced(client(), namespace);
    let policy = call("read the managed Qdrant's NetworkPolicy", policies.get_opt(&name)).await?;
    let writing = "write the managed Qdrant's PodDisruptionBudget";
    let results = [
        bring(context, plan, &maps, live_map, map, "write the managed Qdrant's ConfigMap").await?,
        bring(context, plan, &budgets, budget, builder.budget(), writing).await?,
        bring(context, plan, &policies, policy, builder.policy(), "write the managed Qdrant's NetworkPolicy").await?,
    ];
    if let Some(trouble) = results.into_iter().find_map(Result::err) {
        return Ok(Err(trouble));
    }
    // Last: what its pods mount is there.
    let set = builder.stateful_set(fingerprint);
    let written = bring(context, plan, &sets, live_set, set, "write the managed Qdrant's StatefulSet").await?;
    Ok(written.map(|is_written| Nodes { live: nodes.live.filter(|_| !is_written), ..nodes }))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::controller::plan::{StoragePlan, tests::resource};

    #[test]
    fn a_cluster_is_formed_once_all_its_nodes_have_been_ready() {
        let plan = Plan::of(&resource(&json!({"vectorStore": {"managed": {"replicas": 3}}}))).unwrap();
        let StoragePlan::Managed(wanted) = &plan.storage else { unreachable!("the spec has it") };
        let with = |ready: i32| -> StatefulSet {
            serde_json::from_value(json!({"status": {"replicas": 3, "readyReplicas": ready}})).unwrap()
        };
        assert!(!Nodes::of(None, false, wanted).formed);
        let forming = Nodes::of(Some(&with(2)), false, wanted);
        assert!(!forming.formed);
        let said = forming.trouble(&plan);
        assert_eq!(said.reason, "Provisioning");
        assert!(said.message.starts_with("2 of 3 nodes"), "{}", said.message);
        assert!(Nodes::of(Some(&with(3)), false, wanted).formed);
        assert_eq!(Nodes::of(Some(&with(0)), true, wanted).trouble(&plan).reason, "StoreUnreachable");
    }
}
