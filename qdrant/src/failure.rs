//! What is the matter when a call failed, for whoever has to say what to do about it.

use tonic::Code;

use crate::{Distrust, Error, Refusal};

/// What is the matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody answered, or not in time.
    Unreachable,
    /// The server is not who it should be: its certificate is not vouched for.
    Distrusted(Distrust),
    /// The server does not let this side in: it does not take the certificate, or there is none to show.
    Unwelcome(Refusal),
    /// The key is none, a wrong one, or one that may not do this.
    Unauthorized,
    /// The collection was made for something else.
    Incompatible,
    /// The settings cannot be used at all.
    Settings,
    /// The server answered, and could not.
    Refused,
}

impl Error {
    /// What is the matter.
    #[must_use]
    pub fn failure(&self) -> Failure {
        match self {
            Self::Incompatible { .. } => Failure::Incompatible,
            Self::Deadline { .. } => Failure::Unreachable,
            Self::Distrusted { problem, .. } => Failure::Distrusted(*problem),
            Self::Unwelcome { refusal, .. } => Failure::Unwelcome(*refusal),
            Self::Server { source, .. } => of_code(source.code()),
            Self::Url { .. } | Self::Trust { .. } | Self::File { .. } | Self::Identity { .. } | Self::ApiKey => {
                Failure::Settings
            }
            Self::Exhausted { .. } | Self::Refused { .. } | Self::NoNewVectors { .. } | Self::Invalid(_) => {
                Failure::Refused
            }
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the other codes are all answers of a server")]
const fn of_code(code: Code) -> Failure {
    match code {
        Code::Unauthenticated | Code::PermissionDenied => Failure::Unauthorized,
        // A connection that cannot be made, and an answer that is not Qdrant's.
        Code::Unavailable | Code::Unknown => Failure::Unreachable,
        _ => Failure::Refused,
    }
}
