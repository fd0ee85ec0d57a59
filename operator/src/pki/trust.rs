//! What the API server trusts: the `caBundle` of each entry of the `MutatingWebhookConfiguration`.
//!
//! Only that field is written, by server-side apply under a field manager of its own, so that the chart and this module
//! never fight over an object they share.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{MutatingWebhook, MutatingWebhookConfiguration, WebhookClientConfig},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use serde_json::json;

use super::{
    Error, Settings,
    authority::Published,
    certificate::{Leaf, bundle},
    maintain::bounded,
};

pub(super) const FIELD_MANAGER: &str = "context-manager/pki";

/// An entry of the configuration, as far as TLS is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    /// The name the API server checks the certificate against.
    server_name: String,
    bundle: Vec<u8>,
}

/// Why the API server would refuse what is served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    /// No leaf has been made yet.
    #[error("there is no certificate yet")]
    NoLeaf,
    /// The configuration has not been read yet, or does not exist.
    #[error("the MutatingWebhookConfiguration has not been found yet")]
    ConfigurationUnknown,
    /// An entry does not verify the leaf.
    #[error("entry {entry:?} of the MutatingWebhookConfiguration does not trust the served certificate: {what}")]
    Entry {
        /// Name of the entry.
        entry: String,
        /// What the verifier said.
        what: String,
    },
}

/// The entries of the configuration, or nothing when it does not exist.
pub(super) async fn fetch(client: &Client, settings: &Settings) -> Result<Option<Vec<Entry>>, Error> {
    let api = Api::<MutatingWebhookConfiguration>::all(client.clone());
    let found = bounded("read the MutatingWebhookConfiguration", api.get_opt(&settings.configuration)).await?;
    Ok(found.map(|configuration| configuration.webhooks.unwrap_or_default().iter().map(entry).collect()))
}

impl Entry {
    pub(super) fn bundle(&self) -> &[u8] {
        &self.bundle
    }
}

#[cfg(test)]
impl Entry {
    pub(super) fn new(name: &str, server_name: &str, bundle: &str) -> Self {
        Self { name: name.to_owned(), server_name: server_name.to_owned(), bundle: bundle.as_bytes().to_vec() }
    }
}

fn entry(webhook: &MutatingWebhook) -> Entry {
    let WebhookClientConfig { ca_bundle, service, url } = &webhook.client_config;
    let server_name = match (service, url) {
        (Some(service), _) => format!("{}.{}.svc", service.name, service.namespace),
        (None, Some(url)) => host(url),
        (None, None) => String::new(),
    };
    let bundle = ca_bundle.as_ref().map(|ByteString(bytes)| bytes.clone()).unwrap_or_default();
    Entry { name: webhook.name.clone(), server_name, bundle }
}

/// The host of an `https` URL, without the brackets of an IPv6 address.
fn host(url: &str) -> String {
    let uri = url.parse::<http::Uri>().ok();
    let host = uri.as_ref().and_then(http::Uri::host).unwrap_or_default();
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
}

/// Whether an entry does not have the bundle it should have.
pub(super) fn differs(entries: &[Entry], wanted: &str) -> bool {
    entries.iter().any(|entry| entry.bundle != wanted.as_bytes())
}

/// Whether all entries trust the CA.
pub(super) fn published(entries: &[Entry], certificate: &str) -> Published {
    let wanted = bundle(certificate.as_bytes());
    let trusts = |entry: &Entry| {
        let trusted = bundle(&entry.bundle);
        wanted.iter().all(|certificate| trusted.contains(certificate))
    };
    if entries.iter().all(trusts) { Published::Everywhere } else { Published::NotYet }
}

/// Sets the bundle of all entries.
pub(super) async fn apply(
    client: &Client,
    settings: &Settings,
    entries: &[Entry],
    wanted: &str,
) -> Result<Vec<Entry>, Error> {
    let bundle = ByteString(wanted.as_bytes().to_vec());
    let webhooks: Vec<_> =
        entries.iter().map(|entry| json!({"name": entry.name, "clientConfig": {"caBundle": bundle}})).collect();
    let patch = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": settings.configuration},
        "webhooks": webhooks,
    });
    let api = Api::<MutatingWebhookConfiguration>::all(client.clone());
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let patch = Patch::Apply(&patch);
    let applied = bounded(
        "set caBundle in the MutatingWebhookConfiguration",
        api.patch(&settings.configuration, &params, &patch),
    );
    Ok(applied.await?.webhooks.unwrap_or_default().iter().map(entry).collect())
}

/// Whether every entry verifies the leaf under the name it knows it by.
pub(super) fn verify_all(entries: &[Entry], leaf: &Leaf, now: Timestamp) -> Result<(), Untrusted> {
    if entries.is_empty() {
        return Err(Untrusted::ConfigurationUnknown);
    }
    entries.iter().try_for_each(|entry| {
        verify(entry, leaf.chain(), now).map_err(|what| Untrusted::Entry { entry: entry.name.clone(), what })
    })
}

fn verify(entry: &Entry, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<(), String> {
    let [leaf, between @ ..] = chain else { return Err("there is no certificate".to_owned()) };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(bundle(&entry.bundle));
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|_| "its caBundle is empty".to_owned())?;
    let name = ServerName::try_from(entry.server_name.as_str())
        .map_err(|error| format!("{:?} is not a host name ({error})", entry.server_name))?;
    let seconds = u64::try_from(now.as_second()).unwrap_or_default();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    verifier.verify_server_cert(leaf, between, &name, &[], now).map(|_| ()).map_err(|error| error.to_string())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::{
        super::{
            Lifetimes,
            authority::{Authorities, Step},
        },
        *,
    };

    const HOUR: Duration = Duration::from_hours(1);

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn entry_with(server_name: &str, bundle: &str) -> Entry {
        Entry::new("e", server_name, bundle)
    }

    #[test]
    fn a_leaf_is_trusted_by_its_bundle_name_and_time_only() {
        let lifetimes = Lifetimes::default();
        let authorities = Authorities::start(now(), &lifetimes).unwrap();
        let stranger = Authorities::start(now(), &lifetimes).unwrap();
        let names = ["hook.team.svc".to_owned(), "10.0.0.1".to_owned()];
        let leaf = authorities.signing.issue(&names, now(), HOUR).unwrap();
        let ours = authorities.bundle();
        let check = |entry: Entry, at: Timestamp| verify_all(&[entry], &leaf, at);
        assert_eq!(check(entry_with("hook.team.svc", &ours), now()), Ok(()));
        assert_eq!(check(entry_with("10.0.0.1", &ours), now()), Ok(()));
        assert!(check(entry_with("other.team.svc", &ours), now()).is_err());
        assert!(check(entry_with("hook.team.svc", &stranger.bundle()), now()).is_err());
        assert!(check(entry_with("hook.team.svc", ""), now()).is_err());
        assert!(check(entry_with("hook.team.svc", &ours), now() + 2 * HOUR).is_err());
        assert_eq!(verify_all(&[], &leaf, now()), Err(Untrusted::ConfigurationUnknown));
    }

    #[test]
    fn leaves_of_both_authorities_are_trusted_during_a_rotation() {
        let lifetimes = Lifetimes::default();
        let names = ["hook.team.svc".to_owned()];
        let start = Authorities::start(now(), &lifetimes).unwrap();
        let old_leaf = start.signing.issue(&names, now(), HOUR).unwrap();
        let prepared = start.advance(Step::Prepare, now(), &lifetimes).unwrap();
        let trusting = [entry_with("hook.team.svc", &prepared.bundle())];
        let promoted = prepared.advance(Step::Promote, now(), &lifetimes).unwrap();
        let new_leaf = promoted.signing.issue(&names, now(), HOUR).unwrap();
        assert_eq!(verify_all(&trusting, &old_leaf, now()), Ok(()));
        assert_eq!(verify_all(&trusting, &new_leaf, now()), Ok(()));
        let trusting = [entry_with("hook.team.svc", &promoted.bundle())];
        assert_eq!(verify_all(&trusting, &old_leaf, now()), Ok(()));
    }

    #[test]
    fn a_leaf_never_outlives_its_authority() {
        let lifetimes = Lifetimes { authority: HOUR, ..Lifetimes::default() };
        let authorities = Authorities::start(now(), &lifetimes).unwrap();
        let leaf = authorities.signing.issue(&["a.svc".to_owned()], now(), 10 * HOUR).unwrap();
        assert_eq!(leaf.validity.not_after, authorities.signing.not_after);
    }

    #[test]
    fn the_server_name_comes_from_the_service_or_the_url() {
        for (url, expected) in [
            ("https://10.244.0.1:9443/mutate", "10.244.0.1"),
            ("https://[::1]:9443/mutate", "::1"),
            ("https://hook.example/mutate", "hook.example"),
        ] {
            assert_eq!(host(url), expected);
        }
    }

    #[test]
    fn a_bundle_is_published_when_every_entry_has_it() {
        let lifetimes = Lifetimes::default();
        let start = Authorities::start(now(), &lifetimes).unwrap();
        let prepared = start.clone().advance(Step::Prepare, now(), &lifetimes).unwrap();
        let next = &prepared.next.as_ref().unwrap().authority.certificate;
        let (old, new) = (entry_with("a", &start.bundle()), entry_with("b", &prepared.bundle()));
        assert_eq!(published(&[old.clone(), new.clone()], next), Published::NotYet);
        assert_eq!(published(&[new.clone(), new.clone()], next), Published::Everywhere);
        assert!(differs(&[old, new.clone()], &prepared.bundle()));
        assert!(!differs(&[new], &prepared.bundle()));
    }
}
