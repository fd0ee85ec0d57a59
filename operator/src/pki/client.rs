//! Client certificates of sidecars, signed by a CA of their own with the same rotation as the webhook's.
//!
//! Only the leader of the controllers writes the CA's `Secret`. A new CA stands in every bundle for a while before it
//! signs; the controller brings bundles up to date at least at every resync, which is far shorter than that while.

mod given;

use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use sha2::{Digest as _, Sha256};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName};

use super::{
    Error, Lifetimes,
    authority::{Authorities, Published, Step},
    certificate::{self, BACKDATED},
    secret::{self, Stored, Written},
};
use context_manager_protocol::hexadecimal::hexadecimal;
pub use given::Given;

/// The common name of every client certificate; whom one speaks for is its [`Identity`].
const COMMON_NAME: &str = "Context Manager sidecar";

/// Where the CA is kept, and how long it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Namespace of the `Secret`.
    pub namespace: String,
    /// Name of the `Secret`.
    pub secret: String,
    /// How long things live.
    pub lifetimes: Lifetimes,
}

impl Settings {
    /// A CA of five years that gets a successor after three. Certificates live a year at most.
    #[must_use]
    pub fn new(namespace: impl Into<String>, secret: impl Into<String>) -> Self {
        const YEAR: Duration = Duration::from_hours(8_760);
        let lifetimes =
            Lifetimes { authority: YEAR * 5, renew_before: YEAR * 2, leaf: YEAR, grace: Duration::from_mins(10) };
        Self { namespace: namespace.into(), secret: secret.into(), lifetimes }
    }
}

/// Whom a certificate speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity(String);

impl Identity {
    /// The sidecars of the `ContextManager` called `name`, as a SPIFFE id.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self(format!("spiffe://contextmanager.dev/ns/{namespace}/contextmanager/{name}"))
    }

    /// The id, as it stands in a certificate.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A certificate with its key, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Pair").field("certificate", &self.certificate).field("key", &"[redacted]").finish()
    }
}

/// What a valid certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// When it ends.
    pub not_after: Timestamp,
    /// How long it was made to live.
    pub lifetime: Duration,
    /// SHA-256 of its DER form, in hexadecimal.
    pub fingerprint: String,
}

/// The CAs in force.
#[derive(Clone, Debug)]
pub struct Trust {
    authorities: Authorities,
}

impl Trust {
    /// A trust that is kept nowhere.
    ///
    /// # Errors
    /// When no key can be made.
    #[cfg(test)]
    pub(crate) fn generate(now: Timestamp) -> Result<Self, Error> {
        Ok(Self { authorities: Authorities::start(now, &Settings::new("", "").lifetimes)? })
    }

    /// All certificates that sidecars trust, in PEM.
    #[must_use]
    pub fn bundle(&self) -> String {
        self.authorities.bundle()
    }

    /// A new certificate of `identity`. It never outlives the CA.
    ///
    /// # Errors
    /// When a key or certificate cannot be made.
    pub fn issue(&self, identity: &Identity, now: Timestamp, lifetime: Duration) -> Result<Pair, Error> {
        let make = || {
            let mut params = CertificateParams::default();
            params.distinguished_name = certificate::name(COMMON_NAME);
            params.subject_alt_names = vec![SanType::URI(identity.0.as_str().try_into()?)];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            self.sign(params, now, lifetime)
        };
        make().map_err(|source| Error::Make { subject: identity.0.clone(), source })
    }

    /// A pair with a new key. It never outlives the CA.
    pub(super) fn sign(
        &self,
        mut params: CertificateParams,
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<Pair, rcgen::Error> {
        let signing = &self.authorities.signing;
        let rest = Duration::try_from(signing.not_after.duration_since(now)).unwrap_or_default();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        certificate::set_times(&mut params, now, lifetime.min(rest));
        let issuer = Issuer::from_ca_cert_pem(&signing.certificate, KeyPair::from_pem(&signing.key)?)?;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?.pem();
        Ok(Pair { certificate, key: key.serialize_pem() })
    }

    /// Whether a pair is what [`Self::issue`] would make: of `identity`, in force at `now`, with the right key, and
    /// verified by the bundle. An error says in words what is wrong.
    ///
    /// # Errors
    /// When it is not.
    pub fn check(&self, pair: &Pair, identity: &Identity, now: Timestamp) -> Result<Facts, String> {
        let names = |names: &[GeneralName<'_>]| matches!(names, [GeneralName::URI(uri)] if *uri == identity.0);
        self.examine(pair, names, now)
    }

    /// The same for a pair whose names are as told.
    pub(super) fn examine(
        &self,
        pair: &Pair,
        is_right: impl Fn(&[GeneralName<'_>]) -> bool,
        now: Timestamp,
    ) -> Result<Facts, String> {
        let der = CertificateDer::from_pem_slice(pair.certificate.as_bytes())
            .map_err(|error| format!("the certificate is not PEM ({error})"))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der)
            .map_err(|error| format!("the certificate cannot be read ({error})"))?;
        let key = KeyPair::from_pem(&pair.key).map_err(|_| "the key is not a private key in PEM".to_owned())?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err("key and certificate do not belong together".to_owned());
        }
        let names = parsed.subject_alternative_name().ok().flatten();
        if !names.is_some_and(|names| is_right(&names.value.general_names)) {
            return Err("the certificate speaks for somebody else".to_owned());
        }
        certificate::verify_client(&self.bundle(), std::slice::from_ref(&der), now)
            .map_err(|error| error.to_string())?;
        Facts::of(&der, &parsed)
    }
}

impl Facts {
    /// What the first certificate of a PEM text says, whether it can be trusted or not.
    #[must_use]
    pub fn read(pem: &str) -> Option<Self> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).ok()?;
        Self::of(&der, &parsed).ok()
    }

    fn of(der: &CertificateDer<'_>, parsed: &X509Certificate<'_>) -> Result<Self, String> {
        let validity = parsed.validity();
        let time = |seconds: i64| Timestamp::from_second(seconds).map_err(|error| error.to_string());
        let not_after = time(validity.not_after.timestamp())?;
        let whole = Duration::try_from(not_after.duration_since(time(validity.not_before.timestamp())?));
        Ok(Self {
            not_after,
            lifetime: whole.unwrap_or_default().saturating_sub(BACKDATED),
            fingerprint: hexadecimal(&Sha256::digest(der)),
        })
    }
}

/// Reads the CAs, makes them if there are none, and does the step of the rotation that is due. Those that are `remembered` outlive a `Secret`
/// that has vanished or was damaged: servers trust them, and everything that they signed.
///
/// # Errors
/// When the `Secret` cannot be read or written, or somebody else wrote it meanwhile.
pub async fn keep(
    client: &Client,
    settings: &Settings,
    remembered: Option<&Trust>,
    now: Timestamp,
) -> Result<Trust, Error> {
    let Settings { namespace, secret, lifetimes } = settings;
    let place = super::Settings {
        namespace: namespace.clone(),
        issuer: super::Issuer::SelfManaged,
        secret: secret.clone(),
        configuration: String::new(),
        server_names: Vec::new(),
        lifetimes: lifetimes.clone(),
        poll: Duration::ZERO,
    };
    let restored = || Authorities::restore(remembered.map(|trust| trust.authorities.clone()), now, lifetimes);
    let (authorities, version) = match secret::fetch(client, &place).await? {
        Stored::Absent => {
            tracing::info!(%secret, "Making the secret with the CA of the sidecars");
            (restored()?, None)
        }
        Stored::Present { version, content: Err(what), .. } => {
            let error = Error::InvalidSecret { secret: secret.clone(), what };
            tracing::warn!(%error, "Replacing a damaged CA of the sidecars");
            (restored()?, version)
        }
        Stored::Present { version, content: Ok(found), requested } => {
            let due = found.due(now, Published::Everywhere, lifetimes);
            let step = if requested { found.asked(due) } else { due };
            if step == Step::Keep {
                return Ok(Trust { authorities: *found });
            }
            tracing::info!(?step, "Rotating the CA of the sidecars");
            (if step == Step::Replace { restored()? } else { found.advance(step, now, lifetimes)? }, version)
        }
    };
    match secret::write(client, &place, &authorities, version).await? {
        Written::Done => Ok(Trust { authorities }),
        Written::Conflict => Err(Error::Raced { secret: secret.clone() }),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    #[test]
    fn an_issued_certificate_passes_its_own_check_until_it_ends() {
        let trust = Trust::generate(now()).unwrap();
        let identity = Identity::new("team", "memory");
        let pair = trust.issue(&identity, now(), 90 * DAY).unwrap();
        let facts = trust.check(&pair, &identity, now()).unwrap();
        assert_eq!(facts.not_after, certificate::later(now(), 90 * DAY));
        assert_eq!(facts.lifetime, 90 * DAY);
        assert_eq!(facts.fingerprint.len(), 64);
        assert!(trust.check(&pair, &identity, certificate::later(now(), 91 * DAY)).is_err());
    }

    #[test]
    fn a_certificate_of_another_ca_key_or_owner_is_refused() {
        let trust = Trust::generate(now()).unwrap();
        let identity = Identity::new("team", "memory");
        let pair = trust.issue(&identity, now(), DAY).unwrap();
        let other = trust.issue(&identity, now(), DAY).unwrap();

        let swapped = Pair { certificate: pair.certificate.clone(), key: other.key };
        assert!(trust.check(&swapped, &identity, now()).unwrap_err().contains("belong together"));
        let stranger = Identity::new("team", "other");
        assert!(trust.check(&pair, &stranger, now()).unwrap_err().contains("somebody else"));
        let elsewhere = Trust::generate(now()).unwrap();
        assert!(elsewhere.check(&pair, &identity, now()).is_err());
        let damaged = Pair { certificate: "damaged".to_owned(), ..pair };
        assert!(trust.check(&damaged, &identity, now()).unwrap_err().contains("PEM"));
    }

    #[test]
    fn a_key_is_never_printed() {
        let trust = Trust::generate(now()).unwrap();
        let pair = trust.issue(&Identity::new("team", "memory"), now(), DAY).unwrap();
        assert!(!format!("{pair:?}{trust:?}").contains("PRIVATE KEY"));
    }
}
