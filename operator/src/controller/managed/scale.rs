//! More or fewer nodes: new ones get their share of the replicas, and one that is to go gives its replicas away, leaves the cluster, and
//! only then loses its pod. One step at a time, in the background; where everything is, is asked of Qdrant each time, so a controller
//! that takes over goes on.

use std::time::Duration;

use context_manager_protocol::names;
use http::Method;
use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::PersistentVolumeClaim};
use kube::Api;
use serde_json::{Value, json};

use super::{
    balance::{self, Peers, Step},
    client::Client,
    nodes::{self, Node},
    pod,
    rollout::Progress,
    view::{self, View},
};
use crate::controller::{
    context::Context,
    error::{Error, call},
    plan::{ManagedPlan, Plan},
    status::{Finding, Good, Trouble},
};

/// Pause before the next look at replicas that are on their way.
const PAUSE: Duration = Duration::from_secs(2);
/// Pause before Qdrant is asked again for what it refused.
const AGAIN: Duration = Duration::from_secs(15);
/// Replicas are on their way, or Qdrant was asked for a step.
const MOVING: &str = "Moving";
/// Qdrant did not say that it does what it was asked for. It may do it all the same.
const FAILED: &str = "MoveFailed";
/// The reasons at which replicas may be on their way.
pub(super) const ON_THE_WAY: [&str; 2] = [MOVING, FAILED];
/// Nothing is on its way, and the next step has to wait.
const WAITING: &str = "WaitingForReplicas";

/// How many pods the set is to have now, and what is said of it if that is not what the resource wants.
pub(super) async fn pods(
    context: &Context,
    plan: &Plan,
    wanted: &ManagedPlan,
    live: &StatefulSet,
    client: &Client,
    formed: bool,
) -> Result<(i32, Option<Trouble>), Error> {
    let now = live.spec.replicas.unwrap_or(1);
    if !formed || now == wanted.nodes {
        return Ok((wanted.nodes, None));
    }
    let nodes = nodes::fetch(context, plan).await?;
    let view = match nodes.first().filter(|first| first.is_ready) {
        Some(first) => view::ask(client, first).await.ok().filter(|view| view.agrees && !view.peers.is_empty()),
        None => None,
    };
    // Where nobody can say who belongs to the cluster, none of its nodes is taken away or kept away.
    let Some(view) = view else { return Ok((now.max(wanted.nodes), None)) };
    if now < wanted.nodes {
        let strange = (now..wanted.nodes).filter(|ordinal| peer_of(plan, &view, *ordinal).is_none());
        return Ok(match leftover(context, plan, strange).await? {
            None => (wanted.nodes, None),
            Some(claim) => {
                let message = format!(
                    "spec.vectorStore.managed.replicas is {}, and the claim {claim} of a node that left is still there; what is on \
                     it belongs to no node any more: kubectl delete pvc {claim} -n {}",
                    wanted.nodes, plan.namespace
                );
                (now, Some(Trouble::passing("ClaimLeft", message)))
            }
        });
    }
    // The last one goes when the others know it no more.
    let last = now - 1;
    if peer_of(plan, &view, last).is_none() && !plan.suspended {
        context.tell(plan, "NodeRemoved", &format!("Node {last} has left the cluster, and its pod ends")).await;
        return Ok((last, None));
    }
    Ok((now, None))
}

/// A claim that a new node would find, of one that left.
async fn leftover(
    context: &Context,
    plan: &Plan,
    ordinals: impl Iterator<Item = i32> + Send,
) -> Result<Option<String>, Error> {
    let api = Api::<PersistentVolumeClaim>::namespaced(context.client.clone(), &plan.namespace);
    for ordinal in ordinals {
        let name = format!("{}-{}-{ordinal}", pod::VOLUME_DATA, names::qdrant(&plan.name));
        if call("read the claim of a node", api.get_opt(&name)).await?.is_some() {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// The peer of a node, by the address that it joined with.
pub(super) fn peer_of(plan: &Plan, view: &View, ordinal: i32) -> Option<u64> {
    let host = format!("{}-{ordinal}.", names::qdrant(&plan.name));
    let is_it = |uri: &&String| uri.split_once("://").is_some_and(|(_, rest)| rest.starts_with(&host));
    view.peers.iter().find(|(_, uri)| is_it(uri)).map(|(peer, _)| *peer)
}

/// Takes the next step towards replicas that lie as they should. All nodes have the newest template. `held` says what goes on that finds
/// replicas where they were when it was begun.
pub(super) async fn ensure(
    context: &Context,
    plan: &Plan,
    wanted: &ManagedPlan,
    live: &StatefulSet,
    nodes: &[Node],
    client: &Client,
    held: Option<&str>,
) -> Option<Progress> {
    let pods = live.spec.replicas.unwrap_or(1);
    if pods == 1 && wanted.nodes == 1 {
        return None;
    }
    let (finding, next) = match (look(plan, wanted, pods, nodes, client).await, held) {
        (Err(waits), _) => (Err(waits), Some(PAUSE)),
        (Ok((_, None)), _) => {
            let message =
                "each shard has its replicas, and nodes have as many as each other, as far as there are enough";
            (Ok(Good("Balanced", message.to_owned())), None)
        }
        (Ok((_, Some(_))), _) if plan.suspended => {
            let message = "replicas are to be moved; nothing is changed while spec.suspend is true";
            (Err(Trouble::passing("Suspended", message)), None)
        }
        (Ok((_, Some(_))), Some(held)) => {
            let message = format!("replicas are to be moved, and stay where they are as long as {held}");
            (Err(Trouble::passing("Waiting", message)), Some(PAUSE))
        }
        (Ok((first, Some(step))), None) => carry_out(context, plan, client, first, &step).await,
    };
    Some(Progress { finding, next })
}

/// The node that is asked, and the next step.
async fn look<'n>(
    plan: &Plan,
    wanted: &ManagedPlan,
    pods: i32,
    nodes: &'n [Node],
    client: &Client,
) -> Result<(&'n Node, Option<Step>), Trouble> {
    let first = nodes.first().filter(|first| first.is_ready);
    let first = first.ok_or_else(|| Trouble::passing(WAITING, "the first node is not ready"))?;
    let count = usize::try_from(pods).unwrap_or_default();
    let views = view::ask_all(client, nodes, count).await;
    let is_moving = views.iter().flatten().any(|opinion| opinion.is_moving);
    let waits = |message: String| Trouble::passing(if is_moving { MOVING } else { WAITING }, message);
    let said = |node: &Node, what: &str| waits(format!("{} {what}", node.name));
    for (node, view) in nodes.iter().zip(views) {
        let opinion = view.map_err(|silence| said(node, &silence.to_string()))?;
        if let Some(obstacle) = opinion.obstacle {
            return Err(said(node, &obstacle));
        }
    }
    // Once all of them think so.
    let asked = view::ask(client, first).await;
    let mut view = asked.map_err(|silence| said(first, &silence.to_string()))?;
    if let Some(obstacle) = view.obstacle(count) {
        return Err(said(first, &obstacle));
    }
    let asked = view::factors(client, first, &mut view).await;
    asked.map_err(|silence| said(first, &silence.to_string()))?;
    let mut peers = Peers::default();
    for ordinal in 0..pods {
        let peer = peer_of(plan, &view, ordinal);
        let peer = peer.ok_or_else(|| waits(format!("node {ordinal} has not joined the cluster yet")))?;
        if ordinal < wanted.nodes { &mut peers.staying } else { &mut peers.leaving }.insert(peer);
    }
    if let Some(stranger) =
        view.peers.keys().find(|peer| !peers.staying.contains(peer) && !peers.leaving.contains(peer))
    {
        let message = format!(
            "the cluster knows peer {stranger}, which is none of its nodes, such as one that lost its volume; take it out first"
        );
        return Err(Trouble::passing("StrangePeer", message));
    }
    // The last one leaves first, because the set gives up its last pod first.
    let last =
        (0..pods).rev().find_map(|ordinal| peer_of(plan, &view, ordinal)).filter(|peer| peers.leaving.contains(peer));
    let step = balance::next(&view.collections, &peers, wanted.replicas);
    Ok((
        first,
        step.map(
            |step| if let (Step::Remove { .. }, Some(peer)) = (&step, last) { Step::Remove { peer } } else { step },
        ),
    ))
}

async fn carry_out(
    context: &Context,
    plan: &Plan,
    client: &Client,
    node: &Node,
    step: &Step,
) -> (Finding, Option<Duration>) {
    let (method, path, body, what) = request(step);
    match client.call(node, method, &path, body.as_ref()).await {
        Ok(_) => {
            context.tell(plan, "ReplicasMoved", &format!("Asked Qdrant to {what}")).await;
            (Err(Trouble::passing(MOVING, what)), Some(PAUSE))
        }
        Err(silence) => {
            let message = format!("{} was asked to {what}, and {silence}; it is tried again", node.name);
            (Err(Trouble::passing(FAILED, message)), Some(AGAIN))
        }
    }
}

/// What is asked of Qdrant, and in words.
fn request(step: &Step) -> (Method, String, Option<Value>, String) {
    let cluster = |collection: &str| format!("/collections/{collection}/cluster");
    match step {
        Step::Factor { collection, factor } => (
            Method::PATCH,
            format!("/collections/{collection}"),
            Some(json!({"params": {"replication_factor": factor}})),
            format!("keep {factor} replicas of each shard of {collection}"),
        ),
        Step::Replicate { collection, shard, from, to } => (
            Method::POST,
            cluster(collection),
            Some(json!({"replicate_shard": {"shard_id": shard, "from_peer_id": from, "to_peer_id": to}})),
            format!("copy shard {shard} of {collection} from peer {from} to {to}"),
        ),
        Step::Move { collection, shard, from, to } => (
            Method::POST,
            cluster(collection),
            Some(json!({"move_shard": {"shard_id": shard, "from_peer_id": from, "to_peer_id": to}})),
            format!("move shard {shard} of {collection} from peer {from} to {to}"),
        ),
        Step::Drop { collection, shard, peer } => (
            Method::POST,
            cluster(collection),
            Some(json!({"drop_replica": {"shard_id": shard, "peer_id": peer}})),
            format!("drop the replica of shard {shard} of {collection} on peer {peer}"),
        ),
        Step::Remove { peer } => (
            Method::DELETE,
            format!("/cluster/peer/{peer}"),
            None,
            format!("let peer {peer} leave the cluster, which has no replicas any more"),
        ),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::controller::plan::tests::resource;

    #[test]
    fn a_peer_is_found_by_the_address_that_it_joined_with() {
        let plan = Plan::of(&resource(&json!({"vectorStore": {"managed": {}}}))).unwrap();
        let uri = |ordinal: i32| {
            format!("https://memory-context-qdrant-{ordinal}.memory-context-qdrant-peers.team.svc:6335/")
        };
        let view = View { peers: [(7, uri(1)), (8, uri(11)), (9, uri(0))].into(), ..View::default() };
        assert_eq!([0, 1, 2, 11].map(|ordinal| peer_of(&plan, &view, ordinal)), [Some(9), Some(7), None, Some(8)]);
    }
}
