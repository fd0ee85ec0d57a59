//! The values that labels can have. They are enums, so that the number of time series is bounded by the program and never
//! by what a caller sends.

use context_manager_protocol::{config::Operation, level::Level, problem::Code, stream::RequestKind};

/// A closed set of label values.
pub trait Label: Copy + 'static {
    /// Every value.
    const ALL: &'static [Self];

    /// How the value is written.
    fn as_str(self) -> &'static str;
}

macro_rules! labels {
    ($($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $variant_doc:literal])+ $variant:ident = $text:literal,)+ })+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[doc = $variant_doc])+ $variant,)+ }

        impl Label for $name {
            const ALL: &'static [Self] = &[$(Self::$variant,)+];

            fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    )+};
}

labels! {
    /// The operation that a request asked for.
    Route {
        /// `POST /v1/contexts`.
        Store = "store",
        /// `POST /v1/contexts/batch`.
        StoreBatch = "store_batch",
        /// `POST /v1/contexts/search`.
        Search = "search",
        /// `GET /v1/contexts/{id}`.
        Get = "get",
        /// `GET /v1/contexts`.
        List = "list",
        /// `PATCH /v1/contexts/{id}`.
        Update = "update",
        /// `DELETE /v1/contexts/{id}`.
        Delete = "delete",
        /// `DELETE /v1/contexts`.
        ClearSession = "clear_session",
        /// `POST /v1/contexts/delete`.
        DeleteMatching = "delete_matching",
        /// `GET /v1/contexts/export`.
        Export = "export",
        /// `GET /v1/tenant/export`.
        ExportTenant = "export_tenant",
        /// `POST /v1/contexts/import`.
        Import = "import",
        /// `POST /v1/tenant/import`.
        ImportTenant = "import_tenant",
        /// `GET /v1/contexts/stats`.
        Stats = "stats",
        /// `GET /v1/stream`.
        Stream = "stream",
        /// `GET /v1/openapi.json`.
        OpenApi = "openapi",
        /// None of ours.
        Unknown = "unknown",
    }
    /// How a request ended.
    RequestOutcome {
        /// It was answered.
        Ok = "ok",
        /// It was the caller's mistake (4xx).
        Refused = "refused",
        /// It was not the caller's mistake (5xx).
        Failed = "failed",
        /// The caller went away before the answer.
        Cancelled = "cancelled",
    }
    /// Whether a piece of work succeeded.
    Outcome {
        /// It did.
        Ok = "ok",
        /// It did not.
        Error = "error",
    }
    /// A disk that is written to.
    Volume {
        /// The embedded store's.
        Store = "store",
        /// The journal's.
        Journal = "journal",
    }
    /// What was embedded.
    EmbeddingKind {
        /// Texts that are stored.
        Documents = "documents",
        /// A text that is searched for.
        Query = "query",
    }
    /// A call to the vector store.
    StoreOperation {
        /// Write contexts.
        Upsert = "upsert",
        /// Change one context.
        Update = "update",
        /// Find candidates with their scores.
        Candidates = "candidates",
        /// Read contexts by id.
        Get = "get",
        /// Read a page of contexts.
        List = "list",
        /// Read the last contexts of sessions.
        SessionTail = "session_tail",
        /// Add to access counts.
        CountAccesses = "count_accesses",
        /// Count contexts.
        Count = "count",
        /// Delete contexts by id.
        Delete = "delete",
        /// Delete expired contexts.
        DeleteExpired = "delete_expired",
        /// Count how many contexts have each term of a query.
        Frequencies = "document_frequencies",
        /// Prepare for the vectors of another model.
        SwitchModel = "switch_model",
        /// Write vectors alone.
        SetVectors = "set_vectors",
        /// Drop what former models have made.
        DropFormerVectors = "drop_former_vectors",
        /// Read the store's figures.
        Stats = "stats",
        /// Write to the disk what is still in memory.
        Flush = "flush",
        /// Give back the space of what was deleted.
        Compact = "compact",
    }
    /// What could not take part in an answer.
    Degradation {
        /// The embedding API.
        Embedding = "embedding",
        /// The vector store.
        Store = "store",
        /// Contexts without vectors of the current model, which are found by their words alone.
        ReEmbedding = "re_embedding",
        /// The query: it had stop words alone, or no word that is in memory, and its meaning could not be compared; the newest contexts
        /// were taken.
        Query = "query",
    }
    /// A neighbour that a breaker stands before.
    Neighbour {
        /// The vector store.
        Store = "store",
        /// The embedding API.
        Embedding = "embedding",
    }
    /// Why a journaled write did not change the store.
    Dropped {
        /// The context to change is not there any more.
        Missing = "missing",
        /// Its id was taken by another content, or the context to change or delete is another than it names.
        Conflict = "conflict",
        /// The store refuses it while it takes others.
        Refused = "refused",
        /// It is a record that this version cannot read, or a change of what such a record may have stored.
        Unreadable = "unreadable",
        /// It expired while it waited.
        Expired = "expired",
    }
    /// Why a span was not exported.
    SpanDrop {
        /// Too many waited for the collector (`tracing.queue`).
        QueueFull = "queue_full",
        /// The collector did not take it.
        ExportFailed = "export_failed",
        /// The collector took the others of its batch.
        Rejected = "rejected",
        /// It ended after the export.
        Stopped = "stopped",
    }
    /// A listener.
    Listener {
        /// The authenticated one on loopback.
        Protocol = "protocol",
        /// The same on a Unix socket.
        Socket = "socket",
        /// The one for probes and metrics.
        Admin = "admin",
    }
    /// What a frame of a stream asks for.
    Frame {
        /// Store one context.
        ContextStore = "ContextStore",
        /// Store several.
        ContextStoreBatch = "ContextStoreBatch",
        /// Retrieve.
        ContextRequest = "ContextRequest",
        /// Change a context.
        ContextUpdate = "ContextUpdate",
        /// Delete contexts.
        ContextDelete = "ContextDelete",
        /// Read a context.
        GetContext = "GetContext",
        /// Read a page.
        ListContexts = "ListContexts",
        /// Delete a session.
        ClearSession = "ClearSession",
        /// Read figures.
        GetStats = "GetStats",
        /// A sign of life.
        Heartbeat = "Heartbeat",
        /// None of ours, or nothing that can be read.
        Unknown = "unknown",
    }
    /// Why a stream ended.
    StreamEnd {
        /// The agent closed it.
        Closed = "closed",
        /// The connection broke.
        Broken = "broken",
        /// Nothing was heard from the agent.
        Silent = "silent",
        /// A frame was too large.
        TooLarge = "too_large",
        /// There was no room for a frame.
        Overloaded = "overloaded",
        /// What came is not a WebSocket's.
        Protocol = "protocol",
        /// The key was retired.
        KeyRetired = "key_retired",
        /// The sidecar is shutting down.
        Shutdown = "shutdown",
    }
    /// A file that is read again when it changes.
    WatchedFile {
        /// The configuration.
        Config = "config",
        /// The key ring.
        Keys = "keys",
    }
}

impl From<RequestKind> for Frame {
    fn from(kind: RequestKind) -> Self {
        match kind {
            RequestKind::ContextStore => Self::ContextStore,
            RequestKind::ContextStoreBatch => Self::ContextStoreBatch,
            RequestKind::ContextRequest => Self::ContextRequest,
            RequestKind::ContextUpdate => Self::ContextUpdate,
            RequestKind::ContextDelete => Self::ContextDelete,
            RequestKind::GetContext => Self::GetContext,
            RequestKind::ListContexts => Self::ListContexts,
            RequestKind::ClearSession => Self::ClearSession,
            RequestKind::GetStats => Self::GetStats,
            RequestKind::Heartbeat => Self::Heartbeat,
        }
    }
}

impl Label for Level {
    const ALL: &'static [Self] = &Self::ALL;

    fn as_str(self) -> &'static str {
        Self::as_str(self)
    }
}

impl Label for Operation {
    const ALL: &'static [Self] = &Self::ALL;

    fn as_str(self) -> &'static str {
        Self::as_str(self)
    }
}

impl Label for Code {
    const ALL: &'static [Self] = Self::ALL;

    fn as_str(self) -> &'static str {
        Self::as_str(self)
    }
}
