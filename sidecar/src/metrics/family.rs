//! Counters, gauges and histograms whose labels are [`Label`]s: the only way to a label value is through an enum.

use std::{marker::PhantomData, time::Duration};

use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::Collector,
};

use super::label::Label;

/// Upper bounds in seconds: from a read of the memory's own cache to an embedding API at its limit.
const SECONDS: [f64; 15] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

const REGISTERED_ONCE: &str = "every name is written once, with valid characters, in metrics.rs";

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: prometheus::Result<C>) -> C {
    let collector = collector.expect(REGISTERED_ONCE);
    registry.register(Box::new(collector.clone())).expect(REGISTERED_ONCE);
    collector
}

pub(super) fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    register(registry, IntCounter::new(name, help))
}

pub(super) fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    register(registry, IntGauge::new(name, help))
}

pub(super) fn float_gauge(registry: &Registry, name: &str, help: &str) -> Gauge {
    register(registry, Gauge::new(name, help))
}

pub(super) fn histogram(registry: &Registry, name: &str, help: &str) -> Histogram {
    register(registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(SECONDS.to_vec())))
}

/// A gauge with labels that are not enums; only for what the operator names, such as key ids and versions.
pub(super) fn info(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(registry, IntGaugeVec::new(Opts::new(name, help), labels))
}

/// Counters by one label, all of them there from the start, so that `rate()` sees the first event.
#[derive(Clone, Debug)]
pub struct Counters<L> {
    family: IntCounterVec,
    label: PhantomData<L>,
}

impl<L: Label> Counters<L> {
    pub(super) fn new(registry: &Registry, name: &str, help: &str, label: &str) -> Self {
        let family = register(registry, IntCounterVec::new(Opts::new(name, help), &[label]));
        for value in L::ALL {
            family.with_label_values(&[value.as_str()]);
        }
        Self { family, label: PhantomData }
    }

    /// Counts `count` events.
    pub fn add(&self, label: L, count: u64) {
        self.family.with_label_values(&[label.as_str()]).inc_by(count);
    }

    /// How many events were counted.
    #[must_use]
    pub fn get(&self, label: L) -> u64 {
        self.family.with_label_values(&[label.as_str()]).get()
    }
}

/// Counters by two labels.
#[derive(Clone, Debug)]
pub struct CounterMatrix<A, B> {
    family: IntCounterVec,
    labels: PhantomData<(A, B)>,
}

impl<A: Label, B: Label> CounterMatrix<A, B> {
    pub(super) fn new(registry: &Registry, name: &str, help: &str, labels: [&str; 2]) -> Self {
        let family = register(registry, IntCounterVec::new(Opts::new(name, help), &labels));
        for (a, b) in A::ALL.iter().flat_map(|a| B::ALL.iter().map(move |b| (a, b))) {
            family.with_label_values(&[a.as_str(), b.as_str()]);
        }
        Self { family, labels: PhantomData }
    }

    /// Counts one event.
    pub fn inc(&self, a: A, b: B) {
        self.family.with_label_values(&[a.as_str(), b.as_str()]).inc();
    }

    /// How many events were counted.
    #[must_use]
    pub fn get(&self, a: A, b: B) -> u64 {
        self.family.with_label_values(&[a.as_str(), b.as_str()]).get()
    }
}

/// Gauges by one label.
#[derive(Clone, Debug)]
pub struct Gauges<L> {
    family: IntGaugeVec,
    label: PhantomData<L>,
}

impl<L: Label> Gauges<L> {
    pub(super) fn new(registry: &Registry, name: &str, help: &str, label: &str) -> Self {
        let family = register(registry, IntGaugeVec::new(Opts::new(name, help), &[label]));
        for value in L::ALL {
            family.with_label_values(&[value.as_str()]);
        }
        Self { family, label: PhantomData }
    }

    /// The gauge of one label value.
    #[must_use]
    pub fn of(&self, label: L) -> IntGauge {
        self.family.with_label_values(&[label.as_str()])
    }

    /// Sets it to a number of things, saturating.
    pub fn set(&self, label: L, count: usize) {
        self.of(label).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

/// Histograms of durations by one label.
#[derive(Clone, Debug)]
pub struct Durations<L> {
    family: HistogramVec,
    label: PhantomData<L>,
}

impl<L: Label> Durations<L> {
    pub(super) fn new(registry: &Registry, name: &str, help: &str, label: &str) -> Self {
        let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        Self { family: register(registry, HistogramVec::new(options, &[label])), label: PhantomData }
    }

    /// Records one duration.
    pub fn observe(&self, label: L, duration: Duration) {
        self.family.with_label_values(&[label.as_str()]).observe(duration.as_secs_f64());
    }
}

/// Histograms of durations by two labels.
#[derive(Clone, Debug)]
pub struct DurationMatrix<A, B> {
    family: HistogramVec,
    labels: PhantomData<(A, B)>,
}

impl<A: Label, B: Label> DurationMatrix<A, B> {
    pub(super) fn new(registry: &Registry, name: &str, help: &str, labels: [&str; 2]) -> Self {
        let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        Self { family: register(registry, HistogramVec::new(options, &labels)), labels: PhantomData }
    }

    /// Records one duration.
    pub fn observe(&self, a: A, b: B, duration: Duration) {
        self.family.with_label_values(&[a.as_str(), b.as_str()]).observe(duration.as_secs_f64());
    }
}
