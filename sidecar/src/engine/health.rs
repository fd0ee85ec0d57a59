//! Whether the last call of a neighbour succeeded.

use std::{
    error::Error as StdError,
    sync::{Mutex, PoisonError},
};

use super::Part;

/// What the last call said.
#[derive(Debug, Default)]
pub(super) struct Health {
    failure: Mutex<Option<String>>,
}

impl Health {
    /// Notes the outcome of a call, and passes it on. Only the outermost message is kept: causes may name addresses.
    pub(super) fn note<T, E: StdError>(&self, result: Result<T, E>) -> Result<T, E> {
        let failure = result.as_ref().err().map(ToString::to_string);
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
        result
    }

    /// The state for the health page; `well` is said when nothing is the matter.
    pub(super) fn part(&self, name: &'static str, well: &str) -> Part {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let degraded = failure.is_some();
        Part { name, ready: true, degraded, detail: failure.unwrap_or_else(|| well.to_owned()) }
    }
}
