//! Why a reconciliation could not be finished; all of these are worth another attempt. What only a person can change is no
//! error but a condition in the status.

use std::{any::Any, panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt as _;

use super::status::Trouble;
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
    /// The controller has a defect.
    #[error("this resource meets a defect of the controller")]
    Defect(#[source] Panicked),
}

/// What was said by what panicked.
#[derive(Debug, thiserror::Error)]
#[error("the controller panicked: {0}")]
pub struct Panicked(String);

impl Panicked {
    fn of(panic: &(dyn Any + Send)) -> Self {
        let said = panic.downcast_ref::<&str>().copied();
        let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("it did not say why");
        Self(said[..said.floor_char_boundary(LONGEST_WORDS)].to_owned())
    }
}

/// Longest time of one call.
const CALL: Duration = Duration::from_secs(10);
/// Longest words of the API server that are told, in bytes: of some objects it shows all that differs. The same for those of a panic.
const LONGEST_WORDS: usize = 1000;

impl Error {
    /// Whether somebody else changed the object meanwhile, so that another look is due at once.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        match self {
            Self::Api { source, .. } => {
                matches!(&**source, kube::Error::Api(status) if status.is_conflict() || status.is_already_exists())
            }
            Self::Timeout { .. } | Self::Authority(_) | Self::Certificate(_) | Self::Key(_) | Self::Defect(_) => false,
        }
    }

    /// The trouble of what was to be written, if the API server does not take it: by its own rules, by those of the namespace, or for want of a
    /// right. Nothing else has to wait for it. `say` puts the server's words into a message.
    pub(super) fn or_refused(self, reason: &'static str, say: impl FnOnce(&str) -> String) -> Result<Trouble, Self> {
        let Some(status) = self.status().filter(|status| matches!(status.code, 400 | 403 | 422)) else {
            return Err(self);
        };
        let words = &status.message[..status.message.floor_char_boundary(LONGEST_WORDS)];
        Ok(Trouble::stalled(reason, say(words)))
    }

    /// Whether the right to do this is missing, in the words of the API server's authorizer. An admission policy may answer 403 as well.
    pub(super) fn lacks_right(&self, verb: &str) -> bool {
        let words = format!("cannot {verb} resource");
        self.status().is_some_and(|status| status.code == 403 && status.message.contains(&words))
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
            Self::Timeout { .. } | Self::Authority(_) | Self::Certificate(_) | Self::Key(_) | Self::Defect(_) => None,
        }
    }
}

/// A part of a reconciliation, whose panic is an error of its object. Where nobody catches it, it ends the reconciliation of all others as
/// well.
pub(super) fn caught<T>(part: impl Future<Output = Result<T, Error>>) -> impl Future<Output = Result<T, Error>> {
    unwound(part).map(|ended| ended.unwrap_or_else(|panicked| Err(Error::Defect(panicked))))
}

/// A part of the work, whose panic ends nothing else.
pub(super) fn unwound<T>(part: impl Future<Output = T>) -> impl Future<Output = Result<T, Panicked>> {
    // What is shared is behind locks, which are taken even if somebody panicked who had one.
    AssertUnwindSafe(part).catch_unwind().map(|ended| ended.map_err(|panic| Panicked::of(&*panic)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_api_server_does_not_take_is_a_trouble_in_its_words_and_all_else_is_an_error() {
        let answered = |code: u16, message: &str| {
            let status = kube::core::Status { code, message: message.to_owned(), ..kube::core::Status::default() };
            Error::Api { action: "write", source: Box::new(kube::Error::Api(Box::new(status))) }
        };
        let say = |words: &str| format!("field: {words}");
        for code in [400, 403, 422] {
            let refused = answered(code, "no room").or_refused("ObjectRefused", say);
            assert_eq!(refused.ok(), Some(Trouble::stalled("ObjectRefused", "field: no room")), "{code}");
        }
        let long = answered(422, &"é".repeat(LONGEST_WORDS)).or_refused("ObjectRefused", say);
        assert!(long.is_ok_and(|trouble| trouble.message.len() <= "field: ".len() + LONGEST_WORDS));
        for code in [401, 404, 409, 429, 500] {
            assert!(answered(code, "").or_refused("ObjectRefused", say).is_err(), "{code}");
        }
        assert!(Error::Timeout { action: "write" }.or_refused("ObjectRefused", say).is_err());
    }
}
