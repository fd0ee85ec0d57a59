//! Operations on the whole memory, line by line.

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use context_manager_protocol::{
    codec::Format,
    message::{ExportEnd, ExportedContext, Imported, RefusedLine},
    problem::Code,
};
use futures::stream;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::exchange::{Caller, Lines, Parameters, ScopeParameters, scope};
use crate::{
    access::{Export, Granted},
    engine::{self, Engine},
    refusal::{Refusal, chain},
};

type Answer = Result<Response, Refusal>;

/// Where an export goes on.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportParameters {
    after: Option<Uuid>,
    agent: Option<String>,
    space: Option<String>,
    session: Option<String>,
}

/// How far an export is.
enum Progress {
    Page(Vec<ExportedContext>, usize),
    Over,
}

/// `GET /v1/contexts/export?after=ID`: JSON Lines, in the order of the ids, read from the store page by page while they are sent.
pub async fn export(
    State(engine): State<Engine>,
    caller: Caller,
    Parameters(ExportParameters { after, agent, space, session }): Parameters<ExportParameters>,
) -> Answer {
    let granted = engine.permit(&caller.verified, Some(&scope(agent, space)), session.as_deref())?;
    // The first page is read before the answer begins, so that a store that is away is a problem document.
    let first = engine.export(&granted, after).await?;
    let pages = stream::try_unfold(Progress::Page(first, 0), move |progress| {
        let (engine, granted) = (engine.clone(), granted.clone());
        async move { next(&engine, &granted, progress).await }
    });
    let content_type = HeaderValue::from_static(Lines::MEDIA_TYPE);
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, content_type)], Body::from_stream(pages)).into_response())
}

/// A piece of the body; an error ends it without its last line.
async fn next(
    engine: &Engine,
    granted: &Granted<Export>,
    progress: Progress,
) -> Result<Option<(Bytes, Progress)>, engine::Error> {
    let Progress::Page(page, before) = progress else { return Ok(None) };
    let exported = before + page.len();
    let Some(last) = page.last().map(|context| context.id) else {
        return Ok(Some((lines(&[ExportEnd { exported }]), Progress::Over)));
    };
    let following = engine.export(granted, Some(last)).await.inspect_err(|error| {
        tracing::error!(error = chain(error), exported, "An export was broken off");
    })?;
    Ok(Some((lines(&page), Progress::Page(following, exported))))
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
pub async fn import(
    State(engine): State<Engine>,
    caller: Caller,
    Parameters(ScopeParameters { agent, space, session }): Parameters<ScopeParameters>,
    request: Request,
) -> Answer {
    let granted = engine.permit(&caller.verified, Some(&scope(agent, space)), session.as_deref())?;
    let Lines(body) = Lines::of(&request)?;
    let (mut contexts, mut refused) = (Vec::new(), Vec::new());
    for (line, text) in body.split(|byte| *byte == b'\n').enumerate().map(|(index, text)| (index + 1, text)) {
        if text.trim_ascii().is_empty() || serde_json::from_slice::<ExportEnd>(text).is_ok() {
            continue;
        }
        match Format::Json.decode::<ExportedContext>(text) {
            Ok(context) => contexts.push((line, context)),
            Err(error) => {
                let code = if error.well_formed { Code::FieldInvalid } else { Code::BodyMalformed };
                refused.push(RefusedLine { line, code, detail: error.to_string() });
            }
        }
    }
    let imported = engine.import(&granted, contexts).await?;
    refused.extend(imported.refused);
    refused.sort_by_key(|refused| refused.line);
    Ok(caller.answer(StatusCode::OK, &Imported { refused, ..imported }))
}
