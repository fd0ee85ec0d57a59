//! Where traces go.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::duration::HumanDuration;

/// Export of traces by OTLP over HTTP. Without an endpoint nothing is exported; what a caller brings is handed on all the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tracing {
    /// Base URL of the collector, such as `http://otel-collector.observability:4318`; `/v1/traces` is appended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
    /// Share of the requests without a trace of their caller that are traced. A caller that brings a trace has decided already.
    pub sampling: f64,
    /// Share of the work beside the requests that is traced.
    pub background_sampling: f64,
    /// File with a header in each line (`name: value`), such as a token; absolute, or relative to the configuration file. It is read
    /// for each export.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers_file: Option<PathBuf>,
    /// PEM file with the CA bundle that the collector's certificate is checked against; the built-in roots when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Longest time of one export.
    pub timeout: HumanDuration,
    /// Most spans that wait for the collector; further ones are dropped and counted.
    pub queue: usize,
}

impl Default for Tracing {
    fn default() -> Self {
        Self {
            otlp_endpoint: None,
            sampling: 1.0,
            background_sampling: 0.05,
            headers_file: None,
            ca_file: None,
            timeout: HumanDuration::from_secs(5),
            queue: 2_048,
        }
    }
}

impl Tracing {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The files that it names.
    pub fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let Self { headers_file, ca_file, .. } = self;
        [headers_file, ca_file].into_iter().flatten()
    }
}
