//! Setting acknowledged writes aside that cannot reach the store, and with a context the changes of it that wait behind it: what has its id
//! is another one.
//!
//! That holds until nothing waits any more: later changes are of what is in the store. Over a restart in between it is remembered in a file
//! of its own, because what else was set aside may be from any time before.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use context_manager_memory::{Context, ContextId, Timestamp};
use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use super::{
    Error,
    pending::{Change, Unreadable},
    transfer,
};
use crate::{
    metrics::{Dropped, Metrics},
    refusal::chain,
    set_aside::{self, Kind},
};

/// The files.
#[derive(Debug)]
pub(super) struct SetAside {
    /// The journal's; without one there is nothing to set aside.
    directory: Option<PathBuf>,
    known: Mutex<Known>,
}

/// The file with what was set aside since nothing waited, as far as waiting changes may be about it.
const NOTES: &str = "aside_while_waiting.jsonl";

/// A line of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Note {
    /// Somebody else has taken the ids of these contexts.
    Conflict(Vec<ContextId>),
    /// The store refuses these.
    Refused(Vec<ContextId>),
    /// A record that cannot be read names these as new ones.
    Unreadable(Vec<ContextId>),
    /// These were set aside, and are in the store now.
    Stored(Vec<ContextId>),
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
    /// Whether the file has lines.
    is_noted: bool,
}

impl SetAside {
    /// Remembers what was noted while the writes waited that still wait.
    pub(super) async fn open(directory: Option<PathBuf>, writes_wait: bool) -> Result<Self, Error> {
        let known = match directory.as_deref().map(|directory| directory.join(NOTES)) {
            Some(notes) => on_disk(move || if writes_wait { remembered(&notes) } else { cleared(&notes) }).await?,
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
    pub(super) async fn are_stored(&self, ids: &[ContextId]) -> Result<(), Error> {
        let stored: Vec<ContextId> = {
            let known = self.known();
            ids.iter().copied().filter(|id| known.contexts.contains_key(id)).collect()
        };
        if stored.is_empty() { Ok(()) } else { self.note(Note::Stored(stored)).await }
    }

    /// The writes that were brought wait no more: what is found later is of others.
    pub(super) fn complete(&self) {
        self.known().just_now.clear();
    }

    /// No writes wait any more.
    pub(super) async fn forget(&self) {
        let is_noted = std::mem::take(&mut *self.known()).is_noted;
        let Some(directory) = self.directory.as_ref().filter(|_| is_noted) else { return };
        let notes = directory.join(NOTES);
        if let Err(error) = on_disk(move || set_aside::clear(&notes)).await {
            self.known().is_noted = true;
            warn!(
                error = chain(&error),
                "What was set aside is still noted; after a restart, later changes of it may be set aside too"
            );
        }
    }

    /// Notes what waiting changes may be about; before it is set aside, so that an end of the process in between forgets nothing.
    async fn note(&self, note: Note) -> Result<(), Error> {
        let note = match &self.directory {
            Some(directory) => {
                let notes = directory.join(NOTES);
                on_disk(move || set_aside::append(&notes, std::slice::from_ref(&note)).map(|()| note)).await?
            }
            None => note,
        };
        self.known().take(note);
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps contexts whose ids somebody else has taken.
    pub(super) async fn conflicts(&self, contexts: Vec<Context>, metrics: &Metrics) -> Result<(), Error> {
        let said = "The id of a journaled context was taken by another content meanwhile; it is set aside in the file";
        self.contexts(contexts, Kind::Conflicts, (Dropped::Conflict, Note::Conflict), said, metrics).await
    }

    /// Keeps contexts that the store refuses.
    pub(super) async fn refused(&self, contexts: Vec<Context>, metrics: &Metrics) -> Result<(), Error> {
        let said = "The store refuses a journaled context while it takes others; it is set aside in the file, which an import takes";
        self.contexts(contexts, Kind::Refused, (Dropped::Refused, Note::Refused), said, metrics).await
    }

    /// Keeps a record that cannot be read. Changes behind it of contexts that it names as new are set aside as well.
    pub(super) async fn unreadable(&self, unreadable: Unreadable, metrics: &Metrics) -> Result<(), Error> {
        let number = unreadable.number;
        let line = unreadable.into_line();
        let new = line.new_contexts();
        self.note(Note::Unreadable(new.clone())).await?;
        if let Some(file) = self.append(Kind::Unreadable, vec![line]).await? {
            error!(
                record = number,
                contexts = new.len(),
                file = %file.display(),
                "A record of the journal cannot be read by this version; it did not reach the store, and is set aside in the file"
            );
        }
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
        (why, note): (Dropped, impl FnOnce(Vec<ContextId>) -> Note),
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
        self.note(note(ids.clone())).await?;
        let lines: Vec<_> = contexts.into_iter().map(transfer::exported_with_holder).collect();
        if let Some(file) = self.append(kind, lines).await? {
            for id in &ids {
                warn!(context.id = %id, file = %file.display(), "{said}");
            }
        }
        metrics.journal.dropped.add(why, ids.len() as u64);
        self.known().just_now.extend(keys);
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
        on_disk(move || set_aside::append(&path, &lines)).await?;
        Ok(Some(file))
    }
}

impl Known {
    fn take(&mut self, note: Note) {
        self.is_noted = true;
        let (ids, why) = match note {
            Note::Conflict(ids) => (ids, Dropped::Conflict),
            Note::Refused(ids) => (ids, Dropped::Refused),
            Note::Unreadable(ids) => {
                self.has_unreadable = true;
                (ids, Dropped::Unreadable)
            }
            Note::Stored(ids) => {
                for id in ids {
                    self.contexts.remove(&id);
                }
                return;
            }
        };
        self.contexts.extend(ids.into_iter().map(|id| (id, why)));
    }
}

/// What is in the file.
fn remembered(notes: &Path) -> io::Result<Known> {
    let mut known = Known::default();
    for note in set_aside::lines(notes)? {
        known.take(note);
    }
    Ok(known)
}

/// What it had is of writes that do not wait any more.
fn cleared(notes: &Path) -> io::Result<Known> {
    set_aside::clear(notes)?;
    Ok(Known::default())
}

async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Interrupted)?.map_err(Error::SetAside)
}

#[cfg(test)]
mod tests {
    use context_manager_memory::{AgentId, Level, TenantId};
    use context_manager_protocol::message::ExportedContext;
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
        let lines = |kind: Kind| -> usize {
            let lines: Vec<ExportedContext> = crate::set_aside::lines(&kind.file(directory.path())).expect("lines");
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
        before.conflicts(vec![conflict.clone()], &metrics).await.expect("written");
        before.refused(vec![other], &metrics).await.expect("written");
        let why = |set_aside: &SetAside| [set_aside.why(taken), set_aside.why(refused)];
        assert_eq!(why(&before), [Some(Dropped::Conflict), Some(Dropped::Refused)]);
        assert_eq!(why(&open(true).await), why(&before));
        before.are_stored(&[refused]).await.expect("noted");
        assert_eq!(why(&open(true).await), [Some(Dropped::Conflict), None], "it was stored again");
        before.forget().await;
        assert_eq!(why(&before), [None, None]);
        assert_eq!(why(&open(true).await), [None, None], "what waits now came later");
        before.conflicts(vec![conflict], &metrics).await.expect("written");
        assert_eq!(why(&open(false).await), [None, None], "nothing that waits is about it");
        assert_eq!(why(&open(true).await), [None, None], "nor will anything be that comes later");
    }
}
