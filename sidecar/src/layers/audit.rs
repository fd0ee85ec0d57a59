//! The audit log: one line for each authenticated request that may change memory or take all of it away, whatever became of it,
//! and for each stream that is opened. Requests that are not authenticated have theirs from [`super::authenticate`].
//!
//! It says who (tenant, agent, key), what (operation, ids), where (the memories that were asked for), the decision of the access
//! rules and how it ended; the span has the request's id. It never has a text, a query, metadata or a session's name. What the
//! rules refuse is counted here as well.
//!
//! A write goes on without its caller ([`crate::ongoing`]). Its line is written when it has ended then, with what became of it.

use std::{
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
};

use axum::{
    extract::{Request, State},
    http::StatusCode,
    middleware::Next,
    response::Response,
};
use context_manager_protocol::problem::{Code, Problem};
use tracing::{Span, info};
use uuid::Uuid;

use crate::{
    access::Decision,
    engine::Engine,
    identity::{Identity, Verified},
    logging::AUDIT,
    metrics::{Label as _, Route},
    ongoing::Ongoing,
};

/// Most ids of one line.
const MOST_IDS: usize = 100;
/// Most memories of one line.
const MOST_SCOPES: usize = 16;

/// What became of the write that a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// It was not begun, or the request asks for none.
    #[default]
    Nothing,
    /// It was begun, and nobody said how it ended.
    Unknown,
    /// It was done.
    Done {
        /// The contexts that were written, as far as they are known one by one.
        contexts: Vec<Uuid>,
        /// Whether it waits in the journal.
        is_journaled: bool,
    },
    /// It failed, with what was the matter in one of a few words. A part of it may have happened.
    Failed(&'static str),
}

/// The line of one request, written once: with its answer, or else when it is dropped.
pub struct Line {
    engine: Engine,
    route: Route,
    verified: Option<Verified>,
    span: Span,
    state: Mutex<Written>,
}

/// What of a line is known so far.
#[derive(Default)]
struct Written {
    outcome: Outcome,
    is_written: bool,
}

/// How the caller was answered.
struct Answer {
    status: StatusCode,
    problem: Option<Code>,
}

/// The layer. It stands inside authentication, around all routes.
pub async fn audit(State(engine): State<Engine>, mut request: Request, next: Next) -> Response {
    let line = Line::new(engine, &request);
    let ongoing = Ongoing::new(line, request.extensions_mut());
    let response = ongoing.clone().scope(next.run(request)).await;
    let problem = response.extensions().get::<Problem>().map(|problem| problem.code);
    ongoing.line().write(Some(&Answer { status: response.status(), problem }));
    response
}

impl Line {
    fn new(engine: Engine, request: &Request) -> Self {
        let route = request.extensions().get::<Route>().copied().unwrap_or(Route::Unknown);
        let verified = request.extensions().get::<Verified>().cloned();
        Self { engine, route, verified, span: Span::current(), state: Mutex::default() }
    }

    /// Notes that a write begins.
    pub fn begin(&self) {
        self.end(Outcome::Unknown);
    }

    /// Notes how it ended.
    pub fn end(&self, outcome: Outcome) {
        self.state().outcome = outcome;
    }

    /// Writes the line, unless it is written, and counts what was refused. Without an answer it says what became of the write instead.
    fn write(&self, answer: Option<&Answer>) {
        let outcome = {
            let mut state = self.state();
            if mem::replace(&mut state.is_written, true) {
                return;
            }
            mem::take(&mut state.outcome)
        };
        let decisions = self.verified.as_ref().map(|verified| verified.decisions().all()).unwrap_or_default();
        let refused: Vec<&Decision> = decisions.iter().filter(|decision| !decision.permitted).collect();
        for decision in &refused {
            self.engine.metrics().auth.denials.add(decision.operation, 1);
        }
        if !is_recorded(self.route) && refused.is_empty() {
            return;
        }
        let problem = answer.and_then(|answer| answer.problem);
        let (told, reason, contexts) = match &outcome {
            Outcome::Nothing => ("nothing", None, &[][..]),
            Outcome::Unknown => ("unknown", None, &[][..]),
            Outcome::Done { contexts, is_journaled: true } => ("journaled", None, contexts.as_slice()),
            // What followed the last piece was not begun.
            Outcome::Done { contexts, .. } if is_in_pieces(self.route) => ("done in part", None, contexts.as_slice()),
            Outcome::Done { contexts, .. } => ("done", None, contexts.as_slice()),
            Outcome::Failed(kind) => ("failed", Some(*kind), &[][..]),
        };
        let shown: Vec<String> = contexts.iter().take(MOST_IDS).map(ToString::to_string).collect();
        let Identity { tenant, agent, pod: _ } = self.engine.identity();
        let decision = match problem {
            Some(Code::AccessDenied) => "refused",
            _ if refused.is_empty() => "allowed",
            _ => "refused in part",
        };
        info!(
            target: AUDIT,
            parent: &self.span,
            decision,
            operation = self.route.as_str(),
            tenant = tenant.as_str(),
            agent = agent.as_str(),
            key.id = self.verified.as_ref().map_or("", Verified::key_id),
            scope = scopes(decisions.iter()),
            scope.refused = scopes(refused.iter().copied()),
            answered = answer.is_some(),
            http.status = answer.map(|answer| answer.status.as_u16()),
            problem.code = problem.map_or("", Code::as_str),
            outcome = answer.is_none().then_some(told),
            reason = reason.filter(|_| answer.is_none()),
            contexts = shown.join(","),
            contexts.total = contexts.len(),
            "Decided on a request"
        );
    }

    fn state(&self) -> MutexGuard<'_, Written> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.write(None);
    }
}

/// The memories that were asked for and what for, such as `store in space team`.
fn scopes<'a>(decisions: impl Iterator<Item = &'a Decision>) -> String {
    let shown = decisions.take(MOST_SCOPES).map(|Decision { operation, whose, in_session, permitted: _ }| {
        let part = if *in_session { "a session of " } else { "" };
        format!("{} in {part}{whose}", operation.as_str())
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// Whether an operation changes the memory, takes all of it away, or opens a way to do so.
const fn is_recorded(route: Route) -> bool {
    match route {
        Route::Store
        | Route::StoreBatch
        | Route::Update
        | Route::Delete
        | Route::ClearSession
        | Route::DeleteMatching
        | Route::Export
        | Route::ExportTenant
        | Route::Import
        | Route::ImportTenant
        | Route::Stream => true,
        Route::Search | Route::Get | Route::List | Route::Stats | Route::OpenApi | Route::Unknown => false,
    }
}

/// Whether an operation is done piece by piece.
const fn is_in_pieces(route: Route) -> bool {
    matches!(route, Route::Import | Route::ImportTenant)
}
