//! The key ring of a resource: made once, or followed from a Secret of the user; and the rotation of its key.
//!
//! A ring that was made is never made again while it is valid: labels and owner are put right without touching it. A ring that
//! somebody damaged or deleted cannot be known any more; a new one takes its place, and an event says so.
//!
//! Every step of a rotation ([`step`]) is one write of the Secret, on the condition that nobody wrote it meanwhile. What is known of a
//! rotation stands there ([`state`]), so a controller that takes over goes on with the next step.

mod answers;
mod fleet;
mod report;
mod state;
mod step;
#[cfg(test)]
mod tests;

use std::time::Duration;

use context_manager_crds::{ContextManagerStatus, context_manager::status::Keys};
use context_manager_protocol::{
    keyring::{self, Key, KeyRing},
    names,
};
use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, api::PostParams};

use super::{
    apply::{Manager, covers},
    build,
    context::Context,
    error::{Error, call},
    grants::Grants,
    plan::{KeySource, Plan},
    status::{Finding, Good, Trouble, listed},
};
pub(super) use answers::Answers;
use state::State;
use step::{Change, Phase, Step, Times, Wish};

use context_manager_protocol::hexadecimal::hexadecimal;

/// Bytes of a key that is made here.
const KEY_BYTES: usize = 32;
/// Most steps of one reconciliation; more follow with the next one.
const STEPS: usize = 6;

/// Within which a kubelet brings a changed Secret to a pod: it looks at each pod every 60 to 90 s, and may have cached it for a minute.
const DELIVERY: Duration = Duration::from_secs(150);

/// How long the steps of a rotation take at least, and at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Least time between publishing a key and signing with it, for pods that are just being made.
    pub settle: Duration,
    /// How long a pod that cannot be asked is waited for.
    pub patience: Duration,
}

/// What was found of a key ring.
pub(super) struct Found {
    /// The ids in force, or why there is no ring.
    pub(super) ring: Result<(Keys, Good), Trouble>,
    /// What is the matter with the user's ring, or with what is to be written, while the ring in force goes on.
    pub(super) trouble: Option<Trouble>,
    /// How far the rotation is.
    pub(super) rotation: Option<Finding>,
    /// When there is more to do.
    pub(super) next: Option<Duration>,
}

impl From<Trouble> for Found {
    fn from(trouble: Trouble) -> Self {
        Self { ring: Err(trouble), trouble: None, rotation: None, next: None }
    }
}

/// Brings the key ring's Secret to what it should be, as far as sidecars and clock permit.
pub(super) async fn ensure(
    context: &Context,
    plan: &Plan,
    current: Option<&ContextManagerStatus>,
    grants: &mut Grants,
) -> Result<Found, Error> {
    let name = names::keys_secret(&plan.name);
    let api = Api::<Secret>::namespaced(context.client.clone(), &plan.namespace);
    let live = call("read the key ring", api.get_opt(&name)).await?;
    if let Some(foreign) = live.as_ref().filter(|live| !build::is_ours(&live.metadata) && !owned(*live, plan)) {
        return Ok(name_taken(foreign, &name).into());
    }
    let given = match &plan.keys {
        KeySource::Generate => None,
        KeySource::Existing { secret, key } => {
            let source = call("read the Secret of spec.auth.secretRef", api.get_opt(secret)).await?;
            Some(existing(source, secret, key))
        }
    };
    let (given, trouble) = match given.transpose() {
        Ok(given) => (given, None),
        Err(trouble) if live.as_ref().is_some_and(|live| ring_in(live, names::KEYS_FILE).is_ok()) => {
            (None, Some(trouble))
        }
        Err(trouble) => return Ok(trouble.into()),
    };
    let (live, state, refused) = match begin(context, plan, &api, live, given.as_ref()).await? {
        Ok(begun) => begun,
        Err(trouble) => return Ok(trouble.into()),
    };
    let clash = given.as_ref().and_then(|given| step::same_id_other_key(&state, given)).map(|id| {
        let message = format!(
            "the key {id:?} in your Secret is another one than that of the same id in force; give a new key a new id, \
             and both are used until the old one is replaced"
        );
        Trouble::stalled("SecretInvalid", message)
    });
    let trouble = trouble.or(clash);
    // What the user last said, as far as it was taken over: a key that is replaced must not verify for as long as the Secret is broken, and
    // other namespaces need the ring all the same.
    let given = if trouble.is_some() { Some(state.taken_over().map_err(Error::Key)?) } else { given };
    let found = rotate(context, plan, grants, (live, state), given.as_ref(), current).await?;
    Ok(Found { trouble: trouble.or(refused).or(found.trouble), ..found })
}

/// The ring that is there, with what is the matter if its labels cannot be put right; or a new one.
async fn begin(
    context: &Context,
    plan: &Plan,
    api: &Api<Secret>,
    live: Option<Secret>,
    given: Option<&KeyRing>,
) -> Result<Result<(Secret, State, Option<Trouble>), Trouble>, Error> {
    let now = Timestamp::now();
    let what = match live.as_ref().map(|live| ring_in(live, names::KEYS_FILE)) {
        None => None,
        Some(Err(what)) => Some(what),
        Some(Ok(ring)) => {
            let live = live.unwrap_or_default();
            let state = State::read(ring, &live, now);
            // A ring that is valid is usable, whatever its labels are.
            if plan.suspended || covers(&live.metadata, &build::keys_secret(plan, None).metadata) {
                return Ok(Ok((live, state, None)));
            }
            return Ok(Ok(match write(context, plan, api, live.clone(), &state).await? {
                Ok(live) => (live, state, None),
                Err(trouble) => (live, state, Some(trouble)),
            }));
        }
    };
    if plan.suspended {
        return Ok(Err(suspended(&match (given, &what) {
            (Some(_), _) => "The copy of the key ring is not up to date".to_owned(),
            (None, None) => "The key ring does not exist".to_owned(),
            (None, Some(what)) => format!("The key ring is not valid ({what})"),
        })));
    }
    let ring = match given {
        Some(given) => given.clone(),
        None => KeyRing::new(new_key(now)?),
    };
    // A key that is new is what a request that is there already asks for.
    let state = State::new(ring, now, plan.rotation.request.clone());
    let made = if let Some(damaged) = live {
        write(context, plan, api, damaged, &state).await?
    } else {
        let secret = with_state(build::keys_secret(plan, Some(&state.ring)), &state);
        let made = call("create the key ring", api.create(&written_by(context), &secret)).await;
        taken(context, plan, made)?
    };
    let made = match made {
        Ok(made) => made,
        Err(trouble) => return Ok(Err(trouble)),
    };
    let (name, id) = (names::keys_secret(&plan.name), state.ring.active().id());
    match (given, what) {
        (Some(_), _) => {}
        (None, None) => context.tell(plan, "KeysGenerated", &format!("Made key {id} in Secret {name}")).await,
        (None, Some(what)) => {
            let note = format!("Secret {name} had no valid key ring ({what}); made key {id}");
            context.warn(plan, "KeysReplaced", &note).await;
        }
    }
    Ok(Ok((made, state, None)))
}

/// Takes the steps that can be taken now.
async fn rotate(
    context: &Context,
    plan: &Plan,
    grants: &mut Grants,
    (mut live, mut state): (Secret, State),
    given: Option<&KeyRing>,
    current: Option<&ContextManagerStatus>,
) -> Result<Found, Error> {
    let Settings { settle, patience } = context.keys;
    let delivery = patience.min(DELIVERY);
    let mut times = Times { overlap: plan.rotation.overlap, settle, patience, delivery, copied: None };
    let api = Api::<Secret>::namespaced(context.client.clone(), &plan.namespace);
    let request = plan.rotation.request.as_deref();
    let wish = given.map_or(Wish::Made { every: plan.rotation.every, request }, |ring| Wish::Given { ring, request });
    let deadlines = fleet::Deadlines::begin();
    for _ in 0..STEPS {
        // Before anybody is asked: who starts in another namespace from now on has what is in force.
        times.copied = grants.copy_keys(context, plan, &live).await?;
        let waiting = if let Some(question) = step::question(&state, &wish) {
            Some(fleet::ask(context, plan, grants.namespaces(), &question, deadlines).await?)
        } else {
            context.answers.forget(&plan.owner.uid);
            None
        };
        let now = Timestamp::now();
        let (new, change) = match step::step(&state, &wish, waiting, &times, now).map_err(Error::Key)? {
            Step::Rest(phase) => {
                let found = report::found(&state, &wish, &phase, &times, now);
                announce(context, plan, current, &found).await;
                context.metrics.keys(plan, state.rotated_at, phase.waits_for());
                return Ok(found);
            }
            Step::Write(_, change) if plan.suspended => return Ok(report::held(&state, &wish, Some(&change))),
            Step::Make(_) if plan.suspended => return Ok(report::held(&state, &wish, None)),
            Step::Write(new, change) => (*new, change),
            Step::Make(request) => {
                let new = state.publish(new_key(now)?, now).map_err(Error::Key)?;
                (State { rotated_for: request, ..new }, Change::Published)
            }
        };
        live = match write(context, plan, &api, live, &new).await? {
            Ok(written) => written,
            Err(trouble) => {
                // The ring in force goes on, and the same step is tried again with the next look.
                let found = report::found(&state, &wish, &Phase::Settled, &times, now);
                let (trouble, rotation) = (Some(trouble.clone()), Some(Err(trouble)));
                return Ok(Found { trouble, rotation, next: None, ..found });
            }
        };
        tell(context, plan, &state, &new, &change).await;
        state = new;
    }
    grants.copy_keys(context, plan, &live).await?;
    Ok(report::found(&state, &wish, &Phase::Settled, &times, Timestamp::now()).again())
}

/// Writes ring and annotations, unless somebody else wrote them since `live` was read. What others added to the Secret stays.
async fn write(
    context: &Context,
    plan: &Plan,
    api: &Api<Secret>,
    live: Secret,
    state: &State,
) -> Result<Result<Secret, Trouble>, Error> {
    let desired = with_state(merged(live, build::keys_secret(plan, Some(&state.ring))), state);
    let name = names::keys_secret(&plan.name);
    taken(context, plan, call("write the key ring", api.replace(&name, &written_by(context), &desired)).await)
}

/// The ring as it was written, or what is the matter if the API server does not take it.
fn taken(context: &Context, plan: &Plan, written: Result<Secret, Error>) -> Result<Result<Secret, Trouble>, Error> {
    match written {
        Ok(written) => {
            context.wrote("keys_secret");
            Ok(Ok(written))
        }
        Err(error) => not_taken(error, "Secret", &names::keys_secret(&plan.name)).map(Err),
    }
}

fn written_by(context: &Context) -> PostParams {
    PostParams { field_manager: Some(context.manager(Manager::Keys)), ..PostParams::default() }
}

/// The Secret that is there with what this operator desires of it. Its type cannot be changed.
fn merged(mut live: Secret, desired: Secret) -> Secret {
    let Secret { metadata, data, .. } = desired;
    live.data.get_or_insert_default().extend(data.unwrap_or_default());
    live.metadata.labels.get_or_insert_default().extend(metadata.labels.unwrap_or_default());
    let owners = live.metadata.owner_references.get_or_insert_default();
    for owner in metadata.owner_references.unwrap_or_default() {
        owners.retain(|other| other.uid != owner.uid);
        owners.push(owner);
    }
    live
}

fn with_state(mut secret: Secret, state: &State) -> Secret {
    let annotations = secret.metadata.annotations.get_or_insert_default();
    annotations.retain(|name, _| !State::ANNOTATIONS.contains(&name.as_str()));
    annotations.extend(state.annotations());
    secret
}

/// Says in an event what was written.
async fn tell(context: &Context, plan: &Plan, old: &State, new: &State, change: &Change) {
    let active = new.ring.active().id();
    match change {
        Change::Noted | Change::Followed => {}
        Change::Published => {
            let next = new.ring.next().map_or("", Key::id);
            let note = format!("Published key {next}; it signs when the sidecars have loaded it");
            context.tell(plan, "KeyPublished", &note).await;
        }
        Change::Activated if new.passed_over.is_empty() => {
            context.metrics.rotated("all");
            let note = format!("Key {active} signs; key {} verifies until it is retired", old.ring.active().id());
            context.tell(plan, "KeyActivated", &note).await;
        }
        Change::Activated => {
            context.metrics.rotated("some");
            let note = format!("Key {active} signs, without waiting longer for {}", listed(&new.passed_over));
            context.warn(plan, "KeyActivated", &note).await;
        }
        Change::Retired(ids) => {
            context.tell(plan, "KeyRetired", &format!("Requests signed with key {} are refused", ids.join(", "))).await;
        }
        Change::Refused => {
            let note = format!(
                "The annotation {} asks for a new key, but the keys of your Secret are made by you; \
                 write one to it as the active key",
                names::ROTATE
            );
            context.warn(plan, "KeyRotationRefused", &note).await;
        }
    }
}

/// An event when a rotation begins to wait for pods that would refuse the new key.
async fn announce(context: &Context, plan: &Plan, current: Option<&ContextManagerStatus>, found: &Found) {
    let Some(Err(trouble)) = &found.rotation else { return };
    let said = current.and_then(|status| status.conditions.iter().find(|said| said.type_ == "KeysRotated"));
    if trouble.reason == report::PODS_LAG && said.is_none_or(|said| said.reason != report::PODS_LAG) {
        context.warn(plan, "KeyRotationWaits", &trouble.message).await;
    }
}

fn existing(source: Option<Secret>, secret: &str, key: &str) -> Result<KeyRing, Trouble> {
    let Some(source) = source else {
        let message = format!("spec.auth.secretRef names the Secret {secret:?}, which does not exist; create it");
        return Err(Trouble::stalled("SecretNotFound", message));
    };
    ring_in(&source, key).map_err(|what| {
        let message = format!(
            "the Secret {secret:?} has no valid key ring under {key:?} ({what}); \
             write {{\"active\": {{\"id\": \"...\", \"key\": \"<Base64 of at least 32 bytes>\"}}}}"
        );
        Trouble::stalled("SecretInvalid", message)
    })
}

/// The ring in a Secret, or why there is none; never a piece of it.
fn ring_in(secret: &Secret, key: &str) -> Result<KeyRing, String> {
    let data = secret.data.as_ref().and_then(|data| data.get(key));
    let Some(ByteString(json)) = data else { return Err(format!("the key {key:?} is missing")) };
    KeyRing::from_json(json).map_err(|error| match error {
        // A parser quotes what it does not understand.
        keyring::Error::Json(error) => {
            format!("not a key ring in JSON, at line {} column {}", error.line(), error.column())
        }
        other @ (keyring::Error::Id(_)
        | keyring::Error::Encoding { .. }
        | keyring::Error::TooShort { .. }
        | keyring::Error::DuplicateId(_)) => other.to_string(),
    })
}

fn new_key(now: Timestamp) -> Result<Key, Error> {
    let suffix = hexadecimal(&rand::random::<[u8; 3]>());
    let id = format!("k-{}-{suffix}", now.strftime("%Y%m%d%H%M%S"));
    let material: [u8; KEY_BYTES] = rand::random();
    Key::new(id, material.to_vec()).map_err(Error::Key)
}

/// An object restored from a backup has our label and another owner; one that was stripped of its labels still has the owner.
pub(super) fn owned<K: kube::ResourceExt>(object: &K, plan: &Plan) -> bool {
    object.owner_references().iter().any(|owner| owner.uid == plan.owner.uid)
}

pub(super) fn name_taken<K: kube::Resource<DynamicType = ()>>(_: &K, name: &str) -> Trouble {
    let kind = K::kind(&());
    let message = format!(
        "a {kind} called {name:?} exists and was not made by the operator; delete or rename it, \
         or give this resource another name"
    );
    Trouble::stalled("NameTaken", message)
}

/// What is the matter if the API server does not take an object that every resource has: nothing else has to wait for it.
pub(super) fn not_taken(error: Error, kind: &str, name: &str) -> Result<Trouble, Error> {
    error.or_refused("ObjectRefused", |words| {
        format!(
            "the API server does not take the {kind} {name} ({words}); change the quota or policy of the namespace that is against it. It is \
             tried again"
        )
    })
}

pub(super) fn suspended(what: &str) -> Trouble {
    Trouble::stalled("Suspended", format!("{what}, and nothing is written while spec.suspend is true"))
}
