//! Operations on a whole memory, and on all memories of the tenant, line by line.

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
use serde::{Deserialize, Serialize, de::IgnoredAny};
use uuid::Uuid;

use super::exchange::{Answer, Caller, Lines, Parameters, ScopeParameters, scope};
use crate::{
    access::{Export, Granted, GrantedTenant},
    engine::{self, Engine},
    refusal::{Refusal, chain},
};

/// Lines that are taken at once.
const AT_ONCE: usize = 100;

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

/// What of an export comes next. It has at most one page, so that an export takes no more memory than that. A page that is made has
/// [room among the bytes in flight](crate::layers::admission) until it is sent.
enum Next {
    /// A page that was read already.
    Page(Vec<ExportedContext>),
    /// What follows the context with this id, after so many.
    After(Uuid, usize),
    Nothing,
}

/// Where the export of a tenant goes on.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantExportParameters {
    /// The id of the last context that came; the export goes on after it.
    after: Option<Uuid>,
}

/// What is exported, by the proof that it may be.
#[derive(Clone)]
enum Source {
    Memory(Granted<Export>),
    Tenant(GrantedTenant<Export>),
}

impl Source {
    async fn page(&self, engine: &Engine, after: Option<Uuid>) -> Result<Vec<ExportedContext>, engine::Error> {
        match self {
            Self::Memory(granted) => engine.export(granted, after).await,
            Self::Tenant(granted) => engine.export_tenant(granted, after).await,
        }
    }
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
    stream_of(engine, Source::Memory(granted), after).await
}

/// `GET /v1/tenant/export?after=ID`: likewise, of all memories of the tenant.
///
/// # Errors
/// When it is not permitted, or the store fails before the first page.
pub async fn export_tenant(
    State(engine): State<Engine>,
    caller: Caller,
    Parameters(TenantExportParameters { after }): Parameters<TenantExportParameters>,
) -> Result<ExportStream, Refusal> {
    let granted = engine.permit_tenant(&caller.verified)?;
    stream_of(engine, Source::Tenant(granted), after).await
}

async fn stream_of(engine: Engine, source: Source, after: Option<Uuid>) -> Result<ExportStream, Refusal> {
    // The first page is read before the answer begins, so that a store that is away is a problem document.
    let first = Next::Page(source.page(&engine, after).await?);
    let pages = stream::try_unfold(first, move |next| {
        let (engine, source) = (engine.clone(), source.clone());
        async move { piece(&engine, &source, next).await }
    });
    Ok(ExportStream(Body::from_stream(pages)))
}

/// A piece of the body; an error ends it without its last line.
async fn piece(engine: &Engine, source: &Source, next: Next) -> Result<Option<(Bytes, Next)>, engine::Error> {
    let (page, before) = match next {
        Next::Page(page) => (page, 0),
        Next::After(last, before) => {
            let page = source.page(engine, Some(last)).await.inspect_err(|error| {
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
    lines: Lines,
) -> Answer<Imported> {
    let granted = engine.permit(&caller.verified, Some(&scope(agent, space)), session.as_deref())?;
    let imported = take(lines, |contexts| engine.import(&granted, contexts)).await?;
    Ok(caller.answer(StatusCode::OK, &imported))
}

/// `POST /v1/tenant/import`: each line into the memory that it names.
///
/// # Errors
/// When it is not permitted, or the store fails.
pub async fn import_tenant(State(engine): State<Engine>, caller: Caller, lines: Lines) -> Answer<Imported> {
    let granted = engine.permit_tenant(&caller.verified)?;
    let imported = take(lines, |contexts| engine.import_tenant(&granted, contexts)).await?;
    Ok(caller.answer(StatusCode::OK, &imported))
}

/// Whether a line is the last one of an export, which may say more in a later version; a context has an id.
fn is_end(line: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Line {
        #[serde(flatten)]
        _end: ExportEnd,
        id: Option<IgnoredAny>,
    }
    serde_json::from_slice::<Line>(line).is_ok_and(|line| line.id.is_none())
}

/// Takes lines, some at a time, until all are taken or the time is getting short.
async fn take<F>(
    Lines { body, deadline }: Lines,
    import: impl Fn(Vec<(usize, ExportedContext)>) -> F,
) -> Result<Imported, engine::Error>
where
    F: Future<Output = Result<Imported, engine::Error>>,
{
    let mut imported = Imported::default();
    // What follows the last line's end is no line.
    let text = body.strip_suffix(b"\n").unwrap_or(&body);
    let mut lines = (1..).zip(text.split(|byte| *byte == b'\n')).peekable();
    while lines.peek().is_some() && (imported.lines_taken == 0 || !deadline.is_half_over()) {
        let mut contexts = Vec::with_capacity(AT_ONCE);
        for (line, text) in lines.by_ref().take(AT_ONCE) {
            imported.lines_taken = line;
            if text.trim_ascii().is_empty() || is_end(text) {
                continue;
            }
            match Format::Json.decode::<ExportedContext>(text) {
                Ok(context) => contexts.push((line, context)),
                Err(error) => {
                    let code = if error.well_formed { Code::FieldInvalid } else { Code::BodyMalformed };
                    imported.refuse(RefusedLine { line, code, detail: error.to_string() });
                }
            }
        }
        imported = imported.and(import(contexts).await?);
    }
    Ok(imported)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Mutex,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::layers::deadline::Deadline;

    fn line(number: usize) -> String {
        format!(
            r#"{{"id":"{}","text":"x","level":"long_term","version":1,"created_at":5,"updated_at":5}}"#,
            Uuid::from_u128(number as u128)
        )
    }

    /// The lines that are taken of a body when its request began so long ago, of which it has a minute.
    async fn taken(text: String, begun: Duration) -> (Imported, Vec<usize>) {
        let begun = Instant::now().checked_sub(begun).expect("the machine runs for longer");
        let deadline = Deadline::new(begun, Duration::from_mins(1));
        let numbers = Mutex::new(Vec::new());
        let import = |contexts: Vec<(usize, ExportedContext)>| {
            numbers.lock().expect("not poisoned").extend(contexts.iter().map(|(line, _)| *line));
            async move { Ok(Imported { imported: contexts.len(), ..Imported::default() }) }
        };
        let imported = take(Lines { body: text.into(), deadline }, import).await.expect("imported");
        (imported, numbers.into_inner().expect("not poisoned"))
    }

    #[tokio::test]
    async fn lines_are_taken_as_long_as_there_is_time_and_at_least_some_are() {
        let mut lines: Vec<String> = (1..=250).map(line).collect();
        lines[3] = "{".to_owned();
        lines[150] = String::new();
        for end in ["", "\n"] {
            let text = lines.join("\n") + end;
            let (all, numbers) = taken(text.clone(), Duration::ZERO).await;
            assert_eq!((all.lines_taken, all.imported, all.refused_total), (250, 248, 1));
            assert_eq!((numbers.first(), numbers.last()), (Some(&1), Some(&250)), "each by its place in the body");
            let (some, numbers) = taken(text, Duration::from_secs(31)).await;
            assert_eq!((some.lines_taken, some.imported, some.refused_total), (100, 99, 1));
            assert_eq!(numbers.last(), Some(&100));
            assert_eq!(some.refused[0].line, 4);
        }
        let (rest, _) = taken(lines[100..].join("\n"), Duration::ZERO).await;
        assert_eq!((rest.lines_taken, rest.imported), (150, 149), "what was left is sent next");
    }

    #[tokio::test]
    async fn a_context_that_also_counts_contexts_is_refused_and_not_taken_for_the_end() {
        let both = line(1).replacen('{', r#"{"exported":1,"#, 1);
        let (imported, _) = taken(format!("{both}\n{{\"exported\":1}}"), Duration::ZERO).await;
        assert_eq!((imported.lines_taken, imported.imported, imported.refused_total), (2, 0, 1));
    }
}
