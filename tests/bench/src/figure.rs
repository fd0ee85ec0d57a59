//! A figure, and the list of them.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

/// A measured value.
#[derive(Clone, Debug, Serialize)]
struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    /// What it should be at most; absent where nothing was promised.
    target: Option<f64>,
    met: Option<bool>,
}

/// All figures, in the order in which they were measured.
#[derive(Debug, Default)]
pub struct Figures(Vec<Figure>);

/// What a series of calls took, sorted.
#[derive(Clone, Debug, Default)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// Sorts them.
    pub fn new(mut latencies: Vec<Duration>) -> Self {
        latencies.sort_unstable();
        Self(latencies)
    }

    /// How many calls there were.
    pub fn calls(&self) -> usize {
        self.0.len()
    }

    /// The latency that this share of the calls did not exceed, in milliseconds.
    pub fn at(&self, share: f64) -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a place in a short list"
        )]
        let place = ((self.0.len() as f64 * share) as usize).min(self.0.len().saturating_sub(1));
        self.0.get(place).map_or(0.0, |latency| latency.as_secs_f64() * 1_000.0)
    }

    /// By how many percent the median exceeds another one; below nothing when it is faster.
    pub fn overhead(&self, bare: &Self) -> f64 {
        (self.at(0.5) / bare.at(0.5) - 1.0) * 100.0
    }
}

impl Figures {
    /// Adds a figure without a target.
    pub fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.0.push(Figure { name: name.into(), value, unit, target: None, met: None });
    }

    /// Adds a figure that should be at most `target`, if there is one.
    pub fn at_most(&mut self, name: impl Into<String>, value: f64, unit: &'static str, target: impl Into<Option<f64>>) {
        let target = target.into();
        let met = target.map(|target| value <= target);
        self.0.push(Figure { name: name.into(), value, unit, target, met });
    }

    /// Adds the median, the 95th and the 99th percentile of latencies; the 95th should be at most `target`, if there is one.
    pub fn percentiles(&mut self, name: &str, latencies: &Latencies, target: Option<f64>) {
        self.add(format!("{name}, p50"), latencies.at(0.5), "ms");
        self.at_most(format!("{name}, p95"), latencies.at(0.95), "ms", target);
        self.add(format!("{name}, p99"), latencies.at(0.99), "ms");
    }

    /// The value of a figure that was measured before.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|figure| figure.name == name).map(|figure| figure.value)
    }

    /// Prints a table.
    pub fn print(&self) {
        for Figure { name, value, unit, target, met } in &self.0 {
            let verdict = match (target, met) {
                (Some(target), Some(true)) => format!("  (at most {target}: met)"),
                (Some(target), _) => format!("  (at most {target}: NOT met)"),
                (None, _) => String::new(),
            };
            println!("{name:<78} {value:>12.3} {unit}{verdict}");
        }
    }

    /// The list as JSON.
    pub fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(&self.0)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(values: &[u64]) -> Latencies {
        Latencies::new(values.iter().map(|value| Duration::from_millis(*value)).collect())
    }

    #[test]
    fn percentiles_are_places_in_the_sorted_list() {
        let latencies = millis(&[30, 10, 20, 40]);
        assert!((latencies.at(0.5) - 30.0).abs() < 1e-9 && (latencies.at(0.99) - 40.0).abs() < 1e-9);
        assert!(millis(&[]).at(0.5).abs() < 1e-9);
    }

    #[test]
    fn overhead_compares_medians_and_a_target_is_met_at_its_value() {
        assert!((millis(&[12]).overhead(&millis(&[10])) - 20.0).abs() < 1e-9);
        let mut figures = Figures::default();
        figures.at_most("a", 20.0, "%", 20.0);
        figures.at_most("b", 20.1, "%", 20.0);
        figures.add("c", 1.0, "%");
        assert_eq!(figures.0.iter().map(|figure| figure.met).collect::<Vec<_>>(), [Some(true), Some(false), None]);
    }
}
