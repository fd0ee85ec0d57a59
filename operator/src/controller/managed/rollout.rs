//! Nodes get another template one at a time. The `StatefulSet` leaves its pods alone (`OnDelete`); here the next one is evicted when all
//! nodes are ready and each of them says that every replica of every shard is whole. Nothing is remembered: which nodes have the newest
//! template is in the labels of their pods, so a controller that takes over goes on.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;

use super::{
    client::{Client, Silence},
    nodes::Node,
    view::{self, Opinion},
};
use crate::controller::{
    context::Context,
    error::Error,
    evict::{Evicted, evict},
    plan::Plan,
    status::{Finding, Good, Trouble},
};

/// Pause before the next look at nodes that are being restarted.
const PAUSE: Duration = Duration::from_secs(2);
/// How long a node may take to come back before it is reported.
const COMING_BACK: Duration = Duration::from_mins(5);

/// How far the restarts are, or the moves of replicas.
pub(super) struct Progress {
    pub(super) finding: Finding,
    pub(super) next: Option<Duration>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing.
    Current,
    /// Wait.
    Wait(Trouble),
    /// Evict this node.
    Restart(Node),
}

/// What is known of the set.
struct Set {
    wanted: usize,
    /// The revision of the newest template, if the set's controller has seen it.
    revision: Option<String>,
}

impl Set {
    fn of(live: &StatefulSet) -> Self {
        let status = live.status.clone().unwrap_or_default();
        let is_seen = status.observed_generation >= live.metadata.generation;
        let wanted = live.spec.replicas.unwrap_or(1);
        Self {
            wanted: usize::try_from(wanted).unwrap_or_default(),
            revision: status.update_revision.filter(|_| is_seen),
        }
    }

    fn outdated<'n>(&self, nodes: &'n [Node]) -> Vec<&'n Node> {
        let newest = self.revision.as_deref();
        nodes.iter().rev().filter(|node| newest.is_some_and(|newest| node.revision != newest)).collect()
    }
}

/// Takes the next step.
pub(super) async fn ensure(
    context: &Context,
    plan: &Plan,
    live: &StatefulSet,
    nodes: &[Node],
    client: &Client,
    formed: bool,
) -> Result<Progress, Error> {
    let set = Set::of(live);
    let is_asked = formed && !set.outdated(nodes).is_empty();
    let views = if is_asked { view::ask_all(client, nodes, set.wanted).await } else { Vec::new() };
    let wait = |trouble| Progress { finding: Err(trouble), next: Some(PAUSE) };
    Ok(match decide(&set, nodes, &views, Timestamp::now()) {
        Step::Current => {
            let message = format!("all {} nodes are as the resource wants them", set.wanted);
            Progress { finding: Ok(Good("Current", message)), next: None }
        }
        Step::Wait(trouble) => wait(trouble),
        Step::Restart(node) if plan.suspended => {
            let message = format!("{} is to be restarted; nothing is changed while spec.suspend is true", node.name);
            Progress { finding: Err(Trouble::passing("Suspended", message)), next: None }
        }
        Step::Restart(node) => wait(restart(context, plan, &node, (&set, nodes)).await?),
    })
}

async fn restart(context: &Context, plan: &Plan, node: &Node, (set, nodes): (&Set, &[Node])) -> Result<Trouble, Error> {
    let name = &node.name;
    let place = (plan.namespace.as_str(), name.as_str());
    match evict(context, "evict a node of the managed Qdrant", place, Some(&node.uid)).await? {
        Evicted::Yes => {
            let left = set.outdated(nodes).len().saturating_sub(1);
            let message =
                format!("Evicted {name}, so that it starts as the resource wants it; {left} nodes are to follow");
            context.tell(plan, "NodeRestarted", &message).await;
        }
        Evicted::Gone => {}
        Evicted::Held(held) => return Ok(held.trouble(name)),
    }
    Ok(Trouble::passing("Updating", format!("{name} is being replaced")))
}

/// The next step. `views` is what the nodes say, each at its node's place; empty when they need not be asked.
fn decide(set: &Set, nodes: &[Node], views: &[Result<Opinion, Silence>], now: Timestamp) -> Step {
    let updating = |message: String| Step::Wait(Trouble::passing("Updating", message));
    if set.revision.is_none() {
        return updating("the StatefulSet's controller has not seen the newest template yet".to_owned());
    }
    let outdated = set.outdated(nodes);
    // What does not run loses nothing, and may not come to run in any other way.
    if let Some(broken) = outdated.iter().find(|node| node.is_broken(now)) {
        return Step::Restart((*broken).clone());
    }
    let done = set.wanted.saturating_sub(outdated.len());
    let count = format!("{done} of {} nodes have the newest template", set.wanted);
    if let Some(leaving) = nodes.iter().find(|node| node.is_leaving) {
        return updating(format!("{count}; {} is ending", leaving.name));
    }
    if nodes.len() < set.wanted {
        return updating(format!("{count}; a pod is not made yet"));
    }
    if let Some(node) = nodes.iter().find(|node| !node.is_ready) {
        return stopped(node, &count, now);
    }
    let Some(next) = outdated.first() else { return Step::Current };
    let answers = || nodes.iter().zip(views);
    // With another key or CA they do not talk to those that were restarted either, so their replicas cannot become whole before.
    let refuses = |(node, view): (&Node, &Result<Opinion, Silence>)| {
        *view == Err(Silence::Refused) && outdated.iter().any(|outdated| outdated.name == node.name)
    };
    if answers().any(refuses) {
        return Step::Restart((*next).clone());
    }
    let obstacle = answers().find_map(|(node, view)| {
        let said = match view {
            Ok(opinion) => opinion.obstacle.clone()?,
            Err(silence) => silence.to_string(),
        };
        Some(format!("{} {said}", node.name))
    });
    match obstacle {
        None => Step::Restart((*next).clone()),
        Some(obstacle) => Step::Wait(Trouble::passing(
            "WaitingForReplicas",
            format!("{count}; {} is restarted when all replicas are whole: {obstacle}", next.name),
        )),
    }
}

/// A node is not there: nothing else is taken away.
fn stopped(node: &Node, count: &str, now: Timestamp) -> Step {
    let name = &node.name;
    let why = match &node.fault {
        Some(fault) => fault.clone(),
        None if node.has_been_so(COMING_BACK, now) => format!("for more than {} minutes", COMING_BACK.as_secs() / 60),
        None => return Step::Wait(Trouble::passing("Updating", format!("{count}; {name} is starting"))),
    };
    Step::Wait(Trouble::passing(
        "NodeNotReady",
        format!(
            "{count}; {name} is not ready ({why}), and no other node is restarted until it is; kubectl describe pod {name} says \
             more, and what is wrong in spec.vectorStore.managed can be changed again"
        ),
    ))
}

#[cfg(test)]
mod tests;
