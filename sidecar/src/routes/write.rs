//! Operations that change the memory.

use axum::{
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use context_manager_protocol::message::{AckStatus, ContextStore, ContextStoreBatch, ContextUpdate};
use serde::Deserialize;

use super::{
    exchange::{Caller, ContextId, Message, Parameters, invalid},
    path,
};
use crate::{engine::Engine, refusal::Refusal};

type Answer = Result<Response, Refusal>;

/// `POST /v1/contexts`
pub async fn store(State(engine): State<Engine>, caller: Caller, Message(message): Message<ContextStore>) -> Answer {
    let acknowledgment = engine.store(&caller.verified, message).await?;
    let mut response = caller.answer(written(acknowledgment.status), &acknowledgment);
    if let Ok(location) = HeaderValue::from_str(&format!("{}/{}", path::CONTEXTS, acknowledgment.id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// `POST /v1/contexts/batch`
pub async fn store_batch(
    State(engine): State<Engine>,
    caller: Caller,
    Message(message): Message<ContextStoreBatch>,
) -> Answer {
    let batch = engine.store_batch(&caller.verified, message).await?;
    let status = batch.acknowledgments.iter().map(|acknowledgment| written(acknowledgment.status)).max();
    Ok(caller.answer(status.unwrap_or(StatusCode::CREATED), &batch))
}

/// `PATCH /v1/contexts/{id}`
pub async fn update(
    State(engine): State<Engine>,
    caller: Caller,
    ContextId(id): ContextId,
    Message(message): Message<ContextUpdate>,
) -> Answer {
    let acknowledgment = engine.update(&caller.verified, id, message).await?;
    Ok(caller.answer(changed(acknowledgment.status), &acknowledgment))
}

/// `DELETE /v1/contexts/{id}`
pub async fn delete(State(engine): State<Engine>, caller: Caller, ContextId(id): ContextId) -> Answer {
    let acknowledgment = engine.delete(&caller.verified, id).await?;
    Ok(caller.answer(changed(acknowledgment.status), &acknowledgment))
}

/// Which session is cleared.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClearParameters {
    session: Option<String>,
}

/// `DELETE /v1/contexts?session=S`
pub async fn clear_session(
    State(engine): State<Engine>,
    caller: Caller,
    Parameters(ClearParameters { session }): Parameters<ClearParameters>,
) -> Answer {
    let session = session.filter(|session| !session.is_empty()).ok_or_else(|| {
        invalid("session", "the parameter session is missing; name the session to clear, such as ?session=chat-42")
    })?;
    let cleared = engine.clear_session(&caller.verified, &session).await?;
    let status = if cleared.journaled { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok(caller.answer(status, &cleared))
}

/// The status of a write that made something: 201, or 202 while it is only in the journal.
const fn written(status: AckStatus) -> StatusCode {
    match status {
        AckStatus::Journaled => StatusCode::ACCEPTED,
        AckStatus::Stored | AckStatus::Updated | AckStatus::Deleted => StatusCode::CREATED,
    }
}

/// The status of a write that changed something: 200, or 202 while it is only in the journal.
const fn changed(status: AckStatus) -> StatusCode {
    match status {
        AckStatus::Journaled => StatusCode::ACCEPTED,
        AckStatus::Stored | AckStatus::Updated | AckStatus::Deleted => StatusCode::OK,
    }
}
