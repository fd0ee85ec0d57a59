//! Operations on the whole memory, line by line.

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use context_manager_protocol::{
    codec::Format,
    message::{ExportEnd, ExportedContext, Imported, RefusedLine},
    problem::Code,
};
use futures::stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::exchange::{Answer, Caller, Lines, Parameters, ScopeParameters, scope};
use crate::{
    access::{Export, Granted},
    engine::{self, Engine},
    refusal::{Refusal, chain},
};

/// Where an export goes on.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportParameters {
    /// The id of the last context that came; the export goes on after it.
    after: Option<Uuid>,
    /// Export the memory of this agent.
    agent: Option<String>,
    /// Export this shared space.
    space: Option<String>,
    /// Only this session of it.
    session: Option<String>,
}

/// An export on its way: an [`ExportedContext`] on each line, and an [`ExportEnd`] on the last.
pub struct ExportStream(Body);

impl IntoResponse for ExportStream {
    fn into_response(self) -> Response {
        let content_type = HeaderValue::from_static(Lines::MEDIA_TYPE);
        (StatusCode::OK, [(header::CONTENT_TYPE, content_type)], self.0).into_response()
    }
}

/// What of an export comes next. It has at most one page, so that an export takes no more memory than that.
enum Next {
    /// A page that was read already.
    Page(Vec<ExportedContext>),
    /// What follows the context with this id, after so many.
    After(Uuid, usize),
    Nothing,
}

/// `GET /v1/contexts/export?after=ID`: JSON Lines, in the order of the ids, read from the store page by page while they are sent.
///
/// # Errors
/// When it is not permitted, or the store fails before the first page.
pub async fn export(
    State(engine): State<Engine>,
    caller: Caller,
    Parameters(ExportParameters { after, agent, space, session }): Parameters<ExportParameters>,
) -> Result<ExportStream, Refusal> {
    let granted = engine.permit(&caller.verified, Some(&scope(agent, space)), session.as_deref())?;
    // The first page is read before the answer begins, so that a store that is away is a problem document.
    let first = Next::Page(engine.export(&granted, after).await?);
    let pages = stream::try_unfold(first, move |next| {
        let (engine, granted) = (engine.clone(), granted.clone());
        async move { piece(&engine, &granted, next).await }
    });
    Ok(ExportStream(Body::from_stream(pages)))
}

/// A piece of the body; an error ends it without its last line.
async fn piece(engine: &Engine, granted: &Granted<Export>, next: Next) -> Result<Option<(Bytes, Next)>, engine::Error> {
    let (page, before) = match next {
        Next::Page(page) => (page, 0),
        Next::After(last, before) => {
            let page = engine.export(granted, Some(last)).await.inspect_err(|error| {
                tracing::error!(error = chain(error), exported = before, "An export was broken off");
            })?;
            (page, before)
        }
        Next::Nothing => return Ok(None),
    };
    let exported = before + page.len();
    Ok(Some(match page.last() {
        Some(last) => (lines(&page), Next::After(last.id, exported)),
        None => (lines(&[ExportEnd { exported }]), Next::Nothing),
    }))
}

fn lines(messages: &[impl Serialize]) -> Bytes {
    let mut text = Vec::new();
    for message in messages {
        text.extend(Format::Json.encode(message));
        text.push(b'\n');
    }
    text.into()
}

/// `POST /v1/contexts/import`
///
/// # Errors
/// When it is not permitted, or the store fails.
pub async fn import(
    State(engine): State<Engine>,
    caller: Caller,
    Parameters(ScopeParameters { agent, space, session }): Parameters<ScopeParameters>,
    Lines(body): Lines,
) -> Answer<Imported> {
    let granted = engine.permit(&caller.verified, Some(&scope(agent, space)), session.as_deref())?;
    let (mut contexts, mut undecodable) = (Vec::new(), Imported::default());
    for (line, text) in body.split(|byte| *byte == b'\n').enumerate().map(|(index, text)| (index + 1, text)) {
        if text.trim_ascii().is_empty() || serde_json::from_slice::<ExportEnd>(text).is_ok() {
            continue;
        }
        match Format::Json.decode::<ExportedContext>(text) {
            Ok(context) => contexts.push((line, context)),
            Err(error) => {
                let code = if error.well_formed { Code::FieldInvalid } else { Code::BodyMalformed };
                undecodable.refuse(RefusedLine { line, code, detail: error.to_string() });
            }
        }
    }
    let imported = engine.import(&granted, contexts).await?;
    Ok(caller.answer(StatusCode::OK, &undecodable.and(imported)))
}
