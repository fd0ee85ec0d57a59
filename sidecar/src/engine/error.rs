//! Why an operation failed, and what the caller is told of it: the cause stays in the log.

use context_manager_memory::{ContextId, limits::Violation, name::InvalidName, update::VersionConflict};
use context_manager_protocol::{
    problem::{Code, Problem},
    size::ByteSize,
};

use crate::{
    access::{Denied, InvalidScope},
    ports::{embedder, vector_store},
    space::Full,
};

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field is not valid.
    #[error("{message}")]
    Field {
        /// Its path, such as `contexts[2].text`.
        field: String,
        /// What is wrong and what to do.
        message: String,
    },
    /// There is no such context, or not any more.
    #[error("there is no context {0}; it may have expired or been deleted")]
    NotFound(ContextId),
    /// The id is taken.
    #[error("the id {0} belongs to a context with other content; leave the id out, or update that context instead")]
    IdTaken(ContextId),
    /// Writes wait in the journal, and this takes a store that has them.
    #[error(
        "writes wait in the journal until the store is back, and this cannot be done before it has them; send it again then"
    )]
    Journaling,
    /// No access rule permits it.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The idempotency key was used for another content.
    #[error("the Idempotency-Key was used before for a write with other content; use a new key for each new write")]
    KeyReused,
    /// It is an earlier version, or another one took its place.
    #[error("context {id} is past{}; what is past cannot be changed", .superseded_by.map(|by| format!(", {by} took its place")).unwrap_or_default())]
    Past {
        /// Its id.
        id: ContextId,
        /// The context that took its place.
        superseded_by: Option<ContextId>,
    },
    /// The context was changed by somebody else.
    #[error(transparent)]
    Version(#[from] VersionConflict),
    /// The store failed.
    #[error("the memory's store failed")]
    Store(#[from] vector_store::Error),
    /// The store cannot be opened.
    #[error("failed to open the vector store")]
    Open(#[source] vector_store::Error),
    /// The journal refuses or fails.
    #[error("the write could not be journaled")]
    Journal(#[from] context_manager_journal::Error),
    /// As many writes wait as there is memory for.
    #[error("writes take all of the {0} that they may take while they wait")]
    JournalMemory(ByteSize),
    /// The journal's disk has no room.
    #[error("the store of the memory cannot be reached, and {0}")]
    JournalDisk(Full),
    /// A write that cannot reach the store could not be set aside.
    #[error("failed to set aside a journaled write that cannot reach the store")]
    SetAside(#[source] std::io::Error),
    /// The embedder cannot be made.
    #[error("failed to set up the embedding")]
    Embedder(#[source] embedder::Error),
    /// The embedding failed.
    #[error("the embedding failed")]
    Embedding(#[source] embedder::Error),
    /// The new model's vectors cannot be compared with the stored ones.
    #[error(
        "the stored vectors were made by {stored}, but the configuration says {wanted}; go back, use a new store, or set \
         embedding.on_model_change to \"re_embed\""
    )]
    ModelChanged {
        /// Model and dimensions of the store.
        stored: String,
        /// Model and dimensions of the configuration.
        wanted: String,
    },
    /// The work was interrupted because the sidecar stops.
    #[error("the work was interrupted, because the sidecar stops")]
    Interrupted,
}

impl Error {
    /// Whether the store does not work for now, so that a write can only be journaled.
    pub(super) const fn is_outage(&self) -> bool {
        matches!(self, Self::Store(vector_store::Error::Failed(_)))
    }

    /// Whether the store works and does not take this call, so that the journal is of no help.
    pub(super) const fn is_refusal(&self) -> bool {
        matches!(self, Self::Store(vector_store::Error::Refused(_)))
    }

    /// What is the matter, in one of a few words.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Field { .. }
            | Self::NotFound(_)
            | Self::IdTaken(_)
            | Self::KeyReused
            | Self::Past { .. }
            | Self::Denied(_)
            | Self::Version(_) => "refused",
            Self::Store(vector_store::Error::DiskFull(_)) | Self::JournalDisk(_) => "disk_full",
            Self::Store(_) | Self::Open(_) | Self::SetAside(_) => "store",
            Self::Journaling | Self::Journal(_) | Self::JournalMemory(_) => "journal",
            Self::Embedder(_) | Self::Embedding(_) | Self::ModelChanged { .. } => "embedding",
            Self::Interrupted => "interrupted",
        }
    }

    /// A refusal of the field `field`.
    pub(super) fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Field { field: field.into(), message: message.into() }
    }

    /// A list with more than it may have, as the field `field`; `what` it has are entries, for one.
    pub(super) fn too_many(field: &str, count: usize, what: &str, most: usize) -> Self {
        Self::field(field, format!("{field} has {count} {what}; at most {most} are accepted"))
    }

    /// A name that is not valid, as the field `field`.
    pub(super) fn name(field: &str) -> impl FnOnce(InvalidName) -> Self {
        move |error| Self::field(field, error.to_string())
    }

    /// The same error about the field of a message at `path`, such as `contexts[2].`.
    pub(super) fn within(self, path: &str) -> Self {
        match self {
            Self::Field { field, message } => Self::Field { field: format!("{path}{field}"), message },
            other @ (Self::NotFound(_)
            | Self::IdTaken(_)
            | Self::KeyReused
            | Self::Past { .. }
            | Self::Journaling
            | Self::Denied(_)
            | Self::Version(_)
            | Self::Store(_)
            | Self::Open(_)
            | Self::Journal(_)
            | Self::JournalDisk(_)
            | Self::JournalMemory(_)
            | Self::SetAside(_)
            | Self::Embedder(_)
            | Self::Embedding(_)
            | Self::ModelChanged { .. }
            | Self::Interrupted) => other,
        }
    }
}

impl From<InvalidScope> for Error {
    fn from(InvalidScope { field, message }: InvalidScope) -> Self {
        Self::field(field, message)
    }
}

impl From<Violation> for Error {
    fn from(violation: Violation) -> Self {
        let message = violation.to_string();
        Self::Field { field: violation.field, message }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        match error {
            Error::Field { field, message } => Self::new(Code::FieldInvalid, message).field(field),
            Error::NotFound(_) => Self::new(Code::ContextNotFound, detail),
            Error::IdTaken(_) => Self::new(Code::IdConflict, detail).field("id"),
            Error::Journaling => Self::new(Code::StoreUnavailable, detail),
            Error::Denied(denied) if denied.is_about_tenant() => Self::new(Code::AccessDenied, detail),
            Error::Denied(_) => Self::new(Code::AccessDenied, detail).field("scope"),
            Error::KeyReused => Self::new(Code::IdempotencyKeyReused, detail).field("Idempotency-Key"),
            Error::Past { .. } => Self::new(Code::ContextSuperseded, detail),
            Error::Version(_) => Self::new(Code::VersionConflict, detail).field("if_version"),
            Error::Store(vector_store::Error::DiskFull(full)) | Error::JournalDisk(full) => {
                Self::new(Code::DiskFull, full.to_string())
            }
            Error::Store(vector_store::Error::Failed(_) | vector_store::Error::Closed) | Error::Open(_) => {
                Self::new(Code::StoreUnavailable, "the store of the memory failed; try again, and look at /health")
            }
            Error::Store(vector_store::Error::Refused(_)) => Self::new(
                Code::StoreRefused,
                "the store of the memory works and refuses this: it carries more than a limit of the store allows, or the store is full \
                 by such a limit; the sidecar's log says which, under this request's id",
            ),
            Error::Journal(error) if error.is_disk_full() => {
                Self::new(Code::DiskFull, "the disk of the journal is full; make the volume larger or free space on it")
            }
            Error::Journal(context_manager_journal::Error::Full { limit, .. }) => Self::new(
                Code::StoreUnavailable,
                format!(
                    "the store of the memory cannot be reached, and the journal has its {limit} bytes full; try again later"
                ),
            ),
            Error::JournalMemory(limit) => Self::new(
                Code::StoreUnavailable,
                format!(
                    "the store of the memory cannot be reached, and the writes that wait for it take the {limit} of journal.max_memory; \
                     try again later"
                ),
            ),
            Error::Journal(_) => Self::new(
                Code::StoreUnavailable,
                "the store of the memory cannot be reached, and the journal on the disk failed; look at the sidecar's log",
            ),
            Error::Interrupted => Self::new(Code::ShuttingDown, "the sidecar is shutting down; try again"),
            Error::Store(vector_store::Error::Misconfigured(_))
            | Error::Embedder(_)
            | Error::Embedding(_)
            | Error::ModelChanged { .. }
            | Error::SetAside(_) => {
                Self::new(Code::Internal, "the sidecar failed; its log says why, under this request's id")
            }
        }
    }
}
