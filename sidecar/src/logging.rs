//! The log: JSON lines or text on standard output, with a filter that can change while the sidecar runs.
//!
//! A panic is logged by its place only: its message may quote what an agent remembers.

use std::{io, panic};

use context_manager_protocol::config::{Log, LogFormat};
use tracing_subscriber::{
    EnvFilter, Layer as _, Registry,
    filter::{FilterExt as _, filter_fn},
    fmt,
    layer::SubscriberExt as _,
    reload,
    util::SubscriberInitExt as _,
};

use crate::telemetry::{self, Telemetry};

/// Changes the filter of the running log.
#[derive(Clone, Debug)]
pub struct Filter(Option<reload::Handle<EnvFilter, Registry>>);

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter is not valid.
    #[error("the log level is not a valid filter")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// The running log does not take a filter.
    #[error("failed to change the log's filter")]
    Change(#[source] reload::Error),
    /// The process has a log already.
    #[error("failed to start the log")]
    Start(#[source] tracing_subscriber::util::TryInitError),
}

/// What the vector engine may say unless the filter names it: it warns at each start that it runs outside its
/// server, which is what it is embedded for.
const ENGINE: &str = "qdrant_edge=warn,qdrant_edge::common::flags=off,qdrant_edge::common::mmap::ops=error";

/// A filter on top of what the vector engine may say; the later of two directives about the same thing counts.
fn parse(level: &str) -> Result<EnvFilter, Error> {
    EnvFilter::try_new(format!("{ENGINE},{level}")).map_err(Error::Filter)
}

/// Starts the process's log, and its traces beside it, which the log's filter does not concern.
///
/// # Errors
/// When the filter is not valid, or the process has a log already.
pub fn start(log: &Log, telemetry: &Telemetry) -> Result<Filter, Error> {
    let (filter, handle) = reload::Layer::new(parse(&log.level)?);
    let lines = match log.format {
        LogFormat::Json => fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .with_writer(io::stdout)
            .boxed(),
        LogFormat::Text => fmt::layer().with_writer(io::stdout).boxed(),
    };
    let lines = lines.with_filter(filter_fn(telemetry::is_for_the_log).and(filter));
    tracing_subscriber::registry().with(lines).with(telemetry.layer()).try_init().map_err(Error::Start)?;
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(panic.place = place, "A defect made a task panic");
    }));
    Ok(Filter(Some(handle)))
}

impl Filter {
    /// A handle on no log, for a sidecar inside a process that has its own.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// Replaces the filter.
    ///
    /// # Errors
    /// When the filter is not valid.
    pub fn set(&self, level: &str) -> Result<(), Error> {
        let filter = parse(level)?;
        self.0.as_ref().map_or(Ok(()), |handle| handle.reload(filter)).map_err(Error::Change)
    }
}
