//! What the nodes of a managed Qdrant prove themselves by and ask for: an API key that is made once, and a certificate that is renewed.

use std::time::Duration;

use context_manager_crds::context_manager::status::Certificate;
use context_manager_protocol::names;
use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::Time};
use kube::Api;
use secrecy::SecretString;
use sha2::{Digest as _, Sha256};

use super::{build, off};
use crate::{
    controller::{
        apply::{Manager, apply, covers},
        build as children,
        certificate::pair_in,
        context::Context,
        error::{Error, call},
        keys::{name_taken, not_taken, owned, suspended},
        plan::{ManagedPlan, Plan},
        status::Trouble,
        store::Credentials,
    },
    pki::client::{Facts, Pair},
};
use context_manager_protocol::hexadecimal::hexadecimal;

/// Key of the Secret: the API key.
pub(super) const API_KEY: &str = "api-key";
/// How long a certificate lives. Nodes read theirs when they start, so a new one makes them start anew, one by one.
const LIFETIME: Duration = Duration::from_hours(365 * 24);
/// How long before its end it is renewed.
const RENEW_BEFORE: Duration = Duration::from_hours(90 * 24);
/// Bytes of an API key that is made here; tokens are signed with it.
const KEY_BYTES: usize = 32;

/// What is in the Secret.
pub(super) struct Material {
    /// For the operator itself, and for tokens.
    pub(super) credentials: Credentials,
    /// Another one is a reason to start the nodes anew.
    pub(super) fingerprint: String,
    /// The certificate, if there is one. Nodes that were not restarted since it was made have the one before.
    pub(super) certificate: Option<Certificate>,
}

/// What is done about an API key that is gone, or cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// Another one takes its place, with which the nodes are restarted.
    Replace,
    /// It is said: nodes that nobody restarts go on with the one they have, and would refuse what is signed with another.
    Report,
}

/// Brings the Secret to what it should be.
pub(super) async fn ensure(
    context: &Context,
    plan: &Plan,
    wanted: &ManagedPlan,
    lost: Lost,
) -> Result<Result<Material, Trouble>, Error> {
    let name = names::qdrant(&plan.name);
    let api = Api::<Secret>::namespaced(context.client.clone(), &plan.namespace);
    let live = call("read the managed Qdrant's Secret", api.get_opt(&name)).await?;
    if let Some(foreign) = live.as_ref().filter(|live| !children::is_ours(&live.metadata) && !owned(*live, plan)) {
        return Ok(Err(name_taken(foreign, &name)));
    }
    let kept = live.as_ref().and_then(key_in);
    if kept.is_none() && lost == Lost::Report {
        return Ok(Err(key_missing(&name)));
    }
    let is_replaced = live.is_some() && kept.is_none();
    let key = kept.unwrap_or_else(|| hexadecimal(&rand::random::<[u8; KEY_BYTES]>()));
    let mut files = vec![(API_KEY, key.clone())];
    let (mut ca, mut described) = (None, None);
    if wanted.encrypted {
        let trust = context.authority.trust(&context.client).await?;
        let (hosts, now) = (build::hosts(plan), Timestamp::now());
        let current = live.as_ref().and_then(pair_in).filter(|pair| {
            trust.check_server(pair, &hosts, now).is_ok_and(|facts| {
                Duration::try_from(facts.not_after.duration_since(now)).is_ok_and(|rest| rest > RENEW_BEFORE)
            })
        });
        let Pair { certificate, key } = match current {
            Some(pair) => pair,
            None if plan.suspended => return Ok(Err(suspended("The managed Qdrant's certificate is to be made"))),
            None => trust.issue_server(&hosts, now, LIFETIME).map_err(Error::Certificate)?,
        };
        described = describe(&certificate);
        let bundle = trust.bundle();
        files.extend([
            (names::CA_FILE, bundle.clone()),
            (names::CERTIFICATE_FILE, certificate),
            (names::PRIVATE_KEY_FILE, key),
        ]);
        ca = Some(bundle.into_bytes());
    }
    let fingerprint = fingerprint(&files);
    let desired = secret(plan, name.clone(), files);
    if live.as_ref().is_none_or(|live| !covers(live, &desired)) {
        if plan.suspended {
            return Ok(Err(suspended("The managed Qdrant's Secret is not up to date")));
        }
        let applied =
            apply(&api, &name, &desired, &context.manager(Manager::Store), "write the managed Qdrant's Secret").await;
        if let Err(error) = applied {
            return Ok(Err(not_taken(error, "Secret", &name)?));
        }
        context.wrote("qdrant");
        if is_replaced {
            let note =
                format!("Made a new API key in Secret {name}, because the old one is gone; the nodes are restarted");
            context.warn(plan, "StoreKeyReplaced", &note).await;
        }
    }
    if let Some(Certificate { not_after, .. }) = &described {
        context.metrics.managed.certificate(plan, not_after.0);
    }
    Ok(Ok(Material {
        credentials: Credentials { key: Some(SecretString::from(key)), ca, certificate: None },
        fingerprint,
        certificate: described,
    }))
}

/// What the status says of a certificate.
fn describe(pem: &str) -> Option<Certificate> {
    let Facts { not_after, fingerprint, lifetime: _ } = Facts::read(pem)?;
    Some(Certificate { name: "nodes".to_owned(), not_after: Time(not_after), fingerprint })
}

fn key_missing(name: &str) -> Trouble {
    let message = format!(
        "there is no {API_KEY} in the Secret {name}, so sidecars get no tokens any more, and the operator may not restart nodes with \
         another one; set controller.managedQdrant=true in the values of the chart, or write the key of the nodes into the Secret again"
    );
    Trouble::stalled(off::REASON, message)
}

fn secret(plan: &Plan, name: String, files: Vec<(&str, String)>) -> Secret {
    let data = files.into_iter().map(|(file, text)| (file.to_owned(), ByteString(text.into_bytes())));
    Secret {
        metadata: children::metadata(plan, name, true),
        data: Some(data.collect()),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

/// The API key, if it is one that tokens can be signed with.
fn key_in(secret: &Secret) -> Option<String> {
    let ByteString(bytes) = secret.data.as_ref()?.get(API_KEY)?;
    let text = String::from_utf8(bytes.clone()).ok()?;
    (text.len() >= KEY_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic())).then_some(text)
}

fn fingerprint(files: &[(&str, String)]) -> String {
    let mut digest = Sha256::new();
    for (file, text) in files {
        digest.update(format!("{file} {} {text} ", text.len()));
    }
    hexadecimal(&digest.finalize()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_too_short_or_more_than_a_word_is_made_anew() {
        let read = |key: &str| {
            let data = [(API_KEY.to_owned(), ByteString(key.into()))].into();
            key_in(&Secret { data: Some(data), ..Secret::default() })
        };
        let good = "0123456789abcdef0123456789abcdef";
        assert_eq!(read(good).as_deref(), Some(good));
        assert_eq!(read("short"), None);
        assert_eq!(read(&format!("{good} ")), None);
        assert_eq!(key_in(&Secret::default()), None);
    }

    #[test]
    fn another_certificate_is_another_fingerprint() {
        let with = |text: &str| fingerprint(&[(API_KEY, "key".to_owned()), (names::CERTIFICATE_FILE, text.to_owned())]);
        assert_eq!(with("a"), with("a"));
        assert_ne!(with("a"), with("b"));
    }
}
