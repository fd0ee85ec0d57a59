//! Whether the disk has room for what a command is about to do.
//!
//! A disk that fills up while programs compile or pods run fails far from its cause: a kubelet below its threshold lets no pod
//! start and says so only in the node's conditions. So it is asked first, and the answer names the folder and the remedy.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use nix::sys::statvfs::statvfs;

/// One gibibyte.
pub const GIB: u64 = 1 << 30;

/// What a cluster with running pods wants to find. More than the kubelet's threshold, so that the suites' own files do not
/// put the node under pressure.
pub const FOR_CLUSTER: u64 = 3 * GIB;

/// What the first compilation writes: dependencies, engine, programs and tests.
pub const FOR_FIRST_BUILD: u64 = 8 * GIB;

/// What compiling the workspace's own crates again writes.
pub const FOR_BUILD: u64 = 3 * GIB;

/// Refuses if fewer bytes are free where a folder lies. The folder must exist.
pub fn require(folder: &Path, bytes: u64, purpose: &str) -> Result<()> {
    check(folder, free(folder)?, bytes, purpose)
}

/// The bytes that a program may still write there; what is reserved for root is not counted.
fn free(folder: &Path) -> Result<u64> {
    let stat =
        statvfs(folder).with_context(|| format!("failed to ask how full the disk of {} is", folder.display()))?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

fn check(folder: &Path, free: u64, needed: u64, purpose: &str) -> Result<()> {
    if free < needed {
        bail!(
            "the disk of {} has {:.1} GiB free, and {purpose} needs {:.1} GiB: free some space, or set CONTEXT_MANAGER_HOME \
             to a folder on another disk",
            folder.display(),
            gibibytes(free),
            gibibytes(needed)
        );
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit after the point")]
fn gibibytes(bytes: u64) -> f64 {
    bytes as f64 / GIB as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_named_with_what_is_missing_and_what_to_do() {
        let refused = check(Path::new("/cache"), GIB / 2, 3 * GIB, "the dev cluster").expect_err("too little");
        let said = refused.to_string();
        for part in ["/cache", "0.5 GiB free", "the dev cluster needs 3.0 GiB", "CONTEXT_MANAGER_HOME"] {
            assert!(said.contains(part), "{part:?} is missing in {said:?}");
        }
        assert!(check(Path::new("/cache"), 3 * GIB, 3 * GIB, "the dev cluster").is_ok());
    }

    #[test]
    fn the_disk_of_a_real_folder_is_asked() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(require(folder.path(), 1, "a byte").is_ok());
        assert!(require(folder.path(), u64::MAX, "everything").is_err());
    }
}
