//! Export and import: a memory, or all memories of the tenant, as lines, to move them or to keep a copy.
//!
//! Vectors are not part of it; they are made again by the importing sidecar's model. An import keeps ids, versions, times and
//! places in sessions, so repeating it, or going on after an interruption, changes nothing that is there.

use std::collections::HashMap;

use context_manager_memory::{
    Actor, AgentId, Context, ContextId, Holder, Metadata, SessionId, SpaceId, Timestamp,
    alike::alike,
    index_text::{IndexTexts, index_texts},
};
use context_manager_protocol::{
    duration::HumanDuration,
    message::{ExportedContext, Imported, RefusedLine},
    problem::Problem,
};
use futures::future::try_join;
use serde_json::Value;
use uuid::Uuid;

use super::{
    Error, Inner, convert,
    embedding::with_lexical,
    filling::Filling,
    filter::{self, Wanted},
    locks::Key,
    now,
    store::is_owned_alike,
    stored_until::FROM_A_FAST_CLOCK,
};
use crate::{
    access::{Export, GrantedTenant, Import, Reach},
    ports::vector_store::{Owner, Page, Point, Tenant, Validity},
};

/// Contexts of one read: the largest of them are 8 MiB, of which decoding and encoding need several times as much.
const PAGE: usize = 100;
/// Contexts of one write.
const BATCH: usize = 100;
/// The largest number of an imported line: beyond it programs disagree about JSON numbers (RFC 8259 section 6), and it leaves room
/// to count on.
const MOST: i64 = (1 << 53) - 1;

impl Inner {
    /// The contexts after the one with the id `after`, in the order of their ids; none is the end.
    pub(super) async fn export(&self, reach: &Reach, after: Option<Uuid>) -> Result<Vec<ExportedContext>, Error> {
        let everything = Wanted { validity: Validity::Any, ..Wanted::within(reach) };
        let contexts = contexts_after(after, |from| self.memory_page(&everything, from)).await?;
        Ok(contexts.into_iter().map(exported).collect())
    }

    /// The same of all memories of the tenant; each context says whose it is.
    pub(super) async fn export_tenant(
        &self,
        granted: &GrantedTenant<Export>,
        after: Option<Uuid>,
    ) -> Result<Vec<ExportedContext>, Error> {
        let contexts = contexts_after(after, |from| self.tenant_page(granted, from)).await?;
        Ok(contexts.into_iter().map(exported_with_holder).collect())
    }

    /// A page of what the store has of a memory.
    async fn memory_page(&self, wanted: &Wanted, from: Option<ContextId>) -> Result<Page, Error> {
        let _turn = self.pages.acquire().await.map_err(|_| Error::Interrupted)?;
        self.store_has_all()?;
        let selection = wanted.selection(wanted.levels.clone(), now());
        let mut page = self.store_health.note(self.store.list(selection, from, PAGE).await)?;
        self.leave_out_what_came_back(&mut page);
        Ok(page)
    }

    /// A page of what the store has of the tenant, as far as the permission reaches.
    async fn tenant_page(&self, granted: &GrantedTenant<Export>, from: Option<ContextId>) -> Result<Page, Error> {
        let _turn = self.pages.acquire().await.map_err(|_| Error::Interrupted)?;
        self.store_has_all()?;
        let tenant = Tenant { tenant: granted.tenant().clone(), alive_at: now() };
        let mut page = self.store_health.note(self.store.list_tenant(&tenant, from, PAGE).await)?;
        page.contexts.retain(|context| granted.admits(context));
        self.leave_out_what_came_back(&mut page);
        Ok(page)
    }

    /// A call that took effect late may have brought deleted contexts back, which are deleted again in a moment.
    fn leave_out_what_came_back(&self, page: &mut Page) {
        if let Some(view) = self.pending.view() {
            page.contexts.retain(|context| !view.replaces(context));
        }
    }

    /// What waits changes, supersedes and deletes what the store has, so what is moved meanwhile would not be whole.
    fn store_has_all(&self) -> Result<(), Error> {
        if self.pending.is_active() { Err(Error::Journaling) } else { Ok(()) }
    }

    /// Imports contexts into one memory, each with the number of its line.
    pub(super) async fn import(&self, reach: &Reach, lines: Vec<(usize, ExportedContext)>) -> Result<Imported, Error> {
        let place = |message: &ExportedContext| match named(message)? {
            None => Ok(reach.clone()),
            Some((_, holder)) if holder == reach.owner().holder => Ok(reach.clone()),
            Some((field, holder)) => Err(Error::field(
                field,
                format!(
                    "the line is of {holder}; import it by POST /v1/tenant/import, which takes each line to its memory"
                ),
            )),
        };
        self.import_lines(place, lines).await
    }

    /// Imports contexts into the memories of the tenant that their lines name.
    pub(super) async fn import_tenant(
        &self,
        granted: &GrantedTenant<Import>,
        lines: Vec<(usize, ExportedContext)>,
    ) -> Result<Imported, Error> {
        let place = |message: &ExportedContext| match named(message)? {
            Some((_, holder)) => Ok(granted.within(holder)),
            None => Err(Error::field(
                "agent",
                "the line names neither agent nor space; import the export of one memory by POST /v1/contexts/import",
            )),
        };
        self.import_lines(place, lines).await
    }

    async fn import_lines(
        &self,
        place: impl Fn(&ExportedContext) -> Result<Reach, Error>,
        lines: Vec<(usize, ExportedContext)>,
    ) -> Result<Imported, Error> {
        self.store_has_all()?;
        let now = now();
        let mut result = Imported::default();
        let mut contexts = Vec::with_capacity(lines.len());
        for (line, message) in lines {
            match place(&message).and_then(|reach| self.imported(&reach, message, now)) {
                Ok(context) if context.is_expired(now) => result.expired += 1,
                Ok(context) => contexts.push((line, context)),
                Err(error) => result.refuse(refused(line, error)),
            }
        }
        contexts.sort_by(|(_, one), (_, other)| order(one).cmp(&order(other)));
        for batch in contexts.chunks(BATCH) {
            self.import_batch(batch, now, &mut result).await?;
        }
        Ok(result)
    }

    async fn import_batch(
        &self,
        batch: &[(usize, Context)],
        now: Timestamp,
        result: &mut Imported,
    ) -> Result<(), Error> {
        let ids = batch.iter().map(|(_, context)| Key::Context(context.id));
        let sessions = batch.iter().filter_map(|(_, context)| context.session.as_ref()).map(Key::Session);
        let _held = self.locks.hold(ids.chain(sessions)).await;
        let ids: Vec<ContextId> = batch.iter().map(|(_, context)| context.id).collect();
        self.delete_again(&ids).await?;
        let found = self.store_health.note(self.store.find(ids).await)?;
        let (mut unchanged, mut new) = (Vec::new(), Vec::new());
        for ((line, context), verdict) in batch.iter().zip(verdicts(batch, &found, now)) {
            match verdict {
                Verdict::Unchanged(there) => unchanged.push(there),
                Verdict::Refused => result.refuse(refused(*line, Error::IdTaken(context.id))),
                Verdict::New => new.push(context.clone()),
            }
        }
        result.unchanged += unchanged.len();
        self.put_lacking(self.immediate.lacking(unchanged.into_iter())).await?;
        if new.is_empty() {
            return Ok(());
        }
        let written = new.len();
        let texts = self.put_between(&new).await?;
        let taken = self.write_imported(new, &texts, now).await?;
        for (line, context) in batch.iter().filter(|(_, context)| taken.contains(&context.id)) {
            result.refuse(refused(*line, Error::IdTaken(context.id)));
        }
        result.imported += written - taken.len();
        Ok(())
    }

    /// The texts of new contexts, each with the one before it in its session. What follows them in the store gets its vectors anew, as if
    /// they were there: an import that ends in between does the same again when it is repeated.
    ///
    /// The store is asked for what is around the first one of a session, and again only behind a context that it has between two.
    async fn put_between(&self, mut new: &[Context]) -> Result<Vec<IndexTexts>, Error> {
        let (mut texts, mut following) = (Vec::with_capacity(new.len()), Vec::new());
        while let Some(first) = new.first() {
            let (before, after) = self.around(first).await?;
            let goes_on = |context: &&Context| {
                first.session.is_some()
                    && (&context.holder, &context.session) == (&first.holder, &first.session)
                    && after.as_ref().is_none_or(|after| context.sequence <= after.sequence)
            };
            let (together, rest) = new.split_at(new.iter().take_while(goes_on).count().max(1));
            let mut previous = before.as_ref();
            for context in together {
                texts.push(index_texts(context, previous));
                // What is past stands before nothing.
                if context.is_current() {
                    previous = Some(context);
                }
            }
            let last = together.iter().rfind(|context| context.is_current());
            following.extend(after.zip(last.cloned()).map(|(after, last)| (after, Some(last))));
            new = rest;
        }
        self.index_anew(following).await?;
        Ok(texts)
    }

    /// The contexts that the store has before and after the place of a new one in its session.
    async fn around(&self, context: &Context) -> Result<(Option<Context>, Option<Context>), Error> {
        let Some(session) = &context.session else { return Ok((None, None)) };
        let owner = Owner::of(context);
        try_join(self.previous(context), self.after(&owner, session, context.sequence)).await
    }

    /// Writes new contexts to the store and puts them in L1. Says which of their ids somebody else has taken meanwhile.
    async fn write_imported(
        &self,
        contexts: Vec<Context>,
        texts: &[IndexTexts],
        now: Timestamp,
    ) -> Result<Vec<ContextId>, Error> {
        // Of memories that others write to as well, a deletion spares what is stored later.
        contexts
            .iter()
            .filter(|context| context.holder == self.owner.holder)
            .for_each(|context| self.stored_until.note(context.created_at));
        let owners = contexts.iter().map(Owner::of).collect();
        let dense = self.dense_or_later(texts, &owners).await;
        let points: Vec<Point> = contexts
            .into_iter()
            .zip(with_lexical(texts, dense))
            .map(|(context, vectors)| Point { context, vectors })
            .collect();
        let claimed: Vec<ContextId> = points.iter().map(|point| point.context.id).collect();
        let taken = self.insert(&points, &claimed, now).await?;
        for Point { context, vectors } in points.iter().filter(|point| !taken.contains(&point.context.id)) {
            self.immediate.put(context, vectors);
            if let Some(session) = &context.session {
                self.upkeep.touch(Owner::of(context), session.clone());
                self.sessions.forget(Some(session)).await;
            }
        }
        Ok(taken)
    }

    fn imported(&self, reach: &Reach, message: ExportedContext, now: Timestamp) -> Result<Context, Error> {
        self.limits.text(&message.text)?;
        self.limits.metadata(&message.metadata)?;
        for (field, value, least) in [
            ("version", message.version, 1),
            ("sequence", message.sequence, 0),
            ("access_count", message.access_count, 0),
        ] {
            if !(least..=MOST).contains(&value) {
                return Err(Error::field(field, format!("{field} is {value}; it must lie between {least} and {MOST}")));
            }
        }
        for (field, at) in [("created_at", message.created_at), ("updated_at", message.updated_at)] {
            if Timestamp::from_millis(at) > now + FROM_A_FAST_CLOCK {
                let detail =
                    format!("{field} is {at}, more than a day after now; correct the time, or this machine's clock");
                return Err(Error::field(field, detail));
            }
        }
        let level = filter::on_level(reach, "level", convert::level(message.level))?;
        let session = message.session.as_deref().map(convert::session).transpose()?;
        if reach.session().is_some_and(|only| session.as_ref() != Some(only)) {
            return Err(Error::field("session", "the context is of another session than the import"));
        }
        // Who wrote it is part of what is moved; who says nothing of it is the author where others look.
        let author = message.written_by.map(AgentId::new).transpose().map_err(Error::name("written_by"))?;
        let (id, created_at) = (ContextId::new(message.id), Timestamp::from_millis(message.created_at));
        let Owner { tenant, holder } = reach.owner().clone();
        let new = Context::new(id, tenant, holder, level, message.text, created_at);
        Ok(Context {
            session,
            sequence: message.sequence,
            actor: message.actor.map(Actor::new).transpose().map_err(Error::name("actor"))?,
            metadata: message.metadata,
            updated_at: Timestamp::from_millis(message.updated_at),
            occurred_at: message.occurred_at.map(Timestamp::from_millis),
            expires_at: message.expires_at.map(Timestamp::from_millis),
            ttl: message.ttl.map(convert::ttl).transpose()?,
            supersedes: convert::superseded(id, message.supersedes)?,
            superseded_by: message.superseded_by.map(ContextId::new),
            valid_until: message.valid_until.map(Timestamp::from_millis),
            version_of: message.version_of.map(ContextId::new),
            version: message.version,
            access_count: message.access_count,
            accessed_at: message.accessed_at.map(Timestamp::from_millis),
            ..new.by(author.as_ref().unwrap_or(reach.author()))
        })
    }
}

/// The first contexts behind the one with the id `after`, by their pages; none is the end.
async fn contexts_after<F>(after: Option<Uuid>, page: impl Fn(Option<ContextId>) -> F) -> Result<Vec<Context>, Error>
where
    F: Future<Output = Result<Page, Error>>,
{
    let mut from = match after.map(|after| after.as_u128().checked_add(1)) {
        None => None,
        Some(Some(next)) => Some(ContextId::new(Uuid::from_u128(next))),
        Some(None) => return Ok(Vec::new()),
    };
    loop {
        let page = page(from).await?;
        // A page can be empty before the end: the permission reaches nothing of it.
        if !page.contexts.is_empty() || page.next.is_none() {
            return Ok(beginning(page.contexts));
        }
        from = page.next;
    }
}

/// As many of these as a page may have bytes, but one at least.
fn beginning(contexts: Vec<Context>) -> Vec<Context> {
    let mut page = Filling::new(None, contexts.len());
    page.add(Page { contexts, next: None });
    page.page().contexts
}

/// The holder that a line names, and the field in which it does.
fn named(ExportedContext { agent, space, .. }: &ExportedContext) -> Result<Option<(&'static str, Holder)>, Error> {
    Ok(match (agent.clone(), space.clone()) {
        (None, None) => None,
        (Some(agent), None) => Some(("agent", AgentId::new(agent).map_err(Error::name("agent"))?.into())),
        (None, Some(space)) => Some(("space", SpaceId::new(space).map_err(Error::name("space"))?.into())),
        (Some(_), Some(_)) => {
            return Err(Error::field("space", "the line names an agent and a space; a context is of one of them"));
        }
    })
}

/// Contexts of a session follow one another, so that each finds the one before it; what a context was has the same place and comes first.
fn order(context: &Context) -> (&Holder, Option<&SessionId>, i64, bool, ContextId) {
    (&context.holder, context.session.as_ref(), context.sequence, context.is_current(), context.id)
}

/// What becomes of an imported line.
enum Verdict<'a> {
    /// Its context is there already, as this.
    Unchanged(&'a Context),
    /// Another context has its id.
    Refused,
    /// Its context is to be written.
    New,
}

/// What becomes of each line of a batch, by what is `found` of their ids in the store.
fn verdicts<'a>(batch: &'a [(usize, Context)], found: &'a [Context], now: Timestamp) -> Vec<Verdict<'a>> {
    let mut there: HashMap<ContextId, &Context> = found.iter().map(|found| (found.id, found)).collect();
    let mut verdict = |context: &'a Context| {
        let found = there.get(&context.id).copied();
        // An expired one makes way for its owner's, as it does for any other write.
        match found.filter(|found| !(found.is_expired(now) && is_owned_alike(found, context))) {
            Some(found) if is_the_same(found, context) => Verdict::Unchanged(found),
            Some(_) => Verdict::Refused,
            None => {
                // The same id twice in one import is compared as if the first had been there.
                there.insert(context.id, context);
                Verdict::New
            }
        }
    };
    batch.iter().map(|(_, context)| verdict(context)).collect()
}

/// Whether a stored context is the imported one, or what became of it.
fn is_the_same(there: &Context, imported: &Context) -> bool {
    there.tenant == imported.tenant
        && there.holder == imported.holder
        && there.created_at == imported.created_at
        && (there.version > imported.version
            || (there.text == imported.text
                && alike(&there.metadata, &imported.metadata)
                && there.session == imported.session))
}

fn refused(line: usize, error: Error) -> RefusedLine {
    let Problem { code, detail, .. } = Problem::from(error);
    RefusedLine { line, code, detail }
}

/// A context as a line of an export, with the memory that it is of.
pub(super) fn exported_with_holder(context: Context) -> ExportedContext {
    let (agent, space) = match context.holder.clone() {
        Holder::Agent(agent) => (Some(agent.into()), None),
        Holder::Space(space) => (None, Some(space.into())),
    };
    ExportedContext { agent, space, ..exported(context) }
}

fn exported(context: Context) -> ExportedContext {
    ExportedContext {
        agent: None,
        space: None,
        id: context.id.as_uuid(),
        level: convert::level_message(context.level),
        written_by: context.written_by.map(Into::into),
        session: context.session.map(Into::into),
        sequence: context.sequence,
        actor: context.actor.map(Into::into),
        text: context.text,
        metadata: in_order(context.metadata),
        version: context.version,
        created_at: context.created_at.as_millis(),
        updated_at: context.updated_at.as_millis(),
        occurred_at: context.occurred_at.map(Timestamp::as_millis),
        expires_at: context.expires_at.map(Timestamp::as_millis),
        ttl: context
            .ttl
            .map(|ttl| HumanDuration::from_millis(u64::try_from(ttl.as_duration().as_millis()).unwrap_or(u64::MAX))),
        supersedes: context.supersedes.into_iter().map(ContextId::as_uuid).collect(),
        superseded_by: context.superseded_by.map(ContextId::as_uuid),
        valid_until: context.valid_until.map(Timestamp::as_millis),
        version_of: context.version_of.map(ContextId::as_uuid),
        access_count: context.access_count,
        accessed_at: context.accessed_at.map(Timestamp::as_millis),
    }
}

/// Metadata in the order of their keys: a Qdrant server returns them in any, and the export of the same contexts is to be the same.
fn in_order(mut metadata: Metadata) -> Metadata {
    metadata.sort_keys();
    metadata.values_mut().for_each(Value::sort_all_objects);
    metadata
}
