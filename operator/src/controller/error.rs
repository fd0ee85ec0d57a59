//! Why a reconciliation could not be finished; all of these are worth another attempt. What only a person can change is no
//! error but a condition in the status.

use std::time::Duration;

use crate::pki;

/// Why a reconciliation could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused.
    #[error("failed to {action}")]
    Api {
        /// What was asked.
        action: &'static str,
        /// What it answered.
        source: Box<kube::Error>,
    },
    /// The API server did not answer in time.
    #[error("the API server did not answer within {} s when asked to {action}", CALL.as_secs())]
    Timeout {
        /// What was asked.
        action: &'static str,
    },
    /// The CA of the sidecars' certificates is not available.
    #[error("failed to use the CA of the sidecars' certificates")]
    Authority(#[source] pki::Error),
    /// A certificate could not be made.
    #[error("failed to make a certificate")]
    Certificate(#[source] pki::Error),
    /// A key could not be made.
    #[error("failed to make a key")]
    Key(#[source] context_manager_protocol::keyring::Error),
}

/// Longest time of one call.
const CALL: Duration = Duration::from_secs(10);

impl Error {
    /// Whether somebody else changed the object meanwhile, so that another look is due at once.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        match self {
            Self::Api { source, .. } => {
                matches!(&**source, kube::Error::Api(status) if status.is_conflict() || status.is_already_exists())
            }
            Self::Timeout { .. } | Self::Authority(_) | Self::Certificate(_) | Self::Key(_) => false,
        }
    }

    /// What the API server answered, if it did.
    pub(super) fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Api { source, .. } => {
                if let kube::Error::Api(status) = &**source {
                    Some(status)
                } else {
                    None
                }
            }
            Self::Timeout { .. } | Self::Authority(_) | Self::Certificate(_) | Self::Key(_) => None,
        }
    }
}

/// Awaits a call of the API server, but not for ever.
pub(super) async fn call<T>(
    action: &'static str,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(CALL, call).await {
        Ok(result) => result.map_err(|source| Error::Api { action, source: Box::new(source) }),
        Err(_) => Err(Error::Timeout { action }),
    }
}
