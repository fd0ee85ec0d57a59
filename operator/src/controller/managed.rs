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
    build::Builder,
    child::bring,
    client::Client,
    restoration::Restoration,
    rollout::Progress,
    secret::{Lost, Material},
};
use super::{
    context::Context,
    error::{Error, call},
    plan::{ManagedPlan, Plan},
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
    let found = if context.managed_qdrant {
        Box::pin(run(context, plan, wanted, current)).await?
    } else {
        Box::pin(off::ensure(context, plan, wanted, current)).await?
    };
    let current = found.beside.iter().find(|(kind, _)| *kind == CURRENT);
    context.metrics.managed.outdated(plan, current.map(|(_, said)| said.is_err()));
    Ok(found)
}

/// The same where the operator has the rights to it.
async fn run(
    context: &Context,
    plan: &Plan,
    wanted: &ManagedPlan,
    current: Option<&ContextManagerStatus>,
) -> Result<Found, Error> {
    let material = match secret::ensure(context, plan, wanted, Lost::Replace).await? {
        Ok(material) => material,
        Err(trouble) => return Ok(Found::of(Err(trouble), None)),
    };
    let found = Box::pin(cluster(context, plan, wanted, &material, current)).await?;
    Ok(Found { certificate: material.certificate, ..found })
}

/// The same once there is what the nodes prove themselves by.
async fn cluster(
    context: &Context,
    plan: &Plan,
    wanted: &ManagedPlan,
    material: &Material,
    current: Option<&ContextManagerStatus>,
) -> Result<Found, Error> {
    let client = Client::new(&material.credentials, context.fence.clone()).map(Arc::new);
    let nodes = match Box::pin(objects(context, plan, wanted, &material.fingerprint, client.as_deref())).await? {
        Ok(nodes) => nodes,
        Err(unmade) => return Box::pin(as_it_is(context, plan, wanted, &material.credentials, unmade, current)).await,
    };
    let steps = Box::pin(steps(context, plan, wanted, &nodes, client.as_deref())).await?;
    if let Some(restoration) = nodes.restoration.as_ref().filter(|restoration| restoration.is_open()) {
        let ways = (client.as_ref(), steps.as_slice());
        let found = restoration::ensure(context, plan, wanted, restoration, &nodes, ways).await?;
        return Ok(found.with(steps));
    }
    if !nodes.formed || nodes.ready == 0 {
        if let Err(trouble) = store::publish(context, plan, &wanted.qdrant, &material.credentials).await? {
            return Ok(Found::of(Err(trouble), None));
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

/// Why the objects are not what they should be.
struct Unmade {
    trouble: Trouble,
    /// The conditions that say so beside that of a store that can be used.
    kinds: &'static [&'static str],
}

impl From<Trouble> for Unmade {
    fn from(trouble: Trouble) -> Self {
        Self { trouble, kinds: &[CURRENT] }
    }
}

/// Follows a cluster whose nodes are not changed now. Sidecars that use it go on: what they prove themselves by ends by itself, and is renewed.
async fn as_it_is(
    context: &Context,
    plan: &Plan,
    wanted: &ManagedPlan,
    credentials: &store::Credentials,
    Unmade { trouble, kinds }: Unmade,
    current: Option<&ContextManagerStatus>,
) -> Result<Found, Error> {
    if !off::is_in_use(context, plan, wanted).await? {
        return Ok(Found::of(Err(trouble), None));
    }
    snapshots::expect(context, plan, wanted, current);
    let mut found = store::follow(context, plan, &wanted.qdrant, credentials, current).await?;
    found.beside.extend(kinds.iter().map(|kind| (*kind, Err(trouble.clone()))));
    Ok(Found { snapshots: current.and_then(|current| current.snapshots.clone()), ..found })
}

impl Found {
    /// What keeps a snapshot from being begun: a node that is restarted would break it off, and a replica that is on its way may be gone from
    /// where it was at the beginning.
    fn holds_snapshots(&self) -> Option<&Trouble> {
        self.beside.iter().find_map(|(kind, said)| {
            let trouble = said.as_ref().err()?;
            let holds = match *kind {
                CURRENT => true,
                BALANCED => scale::ON_THE_WAY.contains(&trouble.reason),
                _ => false,
            };
            holds.then_some(trouble)
        })
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
    fn with(self, steps: Vec<(&'static str, Progress)>) -> Self {
        let Self { finding, next, mut beside, mut step, snapshots, certificate } = self;
        for (kind, Progress { finding, next }) in steps {
            beside.push((kind, finding));
            step = step.into_iter().chain(next).min();
        }
        Self { finding, next, beside, step, snapshots, certificate }
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
) -> Result<Vec<(&'static str, Progress)>, Error> {
    let Some(client) = client else { return Ok(Vec::new()) };
    let Some(live) = &nodes.live else {
        let changed = || Trouble::passing("Updating", "the StatefulSet was changed just now");
        let said = |kind| (kind, Progress { finding: Err(changed()), next: Some(SOON) });
        let kinds: &[_] = if wanted.nodes > 1 { &[CURRENT, BALANCED] } else { &[CURRENT] };
        return Ok(kinds.iter().filter(|_| nodes.formed).map(|kind| said(*kind)).collect());
    };
    let pods = nodes::fetch(context, plan).await?;
    let restarts = rollout::ensure(context, plan, live, &pods, client, nodes.formed).await?;
    if !nodes.formed {
        return Ok(if restarts.next.is_some() { vec![(CURRENT, restarts)] } else { Vec::new() });
    }
    let balance = match (&nodes.held, restarts.finding.is_ok()) {
        (Some(trouble), _) => Some(Progress { finding: Err(trouble.clone()), next: Some(WAITING) }),
        (None, true) => {
            scale::ensure(context, plan, wanted, live, &pods, client, keeps_replicas(context, plan, nodes)).await
        }
        (None, false) if wanted.nodes == 1 && live.spec.replicas == Some(1) => None,
        (None, false) => {
            let trouble = Trouble::passing("Restarting", "replicas are moved when all nodes have the newest template");
            Some(Progress { finding: Err(trouble), next: None })
        }
    };
    Ok([(CURRENT, Some(restarts)), (BALANCED, balance)]
        .into_iter()
        .filter_map(|(kind, said)| Some((kind, said?)))
        .collect())
}

/// What goes on that finds replicas where they were when it was begun, if anything does.
fn keeps_replicas(context: &Context, plan: &Plan, nodes: &Nodes) -> Option<&'static str> {
    if nodes.restoration.as_ref().is_some_and(Restoration::is_open) {
        Some("a snapshot is being restored")
    } else if context.snapshots.is_running(&plan.owner.uid) {
        Some("a snapshot is being taken")
    } else {
        None
    }
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
) -> Result<Result<Nodes, Unmade>, Error> {
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
            return Ok(Err(trouble.into()));
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
        return Ok(Err(trouble.into()));
    }
    let credentials = match snapshots::storage(context, plan, wanted).await? {
        Ok(credentials) => credentials,
        Err(trouble) => return Ok(Err(Unmade { trouble, kinds: &[SNAPSHOTTED, CURRENT] })),
    };
    let (pods, held) = match (&live_set, client) {
        (Some(live), Some(client)) => scale::pods(context, plan, wanted, live, client, nodes.formed).await?,
        (None, _) | (_, None) => (wanted.nodes, None),
    };
    // Last: what its pods mount is there.
    let mut set = builder.stateful_set(&format!("{fingerprint}{credentials}"), pods);
    if let Some(live) = &live_set {
        build::keep_claim_labels(&mut set, live);
    }
    let written = bring(context, plan, &sets, live_set, set, "write the managed Qdrant's StatefulSet").await?;
    Ok(written
        .map(|is_written| Nodes { live: nodes.live.filter(|_| !is_written), held, restoration, ..nodes })
        .map_err(Unmade::from))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::{
        off::tests::{KEY, MAP, end_of, reason},
        *,
    };
    use crate::controller::{
        context::tests::context,
        objects::{Objects, Rights, SECRETS},
        plan::{RestorePlan, StoragePlan, tests::resource},
    };

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

    #[tokio::test]
    async fn sidecars_of_a_cluster_that_cannot_be_changed_get_tokens() {
        let given = |key: &str| json!({"name": "s3", "key": key});
        let bucket = json!({
            "bucket": "mine", "accessKeyIdSecretRef": given("id"), "secretAccessKeySecretRef": given("key"),
        });
        let saved = json!({"snapshots": {"storage": {"s3": bucket}}});
        for (rights, managed, kinds, why) in [
            (Rights::Read, json!({}), &[CURRENT][..], "ObjectRefused"),
            (Rights::Write, saved, &[SNAPSHOTTED, CURRENT][..], "SecretNotFound"),
        ] {
            let with = |formed: &[(&str, &str)]| {
                let objects = Objects::with(rights);
                objects.put(MAP, formed);
                objects.put(&format!("{SECRETS}/memory-context-qdrant"), &[(secret::API_KEY, KEY)]);
                let ended = [(names::QDRANT_API_KEY_FILE, "one that ended")];
                objects.put(&format!("{SECRETS}/memory-context-store"), &ended);
                objects
            };
            let token = |objects: &Objects| objects.file("memory-context-store", names::QDRANT_API_KEY_FILE).unwrap();

            let objects = with(&[("formed", "true")]);
            let found = objects.look(&objects.context(), managed.clone()).await;
            let rest = end_of(&token(&objects)).duration_since(Timestamp::now());
            assert!(rest.as_hours() >= 23, "{rest:?}");
            assert_ne!(reason(&found), why, "what is said of the store is what was seen of it");
            let beside = found.beside.iter().map(|(kind, said)| (*kind, said.clone().unwrap_err().reason));
            assert!(beside.eq(kinds.iter().map(|kind| (*kind, why))), "{:?}", found.beside);
            assert_eq!(found.certificate.map(|shown| shown.name).as_deref(), Some("nodes"));

            let objects = with(&[]);
            let found = objects.look(&objects.context(), managed).await;
            assert_eq!((reason(&found), found.beside.len()), (why, 0), "nobody uses it yet");
            assert_eq!(token(&objects), "one that ended");
        }
    }

    #[test]
    fn a_snapshot_waits_for_nodes_and_for_replicas_that_may_be_on_their_way() {
        let holds = |kind: &'static str, reason: &'static str| {
            let mut found = Found::of(Ok(Good("Connected", String::new())), None);
            found.beside.push((kind, Err(Trouble::passing(reason, ""))));
            found.holds_snapshots().is_some()
        };
        assert!(holds(CURRENT, "Updating") && holds(BALANCED, "Moving") && holds(BALANCED, "MoveFailed"));
        for reason in ["ClaimLeft", "StrangePeer", "WaitingForReplicas"] {
            assert!(!holds(BALANCED, reason), "nothing is moved while it is {reason}");
        }
    }

    #[tokio::test]
    async fn replicas_stay_where_they_are_until_all_is_restored() {
        let plan = Plan::of(&resource(&json!({"vectorStore": {"managed": {"replicas": 3}}}))).unwrap();
        let StoragePlan::Managed(wanted) = &plan.storage else { unreachable!("the spec has it") };
        let context = context();
        let held = |done: Option<&str>| {
            let (from, done) = (RestorePlan::from("latest"), done.map(str::to_owned));
            let restoration = Restoration { from, is_asked: true, done };
            let nodes = Nodes { restoration: Some(restoration), ..Nodes::of(None, true, wanted) };
            keeps_replicas(&context, &plan, &nodes)
        };
        assert_eq!(held(None), Some("a snapshot is being restored"));
        assert_eq!(held(Some("the first")), None);
    }
}
