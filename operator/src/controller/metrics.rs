//! The controller's metrics, by name.

mod certificates;
mod managed;
mod pods;
mod snapshots;

use std::time::Duration;

use jiff::Timestamp;
use prometheus::{
    GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
    core::Collector as _, proto::MetricFamily,
};

use super::plan::Plan;
use certificates::CertificateMetrics;
pub(super) use certificates::Due;
use managed::ManagedMetrics;
use pods::PodMetrics;
pub(super) use pods::Upgraded;
use snapshots::SnapshotMetrics;

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
    rotations: IntCounterVec,
    key_since: GaugeVec,
    key_waits: IntGaugeVec,
    /// Those of certificates.
    pub(super) certificates: CertificateMetrics,
    invalid: IntGaugeVec,
    failing: IntGaugeVec,
    /// Those of managed Qdrants.
    pub(super) managed: ManagedMetrics,
    /// Those of pods.
    pub(super) pods: PodMetrics,
    /// Those of snapshots.
    pub(super) snapshots: SnapshotMetrics,
    leader: IntGauge,
}

/// Labels of what is known of a resource; `namespace` would be the controller's own.
const OF_RESOURCE: [&str; 2] = ["resource_namespace", "resource"];

impl Metrics {
    #[expect(clippy::too_many_lines, reason = "a table, with some lines for each metric")]
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
            rotations: IntCounterVec::new(
                Opts::new(
                    "context_manager_key_rotations_total",
                    "Keys that began to sign, by whether all sidecars had loaded them or some could not be asked.",
                ),
                &["loaded_by"],
            )?,
            key_since: GaugeVec::new(
                Opts::new("context_manager_key_active_since_timestamp_seconds", "Since when a resource's key signs."),
                &OF_RESOURCE,
            )?,
            key_waits: IntGaugeVec::new(
                Opts::new("context_manager_key_rotation_waits_for_pods", "Pods that a rotation of a key waits for."),
                &OF_RESOURCE,
            )?,
            certificates: CertificateMetrics::register(&registry)?,
            invalid: IntGaugeVec::new(
                Opts::new(
                    "context_manager_invalid_resources",
                    "1 for each resource that cannot be read or breaks a rule; it is left alone until it is changed.",
                ),
                &OF_RESOURCE,
            )?,
            failing: IntGaugeVec::new(
                Opts::new(
                    "context_manager_reconcile_failing",
                    "1 for each resource whose reconciliation fails again and again, or whose deletion waits.",
                ),
                &OF_RESOURCE,
            )?,
            managed: ManagedMetrics::register(&registry)?,
            pods: PodMetrics::register(&registry)?,
            snapshots: SnapshotMetrics::register(&registry)?,
            leader: IntGauge::new("context_manager_leader", "1 when this replica leads.")?,
            registry,
        };
        for outcome in Outcome::ALL {
            metrics.reconciles.with_label_values(&[outcome.as_str()]);
        }
        for outcome in ["ok", "error"] {
            metrics.sweeps.with_label_values(&[outcome]);
        }
        for loaded_by in ["all", "some"] {
            metrics.rotations.with_label_values(&[loaded_by]);
        }
        let Self {
            registry,
            reconciles,
            duration,
            writes,
            sweeps,
            swept,
            sweepable,
            rotations,
            key_since,
            key_waits,
            certificates: _,
            invalid,
            failing,
            managed: _,
            pods: _,
            snapshots: _,
            leader,
        } = &metrics;
        registry.register(Box::new(build))?;
        registry.register(Box::new(reconciles.clone()))?;
        registry.register(Box::new(duration.clone()))?;
        registry.register(Box::new(writes.clone()))?;
        registry.register(Box::new(sweeps.clone()))?;
        registry.register(Box::new(swept.clone()))?;
        registry.register(Box::new(sweepable.clone()))?;
        registry.register(Box::new(rotations.clone()))?;
        registry.register(Box::new(key_since.clone()))?;
        registry.register(Box::new(key_waits.clone()))?;
        registry.register(Box::new(invalid.clone()))?;
        registry.register(Box::new(failing.clone()))?;
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

    /// Counts a key that began to sign: loaded by `all` sidecars, or by `some`.
    pub(super) fn rotated(&self, loaded_by: &'static str) {
        self.rotations.with_label_values(&[loaded_by]).inc();
    }

    /// Notes since when a resource's key signs, and how many pods its rotation waits for.
    pub(super) fn keys(&self, plan: &Plan, since: Timestamp, waits_for: usize) {
        let labels = [plan.namespace.as_str(), plan.name.as_str()];
        self.key_since.with_label_values(&labels).set(since.as_duration().as_secs_f64());
        self.key_waits.with_label_values(&labels).set(i64::try_from(waits_for).unwrap_or(i64::MAX));
    }

    /// Notes that a resource is invalid.
    pub(super) fn invalid(&self, namespace: &str, name: &str) {
        self.invalid.with_label_values(&[namespace, name]).set(1);
    }

    /// Notes that it is so no more.
    pub(super) fn valid(&self, namespace: &str, name: &str) {
        // It is gone already if two look at once.
        let _ = self.invalid.remove_label_values(&[namespace, name]);
    }

    /// Notes that a resource fails again and again.
    pub(super) fn failing(&self, namespace: &str, name: &str) {
        self.failing.with_label_values(&[namespace, name]).set(1);
    }

    /// Notes that it does so no more.
    pub(super) fn recovered(&self, namespace: &str, name: &str) {
        // Most have never failed.
        let _ = self.failing.remove_label_values(&[namespace, name]);
    }

    /// Notes that this replica leads.
    pub(super) fn lead(&self) {
        self.leader.set(1);
    }

    /// Notes that it does not, and forgets what it knew of resources: from now on another replica's word is right, and nobody could tell
    /// the two apart.
    pub(super) fn resign(&self) {
        self.leader.set(0);
        self.keep_resources(|_, _| false);
        self.sweepable.set(0);
    }

    /// Forgets resources that are gone.
    pub(super) fn keep_resources(&self, exists: impl Fn(&str, &str) -> bool) {
        let mut families = self.key_since.collect();
        families.extend(self.certificates.by_resource());
        families.extend(self.invalid.collect());
        families.extend(self.failing.collect());
        families.extend(self.managed.by_resource());
        families.extend(self.pods.by_resource());
        families.extend(self.snapshots.by_resource());
        for family in families.iter().flat_map(MetricFamily::get_metric) {
            let label = |name: &str| {
                let pair = family.get_label().iter().find(|pair| pair.name() == name);
                pair.map_or_else(String::new, |pair| pair.value().to_owned())
            };
            let [namespace, name] = OF_RESOURCE.map(label);
            if !exists(&namespace, &name) {
                // It is gone already if two look at once.
                let _ = self.key_since.remove_label_values(&[&namespace, &name]);
                let _ = self.key_waits.remove_label_values(&[&namespace, &name]);
                self.certificates.forget(&namespace, &name);
                self.valid(&namespace, &name);
                self.recovered(&namespace, &name);
                self.managed.forget(&namespace, &name);
                self.pods.forget(&namespace, &name);
                self.snapshots.forget(&namespace, &name);
            }
        }
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use context_manager_crds::context_manager::status::Pods;
    use serde_json::json;

    use super::*;
    use crate::controller::plan::tests::resource;

    #[test]
    fn a_replica_that_leads_no_more_says_nothing_of_resources() {
        let metrics = Metrics::new().unwrap();
        let plan = Plan::of(&resource(&json!({}))).unwrap();
        metrics.lead();
        let before = metrics.render().unwrap();
        metrics.keys(&plan, Timestamp::UNIX_EPOCH, 3);
        metrics.certificates.set(&plan, Timestamp::UNIX_EPOCH, Due::Renewal(Timestamp::UNIX_EPOCH));
        metrics.certificates.set(&plan, Timestamp::UNIX_EPOCH, Due::Replacement(Timestamp::UNIX_EPOCH));
        metrics.pods.count(&plan, &Pods { injected: 3, ready: 1, outdated: 1, missing: 1 });
        metrics.pods.stopped(&plan, true);
        metrics.managed.certificate(&plan, Timestamp::UNIX_EPOCH);
        metrics.managed.outdated(&plan, Some(true));
        metrics.snapshots.set(&plan, Some((Timestamp::UNIX_EPOCH, 5)), Some(Timestamp::UNIX_EPOCH));
        metrics.invalid("team", "other");
        metrics.failing("team", "another");
        metrics.sweepable(7);
        let of_resources = |page: &str| page.lines().filter(|line| line.contains("resource_namespace=")).count();
        assert_eq!(of_resources(&metrics.render().unwrap()), 17);
        metrics.resign();
        let after = metrics.render().unwrap();
        assert_eq!(after, before.replace("leader 1\n", "leader 0\n"));
    }
}
