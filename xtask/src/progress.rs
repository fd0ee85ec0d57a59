//! Progress of long work: what is done, how far it is, how long it has taken so far.
//!
//! On a terminal one line is rewritten in place; elsewhere (a log) a line is printed every 15 seconds. All goes to
//! standard error, so that a command's own output stays clean.

use std::io::{IsTerminal as _, Write as _};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const REWRITE_EVERY: Duration = Duration::from_millis(250);
const PRINT_EVERY: Duration = Duration::from_secs(15);

/// Work under way. Dropping it ends the line; [`Progress::done`] also says that the work succeeded.
pub struct Progress {
    what: String,
    detail: Arc<Mutex<String>>,
    started: Instant,
    ticker: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Progress {
    /// Announces the work and starts the clock.
    pub fn start(what: &str) -> Self {
        let started = Instant::now();
        let detail = Arc::new(Mutex::new(String::new()));
        let rewrite = std::io::stderr().is_terminal();
        if !rewrite {
            eprintln!("{what} …");
        }
        let (stop, stopped) = channel::<()>();
        let (name, shared) = (what.to_owned(), Arc::clone(&detail));
        let thread = std::thread::spawn(move || {
            let pause = if rewrite { REWRITE_EVERY } else { PRINT_EVERY };
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                let detail = shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
                print(&line(&name, &detail, started.elapsed()), rewrite);
            }
            if rewrite {
                eprint!("\r\x1b[K");
            }
        });
        Self { what: what.to_owned(), detail, started, ticker: Some((stop, thread)) }
    }

    /// Says how far the work is; shown at the next tick.
    pub fn set(&self, detail: String) {
        *self.detail.lock().unwrap_or_else(PoisonError::into_inner) = detail;
    }

    /// Ends the work with a line that says how long it took.
    pub fn done(mut self) {
        self.end();
        eprintln!("{}: done in {}", self.what, human(self.started.elapsed()));
    }

    fn end(&mut self) {
        if let Some((stop, thread)) = self.ticker.take() {
            drop(stop);
            // The thread only prints; if it panicked there is nothing to save.
            let _ = thread.join();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

/// A duration as people say it: `8.3 s`, `2 min 05 s`.
pub fn human(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{} min {:02} s", seconds / 60, seconds % 60)
    }
}

fn line(what: &str, detail: &str, elapsed: Duration) -> String {
    let separator = if detail.is_empty() { "" } else { ": " };
    format!("{what}{separator}{detail}, {} so far", human(elapsed))
}

fn print(line: &str, rewrite: bool) {
    if rewrite {
        eprint!("\r\x1b[K{line}");
        let _ = std::io::stderr().flush();
    } else {
        eprintln!("{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_says_what_how_far_and_how_long() {
        let text = line("Building", "3 of 9 packages", Duration::from_secs(125));
        assert_eq!(text, "Building: 3 of 9 packages, 2 min 05 s so far");
    }

    #[test]
    fn short_times_keep_a_decimal() {
        assert_eq!(human(Duration::from_millis(8340)), "8.3 s");
    }
}
