//! The restoration of a resource whose cluster is made from a snapshot: until it is done, no sidecar gets a token, so nobody writes to
//! what is half there.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::ConfigMap;

use super::{
    CURRENT, Nodes, build,
    client::Client,
    config, nodes,
    rollout::Progress,
    snapshots::{self, Restored, Seen},
};
use crate::controller::{
    context::Context,
    error::Error,
    plan::{ManagedPlan, Plan, RestorePlan, Source},
    status::Trouble,
    store::Found,
};

/// Pause before a restoration is looked at again.
const PAUSE: Duration = Duration::from_secs(2);
/// Pause before one that was refused is looked at again: what is in the way may be gone.
const REFUSED: Duration = Duration::from_secs(30);

/// A restoration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Restoration {
    /// What is restored.
    pub(super) from: RestorePlan,
    /// Whether the resource still asks for it.
    pub(super) is_asked: bool,
    /// From which snapshot all is there, if it is.
    pub(super) done: Option<String>,
}

impl Restoration {
    /// What the resource asks for, or what was begun although it asks no more.
    pub(super) fn of(wanted: &ManagedPlan, map: Option<&ConfigMap>) -> Option<Self> {
        let file = |name: &str| map.and_then(|map| map.data.as_ref()?.get(name).cloned());
        let begun = || Some(RestorePlan::from(&*file(config::RESTORE_FILE)?));
        let from = wanted.restore.clone().or_else(begun)?;
        Some(Self { from, is_asked: wanted.restore.is_some(), done: file(config::RESTORED_FILE) })
    }

    /// Whether it goes on: not all is there yet.
    pub(super) const fn is_open(&self) -> bool {
        self.done.is_none()
    }

    /// The resource whose snapshots the nodes read, as long as that is another one.
    pub(super) fn source(&self) -> Option<&Source> {
        self.from.source.as_ref().filter(|_| self.is_open())
    }

    /// The same if the background has ended it meanwhile.
    pub(super) async fn followed(mut self, context: &Context, plan: &Plan) -> Self {
        if self.is_open()
            && let Seen::Ended(Restored::Done { snapshot, points }) = context.restores.look(&plan.owner.uid)
        {
            let from = RestorePlan { snapshot: snapshot.clone(), ..self.from.clone() };
            let message = format!("Restored the snapshot {from}: {points} contexts");
            context.tell(plan, "StoreRestored", &message).await;
            self.done = Some(snapshot);
        }
        self
    }
}

/// Takes the restoration further, and says how far it is.
pub(super) async fn ensure(
    context: &Context,
    plan: &Plan,
    wanted: &ManagedPlan,
    restoration: &Restoration,
    nodes: &Nodes,
    (client, steps): (Option<&Arc<Client>>, &[(&'static str, Progress)]),
) -> Result<Found, Error> {
    let found = |trouble, next| Ok(Found::of(Err(trouble), Some(next)));
    let restoring = |message: String| Trouble::passing("Restoring", message);
    let Some(client) = client.filter(|_| nodes.formed && nodes.ready >= nodes.wanted && nodes.live.is_some()) else {
        return found(nodes.trouble(plan), PAUSE);
    };
    if let Some((_, Progress { finding: Err(trouble), .. })) = steps.iter().find(|(kind, _)| *kind == CURRENT) {
        return found(restoring(format!("first all nodes are as they should be: {}", trouble.message)), PAUSE);
    }
    let name = &restoration.from;
    let going_on = restoring(format!("the snapshot {name} is being restored; sidecars get access when it is done"));
    match context.restores.look(&plan.owner.uid) {
        Seen::Running | Seen::Ended(Restored::Done { .. }) => found(going_on, PAUSE),
        Seen::Due(_) if plan.suspended => {
            let message = "a snapshot is to be restored; nothing is changed while spec.suspend is true";
            found(Trouble::passing("Suspended", message), REFUSED)
        }
        Seen::Due(why) => {
            if let Some(why) = &why {
                context.warn(plan, "RestoreFailed", why).await;
            }
            let pods = nodes::fetch(context, plan).await?;
            let job = snapshots::Restoring::new(plan, wanted, restoration, Arc::clone(client), pods);
            context.restores.begin(&plan.owner.uid, job);
            found(why.as_deref().map_or(going_on, failed), PAUSE)
        }
        Seen::Failed(why) => found(failed(&why), PAUSE),
        Seen::Ended(Restored::NotEmpty) if !restoration.is_asked => {
            // A person has decided: the next look finds nothing to do.
            context.restores.forget(&plan.owner.uid);
            found(going_on, PAUSE)
        }
        Seen::Ended(Restored::NotEmpty) => {
            let collection = &wanted.qdrant.store.collection;
            let message = format!(
                "spec.vectorStore.managed.restoreFrom: the volumes of the nodes have a collection {collection} already, and nothing \
                 is written over: remove restoreFrom to go on with it, or delete the resource and the claims of its nodes \
                 (kubectl get pvc -n {} -l {}), and create it anew",
                plan.namespace,
                build::node_selector(plan)
            );
            found(Trouble::stalled("RestoreRefused", message), REFUSED)
        }
    }
}

fn failed(why: &str) -> Trouble {
    Trouble::passing("RestoreFailed", format!("{why}; it is tried again"))
}
