//! Making and reading of single certificates. All keys are ECDSA P-256.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use pem::{EncodeConfig, LineEnding, Pem};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::{
    RootCertStore,
    crypto::ring::{self, sign::any_ecdsa_type},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime, pem::PemObject},
    server::WebPkiClientVerifier,
    sign::CertifiedKey,
};

use super::{Error, Validity};

/// Certificates start this long before they are made, because clocks of machines differ.
pub(super) const BACKDATED: Duration = Duration::from_mins(5);

/// Longest time before its end that a certificate of somebody else counts as ending soon.
const NOTICE: Duration = Duration::from_hours(30 * 24);

/// A CA certificate with its key.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Authority {
    pub(super) certificate: String,
    pub(super) key: String,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { certificate, key: _, not_before, not_after } = self;
        let mut shown = formatter.debug_struct("Authority");
        shown.field("certificate", certificate).field("not_before", not_before).field("not_after", not_after);
        shown.finish_non_exhaustive()
    }
}

/// A leaf in the form the TLS server takes.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) validity: Validity,
    /// The certificate of the CA that signed it; empty if that is another issuer's.
    pub(super) issuer: String,
}

impl Leaf {
    /// The certificate, and those between it and its CA.
    pub(super) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }
}

impl Authority {
    /// A new CA. Its name carries the time, so that two of them in one bundle are told apart by name.
    pub(super) fn generate(now: Timestamp, lifetime: Duration) -> Result<Self, Error> {
        let subject = format!("Context Manager CA {}", now.as_second());
        let mut params = CertificateParams::default();
        params.distinguished_name = name(&subject);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let not_after = set_times(&mut params, now, lifetime);
        let make = || {
            let key = KeyPair::generate()?;
            Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
        };
        let (certificate, key) = make().map_err(|source| Error::Make { subject, source })?;
        Ok(Self { certificate, key, not_before: whole_second(earlier(now, BACKDATED)), not_after })
    }

    /// Whether it is in force at `now`. The API server looks at the dates of a CA, which the check of what is served here does not.
    pub(super) fn is_in_force(&self, now: Timestamp) -> bool {
        self.not_before <= now && now < self.not_after
    }

    /// Reads a CA back from PEM; an error says what is wrong in words.
    pub(super) fn read(certificate: &str, key: &str) -> Result<Self, String> {
        let pair = KeyPair::from_pem(key).map_err(|error| format!("the key is not a private key in PEM ({error})"))?;
        let (not_before, not_after) = dates(certificate)?;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|error| error.to_string())?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|error| error.to_string())?;
        if !parsed.is_ca() {
            return Err("the certificate is not a CA's".to_owned());
        }
        if parsed.public_key().subject_public_key.data.as_ref() != pair.public_key_raw() {
            return Err("key and certificate do not belong together".to_owned());
        }
        Ok(Self { certificate: certificate.to_owned(), key: key.to_owned(), not_before, not_after })
    }

    /// A leaf for `names`. It never outlives its CA.
    pub(super) fn issue(&self, names: &[String], now: Timestamp, lifetime: Duration) -> Result<Leaf, Error> {
        let lifetime = lifetime.min(Duration::try_from(self.not_after.duration_since(now)).unwrap_or_default());
        let failed = |source| Error::Make { subject: names.join(", "), source };
        let mut params = CertificateParams::new(names).map_err(failed)?;
        params.distinguished_name = name("Context Manager webhook");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let not_after = set_times(&mut params, now, lifetime);
        let make = || {
            let issuer = Issuer::from_ca_cert_pem(&self.certificate, KeyPair::from_pem(&self.key)?)?;
            let key = KeyPair::generate()?;
            Ok((params.signed_by(&key, &issuer)?, key))
        };
        let (certificate, key) = make().map_err(failed)?;
        let key = any_ecdsa_type(&PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())))
            .map_err(Error::UseKey)?;
        Ok(Leaf {
            key: Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key)),
            // Two thirds of the end as the certificate has it, which is rounded down to a second.
            validity: Validity {
                not_after,
                renew_at: later(now, Duration::try_from(not_after.duration_since(now)).unwrap_or_default() * 2 / 3),
            },
            issuer: self.certificate.clone(),
        })
    }
}

/// The certificates of a PEM bundle; what is not one is left out.
pub(super) fn bundle(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect()
}

/// Whether a text is a PEM bundle of CAs and nothing in it is to be left out; an error says what is wrong, after the name of the text.
///
/// # Errors
/// When it is none.
pub fn check_bundle(pem: &[u8]) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| format!("is not PEM ({error})"))?;
        roots.add(certificate).map_err(|error| format!("has a certificate that cannot be used ({error})"))?;
    }
    if roots.is_empty() { Err("has no certificate in PEM".to_owned()) } else { Ok(()) }
}

/// The certificates of a PEM text, written anew: without what stands between them, such as keys, and as whoever checked the text read them.
#[must_use]
pub fn only_certificates(pem: &[u8]) -> String {
    let config = EncodeConfig::new().set_line_ending(LineEnding::LF);
    let encode = |der: &CertificateDer<'_>| pem::encode_config(&Pem::new("CERTIFICATE", der.to_vec()), config);
    bundle(pem).iter().map(encode).collect()
}

/// When the first certificate of a PEM text ends.
pub(super) fn not_after(pem: &str) -> Result<Timestamp, String> {
    given_validity(pem).map(|validity| validity.not_after)
}

/// The dates of the first certificate of a PEM text that somebody else made: it is to be replaced when a third of its life is left, and no
/// earlier than [`NOTICE`] before its end.
pub(super) fn given_validity(pem: &str) -> Result<Validity, String> {
    let (start, not_after) = dates(pem)?;
    let life = Duration::try_from(not_after.duration_since(start)).unwrap_or_default();
    Ok(Validity { not_after, renew_at: earlier(not_after, NOTICE.min(life / 3)) })
}

/// When the first certificate of a PEM text starts, and when it ends.
fn dates(pem: &str) -> Result<(Timestamp, Timestamp), String> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| format!("the certificate is not PEM ({error})"))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der)
        .map_err(|error| format!("the certificate cannot be read ({error})"))?;
    let at = |seconds| Timestamp::from_second(seconds).map_err(|error| error.to_string());
    Ok((at(parsed.validity().not_before.timestamp())?, at(parsed.validity().not_after.timestamp())?))
}

/// Whether a server that trusts the CAs of `authorities`, in PEM, would let in a client that shows this chain at `now`.
pub(super) fn verify_client(
    authorities: &str,
    chain: &[CertificateDer<'_>],
    now: Timestamp,
) -> Result<(), rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(bundle(authorities.as_bytes()));
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let Some((leaf, between)) = chain.split_first() else { return Err(rustls::Error::NoCertificatesPresented) };
    let seconds = Duration::from_secs(u64::try_from(now.as_second()).unwrap_or_default());
    verifier.verify_client_cert(leaf, between, UnixTime::since_unix_epoch(seconds)).map(|_| ())
}

/// `start` plus `duration`, or the end of time.
pub(super) fn later(start: Timestamp, duration: Duration) -> Timestamp {
    start.checked_add(duration).unwrap_or(Timestamp::MAX)
}

/// `start` minus `duration`, or the beginning of time.
pub(super) fn earlier(start: Timestamp, duration: Duration) -> Timestamp {
    start.checked_sub(duration).unwrap_or(Timestamp::MIN)
}

pub(super) fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// A time as certificates have it.
fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// Certificates count in whole seconds, so the end is rounded down to one.
pub(super) fn set_times(params: &mut CertificateParams, now: Timestamp, lifetime: Duration) -> Timestamp {
    let seconds = |timestamp: Timestamp| u64::try_from(timestamp.as_second()).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let not_after = whole_second(later(now, lifetime));
    params.not_before = epoch + Duration::from_secs(seconds(earlier(now, BACKDATED)));
    params.not_after = epoch + Duration::from_secs(seconds(not_after));
    not_after
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_written_as_they_were_read_and_nothing_beside_them() {
        let key = KeyPair::generate().expect("a key");
        let made = || CertificateParams::default().self_signed(&key).expect("a certificate").pem();
        let (one, other, former) = (made(), made(), made());
        let commented: String = former.lines().flat_map(|line| ["# ", line, "\n"]).collect();
        let text = format!("{commented}of the root:\n{one}{}\n  {other}", key.serialize_pem());
        assert_eq!(check_bundle(text.as_bytes()), Ok(()));
        let written = only_certificates(text.as_bytes());
        assert_eq!(check_bundle(written.as_bytes()), Ok(()));
        assert_eq!(bundle(written.as_bytes()), bundle(text.as_bytes()));
        assert!(written.contains(&one) && !written.contains('#') && !written.contains("KEY"), "{written}");
    }
}
