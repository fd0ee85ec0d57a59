//! The certificate that this side shows to a server that asks who calls.
//!
//! A server may take certificates without demanding any, and refuse those of strangers. So one that names the CAs it takes, and none that
//! signed this one, is shown nothing, as RFC 8446 (4.2.4) provides for.

use std::sync::Arc;

use rustls::{
    DistinguishedName, SignatureScheme,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use webpki::EndEntityCert;

use crate::Error;

/// A certificate and its key.
#[derive(Debug)]
pub(crate) struct Shown {
    pair: Arc<CertifiedKey>,
    /// Who signed it, and those between it and the root, as DER.
    issuers: Vec<DistinguishedName>,
}

impl Shown {
    /// Reads certificate and key from PEM. No error quotes the key.
    pub(crate) fn read(certificate: &[u8], key: &[u8]) -> Result<Self, Error> {
        let unusable = |problem: String| Error::Identity { problem };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<_, _>>()
            .map_err(|error| unusable(format!("is not PEM: {error}")))?;
        if chain.is_empty() {
            return Err(unusable("has no certificate in PEM".to_owned()));
        }
        let issuer = |certificate| {
            EndEntityCert::try_from(certificate).map(|read| DistinguishedName::in_sequence(read.issuer()))
        };
        let issuers = chain.iter().map(issuer).collect::<Result<_, _>>();
        let issuers = issuers.map_err(|error| unusable(format!("cannot be read: {error}")))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| unusable("has no private key in PEM".to_owned()))?;
        let pair = CertifiedKey::from_der(chain, key, &ring::default_provider());
        let pair = pair.map_err(|error| unusable(format!("is not a certificate with its key: {error}")))?;
        Ok(Self { pair: Arc::new(pair), issuers })
    }

    /// Whether a server that names these CAs takes it; one that names none may.
    pub(crate) fn is_welcome(&self, authorities: &[&[u8]]) -> bool {
        authorities.is_empty() || self.issuers.iter().any(|issuer| authorities.contains(&issuer.as_ref()))
    }

    /// What is shown to a server that can check signatures of these kinds.
    pub(crate) fn pair(&self, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.pair.key.choose_scheme(schemes)?;
        Some(Arc::clone(&self.pair))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A CA of this name, and the PEM of a pair that it signed.
    fn signed_by(name: &str) -> (Vec<u8>, String, String) {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).expect("a CA");
        let subject = EndEntityCert::try_from(authority.der()).expect("a certificate").subject().to_vec();
        let own = rcgen::KeyPair::generate().expect("a key");
        let leaf = rcgen::CertificateParams::new(["sidecar".to_owned()]).expect("a name");
        let leaf = leaf.signed_by(&own, &rcgen::Issuer::from_params(&params, &key)).expect("a certificate");
        (DistinguishedName::in_sequence(&subject).as_ref().to_vec(), leaf.pem(), own.serialize_pem())
    }

    #[test]
    fn it_is_shown_unless_the_server_names_other_cas() {
        let (ours, certificate, key) = signed_by("ours");
        let (theirs, _, another) = signed_by("theirs");
        let shown = Shown::read(certificate.as_bytes(), key.as_bytes()).expect("a pair");
        let schemes = [SignatureScheme::ECDSA_NISTP256_SHA256];
        assert!(shown.is_welcome(&[]), "a server that names none");
        assert!(shown.is_welcome(&[&theirs, &ours]) && !shown.is_welcome(&[&theirs]));
        assert!(shown.pair(&schemes).is_some());
        assert!(shown.pair(&[SignatureScheme::ED25519]).is_none(), "the server cannot check its signature");
        let swapped = Shown::read(certificate.as_bytes(), another.as_bytes()).expect_err("another key");
        assert!(swapped.to_string().contains("with its key") && !swapped.to_string().contains("PRIVATE"), "{swapped}");
        assert!(Shown::read(b"", key.as_bytes()).expect_err("none").to_string().contains("no certificate"));
    }
}
