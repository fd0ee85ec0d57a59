//! What a frame asks for, and what an answer is.

use serde::{Deserialize, Serialize};

/// What is asked for. Those that are named after a message carry it; the others have only parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RequestKind {
    /// Store one context.
    ContextStore,
    /// Store several.
    ContextStoreBatch,
    /// Retrieve within a token budget.
    ContextRequest,
    /// Change the context that the frame names.
    ContextUpdate,
    /// Delete the context that the frame names, or those that match the message.
    ContextDelete,
    /// Read the context that the frame names.
    GetContext,
    /// Read a page of contexts.
    ListContexts,
    /// Delete the contexts of a session.
    ClearSession,
    /// Read figures.
    GetStats,
    /// Ask for a sign of life; without an id, give one.
    Heartbeat,
}

/// Which message an answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AnswerKind {
    /// Of one write.
    Acknowledgment,
    /// Of several.
    AcknowledgmentBatch,
    /// Of a search.
    ContextResponse,
    /// One context.
    Context,
    /// A page of contexts.
    ContextList,
    /// How many contexts were deleted.
    Cleared,
    /// Figures.
    Stats,
    /// A sign of life.
    Heartbeat,
    /// A problem document.
    Error,
}
