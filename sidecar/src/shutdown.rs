//! The end of the process: signals, and the time that each step of the end may take.
//!
//! The kernel ignores signals without a handler for process 1 of a container, so the handlers are there before anything else.
//! Every acknowledged write is safe already; the end only finishes requests and shortens the next start.

use std::{io, time::Duration};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Time for requests in flight. The kubelet kills a sidecar about 2 s after its agent has used up the grace period.
pub const DRAIN: Duration = Duration::from_millis(1_300);
/// Time for the engine to write what is still in memory.
pub const FLUSH: Duration = Duration::from_millis(500);
/// Time for the trace collector to take the last spans, and meanwhile for the last answers of the admin listener.
pub const LAST_SPANS: Duration = Duration::from_millis(200);
/// Exit code of a process that was told to end twice.
const IMPATIENT: i32 = 130;

/// The signals that end the process.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Installs the handlers.
    ///
    /// # Errors
    /// When the system does not allow it.
    pub fn install() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Cancels `stop` at the first signal, and ends the process at the second.
    pub async fn run(mut self, stop: CancellationToken) {
        let name = self.next().await;
        info!(signal = name, "Shutting down");
        stop.cancel();
        let name = self.next().await;
        warn!(signal = name, "Ending at once: told to end a second time");
        std::process::exit(IMPATIENT);
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
