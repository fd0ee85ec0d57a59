//! The log: JSON lines or text on standard output, with a filter that can change while the sidecar runs.
//!
//! Whatever its filter says, the audit log is in it, and what repeats messages word by word is not. A panic is logged by its place only:
//! its message may quote what an agent remembers.

use std::{io, panic};

use context_manager_protocol::config::{Log, LogFormat};
use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Layer as _, Registry,
    filter::{FilterExt as _, filter_fn},
    fmt,
    layer::{self, SubscriberExt as _},
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

/// Target of the audit log. Whether what was decided is written down does not depend on who may change the log's filter.
pub const AUDIT: &str = "context_manager::audit";
/// The library of the WebSocket: at the level `trace` it prints each message, and each frame in hexadecimal digits.
const WEB_SOCKET: &str = "tungstenite";

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
    let lines = lines.with_filter(bounded(filter));
    tracing_subscriber::registry().with(lines).with(telemetry.layer()).try_init().map_err(Error::Start)?;
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(panic.place = place, "A defect made a task panic");
    }));
    Ok(Filter(Some(handle)))
}

/// A filter that can neither take out of the log what is always in it, nor let in what never is.
fn bounded(filter: impl layer::Filter<Registry>) -> impl layer::Filter<Registry> {
    filter_fn(may_be_shown).and(filter_fn(is_always_shown).or(filter))
}

fn may_be_shown(metadata: &Metadata<'_>) -> bool {
    let repeats_messages = metadata.target().starts_with(WEB_SOCKET) && *metadata.level() > Level::INFO;
    telemetry::is_for_the_log(metadata) && !repeats_messages
}

/// The audit log, with the spans of requests, which say about which request a line is.
fn is_always_shown(metadata: &Metadata<'_>) -> bool {
    metadata.target() == AUDIT || telemetry::is_of_a_request(metadata)
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{debug, error_span, info, info_span, subscriber::with_default, trace, warn};

    use super::*;

    /// What a log with this filter has of a request and of the WebSocket's library.
    fn shown(level: &str) -> String {
        let written = Arc::new(Mutex::new(Vec::new()));
        let writer = {
            let written = Arc::clone(&written);
            move || Written(Arc::clone(&written))
        };
        let lines = fmt::layer().with_ansi(false).with_writer(writer);
        let lines = lines.with_filter(bounded(parse(level).expect("a filter")));
        with_default(tracing_subscriber::registry().with(lines), || {
            let request =
                error_span!(target: "context_manager_sidecar::request", "request", request.id = "the-request");
            let _within = request.entered();
            let _step = info_span!(target: telemetry::TARGET, "a step").entered();
            info!(target: AUDIT, "decided");
            debug!("a detail");
            warn!(target: "tungstenite::protocol", "a warning of the library");
            debug!(target: "tungstenite::protocol", "closed: xyzzy");
            trace!(target: "tungstenite::protocol::frame", "78797a7a79");
        });
        let written = written.lock().expect("nobody panics while writing").clone();
        String::from_utf8(written).expect("text")
    }

    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("nobody panics while writing").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_filter_keeps_out_the_audit_log_and_the_request_that_it_is_about() {
        for level in ["off", "error", "warn", "other=info", "off,context_manager::audit=off,[request]=off"] {
            let log = shown(level);
            assert!(log.contains("decided") && log.contains("the-request"), "{level}: {log}");
            assert!(!log.contains("a detail") && !log.contains("a step"), "{level}: {log}");
        }
    }

    #[test]
    fn no_filter_lets_in_what_repeats_messages() {
        for level in ["trace", "trace,tungstenite=trace", "info,tungstenite::protocol::frame=trace"] {
            let log = shown(level);
            assert!(log.contains("a warning of the library"), "{level}: {log}");
            assert!(!log.contains("xyzzy") && !log.contains("78797a7a79"), "{level}: {log}");
        }
        assert!(shown("debug").contains("a detail"));
    }
}
