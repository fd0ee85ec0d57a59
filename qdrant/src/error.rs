//! Why a call failed. What the server said is for the log; texts of contexts are never part of it.

use context_manager_memory::{ContextId, store::UnusableKey};
use tonic::{Code, Status};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
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
    /// The server did not answer in time.
    #[error("Qdrant did not {action} in time")]
    Deadline {
        /// What was tried.
        action: &'static str,
    },
    /// The server refused or failed.
    #[error("Qdrant failed to {action}")]
    Server {
        /// What was tried.
        action: &'static str,
        /// What it said.
        source: Box<Status>,
    },
    /// A vector has another length than the collection.
    #[error("a vector of {} has {actual} dimensions, but the collection has {expected}", subject(*id))]
    Dimensions {
        /// Whose vector it is; none is the query's.
        id: Option<ContextId>,
        /// The collection's.
        expected: usize,
        /// The vector's.
        actual: usize,
    },
    /// A vector has a value that is no number.
    #[error("a vector of {} has a value that is not a finite number", subject(*id))]
    NotFinite {
        /// Whose vector it is; none is the query's.
        id: Option<ContextId>,
    },
    /// A metadata key cannot be filtered by.
    #[error(transparent)]
    MetadataKey(#[from] UnusableKey),
    /// A context cannot be written as a payload.
    #[error("context {id} cannot be written as JSON")]
    Encode {
        /// The context.
        id: ContextId,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl Error {
    /// Whether the call itself is wrong, so that repeating it cannot help and no damage was done.
    #[must_use]
    pub const fn is_callers(&self) -> bool {
        matches!(self, Self::Dimensions { .. } | Self::NotFinite { .. } | Self::MetadataKey(_) | Self::Encode { .. })
    }

    /// Whether the settings are wrong, so that only a person can help.
    #[must_use]
    pub const fn is_configuration(&self) -> bool {
        matches!(self, Self::Url { .. } | Self::Trust { .. } | Self::ApiKey | Self::Incompatible { .. })
    }

    pub(crate) fn server(action: &'static str) -> impl FnOnce(Status) -> Self {
        move |status| {
            // Tonic reports a client's own deadline as cancelled.
            if matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled) {
                Self::Deadline { action }
            } else {
                Self::Server { action, source: Box::new(status) }
            }
        }
    }
}

fn subject(id: Option<ContextId>) -> String {
    id.map_or_else(|| "the query".to_owned(), |id| format!("context {id}"))
}
