//! Operations that read the memory.

use axum::{extract::State, http::StatusCode, response::Response};
use context_manager_protocol::{level::Level, message::ContextRequest};
use serde::Deserialize;

use super::exchange::{Caller, ContextId, Message, Parameters, ScopeParameters, scope};
use crate::{
    engine::{Engine, ListQuery},
    refusal::Refusal,
};

type Answer = Result<Response, Refusal>;

/// `POST /v1/contexts/search`
pub async fn search(State(engine): State<Engine>, caller: Caller, Message(message): Message<ContextRequest>) -> Answer {
    let granted = engine.permit_search(&caller.verified, &message)?;
    let response = engine.search(&granted, message).await?;
    Ok(caller.answer(StatusCode::OK, &response))
}

/// Of which time and in whose memory a context is read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetParameters {
    as_of: Option<i64>,
    agent: Option<String>,
    space: Option<String>,
    session: Option<String>,
}

/// `GET /v1/contexts/{id}`
pub async fn context(
    State(engine): State<Engine>,
    caller: Caller,
    ContextId(id): ContextId,
    Parameters(GetParameters { as_of, agent, space, session }): Parameters<GetParameters>,
) -> Answer {
    let granted = engine.permit(&caller.verified, Some(&scope(agent, space)), session.as_deref())?;
    let context = engine.get(&granted, id, as_of).await?;
    Ok(caller.answer(StatusCode::OK, &context))
}

/// Which contexts are listed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListParameters {
    agent: Option<String>,
    space: Option<String>,
    session: Option<String>,
    level: Option<Level>,
    limit: Option<i64>,
    cursor: Option<String>,
    as_of: Option<i64>,
}

/// `GET /v1/contexts`
pub async fn list(
    State(engine): State<Engine>,
    caller: Caller,
    Parameters(ListParameters { agent, space, session, level, limit, cursor, as_of }): Parameters<ListParameters>,
) -> Answer {
    let granted = engine.permit(&caller.verified, Some(&scope(agent, space)), session.as_deref())?;
    let list = engine.list(&granted, ListQuery { level, limit, cursor, as_of }).await?;
    Ok(caller.answer(StatusCode::OK, &list))
}

/// `GET /v1/contexts/stats`
pub async fn stats(
    State(engine): State<Engine>,
    caller: Caller,
    Parameters(ScopeParameters { agent, space, session }): Parameters<ScopeParameters>,
) -> Answer {
    let granted = engine.permit(&caller.verified, Some(&scope(agent, space)), session.as_deref())?;
    let stats = engine.stats(&granted).await?;
    Ok(caller.answer(StatusCode::OK, &stats))
}
