//! Metrics of the nodes of managed Qdrants.

use jiff::Timestamp;
use prometheus::{GaugeVec, IntGaugeVec, Opts, Registry, core::Collector as _, proto::MetricFamily};

use super::OF_RESOURCE;
use crate::controller::plan::Plan;

pub(in crate::controller) struct ManagedMetrics {
    not_after: GaugeVec,
    outdated: IntGaugeVec,
}

impl ManagedMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            not_after: GaugeVec::new(
                Opts::new(
                    "context_manager_node_certificate_not_after_timestamp_seconds",
                    "When the newest certificate of a managed Qdrant's nodes ends, in seconds since 1970.",
                ),
                &OF_RESOURCE,
            )?,
            outdated: IntGaugeVec::new(
                Opts::new(
                    "context_manager_nodes_outdated",
                    "1 while not all nodes of a resource's managed Qdrant are as the resource wants them.",
                ),
                &OF_RESOURCE,
            )?,
        };
        let Self { not_after, outdated } = &metrics;
        registry.register(Box::new(not_after.clone()))?;
        registry.register(Box::new(outdated.clone()))?;
        Ok(metrics)
    }

    /// Notes when the certificate ends that a node gets with its next start.
    pub(in crate::controller) fn certificate(&self, plan: &Plan, not_after: Timestamp) {
        let labels = [plan.namespace.as_str(), plan.name.as_str()];
        self.not_after.with_label_values(&labels).set(not_after.as_duration().as_secs_f64());
    }

    /// Notes whether nodes are not as the resource wants them; nothing where nobody can tell.
    pub(in crate::controller) fn outdated(&self, plan: &Plan, outdated: Option<bool>) {
        let labels = [plan.namespace.as_str(), plan.name.as_str()];
        match outdated {
            Some(outdated) => self.outdated.with_label_values(&labels).set(outdated.into()),
            // There is none if that was not known before either.
            None => drop(self.outdated.remove_label_values(&labels)),
        }
    }

    pub(super) fn by_resource(&self) -> Vec<MetricFamily> {
        self.not_after.collect().into_iter().chain(self.outdated.collect()).collect()
    }

    pub(super) fn forget(&self, namespace: &str, name: &str) {
        // They are gone already if two look at once, and one is there without the other.
        let _ = self.not_after.remove_label_values(&[namespace, name]);
        let _ = self.outdated.remove_label_values(&[namespace, name]);
    }
}
