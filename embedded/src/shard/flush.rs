//! Flushing: from the log to the disk, once for all who wait.

use std::sync::atomic::Ordering;

use context_manager_memory::ContextId;

use super::{Shard, Writes, lock, open};
use crate::{Durability, Error, manifest::Manifest};

/// Writes after which the manifest is brought up to date while writers wait; an explicit flush always does it.
const WRITES_PER_MANIFEST: u64 = 256;
/// How much lower than necessary the manifest's count is put before a deletion, so that not each one writes it.
const HEADROOM: usize = 64;

/// What a flush covers.
struct Covered {
    /// Number of the last write.
    write: u64,
    /// Contexts in the engine.
    points: usize,
    /// What had happened.
    writes: Writes,
}

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
        let covered = self.covered()?;
        self.engine.flush().map_err(Error::engine("flush"))?;
        self.flushed.store(covered.write, Ordering::Release);
        if covered.write.saturating_sub(recorded) <= manifest_lag {
            return Ok(());
        }
        self.record(&covered)
    }

    /// What a flush that begins now brings to the disk.
    fn covered(&self) -> Result<Covered, Error> {
        let writes = lock(&self.writes);
        let (write, points) = (self.written.load(Ordering::Acquire), open::count(&self.engine)?);
        Ok(Covered { write, points, writes: *writes })
    }

    /// Records in the manifest what a flush has brought to the disk.
    fn record(&self, covered: &Covered) -> Result<(), Error> {
        let Covered { write, points, writes: before } = covered;
        let mut manifest = lock(&self.manifest);
        // What was deleted or replaced while the engine flushed may be gone from the disk already, or not.
        let now = *lock(&self.writes);
        let deleted = now.deleted - before.deleted;
        let mut recent = manifest.clone();
        recent.points = points.saturating_sub(deleted);
        recent.newest = before.newest.filter(|_| deleted == 0 && now.replaced == before.replaced);
        self.promise(&mut manifest, recent)?;
        self.recorded.store(*write, Ordering::Release);
        Ok(())
    }

    /// Lowers what the manifest promises before `deleted` contexts go; the directory must never hold less than it says.
    pub(super) fn expect_fewer(&self, manifest: &mut Manifest, deleted: &[ContextId]) -> Result<(), Error> {
        let remaining = open::count(&self.engine)?.saturating_sub(deleted.len());
        let names_one = manifest.newest.is_some_and(|newest| deleted.contains(&newest.id));
        if manifest.points <= remaining && !names_one {
            return Ok(());
        }
        let mut lower = manifest.clone();
        lower.points = manifest.points.min(remaining.saturating_sub(HEADROOM));
        lower.newest = manifest.newest.filter(|_| !names_one);
        self.promise(manifest, lower)
    }

    /// Takes back what the manifest promises of contexts before new ones take their place, which may have earlier versions.
    pub(super) fn expect_others(&self, manifest: &mut Manifest, replaced: &[ContextId]) -> Result<(), Error> {
        if manifest.newest.is_none_or(|newest| !replaced.contains(&newest.id)) {
            return Ok(());
        }
        let mut lower = manifest.clone();
        lower.newest = None;
        self.promise(manifest, lower)
    }

    /// Writes another manifest, if it says something else.
    fn promise(&self, manifest: &mut Manifest, other: Manifest) -> Result<(), Error> {
        if other != *manifest {
            other.write(&self.options.path)?;
            *manifest = other;
        }
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
mod tests {
    use context_manager_memory::{
        AgentId, Context, Level, TenantId, Timestamp, Vectors,
        store::{Owner, Point, Updated},
    };

    use super::*;
    use crate::OpenOptions;

    #[test]
    fn a_flush_promises_nothing_of_a_context_that_another_one_replaced_meanwhile() {
        let directory = tempfile::tempdir().unwrap();
        let shard = Shard::open(OpenOptions::new(directory.path(), 4, "model")).unwrap();
        let owner = Owner::new(TenantId::new("t").unwrap(), AgentId::new("a").unwrap());
        let at = Timestamp::from_millis;
        let id = ContextId::new(uuid::Uuid::from_u128(1));
        let first = Context::new(id, owner.tenant.clone(), owner.holder.clone(), Level::LongTerm, "tea", at(0));
        let insert = |context: &Context, now| {
            shard.insert(&[Point { context: context.clone(), vectors: Vectors::default() }], now).unwrap();
        };
        insert(&first, at(0));
        let second = Context { version: 2, expires_at: Some(at(10)), ..first.clone() };
        assert_eq!(shard.update(&second, None, 1).unwrap(), Updated::Applied);
        let covered = shard.covered().unwrap();
        insert(&first, at(20));
        shard.record(&covered).unwrap();
        let newest = || Manifest::read(directory.path()).unwrap().unwrap().newest.map(|newest| newest.version);
        assert_eq!(newest(), None);
        shard.flush().unwrap();
        assert_eq!(newest(), Some(1), "the next flush names the one that is there");
    }
}
