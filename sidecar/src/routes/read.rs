//! Operations that read the memory.

use axum::{extract::State, http::StatusCode};
use context_manager_protocol::{
    level::Level,
    message::{Context, ContextList, ContextRequest, ContextResponse, Stats},
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::exchange::{Answer, Caller, ContextId, Message, Parameters, ScopeParameters, scope};
use crate::engine::{Engine, ListQuery};

/// `POST /v1/contexts/search`
pub async fn search(
    State(engine): State<Engine>,
    caller: Caller,
    Message(message): Message<ContextRequest>,
) -> Answer<ContextResponse> {
    let granted = engine.permit_search(&caller.verified, &message)?;
    let response = engine.search(&granted, message).await?;
    Ok(caller.answer(StatusCode::OK, &response))
}

/// Of which time and in whose memory a context is read.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetParameters {
    /// Read what was so at this time, as Unix time in milliseconds, as far as it was kept.
    as_of: Option<i64>,
    /// Read in the memory of this agent.
    agent: Option<String>,
    /// Read in this shared space.
    space: Option<String>,
    /// Read in this session of it.
    session: Option<String>,
}

/// `GET /v1/contexts/{id}`
pub async fn context(
    State(engine): State<Engine>,
    caller: Caller,
    ContextId(id): ContextId,
    Parameters(GetParameters { as_of, agent, space, session }): Parameters<GetParameters>,
) -> Answer<Context> {
    let granted = engine.permit(&caller.verified, Some(&scope(agent, space)), session.as_deref())?;
    let context = engine.get(&granted, id, as_of).await?;
    Ok(caller.answer(StatusCode::OK, &context))
}

/// Which contexts are listed.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListParameters {
    /// Read in the memory of this agent.
    agent: Option<String>,
    /// Read in this shared space.
    space: Option<String>,
    /// Only contexts of this session.
    session: Option<String>,
    /// Only contexts on this level.
    level: Option<Level>,
    /// Most contexts of the page. It ends before that with 4 MiB of texts and metadata, and `next` says where it goes on.
    limit: Option<i64>,
    /// Where the page starts: `next` of the page before.
    cursor: Option<String>,
    /// List what was so at this time, as Unix time in milliseconds, as far as it was kept.
    as_of: Option<i64>,
}

/// `GET /v1/contexts`
pub async fn list(
    State(engine): State<Engine>,
    caller: Caller,
    Parameters(ListParameters { agent, space, session, level, limit, cursor, as_of }): Parameters<ListParameters>,
) -> Answer<ContextList> {
    let granted = engine.permit(&caller.verified, Some(&scope(agent, space)), session.as_deref())?;
    let list = engine.list(&granted, ListQuery { level, limit, cursor, as_of }).await?;
    Ok(caller.answer(StatusCode::OK, &list))
}

/// `GET /v1/contexts/stats`
pub async fn stats(
    State(engine): State<Engine>,
    caller: Caller,
    Parameters(ScopeParameters { agent, space, session }): Parameters<ScopeParameters>,
) -> Answer<Stats> {
    let granted = engine.permit(&caller.verified, Some(&scope(agent, space)), session.as_deref())?;
    let stats = engine.stats(&granted).await?;
    Ok(caller.answer(StatusCode::OK, &stats))
}
