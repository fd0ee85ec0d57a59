//! Certificates of the nodes of a managed Qdrant, signed by the CA of the sidecars. Nodes show them to sidecars and, as servers and as
//! clients, to each other.

use std::time::Duration;

use jiff::Timestamp;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose};
use x509_parser::extensions::GeneralName;

use super::{
    Error, certificate,
    client::{Facts, Pair, Trust},
};

impl Trust {
    /// A new certificate of a server with these names. It never outlives the CA.
    ///
    /// # Errors
    /// When a key or certificate cannot be made.
    pub fn issue_server(&self, names: &[String], now: Timestamp, lifetime: Duration) -> Result<Pair, Error> {
        let make = || {
            let mut params = CertificateParams::new(names)?;
            params.distinguished_name = certificate::name("Context Manager store");
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            self.sign(params, now, lifetime)
        };
        make().map_err(|source| Error::Make { subject: names.join(", "), source })
    }

    /// Whether a pair is what [`Self::issue_server`] would make. An error says in words what is wrong.
    ///
    /// # Errors
    /// When it is not.
    pub fn check_server(&self, pair: &Pair, names: &[String], now: Timestamp) -> Result<Facts, String> {
        let is_right = |found: &[GeneralName<'_>]| {
            found.len() == names.len()
                && found
                    .iter()
                    .zip(names)
                    .all(|(found, name)| matches!(found, GeneralName::DNSName(found) if found == name))
        };
        self.examine(pair, is_right, now)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_its_names_and_no_other() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let hour = Duration::from_hours(1);
        let trust = Trust::generate(now).unwrap();
        let names = ["qdrant.team.svc".to_owned(), "*.qdrant-peers.team.svc".to_owned()];
        let pair = trust.issue_server(&names, now, hour).unwrap();
        assert_eq!(trust.check_server(&pair, &names, now).unwrap().lifetime, hour);
        assert!(trust.check_server(&pair, &names[..1], now).unwrap_err().contains("somebody else"));
        assert!(trust.check_server(&pair, &names, certificate::later(now, 2 * hour)).is_err());
        assert!(Trust::generate(now).unwrap().check_server(&pair, &names, now).is_err());
    }
}
