//! Operations that change the memory.

use axum::{
    extract::State,
    http::{HeaderValue, StatusCode, header},
};
use context_manager_protocol::message::{
    AckStatus, Acknowledgment, AcknowledgmentBatch, Cleared, ContextDelete, ContextStore, ContextStoreBatch,
    ContextUpdate, Scope,
};
use schemars::JsonSchema;
use serde::Deserialize;
use url::form_urlencoded::Serializer;

use super::{
    exchange::{
        Answer, Answered, Caller, ContextId, Idempotency, Message, Parameters, ScopeParameters, invalid, scope,
    },
    path,
};
use crate::engine::Engine;

/// `POST /v1/contexts`
pub async fn store(
    State(engine): State<Engine>,
    caller: Caller,
    Idempotency(key): Idempotency,
    Message(message): Message<ContextStore>,
) -> Answer<Acknowledgment> {
    let granted = engine.permit(&caller.verified, message.scope.as_ref(), message.session.as_deref())?;
    let memory = memory_of(&message);
    let acknowledgment = engine.store(&granted, message, key).await?;
    let answered = caller.answer(written(acknowledgment.status), &acknowledgment);
    let location = HeaderValue::from_str(&format!("{}/{}{memory}", path::CONTEXTS, acknowledgment.id));
    Ok(answered.map(|response| response.headers_mut().extend(location.map(|location| (header::LOCATION, location)))))
}

/// The query that names the memory in which a context is stored, and its session, for which alone a rule may be; empty of the agent's own.
fn memory_of(message: &ContextStore) -> String {
    let ContextStore { scope: Some(Scope { agent, space, session }), .. } = message else { return String::new() };
    if agent.is_none() && space.is_none() {
        return String::new();
    }
    let session = session.as_ref().or(message.session.as_ref());
    let mut query = Serializer::for_suffix(String::from("?"), 1);
    for (name, value) in [("agent", agent.as_ref()), ("space", space.as_ref()), ("session", session)] {
        query.extend_pairs(value.map(|value| (name, value)));
    }
    query.finish()
}

/// `POST /v1/contexts/batch`
pub async fn store_batch(
    State(engine): State<Engine>,
    caller: Caller,
    Idempotency(key): Idempotency,
    Message(message): Message<ContextStoreBatch>,
) -> Answer<AcknowledgmentBatch> {
    let contexts = engine.permit_all(&caller.verified, message.contexts)?;
    let batch = engine.store_batch(contexts, key).await?;
    let status = batch.acknowledgments.iter().map(|acknowledgment| written(acknowledgment.status)).max();
    Ok(caller.answer(status.unwrap_or(StatusCode::CREATED), &batch))
}

/// `PATCH /v1/contexts/{id}`
pub async fn update(
    State(engine): State<Engine>,
    caller: Caller,
    ContextId(id): ContextId,
    Message(message): Message<ContextUpdate>,
) -> Answer<Acknowledgment> {
    let granted = engine.permit(&caller.verified, message.scope.as_ref(), None)?;
    let acknowledgment = engine.update(&granted, id, message).await?;
    Ok(caller.answer(changed(acknowledgment.status), &acknowledgment))
}

/// `DELETE /v1/contexts/{id}`
pub async fn delete(
    State(engine): State<Engine>,
    caller: Caller,
    ContextId(id): ContextId,
    Parameters(ScopeParameters { agent, space, session }): Parameters<ScopeParameters>,
) -> Answer<Acknowledgment> {
    let granted = engine.permit(&caller.verified, Some(&scope(agent, space)), session.as_deref())?;
    let acknowledgment = engine.delete(&granted, id).await?;
    Ok(caller.answer(changed(acknowledgment.status), &acknowledgment))
}

/// Which session is cleared.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClearParameters {
    /// In the memory of this agent.
    agent: Option<String>,
    /// In this shared space.
    space: Option<String>,
    /// The session whose contexts are deleted.
    #[schemars(required)]
    session: Option<String>,
}

/// `DELETE /v1/contexts?session=S`
pub async fn clear_session(
    State(engine): State<Engine>,
    caller: Caller,
    Parameters(ClearParameters { agent, space, session }): Parameters<ClearParameters>,
) -> Answer<Cleared> {
    let session = session.filter(|session| !session.is_empty()).ok_or_else(|| {
        invalid("session", "the parameter session is missing; name the session to clear, such as ?session=chat-42")
    })?;
    let granted = engine.permit(&caller.verified, Some(&scope(agent, space)), Some(&session))?;
    Ok(answer_cleared(&caller, engine.clear_session(&granted).await?))
}

/// `POST /v1/contexts/delete`
pub async fn delete_matching(
    State(engine): State<Engine>,
    caller: Caller,
    Message(message): Message<ContextDelete>,
) -> Answer<Cleared> {
    let granted = engine.permit(&caller.verified, message.scope.as_ref(), message.session.as_deref())?;
    Ok(answer_cleared(&caller, engine.delete_matching(&granted, message).await?))
}

fn answer_cleared(caller: &Caller, cleared: Cleared) -> Answered<Cleared> {
    let status = if cleared.journaled { StatusCode::ACCEPTED } else { StatusCode::OK };
    caller.answer(status, &cleared)
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
