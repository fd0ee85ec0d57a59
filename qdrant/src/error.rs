//! Why a call failed. What the server said is for the log; texts of contexts are never part of it.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use context_manager_memory::store::{InvalidCall, Model};
use tonic::{Code, Status};

use crate::{Distrust, Refusal};

/// What a server that is asked too much says about when to come again.
const RETRY_AFTER: &str = "retry-after";
/// When it says nothing.
const RETRY_LATER: Duration = Duration::from_secs(1);

/// Why a call failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The endpoint is not one.
    #[error("the Qdrant endpoint {url:?} {problem}; it looks like https://qdrant.example.com:6334")]
    Url {
        /// The endpoint as given.
        url: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The CA bundle cannot be used.
    #[error("the CA bundle for Qdrant {problem}")]
    Trust {
        /// What is wrong with it.
        problem: String,
    },
    /// A file for the connection cannot be read.
    #[error("failed to read {path:?} for the connection to Qdrant")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Arc<io::Error>,
    },
    /// The client certificate cannot be used.
    #[error("the client certificate for Qdrant {problem}")]
    Identity {
        /// What is wrong with it.
        problem: String,
    },
    /// The API key cannot be sent.
    #[error("the API key for Qdrant has a character that a header cannot carry")]
    ApiKey,
    /// The collection was made with other settings.
    #[error(
        "the collection {collection:?} has {setting} {stored}, but {wanted} is wanted; name another collection, or go back \
         to {stored}"
    )]
    Incompatible {
        /// The collection.
        collection: String,
        /// What differs.
        setting: &'static str,
        /// How it was made.
        stored: String,
        /// How it should be.
        wanted: String,
    },
    /// The server cannot keep vectors of another model beside those that the collection has.
    #[error(
        "the collection {collection:?} has no vectors of {model}, and this server cannot add any to a collection, which \
         Qdrant 1.19 can; update the server, or name another collection"
    )]
    NoNewVectors {
        /// The collection.
        collection: String,
        /// The model.
        model: Model,
        /// What the server said.
        source: Box<Status>,
    },
    /// The server did not answer in time.
    #[error("Qdrant did not {action} in time")]
    Deadline {
        /// What was tried.
        action: &'static str,
    },
    /// The server is not who it should be.
    #[error("the certificate that Qdrant shows is not accepted: {problem}")]
    Distrusted {
        /// What is wrong with it.
        problem: Distrust,
        /// What the connection said.
        source: Box<Status>,
    },
    /// The server does not let this side in.
    #[error("Qdrant does not let us in: {refusal}")]
    Unwelcome {
        /// Why, as far as it said.
        refusal: Refusal,
        /// What the connection said.
        source: Box<Status>,
    },
    /// The server is asked for too much at once.
    #[error("Qdrant does not {action} now, because its limits are reached; it asks for {retry_after:?} of patience")]
    Exhausted {
        /// What was tried.
        action: &'static str,
        /// When it wants to be asked again.
        retry_after: Duration,
        /// What it said.
        source: Box<Status>,
    },
    /// The server answered that it does not take this call: as it is, or with the limits of the collection.
    #[error("Qdrant refuses to {action}")]
    Refused {
        /// What was tried.
        action: &'static str,
        /// What it said.
        source: Box<Status>,
    },
    /// The server failed.
    #[error("Qdrant failed to {action}")]
    Server {
        /// What was tried.
        action: &'static str,
        /// What it said.
        source: Box<Status>,
    },
    /// The call itself is wrong.
    #[error(transparent)]
    Invalid(#[from] InvalidCall),
}

impl Error {
    /// Whether the call itself is wrong, so that repeating it cannot help and no damage was done.
    #[must_use]
    pub const fn is_callers(&self) -> bool {
        matches!(self, Self::Invalid(_))
    }

    /// Whether the server answered that it does not take this call. It works, and may take others.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }

    /// The same where the server refuses what every call needs, such as the collection: that is no word about one call.
    #[must_use]
    pub fn as_failure(self) -> Self {
        if let Self::Refused { action, source } = self { Self::Server { action, source } } else { self }
    }

    /// Whether the answer was larger than this side takes at once.
    pub(crate) fn is_too_large(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if source.code() == Code::OutOfRange)
    }

    /// Whether the settings are wrong, so that only a person can help.
    #[must_use]
    pub const fn is_configuration(&self) -> bool {
        matches!(
            self,
            Self::Url { .. }
                | Self::Trust { .. }
                | Self::File { .. }
                | Self::Identity { .. }
                | Self::ApiKey
                | Self::Incompatible { .. }
                | Self::NoNewVectors { .. }
        )
    }

    /// Whether the server says that something is not there, which may be the collection.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Server { source, .. } if source.code() == Code::NotFound)
    }

    /// How long the server asked to be left alone, if it did.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        if let Self::Exhausted { retry_after, .. } = self { Some(*retry_after) } else { None }
    }

    pub(crate) fn server(action: &'static str) -> impl FnOnce(Status) -> Self {
        move |status| {
            let source = Box::new(status);
            if let Some(problem) = Distrust::behind(&*source) {
                return Self::Distrusted { problem, source };
            }
            #[expect(clippy::wildcard_enum_match_arm, reason = "the others say no more than that it failed")]
            match source.code() {
                // Tonic reports a client's own deadline as cancelled.
                Code::DeadlineExceeded | Code::Cancelled => Self::Deadline { action },
                // `InvalidArgument` is also what strict mode says of its limits, and `OutOfRange` what a message that is too large gets.
                Code::InvalidArgument | Code::OutOfRange => Self::Refused { action, source },
                Code::ResourceExhausted => Self::Exhausted { action, retry_after: retry_after(&source), source },
                _ => Self::Server { action, source },
            }
        }
    }
}

fn retry_after(status: &Status) -> Duration {
    let seconds = status.metadata().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    seconds.map_or(RETRY_LATER, Duration::from_secs)
}
