//! Sidecars of running pods are brought to what a new pod would get, as the resource wants it.
//!
//! In place: the image is what a pod's spec lets one change, of an init container as of any other, and then the kubelet restarts the
//! sidecar alone. What is known of an upgrade stands in an annotation of each pod ([`Note`]), and what must outlive the pods in the status
//! ([`memory`]), so a controller that takes over goes on. By restart: pods are evicted, so that their `PodDisruptionBudget`s are kept.

mod decide;
mod memory;
mod rests;
mod seen;
#[cfg(test)]
mod tests;

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use context_manager_crds::{
    ContextManagerStatus,
    context_manager::{
        sidecar::UpgradeStrategy,
        status::{Pods as Counted, Upgrade},
    },
};
use context_manager_protocol::names;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

use super::{
    context::Context,
    error::{Error, call},
    evict::{Evicted, Held, evict, refused},
    fleet::{self, Fleet},
    grants::Grants,
    metrics::Upgraded,
    plan::Plan,
    status::{Finding, Trouble, listed},
};
use crate::upgrade::{Note, Outcome, Target};
use decide::{Act, Verdict, Wish};
use rests::Rests;
use seen::Seen;

/// The condition that says how far an upgrade is.
const CONDITION: &str = "SidecarsCurrent";
/// Pause before another look when a pod could not be changed: others may be, meanwhile.
const AGAIN: Duration = Duration::from_secs(5);
/// Longest time in which pods are changed at one look. Where a webhook takes its time, the next look goes on, and all else need not wait.
const AT_ONCE: Duration = Duration::from_secs(10);

/// The pods of all resources that had to stay as they are.
pub(super) type Rested = Mutex<Rests>;

/// How far an upgrade is.
#[derive(Default)]
pub(super) struct Found {
    /// What is said of it; nothing if none was asked for.
    pub(super) finding: Option<Finding>,
    /// When there is more to do.
    pub(super) next: Option<Duration>,
    /// What is to be remembered of it.
    pub(super) memory: Option<Upgrade>,
}

/// Takes the next step. `current` is the status with what was remembered; `injection` and `store` are what was found of the webhook's
/// configuration and of the store: while one of them is not as it should be, no pod is evicted.
pub(super) async fn ensure(
    context: &Context,
    plan: &Plan,
    fleet: &Fleet,
    current: Option<&ContextManagerStatus>,
    grants: &Grants,
    (injection, store): (&Finding, &Finding),
) -> Result<Found, Error> {
    let Some(target) = &fleet.target else { return Ok(Found::default()) };
    let now = Timestamp::now();
    let upgrade = plan.upgrade.asked(plan.upgrade_request.as_ref(), &target.image);
    let forgiven = plan.upgrade_request.as_ref().and_then(|request| request.forgives(&target.image));
    let memory = memory::recall(current.and_then(|status| status.upgrade.as_ref()), target, forgiven, now);
    let mut pods = Vec::<Seen>::new();
    match upgrade.strategy {
        // Most resources ask for nothing, and then nobody has to know what each pod would have got.
        UpgradeStrategy::OnRecreate => {}
        UpgradeStrategy::InPlace | UpgradeStrategy::RollingRestart => {
            if is_quiet(current, target, &fleet.counted, upgrade.observe, now) {
                context.metrics.pods.stopped(plan, false);
                let finding = Some(Ok(decide::up_to_date(&target.image)));
                return Ok(Found { finding, next: None, memory: Some(memory) });
            }
            let see = |pod: &Pod| pods.extend(Seen::of(pod, target));
            fleet::each_injected(context, plan, grants.namespaces(), see).await?;
            let rests = rests(context);
            for pod in &mut pods {
                pod.rest = rests.of(pod);
            }
        }
    }
    let wish = Wish { image: &target.image, plan: upgrade, forgiven };
    let Some(Verdict { mut acts, finding, next, mut memory }) = decide::decide(&pods, &wish, &memory, now) else {
        context.metrics.pods.stopped(plan, false);
        return Ok(Found::default());
    };
    context.metrics.pods.stopped(plan, finding.as_ref().is_err_and(|trouble| trouble.stalled));
    if plan.suspended {
        acts.clear();
    }
    if acts.iter().any(Act::evicts)
        && let Some(trouble) = kept(injection, store)
    {
        return Ok(Found { finding: Some(Err(trouble)), next: Some(AGAIN), memory: Some(memory) });
    }
    announce(context, plan, upgrade.strategy, &finding, current).await;
    let (mut done, mut trouble, mut again) = (Done::default(), None, false);
    let begun = Instant::now();
    for act in acts {
        if begun.elapsed() > AT_ONCE {
            again = true;
            break;
        }
        let Some(pod) = pods.iter().find(|pod| pod.name == act.pod()) else { continue };
        match carry_out(context, target, pod, &act, now).await? {
            Carried::Out => {
                rests(context).forget(pod);
                if act.evicts() {
                    memory = memory::with_eviction(&memory, &pods, pod, now);
                }
                if let Act::Try(_, trials) = act {
                    memory = memory::with_trial(&memory, trials, now);
                }
                done.note(context, act);
            }
            Carried::Overtaken => {}
            // What holds up one holds up no other, now and at the next looks.
            Carried::Held(held) => {
                rests(context).hold(pod, held.clone(), Timestamp::now());
                (trouble, again) = (trouble.or(Some(held)), true);
            }
        }
    }
    done.tell(context, plan, target).await;
    let said = finding.as_ref().err().map(|said| said.reason);
    let finding = match trouble {
        // What is said of those that had to stay before says more.
        Some(trouble) if said != Some(trouble.reason) => Err(trouble),
        Some(_) | None => finding,
    };
    let loses = upgrade.strategy == UpgradeStrategy::RollingRestart && target.keeps_memory_in_pods();
    let finding = if loses { finding.map_err(|trouble| with_loss(&trouble)) } else { finding };
    let next = next.into_iter().chain(again.then_some(AGAIN)).min();
    Ok(Found { finding: Some(finding), next, memory: Some(memory) })
}

/// Why no pod is evicted now, if that is so. While the API server does not call the webhook, the next pod would get no sidecar; whether the
/// webhook answers is not known, that shows by the pods that come. While the store is away, a sidecar may have acknowledged what is in its pod
/// alone. A claim that does not grow is no reason: pods go on using it.
fn kept(injection: &Finding, store: &Finding) -> Option<Trouble> {
    if injection.is_err() {
        let message = "no pod is evicted while the webhook could not give the next one a sidecar";
        return Some(Trouble::passing("WebhookNotReady", message));
    }
    let Trouble { reason, message, .. } = store.as_ref().err().filter(|trouble| trouble.reason != "ClaimRefused")?;
    Some(Trouble::passing(
        "StoreNotReady",
        format!(
            "no pod is evicted while the store is not ready: what a sidecar has acknowledged and keeps in its pod until the store takes \
             it would be lost, and the next pod may not start ({reason}: {message})"
        ),
    ))
}

/// The same with what each eviction costs where the memory lies in the pods.
fn with_loss(Trouble { reason, message, stalled }: &Trouble) -> Trouble {
    let message = format!(
        "{message}; each pod that is evicted loses its agent's memory, which lies on an emptyDir (spec.vectorStore.embedded.storage)"
    );
    Trouble { reason, message, stalled: *stalled }
}

fn rests(context: &Context) -> MutexGuard<'_, Rests> {
    context.rested.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the last look at the pods found them up to date, nothing is watched any more, and none has become outdated since. Then they need not
/// be listed each time that something happens to one of them.
fn is_quiet(
    current: Option<&ContextManagerStatus>,
    target: &Target,
    counted: &Counted,
    observe: Duration,
    now: Timestamp,
) -> bool {
    let Some(status) = current else { return false };
    let known =
        status.upgrade.as_ref().is_some_and(|known| known.template == target.template && known.evicted.is_empty());
    let said = status.conditions.iter().find(|said| said.type_ == CONDITION && said.reason == decide::UP_TO_DATE);
    let since = said.and_then(|said| Duration::try_from(now.duration_since(said.last_transition_time.0)).ok());
    known && counted.outdated == 0 && since.is_some_and(|since| since > decide::DEADLINE + observe)
}

/// An event when a rolling restart stops. What an upgrade in place takes back is told by itself.
async fn announce(
    context: &Context,
    plan: &Plan,
    strategy: UpgradeStrategy,
    finding: &Finding,
    current: Option<&ContextManagerStatus>,
) {
    let Err(trouble) = finding else { return };
    let conditions = current.map(|status| status.conditions.as_slice()).unwrap_or_default();
    let is_said = conditions.iter().any(|said| said.type_ == CONDITION && said.reason == trouble.reason);
    if strategy == UpgradeStrategy::RollingRestart && decide::stops(trouble.reason) && !is_said {
        context.warn(plan, trouble.reason, &trouble.message).await;
    }
}

/// What became of an act.
enum Carried {
    /// It is done.
    Out,
    /// The pod is gone, or changed meanwhile: the next look sees it.
    Overtaken,
    /// The pod may not go now.
    Held(Trouble),
}

async fn carry_out(
    context: &Context,
    target: &Target,
    pod: &Seen,
    act: &Act,
    now: Timestamp,
) -> Result<Carried, Error> {
    let manager = context.manager(super::apply::Manager::Upgrade);
    let (namespace, name) = &pod.place;
    let api = Api::<Pod>::namespaced(context.client.clone(), namespace);
    match act {
        Act::Evict(title) | Act::Try(title, _) => {
            let evicted = evict(context, "evict a pod", (namespace, name), pod.uid.as_deref()).await?;
            Ok(match evicted {
                Evicted::Yes => Carried::Out,
                Evicted::Gone => Carried::Overtaken,
                Evicted::Held(Held::Forbidden) => Carried::Held(forbidden()),
                Evicted::Held(held) => Carried::Held(held.trouble(title)),
            })
        }
        Act::Replace(_) => {
            let Some(from_template) = pod.template.clone() else { return Ok(Carried::Overtaken) };
            let note = Note {
                from: pod.image.clone(),
                from_template,
                to: target.image.clone(),
                at: now,
                restarts: pod.restarts + i32::from(pod.ran),
                was_ready: pod.ready,
                outcome: Outcome::Begun,
            };
            let template = if pod.granted { target.granted().template } else { target.template.clone() };
            let answer = replace(&api, &manager, pod, &target.image, &template, &note).await;
            answered(&api, target, pod, answer).await
        }
        Act::Restore(..) => {
            let Some(note) = pod.note.clone() else { return Ok(Carried::Overtaken) };
            let restored = Note { outcome: Outcome::Restored, ..note.clone() };
            let answer = replace(&api, &manager, pod, &note.from, &note.from_template, &restored).await;
            answered(&api, target, pod, answer).await
        }
    }
}

/// What the answer to a replacement means for the pod. A policy that is against it answers like an API server whose pod is not what it was; so
/// the pod is read again.
async fn answered(api: &Api<Pod>, target: &Target, pod: &Seen, answer: Result<(), Error>) -> Result<Carried, Error> {
    let Err(error) = answer else { return Ok(Carried::Out) };
    let is_refused = match Answer::of(&error) {
        Answer::Forbidden => return Ok(Carried::Held(forbidden())),
        Answer::Refused => true,
        Answer::Passing => false,
        Answer::Invalid => is_unchanged(api, target, pod).await?,
        Answer::Error => return Err(error),
    };
    Ok(if is_refused { Carried::Held(refused(&pod.name)) } else { Carried::Overtaken })
}

/// Whether the pod is what it was when it was looked at. The controller has no right to read one alone, but to list it.
async fn is_unchanged(api: &Api<Pod>, target: &Target, pod: &Seen) -> Result<bool, Error> {
    let alone = ListParams::default().fields(&format!("metadata.name={}", pod.place.1));
    let found = call("read a pod that could not be changed", api.list(&alone)).await?;
    let mut found = found.iter().filter_map(|found| Seen::of(found, target));
    let place = |seen: &Seen| (seen.list, seen.index);
    Ok(found.any(|now| now.uid == pod.uid && now.image == pod.image && place(&now) == place(pod)))
}

/// Replaces the image, if the pod is what it was when it was looked at.
async fn replace(
    api: &Api<Pod>,
    manager: &str,
    pod: &Seen,
    image: &str,
    template: &str,
    note: &Note,
) -> Result<(), Error> {
    let at = format!("/spec/{}/{}", pod.list, pod.index);
    let annotation = |name: &str| format!("/metadata/annotations/{}", name.replace('~', "~0").replace('/', "~1"));
    let operations = json!([
        {"op": "test", "path": format!("{at}/name"), "value": names::CONTAINER},
        {"op": "test", "path": format!("{at}/image"), "value": pod.image},
        {"op": "replace", "path": format!("{at}/image"), "value": image},
        {"op": "add", "path": annotation(names::INJECTED_TEMPLATE), "value": template},
        {"op": "add", "path": annotation(names::UPGRADE), "value": json!(note).to_string()},
    ]);
    let patch: json_patch::Patch = serde_json::from_value(operations).unwrap_or_default();
    let params = PatchParams { field_manager: Some(manager.to_owned()), ..PatchParams::default() };
    call("replace the image of a sidecar", api.patch(&pod.place.1, &params, &Patch::<Pod>::Json(patch))).await.map(drop)
}

/// What a want of rights means to a person.
fn forbidden() -> Trouble {
    Trouble::stalled(
        "Forbidden",
        "the operator may not change pods; install the chart with controller.upgradeSidecars=true, or set \
         spec.sidecar.upgrade.strategy to OnRecreate and take the annotation contextmanager.dev/upgrade-sidecars away",
    )
}

/// What it means that a pod could not be patched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// The operator has not the right to.
    Forbidden,
    /// An admission policy or webhook of the pod's namespace is against the change, or does not answer.
    Refused,
    /// The pod is gone, or was changed by somebody else, or the API server has no time.
    Passing,
    /// The change does not fit the pod, which somebody else changed, or a policy is against it.
    Invalid,
    /// It is not the pod's.
    Error,
}

impl Answer {
    fn of(error: &Error) -> Self {
        if matches!(error, Error::Timeout { .. }) {
            // The API server waits longer for a webhook than is waited for here.
            return Self::Refused;
        }
        match error.status().map(|status| status.code) {
            Some(403) if error.lacks_right("patch") => Self::Forbidden,
            // Pod Security and most webhooks.
            Some(400 | 403 | 500) => Self::Refused,
            Some(404 | 409 | 429) => Self::Passing,
            Some(422) => Self::Invalid,
            Some(_) | None => Self::Error,
        }
    }
}

/// What was done, for the events.
#[derive(Default)]
struct Done {
    replaced: Vec<String>,
    restored: Vec<String>,
    evicted: Vec<String>,
}

impl Done {
    fn note(&mut self, context: &Context, act: Act) {
        let (list, outcome) = match &act {
            Act::Replace(_) => (&mut self.replaced, Upgraded::Replaced),
            Act::Restore(..) => (&mut self.restored, Upgraded::Restored),
            Act::Evict(_) | Act::Try(..) => (&mut self.evicted, Upgraded::Evicted),
        };
        context.metrics.pods.upgraded(outcome);
        list.push(match act {
            Act::Replace(pod) | Act::Evict(pod) | Act::Try(pod, _) => pod,
            Act::Restore(pod, why) => format!("{pod} ({why})"),
        });
    }

    async fn tell(&self, context: &Context, plan: &Plan, target: &Target) {
        let image = &target.image;
        if !self.replaced.is_empty() {
            let note = format!("The sidecars of {} got the image {image}", listed(&self.replaced));
            context.tell(plan, "SidecarUpgraded", &note).await;
        }
        if !self.evicted.is_empty() {
            let lost =
                if target.keeps_memory_in_pods() { "; the memory on their emptyDir ended with them" } else { "" };
            let note = format!("Evicted {}, so that pods with {image} take their place{lost}", listed(&self.evicted));
            context.tell(plan, "PodEvicted", &note).await;
        }
        if !self.restored.is_empty() {
            let note = format!(
                "{image} failed in {}, which have the image before again; the condition {CONDITION} says what becomes of others",
                listed(&self.restored)
            );
            context.warn(plan, decide::STOPPED, &note).await;
        }
    }
}
