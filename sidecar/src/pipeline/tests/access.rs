//! Every route, outside the agent's own memory: refused without a rule, with a rule for something else, and served with one.
//!
//! The routes are those of [`ENDPOINTS`], of which the router is made. A new one gets its request in [`call`], else this does not
//! compile, and is then held to the same.

use axum::http::StatusCode;
use context_manager_protocol::{
    config::{AccessRule, AccessTarget, Operation, SidecarConfig},
    level::Level,
    message::{ExportedContext, Scope},
    problem::Code,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::CONTEXTS;
use crate::{
    access::Export,
    identity::Verified,
    metrics::Route,
    routes::{ENDPOINTS, Endpoint},
    testing::{Answer, Call, Fixture},
};

const SECRET: &str = "the vault opens at noon";
const ID: &str = "0191e7f0-0000-7000-8000-00000000000a";
const ID_IN_SPACE: &str = "0191e7f0-0000-7001-8000-00000000000a";
const SESSION: &str = "handover";

/// Where a request works outside the agent's own memory.
#[derive(Clone, Debug, PartialEq)]
enum Place {
    Memory(Scope),
    Tenant,
}

/// Where an operation can be asked for.
fn places(endpoint: &Endpoint) -> Vec<Place> {
    match endpoint.route {
        Route::ExportTenant | Route::ImportTenant => vec![Place::Tenant],
        Route::Store
        | Route::StoreBatch
        | Route::Search
        | Route::Get
        | Route::List
        | Route::Update
        | Route::Delete
        | Route::ClearSession
        | Route::DeleteMatching
        | Route::Export
        | Route::Import
        | Route::Stats
        | Route::Stream
        | Route::OpenApi
        | Route::Unknown => scopes().into_iter().map(Place::Memory).collect(),
    }
}

/// The memories that are not the agent's own.
fn scopes() -> [Scope; 4] {
    let of = |agent: Option<&str>, space: Option<&str>, session: Option<&str>| Scope {
        agent: agent.map(Into::into),
        space: space.map(Into::into),
        session: session.map(Into::into),
    };
    [
        of(Some("planner"), None, None),
        of(None, Some("team"), None),
        of(Some("planner"), None, Some(SESSION)),
        of(None, Some("team"), Some(SESSION)),
    ]
}

fn rule(operations: &[Operation], levels: &[Level], place: &Place) -> AccessRule {
    let target = match place.clone() {
        Place::Memory(Scope { agent, space, session }) => AccessTarget { agent, space, session, tenant: false },
        Place::Tenant => AccessTarget { tenant: true, ..AccessTarget::default() },
    };
    let agents = vec!["agent".to_owned()];
    AccessRule { agents, operations: operations.to_vec(), levels: levels.to_vec(), target }
}

/// Rules that permit everything in every memory.
fn all_in_every_memory() -> Vec<AccessRule> {
    scopes().map(|scope| rule(&Operation::ALL, &[], &Place::Memory(scope))).into()
}

fn query(scope: &Scope) -> String {
    let Scope { agent, space, session } = scope;
    let parts = [("agent", agent), ("space", space), ("session", session)];
    let named = parts.into_iter().filter_map(|(name, value)| value.as_ref().map(|value| format!("{name}={value}")));
    named.collect::<Vec<_>>().join("&")
}

/// A request for an operation at a place, on the level `short_term` where a request can say it.
fn call(endpoint: &Endpoint, place: &Place) -> Call {
    let scope = &match place {
        Place::Memory(scope) => scope.clone(),
        Place::Tenant => Scope::default(),
    };
    let (method, path) = (endpoint.method.as_str(), endpoint.path.replace("{id}", ID));
    let method: &'static str = ["GET", "POST", "PATCH", "DELETE"].into_iter().find(|m| *m == method).expect("a method");
    let body = |body: Value| Call::json(method, path.clone(), body.to_string());
    let asked = |more: &str| Call::new(method, format!("{path}?{}{more}", query(scope)));
    match endpoint.route {
        Route::Store => body(json!({"text": "planted", "level": "short_term", "scope": scope})),
        Route::StoreBatch => body(json!({"contexts": [
            {"text": "one's own"}, {"text": "planted", "level": "short_term", "scope": scope},
        ]})),
        Route::Search => body(json!({"query": SECRET, "levels": ["short_term"], "scopes": [{}, scope]})),
        Route::Get | Route::Delete | Route::Stats | Route::Export => asked(""),
        Route::List => asked("&level=short_term"),
        Route::Update => body(json!({"text": "overwritten", "scope": scope})),
        Route::ClearSession if scope.session.is_some() => asked(""),
        Route::ClearSession => asked(&format!("&session={SESSION}")),
        Route::DeleteMatching => body(json!({"session": SESSION, "levels": ["short_term"], "scope": scope})),
        Route::Import => {
            let line = json!({"id": Uuid::new_v4(), "text": "planted", "level": "short_term",
                "session": SESSION, "version": 1, "created_at": 5, "updated_at": 5});
            let call = Call { body: format!("{line}\n").into_bytes(), ..asked("") };
            call.header("content-type", "application/jsonl")
        }
        Route::ExportTenant => Call::new(method, path),
        Route::ImportTenant => {
            let line = json!({"id": Uuid::new_v4(), "agent": "planner", "written_by": "agent", "text": "planted",
                "level": "short_term", "session": SESSION, "version": 1, "created_at": 5, "updated_at": 5});
            let call = Call { body: format!("{line}\n").into_bytes(), ..Call::new(method, path) };
            call.header("content-type", "application/jsonl")
        }
        Route::Stream | Route::OpenApi | Route::Unknown => unreachable!("no endpoint in the table is counted so"),
    }
}

struct Walk {
    fixture: Fixture,
    config: SidecarConfig,
}

impl Walk {
    /// Another agent's memory and a space with the secret in them, and no rules.
    async fn new() -> Self {
        let mut config = None;
        let fixture = Fixture::with(|given| config = Some(given.clone()), 1_000).await;
        let walk = Self { fixture, config: config.expect("it was given") };
        walk.seed().await;
        walk
    }

    /// Puts the secret back as it was, whatever a request did to it.
    async fn seed(&self) {
        self.permit(all_in_every_memory()).await;
        for (id, scope) in [ID, ID_IN_SPACE].into_iter().zip(&scopes()) {
            self.fixture.send(Call::new("DELETE", format!("{CONTEXTS}/{id}?{}", query(scope))).sign()).await;
            let context = json!({"id": id, "text": SECRET, "level": "short_term", "session": SESSION, "scope": scope});
            let stored = self.fixture.send(Call::json("POST", CONTEXTS, context.to_string()).sign()).await;
            assert_eq!(stored.status, StatusCode::CREATED, "{:?}", stored.body);
        }
        self.permit(Vec::new()).await;
    }

    /// Puts rules in force, as a changed configuration does.
    async fn permit(&self, access: Vec<AccessRule>) {
        let config = SidecarConfig { access, ..self.config.clone() };
        self.fixture.engine.reconfigure(&config).await.expect("rules of the engine");
    }

    /// All there is in every memory.
    async fn everything(&self, after: Vec<AccessRule>) -> Vec<ExportedContext> {
        self.permit(all_in_every_memory()).await;
        let mut all = Vec::new();
        for scope in [Scope::default()].iter().chain(scopes().iter().take(2)) {
            let engine = &self.fixture.engine;
            let granted = engine.permit::<Export>(&Verified::for_test(), Some(scope), None).expect("permitted");
            all.extend(engine.export(&granted, None).await.expect("an export"));
        }
        self.permit(after).await;
        all
    }

    /// Sends a request under rules that do not permit it: whatever it is answered, nothing is told and nothing is changed.
    async fn without_effect(&self, endpoint: &Endpoint, place: &Place, rules: Vec<AccessRule>) -> Answer {
        let before = self.everything(rules).await;
        let answer = self.fixture.send(call_in(endpoint, place).sign()).await;
        let text = String::from_utf8_lossy(&answer.body);
        let case = format!("{} {} in {place:?}: {} {text}", endpoint.method, endpoint.path, answer.status);
        for told in [SECRET, SESSION] {
            assert!(!text.contains(told), "{case}");
        }
        assert_eq!(self.everything(Vec::new()).await, before, "{case}");
        answer
    }

    async fn is_refused(&self, endpoint: &Endpoint, place: &Place, rules: Vec<AccessRule>) {
        let denials = &self.fixture.shared.metrics.auth.denials;
        let before = denials.get(endpoint.permission);
        let answer = self.without_effect(endpoint, place, rules).await;
        let problem = answer.problem();
        assert_eq!((problem.code, problem.status), (Code::AccessDenied, 403), "{}: {}", endpoint.path, problem.detail);
        for part in ["agent agent", endpoint.permission.as_str(), "spec.auth.access", "[[access]]"] {
            assert!(problem.detail.contains(part), "{} lacks {part}", problem.detail);
        }
        assert_eq!(denials.get(endpoint.permission), before + 1, "it is counted");
    }
}

/// The request, for the space's context in a space.
fn call_in(endpoint: &Endpoint, place: &Place) -> Call {
    let mut call = call(endpoint, place);
    if matches!(place, Place::Memory(scope) if scope.space.is_some()) {
        call.uri = call.uri.replace(ID, ID_IN_SPACE);
    }
    call
}

#[tokio::test]
async fn every_route_refuses_what_no_rule_permits() {
    let walk = Walk::new().await;
    for endpoint in &ENDPOINTS {
        for place in &places(endpoint) {
            walk.is_refused(endpoint, place, Vec::new()).await;
            let others: Vec<_> = Operation::ALL.into_iter().filter(|other| *other != endpoint.permission).collect();
            walk.is_refused(endpoint, place, vec![rule(&others, &[], place)]).await;
            let works_in = effective(endpoint, place);
            // A rule for every memory is none for the tenant, and the other way round.
            let everywhere = scopes().into_iter().map(Place::Memory).chain([Place::Tenant]);
            let elsewhere = everywhere.filter(|other| !contains(other, &works_in));
            let rules = elsewhere.map(|other| rule(&Operation::ALL, &[], &other)).collect();
            walk.is_refused(endpoint, place, rules).await;
            let stranger = AccessRule { agents: vec!["another".to_owned()], ..rule(&Operation::ALL, &[], place) };
            walk.is_refused(endpoint, place, vec![stranger]).await;
        }
    }
}

/// Where a request of [`call`] works: some name a session beside the scope.
fn effective(endpoint: &Endpoint, place: &Place) -> Place {
    let Place::Memory(scope) = place else { return Place::Tenant };
    let session = match endpoint.route {
        Route::ClearSession | Route::DeleteMatching => Some(SESSION.to_owned()),
        Route::Store
        | Route::StoreBatch
        | Route::Search
        | Route::Get
        | Route::List
        | Route::Update
        | Route::Delete
        | Route::Export
        | Route::ExportTenant
        | Route::Import
        | Route::ImportTenant
        | Route::Stats
        | Route::Stream
        | Route::OpenApi
        | Route::Unknown => scope.session.clone(),
    };
    Place::Memory(Scope { session, ..scope.clone() })
}

/// Whether a rule for `outer` is one for `inner`.
fn contains(outer: &Place, inner: &Place) -> bool {
    let whole = match inner {
        Place::Memory(scope) => Place::Memory(Scope { session: None, ..scope.clone() }),
        Place::Tenant => Place::Tenant,
    };
    outer == inner || *outer == whole
}

#[tokio::test]
async fn a_new_context_is_read_at_its_location_whatever_memory_it_is_in() {
    let walk = Walk::new().await;
    for scope in scopes().into_iter().chain([Scope::default()]) {
        // One's own memory needs no rule.
        let is_shared = scope != Scope::default();
        let rules = is_shared.then(|| rule(&[Operation::Store, Operation::Read], &[], &Place::Memory(scope.clone())));
        walk.permit(rules.into_iter().collect()).await;
        let session = scope.session.is_none().then_some("tea & cake=ü");
        let body = json!({"text": "planted", "level": "short_term", "scope": scope, "session": session});
        let stored = walk.fixture.send(Call::json("POST", CONTEXTS, body.to_string()).sign()).await;
        let location = stored.header("location");
        let read = walk.fixture.send(Call::new("GET", location).sign()).await;
        assert_eq!((stored.status, read.status), (StatusCode::CREATED, StatusCode::OK), "{location}");
        assert_eq!(location.contains('?'), is_shared, "{location}");
    }
}

#[tokio::test]
async fn every_route_keeps_to_the_levels_of_its_rule() {
    let walk = Walk::new().await;
    for endpoint in &ENDPOINTS {
        for place in &places(endpoint) {
            let rules = vec![rule(&[endpoint.permission], &[Level::LongTerm], place)];
            // Some take what they may, and there is nothing of it.
            let nothing = match endpoint.route {
                Route::ClearSession => r#""deleted":0"#,
                Route::Export | Route::ExportTenant => r#""exported":0"#,
                Route::Import | Route::ImportTenant => r#""code":"access-denied""#,
                Route::Stats => r#"{"long_term":0}"#,
                Route::Store
                | Route::StoreBatch
                | Route::Search
                | Route::Get
                | Route::List
                | Route::Update
                | Route::Delete
                | Route::DeleteMatching
                | Route::Stream
                | Route::OpenApi
                | Route::Unknown => {
                    walk.is_refused(endpoint, place, rules).await;
                    continue;
                }
            };
            let answer = walk.without_effect(endpoint, place, rules).await;
            let text = String::from_utf8_lossy(&answer.body);
            assert!(answer.status == StatusCode::OK && text.contains(nothing), "{}: {text}", endpoint.path);
        }
    }
}

#[tokio::test]
async fn every_route_serves_what_a_rule_permits() {
    let walk = Walk::new().await;
    for endpoint in &ENDPOINTS {
        for place in &places(endpoint) {
            walk.seed().await;
            let rules = vec![rule(&[endpoint.permission], &[Level::ShortTerm], place)];
            let before = walk.everything(rules).await;
            let answer = walk.fixture.send(call_in(endpoint, place).sign()).await;
            let text = String::from_utf8_lossy(&answer.body);
            let case = format!("{} {} in {place:?}: {} {text}", endpoint.method, endpoint.path, answer.status);
            assert!(answer.status.is_success(), "{case}");
            let after = walk.everything(Vec::new()).await;
            match endpoint.permission {
                Operation::Read | Operation::Export => {
                    let told = if endpoint.route == Route::Stats { "{\"short_term\":" } else { SECRET };
                    assert!(text.contains(told), "{case}");
                    assert_eq!(after, before, "{case}");
                }
                Operation::Store | Operation::Import => {
                    let new: Vec<_> = after.iter().filter(|context| !before.contains(context)).collect();
                    let planted: Vec<_> = new.iter().filter(|context| context.text == "planted").collect();
                    assert_eq!(planted.len(), 1, "{case}");
                    assert_eq!(planted[0].written_by.as_deref(), Some("agent"), "{case}");
                }
                Operation::Update => {
                    let changed: Vec<_> = after.iter().filter(|context| context.text == "overwritten").collect();
                    assert_eq!(changed[0].written_by.as_deref(), Some("agent"), "{case}");
                }
                Operation::Delete => {
                    let secrets = |all: &[ExportedContext]| all.iter().filter(|one| one.text == SECRET).count();
                    assert_eq!((secrets(&before), secrets(&after)), (2, 1), "{case}");
                }
            }
        }
    }
}
