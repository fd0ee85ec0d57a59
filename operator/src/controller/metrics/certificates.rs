//! Metrics of the client certificates of resources.

use jiff::Timestamp;
use prometheus::{GaugeVec, Opts, Registry, core::Collector as _, proto::MetricFamily};

use super::OF_RESOURCE;
use crate::controller::plan::Plan;

pub(in crate::controller) struct CertificateMetrics {
    not_after: GaugeVec,
    renewal: GaugeVec,
    replacement: GaugeVec,
}

/// What is to happen with a certificate before it ends, and from when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::controller) enum Due {
    /// It is renewed without anybody's help.
    Renewal(Timestamp),
    /// A person gives another one.
    Replacement(Timestamp),
}

impl Due {
    /// The same for a certificate that ends then, instead of one that ends at `not_after`.
    #[must_use]
    pub(in crate::controller) fn of_another(self, not_after: Timestamp, other: Timestamp) -> Self {
        let as_early = |at: Timestamp| other.checked_sub(not_after.duration_since(at)).unwrap_or(Timestamp::MIN);
        match self {
            Self::Renewal(at) => Self::Renewal(as_early(at)),
            Self::Replacement(at) => Self::Replacement(as_early(at)),
        }
    }
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
            replacement: gauge(
                "context_manager_client_certificate_replacement_timestamp_seconds",
                "From when a client certificate that was given counts as ending soon, in seconds since 1970.",
            )?,
        };
        let Self { not_after, renewal, replacement } = &metrics;
        for gauge in [not_after, renewal, replacement] {
            registry.register(Box::new(gauge.clone()))?;
        }
        Ok(metrics)
    }

    /// Notes the certificate in force.
    pub(in crate::controller) fn set(&self, plan: &Plan, not_after: Timestamp, due: Due) {
        let labels = [plan.namespace.as_str(), plan.name.as_str()];
        let seconds = |at: Timestamp| at.as_duration().as_secs_f64();
        self.not_after.with_label_values(&labels).set(seconds(not_after));
        let (at, gauge, other) = match due {
            Due::Renewal(at) => (at, &self.renewal, &self.replacement),
            Due::Replacement(at) => (at, &self.replacement, &self.renewal),
        };
        gauge.with_label_values(&labels).set(seconds(at));
        // There is none unless the issuer was changed.
        let _ = other.remove_label_values(&labels);
    }

    pub(super) fn by_resource(&self) -> Vec<MetricFamily> {
        self.not_after.collect()
    }

    pub(super) fn forget(&self, namespace: &str, name: &str) {
        for gauge in [&self.not_after, &self.renewal, &self.replacement] {
            // It is gone already if two look at once, and two of them are never there together.
            let _ = gauge.remove_label_values(&[namespace, name]);
        }
    }
}
