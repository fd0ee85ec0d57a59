//! The key ring of a resource: made once, or followed from a Secret of the user.
//!
//! A ring that was made is never made again while it is valid: labels and owner are put right without touching it. A ring that
//! somebody damaged or deleted cannot be known any more; a new one takes its place, and an event says so.

use context_manager_crds::context_manager::status::Keys;
use context_manager_protocol::{
    keyring::{self, Key, KeyRing},
    names,
};
use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::Time};
use kube::{Api, api::PostParams};

use super::{
    apply::{Manager, apply, covers},
    build,
    error::{Error, call},
    plan::{KeySource, Plan},
    reconcile::Context,
    status::{Good, Trouble, seconds},
};

/// Bytes of a key that is made here.
const KEY_BYTES: usize = 32;

/// The ring in force, or why there is none.
pub(super) type Found = Result<(Keys, Good), Trouble>;

/// Brings the key ring's Secret to what it should be.
pub(super) async fn ensure(context: &Context, plan: &Plan) -> Result<Found, Error> {
    let name = names::keys_secret(&plan.name);
    let api = Api::<Secret>::namespaced(context.client.clone(), &plan.namespace);
    let live = call("read the key ring", api.get_opt(&name)).await?;
    if let Some(foreign) = live.as_ref().filter(|live| !build::is_ours(&live.metadata) && !owned(*live, plan)) {
        return Ok(Err(name_taken(foreign, &name)));
    }
    match &plan.keys {
        KeySource::Generate => generate(context, plan, &api, live).await,
        KeySource::Existing { secret, key } => {
            let source = call("read the Secret of spec.auth.secretRef", api.get_opt(secret)).await?;
            match existing(source, secret, key) {
                Ok(ring) => follow(context, plan, &api, live, &ring).await,
                Err(trouble) => Ok(Err(trouble)),
            }
        }
    }
}

async fn generate(context: &Context, plan: &Plan, api: &Api<Secret>, live: Option<Secret>) -> Result<Found, Error> {
    let name = names::keys_secret(&plan.name);
    let now = Timestamp::now();
    let Some(live) = live else {
        if plan.suspended {
            return Ok(Err(suspended("The key ring does not exist")));
        }
        let ring = new_ring(now)?;
        let mut secret = build::keys_secret(plan, Some(&ring));
        let since = [(build::ROTATED_AT.to_owned(), seconds(now).to_string())].into();
        secret.metadata.annotations = Some(since);
        let params = PostParams { field_manager: Some(Manager::Keys.as_str().to_owned()), ..PostParams::default() };
        let made = call("create the key ring", api.create(&params, &secret)).await?;
        context.wrote("keys_secret");
        context.tell(plan, "KeysGenerated", &format!("Made key {} in Secret {name}", ring.active().id())).await;
        return Ok(Ok(describe(&ring, &made)));
    };
    match ring_in(&live, names::KEYS_FILE) {
        Ok(ring) => {
            let metadata = build::keys_secret(plan, None);
            if !plan.suspended && !covers(&live.metadata, &metadata.metadata) {
                apply(api, &name, &metadata, Manager::Keys, "put the key ring's labels right").await?;
                context.wrote("keys_secret");
            }
            Ok(Ok(describe(&ring, &live)))
        }
        Err(what) if plan.suspended => Ok(Err(suspended(&format!("The key ring is not valid ({what})")))),
        Err(what) => {
            let ring = new_ring(now)?;
            let mut secret = build::keys_secret(plan, Some(&ring));
            // A Secret's type cannot be changed.
            secret.type_.clone_from(&live.type_);
            secret.metadata.annotations = Some([(build::ROTATED_AT.to_owned(), seconds(now).to_string())].into());
            let made = apply(api, &name, &secret, Manager::Keys, "replace the damaged key ring").await?;
            context.wrote("keys_secret");
            let note = format!("Secret {name} had no valid key ring ({what}); made key {}", ring.active().id());
            context.warn(plan, "KeysReplaced", &note).await;
            Ok(Ok(describe(&ring, &made)))
        }
    }
}

/// Copies the user's ring to where pods mount it.
async fn follow(
    context: &Context,
    plan: &Plan,
    api: &Api<Secret>,
    live: Option<Secret>,
    ring: &KeyRing,
) -> Result<Found, Error> {
    let mut wanted = build::keys_secret(plan, Some(ring));
    if let Some(live) = &live {
        // A Secret's type cannot be changed.
        wanted.type_.clone_from(&live.type_);
    }
    match live {
        Some(live) if covers(&live, &wanted) => return Ok(Ok(describe(ring, &live))),
        _ if plan.suspended => return Ok(Err(suspended("The copy of the key ring is not up to date"))),
        Some(_) | None => {}
    }
    let written = apply(api, &names::keys_secret(&plan.name), &wanted, Manager::Keys, "copy the key ring").await?;
    context.wrote("keys_secret");
    Ok(Ok(describe(ring, &written)))
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

fn describe(ring: &KeyRing, secret: &Secret) -> (Keys, Good) {
    let ids = |keys: &[Key]| keys.iter().map(|key| key.id().to_owned()).collect();
    let annotated = secret.metadata.annotations.as_ref().and_then(|all| all.get(build::ROTATED_AT)?.parse().ok());
    let keys = Keys {
        active: ring.active().id().to_owned(),
        previous: ids(ring.previous()),
        next: ring.next().map(|key| key.id().to_owned()),
        rotated_at: annotated.map(Time).or_else(|| secret.metadata.creation_timestamp.clone()),
        next_rotation: None,
    };
    let message = format!("key {} signs", keys.active);
    (keys, Good("Provisioned", message))
}

fn new_ring(now: Timestamp) -> Result<KeyRing, Error> {
    let suffix: [u8; 3] = rand::random();
    let suffix = suffix.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    let id = format!("k-{}-{suffix}", now.strftime("%Y%m%d%H%M%S"));
    let material: [u8; KEY_BYTES] = rand::random();
    Key::new(id, material.to_vec()).map(KeyRing::new).map_err(Error::Key)
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

pub(super) fn suspended(what: &str) -> Trouble {
    Trouble::stalled("Suspended", format!("{what}, and nothing is written while spec.suspend is true"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn secret(json: &str) -> Secret {
        let data = [("keys.json".to_owned(), ByteString(json.as_bytes().to_vec()))].into();
        Secret { data: Some(data), ..Secret::default() }
    }

    #[test]
    fn new_keys_are_valid_and_differ() {
        let rings = [new_ring(Timestamp::now()).unwrap(), new_ring(Timestamp::now()).unwrap()];
        assert_ne!(rings[0].active().material(), rings[1].active().material());
        let found = ring_in(&secret(std::str::from_utf8(&rings[0].to_json()).unwrap()), "keys.json").unwrap();
        assert_eq!(found.active().id(), rings[0].active().id());
    }

    #[test]
    fn a_complaint_about_a_ring_never_quotes_it() {
        for json in [r#"{"active": {"id": "k", "key": "c2VjcmV0"}}"#, r#""c2VjcmV0""#, "c2VjcmV0", r#"{"c2VjcmV0": 1}"#]
        {
            let what = ring_in(&secret(json), "keys.json").unwrap_err();
            assert!(!what.contains("c2VjcmV0") && !what.contains("secret"), "{what}");
        }
        assert!(ring_in(&secret("{}"), "other").unwrap_err().contains("missing"));
    }

    #[test]
    fn a_missing_source_says_what_to_create() {
        let trouble = existing(None, "mine", "keys.json").unwrap_err();
        assert!(trouble.stalled && trouble.message.contains("\"mine\"") && trouble.message.contains("create it"));
    }
}
