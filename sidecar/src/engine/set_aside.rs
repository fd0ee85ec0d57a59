//! Setting acknowledged writes aside that cannot reach the store, and with a context the changes of it that wait behind it: what has its id
//! is another one.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use context_manager_memory::{Context, ContextId};
use context_manager_protocol::message::ExportedContext;
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
    /// The contexts that were set aside while others waited, and why.
    contexts: Mutex<HashMap<ContextId, Dropped>>,
}

impl SetAside {
    /// Remembers what the files have if writes wait: some may be about it.
    pub(super) async fn open(directory: Option<PathBuf>, writes_wait: bool) -> Result<Self, Error> {
        let contexts = match directory.clone().filter(|_| writes_wait) {
            Some(directory) => {
                let read = tokio::task::spawn_blocking(move || remembered(&directory)).await;
                read.map_err(|_| Error::Interrupted)?.map_err(Error::SetAside)?
            }
            None => HashMap::new(),
        };
        Ok(Self { directory, contexts: Mutex::new(contexts) })
    }

    /// Why the context that a waiting change is about was set aside, if it was.
    pub(super) fn why(&self, id: ContextId) -> Option<Dropped> {
        self.contexts().get(&id).copied()
    }

    /// No writes wait any more.
    pub(super) fn forget(&self) {
        self.contexts().clear();
    }

    fn contexts(&self) -> MutexGuard<'_, HashMap<ContextId, Dropped>> {
        self.contexts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a context whose id somebody else has taken.
    pub(super) async fn conflict(&self, context: Context, metrics: &Metrics) -> Result<(), Error> {
        let said = "The id of a journaled context was taken by another content meanwhile; it is set aside in the file";
        self.context(context, Kind::Conflicts, Dropped::Conflict, said, metrics).await
    }

    /// Keeps a context that the store refuses.
    pub(super) async fn refused(&self, context: Context, metrics: &Metrics) -> Result<(), Error> {
        let said = "The store refuses a journaled context while it takes others; it is set aside in the file, which an import takes";
        self.context(context, Kind::Refused, Dropped::Refused, said, metrics).await
    }

    /// Keeps a change or a deletion that the store refuses.
    pub(super) async fn refused_change(&self, entry: Entry, metrics: &Metrics) -> Result<(), Error> {
        let said = "The store refuses a journaled change or deletion while it takes other writes; it was not made, and is set aside in the file";
        self.change(entry, Dropped::Refused, said, metrics).await
    }

    /// Keeps a change or a deletion of a context that was set aside.
    pub(super) async fn change_of(&self, entry: Entry, why: Dropped, metrics: &Metrics) -> Result<(), Error> {
        let said = "A journaled change or deletion is of a context that was set aside; it was not made, and is set aside in the file";
        self.change(entry, why, said, metrics).await
    }

    async fn context(
        &self,
        context: Context,
        kind: Kind,
        why: Dropped,
        said: &str,
        metrics: &Metrics,
    ) -> Result<(), Error> {
        let id = context.id;
        if let Some(file) = self.append(kind, transfer::exported_with_holder(context)).await? {
            warn!(context.id = %id, file = %file.display(), "{said}");
        }
        self.contexts().insert(id, why);
        metrics.journal.dropped.add(why, 1);
        Ok(())
    }

    async fn change(&self, entry: Entry, why: Dropped, said: &str, metrics: &Metrics) -> Result<(), Error> {
        let id = entry.context();
        if let Some(file) = self.append(Kind::RefusedChanges, entry).await? {
            warn!(context.id = id.map(tracing::field::display), file = %file.display(), "{said}");
        }
        metrics.journal.dropped.add(why, 1);
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

/// The contexts in the files.
fn remembered(directory: &Path) -> std::io::Result<HashMap<ContextId, Dropped>> {
    let mut contexts = HashMap::new();
    for (kind, why) in [(Kind::Conflicts, Dropped::Conflict), (Kind::Refused, Dropped::Refused)] {
        let ids = set_aside::lines(directory, kind)?.into_iter().map(|context: ExportedContext| context.id);
        contexts.extend(ids.map(|id| (ContextId::new(id), why)));
    }
    Ok(contexts)
}

#[cfg(test)]
mod tests {
    use context_manager_memory::{AgentId, Level, TenantId, Timestamp};
    use uuid::Uuid;

    use super::*;

    fn context(number: u128) -> Context {
        let (tenant, agent) = (TenantId::new("team").expect("a name"), AgentId::new("planner").expect("a name"));
        let id = ContextId::new(Uuid::from_u128(number));
        Context::new(id, tenant, agent, Level::LongTerm, "tea", Timestamp::from_millis(1))
    }

    #[tokio::test]
    async fn what_was_set_aside_is_remembered_over_a_restart_while_writes_wait() {
        let directory = tempfile::tempdir().expect("a directory");
        let open =
            async |writes_wait| SetAside::open(Some(directory.path().to_owned()), writes_wait).await.expect("opened");
        let before = open(true).await;
        let metrics = Metrics::new();
        let contexts = [1, 2].map(context);
        let [taken, refused] = contexts.clone().map(|context| context.id);
        let [conflict, other] = contexts;
        before.conflict(conflict, &metrics).await.expect("written");
        before.refused(other, &metrics).await.expect("written");
        let why = |set_aside: &SetAside| [set_aside.why(taken), set_aside.why(refused)];
        assert_eq!(why(&before), [Some(Dropped::Conflict), Some(Dropped::Refused)]);
        assert_eq!(why(&open(true).await), why(&before));
        assert_eq!(why(&open(false).await), [None, None], "nothing that waits is about them");
        before.forget();
        assert_eq!(why(&before), [None, None]);
    }
}
