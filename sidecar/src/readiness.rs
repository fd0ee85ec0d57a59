//! Whether the sidecar takes requests: every part that must work first holds a named gate.
//!
//! A gate that is dropped closes, so a part that ends unexpectedly takes the sidecar out of service. Draining wins over all.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// A cheap handle on the readiness of the whole sidecar.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    gates: Arc<Mutex<BTreeMap<&'static str, bool>>>,
    draining: Arc<AtomicBool>,
}

/// One part's say; closed until it is opened, and again when it is dropped.
#[derive(Debug)]
pub struct Gate {
    name: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// A new gate, closed. The sidecar is not ready before it is opened.
    #[must_use]
    pub fn gate(&self, name: &'static str) -> Gate {
        self.lock().insert(name, false);
        Gate { name, readiness: self.clone() }
    }

    /// Takes the sidecar out of service for good.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether the sidecar is on its way out.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// The names of the parts that are not ready.
    #[must_use]
    pub fn waiting_for(&self) -> Vec<&'static str> {
        self.lock().iter().filter(|(_, open)| !**open).map(|(name, _)| *name).collect()
    }

    /// Whether the sidecar takes requests.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.is_draining() && self.lock().values().all(|open| *open)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, bool>> {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate {
    /// Says that this part is ready.
    pub fn open(&self) {
        self.readiness.lock().insert(self.name, true);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.readiness.lock().insert(self.name, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_gate_must_be_open_and_draining_wins() {
        let readiness = Readiness::default();
        let (engine, listener) = (readiness.gate("engine"), readiness.gate("listener"));
        assert_eq!(readiness.waiting_for(), ["engine", "listener"]);
        engine.open();
        assert!(!readiness.is_ready());
        listener.open();
        assert!(readiness.is_ready());
        readiness.drain();
        assert!(!readiness.is_ready());
    }

    #[test]
    fn a_part_that_ends_takes_the_sidecar_out_of_service() {
        let readiness = Readiness::default();
        let gate = readiness.gate("engine");
        gate.open();
        drop(gate);
        assert_eq!(readiness.waiting_for(), ["engine"]);
        assert!(!readiness.is_ready());
    }
}
