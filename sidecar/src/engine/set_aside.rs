//! Setting acknowledged writes aside that cannot reach the store.

use std::path::PathBuf;

use context_manager_memory::{Context, ContextId};
use serde::Serialize;
use tracing::warn;

use super::{Error, pending::Entry, transfer};
use crate::{
    metrics::{Dropped, Metrics},
    set_aside::{self, Kind},
};

/// The files.
#[derive(Debug)]
pub(super) struct SetAside {
    /// The journal's; without one there is nothing to set aside.
    directory: Option<PathBuf>,
}

impl SetAside {
    pub(super) const fn new(directory: Option<PathBuf>) -> Self {
        Self { directory }
    }

    /// Keeps a context whose id somebody else has taken.
    pub(super) async fn conflict(&self, context: Context, metrics: &Metrics) -> Result<(), Error> {
        metrics.journal.dropped.add(Dropped::Conflict, 1);
        let id = context.id;
        if let Some(file) = self.append(Kind::Conflicts, transfer::exported_with_holder(context)).await? {
            warn!(
                context.id = %id,
                file = %file.display(),
                "The id of a journaled context was taken by another content meanwhile; it is set aside in the file"
            );
        }
        Ok(())
    }

    /// Keeps a context that the store refuses.
    pub(super) async fn refused(&self, context: Context, metrics: &Metrics) -> Result<(), Error> {
        let id = context.id;
        if let Some(file) = self.append(Kind::Refused, transfer::exported_with_holder(context)).await? {
            warn!(
                context.id = %id,
                file = %file.display(),
                "The store refuses a journaled context while it takes others; it is set aside in the file, which an import takes"
            );
        }
        metrics.journal.dropped.add(Dropped::Refused, 1);
        Ok(())
    }

    /// Keeps a change or a deletion that the store refuses.
    pub(super) async fn refused_change(
        &self,
        entry: &Entry,
        id: Option<ContextId>,
        metrics: &Metrics,
    ) -> Result<(), Error> {
        if let Some(file) = self.append(Kind::RefusedChanges, entry.clone()).await? {
            warn!(
                context.id = id.map(tracing::field::display),
                file = %file.display(),
                "The store refuses a journaled change or deletion while it takes other writes; it was not made, and is set aside in the file"
            );
        }
        metrics.journal.dropped.add(Dropped::Refused, 1);
        Ok(())
    }

    /// Adds a line to a file, and says which one; it is on the disk when this returns.
    async fn append(&self, kind: Kind, value: impl Serialize + Send + 'static) -> Result<Option<PathBuf>, Error> {
        let Some(file) = self.directory.as_deref().map(|directory| kind.file(directory)) else { return Ok(None) };
        let path = file.clone();
        let written = tokio::task::spawn_blocking(move || set_aside::append(&path, &value)).await;
        written.map_err(|_| Error::Interrupted)?.map_err(Error::SetAside)?;
        Ok(Some(file))
    }
}
