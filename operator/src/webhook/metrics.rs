//! The webhook's metrics, by name.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use prometheus::{Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry, TextEncoder};

use super::intake::{Intake, Refusal};
use crate::pki::{Certificates, Issuer, Validity};

/// From a decision in memory to the API server's patience.
const BUCKETS: &[f64] =
    &[0.0001, 0.000_25, 0.0005, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

pub(super) struct Metrics {
    registry: Registry,
    certificates: Certificates,
    issuer: Issuer,
    intake: Arc<Intake>,
    decisions: IntCounterVec,
    duration: Histogram,
    not_after: GaugeVec,
    renewal: GaugeVec,
    replacement: GaugeVec,
    trusted: Gauge,
    memory: Gauge,
    refused: IntCounterVec,
    pub(super) fresh_reads: IntCounter,
    pub(super) events_failed: IntCounter,
}

impl Metrics {
    pub(super) fn new(
        certificates: Certificates,
        issuer: Issuer,
        intake: Arc<Intake>,
    ) -> Result<Self, prometheus::Error> {
        let of_certificate = |name: &str, help: &str| GaugeVec::new(Opts::new(name, help), &["certificate"]);
        let metrics = Self {
            registry: Registry::new(),
            certificates,
            issuer,
            intake,
            decisions: IntCounterVec::new(
                Opts::new("context_manager_injection_decisions_total", "Decisions about pods, by decision and reason."),
                &["decision", "reason"],
            )?,
            duration: Histogram::with_opts(
                HistogramOpts::new(
                    "context_manager_admission_duration_seconds",
                    "Time from the whole request to the whole answer of an admission review.",
                )
                .buckets(BUCKETS.to_vec()),
            )?,
            not_after: of_certificate(
                "context_manager_webhook_certificate_not_after_timestamp_seconds",
                "When the certificate ends, in seconds since 1970.",
            )?,
            renewal: of_certificate(
                "context_manager_webhook_certificate_renewal_timestamp_seconds",
                "When the certificate should be renewed without anybody's help, in seconds since 1970.",
            )?,
            replacement: of_certificate(
                "context_manager_webhook_certificate_replacement_timestamp_seconds",
                "From when a certificate that was given counts as ending soon, in seconds since 1970.",
            )?,
            trusted: Gauge::new(
                "context_manager_webhook_trusted",
                "Whether the API server's caBundle verifies the served certificate (1) or not (0).",
            )?,
            memory: Gauge::new(
                "context_manager_admission_reserved_bytes",
                "Memory that is set aside for reviews: bodies that arrive, what is read from them, and answers.",
            )?,
            refused: IntCounterVec::new(
                Opts::new(
                    "context_manager_admission_refused_total",
                    "Reviews that were not looked at, by reason: Busy when there was no memory for them.",
                ),
                &["reason"],
            )?,
            fresh_reads: IntCounter::new(
                "context_manager_injection_fresh_reads_total",
                "Reads past the cache, because no ContextManager was found in it.",
            )?,
            events_failed: IntCounter::new(
                "context_manager_webhook_events_failed_total",
                "Events that were not published.",
            )?,
        };
        let Self {
            registry,
            certificates: _,
            issuer: _,
            intake: _,
            decisions,
            duration,
            not_after,
            renewal,
            replacement,
            trusted,
            memory,
            refused,
            fresh_reads,
            events_failed,
        } = &metrics;
        registry.register(Box::new(decisions.clone()))?;
        registry.register(Box::new(duration.clone()))?;
        for gauge in [not_after, renewal, replacement] {
            registry.register(Box::new(gauge.clone()))?;
        }
        registry.register(Box::new(trusted.clone()))?;
        registry.register(Box::new(memory.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        registry.register(Box::new(fresh_reads.clone()))?;
        registry.register(Box::new(events_failed.clone()))?;
        Ok(metrics)
    }

    pub(super) fn decided(&self, decision: &str, reason: &str, took: Duration) {
        self.decisions.with_label_values(&[decision, reason]).inc();
        self.duration.observe(took.as_secs_f64());
    }

    pub(super) fn refused(&self, refusal: &Refusal) {
        self.refused.with_label_values(&[refusal.as_str()]).inc();
    }

    /// All metrics in Prometheus' text form.
    pub(super) fn render(&self, now: Timestamp) -> Result<String, prometheus::Error> {
        self.trusted.set(if self.certificates.check(now).is_ok() { 1.0 } else { 0.0 });
        #[expect(clippy::cast_precision_loss, reason = "it is far below 2^53")]
        self.memory.set(self.intake.held() as f64);
        // Nobody but a person replaces what a person gave.
        let due = match self.issuer {
            Issuer::SelfManaged | Issuer::CertManager => &self.renewal,
            Issuer::Existing => &self.replacement,
        };
        let certificates = [("leaf", self.certificates.leaf()), ("ca", self.certificates.authority())];
        for (certificate, validity) in certificates {
            let Some(Validity { not_after, renew_at }) = validity else { continue };
            for (gauge, at) in [(&self.not_after, not_after), (due, renew_at)] {
                gauge.with_label_values(&[certificate]).set(at.as_duration().as_secs_f64());
            }
        }
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}
