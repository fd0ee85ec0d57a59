//! A client certificate that somebody else made, as a `Secret` with `tls.crt`, `tls.key` and `ca.crt` holds it.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use rustls::CertificateError;

use super::{Facts, Pair};
use crate::pki::{
    certificate::{bundle, verify_client},
    given::Files,
};

/// A certificate that was verified by the CAs beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// The certificate, with those between it and its CA, and its key.
    pub pair: Pair,
    /// The CAs that vouch for it, in PEM.
    pub authorities: String,
    /// What it says of itself.
    pub facts: Facts,
}

impl Given {
    /// Reads and verifies it: the key is the certificate's, the chain leads to a CA of `ca.crt`, it is for clients, and nothing of it
    /// has ended at `now`. An error says in words what is wrong, and what to do.
    ///
    /// # Errors
    /// When it is not so.
    pub fn verify(secret: &Secret, now: Timestamp) -> Result<Self, String> {
        let Files { certificate, key, authorities, pair } = Files::read(secret)?;
        if bundle(authorities.as_bytes()).is_empty() {
            return Err("ca.crt is missing or has no certificate in PEM".to_owned());
        }
        let der = pair.end_entity_cert().map_err(|error| format!("tls.crt: {error}"))?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(der).map_err(|error| format!("tls.crt cannot be read ({error})"))?;
        verify_client(authorities, &pair.cert, now).map_err(|error| in_words(&error))?;
        Ok(Self {
            pair: Pair { certificate: certificate.to_owned(), key: key.to_owned() },
            authorities: authorities.to_owned(),
            facts: Facts::of(der, &parsed)?,
        })
    }
}

fn in_words(error: &rustls::Error) -> String {
    use CertificateError as Why;

    let rustls::Error::InvalidCertificate(why) = error else { return format!("tls.crt cannot be checked ({error})") };
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others need no remedy of their own")]
    let words = match why {
        Why::UnknownIssuer | Why::BadSignature => {
            "no CA in ca.crt has signed tls.crt; write the CA that did to ca.crt, and what stands between them to tls.crt"
        }
        Why::Expired | Why::ExpiredContext { .. } => "tls.crt or a CA above it has ended; write one that is valid",
        Why::NotValidYet | Why::NotValidYetContext { .. } => {
            "tls.crt or a CA above it is not valid yet; look at the clocks"
        }
        Why::InvalidPurpose | Why::InvalidPurposeContext { .. } => {
            "tls.crt is not for clients; have it made with the extended key usage clientAuth"
        }
        _ => return format!("tls.crt cannot be used ({error})"),
    };
    words.to_owned()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::time::Duration;

    use k8s_openapi::ByteString;
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd,
    };

    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    /// A CA that others can be signed with.
    struct Authority {
        params: CertificateParams,
        key: KeyPair,
        pem: String,
    }

    impl Authority {
        fn new(above: Option<&Self>) -> Self {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, if above.is_some() { "between" } else { "root" });
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let pem = match above {
                None => params.self_signed(&key),
                Some(above) => params.signed_by(&key, &Issuer::from_params(&above.params, &above.key)),
            };
            let pem = pem.unwrap().pem();
            Self { params, key, pem }
        }

        fn sign(&self, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(["agent".to_owned()]).unwrap();
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            params.not_before = date_time_ymd(2026, 1, 1);
            params.not_after = date_time_ymd(2028, 1, 1);
            change(&mut params);
            let certificate = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key));
            (certificate.unwrap().pem(), key.serialize_pem())
        }
    }

    fn secret(certificate: &str, key: &str, authorities: &str) -> Secret {
        let files = [("tls.crt", certificate), ("tls.key", key), ("ca.crt", authorities)];
        let data = files.map(|(name, text)| (name.to_owned(), ByteString(text.as_bytes().to_vec())));
        Secret { data: Some(data.into_iter().filter(|(_, text)| !text.0.is_empty()).collect()), ..Secret::default() }
    }

    #[test]
    fn a_pair_is_given_with_its_chain_and_what_it_says_of_itself() {
        let root = Authority::new(None);
        let between = Authority::new(Some(&root));
        let (leaf, key) = between.sign(|_| {});
        let chain = format!("{leaf}{}", between.pem);
        let given = Given::verify(&secret(&chain, &key, &root.pem), now()).unwrap();
        assert_eq!((given.pair, given.authorities), (Pair { certificate: chain, key: key.clone() }, root.pem.clone()));
        assert_eq!(given.facts.not_after.to_string(), "2028-01-01T00:00:00Z");
        assert!(given.facts.lifetime > 729 * DAY && given.facts.fingerprint.len() == 64);
        let without = Given::verify(&secret(&leaf, &key, &root.pem), now()).unwrap_err();
        assert!(without.contains("what stands between them to tls.crt"), "{without}");
    }

    #[test]
    fn what_cannot_be_used_is_named_with_the_remedy_and_without_the_key() {
        let (root, other) = (Authority::new(None), Authority::new(None));
        let (leaf, key) = root.sign(|_| {});
        let (_, another) = root.sign(|_| {});
        let (server, server_key) =
            root.sign(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
        let (ended, ended_key) = root.sign(|params| params.not_after = date_time_ymd(2026, 6, 1));
        let (coming, coming_key) = root.sign(|params| params.not_before = date_time_ymd(2027, 6, 1));
        for (certificate, key, authorities, words) in [
            ("", key.as_str(), root.pem.as_str(), "tls.crt is missing"),
            (&leaf, "", &root.pem, "tls.key is missing"),
            (&leaf, &key, "", "ca.crt is missing"),
            (&leaf, &key, "no certificate", "ca.crt is missing or has no certificate"),
            ("no certificate", &key, &root.pem, "tls.crt: the certificate is not PEM"),
            (&leaf, "no key", &root.pem, "tls.key is not a private key"),
            (&leaf, &another, &root.pem, "do not belong together"),
            (&leaf, &key, &other.pem, "no CA in ca.crt has signed tls.crt"),
            (&server, &server_key, &root.pem, "extended key usage clientAuth"),
            (&ended, &ended_key, &root.pem, "has ended"),
            (&coming, &coming_key, &root.pem, "not valid yet"),
        ] {
            let said = Given::verify(&secret(certificate, key, authorities), now()).unwrap_err();
            assert!(said.contains(words), "{words}: {said}");
            assert!(!said.contains("PRIVATE KEY"), "{said}");
        }
    }
}
