//! Images into the nodes: an OCI archive is imported unless the node's containerd has exactly this image under this name.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command;
use crate::images::oci::{self, Identity};

/// Imports the archive by that containerd client, and tells whether that was necessary.
pub fn load(ctr: impl Fn() -> Command, archive: &Path) -> Result<bool> {
    let image = oci::identify(archive)?;
    if digest_of(&ctr, &image.reference)?.as_deref() == Some(&image.digest) {
        return Ok(false);
    }
    command::output(ctr().args(["images", "import"]).arg(archive))
        .with_context(|| format!("failed to import {}", archive.display()))?;
    if digest_of(&ctr, &image.reference)?.as_deref() != Some(&image.digest) {
        let Identity { reference, digest } = image;
        bail!("containerd imported {}, yet {reference} is not {digest}", archive.display());
    }
    Ok(true)
}

fn digest_of(ctr: &impl Fn() -> Command, reference: &str) -> Result<Option<String>> {
    let table = command::output(ctr().args(["images", "ls", &format!("name=={reference}")]))?;
    Ok(find_digest(&table, reference).map(str::to_owned))
}

fn find_digest<'t>(table: &'t str, reference: &str) -> Option<&'t str> {
    table.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        (fields.next()? == reference).then(|| fields.find(|field| field.starts_with("sha256:"))).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_is_read_from_the_images_own_line() {
        let table = "REF               TYPE                                       DIGEST      SIZE  PLATFORMS   LABELS\n\
            localhost/pause:1 application/vnd.oci.image.manifest.v1+json sha256:abcd 1 MiB linux/amd64 io.cri\n";
        assert_eq!(find_digest(table, "localhost/pause:1"), Some("sha256:abcd"));
        assert_eq!(find_digest(table, "localhost/pause:2"), None);
    }
}
