//! The port to what makes vectors of texts.
//!
//! Owns the contract: vectors come in the order of the texts, all have [`Embedder::dimensions`] finite values, and no
//! call outlives its deadline, retries included. Texts are never part of an error or a log line.

use std::{error::Error as StdError, sync::Arc, time::Duration};

use async_trait::async_trait;
use context_manager_protocol::embeddings;
use tokio::time::Instant;

use super::Retry;

/// Makes vectors of texts.
#[async_trait]
pub trait Embedder: Send + Sync + 'static {
    /// The vectors of texts that are stored, in their order.
    async fn embed_documents(&self, texts: &[String], deadline: Deadline) -> Result<Vec<Vector>, Error>;

    /// The vector of a text that is searched for. Some models want another prefix for it than for a stored one.
    async fn embed_query(&self, text: &str, deadline: Deadline) -> Result<Vector, Error>;

    /// The length of every vector.
    fn dimensions(&self) -> usize;

    /// The model's name; vectors of different models cannot be compared.
    fn model(&self) -> &str;
}

/// A dense vector; shared, because the cache, the L1 level and the store hold the same one.
pub type Vector = Arc<[f32]>;

/// The point in time after which nobody waits for the answer any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    /// A deadline `limit` from now.
    #[must_use]
    pub fn after(limit: Duration) -> Self {
        Self { at: Instant::now() + limit, limit }
    }

    /// How much time is left.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// Awaits `call`, but not beyond the deadline.
    ///
    /// # Errors
    /// [`Error::DeadlineExceeded`] when the time is up; the call is dropped then.
    pub async fn bound<T>(self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let exceeded = |_| Err(Error::DeadlineExceeded { limit: self.limit });
        tokio::time::timeout_at(self.at, call).await.unwrap_or_else(exceeded)
    }
}

/// What an error was caused by; shared, because one failed call may answer several callers.
pub type Cause = Arc<dyn StdError + Send + Sync>;

/// Why texts have no vectors.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The answer did not come in time.
    #[error("no embedding within {limit:?}; the API may be overloaded, or a NetworkPolicy may block the way to it")]
    DeadlineExceeded {
        /// The time that all attempts had together.
        limit: Duration,
    },
    /// The API could not be reached, or the connection broke.
    #[error("failed to reach the embedding API at {url}")]
    Unreachable {
        /// Where it was expected; without credentials and query.
        url: String,
        /// What the connection said.
        source: Cause,
    },
    /// The API asks for fewer calls.
    #[error("the embedding API refuses further calls for now (429)")]
    Throttled {
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The API failed on its own side.
    #[error("the embedding API failed with status {status}")]
    Failed {
        /// The HTTP status code.
        status: u16,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The API does not accept the call; it would not accept it a second time either.
    #[error("the embedding API refused the call with status {status}; check the URL, the model and the API key")]
    Refused {
        /// The HTTP status code.
        status: u16,
    },
    /// The answer is not one of an embeddings API.
    #[error("the embedding API's answer is not a list of embeddings")]
    Malformed {
        /// What is wrong with it.
        source: Cause,
    },
    /// The answer has more bytes than the vectors can need.
    #[error("the embedding API's answer is larger than {limit} bytes")]
    Oversized {
        /// The most bytes that were expected.
        limit: usize,
    },
    /// The answer has too few or too many vectors, or one of them twice.
    #[error("the embedding API returned {actual} usable vectors for {expected} texts")]
    Count {
        /// How many texts were sent.
        expected: usize,
        /// How many different positions the answer filled.
        actual: usize,
    },
    /// A vector has another length than the configuration says.
    #[error(
        "the embedding model returned vectors of {actual} dimensions, but embedding.dimensions is {expected}; set it to {actual} or choose another model"
    )]
    Dimensions {
        /// What is configured.
        expected: usize,
        /// What came.
        actual: usize,
    },
    /// A vector has a value that is not a finite number.
    #[error("the embedding model returned a vector with a value that is not a finite number")]
    NotFinite,
    /// The API failed too often lately.
    #[error(transparent)]
    LeftAlone(crate::breaker::Open),
    /// A file that the call needs cannot be used.
    #[error("failed to use {what} from {path:?}")]
    File {
        /// What the file holds.
        what: &'static str,
        /// Where it is.
        path: std::path::PathBuf,
        /// What is wrong with it.
        source: Cause,
    },
    /// The HTTP client cannot be made.
    #[error("failed to set up the client of the embedding API")]
    Setup {
        /// What is wrong.
        source: Cause,
    },
}

impl From<embeddings::Error> for Error {
    fn from(error: embeddings::Error) -> Self {
        match error {
            embeddings::Error::Malformed(source) => Self::Malformed { source: Arc::new(source) },
            embeddings::Error::Count { expected, actual } => Self::Count { expected, actual },
            embeddings::Error::Dimensions { expected, actual } => Self::Dimensions { expected, actual },
            embeddings::Error::NotFinite => Self::NotFinite,
        }
    }
}

impl Error {
    /// What is the matter, in one of a few words.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::DeadlineExceeded { .. } => "timeout",
            Self::Unreachable { .. } => "unreachable",
            Self::Throttled { .. } => "throttled",
            Self::Failed { .. } => "failed",
            Self::Refused { .. } => "refused",
            Self::Malformed { .. } | Self::Oversized { .. } | Self::Count { .. } | Self::NotFinite => "malformed",
            Self::Dimensions { .. } => "dimensions",
            Self::LeftAlone(_) => "left_alone",
            Self::File { .. } | Self::Setup { .. } => "setup",
        }
    }

    /// Whether and when the same call may be made again.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Throttled { retry_after } | Self::Failed { retry_after, .. } => {
                retry_after.map_or(Retry::Backoff, Retry::After)
            }
            // A broken answer may come from a proxy on the way, and the next one may be whole.
            Self::Unreachable { .. } | Self::Malformed { .. } => Retry::Backoff,
            Self::DeadlineExceeded { .. }
            | Self::Refused { .. }
            | Self::Oversized { .. }
            | Self::Count { .. }
            | Self::Dimensions { .. }
            | Self::NotFinite
            | Self::LeftAlone(_)
            | Self::File { .. }
            | Self::Setup { .. } => Retry::Never,
        }
    }
}
