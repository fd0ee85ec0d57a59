//! Metrics of the client certificates of resources.

use jiff::Timestamp;
use prometheus::{GaugeVec, Opts, Registry, core::Collector as _, proto::MetricFamily};

use super::OF_RESOURCE;
use crate::controller::plan::Plan;

pub(in crate::controller) struct CertificateMetrics {
    not_after: GaugeVec,
    renewal: GaugeVec,
}

impl CertificateMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| GaugeVec::new(Opts::new(name, help), &OF_RESOURCE);
        let metrics = Self {
            not_after: gauge(
                "context_manager_client_certificate_not_after_timestamp_seconds",
                "When the client certificate of a resource's sidecars ends, in seconds since 1970.",
            )?,
            renewal: gauge(
                "context_manager_client_certificate_renewal_timestamp_seconds",
                "When the client certificate of a resource's sidecars is to be renewed, in seconds since 1970.",
            )?,
        };
        let Self { not_after, renewal } = &metrics;
        registry.register(Box::new(not_after.clone()))?;
        registry.register(Box::new(renewal.clone()))?;
        Ok(metrics)
    }

    /// Notes the certificate in force.
    pub(in crate::controller) fn set(&self, plan: &Plan, not_after: Timestamp) {
        let labels = [plan.namespace.as_str(), plan.name.as_str()];
        let (ends, before) = (not_after.as_duration().as_secs_f64(), plan.certificate.renew_before.as_secs_f64());
        self.not_after.with_label_values(&labels).set(ends);
        self.renewal.with_label_values(&labels).set(ends - before);
    }

    pub(super) fn by_resource(&self) -> Vec<MetricFamily> {
        self.not_after.collect()
    }

    pub(super) fn forget(&self, namespace: &str, name: &str) {
        // They are gone already if two look at once.
        let _ = self.not_after.remove_label_values(&[namespace, name]);
        let _ = self.renewal.remove_label_values(&[namespace, name]);
    }
}
