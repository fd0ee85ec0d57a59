//! The webhook's certificates, made and renewed without anybody's help, or given by somebody else ([`Issuer`]).
//!
//! A CA lies in a `Secret` that all replicas of the webhook share. Each replica signs a short-lived leaf with it and keeps
//! that in memory only. The CA's certificates stand in the `caBundle` of each entry of the `MutatingWebhookConfiguration`,
//! which is the only field of it that this module ever writes.
//!
//! Invariants: a CA signs only after every entry has been seen to trust it for a while; a CA is dropped only after the
//! last leaf it can have signed has ended; a leaf that is trusted is only replaced by one that is; a write of the `Secret`
//! never overwrites another replica's; `caBundle` is written only by a replica that has just read the `Secret`. Nothing is ever
//! timed by one long sleep: the wall clock is read every few seconds and decides, since a sleeping timer does not notice
//! a paused or corrected clock.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tracing::info;

pub mod client;

mod authority;
mod certificate;
mod given;
mod maintain;
mod secret;
mod server;
mod trust;

pub use certificate::{check_bundle, only_certificates};
pub use maintain::maintain;
pub use trust::Untrusted;

use certificate::Leaf;
use trust::Entry;

/// Default name of the `Secret` with the webhook's CA.
pub const WEBHOOK_CA: &str = "context-manager-webhook-ca";
/// Default name of the `Secret` with the CA of the sidecars' certificates.
pub const CLIENT_CA: &str = "context-manager-client-ca";

/// Who makes the webhook's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Issuer {
    /// This program: a CA in the `Secret`, leaves in memory.
    SelfManaged,
    /// Whoever writes `tls.crt`, `tls.key` and `ca.crt` to the `Secret`; the last becomes `caBundle`.
    Existing,
    /// cert-manager, which writes the same `Secret`, and `caBundle` too.
    CertManager,
}

/// Names, places and times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Namespace of the `Secret`.
    pub namespace: String,
    /// Who makes the certificate.
    pub issuer: Issuer,
    /// Name of the `Secret` with the CA, or with the certificate of another issuer.
    pub secret: String,
    /// Name of the `MutatingWebhookConfiguration`.
    pub configuration: String,
    /// DNS names and addresses that the leaf is valid for.
    pub server_names: Vec<String>,
    /// How long things live.
    pub lifetimes: Lifetimes,
    /// Time between two looks at the clock and the cluster.
    pub poll: Duration,
}

/// How long certificates live, and what lies between the steps of a rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// Of a CA.
    pub authority: Duration,
    /// How long before its end a CA gets a successor.
    pub renew_before: Duration,
    /// Of a leaf; it is renewed after two thirds of it.
    pub leaf: Duration,
    /// How long a new CA must have been published before it signs.
    pub grace: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        const DAY: Duration = Duration::from_hours(24);
        Self { authority: 365 * DAY, renew_before: 60 * DAY, leaf: DAY, grace: Duration::from_mins(3) }
    }
}

/// The names under which the API server reaches a `Service`.
#[must_use]
pub fn service_names(service: &str, namespace: &str) -> Vec<String> {
    let short = format!("{service}.{namespace}.svc");
    vec![format!("{short}.cluster.local"), short, format!("{service}.{namespace}"), service.to_owned()]
}

/// The certificates in force: what is served, and what the API server trusts. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Certificates {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    leaf: ArcSwapOption<Leaf>,
    entries: ArcSwapOption<Vec<Entry>>,
    authority: ArcSwapOption<Validity>,
}

/// When a certificate ends, and what is to happen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Its end.
    pub not_after: Timestamp,
    /// From here on another one should be in its place.
    pub renew_at: Timestamp,
}

impl Certificates {
    /// Whether what the API server trusts verifies what is served here, at `now`.
    ///
    /// # Errors
    /// When there is no leaf yet, or an entry of the configuration would refuse it.
    pub fn check(&self, now: Timestamp) -> Result<(), Untrusted> {
        self.check_leaf(&*self.inner.leaf.load_full().ok_or(Untrusted::NoLeaf)?, now)
    }

    fn check_leaf(&self, leaf: &Leaf, now: Timestamp) -> Result<(), Untrusted> {
        let entries = self.inner.entries.load_full().ok_or(Untrusted::ConfigurationUnknown)?;
        trust::verify_all(&entries, leaf, now)
    }

    /// Serves this leaf from now on. While it is not trusted one that is trusted is kept; a leaf that is trusted by nobody is better than
    /// another one only in that it says why.
    fn serve(&self, leaf: impl Into<Arc<Leaf>>, now: Timestamp) -> Result<(), Untrusted> {
        let leaf = leaf.into();
        match self.check_leaf(&leaf, now) {
            Err(untrusted) if self.check(now).is_ok() => Err(untrusted),
            Ok(()) | Err(_) => {
                info!(certificate.not_after = %leaf.validity.not_after, "Serving a new certificate");
                self.inner.leaf.store(Some(leaf));
                Ok(())
            }
        }
    }

    /// The dates of the served leaf.
    #[must_use]
    pub fn leaf(&self) -> Option<Validity> {
        self.inner.leaf.load().as_ref().map(|leaf| leaf.validity)
    }

    /// The dates of the CA that signs.
    #[must_use]
    pub fn authority(&self) -> Option<Validity> {
        self.inner.authority.load().as_deref().copied()
    }
}

#[cfg(test)]
impl Certificates {
    /// Serves a leaf of a new CA from now on; returns the CA's certificate.
    pub(crate) fn serve_new_leaf(&self, name: &str) -> String {
        let now = Timestamp::now();
        let hour = Duration::from_hours(1);
        let authority = certificate::Authority::generate(now, hour).expect("a CA");
        let leaf = authority.issue(&[name.to_owned()], now, hour).expect("a leaf");
        self.inner.leaf.store(Some(Arc::new(leaf)));
        authority.certificate
    }
}

/// The certificates of a PEM bundle.
#[cfg(test)]
pub(crate) fn read_bundle(pem: &str) -> Vec<rustls::pki_types::CertificateDer<'static>> {
    certificate::bundle(pem.as_bytes())
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.inner.leaf.load().as_ref().map(|leaf| Arc::clone(&leaf.key))
    }
}

/// What can go wrong; all of it is tried again at the next poll.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A certificate could not be made.
    #[error("failed to make a certificate for {subject}")]
    Make {
        /// For whom.
        subject: String,
        /// What the library said.
        source: rcgen::Error,
    },
    /// A key could not be used for serving.
    #[error("failed to use the key of the new leaf")]
    UseKey(#[source] rustls::Error),
    /// A new leaf would be refused.
    #[error("a new certificate is not trusted yet, so the old one is served on")]
    KeptLeaf(#[source] Untrusted),
    /// The `Secret` has something else in it.
    #[error("secret {secret:?} has no valid CA: {what}")]
    InvalidSecret {
        /// Its name.
        secret: String,
        /// What is wrong with it.
        what: String,
    },
    /// The certificate of another issuer cannot be used.
    #[error("secret {secret:?} cannot be used: {what}; write tls.crt, tls.key and ca.crt in PEM to it")]
    GivenSecret {
        /// Its name.
        secret: String,
        /// What is wrong with it.
        what: String,
    },
    /// Others changed the `Secret` again and again.
    #[error("secret {secret:?} was changed by others at each attempt to write it")]
    Raced {
        /// Its name.
        secret: String,
    },
    /// The API server did not answer in time.
    #[error("the API server did not answer within {seconds} s when asked to {action}")]
    Timeout {
        /// What was asked.
        action: &'static str,
        /// How long was waited.
        seconds: u64,
    },
    /// The API server refused.
    #[error("failed to {action}")]
    Api {
        /// What was asked.
        action: &'static str,
        /// What it answered.
        source: Box<kube::Error>,
    },
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::{certificate::Authority, *};

    #[test]
    fn a_trusted_leaf_is_only_replaced_by_a_trusted_one_until_it_ends() {
        let (now, hour) = (Timestamp::now(), Duration::from_hours(1));
        let [trusted, stranger] = [(); 2].map(|()| Authority::generate(now, 3 * hour).unwrap());
        let names = ["hook.team.svc".to_owned()];
        let leaf = |authority: &Authority, lifetime| authority.issue(&names, now, lifetime).unwrap();
        let certificates = Certificates::default();
        assert_eq!(certificates.serve(leaf(&stranger, hour), now), Ok(()), "there is nothing to keep");
        certificates.inner.entries.store(Some(Arc::new(vec![Entry::new("e", &names[0], &trusted.certificate)])));
        assert!(matches!(certificates.check(now), Err(Untrusted::Entry { .. })));
        certificates.serve(leaf(&trusted, hour), now).unwrap();
        certificates.check(now).unwrap();
        assert!(certificates.serve(leaf(&stranger, 2 * hour), now).is_err());
        certificates.check(now).unwrap();
        let after_its_end = now + 61 * Duration::from_mins(1);
        assert!(certificates.serve(leaf(&stranger, 2 * hour), after_its_end).is_ok());
        assert!(matches!(certificates.check(after_its_end), Err(Untrusted::Entry { .. })));
    }
}
