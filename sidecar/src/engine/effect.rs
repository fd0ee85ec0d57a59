//! What a write leaves for the audit log: which contexts it was about, and where it got to. Never what they say.

use context_manager_protocol::message::{AckStatus, Acknowledgment, Cleared, Imported};
use uuid::Uuid;

use super::Error;
use crate::layers::audit::Outcome;

/// An answer to a write.
pub(super) trait Effect {
    /// The contexts that were written, as far as the answer names them.
    fn contexts(&self) -> Vec<Uuid>;

    /// Whether the write waits in the journal.
    fn is_journaled(&self) -> bool;
}

impl Effect for Acknowledgment {
    fn contexts(&self) -> Vec<Uuid> {
        vec![self.id]
    }

    fn is_journaled(&self) -> bool {
        self.status == AckStatus::Journaled
    }
}

impl Effect for Vec<Acknowledgment> {
    fn contexts(&self) -> Vec<Uuid> {
        self.iter().map(|acknowledgment| acknowledgment.id).collect()
    }

    fn is_journaled(&self) -> bool {
        self.iter().any(Effect::is_journaled)
    }
}

impl Effect for Cleared {
    fn contexts(&self) -> Vec<Uuid> {
        Vec::new()
    }

    fn is_journaled(&self) -> bool {
        self.journaled
    }
}

impl Effect for Imported {
    fn contexts(&self) -> Vec<Uuid> {
        Vec::new()
    }

    fn is_journaled(&self) -> bool {
        false
    }
}

/// How a write ended.
pub(super) fn of(ended: &Result<impl Effect, Error>) -> Outcome {
    match ended {
        Ok(effect) => Outcome::Done { contexts: effect.contexts(), is_journaled: effect.is_journaled() },
        Err(error) => Outcome::Failed(error.kind()),
    }
}
