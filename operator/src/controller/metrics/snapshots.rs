//! Metrics of the snapshots of managed Qdrants.

use jiff::Timestamp;
use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry, core::Collector as _, proto::MetricFamily};

use super::OF_RESOURCE;
use crate::controller::plan::Plan;

pub(in crate::controller) struct SnapshotMetrics {
    last: GaugeVec,
    bytes: IntGaugeVec,
    due: GaugeVec,
    failures: IntCounterVec,
}

impl SnapshotMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            last: GaugeVec::new(
                Opts::new(
                    "context_manager_snapshot_timestamp_seconds",
                    "When the newest whole snapshot of a resource's managed Qdrant was begun, in seconds since 1970.",
                ),
                &OF_RESOURCE,
            )?,
            bytes: IntGaugeVec::new(
                Opts::new("context_manager_snapshot_bytes", "Size of the newest whole snapshot of a resource."),
                &OF_RESOURCE,
            )?,
            due: GaugeVec::new(
                Opts::new(
                    "context_manager_snapshot_due_timestamp_seconds",
                    "When the next snapshot of a resource is due, in seconds since 1970; only where they are taken regularly.",
                ),
                &OF_RESOURCE,
            )?,
            failures: IntCounterVec::new(
                Opts::new("context_manager_snapshot_failures_total", "Snapshots of a resource that were not taken."),
                &OF_RESOURCE,
            )?,
        };
        let Self { last, bytes, due, failures } = &metrics;
        registry.register(Box::new(last.clone()))?;
        registry.register(Box::new(bytes.clone()))?;
        registry.register(Box::new(due.clone()))?;
        registry.register(Box::new(failures.clone()))?;
        Ok(metrics)
    }

    /// Notes the newest snapshot, when it was begun and how large it is, and when the next one is due.
    pub(in crate::controller) fn set(&self, plan: &Plan, last: Option<(Timestamp, u64)>, due: Option<Timestamp>) {
        let labels = [plan.namespace.as_str(), plan.name.as_str()];
        // A failure that is the first one must be seen as an increase.
        self.failures.with_label_values(&labels);
        match last {
            Some((began, bytes)) => {
                self.last.with_label_values(&labels).set(began.as_duration().as_secs_f64());
                self.bytes.with_label_values(&labels).set(bytes.try_into().unwrap_or(i64::MAX));
            }
            None => self.forget_last(&plan.namespace, &plan.name),
        }
        match due {
            Some(due) => self.due.with_label_values(&labels).set(due.as_duration().as_secs_f64()),
            None => drop(self.due.remove_label_values(&labels)),
        }
    }

    /// Counts one that was not taken.
    pub(in crate::controller) fn failed(&self, plan: &Plan) {
        self.failures.with_label_values(&[plan.namespace.as_str(), plan.name.as_str()]).inc();
    }

    pub(super) fn by_resource(&self) -> Vec<MetricFamily> {
        self.failures.collect()
    }

    fn forget_last(&self, namespace: &str, name: &str) {
        // They are gone already if two look at once, or were never there.
        let _ = self.last.remove_label_values(&[namespace, name]);
        let _ = self.bytes.remove_label_values(&[namespace, name]);
    }

    /// Forgets a resource that is gone or has no snapshots any more.
    pub(in crate::controller) fn forget(&self, namespace: &str, name: &str) {
        self.forget_last(namespace, name);
        let _ = self.due.remove_label_values(&[namespace, name]);
        let _ = self.failures.remove_label_values(&[namespace, name]);
    }
}
