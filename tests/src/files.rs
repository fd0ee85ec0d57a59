//! Files that a sidecar reads while they change.

use std::{fs, path::Path};

use anyhow::Result;

/// Replaces a file at once, as a volume does.
///
/// # Errors
/// When it cannot be written.
pub fn replace(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, content)?;
    Ok(fs::rename(new, path)?)
}
