//! The controller's metrics, by name.

use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// From a look that finds nothing to do to a slow API server.
const BUCKETS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// How a reconciliation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All is as it should be.
    Ready,
    /// Something is not there yet, or a person has to change something.
    NotReady,
    /// It is tried again.
    Error,
}

impl Outcome {
    const ALL: [Self; 3] = [Self::Ready, Self::NotReady, Self::Error];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::NotReady => "not_ready",
            Self::Error => "error",
        }
    }
}

/// What became of a visit of the sweeper, or of a batch of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Swept {
    /// A batch was deleted.
    Batch,
    /// A visit ended well.
    Done,
    /// A visit failed.
    Failed,
}

pub(super) struct Metrics {
    registry: Registry,
    reconciles: IntCounterVec,
    duration: Histogram,
    writes: IntCounterVec,
    sweeps: IntCounterVec,
    swept: IntCounter,
    sweepable: IntGauge,
    pub(super) leader: IntGauge,
}

impl Metrics {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let build = IntGaugeVec::new(
            Opts::new("context_manager_build_info", "Version of the program; always 1."),
            &["version", "component"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION"), "controller"]).set(1);
        let metrics = Self {
            reconciles: IntCounterVec::new(
                Opts::new("context_manager_reconciles_total", "Reconciliations by outcome."),
                &["outcome"],
            )?,
            duration: Histogram::with_opts(
                HistogramOpts::new("context_manager_reconcile_duration_seconds", "Time of a reconciliation.")
                    .buckets(BUCKETS.to_vec()),
            )?,
            writes: IntCounterVec::new(
                Opts::new(
                    "context_manager_writes_total",
                    "Objects written, by kind; nothing is written when nothing changed.",
                ),
                &["object"],
            )?,
            sweeps: IntCounterVec::new(
                Opts::new("context_manager_sweeps_total", "Visits of a Qdrant collection by the sweeper, by outcome."),
                &["outcome"],
            )?,
            swept: IntCounter::new(
                "context_manager_swept_contexts_total",
                "Expired contexts of agents without a pod that the sweeper deleted.",
            )?,
            sweepable: IntGauge::new(
                "context_manager_sweepable_contexts",
                "Contexts that the sweeper would have deleted on its last round; 0 unless it is a dry run.",
            )?,
            leader: IntGauge::new("context_manager_leader", "1 when this replica leads.")?,
            registry,
        };
        for outcome in Outcome::ALL {
            metrics.reconciles.with_label_values(&[outcome.as_str()]);
        }
        for outcome in ["ok", "error"] {
            metrics.sweeps.with_label_values(&[outcome]);
        }
        let Self { registry, reconciles, duration, writes, sweeps, swept, sweepable, leader } = &metrics;
        registry.register(Box::new(build))?;
        registry.register(Box::new(reconciles.clone()))?;
        registry.register(Box::new(duration.clone()))?;
        registry.register(Box::new(writes.clone()))?;
        registry.register(Box::new(sweeps.clone()))?;
        registry.register(Box::new(swept.clone()))?;
        registry.register(Box::new(sweepable.clone()))?;
        registry.register(Box::new(leader.clone()))?;
        Ok(metrics)
    }

    pub(super) fn reconciled(&self, outcome: Outcome, took: Duration) {
        self.reconciles.with_label_values(&[outcome.as_str()]).inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// Counts a write of an object of a kind such as `config_map`.
    pub(super) fn wrote(&self, object: &'static str) {
        self.writes.with_label_values(&[object]).inc();
    }

    /// Counts a batch of so many contexts, or a visit.
    pub(super) fn swept(&self, what: Swept, contexts: usize) {
        match what {
            Swept::Batch => self.swept.inc_by(contexts as u64),
            Swept::Done => self.sweeps.with_label_values(&["ok"]).inc(),
            Swept::Failed => self.sweeps.with_label_values(&["error"]).inc(),
        }
    }

    /// Notes how many contexts a dry run counted.
    pub(super) fn sweepable(&self, contexts: usize) {
        self.sweepable.set(i64::try_from(contexts).unwrap_or(i64::MAX));
    }

    pub(super) fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}
