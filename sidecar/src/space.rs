//! Room on a disk: writes are refused before it is full.
//!
//! The vector engine writes by mapped memory, so that a full disk would end the process by SIGBUS. Each write therefore claims what it
//! may take before it begins, and a reserve stays for what comes later: the engine's log and files grow in large steps, and a start needs
//! room too. Removals may use half of the reserve, because they are the remedy. Where the room cannot be told nothing is refused.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use nix::sys::statvfs::statvfs;
use tracing::{info, warn};

use crate::metrics::{Label as _, Metrics, Volume};

/// Room that stays free beside the embedded store: in a file system in memory its vectors and texts grow by files of 32 MiB.
pub const STORE_RESERVE: u64 = 128 << 20;
/// Room without which the embedded store is not opened: what a new one takes in a file system in memory, and some more.
pub const STORE_OPENING: u64 = 64 << 20;
/// Room that stays free beside the journal, for the marks of what was brought to the store.
pub const JOURNAL_RESERVE: u64 = 1 << 20;

/// How long a refusal counts: writes that claim much are refused while others still find room.
const REMEMBERED: Duration = Duration::from_mins(1);

/// What a write is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It adds.
    Content,
    /// It removes.
    Removal,
}

/// The room of one directory.
#[derive(Debug)]
pub struct Space {
    volume: Volume,
    path: PathBuf,
    reserve: u64,
    claimed: AtomicU64,
    is_low: AtomicBool,
    last_refusal: Mutex<Option<(Instant, Full)>>,
    metrics: Arc<Metrics>,
}

/// There is too little room.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the disk of the {} is full: {free} bytes are free and {needed} must be; make the volume larger or free space on it",
    .volume.as_str()
)]
pub struct Full {
    /// Which disk.
    pub volume: Volume,
    /// Bytes that are free.
    pub free: u64,
    /// Bytes that must be.
    pub needed: u64,
    /// Bytes that stay free.
    pub reserve: u64,
}

impl Full {
    /// Whether even a small write that adds is refused.
    #[must_use]
    pub const fn is_below_reserve(&self) -> bool {
        self.free < self.reserve
    }
}

/// What a write that is under way may take.
#[derive(Debug)]
#[must_use = "the room is claimed as long as this lives"]
pub struct Claim {
    space: Arc<Space>,
    bytes: u64,
}

impl Space {
    /// The room of the file system that `path` is on, of which `reserve` bytes stay free.
    #[must_use]
    pub fn new(volume: Volume, path: &Path, reserve: u64, metrics: Arc<Metrics>) -> Arc<Self> {
        metrics.disk.reserve.set(volume, usize::try_from(reserve).unwrap_or(usize::MAX));
        let (claimed, is_low, last_refusal) = (AtomicU64::new(0), AtomicBool::new(false), Mutex::default());
        Arc::new(Self { volume, path: path.to_owned(), reserve, claimed, is_low, last_refusal, metrics })
    }

    /// Claims room for a write of at most `bytes`.
    ///
    /// # Errors
    /// When the reserve would be used.
    pub fn claim(self: &Arc<Self>, purpose: Purpose, bytes: u64) -> Result<Claim, Full> {
        let claimed = self.claimed.fetch_add(bytes, Ordering::AcqRel).saturating_add(bytes);
        let claim = Claim { space: Arc::clone(self), bytes };
        let Some(free) = self.look(claimed) else { return Ok(claim) };
        let reserve = match purpose {
            Purpose::Content => self.reserve,
            Purpose::Removal => self.reserve / 2,
        };
        let needed = reserve.saturating_add(claimed);
        if free >= needed {
            return Ok(claim);
        }
        self.metrics.disk.refused.add(self.volume, 1);
        let full = self.full(free, needed);
        *self.last_refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), full.clone()));
        Err(full)
    }

    /// Says what is missing, if too little is free for any write that adds, or for one that was refused of late.
    #[must_use]
    pub fn shortage(&self) -> Option<Full> {
        let free = self.look(0)?;
        let last = self.last_refusal.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let refused = last.filter(|(at, _)| at.elapsed() < REMEMBERED).map_or(0, |(_, full)| full.needed);
        let needed = refused.max(self.reserve);
        (free < needed).then(|| self.full(free, needed))
    }

    const fn full(&self, free: u64, needed: u64) -> Full {
        Full { volume: self.volume, free, needed, reserve: self.reserve }
    }

    /// Checks that `bytes` are free.
    ///
    /// # Errors
    /// When fewer are.
    pub fn check(&self, bytes: u64) -> Result<(), Full> {
        match self.look(0) {
            Some(free) if free < bytes => Err(self.full(free, bytes)),
            Some(_) | None => Ok(()),
        }
    }

    /// The free bytes; the gauge and the log are kept up to date with them.
    fn look(&self, wanted: u64) -> Option<u64> {
        // A directory that is still to be made lies on the disk of the one above it.
        let room = self.path.ancestors().find_map(|path| statvfs(path).ok())?;
        let free = room.blocks_available().saturating_mul(room.fragment_size());
        self.metrics.disk.free.set(self.volume, usize::try_from(free).unwrap_or(usize::MAX));
        let is_low = free < self.reserve.saturating_add(wanted);
        if self.is_low.swap(is_low, Ordering::AcqRel) != is_low {
            let volume = self.volume.as_str();
            if is_low {
                warn!(volume, free_bytes = free, reserve_bytes = self.reserve, "The disk is full: writes are refused");
            } else {
                info!(volume, free_bytes = free, "There is room on the disk again: writes are taken");
            }
        }
        Some(free)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.space.claimed.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(reserve: u64) -> Arc<Space> {
        Space::new(Volume::Store, Path::new("/tmp/a-folder-that-is-not-there"), reserve, Arc::new(Metrics::new()))
    }

    #[test]
    fn a_write_that_would_use_the_reserve_is_refused_and_says_the_remedy() {
        let roomy = space(1);
        drop(roomy.claim(Purpose::Content, 1).expect("there is room"));
        let full = space(u64::MAX / 4);
        let refused = full.claim(Purpose::Content, 1).expect_err("no disk is that large");
        assert!(refused.to_string().contains("make the volume larger"), "{refused}");
        assert_eq!(
            full.shortage().map(|full| full.needed),
            Some(u64::MAX / 4 + 1),
            "as much as the refused write needs"
        );
        assert_eq!(full.metrics.disk.refused.get(Volume::Store), 1);
        assert!(roomy.shortage().is_none() && roomy.check(1).is_ok());
    }

    #[test]
    fn a_refused_write_is_told_of_although_smaller_ones_find_room() {
        let space = space(1);
        assert!(space.claim(Purpose::Content, u64::MAX / 4).is_err());
        let told = space.shortage().expect("there is less than that");
        assert!(told.needed > u64::MAX / 4 && !told.is_below_reserve(), "{told}");
        drop(space.claim(Purpose::Content, 1).expect("there is room for less"));
        let long_ago = Instant::now().checked_sub(2 * REMEMBERED).expect("the machine runs for longer");
        let mut last = space.last_refusal.lock().expect("not poisoned");
        last.as_mut().expect("the refusal").0 = long_ago;
        drop(last);
        assert_eq!(space.shortage(), None);
    }

    #[test]
    fn what_others_have_claimed_is_not_there_for_a_second_write() {
        let space = space(1);
        let free = space.look(0).expect("a disk");
        let first = space.claim(Purpose::Content, free / 4 * 3).expect("there is room");
        assert!(space.claim(Purpose::Content, free / 4 * 3).is_err());
        drop(first);
        assert_eq!(space.claimed.load(Ordering::Acquire), 0, "what was refused or is over claims nothing");
    }
}
