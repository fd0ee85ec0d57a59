//! Traces: one span for a request, with children for what is done and called for it, exported by OTLP.
//!
//! Owns which spans there are and what they say: operations, names of models and collections, counts and ids. A text, a vector, a
//! query, a session, metadata, a path or a key is never an attribute. What a caller says about its trace (W3C Trace Context) is
//! continued and handed on, also while nothing is exported. A collector that fails costs spans and never a request: see [`batch`].

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use context_manager_protocol::config;
use tokio::time::timeout;
use tracing::{Metadata, Subscriber, callsite::rebuild_interest_cache, info, level_filters::LevelFilter, warn};
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};

use crate::{identity::Identity, metrics::Metrics};

mod batch;
mod collector;
mod otlp;
mod request;
mod sampling;
mod spans;
mod tracer;
mod w3c;

use batch::Pipeline;
pub use request::{Arrival, Carrier, answered, request};
pub use spans::{
    Server, Work, authentication, background, embedding, fail, http_answered, http_call, journal_append, ranking,
    store, store_server, watched,
};
use tracer::Tracer;
pub use w3c::{current as context_pairs, headers as context_headers};

/// Target of the spans that are for traces alone. The log leaves them out, so that its lines keep the request's span.
pub const TARGET: &str = "context_manager::trace";
/// Target of the spans of requests, which the log shows too.
const REQUEST: &str = "context_manager_sidecar::request";
/// The same for requests whose caller brings a trace, which are continued whether or not anything is exported.
const CONTINUED: &str = "context_manager_sidecar::request::continued";

/// The traces of one process; a cheap handle.
#[derive(Clone, Debug, Default)]
pub struct Telemetry(Arc<Shared>);

/// What the layer and whoever reconfigures it share.
#[derive(Debug, Default)]
struct Shared {
    pipeline: ArcSwapOption<Pipeline>,
    /// Whether there is one, as the layer's filter sees it.
    exports: AtomicBool,
    changing: Mutex<()>,
}

impl Telemetry {
    /// The layer that turns spans into traces. It sees the spans of this module, and no events: those are for the log.
    #[must_use]
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let (tracer, shared) = (Tracer::new(Arc::clone(&self.0)), Arc::clone(&self.0));
        // Asked once for each place in the code, and again when the answer changes; so a span that nobody wants costs nothing.
        let is_wanted = move |metadata: &Metadata<'_>| {
            is_ours(metadata) && (metadata.target() == CONTINUED || shared.exports.load(Ordering::Acquire))
        };
        let filter = filter_fn(is_wanted).with_max_level_hint(LevelFilter::INFO);
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_level(false)
            .with_tracked_inactivity(false)
            .with_context_activation(false)
            .with_filter(filter)
    }

    /// Exports as the configuration says from now on. What waits for the former collector is still sent there. Must be called in the
    /// runtime that shall send.
    pub fn apply(&self, config: &config::Tracing, identity: &Identity, metrics: &Metrics) {
        let _alone = self.0.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.0.pipeline.load_full();
        if current.as_ref().map_or(config.otlp_endpoint.is_none(), |current| current.is_made_by(config)) {
            return;
        }
        let new = config.otlp_endpoint.as_ref().map(|endpoint| {
            info!(tracing.otlp_endpoint = endpoint, tracing.sampling = config.sampling, "Traces are exported");
            Arc::new(Pipeline::start(endpoint, config, identity, metrics.traces.clone()))
        });
        if new.is_none() {
            info!("Traces are not exported any more");
        }
        self.0.export(new.is_some());
        if let Some(former) = self.0.pipeline.swap(new) {
            former.finish();
        }
    }

    /// Sends what waits, for so long at most.
    pub async fn shutdown(&self, limit: Duration) {
        self.0.export(false);
        let Some(pipeline) = self.0.pipeline.swap(None) else { return };
        if timeout(limit, pipeline.ended()).await.is_err() {
            warn!(limit_ms = limit.as_millis(), "The trace collector did not take the last spans in time");
        }
    }
}

impl Shared {
    fn export(&self, exports: bool) {
        if self.exports.swap(exports, Ordering::AcqRel) != exports {
            rebuild_interest_cache();
        }
    }
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    is_of_a_request(metadata) || (metadata.is_span() && metadata.target() == TARGET)
}

/// Whether this is the span of a request.
#[must_use]
pub fn is_of_a_request(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && [REQUEST, CONTINUED].contains(&metadata.target())
}

/// Whether the log may show what has this metadata.
#[must_use]
pub fn is_for_the_log(metadata: &Metadata<'_>) -> bool {
    !(metadata.is_span() && metadata.target() == TARGET)
}
