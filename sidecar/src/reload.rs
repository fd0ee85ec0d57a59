//! Takes over changed files while the sidecar runs: the configuration and the key ring.
//!
//! Each file's content is tried once. A content that is refused is reported once, and the last good one stays in force. A valid
//! configuration that cannot be put in force is tried again at every look: what is in its way, such as a full disk or a CA file that comes
//! a second later, may go without a change of the file. What can only take effect at the next start is left as it is, with a warning that names it. Files are watched by their
//! directories, because a projected volume replaces a symbolic link (`..data`) and never the file; a poll stands behind the
//! watch for file systems that report nothing.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use context_manager_protocol::config::SidecarConfig;
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _, event::AccessKind};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    engine::{self, Engine},
    live::Live,
    logging,
    metrics::{Label as _, Metrics, WatchedFile},
    refusal::chain,
    settings::{self, Settings},
    telemetry::Telemetry,
};

#[cfg(test)]
mod tests;

/// How often the files are read even if nothing was reported.
pub const POLL: Duration = Duration::from_secs(5);
/// Time for a writer to finish what it has begun.
const SETTLE: Duration = Duration::from_millis(100);

/// How often it is said that a configuration still cannot be put in force, for the same reason.
const SAY_AGAIN: Duration = Duration::from_mins(10);

/// Why a file's content is not taken over.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The content is not valid, or there is none.
    #[error(transparent)]
    Settings(#[from] settings::Error),
    /// The engine does not take the configuration.
    #[error("the engine does not take the new configuration")]
    Engine(#[source] engine::Error),
    /// The log does not take its level.
    #[error("the log does not take the new level")]
    Log(#[source] logging::Error),
}

/// Watches the files and takes them over.
pub struct Reload {
    settings: Settings,
    live: Arc<Live>,
    metrics: Arc<Metrics>,
    engine: Engine,
    filter: logging::Filter,
    telemetry: Telemetry,
    poll: Duration,
    config_seen: Content,
    /// What is tried again.
    failing: Option<Failing>,
    keys_seen: (Option<PathBuf>, Content),
}

/// A valid configuration that could not be put in force.
struct Failing {
    content: Content,
    cause: String,
    said: Instant,
}

impl Failing {
    /// Whether it was said of late that this content fails for this reason.
    fn was_said(&self, content: &Content, cause: &str) -> bool {
        self.content == *content && self.cause == cause && self.said.elapsed() < SAY_AGAIN
    }
}

/// A file's content as it was last read, or why it was not.
type Content = Option<Result<Vec<u8>, io::ErrorKind>>;

impl Reload {
    /// A watch that begins with what `live` holds.
    pub fn new(
        settings: Settings,
        live: Arc<Live>,
        metrics: Arc<Metrics>,
        engine: Engine,
        (filter, telemetry): (logging::Filter, Telemetry),
    ) -> Self {
        for file in WatchedFile::ALL {
            metrics.files.last_reload_successful.set(*file, 1);
        }
        metrics.files.generation.set(live.config().generation);
        metrics.files.show_keys(&live.keys());
        let (config_seen, keys_seen) = (None, (None, None));
        Self { settings, live, metrics, engine, filter, telemetry, poll: POLL, config_seen, failing: None, keys_seen }
    }

    /// The same watch with another pause between two polls.
    #[must_use]
    pub fn poll_every(self, poll: Duration) -> Self {
        Self { poll, ..self }
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let (wake, mut woken) = mpsc::channel(1);
        let mut watch = Watch::new(wake);
        let mut poll = interval_at(Instant::now(), self.poll);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let run = async {
            loop {
                watch.follow(self.directories());
                tokio::select! {
                    _ = poll.tick() => {}
                    Some(()) = woken.recv() => {
                        sleep(SETTLE).await;
                        while woken.try_recv().is_ok() {}
                    }
                }
                self.check().await;
            }
        };
        stop.run_until_cancelled(run).await;
    }

    /// Reads both files and takes over what has changed.
    pub async fn check(&mut self) {
        self.check_config().await;
        self.check_keys().await;
    }

    async fn check_config(&mut self) {
        let content = Some(read(&self.settings.config_file).await);
        if self.config_seen == content {
            return;
        }
        self.config_seen = content;
        let outcome = match self.config_seen.as_ref() {
            Some(Ok(content)) => self.settings.config(content).map_err(Error::from),
            Some(Err(kind)) => Err(unreadable(&self.settings.config_file, *kind)),
            None => return,
        };
        let failing = self.failing.take();
        let outcome = match outcome {
            Ok(config) => self.apply_config(config).await,
            Err(error) => return self.report(WatchedFile::Config, Err(error)),
        };
        if let Err(error) = &outcome {
            let (content, cause) = (self.config_seen.take(), error.for_log());
            if let Some(failing) = failing.filter(|failing| failing.was_said(&content, &cause)) {
                self.failing = Some(failing);
                return;
            }
            self.failing = Some(Failing { content, cause, said: Instant::now() });
        }
        self.report(WatchedFile::Config, outcome);
    }

    /// Puts a configuration in force. Says whether anything has changed by it.
    async fn apply_config(&self, config: SidecarConfig) -> Result<bool, Error> {
        let current = self.live.config();
        let (config, left) = keep_until_restart(&current, config);
        if !left.is_empty() {
            warn!(keys = left.join(", "), "These keys take effect at the next start");
        }
        if config == *current {
            return Ok(false);
        }
        self.engine.reconfigure(&config).await.map_err(Error::Engine)?;
        self.filter.set(&config.log.level).map_err(Error::Log)?;
        self.telemetry.apply(&config.tracing, &self.settings.identity, &self.metrics);
        self.metrics.files.generation.set(config.generation);
        info!(config.generation = config.generation, "Loaded the configuration");
        self.live.set_config(config);
        Ok(true)
    }

    async fn check_keys(&mut self) {
        let path = self.live.config().keys.file.clone();
        let content = match &path {
            Some(path) => Some(read(path).await),
            None => None,
        };
        if self.keys_seen == (path.clone(), content.clone()) {
            return;
        }
        let ring = match (&path, &content) {
            (Some(path), Some(Ok(content))) => Settings::keys(path, content).map_err(Error::from),
            (Some(path), Some(Err(kind))) => Err(unreadable(path, *kind)),
            (None, _) | (_, None) => self.settings.environment_keys().map_err(Error::from),
        };
        self.keys_seen = (path, content);
        let outcome = ring.map(|ring| {
            let ids = |ring: &context_manager_protocol::keyring::KeyRing| {
                ring.keys().map(|key| key.id().to_owned()).collect::<Vec<_>>()
            };
            let changed = ring.to_json() != self.live.keys().to_json();
            if changed {
                info!(key.ids = ids(&ring).join(", "), "Loaded the key ring");
                self.metrics.files.show_keys(&ring);
                self.live.set_keys(ring);
            }
            changed
        });
        self.report(WatchedFile::Keys, outcome);
    }

    /// The one place where the outcome of a content is logged, counted and shown.
    fn report(&self, file: WatchedFile, outcome: Result<bool, Error>) {
        let files = &self.metrics.files;
        match outcome {
            Ok(changed) => {
                if changed {
                    files.reloads.add(file, 1);
                }
                files.last_reload_successful.set(file, 1);
                self.live.set_error(file, None);
            }
            Err(problem) => {
                files.reload_failures.add(file, 1);
                files.last_reload_successful.set(file, 0);
                let cause = problem.for_log();
                error!(
                    file = file.as_str(),
                    error = cause,
                    "Refused a changed file; the last good content stays in force"
                );
                self.live.set_error(file, Some("the file's current content was refused; the log says why".to_owned()));
            }
        }
    }

    fn directories(&self) -> BTreeSet<PathBuf> {
        let config = self.live.config();
        let files = [Some(&self.settings.config_file), config.keys.file.as_ref()];
        files.into_iter().flatten().map(|file| directory(file)).collect()
    }
}

impl Error {
    /// The whole chain, without what could be a piece of a key.
    fn for_log(&self) -> String {
        match self {
            Self::Settings(error) => error.for_log(),
            Self::Engine(_) | Self::Log(_) => chain(self),
        }
    }
}

/// The new configuration with the values that cannot change while the sidecar runs, and the keys that were kept so.
fn keep_until_restart(current: &SidecarConfig, mut new: SidecarConfig) -> (SidecarConfig, Vec<&'static str>) {
    let mut kept = Vec::new();
    let mut keep = |key, differs: bool| {
        if differs {
            kept.push(key);
        }
    };
    keep("protocol.port", new.protocol.port != current.protocol.port);
    keep("protocol.socket", new.protocol.socket != current.protocol.socket);
    keep("admin", new.admin != current.admin);
    keep("store", new.store != current.store);
    if new.store != current.store {
        // The rules are about the store that the file names: beside an embedded one, what is shared would be seen by nobody else.
        keep("access", new.access != current.access);
        new.access.clone_from(&current.access);
    }
    keep("circuit_breaker", new.circuit_breaker != current.circuit_breaker);
    keep("journal", new.journal != current.journal);
    keep("log.format", new.log.format != current.log.format);
    new.protocol.port = current.protocol.port;
    new.protocol.socket.clone_from(&current.protocol.socket);
    new.admin.clone_from(&current.admin);
    new.log.format = current.log.format;
    new.store.clone_from(&current.store);
    new.circuit_breaker.clone_from(&current.circuit_breaker);
    new.journal.clone_from(&current.journal);
    (new, kept)
}

async fn read(path: &Path) -> Result<Vec<u8>, io::ErrorKind> {
    tokio::fs::read(path).await.map_err(|error| error.kind())
}

fn unreadable(path: &Path, kind: io::ErrorKind) -> Error {
    settings::Error::Read { path: path.to_owned(), source: kind.into() }.into()
}

fn directory(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Reports changes in directories. Without it, the poll alone finds them.
struct Watch {
    watcher: Option<RecommendedWatcher>,
    followed: BTreeSet<PathBuf>,
}

impl Watch {
    fn new(wake: mpsc::Sender<()>) -> Self {
        let handler = move |event: notify::Result<Event>| {
            // Our own reading is reported too; waking for it would never end.
            let ours = event.is_ok_and(|event| {
                matches!(event.kind, EventKind::Access(kind) if !matches!(kind, AccessKind::Close(notify::event::AccessMode::Write)))
            });
            if !ours {
                // A full channel means that a check is due anyway.
                let _ = wake.try_send(());
            }
        };
        let watcher = notify::recommended_watcher(handler)
            .inspect_err(|error| warn!(%error, poll_s = POLL.as_secs(), "Failed to watch files; they are polled"))
            .ok();
        Self { watcher, followed: BTreeSet::new() }
    }

    /// Watches exactly these directories.
    fn follow(&mut self, directories: BTreeSet<PathBuf>) {
        let Some(watcher) = &mut self.watcher else { return };
        for gone in self.followed.difference(&directories) {
            // It may have been deleted, which ends its watch as well.
            let _ = watcher.unwatch(gone);
        }
        for new in directories.difference(&self.followed) {
            if let Err(error) = watcher.watch(new, RecursiveMode::NonRecursive) {
                warn!(%error, directory = %new.display(), "Failed to watch a directory; its files are polled");
            }
        }
        self.followed = directories;
    }
}
