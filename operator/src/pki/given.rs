//! Certificates that somebody else makes: a `Secret` with `tls.crt`, `tls.key` and `ca.crt`, which is only read here.
//!
//! Nobody tells whether the `Secret`'s owner lets CAs overlap, so it is done here: what a changed `Secret` brings is published
//! first beside what was trusted before, is served after the grace, and what is not in `ca.crt` leaves the bundle after twice
//! the grace. The start of that is the date of the last change, as the `Secret` itself tells it, so that all replicas agree.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, Client};
use rustls::{
    crypto::ring::sign::any_supported_type,
    pki_types::{PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

use super::{
    Error, Settings, Validity,
    certificate::{Leaf, bundle, given_validity, later, not_after},
    maintain::bounded,
    trust::Entry,
};

const END: &str = "-----END CERTIFICATE-----";

/// What the `Secret` holds.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) leaf: Arc<Leaf>,
    /// `ca.crt`; empty if there is none.
    authorities: String,
    /// When the `Secret` was written last.
    changed: Timestamp,
}

pub(super) async fn fetch(client: &Client, settings: &Settings) -> Result<Given, Error> {
    let api = Api::<Secret>::namespaced(client.clone(), &settings.namespace);
    let found = bounded("read the secret with the certificate", api.get_opt(&settings.secret)).await?;
    let given = found.ok_or_else(|| "it does not exist".to_owned()).and_then(|secret| Given::read(&secret));
    given.map_err(|what| Error::GivenSecret { secret: settings.secret.clone(), what })
}

/// The files of a `Secret` of that form.
pub(super) struct Files<'a> {
    pub(super) certificate: &'a str,
    pub(super) key: &'a str,
    /// `ca.crt`; empty if there is none.
    pub(super) authorities: &'a str,
    /// The certificate, those between it and its CA, and the key.
    pub(super) pair: CertifiedKey,
}

impl<'a> Files<'a> {
    /// Reads them, and whether key and certificate belong together; an error says what is wrong in words.
    pub(super) fn read(secret: &'a Secret) -> Result<Self, String> {
        let text = |key: &str| {
            let ByteString(bytes) = secret.data.as_ref()?.get(key)?;
            std::str::from_utf8(bytes).ok()
        };
        let needed = |key: &str| text(key).ok_or_else(|| format!("{key} is missing"));
        let (certificate, key) = (needed("tls.crt")?, needed("tls.key")?);
        not_after(certificate).map_err(|what| format!("tls.crt: {what}"))?;
        let signer = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|error| format!("tls.key is not a private key in PEM ({error})"))?;
        let signer = any_supported_type(&signer).map_err(|error| format!("tls.key cannot be used ({error})"))?;
        let pair = CertifiedKey::new(bundle(certificate.as_bytes()), signer);
        pair.keys_match().map_err(|_| "tls.key and tls.crt do not belong together".to_owned())?;
        Ok(Self { certificate, key, authorities: text("ca.crt").unwrap_or_default(), pair })
    }
}

impl Given {
    /// Reads it; an error says what is wrong in words.
    fn read(secret: &Secret) -> Result<Self, String> {
        let Files { certificate, key: _, authorities, pair } = Files::read(secret)?;
        let validity = given_validity(certificate).map_err(|what| format!("tls.crt: {what}"))?;
        let leaf = Leaf { key: Arc::new(pair), validity, issuer: String::new() };
        let writes = secret.metadata.managed_fields.iter().flatten().filter_map(|entry| Some(entry.time.as_ref()?.0));
        let made = secret.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let changed = writes.chain(made).max().unwrap_or(Timestamp::MIN);
        Ok(Self { leaf: Arc::new(leaf), authorities: authorities.to_owned(), changed })
    }

    /// Whether the API server has had the time to hear of what is published for this leaf.
    pub(super) fn settled(&self, now: Timestamp, grace: Duration) -> bool {
        now >= later(self.changed, grace)
    }

    /// The dates of the CA that ends last.
    pub(super) fn last_authority(&self) -> Option<Validity> {
        blocks(&self.authorities).filter_map(|pem| given_validity(pem).ok()).max_by_key(|validity| validity.not_after)
    }

    /// What `caBundle` should be: `ca.crt`, and for twice the grace after a change what the entries trusted before.
    pub(super) fn bundle(&self, entries: &[Entry], now: Timestamp, grace: Duration) -> Result<String, String> {
        let ours = bundle(self.authorities.as_bytes());
        if ours.is_empty() {
            return Err("ca.crt is missing or has no certificate in PEM".to_owned());
        }
        let mut wanted = format!("{}\n", self.authorities.trim_end());
        if now >= later(self.changed, grace * 2) {
            return Ok(wanted);
        }
        let mut there = ours;
        for entry in entries {
            for pem in blocks(std::str::from_utf8(entry.bundle()).unwrap_or_default()) {
                let certificate = bundle(pem.as_bytes());
                let lives = not_after(pem).is_ok_and(|ends| now < ends);
                if lives && certificate.iter().all(|certificate| !there.contains(certificate)) {
                    there.extend(certificate);
                    wanted = format!("{wanted}{pem}\n");
                }
            }
        }
        Ok(wanted)
    }
}

/// The certificates of a PEM text, each as text.
fn blocks(pem: &str) -> impl Iterator<Item = &str> {
    pem.split_inclusive(END).map(str::trim).filter(|block| block.ends_with(END))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::{super::certificate::Authority, *};

    const HOUR: Duration = Duration::from_hours(1);
    const GRACE: Duration = Duration::from_mins(3);

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    /// A Secret of the form that cert-manager writes, and people by `kubectl create secret tls`.
    fn secret(certificate: &str, key: &str, authority: Option<&str>) -> Secret {
        let mut text = json!({"tls.crt": certificate, "tls.key": key});
        if let Some(authority) = authority {
            text["ca.crt"] = json!(authority);
        }
        let data = text.as_object().unwrap().iter();
        let data = data.map(|(key, value)| (key.clone(), ByteString(value.as_str().unwrap().as_bytes().to_vec())));
        let mut secret: Secret = serde_json::from_value(json!({
            "metadata": {
                "creationTimestamp": "2020-01-01T00:00:00Z",
                "managedFields": [{"manager": "a", "time": now().to_string()}, {"manager": "b", "time": "2021-01-01T00:00:00Z"}],
            },
            "type": "kubernetes.io/tls",
        }))
        .unwrap();
        secret.data = Some(data.collect());
        secret
    }

    #[test]
    fn a_secret_is_read_with_its_chain_and_the_date_of_its_last_change() {
        let authority = Authority::generate(now(), HOUR).unwrap();
        let chain = format!("{}{}", authority.certificate, authority.certificate);
        let given = Given::read(&secret(&chain, &authority.key, Some(&authority.certificate))).unwrap();
        assert_eq!(given.leaf.key.cert.len(), 2);
        assert_eq!((given.leaf.validity.not_after, given.changed), (authority.not_after, now()));
        assert_eq!(given.last_authority(), Some(given.leaf.validity));
        assert!(!given.settled(now(), GRACE) && given.settled(later(now(), GRACE), GRACE));
    }

    #[test]
    fn what_was_given_ends_soon_in_its_last_third_and_in_its_last_month() {
        let soon = |days: u32| {
            let authority = Authority::generate(now(), HOUR * 24 * days).unwrap();
            let given = Given::read(&secret(&authority.certificate, &authority.key, None)).unwrap();
            let Validity { not_after, renew_at } = given.leaf.validity;
            let notice = Duration::try_from(not_after.duration_since(renew_at)).unwrap();
            // A CA is made as if it had begun a little earlier.
            notice.as_secs() / 3600
        };
        assert_eq!([soon(3), soon(90), soon(3650)], [24, 30 * 24, 30 * 24]);
    }

    #[test]
    fn what_was_trusted_stays_for_twice_the_grace_unless_it_has_ended() {
        let [old, new] = [now(), later(now(), HOUR)].map(|at| Authority::generate(at, HOUR).unwrap());
        let given = Given::read(&secret(&new.certificate, &new.key, Some(&new.certificate))).unwrap();
        let entries = [Entry::new("e", "n", &old.certificate), Entry::new("f", "n", &new.certificate)];
        let both = given.bundle(&entries, now(), GRACE).unwrap();
        assert_eq!(
            bundle(both.as_bytes()),
            [bundle(new.certificate.as_bytes()), bundle(old.certificate.as_bytes())].concat()
        );
        let again = [Entry::new("e", "n", &both), Entry::new("f", "n", &both)];
        assert_eq!(given.bundle(&again, now(), GRACE).unwrap(), both, "it does not grow");
        let alone = format!("{}\n", new.certificate.trim_end());
        assert_eq!(given.bundle(&again, later(now(), 2 * GRACE), GRACE).unwrap(), alone);
        let long = later(now(), HOUR);
        assert_eq!(given.bundle(&again, long, 10 * HOUR).unwrap(), alone, "it has ended");
    }

    #[test]
    fn a_secret_that_cannot_be_used_is_refused_with_a_reason() {
        let [one, other] = [(); 2].map(|()| Authority::generate(now(), HOUR).unwrap());
        let refusal = |secret: Secret| Given::read(&secret).unwrap_err();
        assert!(refusal(Secret::default()).contains("tls.crt is missing"));
        assert!(refusal(secret("hello", &one.key, None)).contains("not PEM"));
        assert!(refusal(secret(&one.certificate, "hello", None)).contains("tls.key is not a private key"));
        assert!(refusal(secret(&one.certificate, &other.key, None)).contains("do not belong together"));
        let without = Given::read(&secret(&one.certificate, &one.key, None)).unwrap();
        assert!(without.bundle(&[], now(), GRACE).unwrap_err().contains("ca.crt is missing"));
    }
}
