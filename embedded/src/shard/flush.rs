//! Flushing: from the log to the disk, once for all who wait.

use std::sync::atomic::Ordering;

use super::{Shard, lock, open};
use crate::{Durability, Error};

/// Writes after which the manifest is brought up to date while writers wait; an explicit flush always does it.
const WRITES_PER_MANIFEST: u64 = 256;
/// How much lower than necessary the manifest's count is put before a deletion, so that not each one writes it.
const HEADROOM: usize = 64;

impl Shard {
    /// Brings all writes to the disk, trims the log, and records in the manifest what the directory holds. Costs about the same
    /// for one write and for hundreds.
    ///
    /// # Errors
    /// When the engine or the file system fails; the log then still has what was not covered.
    pub fn flush(&self) -> Result<(), Error> {
        self.flush_up_to(self.written.load(Ordering::Acquire), 0)
    }

    /// Makes a write as durable as the options ask for. Writers that come while another one flushes wait for it, and then one
    /// of them flushes for all of them.
    pub(super) fn commit(&self, write: u64) -> Result<(), Error> {
        match self.options.durability {
            Durability::Process => Ok(()),
            Durability::Node => self.flush_up_to(write, WRITES_PER_MANIFEST),
        }
    }

    fn flush_up_to(&self, write: u64, manifest_lag: u64) -> Result<(), Error> {
        let _flushing = lock(&self.flushing);
        let recorded = self.recorded.load(Ordering::Acquire);
        if self.flushed.load(Ordering::Acquire) >= write && write.saturating_sub(recorded) <= manifest_lag {
            return Ok(());
        }
        let (covered, points, deleted, newest) = {
            let writes = lock(&self.writes);
            (self.written.load(Ordering::Acquire), open::count(&self.engine)?, writes.deleted, writes.newest)
        };
        self.engine.flush().map_err(Error::engine("flush"))?;
        self.flushed.store(covered, Ordering::Release);
        if covered.saturating_sub(recorded) <= manifest_lag {
            return Ok(());
        }
        let mut manifest = lock(&self.manifest);
        // What was deleted while the engine flushed may be gone from the disk already, or not.
        let since = lock(&self.writes).deleted - deleted;
        let mut recent = manifest.clone();
        recent.points = points.saturating_sub(since);
        recent.newest = newest.filter(|_| since == 0);
        if recent != *manifest {
            recent.write(&self.options.path)?;
            *manifest = recent;
        }
        self.recorded.store(covered, Ordering::Release);
        Ok(())
    }

    /// Lowers what the manifest promises before `deleted` contexts go; the directory must never hold less than it says.
    pub(super) fn expect_fewer(
        &self,
        manifest: &mut crate::manifest::Manifest,
        deleted: &[context_manager_memory::ContextId],
    ) -> Result<(), Error> {
        let remaining = open::count(&self.engine)?.saturating_sub(deleted.len());
        let names_one = manifest.newest.is_some_and(|newest| deleted.contains(&newest.id));
        if manifest.points <= remaining && !names_one {
            return Ok(());
        }
        let mut lower = manifest.clone();
        lower.points = manifest.points.min(remaining.saturating_sub(HEADROOM));
        lower.newest = manifest.newest.filter(|_| !names_one);
        lower.write(&self.options.path)?;
        *manifest = lower;
        Ok(())
    }
}
