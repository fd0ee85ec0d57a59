//! Acknowledged writes that cannot reach the store, kept in files beside the journal for a person to decide about.

use std::{io::Write as _, path::PathBuf};

use context_manager_memory::{Context, ContextId};
use serde::Serialize;
use tracing::warn;

use super::{Error, pending::Entry, transfer};
use crate::metrics::{Dropped, Metrics};

/// Contexts whose id was taken meanwhile.
const CONFLICTS: &str = "conflicts.jsonl";
/// Contexts that the store refuses, as lines of an import.
const REFUSED_CONTEXTS: &str = "refused.jsonl";
/// Changes and deletions that the store refuses.
const REFUSED_CHANGES: &str = "refused_changes.jsonl";

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
    pub(super) async fn conflict(&self, context: &Context, metrics: &Metrics) -> Result<(), Error> {
        metrics.journal.dropped.add(Dropped::Conflict, 1);
        if let Some(file) = self.append(CONFLICTS, context).await? {
            warn!(
                context.id = %context.id,
                file = %file.display(),
                "The id of a journaled context was taken by another content meanwhile; it is set aside in the file"
            );
        }
        Ok(())
    }

    /// Keeps a context that the store refuses.
    pub(super) async fn refused(&self, context: Context, metrics: &Metrics) -> Result<(), Error> {
        let id = context.id;
        if let Some(file) = self.append(REFUSED_CONTEXTS, &transfer::exported_with_holder(context)).await? {
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
        if let Some(file) = self.append(REFUSED_CHANGES, entry).await? {
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
    async fn append(&self, name: &str, value: &impl Serialize) -> Result<Option<PathBuf>, Error> {
        let Some(file) = self.directory.as_ref().map(|directory| directory.join(name)) else { return Ok(None) };
        let line = serde_json::to_string(value).map_err(|_| Error::Interrupted)?;
        let path = file.clone();
        let written = tokio::task::spawn_blocking(move || append_line(path, &line)).await;
        written.map_err(|_| Error::Interrupted)?.map_err(Error::SetAside)?;
        Ok(Some(file))
    }
}

fn append_line(path: PathBuf, line: &str) -> std::io::Result<()> {
    let mut file = std::fs::File::options().create(true).append(true).open(path)?;
    writeln!(file, "{line}")?;
    file.sync_all()
}
