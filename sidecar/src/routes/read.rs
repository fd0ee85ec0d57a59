//! Operations that read the memory.

use axum::{extract::State, http::StatusCode, response::Response};
use context_manager_protocol::{level::Level, message::ContextRequest};
use serde::Deserialize;

use super::exchange::{Caller, ContextId, Message, Parameters};
use crate::{
    engine::{Engine, ListQuery},
    refusal::Refusal,
};

type Answer = Result<Response, Refusal>;

/// `POST /v1/contexts/search`
pub async fn search(State(engine): State<Engine>, caller: Caller, Message(message): Message<ContextRequest>) -> Answer {
    let response = engine.search(&caller.verified, message).await?;
    Ok(caller.answer(StatusCode::OK, &response))
}

/// Of which time a context is read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetParameters {
    as_of: Option<i64>,
}

/// `GET /v1/contexts/{id}`
pub async fn context(
    State(engine): State<Engine>,
    caller: Caller,
    ContextId(id): ContextId,
    Parameters(GetParameters { as_of }): Parameters<GetParameters>,
) -> Answer {
    let context = engine.get(&caller.verified, id, as_of).await?;
    Ok(caller.answer(StatusCode::OK, &context))
}

/// Which contexts are listed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListParameters {
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
    Parameters(ListParameters { session, level, limit, cursor, as_of }): Parameters<ListParameters>,
) -> Answer {
    let list = engine.list(&caller.verified, ListQuery { session, level, limit, cursor, as_of }).await?;
    Ok(caller.answer(StatusCode::OK, &list))
}

/// `GET /v1/contexts/stats`
pub async fn stats(State(engine): State<Engine>, caller: Caller) -> Answer {
    let stats = engine.stats(&caller.verified).await?;
    Ok(caller.answer(StatusCode::OK, &stats))
}
