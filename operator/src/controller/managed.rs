//! The Qdrant cluster that the operator runs for a resource: its Secret, configuration, Services, disruption budget, network policy and
//! `StatefulSet`, and how far it is.
//!
//! The collection is made when all nodes are there, so that its shards lie on all of them. From then on the cluster counts as formed,
//! which its `ConfigMap` remembers, and the store is looked at like any other server.

mod balance;
mod build;
mod child;
mod client;
mod config;
mod nodes;
mod off;
mod pod;
mod restoration;
mod rollout;
mod scale;
mod secret;
mod snapshots;
mod view;

use std::{sync::Arc, time::Duration};

use context_manager_crds::ContextManagerStatus;
use context_manager_protocol::names;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, Service},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::Api;

pub(super) use self::snapshots::{Restores, Runs as Snapshots};
use self::{
    build::Builder, child::bring, client::Client, restoration::Restoration, rollout::Found as Said, secret::Lost,
};
use super::{
    error::{Error, call},
    plan::{ManagedPlan, Plan},
    reconcile::Context,
    status::{Good, Trouble},
    store::{self, Found},
};

/// Pause before nodes that are missing are counted again; a change of the `StatefulSet` is noticed at once.
const WAITING: Duration = Duration::from_secs(15);
/// Pause before a set that was written is looked at.
const SOON: Duration = Duration::from_secs(1);
/// The conditions of what is done beside.
const CURRENT: &str = "StoreCurrent";
const BALANCED: &str = "StoreBalanced";
const SNAPSHOTTED: &str = "StoreSnapshotted";

/// Brings the cluster to what it should be, and looks at it.
pub(super) async fn ensure(
    context: &Context,
    plan: &Plan,
    wanted: &ManagedPlan,
    current: Option<&ContextManagerStatus>,
) -> Result<Found, Error> {
    let settled = |trouble| Ok(Found::of(Err(trouble), None));
    if !context.managed_qdrant {
        return Box::pin(off::ensure(context, plan, wanted, current)).await;
    }
    let material = match secret::ensure(context, plan, wanted, Lost::Replace).await? {
        Ok(material) => material,
        Err(trouble) => return settled(trouble),
    };
    let client = Client::new(&material.credentials, context.fence.clone()).map(Arc::new);
    let nodes = match Box::pin(objects(context, plan, wanted, &material.fingerprint, client.as_deref())).await? {
        Ok(nodes) => nodes,
        Err(trouble) => return settled(trouble),
    };
    let steps = Box::pin(steps(context, plan, wanted, &nodes, client.as_deref())).await?;
    if let Some(restoration) = nodes.restoration.as_ref().filter(|restoration| restoration.done.is_none()) {
        let ways = (client.as_ref(), steps.as_slice());
        let found = restoration::ensure(context, plan, wanted, restoration, &nodes, ways).await?;
        return Ok(found.with(steps));
    }
    if !nodes.formed || nodes.ready == 0 {
        if let Err(trouble) = store::publish(context, plan, &wanted.qdrant, &material.credentials).await? {
            return settled(trouble);
        }
        snapshots::expect(context, plan, wanted, current);
        let found = Found::of(Err(nodes.trouble(plan)), Some(WAITING)).with(steps);
        return Ok(Found { snapshots: current.and_then(|current| current.snapshots.clone()), ..found });
    }
    let found = store::follow(context, plan, &wanted.qdrant, &material.credentials, current).await?;
    let mut found = found.with(steps);
    if let Some(client) = &client {
        let held = found.holds_snapshots();
        let said = Box::pin(snapshots::ensure(context, plan, wanted, client, held, current)).await?;
        found = found.snapshotted(said);
    }
    if let Ok(Good(reason, message)) = &mut found.finding
        && nodes.ready < nodes.wanted
    {
        *reason = store::NODES_MISSING;
        *message = format!("{} of {} nodes are ready; {message}", nodes.ready, nodes.wanted);
    }
    Ok(found)
}

impl Found {
    /// What keeps a snapshot from being begun: a node that is restarted would break it off.
    fn holds_snapshots(&self) -> Option<&Trouble> {
        self.beside.iter().find(|(kind, _)| *kind == CURRENT).and_then(|(_, said)| said.as_ref().err())
    }

    /// The same with what is said of snapshots.
    fn snapshotted(mut self, said: Option<snapshots::Said>) -> Self {
        if let Some(snapshots::Said { finding, next, status }) = said {
            self.beside.push((SNAPSHOTTED, finding));
            self.step = self.step.into_iter().chain(next).min();
            self.snapshots = status;
        }
        self
    }

    /// The same with what is said of steps beside.
    fn with(self, steps: Vec<(&'static str, Said)>) -> Self {
        let Self { finding, next, mut beside, mut step, snapshots } = self;
        for (kind, Said { finding, next }) in steps {
            beside.push((kind, finding));
            step = step.into_iter().chain(next).min();
        }
        Self { finding, next, beside, step, snapshots }
    }
}

/// Restarts the next node that has not the newest template, or moves the next replica when all have it. Before the cluster is formed there
/// is something to say only while nodes are restarted.
async fn steps(
    context: &Context,
    plan: &Plan,
    wanted: &ManagedPlan,
    nodes: &Nodes,
    client: Option<&Client>,
) -> Result<Vec<(&'static str, Said)>, Error> {
    let Some(client) = client else { return Ok(Vec::new()) };
    let Some(live) = &nodes.live else {
        let changed = || Trouble::passing("Updating", "the StatefulSet was changed just now");
        let said = |kind| (kind, Said { finding: Err(changed()), next: Some(SOON) });
        let kinds: &[_] = if wanted.nodes > 1 { &[CURRENT, BALANCED] } else { &[CURRENT] };
        return Ok(kinds.iter().filter(|_| nodes.formed).map(|kind| said(*kind)).collect());
    };
    let pods = nodes::fetch(context, plan).await?;
    let restarts = rollout::ensure(context, plan, live, &pods, client, nodes.formed).await?;
    if !nodes.formed {
        return Ok(if restarts.next.is_some() { vec![(CURRENT, restarts)] } else { Vec::new() });
    }
    let balance = match (&nodes.held, restarts.finding.is_ok()) {
        (Some(trouble), _) => Some(Said { finding: Err(trouble.clone()), next: Some(WAITING) }),
        (None, true) => scale::ensure(context, plan, wanted, live, &pods, client).await,
        (None, false) if wanted.nodes == 1 && live.spec.replicas == Some(1) => None,
        (None, false) => {
            let trouble = Trouble::passing("Restarting", "replicas are moved when all nodes have the newest template");
            Some(Said { finding: Err(trouble), next: None })
        }
    };
    Ok([(CURRENT, Some(restarts)), (BALANCED, balance)]
        .into_iter()
        .filter_map(|(kind, said)| Some((kind, said?)))
        .collect())
}

/// How far the nodes are.
struct Nodes {
    /// The set as it was when it was looked at, unless it was written since.
    live: Option<StatefulSet>,
    /// Why there are not as many pods as the resource wants, if somebody has to do something about it.
    held: Option<Trouble>,
    wanted: i32,
    ready: i32,
    /// Whether all of them have been ready at once.
    formed: bool,
    /// What is or was restored, if anything.
    restoration: Option<Restoration>,
}

impl Nodes {
    fn of(live: Option<&StatefulSet>, remembered: bool, wanted: &ManagedPlan) -> Self {
        let ready = live.and_then(|live| live.status.as_ref()?.ready_replicas).unwrap_or_default();
        Self {
            live: live.cloned(),
            held: None,
            wanted: wanted.nodes,
            ready,
            formed: remembered || ready >= wanted.nodes,
            restoration: None,
        }
    }

    fn trouble(&self, plan: &Plan) -> Trouble {
        let Self { live: _, held: _, wanted, ready, formed, restoration: _ } = self;
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
    client: Option<&Client>,
) -> Result<Result<Nodes, Trouble>, Error> {
    let name = names::qdrant(&plan.name);
    let namespace = &plan.namespace;
    let cluster = || context.client.clone();
    let sets = Api::<StatefulSet>::namespaced(cluster(), namespace);
    let maps = Api::<ConfigMap>::namespaced(cluster(), namespace);
    let live_set = call("read the managed Qdrant's StatefulSet", sets.get_opt(&name)).await?;
    let live_map = call("read the managed Qdrant's ConfigMap", maps.get_opt(&name)).await?;
    let nodes = Nodes::of(live_set.as_ref(), live_map.as_ref().is_some_and(build::is_formed), wanted);

    let restoration = match Restoration::of(wanted, live_map.as_ref()) {
        Some(restoration) => Some(restoration.followed(context, plan).await),
        None => None,
    };

    let builder = Builder::new(plan, wanted, &context.namespace).restoring(restoration.as_ref());
    let services = Api::<Service>::namespaced(cluster(), namespace);
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
    let budgets = Api::<PodDisruptionBudget>::namespaced(cluster(), namespace);
    let budget = call("read the managed Qdrant's PodDisruptionBudget", budgets.get_opt(&name)).await?;
    let policies = Api::<NetworkPolicy>::namespaced(cluster(), namespace);
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
    let credentials = match snapshots::storage(context, plan, wanted).await? {
        Ok(credentials) => credentials,
        Err(trouble) => return Ok(Err(trouble)),
    };
    let (pods, held) = match (&live_set, client) {
        (Some(live), Some(client)) => scale::pods(context, plan, wanted, live, client, nodes.formed).await?,
        (None, _) | (_, None) => (wanted.nodes, None),
    };
    // Last: what its pods mount is there.
    let set = builder.stateful_set(&format!("{fingerprint}{credentials}"), pods);
    let written = bring(context, plan, &sets, live_set, set, "write the managed Qdrant's StatefulSet").await?;
    Ok(written.map(|is_written| Nodes { live: nodes.live.filter(|_| !is_written), held, restoration, ..nodes }))
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
