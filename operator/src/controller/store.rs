//! A Qdrant server as the store: what sidecars need to reach it, whether it is as it should be, and what becomes of the contexts.
//!
//! Sidecars mount one Secret of the operator, `<name>-context-store`, whatever the resource refers to. So a key or a CA that is added or
//! rotated later reaches pods that run already, and a token takes the API key's place without them.

mod credentials;
mod probe;
mod probes;
pub mod reclaim;
mod secret;
mod server;
mod sharing;
pub mod sweep;
mod token;

use std::{sync::Arc, time::Duration};

use context_manager_crds::{
    ContextManagerStatus,
    context_manager::status::{Certificate, Snapshots},
};

use super::{
    context::Context,
    error::Error,
    plan::{Plan, QdrantPlan},
    status::{Finding, Good, Trouble},
};
pub(super) use credentials::Credentials;
use probe::{Seen, Takes, Target};
pub(super) use probes::Probes;
use secret::Published;

/// What was found of a store, and when to look again.
pub(super) struct Found {
    pub(super) finding: Finding,
    /// Nothing when only the resync or a person can change it.
    pub(super) next: Option<Duration>,
    /// What is said beside it of a store that the operator runs; the resource can be used all the same.
    pub(super) beside: Vec<(&'static str, Finding)>,
    /// When there is more to do.
    pub(super) step: Option<Duration>,
    /// Its snapshots, if the operator runs it and there are to be some.
    pub(super) snapshots: Option<Snapshots>,
    /// The certificate of its nodes, if the operator runs it and makes one.
    pub(super) certificate: Option<Certificate>,
}

impl Found {
    pub(super) const fn of(finding: Finding, next: Option<Duration>) -> Self {
        Self { finding, next, beside: Vec::new(), step: None, snapshots: None, certificate: None }
    }
}

/// Looks at the server, and brings the store's Secret to what it should be.
pub(super) async fn ensure(
    context: &Context,
    plan: &Plan,
    wanted: &QdrantPlan,
    current: Option<&ContextManagerStatus>,
) -> Result<Found, Error> {
    let credentials = match credentials::fetch(context, plan, wanted).await? {
        Ok(credentials) => credentials,
        Err(trouble) => return Ok(Found::of(Err(trouble), None)),
    };
    follow(context, plan, wanted, &credentials, current).await
}

/// The same with credentials that are known.
pub(super) async fn follow(
    context: &Context,
    plan: &Plan,
    wanted: &QdrantPlan,
    credentials: &Credentials,
    current: Option<&ContextManagerStatus>,
) -> Result<Found, Error> {
    let target = Arc::new(Target::new(context, plan, wanted, credentials));
    let known = context.probes.look(&plan.owner.uid, &target).await;
    let seen = (&target.scope, known.seen.as_ref());
    let published = match secret::ensure(context, plan, wanted, credentials, seen).await? {
        Ok(published) => published,
        Err(trouble) => return Ok(Found::of(Err(trouble), None)),
    };
    let finding = match &known.seen {
        Some(seen) => judge(wanted, seen),
        None => before(current),
    };
    announce(context, plan, current, &finding).await;
    let step = (published == Published::Waits).then_some(known.next);
    Ok(Found { step, ..Found::of(finding, Some(known.next)) })
}

/// Brings the store's Secret to what it should be, before there is a server to look at.
pub(super) async fn publish(
    context: &Context,
    plan: &Plan,
    wanted: &QdrantPlan,
    credentials: &Credentials,
) -> Result<Result<(), Trouble>, Error> {
    let target = Target::new(context, plan, wanted, credentials);
    let nobody_to_ask = Err(Trouble::passing(UNCHECKED, "there is no server yet"));
    let seen = (&target.scope, Some(&nobody_to_ask));
    Ok(secret::ensure(context, plan, wanted, credentials, seen).await?.map(drop))
}

fn judge(wanted: &QdrantPlan, seen: &Seen) -> Finding {
    let takes = seen.clone()?;
    let store = &wanted.store;
    let by = match takes {
        Takes::Tokens => "with tokens of their own",
        Takes::Key => "with the API key, because the server takes no tokens or the resource wants none",
        Takes::Nothing => "without an API key",
    };
    let mut message = format!("sidecars use the collection {} of {}, {by}", store.collection, store.url);
    let encrypted = store.url.starts_with("https://");
    let reason = if encrypted && !store.verify {
        message +=
            "; nobody vouches for the server, because tls.verify is false: whoever is on the way can read everything";
        UNVERIFIED
    } else if !encrypted && takes != Takes::Nothing {
        message += "; key and contexts cross the network as plain text, because the url is not https";
        UNENCRYPTED
    } else {
        CONNECTED
    };
    Ok(Good(reason, message))
}

const CONNECTED: &str = "Connected";
/// The store can be used, but not all nodes of a managed Qdrant are ready.
pub(super) const NODES_MISSING: &str = "NodesMissing";
/// Nobody has looked at the server in this life of a leader.
const UNCHECKED: &str = "StoreUnchecked";
const UNVERIFIED: &str = "ConnectedUnverified";
const UNENCRYPTED: &str = "ConnectedUnencrypted";

/// Before the first look of this process ends, what the status says stays so.
fn before(current: Option<&ContextManagerStatus>) -> Finding {
    let said = current.and_then(|status| status.conditions.iter().find(|said| said.type_ == "StoreReady"));
    let known =
        |said: &str| [CONNECTED, UNVERIFIED, UNENCRYPTED, NODES_MISSING].into_iter().find(|known| *known == said);
    match said.and_then(|said| Some((known(&said.reason)?, said.message.clone()))) {
        Some((reason, message)) => Ok(Good(reason, message)),
        None => Err(Trouble::passing(UNCHECKED, "the server is being looked at")),
    }
}

/// An event for each change of what is found; none for a server that is well from the beginning.
async fn announce(context: &Context, plan: &Plan, current: Option<&ContextManagerStatus>, finding: &Finding) {
    let said = current.and_then(|status| status.conditions.iter().find(|said| said.type_ == "StoreReady"));
    let (reason, message) = match finding {
        Ok(Good(reason, message)) | Err(Trouble { reason, message, .. }) => (*reason, message),
    };
    if reason == UNCHECKED || said.is_some_and(|said| said.reason == reason) {
        return;
    }
    let was_away = said.is_some_and(|said| said.status == "False" && said.reason != UNCHECKED);
    match reason {
        CONNECTED if was_away => context.tell(plan, "StoreConnected", message).await,
        CONNECTED => {}
        _ => context.warn(plan, reason, message).await,
    }
}
