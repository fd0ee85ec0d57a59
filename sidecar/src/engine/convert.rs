//! Between the protocol's messages and the domain's types. Every refusal names the field.

use context_manager_memory::{
    self as memory, Actor, ContextId, Holder, SessionId, Timestamp, Ttl,
    expiry::{self, LevelTtls},
    limits::Limits,
};
use context_manager_protocol::{
    duration::HumanDuration,
    level::Level,
    message::{AckStatus, Acknowledgment, Context, ContextStore},
};
use uuid::Uuid;

use super::{Error, Inner, filter};
use crate::{access::Reach, ports::vector_store::Owner};

/// Most contexts whose place one context takes.
pub const MOST_SUPERSEDED: usize = 16;

pub(crate) const fn level(level: Level) -> memory::Level {
    match level {
        Level::Immediate => memory::Level::Immediate,
        Level::ShortTerm => memory::Level::ShortTerm,
        Level::LongTerm => memory::Level::LongTerm,
    }
}

pub(super) const fn level_message(level: memory::Level) -> Level {
    match level {
        memory::Level::Immediate => Level::Immediate,
        memory::Level::ShortTerm => Level::ShortTerm,
        memory::Level::LongTerm => Level::LongTerm,
    }
}

pub(super) fn session(name: &str) -> Result<SessionId, Error> {
    SessionId::new(name).map_err(Error::name("session"))
}

pub(super) fn ttl(duration: HumanDuration) -> Result<Ttl, Error> {
    let refused = || Error::field("ttl", "ttl is shorter than a millisecond; use at least 1ms, or leave it out");
    Ttl::new(duration.get()).ok_or_else(refused)
}

/// The new context that a message asks for; its place in the session is not known yet.
pub(super) fn new_context(
    message: ContextStore,
    reach: &Reach,
    limits: &Limits,
    ttls: &LevelTtls,
    now: Timestamp,
) -> Result<memory::Context, Error> {
    // Scope and session are part of what the permission reaches.
    let ContextStore {
        id,
        text,
        level: wanted,
        session: _,
        actor,
        metadata,
        ttl: own,
        occurred_at,
        supersedes,
        scope: _,
    } = message;
    limits.text(&text)?;
    limits.metadata(&metadata)?;
    let own = own.map(ttl).transpose()?;
    let id = ContextId::new(id.unwrap_or_else(Uuid::now_v7));
    let level = filter::on_level(reach, "level", level(wanted))?;
    let Owner { tenant, holder } = reach.owner().clone();
    let new = memory::Context::new(id, tenant, holder, level, text, now).by(reach.agent());
    Ok(memory::Context {
        session: reach.session().cloned(),
        actor: actor.map(Actor::new).transpose().map_err(Error::name("actor"))?,
        metadata,
        occurred_at: occurred_at.map(Timestamp::from_millis),
        expires_at: expiry::expires_at(now, level, own, ttls),
        ttl: own,
        supersedes: superseded(id, supersedes)?,
        ..new
    })
}

impl Inner {
    /// The message of a context.
    pub(super) fn message(&self, context: memory::Context) -> Context {
        let tokens = self.policy.load().tokenizer.tokens_of(&context);
        message(context, &self.owner, tokens)
    }

    /// What is said of a context that was written.
    pub(super) fn acknowledgment(&self, context: &memory::Context, status: AckStatus) -> Acknowledgment {
        Acknowledgment {
            id: context.id.as_uuid(),
            status,
            version: context.version,
            tokens: self.policy.load().tokenizer.tokens_of(context) as usize,
            expires_at: context.expires_at.map(Timestamp::as_millis),
        }
    }
}

/// The message of a context of so many tokens, for the agent that holds the memory `own`.
pub(super) fn message(context: memory::Context, own: &Owner, tokens: u32) -> Context {
    let (agent, space) = match &context.holder {
        _ if own.owns(&context) => (None, None),
        Holder::Agent(agent) => (Some(agent.to_string()), None),
        Holder::Space(space) => (None, Some(space.to_string())),
    };
    let occurred_at = context.event_time().as_millis();
    Context {
        id: context.id.as_uuid(),
        text: context.text,
        level: level_message(context.level),
        agent,
        space,
        written_by: context.written_by.map(Into::into),
        session: context.session.map(Into::into),
        actor: context.actor.map(Into::into),
        metadata: context.metadata,
        tokens: tokens as usize,
        version: context.version,
        occurred_at,
        created_at: context.created_at.as_millis(),
        updated_at: context.updated_at.as_millis(),
        expires_at: context.expires_at.map(Timestamp::as_millis),
        supersedes: context.supersedes.into_iter().map(ContextId::as_uuid).collect(),
        superseded_by: context.superseded_by.map(ContextId::as_uuid),
        valid_until: context.valid_until.map(Timestamp::as_millis),
        version_of: context.version_of.map(ContextId::as_uuid),
    }
}

/// The contexts whose place the context `id` takes.
pub(super) fn superseded(id: ContextId, ids: Vec<Uuid>) -> Result<Vec<ContextId>, Error> {
    if ids.len() > MOST_SUPERSEDED {
        return Err(Error::too_many("supersedes", ids.len(), "ids", MOST_SUPERSEDED));
    }
    let ids: Vec<ContextId> = ids.into_iter().map(ContextId::new).collect();
    match ids.iter().position(|superseded| *superseded == id) {
        Some(place) => Err(Error::field(format!("supersedes[{place}]"), "a context cannot supersede itself")),
        None => Ok(ids),
    }
}
