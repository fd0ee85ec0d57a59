//! Setting acknowledged writes aside that cannot reach the store, and with a context the changes of it that wait behind it: what has its id
//! is another one.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use context_manager_memory::{Context, ContextId, Timestamp};
use context_manager_protocol::message::ExportedContext;
use serde::Serialize;
use tracing::{error, warn};

use super::{
    Error,
    pending::{Change, Line, Unreadable},
    transfer,
};
use crate::{
    metrics::{Dropped, Metrics},
    set_aside::{self, Kind},
};

/// The files.
#[derive(Debug)]
pub(super) struct SetAside {
    /// The journal's; without one there is nothing to set aside.
    directory: Option<PathBuf>,
    known: Mutex<Known>,
}

/// What was set aside while other writes waited, which may be about it.
#[derive(Debug, Default)]
struct Known {
    /// The contexts, and why.
    contexts: HashMap<ContextId, Dropped>,
    /// Those of the writes that are brought now, by their ids and when they were stored: an attempt that fails after that finds them again.
    just_now: HashSet<(ContextId, Timestamp)>,
    /// Whether there was a record that could not be read: it may have been about any context.
    has_unreadable: bool,
}

impl SetAside {
    /// Remembers what the files have if writes wait: some may be about it.
    pub(super) async fn open(directory: Option<PathBuf>, writes_wait: bool) -> Result<Self, Error> {
        let known = match directory.clone().filter(|_| writes_wait) {
            Some(directory) => {
                let read = tokio::task::spawn_blocking(move || remembered(&directory)).await;
                read.map_err(|_| Error::Interrupted)?.map_err(Error::SetAside)?
            }
            None => Known::default(),
        };
        Ok(Self { directory, known: Mutex::new(known) })
    }

    /// Why the context that a waiting change is about was set aside, if it was.
    pub(super) fn why(&self, id: ContextId) -> Option<Dropped> {
        self.known().contexts.get(&id).copied()
    }

    /// Whether a record that could not be read may have been about a context that is not in the store.
    pub(super) fn has_unreadable(&self) -> bool {
        self.known().has_unreadable
    }

    /// Contexts are in the store now: later changes are of these.
    pub(super) fn is_stored(&self, ids: &[ContextId]) {
        let mut known = self.known();
        for id in ids {
            known.contexts.remove(id);
        }
    }

    /// The writes that were brought wait no more: what is found later is of others.
    pub(super) fn complete(&self) {
        self.known().just_now.clear();
    }

    /// No writes wait any more.
    pub(super) fn forget(&self) {
        *self.known() = Known::default();
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps contexts whose ids somebody else has taken.
    pub(super) async fn conflicts(&self, contexts: Vec<Context>, metrics: &Metrics) -> Result<(), Error> {
        let said = "The id of a journaled context was taken by another content meanwhile; it is set aside in the file";
        self.contexts(contexts, Kind::Conflicts, Dropped::Conflict, said, metrics).await
    }

    /// Keeps contexts that the store refuses.
    pub(super) async fn refused(&self, contexts: Vec<Context>, metrics: &Metrics) -> Result<(), Error> {
        let said = "The store refuses a journaled context while it takes others; it is set aside in the file, which an import takes";
        self.contexts(contexts, Kind::Refused, Dropped::Refused, said, metrics).await
    }

    /// Keeps a record that cannot be read. Changes behind it of contexts that it names as new are set aside as well.
    pub(super) async fn unreadable(&self, unreadable: Unreadable, metrics: &Metrics) -> Result<(), Error> {
        let number = unreadable.number;
        let line = unreadable.into_line();
        let new = line.new_contexts();
        if let Some(file) = self.append(Kind::Unreadable, vec![line]).await? {
            error!(
                record = number,
                contexts = new.len(),
                file = %file.display(),
                "A record of the journal cannot be read by this version; it did not reach the store, and is set aside in the file"
            );
        }
        let mut known = self.known();
        known.has_unreadable = true;
        known.contexts.extend(new.into_iter().map(|id| (id, Dropped::Unreadable)));
        metrics.journal.dropped.add(Dropped::Unreadable, 1);
        Ok(())
    }

    /// Keeps a change or a deletion that the store refuses.
    pub(super) async fn refused_change(&self, change: Change, metrics: &Metrics) -> Result<(), Error> {
        let said = "The store refuses a journaled change or deletion while it takes other writes; it was not made, and is set aside in the file";
        self.change(change, Dropped::Refused, said, metrics).await
    }

    /// Keeps a change of a version that the context does not have any more.
    pub(super) async fn outdated_change(&self, change: Change, metrics: &Metrics) -> Result<(), Error> {
        let said = "A journaled change is of a version that its context does not have any more; it was not made, and is set aside in the file";
        self.change(change, Dropped::Conflict, said, metrics).await
    }

    /// Keeps a deletion of a context that seems to have been stored after it.
    pub(super) async fn spared_deletion(&self, change: Change, metrics: &Metrics) -> Result<(), Error> {
        let said = "A journaled deletion is of a context that was stored after it, by another sidecar or by a clock that was set back since; it was not made, and is set aside in the file";
        self.change(change, Dropped::Conflict, said, metrics).await
    }

    /// Keeps a change or a deletion of a context that was set aside, or may have been.
    pub(super) async fn change_of(&self, change: Change, why: Dropped, metrics: &Metrics) -> Result<(), Error> {
        let said = "A journaled change or deletion is of a context that was set aside, or may be; it was not made, and is set aside in the file";
        self.change(change, why, said, metrics).await
    }

    async fn contexts(
        &self,
        mut contexts: Vec<Context>,
        kind: Kind,
        why: Dropped,
        said: &str,
        metrics: &Metrics,
    ) -> Result<(), Error> {
        let key = |context: &Context| (context.id, context.created_at);
        contexts.retain(|context| !self.known().just_now.contains(&key(context)));
        if contexts.is_empty() {
            return Ok(());
        }
        let keys: Vec<_> = contexts.iter().map(key).collect();
        let ids: Vec<ContextId> = contexts.iter().map(|context| context.id).collect();
        let lines: Vec<_> = contexts.into_iter().map(transfer::exported_with_holder).collect();
        if let Some(file) = self.append(kind, lines).await? {
            for id in &ids {
                warn!(context.id = %id, file = %file.display(), "{said}");
            }
        }
        metrics.journal.dropped.add(why, ids.len() as u64);
        let mut known = self.known();
        known.just_now.extend(keys);
        known.contexts.extend(ids.into_iter().map(|id| (id, why)));
        Ok(())
    }

    async fn change(&self, change: Change, why: Dropped, said: &str, metrics: &Metrics) -> Result<(), Error> {
        let id = change.context();
        if let Some(file) = self.append(Kind::RefusedChanges, vec![change]).await? {
            warn!(context.id = id.map(tracing::field::display), file = %file.display(), "{said}");
        }
        metrics.journal.dropped.add(why, 1);
        Ok(())
    }

    /// Adds lines to a file, and says which one; all of them are on the disk when this returns, or none is.
    async fn append<T: Serialize + Send + 'static>(&self, kind: Kind, lines: Vec<T>) -> Result<Option<PathBuf>, Error> {
        let Some(file) = self.directory.as_deref().map(|directory| kind.file(directory)) else { return Ok(None) };
        let path = file.clone();
        let written = tokio::task::spawn_blocking(move || set_aside::append(&path, &lines)).await;
        written.map_err(|_| Error::Interrupted)?.map_err(Error::SetAside)?;
        Ok(Some(file))
    }
}

/// What is in the files.
fn remembered(directory: &Path) -> std::io::Result<Known> {
    let unreadable: Vec<Line> = set_aside::lines(directory, Kind::Unreadable)?;
    let named = unreadable.iter().flat_map(Line::new_contexts).map(|id| (id, Dropped::Unreadable));
    let has_unreadable = !unreadable.is_empty();
    let mut known = Known { contexts: named.collect(), has_unreadable, ..Known::default() };
    for (kind, why) in [(Kind::Conflicts, Dropped::Conflict), (Kind::Refused, Dropped::Refused)] {
        let ids = set_aside::lines(directory, kind)?.into_iter().map(|context: ExportedContext| context.id);
        known.contexts.extend(ids.map(|id| (ContextId::new(id), why)));
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use context_manager_memory::{AgentId, Level, TenantId};
    use uuid::Uuid;

    use super::*;

    fn context(number: u128) -> Context {
        let (tenant, agent) = (TenantId::new("team").expect("a name"), AgentId::new("planner").expect("a name"));
        let id = ContextId::new(Uuid::from_u128(number));
        Context::new(id, tenant, agent, Level::LongTerm, "tea", Timestamp::from_millis(1))
    }

    #[tokio::test]
    async fn what_is_set_aside_before_the_rest_of_its_write_fails_is_not_set_aside_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let set_aside = SetAside::open(Some(directory.path().to_owned()), true).await.expect("opened");
        let metrics = Metrics::new();
        let [taken, refused] = [1, 2].map(context);
        let file = Kind::Refused.file(directory.path());
        std::fs::create_dir(&file).expect("in the way");
        let attempt = async || {
            set_aside.conflicts(vec![taken.clone()], &metrics).await.expect("written");
            set_aside.refused(vec![refused.clone()], &metrics).await
        };
        let lines = |kind| -> usize {
            let lines: Vec<ExportedContext> = crate::set_aside::lines(directory.path(), kind).expect("lines");
            lines.len()
        };
        attempt().await.expect_err("it cannot be written");
        std::fs::remove_dir(&file).expect("out of the way");
        attempt().await.expect("written");
        assert_eq!((lines(Kind::Conflicts), lines(Kind::Refused)), (1, 1));
        assert_eq!(metrics.journal.dropped.get(Dropped::Conflict), 1);
        set_aside.complete();
        attempt().await.expect("written");
        assert_eq!((lines(Kind::Conflicts), lines(Kind::Refused)), (2, 2), "that is another write");
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
        before.conflicts(vec![conflict], &metrics).await.expect("written");
        before.refused(vec![other], &metrics).await.expect("written");
        let why = |set_aside: &SetAside| [set_aside.why(taken), set_aside.why(refused)];
        assert_eq!(why(&before), [Some(Dropped::Conflict), Some(Dropped::Refused)]);
        assert_eq!(why(&open(true).await), why(&before));
        assert_eq!(why(&open(false).await), [None, None], "nothing that waits is about them");
        before.forget();
        assert_eq!(why(&before), [None, None]);
    }
}
