//! What may change while the sidecar runs: configuration and key ring, each replaced as a whole.
//!
//! A request that took a snapshot keeps it to its end; the next one sees the new values. Only [`crate::reload`] replaces them.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use context_manager_protocol::{config::SidecarConfig, keyring::KeyRing};
use tokio::sync::watch;

use crate::metrics::WatchedFile;

/// The values in force.
pub struct Live {
    config: ArcSwap<SidecarConfig>,
    keys: ArcSwap<KeyRing>,
    keys_changed: watch::Sender<()>,
    config_error: Mutex<Option<String>>,
    keys_error: Mutex<Option<String>>,
}

impl Live {
    /// The values that the sidecar starts with.
    #[must_use]
    pub fn new(config: SidecarConfig, keys: KeyRing) -> Self {
        Self {
            config: ArcSwap::from_pointee(config),
            keys: ArcSwap::from_pointee(keys),
            keys_changed: watch::Sender::new(()),
            config_error: Mutex::default(),
            keys_error: Mutex::default(),
        }
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> Arc<SidecarConfig> {
        self.config.load_full()
    }

    /// The key ring in force.
    #[must_use]
    pub fn keys(&self) -> Arc<KeyRing> {
        self.keys.load_full()
    }

    /// Tells whoever keeps a connection open when the key ring is replaced.
    #[must_use]
    pub fn watch_keys(&self) -> watch::Receiver<()> {
        self.keys_changed.subscribe()
    }

    /// Why the file's current content is not in force, if it is not.
    #[must_use]
    pub fn error(&self, file: WatchedFile) -> Option<String> {
        self.slot(file).lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_config(&self, config: SidecarConfig) {
        self.config.store(Arc::new(config));
    }

    pub(crate) fn set_keys(&self, keys: KeyRing) {
        self.keys.store(Arc::new(keys));
        self.keys_changed.send_replace(());
    }

    pub(crate) fn set_error(&self, file: WatchedFile, error: Option<String>) {
        *self.slot(file).lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    const fn slot(&self, file: WatchedFile) -> &Mutex<Option<String>> {
        match file {
            WatchedFile::Config => &self.config_error,
            WatchedFile::Keys => &self.keys_error,
        }
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Live")
            .field("config", &self.config.load())
            .field("keys", &self.keys.load())
            .finish_non_exhaustive()
    }
}
