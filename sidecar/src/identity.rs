//! Who this sidecar is, and the proof that a request was authenticated.
//!
//! Tenant, agent and pod come from the sidecar's own start parameters, never from a request: whoever holds a key can reach
//! this agent's memory and no other.

use std::{fmt::Write as _, fs, path::PathBuf};

use context_manager_memory::{AgentId, TenantId, name::InvalidName};
use sha2::{Digest as _, Sha256};

pub use crate::layers::authenticate::Verified;

/// Tenant and agent of a sidecar that is run by hand without saying them.
const STANDALONE: &str = "default";
/// Longest part of a path; file systems take 255 bytes.
const LONGEST_SEGMENT: usize = 200;

/// Who this sidecar is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Whose memory it is: the pod's namespace.
    pub tenant: TenantId,
    /// The agent's id, stable over restarts of its pod.
    pub agent: AgentId,
    /// The pod's name, or the host's.
    pub pod: String,
}

impl Identity {
    /// The identity given by the start parameters; what is not given has the values of a sidecar that is run by hand.
    ///
    /// # Errors
    /// When tenant or agent is not a valid name.
    ///
    /// ```
    /// use context_manager_sidecar::identity::Identity;
    ///
    /// let identity = Identity::new(Some("team-a"), Some("support"), Some("support-0"))?;
    /// assert_eq!(identity.directory().to_str(), Some("team-a/support"));
    /// # Ok::<(), context_manager_memory::name::InvalidName>(())
    /// ```
    pub fn new(tenant: Option<&str>, agent: Option<&str>, pod: Option<&str>) -> Result<Self, InvalidName> {
        Ok(Self {
            tenant: TenantId::new(tenant.unwrap_or(STANDALONE))?,
            agent: AgentId::new(agent.unwrap_or(STANDALONE))?,
            pod: pod.map_or_else(host_name, ToOwned::to_owned),
        })
    }

    /// The subdirectory of this agent's data in a volume that several agents share: `tenant/agent`.
    ///
    /// Names may contain characters that mean something in a path, and are case-sensitive while some file systems are
    /// not; so everything but lower-case letters, digits, `-`, `_` and inner dots is written as `%` and two hex digits.
    /// Different names therefore never share a directory. A name that would be too long for a file is written as `~` and
    /// its SHA-256.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        [path_segment(self.tenant.as_str()), path_segment(self.agent.as_str())].iter().collect()
    }
}

fn path_segment(name: &str) -> String {
    let mut segment = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte) {
            segment.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(segment, "%{byte:02x}");
        }
    }
    if segment.len() <= LONGEST_SEGMENT {
        return segment;
    }
    let digest = Sha256::digest(name.as_bytes());
    digest.iter().fold("~".to_owned(), |mut hashed, byte| {
        let _ = write!(hashed, "{byte:02x}");
        hashed
    })
}

fn host_name() -> String {
    let read = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = read.trim();
    if name.is_empty() { STANDALONE.to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(agent: &str) -> String {
        let identity = Identity::new(Some("team-a"), Some(agent), None).expect("valid names");
        identity.directory().to_str().expect("ASCII").to_owned()
    }

    #[test]
    fn a_sidecar_run_by_hand_has_an_identity() {
        let identity = Identity::new(None, None, None).expect("the defaults are valid");
        assert_eq!((identity.tenant.as_str(), identity.agent.as_str()), ("default", "default"));
        assert!(!identity.pod.is_empty());
    }

    #[test]
    fn different_agents_never_share_a_directory() {
        let agents = ["a/b", "a%2fb", "A/b", "a:b", "a.b", "a@b", "a/../b", "a"];
        let valid: Vec<_> = agents.into_iter().filter(|agent| AgentId::new(*agent).is_ok()).collect();
        let mut directories: Vec<_> = valid.iter().map(|agent| directory(agent)).collect();
        assert!(directories.iter().all(|directory| directory.matches('/').count() == 1), "{directories:?}");
        directories.sort();
        directories.dedup();
        assert_eq!(directories.len(), valid.len());
    }

    #[test]
    fn a_long_name_has_a_directory_of_its_own_that_a_file_system_takes() {
        let names = ["A".repeat(253), "A".repeat(252)];
        let [one, other] = names.map(|name| directory(&name));
        assert_ne!(one, other);
        assert!(one.len() < 255, "{one}");
    }

    #[test]
    fn an_invalid_tenant_is_refused() {
        assert!(Identity::new(Some("../other"), None, None).is_err());
        assert!(Identity::new(None, Some(".."), None).is_err());
    }
}
