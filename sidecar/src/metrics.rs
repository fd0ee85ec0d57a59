//! Every metric of the sidecar: name, unit, help and labels. No other file names one.
//!
//! All names start with `context_manager_`, counters end in `_total`, durations are histograms in seconds. Label values come
//! from enums ([`label`]); memory text, ids of contexts and sessions are never a label.

use std::{
    fs,
    time::{Duration, Instant},
};

use context_manager_protocol::{config::Operation, keyring::KeyRing, level::Level, problem::Code};
use prometheus::{Gauge, Histogram, IntCounter, IntGauge, IntGaugeVec, Registry, TextEncoder};

mod family;
pub mod label;

pub use family::{CounterMatrix, Counters, DurationMatrix, Durations, Gauges};
use family::{counter, float_gauge, gauge, histogram, info};
pub use label::{
    Degradation, Dropped, EmbeddingKind, Frame, Label, Listener, Neighbour, Outcome, RequestOutcome, Route, SpanDrop,
    StoreOperation, StreamEnd, Volume, WatchedFile,
};

/// Media type of the text that [`Metrics::render`] makes.
pub const MEDIA_TYPE: &str = prometheus::TEXT_FORMAT;

/// All metrics of one sidecar.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    started: Instant,
    process: Process,
    /// What callers ask for.
    pub requests: Requests,
    /// Streams.
    pub streams: Streams,
    /// Who may ask.
    pub auth: Auth,
    /// What is loaded from files.
    pub files: Files,
    /// Vectors of texts.
    pub embedding: Embedding,
    /// The vector store.
    pub store: Store,
    /// Contexts that get vectors of the current model.
    pub re_embedding: ReEmbedding,
    /// The disks that are written to.
    pub disk: Disk,
    /// The breakers before the neighbours.
    pub breakers: Breakers,
    /// Writes that wait for the store.
    pub journal: Journal,
    /// The memory itself.
    pub contexts: Contexts,
    /// Garbage collection.
    pub gc: Gc,
    /// The export of traces.
    pub traces: Traces,
}

#[derive(Debug)]
struct Process {
    uptime: Gauge,
    resident_memory: IntGauge,
}

/// What callers ask for.
#[derive(Clone, Debug)]
pub struct Requests {
    /// Requests by operation and outcome.
    pub finished: CounterMatrix<Route, RequestOutcome>,
    /// Problem documents by code.
    pub problems: Counters<Code>,
    /// From the head of a request to the head of its answer.
    pub duration: Durations<Route>,
    /// Requests that are worked on.
    pub in_flight: IntGauge,
    /// Bytes of the bodies that are in memory.
    pub bytes_in_flight: IntGauge,
    /// Open connections.
    pub connections: Gauges<Listener>,
    /// 1 when the sidecar takes requests.
    pub ready: IntGauge,
}

/// Streams. What their frames ask for is counted among the requests as well.
#[derive(Clone, Debug)]
pub struct Streams {
    /// Open streams.
    pub open: IntGauge,
    /// Frames of agents by type and outcome.
    pub frames: CounterMatrix<Frame, RequestOutcome>,
    /// Streams that ended.
    pub ended: Counters<StreamEnd>,
}

/// Who may ask.
#[derive(Clone, Debug)]
pub struct Auth {
    /// Refusals by the code of the problem document.
    pub refusals: Counters<Code>,
    /// What the access rules refused, by operation.
    pub denials: Counters<Operation>,
    /// Nonces that are remembered.
    pub nonces: IntGauge,
    /// Most nonces that can be remembered.
    pub nonce_capacity: IntGauge,
}

/// What is loaded from files.
#[derive(Clone, Debug)]
pub struct Files {
    /// `metadata.generation` of the resource that the loaded configuration was made from.
    pub generation: IntGauge,
    /// Contents that were refused.
    pub reload_failures: Counters<WatchedFile>,
    /// Contents that were taken over.
    pub reloads: Counters<WatchedFile>,
    /// 1 when the file's current content is loaded.
    pub last_reload_successful: Gauges<WatchedFile>,
    keys: IntGaugeVec,
}

/// Vectors of texts.
#[derive(Clone, Debug)]
pub struct Embedding {
    /// Calls of the embedder, retries included, without what the cache answered.
    pub duration: DurationMatrix<EmbeddingKind, Outcome>,
    /// Texts that were sent to the embedder.
    pub texts: Counters<EmbeddingKind>,
    /// Attempts after the first.
    pub retries: IntCounter,
    /// Texts whose vector was in the cache.
    pub cache_hits: IntCounter,
    /// Texts whose vector was not.
    pub cache_misses: IntCounter,
    /// Vectors in the cache.
    pub cache_entries: IntGauge,
    /// Bytes of the cache.
    pub cache_bytes: IntGauge,
}

/// The vector store.
#[derive(Clone, Debug)]
pub struct Store {
    /// Calls of the store.
    pub duration: DurationMatrix<StoreOperation, Outcome>,
    /// Bytes of the embedded store's directory.
    pub disk_bytes: IntGauge,
    /// 1 when the server's certificate is not checked.
    pub tls_unverified: IntGauge,
    /// 1 while the server does not have the collection any more.
    pub collection_missing: IntGauge,
    /// Collections that were made anew, empty, because they were gone.
    pub collections_made_anew: IntCounter,
    /// Deleted contexts that a late call brought back.
    pub late: IntCounter,
}

/// Contexts that get vectors of the current model: after a change of it, or because the embedding was down when they were stored.
#[derive(Clone, Debug)]
pub struct ReEmbedding {
    /// Contexts that are to have vectors of the current model.
    pub contexts: IntGauge,
    /// Those that have them.
    pub done: IntGauge,
    /// Those whose text the embedding API refuses.
    pub refused: IntGauge,
    /// 0 complete, 1 running, 2 waiting for a neighbour, 3 not known yet.
    pub state: IntGauge,
    /// Contexts a second, of the last batch.
    pub rate: Gauge,
    /// Contexts that got their vectors since the start.
    pub embedded: IntCounter,
    /// Contexts whose vectors of former models were dropped.
    pub dropped: IntCounter,
}

/// The disks that are written to.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Bytes that are free.
    pub free: Gauges<Volume>,
    /// Bytes that stay free: writes are refused before.
    pub reserve: Gauges<Volume>,
    /// Writes that were refused for want of room.
    pub refused: Counters<Volume>,
}

/// The breakers before the neighbours.
#[derive(Clone, Debug)]
pub struct Breakers {
    /// 0 closed, 1 half-open, 2 open.
    pub state: Gauges<Neighbour>,
    /// How often a breaker opened.
    pub opened: Counters<Neighbour>,
}

/// Writes that wait for the store.
#[derive(Clone, Debug)]
pub struct Journal {
    /// How many.
    pub entries: IntGauge,
    /// Bytes of the files.
    pub bytes: IntGauge,
    /// Most bytes of the files.
    pub limit: IntGauge,
    /// Age of the oldest one.
    pub oldest: Gauge,
    /// Writes that were taken.
    pub appended: IntCounter,
    /// Writes that have reached the store.
    pub drained: IntCounter,
    /// Writes that turned out to be without effect.
    pub dropped: Counters<Dropped>,
}

/// The memory itself.
#[derive(Clone, Debug)]
pub struct Contexts {
    /// Contexts that are not expired.
    pub stored: Gauges<Level>,
    /// Tokens of all answers.
    pub tokens_returned: Counters<Level>,
    /// A search inside the engine: embedding, candidates, ranking, packing.
    pub retrieve_duration: Histogram,
    /// A write inside the engine: embedding and storing.
    pub store_duration: Histogram,
    /// Answers in which something could not take part.
    pub degraded: Counters<Degradation>,
    /// Contexts that moved from short-term to long-term.
    pub promoted: IntCounter,
    /// Contexts that made room for younger ones of their session and level.
    pub evicted: Counters<Level>,
}

/// Garbage collection.
#[derive(Clone, Debug)]
pub struct Gc {
    /// Runs by outcome.
    pub runs: Counters<Outcome>,
    /// Expired contexts that were deleted.
    pub deleted: IntCounter,
    /// Expired contexts that are still there.
    pub backlog: IntGauge,
    /// Time of a run.
    pub duration: Histogram,
}

/// The export of traces.
#[derive(Clone, Debug)]
pub struct Traces {
    /// Spans that the collector has taken.
    pub exported: IntCounter,
    /// Spans that it has not, and never will.
    pub dropped: Counters<SpanDrop>,
    /// Exports by outcome, attempts after the first included.
    pub exports: Counters<Outcome>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A registry of its own with every metric in it.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let r = &registry;
        info(r, "context_manager_build_info", "Version of the program; always 1.", &["version", "component"])
            .with_label_values(&[env!("CARGO_PKG_VERSION"), "sidecar"])
            .set(1);
        Self {
            started: Instant::now(),
            process: Process {
                uptime: float_gauge(r, "context_manager_uptime_seconds", "Time since the process started."),
                resident_memory: gauge(r, "context_manager_resident_memory_bytes", "Resident memory of the process."),
            },
            requests: Requests::new(r),
            streams: Streams::new(r),
            auth: Auth::new(r),
            files: Files::new(r),
            embedding: Embedding::new(r),
            store: Store::new(r),
            re_embedding: ReEmbedding::new(r),
            disk: Disk::new(r),
            breakers: Breakers::new(r),
            journal: Journal::new(r),
            contexts: Contexts::new(r),
            gc: Gc::new(r),
            traces: Traces::new(r),
            registry,
        }
    }

    /// Time since the process started.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// All metrics in the Prometheus text format.
    ///
    /// # Errors
    /// When a metric cannot be written, which would be a defect of this module.
    pub fn render(&self) -> prometheus::Result<String> {
        self.process.uptime.set(self.uptime().as_secs_f64());
        if let Some(bytes) = resident_memory() {
            self.process.resident_memory.set(bytes);
        }
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// Resident memory of this process in bytes; unknown on systems without `/proc`.
fn resident_memory() -> Option<i64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: i64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1_024)
}

impl Requests {
    fn new(r: &Registry) -> Self {
        Self {
            finished: CounterMatrix::new(
                r,
                "context_manager_requests_total",
                "Requests by operation and outcome.",
                ["route", "outcome"],
            ),
            problems: Counters::new(r, "context_manager_problems_total", "Problem documents by code.", "code"),
            duration: Durations::new(
                r,
                "context_manager_request_duration_seconds",
                "Time from the head of a request to the head of its answer.",
                "route",
            ),
            in_flight: gauge(r, "context_manager_requests_in_flight", "Requests that are worked on."),
            bytes_in_flight: gauge(
                r,
                "context_manager_request_bytes_in_flight",
                "Bytes of request bodies that are in memory, or that room is kept for.",
            ),
            connections: Gauges::new(r, "context_manager_active_connections", "Open connections.", "listener"),
            ready: gauge(r, "context_manager_ready", "1 when the sidecar takes requests."),
        }
    }
}

impl Streams {
    fn new(r: &Registry) -> Self {
        Self {
            open: gauge(r, "context_manager_streams", "Open streams."),
            frames: CounterMatrix::new(
                r,
                "context_manager_stream_frames_total",
                "Frames of agents by type and outcome.",
                ["type", "outcome"],
            ),
            ended: Counters::new(r, "context_manager_streams_ended_total", "Streams that ended.", "reason"),
        }
    }
}

impl Auth {
    fn new(r: &Registry) -> Self {
        Self {
            refusals: Counters::new(
                r,
                "context_manager_auth_refusals_total",
                "Requests refused by authentication, by the code of the problem document.",
                "reason",
            ),
            denials: Counters::new(
                r,
                "context_manager_access_refusals_total",
                "Decisions of the access rules against a request, by operation.",
                "operation",
            ),
            nonces: gauge(r, "context_manager_nonces", "Nonces that are remembered."),
            nonce_capacity: gauge(r, "context_manager_nonces_limit", "Most nonces that can be remembered."),
        }
    }
}

impl Files {
    fn new(r: &Registry) -> Self {
        Self {
            generation: gauge(
                r,
                "context_manager_config_generation",
                "Generation of the resource that the loaded configuration was made from; 0 when written by hand.",
            ),
            reload_failures: Counters::new(
                r,
                "context_manager_config_reload_failures_total",
                "Changed files that were refused; the last good content stays.",
                "file",
            ),
            reloads: Counters::new(
                r,
                "context_manager_config_reloads_total",
                "Changed files that were taken over.",
                "file",
            ),
            last_reload_successful: Gauges::new(
                r,
                "context_manager_config_last_reload_successful",
                "1 when the file's current content is loaded.",
                "file",
            ),
            keys: info(r, "context_manager_key_loaded", "Keys that verify requests; always 1.", &["key_id", "role"]),
        }
    }

    /// Shows the ids of the keys of a ring; the operator advances a rotation when it sees them.
    pub fn show_keys(&self, ring: &KeyRing) {
        self.keys.reset();
        let show = |id: &str, role: &str| self.keys.with_label_values(&[id, role]).set(1);
        show(ring.active().id(), "active");
        ring.next().into_iter().for_each(|key| show(key.id(), "next"));
        ring.previous().iter().for_each(|key| show(key.id(), "previous"));
    }
}

impl Embedding {
    fn new(r: &Registry) -> Self {
        Self {
            duration: DurationMatrix::new(
                r,
                "context_manager_embedding_duration_seconds",
                "Time of an embedding, retries included, without what the cache answered.",
                ["kind", "outcome"],
            ),
            texts: Counters::new(r, "context_manager_embedding_texts_total", "Texts sent to the embedder.", "kind"),
            retries: counter(r, "context_manager_embedding_retries_total", "Attempts after the first."),
            cache_hits: counter(r, "context_manager_embedding_cache_hits_total", "Texts whose vector was cached."),
            cache_misses: counter(
                r,
                "context_manager_embedding_cache_misses_total",
                "Texts whose vector was not cached.",
            ),
            cache_entries: gauge(r, "context_manager_embedding_cache_entries", "Vectors in the cache."),
            cache_bytes: gauge(r, "context_manager_embedding_cache_bytes", "Memory of the cached vectors."),
        }
    }
}

impl Store {
    fn new(r: &Registry) -> Self {
        Self {
            duration: DurationMatrix::new(
                r,
                "context_manager_vector_store_duration_seconds",
                "Time of a call of the vector store.",
                ["operation", "outcome"],
            ),
            disk_bytes: gauge(
                r,
                "context_manager_vector_store_disk_bytes",
                "Size of the embedded store's directory; 0 for a remote store.",
            ),
            tls_unverified: gauge(
                r,
                "context_manager_vector_store_tls_unverified",
                "1 when the server's certificate is not checked, so that anybody on the way can read and change all.",
            ),
            collection_missing: gauge(
                r,
                "context_manager_vector_store_collection_missing",
                "1 while the Qdrant server does not have the collection any more.",
            ),
            collections_made_anew: counter(
                r,
                "context_manager_vector_store_collections_made_anew_total",
                "How often the collection was made anew, empty, because it was gone.",
            ),
            late: counter(
                r,
                "context_manager_vector_store_late_writes_total",
                "Deleted contexts that a call brought back which had been given up, and that were deleted again.",
            ),
        }
    }
}

impl ReEmbedding {
    fn new(r: &Registry) -> Self {
        Self {
            contexts: gauge(
                r,
                "context_manager_re_embedding_contexts",
                "Contexts that are to have vectors of the current model.",
            ),
            done: gauge(r, "context_manager_re_embedding_done", "Contexts that have vectors of the current model."),
            refused: gauge(
                r,
                "context_manager_re_embedding_refused",
                "Contexts whose text the embedding API refuses; they are found by their words.",
            ),
            state: gauge(
                r,
                "context_manager_re_embedding_state",
                "0 when all contexts have vectors of the current model, 1 while they get them, 2 while a neighbour fails, 3 before it is known.",
            ),
            rate: float_gauge(
                r,
                "context_manager_re_embedding_contexts_per_second",
                "Contexts a second that got their vectors in the last batch.",
            ),
            embedded: counter(
                r,
                "context_manager_re_embedded_total",
                "Contexts that got vectors of the current model after they were stored.",
            ),
            dropped: counter(
                r,
                "context_manager_former_vectors_dropped_total",
                "Contexts whose vectors of former models were dropped.",
            ),
        }
    }
}

impl Disk {
    fn new(r: &Registry) -> Self {
        Self {
            free: Gauges::new(r, "context_manager_disk_free_bytes", "Free bytes of a disk.", "volume"),
            reserve: Gauges::new(
                r,
                "context_manager_disk_reserve_bytes",
                "Bytes of a disk that stay free; writes are refused before.",
                "volume",
            ),
            refused: Counters::new(
                r,
                "context_manager_disk_refused_writes_total",
                "Writes refused for want of room on a disk.",
                "volume",
            ),
        }
    }
}

impl Breakers {
    fn new(r: &Registry) -> Self {
        Self {
            state: Gauges::new(
                r,
                "context_manager_breaker_state",
                "State of the breaker before a neighbour: 0 closed, 1 half-open, 2 open.",
                "neighbour",
            ),
            opened: Counters::new(
                r,
                "context_manager_breaker_opened_total",
                "How often the breaker before a neighbour opened.",
                "neighbour",
            ),
        }
    }
}

impl Journal {
    fn new(r: &Registry) -> Self {
        Self {
            entries: gauge(r, "context_manager_journal_entries", "Writes that wait for the store."),
            bytes: gauge(r, "context_manager_journal_bytes", "Bytes of the journal's files."),
            limit: gauge(r, "context_manager_journal_limit_bytes", "Most bytes of the journal's files; 0 without one."),
            oldest: float_gauge(r, "context_manager_journal_oldest_seconds", "Age of the oldest write that waits."),
            appended: counter(r, "context_manager_journal_appended_total", "Writes that the journal has taken."),
            drained: counter(
                r,
                "context_manager_journal_drained_total",
                "Journaled writes that have reached the store.",
            ),
            dropped: Counters::new(
                r,
                "context_manager_journal_dropped_total",
                "Journaled writes that could not change the store any more.",
                "reason",
            ),
        }
    }
}

impl Contexts {
    fn new(r: &Registry) -> Self {
        Self {
            stored: Gauges::new(r, "context_manager_contexts", "Contexts that are not expired.", "level"),
            tokens_returned: Counters::new(
                r,
                "context_manager_tokens_returned_total",
                "Tokens of the contexts in all answers.",
                "level",
            ),
            retrieve_duration: histogram(
                r,
                "context_manager_retrieve_duration_seconds",
                "Time of a search inside the engine: embedding, candidates, ranking and packing.",
            ),
            store_duration: histogram(
                r,
                "context_manager_store_duration_seconds",
                "Time of a write inside the engine: embedding and storing.",
            ),
            degraded: Counters::new(
                r,
                "context_manager_degraded_total",
                "Answers in which something could not take part.",
                "reason",
            ),
            promoted: counter(
                r,
                "context_manager_promotions_total",
                "Contexts that moved from short-term to long-term.",
            ),
            evicted: Counters::new(
                r,
                "context_manager_evictions_total",
                "Contexts that made room for younger ones of their session and level.",
                "level",
            ),
        }
    }
}

impl Gc {
    fn new(r: &Registry) -> Self {
        Self {
            runs: Counters::new(r, "context_manager_gc_runs_total", "Runs of garbage collection.", "outcome"),
            deleted: counter(r, "context_manager_gc_deleted_total", "Expired contexts that were deleted."),
            backlog: gauge(
                r,
                "context_manager_gc_backlog",
                "Expired contexts that are still in the store, of those that this sidecar collects, as of the last run; in a dry run what it would delete.",
            ),
            duration: histogram(r, "context_manager_gc_duration_seconds", "Time of a run of garbage collection."),
        }
    }
}

impl Traces {
    fn new(r: &Registry) -> Self {
        Self {
            exported: counter(r, "context_manager_trace_spans_exported_total", "Spans that the collector has taken."),
            dropped: Counters::new(
                r,
                "context_manager_trace_spans_dropped_total",
                "Spans that were dropped, by the reason.",
                "reason",
            ),
            exports: Counters::new(
                r,
                "context_manager_trace_exports_total",
                "Exports of spans by outcome, all attempts of one together.",
                "outcome",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use context_manager_protocol::keyring::Key;

    use super::*;

    fn key(id: &str) -> Key {
        Key::new(id, vec![1; 32]).expect("a valid key")
    }

    #[test]
    fn every_family_has_help_a_type_and_a_name_that_tells_its_unit() {
        let metrics = Metrics::new();
        metrics.requests.duration.observe(Route::Store, Duration::from_millis(3));
        let text = metrics.render().expect("printable metrics");
        for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').expect("a name and a type");
            assert!(name.starts_with("context_manager_"), "{name}");
            assert!(text.contains(&format!("# HELP {name} ")), "{name}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
            assert_eq!(kind == "histogram", name.ends_with("_duration_seconds"), "{name} is a {kind}");
        }
        assert!(text.contains("context_manager_request_duration_seconds_bucket{route=\"store\",le=\"0.005\"} 1\n"));
        assert!(text.contains("context_manager_requests_total{outcome=\"ok\",route=\"store\"} 0\n"), "{text}");
    }

    #[test]
    fn every_metric_is_documented_with_its_type() {
        let page = include_str!("../../docs/metrics.md");
        let row = |name: &str| page.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
        // Families with labels that nothing was observed of yet are not rendered, so the names are read from this file.
        let is_name = |text: &&str| {
            let rest = text.strip_prefix("context_manager_").unwrap_or_default();
            !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        };
        let names: Vec<_> = include_str!("metrics.rs").split('"').filter(is_name).collect();
        assert!(names.len() > 60, "only these names were found: {names:?}");
        for name in names {
            assert!(row(name).is_some(), "docs/metrics.md has no row for {name}");
        }
        let text = Metrics::new().render().expect("printable metrics");
        for (name, kind) in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')) {
            assert!(row(name).is_some_and(|row| row.contains(&format!("| {kind}"))), "{name} is a {kind}");
        }
    }

    #[test]
    fn resident_memory_and_uptime_are_measured() {
        let metrics = Metrics::new();
        let text = metrics.render().expect("printable metrics");
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} "))).expect("the metric");
            line.parse::<f64>().expect("a number")
        };
        assert!(value("context_manager_resident_memory_bytes") > 500_000.0);
        assert!(value("context_manager_uptime_seconds") > 0.0);
    }

    #[test]
    fn a_retired_key_is_no_longer_shown() {
        let metrics = Metrics::new();
        metrics.files.show_keys(&KeyRing::with(key("b"), None, vec![key("a")]).expect("distinct ids"));
        metrics.files.show_keys(&KeyRing::with(key("b"), Some(key("c")), Vec::new()).expect("distinct ids"));
        let text = metrics.render().expect("printable metrics");
        assert!(text.contains("context_manager_key_loaded{key_id=\"b\",role=\"active\"} 1"));
        assert!(text.contains("context_manager_key_loaded{key_id=\"c\",role=\"next\"} 1"));
        assert!(!text.contains("key_id=\"a\""));
    }
}
