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

impl Figures {
    /// Adds a figure without a target.
    pub fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.0.push(Figure { name: name.into(), value, unit, target: None, met: None });
    }

    /// Adds a figure that should be at most `target`.
    pub fn at_most(&mut self, name: impl Into<String>, value: f64, unit: &'static str, target: f64) {
        self.0.push(Figure { name: name.into(), value, unit, target: Some(target), met: Some(value <= target) });
    }

    /// Adds the median and the 99th percentile of latencies, and how many calls a second they make.
    pub fn latencies(&mut self, name: &str, latencies: Vec<Duration>, took: Duration) {
        #[expect(clippy::cast_precision_loss, reason = "a number of calls")]
        let rate = latencies.len() as f64 / took.as_secs_f64();
        self.percentiles(name, latencies);
        self.add(format!("{name}, rate"), rate, "1/s");
    }

    /// Adds the median and the 99th percentile of latencies, where other calls between them would make a rate meaningless.
    pub fn percentiles(&mut self, name: &str, mut latencies: Vec<Duration>) {
        latencies.sort_unstable();
        let at = |share: f64| {
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a place in a short list"
            )]
            let place = ((latencies.len() as f64 * share) as usize).min(latencies.len().saturating_sub(1));
            latencies.get(place).map_or(0.0, |latency| latency.as_secs_f64() * 1_000.0)
        };
        self.add(format!("{name}, p50"), at(0.5), "ms");
        self.add(format!("{name}, p99"), at(0.99), "ms");
    }

    /// The value of a figure.
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
            println!("{name:<62} {value:>12.3} {unit}{verdict}");
        }
    }

    /// The list as JSON.
    pub fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(&self.0)?)
    }
}
