//! A trace collector on loopback that takes OTLP over HTTP, and can be told to behave badly.
//!
//! Its messages are written down again from OTLP's definition, so that what the product writes is read by somebody else.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    mem,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use prost::Message as _;
use tokio::{net::TcpListener, task::JoinSet};

mod otlp;

/// Longest time until spans are here: they wait a second for others, and some attempts may fail.
const PATIENCE: Duration = Duration::from_secs(20);

/// What it does with an export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// It takes all spans.
    #[default]
    Takes,
    /// It takes the export and says that it rejected so many spans of it.
    Rejects(i64),
    /// It answers with this status.
    Refuses(u16),
    /// It never answers.
    Hangs,
}

/// A running collector; it ends with the runtime or when dropped.
pub struct Collector {
    address: SocketAddr,
    shared: Shared,
    _tasks: JoinSet<()>,
}

/// A span as it arrived; ids are in hexadecimal.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// The trace.
    pub trace: String,
    /// Its own id.
    pub id: String,
    /// That of the span it belongs to; empty for a root.
    pub parent: String,
    /// What other systems noted about the trace.
    pub state: String,
    /// Its name.
    pub name: String,
    /// 1 internal, 2 server, 3 client.
    pub kind: i32,
    /// Whether it failed.
    pub failed: bool,
    /// Its flags.
    pub flags: u32,
    /// How long it took.
    pub duration: Duration,
    /// What it says.
    pub attributes: BTreeMap<String, String>,
    /// Who has made it.
    pub resource: BTreeMap<String, String>,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    behaviour: Behaviour,
    spans: Vec<Span>,
    bodies: Vec<Bytes>,
    headers: Vec<HeaderMap>,
}

impl Collector {
    /// Listens on a free port.
    ///
    /// # Errors
    /// When there is none.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (address, shared) = (listener.local_addr()?, Shared::default());
        let router = Router::new().route("/base/v1/traces", post(take)).with_state(shared.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap_or_default() });
        Ok(Self { address, shared, _tasks: tasks })
    }

    /// The table `[tracing]` of a sidecar's configuration for this collector, open for more keys.
    #[must_use]
    pub fn config(&self) -> String {
        format!("[tracing]\notlp_endpoint = \"http://{}/base/\"\n", self.address)
    }

    /// What it does from the next export on.
    pub fn behave(&self, behaviour: Behaviour) {
        self.shared.inner().behaviour = behaviour;
    }

    /// All spans that it has taken.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.shared.inner().spans.clone()
    }

    /// Forgets what it has taken.
    pub fn forget(&self) {
        let mut inner = self.shared.inner();
        (inner.spans, inner.bodies, inner.headers) = Default::default();
    }

    /// The bodies of all exports that came, whatever became of them.
    #[must_use]
    pub fn bodies(&self) -> Vec<Bytes> {
        self.shared.inner().bodies.clone()
    }

    /// The headers of all exports that came.
    #[must_use]
    pub fn headers(&self) -> Vec<HeaderMap> {
        self.shared.inner().headers.clone()
    }

    /// Waits until the spans are such.
    ///
    /// # Errors
    /// When they are not soon.
    pub async fn until(&self, what: &str, holds: impl Fn(&[Span]) -> bool) -> Result<Vec<Span>> {
        let since = Instant::now();
        loop {
            let spans = self.spans();
            if holds(&spans) {
                return Ok(spans);
            }
            if since.elapsed() > PATIENCE {
                bail!("no {what} within {PATIENCE:?} among {spans:#?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for the server's span that a caller's span has made, and returns all spans of its trace.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn trace(&self, trace: &str, parent: &str) -> Result<Vec<Span>> {
        let is_here = |spans: &[Span]| spans.iter().any(|span| span.trace == trace && span.parent == parent);
        let spans = self.until(&format!("child of {parent} in {trace}"), is_here).await?;
        Ok(spans.into_iter().filter(|span| span.trace == trace).collect())
    }
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn take(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    if headers.get(header::CONTENT_TYPE).is_none_or(|value| value != "application/x-protobuf") {
        return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
    }
    let Ok(export) = otlp::Export::decode(body.clone()) else { return StatusCode::BAD_REQUEST.into_response() };
    let behaviour = {
        let mut inner = shared.inner();
        inner.bodies.push(body);
        inner.headers.push(headers);
        if matches!(inner.behaviour, Behaviour::Takes | Behaviour::Rejects(_)) {
            inner.spans.extend(spans(export));
        }
        inner.behaviour
    };
    match behaviour {
        Behaviour::Takes => StatusCode::OK.into_response(),
        Behaviour::Rejects(rejected_spans) => {
            let partial = otlp::PartialSuccess { rejected_spans, error_message: "too many".to_owned() };
            otlp::Answer { partial_success: Some(partial) }.encode_to_vec().into_response()
        }
        Behaviour::Refuses(status) => StatusCode::from_u16(status).unwrap_or_default().into_response(),
        Behaviour::Hangs => std::future::pending().await,
    }
}

fn spans(mut export: otlp::Export) -> Vec<Span> {
    let mut spans = Vec::new();
    for of_resource in &mut export.resource_spans {
        let resource = attributes(mem::take(&mut of_resource.resource).unwrap_or_default().attributes);
        for span in of_resource.scope_spans.iter_mut().flat_map(|scope| mem::take(&mut scope.spans)) {
            let nanoseconds = span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano);
            spans.push(Span {
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                state: span.trace_state,
                name: span.name,
                kind: span.kind,
                failed: span.status.is_some_and(|status| status.code == 2),
                flags: span.flags,
                duration: Duration::from_nanos(nanoseconds),
                attributes: attributes(span.attributes),
                resource: resource.clone(),
            });
        }
    }
    spans
}

fn attributes(pairs: Vec<otlp::KeyValue>) -> BTreeMap<String, String> {
    use otlp::Value as V;
    let text = |value: V| match value {
        V::Text(text) => text,
        V::Flag(flag) => flag.to_string(),
        V::Integer(integer) => integer.to_string(),
        V::Number(number) => number.to_string(),
    };
    let value = |pair: &mut otlp::KeyValue| pair.value.take().and_then(|value| value.value).map(text);
    pairs.into_iter().map(|mut pair| (mem::take(&mut pair.key), value(&mut pair).unwrap_or_default())).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
