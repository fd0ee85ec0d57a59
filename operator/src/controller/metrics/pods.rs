//! Metrics of the pods of resources: how many there are, and what was done with them.

use context_manager_crds::context_manager::status::Pods;
use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry, core::Collector as _, proto::MetricFamily};

use super::OF_RESOURCE;
use crate::controller::plan::Plan;

/// What a pod can be.
const STATES: [&str; 4] = ["injected", "ready", "outdated", "missing"];

/// What became of a pod in an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::controller) enum Upgraded {
    /// It got the new image.
    Replaced,
    /// It got the image before again.
    Restored,
    /// It was evicted for another one.
    Evicted,
}

impl Upgraded {
    const ALL: [Self; 3] = [Self::Replaced, Self::Restored, Self::Evicted];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Replaced => "replaced",
            Self::Restored => "restored",
            Self::Evicted => "evicted",
        }
    }
}

pub(in crate::controller) struct PodMetrics {
    pods: IntGaugeVec,
    upgrades: IntCounterVec,
    upgrade_stopped: IntGaugeVec,
    evictions: IntCounter,
}

impl PodMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let [namespace, resource] = OF_RESOURCE;
        let metrics = Self {
            pods: IntGaugeVec::new(
                Opts::new(
                    "context_manager_pods",
                    "Pods of a resource: injected, ready, outdated, or missing a sidecar.",
                ),
                &[namespace, resource, "state"],
            )?,
            upgrades: IntCounterVec::new(
                Opts::new(
                    "context_manager_sidecar_upgrades_total",
                    "Pods whose sidecar's image was replaced or restored, or that were evicted for a new one.",
                ),
                &["outcome"],
            )?,
            upgrade_stopped: IntGaugeVec::new(
                Opts::new(
                    "context_manager_sidecar_upgrade_stopped",
                    "1 while an upgrade of sidecars goes no further, because it failed in some pods or they may not be changed.",
                ),
                &OF_RESOURCE,
            )?,
            evictions: IntCounter::new(
                "context_manager_watchdog_evictions_total",
                "Pods that were evicted because they asked for a sidecar and had none.",
            )?,
        };
        for outcome in Upgraded::ALL {
            metrics.upgrades.with_label_values(&[outcome.as_str()]);
        }
        let Self { pods, upgrades, upgrade_stopped, evictions } = &metrics;
        registry.register(Box::new(pods.clone()))?;
        registry.register(Box::new(upgrades.clone()))?;
        registry.register(Box::new(upgrade_stopped.clone()))?;
        registry.register(Box::new(evictions.clone()))?;
        Ok(metrics)
    }

    /// Notes how many pods a resource has.
    pub(in crate::controller) fn count(&self, plan: &Plan, pods: &Pods) {
        let Pods { injected, ready, outdated, missing } = *pods;
        for (state, count) in STATES.into_iter().zip([injected, ready, outdated, missing]) {
            self.pods.with_label_values(&[plan.namespace.as_str(), plan.name.as_str(), state]).set(count.into());
        }
    }

    /// Notes whether an upgrade goes no further.
    pub(in crate::controller) fn stopped(&self, plan: &Plan, stopped: bool) {
        let labels = [plan.namespace.as_str(), plan.name.as_str()];
        self.upgrade_stopped.with_label_values(&labels).set(stopped.into());
    }

    /// Counts a pod.
    pub(in crate::controller) fn upgraded(&self, what: Upgraded) {
        self.upgrades.with_label_values(&[what.as_str()]).inc();
    }

    /// Counts a pod that the watchdog evicted.
    pub(in crate::controller) fn evicted(&self) {
        self.evictions.inc();
    }

    /// One metric of each resource.
    pub(super) fn by_resource(&self) -> Vec<MetricFamily> {
        self.upgrade_stopped.collect()
    }

    /// Forgets a resource. It is gone already if two look at once.
    pub(super) fn forget(&self, namespace: &str, resource: &str) {
        let _ = self.upgrade_stopped.remove_label_values(&[namespace, resource]);
        for state in STATES {
            let _ = self.pods.remove_label_values(&[namespace, resource, state]);
        }
    }
}
